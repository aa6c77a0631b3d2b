"""Writes generations as lines of JSON, and reads them again bit for bit.

A float32 is written with the shortest digits that give it back. JSON has one nan
(`null`), no inf, no bfloat16 and no objects that a user chose as a hyperparameter.
"""

import base64
import json
import os
import pathlib
import types
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jepbt.arguments import user_path
from jepbt.hyperparameters import (
    Categorical,
    HyperParameters,
    Space,
    read_space,
    spaces,
)
from jepbt.results.history import Generation, History

NO_CHOICES: Mapping[str, Sequence] = types.MappingProxyType({})
_NAN = 0x7FC00000  # the bits of the nan that a `null` in the file becomes
_SINGLE = ("fitness", "standard_error")
_GROUPS = ("hparams", "metrics", "info")


def to_json(
    generation: Generation, choices: Mapping[str, Sequence] = NO_CHOICES
) -> str:
    """Writes a generation as one line of JSON, which holds every bit of it.

    What plain JSON cannot say stands once more in an entry `"exact"`. The
    choices come from `odd_choices`: without them, a choice that is neither a number nor
    text cannot be read again.
    """
    fields = {
        "generation": generation.number,
        "fitness": to_lists(generation.fitness),
        "standard_error": to_lists(generation.standard_error),
        "parents": to_lists(generation.parents),
    }
    for group in _GROUPS:
        columns = getattr(generation, group).items()
        fields[group] = {name: to_lists(column) for name, column in columns}
    fields["seconds"] = {k: round(v, 6) for k, v in generation.seconds.items()}
    if exact := _exact_columns(generation, choices):
        fields["exact"] = exact
    return write_line(fields)


def write_line(fields: Mapping[str, Any]) -> str:
    """Writes one line of JSON, whose last entry is the CRC-32 of the line without it.

    Example:
        >>> write_line({"a": 1})
        '{"a": 1, "crc32": 4221669015}'
    """
    text = json.dumps(fields, allow_nan=False)
    return f'{text[:-1]}, "crc32": {zlib.crc32(text.encode())}}}'


def read_line(line: str) -> dict[str, Any]:
    """Reads a line of `write_line`, or one without CRC; `ValueError` if it changed."""
    fields = json.loads(line, parse_constant=_refuse_constant)
    if "crc32" in fields:
        body, _, end = line.rpartition(', "crc32": ')
        if end != f"{zlib.crc32(f'{body}}}'.encode())}}}":
            raise ValueError("it has changed since it was written")
        del fields["crc32"]
    return fields


def load_history(run: str | os.PathLike) -> History:
    r"""Reads a run's `history.jsonl` again, also while the run is going.

    Numbers come back as the run had them, and so do choices that `config.json` beside
    it can hold: None, numbers, texts, tuples of them. Any other, such as a function,
    comes back as its `repr`.

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
    path = user_path("run", run)
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
    try:
        history = History(from_lines(text, known=_recorded_choices(path.parent)))
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}.") from error
    if not history.generations:
        raise ValueError(f"{str(path)!r} holds no generation yet: wait for the first.")
    return history


def from_lines(
    text: str,
    choices: Mapping[str, Sequence] = NO_CHOICES,
    *,
    known: Mapping[str, Sequence] = NO_CHOICES,
) -> list[Generation]:
    """Reads generations from the lines that `to_json` wrote, an unfinished one not.

    Columns of `choices` are read by number; those of `known` by what plain JSON holds.
    """
    generations: list[Generation] = []
    for number, line in enumerate(text.split("\n")[:-1]):
        try:
            generation = _from_json(line, choices, known)
            _check_alike(generation, (generations or [generation])[0])
        except UNREADABLE as error:
            raise ValueError(
                f"line {number + 1} is no generation of a run ({error})"
            ) from error
        if generation.number != number:
            raise ValueError(
                f"line {number + 1} is generation {generation.number}, not {number}"
            )
        generations.append(generation)
    return generations


def odd_choices(hparams_type: type[HyperParameters]) -> dict[str, Sequence]:
    """Lists the choices that are neither numbers nor text, by `_columns`' names."""
    return _odd_choices(spaces(hparams_type))


def _odd_choices(spaces: Mapping[str, Space]) -> dict[str, Sequence]:
    return {
        f"hparams/{name}": space.choices
        for name, space in spaces.items()
        if isinstance(space, Categorical)
        and not space.is_numeric
        and not all(isinstance(choice, str) for choice in space.choices)
    }


def _recorded_choices(folder: pathlib.Path) -> Mapping[str, Sequence]:
    """Reads a run's odd choices from its `config.json`, as far as that holds them."""
    try:
        text = (folder / "config.json").read_text(encoding="utf-8")
        described = json.loads(text)["hparams"]
        return _odd_choices({k: read_space(v) for k, v in described.items()})
    except (OSError, *UNREADABLE):
        return NO_CHOICES


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
    """Turns an array into lists for JSON; what JSON does not have becomes `None`."""
    if isinstance(value, np.ndarray):
        if value.dtype == np.float32:  # the shortest digits that give these bits back
            value = value.astype(str).astype(np.float64)
        lists, kind = value.tolist(), value.dtype.kind
        is_plain = kind in "biuU" or (kind == "f" and bool(np.isfinite(value).all()))
        return lists if is_plain else to_lists(lists)
    if isinstance(value, list):
        return [to_lists(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, bool | int | float | str | None):
        return value
    return repr(value)


def from_lists(value: list) -> np.ndarray:
    """Rebuilds the array that `to_lists` made nested lists of."""
    array = np.array(value)
    if array.dtype.kind == "O" and any(isinstance(item, str) for item in value):
        return array  # choices, `None` among them
    if array.dtype.kind == "f" or (array == None).any():  # noqa: E711
        return _as_floats(value)
    if array.dtype.kind == "i":
        narrow = array.astype(np.int32)
        return narrow if (narrow == array).all() else array
    return array if array.dtype.kind == "b" else np.array(value, object)


def _from_json(
    line: str, choices: Mapping[str, Sequence], known: Mapping[str, Sequence]
) -> Generation:
    fields = read_line(line)
    exact = fields.get("exact", {})
    if choices.keys() - exact.keys():
        raise ValueError("its choices are missing")

    def read(name, value):
        """Reads a column from its exact bits, if they are there, or from plain JSON."""
        if name in choices:
            return name_choices(exact[name], choices[name])
        numbers = _find_written(value, known[name]) if name in known else None
        if numbers is not None:
            return name_choices(numbers, known[name])
        if name in exact and isinstance(exact[name][0], str):
            kind, shape, content = exact[name]
            flat = np.frombuffer(base64.b64decode(content), np.dtype(kind))
            return flat.reshape(shape).copy()
        return _as_floats(value) if name in _SINGLE else from_lists(value)

    generation = Generation(
        number=fields["generation"],
        parents=np.array(fields["parents"], np.int32),
        seconds={name: float(value) for name, value in fields["seconds"].items()},
        **{name: read(name, fields[name]) for name in _SINGLE},
        **{
            group: {k: read(f"{group}/{k}", v) for k, v in fields[group].items()}
            for group in _GROUPS
        },
    )
    _check_members(generation)
    return generation


def _check_members(generation: Generation) -> None:
    fitness, parents = generation.fitness, generation.parents
    if fitness.ndim != 1 or not fitness.size:
        raise ValueError("its fitness is not a list of numbers")
    for name, column in {**_columns(generation), "parents": parents}.items():
        if column.shape[:1] != fitness.shape and not name.startswith("info/"):
            raise ValueError(f"{name} is not one for each of {fitness.size} members")
    if parents.ndim != 1 or parents.min() < 0 or parents.max() >= fitness.size:
        raise ValueError("its parents are not members")


def _columns(generation: Generation) -> dict[str, np.ndarray]:
    """Lists what a device computed, with names such as `hparams/rate`."""
    columns = {name: getattr(generation, name) for name in _SINGLE}
    for group in _GROUPS:
        for name, column in getattr(generation, group).items():
            columns[f"{group}/{name}"] = np.asarray(column)
    return columns


def _exact_columns(
    generation: Generation, choices: Mapping[str, Sequence]
) -> dict[str, list]:
    """Lists numbers of odd choices; type, shape and bytes of what JSON would change."""
    exact = {}
    for name, column in _columns(generation).items():
        if name in choices:
            exact[name] = number_choices(column, choices[name])
        elif column.dtype != object and not _comes_back(column):
            content = base64.b64encode(column.tobytes()).decode()
            exact[name] = [str(column.dtype), list(column.shape), content]
    return exact


def number_choices(column: np.ndarray, choices: Sequence) -> list[int]:
    """Finds the numbers of a column's choices, which may be any objects."""
    return [_find(value, choices) for value in column.tolist()]


def name_choices(numbers: Sequence[int], choices: Sequence) -> np.ndarray:
    """Makes a column of the choices that numbers stand for."""
    column = np.empty(len(numbers), object)
    for slot, number in enumerate(numbers):  # at once, tuples would become rows
        column[slot] = choices[number]
    return column


def _find(value: Any, choices: Sequence) -> int:
    """Finds a choice: the object itself, before one that is equal, as 1 and True."""
    same = [number for number, choice in enumerate(choices) if choice is value]
    return same[0] if same else list(choices).index(value)


def _find_written(column: list, choices: Sequence) -> list[int] | None:
    """Finds choices by what plain JSON has of them; `None` if that does not tell."""
    written = [to_lists(choice) for choice in choices]
    if len(set(written)) < len(written) or not set(column) <= set(written):
        return None
    return [written.index(item) for item in column]


def _comes_back(column: np.ndarray) -> bool:
    """Tells whether `from_lists` gives these bits back."""
    if not column.size:
        return False
    if column.dtype == np.float32:
        return bool((np.isfinite(column) | (column.view(np.uint32) == _NAN)).all())
    return column.dtype in (np.int32, np.bool_)


def _check_alike(generation: Generation, first: Generation) -> None:
    for group in ("hparams", "metrics"):
        here, there = (
            {name: column.shape for name, column in getattr(each, group).items()}
            for each in (generation, first)
        )
        if here != there:
            raise ValueError(f"its {group} differ from those of generation 0")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _as_floats(value: Any) -> np.ndarray:
    with np.errstate(over="raise"):
        return np.array(value, np.float32)
