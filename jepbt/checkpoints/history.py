"""Reads a run's history back, bit for bit, when the run continues.

`history.jsonl` is for people: JSON has no inf, one nan, no bfloat16, and no objects
that a user chose as a hyperparameter. What a line cannot say in plain JSON stands once
more in its entry `"exact"`, which only this module reads.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jepbt.checkpoints import folder as run_directory
from jepbt.hyperparameters import Categorical, HyperParameters, spaces
from jepbt.results import Generation, load_history

_NAN = 0x7FC00000  # the bits of the nan that a `null` in the file becomes
_SINGLE = ("fitness", "standard_error")
_GROUPS = ("hparams", "metrics", "info")


def exact_columns(
    generation: Generation, hparams_type: type[HyperParameters]
) -> dict[str, Any]:
    """Writes the columns of a generation that plain JSON would not bring back.

    Args:
        generation: the generation.
        hparams_type: the class of its hyperparameters.

    Returns:
        JSON values by the name of the column: for choices that are not text, their
        numbers among all choices; for arrays, their type, shape and bytes. Empty for
        most runs.
    """
    exact: dict[str, Any] = {}
    choices = _odd_choices(hparams_type)
    for name, column in _columns(generation).items():
        if name in choices:
            exact[name] = [_number(value, choices[name]) for value in column.tolist()]
        elif column.dtype != object and not _comes_back(column):
            content = base64.b64encode(np.ascontiguousarray(column).tobytes()).decode()
            exact[name] = [str(column.dtype), list(column.shape), content]
    return exact


def cut(
    folder: pathlib.Path, num_generations: int, hparams_type: type[HyperParameters]
) -> list[Generation]:
    """Shortens `history.jsonl` to its first generations and reads them.

    Args:
        folder: the run's folder.
        num_generations: the number of generations to keep.
        hparams_type: the class of their hyperparameters.

    Returns:
        The generations.

    Raises:
        ValueError: if a line that is needed is damaged or missing. The file stays as
            it is, and the message says what to do.
    """
    path = folder / run_directory.HISTORY
    shorter = folder / f".{run_directory.HISTORY}"
    try:
        content = path.read_bytes()
        lines = content.split(b"\n")[:-1][:num_generations]
        needed = b"".join(line + b"\n" for line in lines)
        run_directory.replace(shorter, needed)
        generations = _load(shorter, num_generations, hparams_type)
        if needed == content:
            shorter.unlink()
        else:
            shorter.replace(path)
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        shorter.unlink(missing_ok=True)
        reason = str(error).replace(f".{run_directory.HISTORY}", run_directory.HISTORY)
        raise ValueError(
            f"run_dir={str(folder)!r}: {run_directory.HISTORY} does not hold the "
            f"{num_generations} generations that the run would continue from "
            f"({reason}). The weights in "
            "checkpoints/ and best/ are whole. Put a copy of the file back to continue "
            "this run, or start another one in a new folder, from these weights with "
            "initial=."
        ) from error
    return generations


def read(
    folder: pathlib.Path, num_generations: int, hparams_type: type[HyperParameters]
) -> list[Generation]:
    """Reads a history that the first process has cut: see `cut`."""
    return _load(folder / run_directory.HISTORY, num_generations, hparams_type)


def _load(
    path: pathlib.Path, num_generations: int, hparams_type: type[HyperParameters]
) -> list[Generation]:
    generations = load_history(path).generations
    if len(generations) != num_generations:
        raise ValueError(f"it holds {len(generations)} whole lines")
    odd = _odd_choices(hparams_type)
    lines = path.read_text(encoding="utf-8").split("\n")
    exact = []
    for generation, line in zip(generations, lines, strict=False):
        stored = json.loads(line).get("exact", {}) if '"exact"' in line else {}
        columns = {
            name: _restore(value, odd.get(name)) for name, value in stored.items()
        }
        if odd.keys() - columns.keys():
            raise ValueError(f"line {generation.number + 1} lacks its choices")
        exact.append(_with_columns(generation, columns))
    return exact


def _restore(value: list, choices: list | None) -> np.ndarray:
    if choices is not None:
        column = np.empty(len(value), object)
        for slot, number in enumerate(value):  # at once, tuples would become rows
            column[slot] = choices[number]
        return column
    kind, shape, content = value
    flat = np.frombuffer(base64.b64decode(content), np.dtype(kind))
    return flat.reshape(shape).copy()


def _columns(generation: Generation) -> dict[str, np.ndarray]:
    """Lists the columns that a device computed, by group and name."""
    columns = {name: getattr(generation, name) for name in _SINGLE}
    for group in _GROUPS:
        values = getattr(generation, group)
        columns |= {f"{group}/{name}": np.asarray(x) for name, x in values.items()}
    return columns


def _with_columns(
    generation: Generation, columns: Mapping[str, np.ndarray]
) -> Generation:
    changes: dict[str, Any] = {n: columns[n] for n in _SINGLE if n in columns}
    for group in _GROUPS:
        values = getattr(generation, group).items()
        changes[group] = {n: columns.get(f"{group}/{n}", x) for n, x in values}
    return dataclasses.replace(generation, **changes)


def _odd_choices(hparams_type: type[HyperParameters]) -> dict[str, list]:
    """Lists the choices of hyperparameters whose choices are not numbers or text."""
    return {
        f"hparams/{name}": list(space.choices)
        for name, space in spaces(hparams_type).items()
        if isinstance(space, Categorical)
        and not space.is_numeric
        and not all(isinstance(choice, str) for choice in space.choices)
    }


def _number(value: Any, choices: list) -> int:
    """Finds a choice: the object itself, before one that is equal, as 1 and True."""
    same = [number for number, choice in enumerate(choices) if choice is value]
    return same[0] if same else choices.index(value)


def _comes_back(column: np.ndarray) -> bool:
    if not column.size:
        return False
    if column.dtype == np.float32:
        return bool((np.isfinite(column) | (column.view(np.uint32) == _NAN)).all())
    return column.dtype in (np.int32, np.bool_)
