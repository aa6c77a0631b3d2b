"""Identifies a run, so that only the same run may continue it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jaxlib
import numpy as np

from jepbt.checkpoints.checkpoint import without_keys
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
    """Describes all that the numbers of a run follow from, in JSON values.

    Devices and chunks are left out: they change last bits, not what is computed.
    """
    names = ("population_size", "steps_per_generation", "seed", "batches", "batch_size")
    start = None if initial is None else hash_tree(initial)
    described = describe_task(task)
    return {
        "settings": {name: getattr(config, name) for name in names},
        "num_generations": config.num_generations,
        "hparams": described["hparams"],
        "data": described["data"] | {"initial": start},
        "programs": member.fingerprint(),
        "versions": versions() | {"platform": platform},
    }


def describe_task(task: Task) -> dict[str, Any]:
    """Describes a task's hyperparameters and data: a part of a run's identity."""
    splits = task.data._asdict() if task.data else {}
    data = {name: hash_tree(rows) for name, rows in splits.items()}
    return {
        "hparams": {
            name: json.dumps(space.describe(), default=_plain)
            for name, space in spaces(task.hparams).items()
        },
        "data": data | {"shared": hash_tree(task.shared)},
    }


def versions() -> dict[str, str]:
    """Names the versions that the text of a lowered program follows from."""
    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists in words what keeps a run from continuing another.

    Example:
        >>> before = {"settings": {"seed": 0}, "data": {"train": "ab"}}
        >>> differences(before, {"settings": {"seed": 1}, "data": {"train": "ab"}})
        ['seed was 0 and is 1']
    """
    found = [
        _describe(part, *change)
        for part in ("settings", "hparams", "data")
        for change in _changes(before, now, part)
    ]
    programs = _changes(before, now, "programs")
    if programs and not found:  # a program follows from all of the above
        name = programs[0][0]
        found.append(f"the program differs: {_PROGRAMS.get(name, name)}")
        counts = [identity.get("num_generations") for identity in (before, now)]
        if counts[0] != counts[1]:
            found.append(
                f"num_generations was {counts[0]} and is {counts[1]}, which this "
                "strategy may plan by"
            )
    if found:
        found += [
            f"{name} was {old} and is {new}"
            for name, old, new in _changes(before, now, "versions")
        ]
    return found


def _changes(
    before: Mapping[str, Any], now: Mapping[str, Any], part: str
) -> list[tuple[str, Any, Any]]:
    """Lists name, old and new value of each entry of a part that differs."""
    old, new = _mapping(before, part), _mapping(now, part)
    return [
        (name, old.get(name), new.get(name))
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]


def _describe(part: str, name: str, old: Any, new: Any) -> str:
    if part == "settings":
        return f"{name} was {old!r} and is {new!r}"
    if part == "hparams":
        return f"hyperparameter {name!r} was {old or 'absent'} and is {new or 'absent'}"
    if name != "initial":
        return f"the {name} data are others"
    if old is None or new is None:
        was, is_now = (("given", "left out")[x is None] for x in (old, new))
        return f"initial was {was} and is {is_now}"
    return "initial holds other values"


def _mapping(identity: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    value = identity.get(part)
    return value if isinstance(value, Mapping) else {}


def hash_tree(tree: Any) -> str:
    """Hashes the names, shapes, types and bytes of all arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(without_keys(leaf))
        name = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} "
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Replaces objects by names, since their addresses differ between processes."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return getattr(value, "__qualname__", type(value).__qualname__)
