"""The files of a run: readable without jepbt, never overwritten, never half-written."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.history import Generation, to_json
from jepbt.hyperparameters import HyperParameters, spaces

_CONFIG = "config.json"
_HISTORY = "history.jsonl"


def claim(path: str | os.PathLike) -> pathlib.Path:
    """Takes a folder for a new run, making it if it is missing.

    Args:
        path: absent, or a folder without a run in it.

    Returns:
        The folder.

    Raises:
        ValueError: if it is a file, holds a run, or cannot be written to.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> claim(folder) == pathlib.Path(folder)
        True
    """
    folder = pathlib.Path(path)
    if os.path.exists(folder) and not folder.is_dir():
        raise ValueError(f"run_dir={str(path)!r} is a file. Name a folder.")
    if any(os.path.exists(folder / name) for name in (_CONFIG, _HISTORY)):
        raise ValueError(
            f"run_dir={str(path)!r} holds a run already, which stays as it is. Name "
            "another folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"run_dir={str(path)!r} cannot be written to: {error.strerror}. Name "
            "another folder."
        ) from error
    return folder


def next_numbered(root: str | os.PathLike) -> pathlib.Path:
    """Makes the next of `root/0001`, `root/0002`, ...

    Two processes that ask at once get two folders.

    Args:
        root: made if missing.

    Returns:
        A new, empty folder.

    Raises:
        ValueError: if it cannot be made.

    Example:
        >>> import tempfile
        >>> root = tempfile.mkdtemp()
        >>> next_numbered(root).name, next_numbered(root).name
        ('0001', '0002')
    """
    root = pathlib.Path(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        taken = [int(p.name) for p in root.iterdir() if p.name.isdecimal()]
        number = max(taken, default=0) + 1
        while True:
            try:
                (root / f"{number:04d}").mkdir()
                return root / f"{number:04d}"
            except FileExistsError:
                number += 1
    except OSError as error:
        raise ValueError(
            f"a run folder cannot be made in {str(root)!r}: {error.strerror}. Name one "
            "with --run-dir."
        ) from error


def write_config(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Writes `config.json`: what was run, with what, on what."""
    replace(folder / _CONFIG, json.dumps(settings, indent=2, default=str).encode())


def describe_spaces(hparams_type: type[HyperParameters]) -> dict[str, Any]:
    """Writes the spaces of a class as `config.json` holds them: JSON values by name."""
    described = {
        name: {"kind": type(space).__name__, **dataclasses.asdict(space)}
        for name, space in spaces(hparams_type).items()
    }
    return json.loads(json.dumps(described, default=str))


def append_history(folder: pathlib.Path, generation: Generation) -> None:
    """Adds a line to `history.jsonl`."""
    with open(folder / _HISTORY, "a", encoding="utf-8") as file:
        file.write(to_json(generation) + "\n")


def save_figure(folder: pathlib.Path, axes: Any) -> None:
    """Writes the fitness plot: `figures/fitness.png`."""
    (folder / "figures").mkdir(exist_ok=True)
    axes.figure.savefig(folder / "figures" / "fitness.png")


def save_member(
    folder: pathlib.Path,
    state: Any,
    hparams: HyperParameters,
    facts: Mapping[str, Any],
) -> None:
    """Writes one member: `weights.npz` and `member.json`.

    The arrays of the state are named by their path, `params/dense/kernel` for example,
    and read by NumPy alone. Types that NumPy files do not have (bfloat16) are widened
    to float32, which keeps every bit of the value.

    Args:
        folder: made if missing; replaced file by file, each whole or not at all.
        state: the member's, host arrays.
        hparams: its hyperparameters, Python values.
        facts: fitness, generation and whatever else belongs beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "state"
        arrays[name] = _as_numpy(leaf)
    temporary = folder / ".weights.npz"
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)
    temporary.replace(folder / "weights.npz")
    values = {
        field.name: getattr(hparams, field.name)
        for field in dataclasses.fields(hparams)
    }
    values = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in values.items()
    }
    text = json.dumps({**facts, "hparams": values}, indent=2, default=str)
    replace(folder / "member.json", text.encode())


def _as_numpy(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def replace(path: pathlib.Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(content)
    temporary.replace(path)
