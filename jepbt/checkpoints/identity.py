"""Identifies a run, so that only the same run may continue it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jaxlib
import numpy as np

from jepbt.config import Config
from jepbt.engine.member import TracedMember
from jepbt.hyperparameters import spaces
from jepbt.tasks import Task

_PROGRAMS = {
    "init": "how a first generation starts",
    "evolve": "the strategy",
    "train": "the model, its loss, optimizer or augmentation",
    "evaluate": "how members are scored",
}


def identify(
    task: Task,
    config: Config,
    member: TracedMember,
    platform: str,
    initial: Any = None,
) -> dict[str, Any]:
    """Describes all that the numbers of a run follow from, so that JSON can hold it.

    Devices and chunks are left out: they change last bits, not what is computed.

    Args:
        task: the task that is trained.
        config: checked, with its batch size decided.
        member: one member, traced with the strategy.
        platform: the devices' platform.
        initial: arrays that the run starts from, or `None`.

    Returns:
        Settings, hyperparameters, hashes of the data and of the programs, versions.
    """
    names = ("population_size", "steps_per_generation", "seed", "batches", "batch_size")
    return {
        "settings": {name: getattr(config, name) for name in names},
        "num_generations": config.num_generations,
        "hparams": {
            name: repr(_plain(vars(space), type(space).__name__))
            for name, space in spaces(task.hparams).items()
        },
        "data": {
            **{
                name: _hash_tree(rows)
                for name, rows in (task.data._asdict() if task.data else {}).items()
            },
            "shared": _hash_tree(task.shared),
            "initial": None if initial is None else _hash_tree(initial),
        },
        "programs": member.fingerprint(),
        "versions": {
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "platform": platform,
        },
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists in words what keeps a run from continuing another.

    Args:
        before: the identity of the run in the folder.
        now: the identity of the run that is about to start.

    Returns:
        One phrase each; empty if nothing does.

    Example:
        >>> before = {"settings": {"seed": 0}, "data": {"train": "ab"}}
        >>> differences(before, {"settings": {"seed": 1}, "data": {"train": "ab"}})
        ['seed was 0 and is 1']
    """
    found = []
    for part in ("settings", "hparams", "data", "programs"):
        old, new = _mapping(before, part), _mapping(now, part)
        for name in [*old, *(name for name in new if name not in old)]:
            left, right = old.get(name), new.get(name)
            if left == right:
                continue
            if part == "settings":
                found.append(f"{name} was {left!r} and is {right!r}")
            elif part == "hparams":
                found.append(
                    f"hyperparameter {name!r} was {left or 'absent'} and is "
                    f"{right or 'absent'}"
                )
            elif name == "initial":
                states = [("given", "left out")[x is None] for x in (left, right)]
                found.append(
                    f"initial was {states[0]} and is {states[1]}"
                    if left is None or right is None
                    else "initial holds other values"
                )
            elif part == "data":
                found.append(f"the {name} data are others")
            elif not found:  # a program follows from all of the above
                found.append(f"the program differs: {_PROGRAMS.get(name, name)}")
    counts = [identity.get("num_generations") for identity in (before, now)]
    if counts[0] != counts[1] and found and "program" in found[0]:
        found.append(
            f"num_generations was {counts[0]} and is {counts[1]}, which this strategy "
            "may plan by"
        )
    old, new = _mapping(before, "versions"), _mapping(now, "versions")
    if found and old != new:
        found += [
            f"{k} was {old.get(k)} and is {new[k]}" for k in new if old.get(k) != new[k]
        ]
    return found


def _mapping(identity: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    value = identity.get(part)
    return value if isinstance(value, Mapping) else {}


def _hash_tree(tree: Any) -> str:
    """Hashes the names, shapes, types and bytes of all arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
            leaf.dtype, jax.dtypes.prng_key
        ):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(leaf)
        name = f"{jax.tree_util.keystr(path)} {array.dtype} {np.shape(leaf)} "
        digest.update(name.encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _plain(value: Any, name: str = "") -> Any:
    """Replaces objects by names, since their addresses differ between processes."""
    if isinstance(value, Mapping):
        return {"kind": name, **{str(k): _plain(v) for k, v in value.items()}}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | float | str | None):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)
