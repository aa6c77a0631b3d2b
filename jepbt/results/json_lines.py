"""Writes generations as lines of JSON, and reads them again.

Every number comes back with the bits that it had: a float32 is written with the
shortest digits that give it back. JSON has no `nan`, which is written as `null`.
"""

from __future__ import annotations

import json
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jepbt.results.history import Generation, History


def to_json(generation: Generation, exact: Mapping[str, Any] | None = None) -> str:
    """Writes a generation as one line of JSON; `nan` becomes `null`.

    The last entry is the CRC-32 of the line without it, so that a digit that changes
    later is noticed.

    Args:
        generation: the generation to write.
        exact: JSON values by column, for what plain JSON cannot hold; they become the
            entry `"exact"`, which readers may leave out.

    Returns:
        The line, without a line break.

    Example:
        >>> import numpy as np
        >>> scores = np.array([0.5, np.nan], np.float32)
        >>> line = to_json(Generation(0, scores, scores, np.arange(2), {}, {}, {}, {}))
        >>> line[:42]
        '{"generation": 0, "fitness": [0.5, null], '
    """
    fields = {
        "generation": generation.number,
        "fitness": to_lists(generation.fitness),
        "standard_error": to_lists(generation.standard_error),
        "parents": to_lists(generation.parents),
    }
    for name in ("hparams", "metrics", "info"):
        values = getattr(generation, name)
        fields[name] = {key: to_lists(value) for key, value in values.items()}
    fields["seconds"] = {k: round(v, 6) for k, v in generation.seconds.items()}
    if exact:
        fields["exact"] = dict(exact)
    text = json.dumps(fields, allow_nan=False)
    return f'{text[:-1]}, "crc32": {zlib.crc32(text.encode())}}}'


def load_history(run: str | os.PathLike) -> History:
    r"""Reads a run's `history.jsonl` again, also while the run is going.

    Numbers come back as the run had them, `null` as `nan`. A choice that is neither a
    number nor text comes back as its `repr`.

    Args:
        run: the run's folder, or the file.

    Returns:
        The history; a line that is not yet written to its end is left out.

    Raises:
        ValueError: if there is no such file, or a line cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> scores = np.array([0.5, np.nan], np.float32)
        >>> line = to_json(Generation(0, scores, scores, np.arange(2), {}, {}, {}, {}))
        >>> _ = (folder / "history.jsonl").write_text(line + "\n")
        >>> load_history(folder).fitness
        array([[0.5, nan]], dtype=float32)
    """
    if not isinstance(run, str | os.PathLike):
        raise TypeError(
            f"load_history: run must be the folder of a run, got {type(run).__name__}."
        )
    path = pathlib.Path(run)
    if path.is_dir():
        path = path / "history.jsonl"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ValueError(
            f"{str(path)!r} cannot be read ({reason}): name the folder of a run that "
            "has finished a generation."
        ) from error
    history = History()
    for number, line in enumerate(text.split("\n")[:-1]):
        try:
            generation = _from_json(line)
            _check_alike(generation, (history.generations or [generation])[0])
        except UNREADABLE as error:
            raise ValueError(
                f"{str(path)!r}: line {number + 1} is no generation of a run ({error})."
            ) from error
        if generation.number != number:
            raise ValueError(
                f"{str(path)!r}: line {number + 1} is generation {generation.number}, "
                f"not {number}."
            )
        history.generations.append(generation)
    if not history.generations:
        raise ValueError(f"{str(path)!r} holds no generation yet: wait for the first.")
    return history


UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""The errors that damaged JSON may cause once it is read as something else."""


def to_lists(value: Any) -> Any:
    """Turns an array into nested lists of Python values that JSON can hold.

    A number that JSON does not have becomes `None`, and a choice that is neither a
    number nor text its `repr`.

    Example:
        >>> to_lists(np.array([0.1, np.nan], np.float32))
        [0.1, None]
    """
    if isinstance(value, np.ndarray):
        if value.dtype == np.float32:  # the shortest digits that give these bits back
            value = value.astype(str).astype(np.float64)
        return to_lists(value.tolist())
    if isinstance(value, list):
        return [to_lists(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, bool | int | float | str | None):
        return value
    return repr(value)


def from_lists(value: list) -> np.ndarray:
    """Rebuilds the array that `to_lists` made nested lists of.

    Example:
        >>> from_lists([0.1, None])
        array([0.1, nan], dtype=float32)
    """
    array = np.array(value)
    if array.dtype.kind == "O" and any(isinstance(item, str) for item in value):
        return array  # choices, `None` among them
    if array.dtype.kind == "f" or (array == None).any():  # noqa: E711
        return _as_floats(value)
    if array.dtype.kind == "i":
        narrow = array.astype(np.int32)
        return narrow if (narrow == array).all() else array
    return array if array.dtype.kind == "b" else np.array(value, object)


def _from_json(line: str) -> Generation:
    fields = json.loads(line, parse_constant=_refuse_constant)
    if "crc32" in fields:  # a line that another program wrote may have none
        body, _, end = line.rpartition(', "crc32": ')
        if end != f"{zlib.crc32(f'{body}}}'.encode())}}}":
            raise ValueError("it has changed since it was written")
    by_name = {
        group: {name: from_lists(value) for name, value in fields[group].items()}
        for group in ("hparams", "metrics", "info")
    }
    generation = Generation(
        number=fields["generation"],
        fitness=_as_floats(fields["fitness"]),
        standard_error=_as_floats(fields["standard_error"]),
        parents=np.array(fields["parents"], np.int32),
        seconds={name: float(value) for name, value in fields["seconds"].items()},
        **by_name,
    )
    fitness, parents = generation.fitness, generation.parents
    if fitness.ndim != 1 or not fitness.size:
        raise ValueError("its fitness is not a list of numbers")
    columns = {"standard_error": generation.standard_error, "parents": parents}
    for name, column in (columns | by_name["hparams"] | by_name["metrics"]).items():
        if column.shape[:1] != fitness.shape:
            raise ValueError(f"{name} is not one for each of {fitness.size} members")
    if parents.ndim != 1 or parents.min() < 0 or parents.max() >= fitness.size:
        raise ValueError("its parents are not members")
    return generation


def _check_alike(generation: Generation, first: Generation) -> None:
    for group in ("hparams", "metrics"):
        shapes, others = (
            {name: column.shape for name, column in getattr(each, group).items()}
            for each in (first, generation)
        )
        if shapes != others:
            raise ValueError(f"its {group} differ from those of generation 0")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _as_floats(value: Any) -> np.ndarray:
    with np.errstate(over="raise"):
        return np.array(value, np.float32)
