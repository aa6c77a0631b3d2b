"""What a run has seen, generation by generation, on the host."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jepbt.engine.state import Record
from jepbt.hyperparameters import HyperParameters, spaces
from jepbt.results import lineage


@dataclasses.dataclass(frozen=True)
class Generation:
    """What callbacks get after every generation; NumPy copies, free to keep.

    Attributes:
        number: from 0.
        fitness: `f32[P]`, higher is better, `nan` if the member failed.
        standard_error: `f32[P]` of the fitness over validation examples.
        parents: `i32[P]` whose state each slot trained on from.
        hparams: `[P, ...]` by name, as values: of categoricals, the choice itself.
        metrics: `f32[P]` by name, means over the steps, `"loss"` among them.
        info: what the strategy reports, such as `"elites"` of `bool[P]`: the slots that
            were kept as they were when this generation began; `"fresh"` of `bool[P]`:
            the slots that started over with new weights.
        seconds: by phase: evolve, train, evaluate.
    """

    number: int
    fitness: np.ndarray
    standard_error: np.ndarray
    parents: np.ndarray
    hparams: Mapping[str, np.ndarray]
    metrics: Mapping[str, np.ndarray]
    info: Mapping[str, np.ndarray]
    seconds: Mapping[str, float]

    @property
    def num_failed(self) -> int:
        """How many members have no finite fitness."""
        return int(np.isnan(self.fitness).sum())


class History:
    """All generations of a run, as arrays with leading axes `[G, P]`.

    Attributes:
        generations: the `Generation` of each.
    """

    def __init__(self) -> None:
        self.generations: list[Generation] = []

    def __len__(self) -> int:
        return len(self.generations)

    @property
    def fitness(self) -> np.ndarray:
        """`f32[G, P]`."""
        return self._stack("fitness")

    @property
    def standard_error(self) -> np.ndarray:
        """`f32[G, P]`."""
        return self._stack("standard_error")

    @property
    def parents(self) -> np.ndarray:
        """`i32[G, P]`; in row 0 every slot is its own."""
        return self._stack("parents")

    @property
    def fresh(self) -> np.ndarray:
        """`bool[G, P]`: slots that started over with new weights, after row 0."""
        rows = [g.info.get("fresh", np.zeros_like(g.parents)) for g in self.generations]
        fresh = np.stack(rows).astype(bool)
        fresh[0] = False
        return fresh

    @property
    def operations(self) -> np.ndarray:
        """`str[G, P]`: "fresh", "kept", "varied" or "copied": see `results.lineage`."""
        return lineage.operations(self.parents, self.hparams, self.fresh)

    @property
    def winner(self) -> tuple[int, int]:
        """Generation and slot of the best fitness ever (ties: the earliest).

        Raises:
            ValueError: if no member ever had a finite fitness.
        """
        fitness = self.fitness
        if np.isnan(fitness).all():
            raise ValueError("no member ever had a finite fitness: there is no winner.")
        generation, slot = np.unravel_index(np.nanargmax(fitness), fitness.shape)
        return int(generation), int(slot)

    @property
    def surviving_founders(self) -> np.ndarray:
        """`i64[...]` the founders of the last generation's members."""
        return np.unique(lineage.founders(self.parents, self.fresh)[-1])

    @property
    def takeover_generation(self) -> int | None:
        """From when on all had one founder; `None` if several are left."""
        return lineage.takeover_generation(self.parents, self.fresh)

    @property
    def effective_size(self) -> np.ndarray:
        """`f64[G]` the effective population size: see `results.lineage`."""
        return lineage.effective_size(self.parents, self.fresh)

    def ancestry(self, generation: int | None = None, slot: int | None = None):
        """Follows a member back to the first of its line: the winner if none is named.

        Args:
            generation: of the member.
            slot: of the member.

        Returns:
            `i64[generation + 1]` the slot of its ancestor in each generation; -1 before
            its line started over.
        """
        if generation is None or slot is None:
            generation, slot = self.winner
        return lineage.ancestry(self.parents, generation, slot, self.fresh)

    @property
    def hparams(self) -> dict[str, np.ndarray]:
        """`[G, P, ...]` by name."""
        return self._stack_by_name("hparams")

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """`f32[G, P]` by name."""
        return self._stack_by_name("metrics")

    def _stack(self, name: str) -> np.ndarray:
        return np.stack([getattr(g, name) for g in self.generations])

    def _stack_by_name(self, name: str) -> dict[str, np.ndarray]:
        rows = [getattr(g, name) for g in self.generations]
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def make_generation(
    number: int, record: Record, seconds: Mapping[str, float]
) -> Generation:
    """Turns a fetched record into what people and callbacks read.

    Args:
        number: of the generation.
        record: NumPy arrays, fetched from the device.
        seconds: by phase.

    Returns:
        The generation.
    """
    return Generation(
        number=number,
        fitness=np.array(record.fitness),
        standard_error=np.array(record.standard_error),
        parents=np.array(record.parents),
        hparams=_readable(record.hparams),
        metrics={name: np.array(value) for name, value in record.metrics.items()},
        info={name: np.array(value) for name, value in record.info.items()},
        seconds=dict(seconds),
    )


def describe(generation: Generation) -> str:
    """Says in one line how a generation went.

    Args:
        generation: to describe.

    Returns:
        Best and median fitness of the live, failures, seconds.

    Example:
        >>> import numpy as np
        >>> scores = np.array([0.5, np.nan, 0.7], np.float32)
        >>> describe(
        ...     Generation(1, scores, scores, np.arange(3), {}, {}, {}, {"train": 2.0})
        ... )
        'best 0.700  median 0.600  1 failed  2.0 s'
    """
    live = generation.fitness[~np.isnan(generation.fitness)]
    best, median = (live.max(), np.median(live)) if live.size else (np.nan, np.nan)
    return (
        f"best {best:.3f}  median {median:.3f}  "
        f"{generation.num_failed} failed  {sum(generation.seconds.values()):.1f} s"
    )


def to_json(generation: Generation) -> str:
    """Writes a generation as one line of JSON; `nan` becomes `null`.

    Its last entry is the CRC-32 of the line without it, so that a digit that changes
    later does not become another result.

    Args:
        generation: to write.

    Returns:
        A line without its end.

    Example:
        >>> import numpy as np
        >>> scores = np.array([0.5, np.nan], np.float32)
        >>> line = to_json(Generation(0, scores, scores, np.arange(2), {}, {}, {}, {}))
        >>> line[:42]
        '{"generation": 0, "fitness": [0.5, null], '
    """
    fields = {
        "generation": generation.number,
        "fitness": _jsonable(generation.fitness),
        "standard_error": _jsonable(generation.standard_error),
        "parents": _jsonable(generation.parents),
    }
    for name in ("hparams", "metrics", "info"):
        values = getattr(generation, name)
        fields[name] = {key: _jsonable(value) for key, value in values.items()}
    fields["seconds"] = {k: round(v, 6) for k, v in generation.seconds.items()}
    text = json.dumps(fields, allow_nan=False)
    return f'{text[:-1]}, "crc32": {zlib.crc32(text.encode())}}}'


def load_history(run: str | os.PathLike) -> History:
    r"""Reads a run's `history.jsonl` again, also while the run is going.

    Numbers come back as the run had them, `null` as `nan`. Of categoricals whose
    choices are neither numbers nor text, the choice's `repr` comes back.

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
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ValueError(
            f"{str(path)!r} cannot be read ({reason}): name the folder of a run that "
            "has finished a generation."
        ) from error
    history = History()
    for number, line in enumerate(text.split("\n")[:-1]):
        try:
            generation = _from_json(line)
            if history.generations:
                _check_alike(generation, history.generations[0])
        except _UNREADABLE as error:
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


_UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


def _from_json(line: str) -> Generation:
    fields = json.loads(line, parse_constant=_refuse_constant)
    if "crc32" in fields:  # lines by others may come without
        body, _, end = line.rpartition(', "crc32": ')
        if end != f"{zlib.crc32(f'{body}}}'.encode())}}}":
            raise ValueError(
                "it has changed since it was written; resume=True writes it again from "
                "the newest checkpoint"
            )
    by_name = {
        group: {name: _as_array(value) for name, value in fields[group].items()}
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
        raise ValueError("its fitness is no list of numbers")
    columns = {"standard_error": generation.standard_error, "parents": parents}
    for name, column in (columns | by_name["hparams"] | by_name["metrics"]).items():
        if column.shape[:1] != fitness.shape:
            raise ValueError(f"{name} is not one for each of {fitness.size} members")
    if parents.ndim != 1 or parents.min() < 0 or parents.max() >= fitness.size:
        raise ValueError("its parents are no members")
    return generation


def _check_alike(generation: Generation, first: Generation) -> None:
    for group in ("hparams", "metrics"):
        shapes, others = (
            {name: column.shape for name, column in getattr(each, group).items()}
            for each in (first, generation)
        )
        if shapes != others:
            raise ValueError(f"its {group} are others than those of generation 0")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _as_floats(value: Any) -> np.ndarray:
    with np.errstate(over="raise"):
        return np.array(value, np.float32)


def _as_array(value: list) -> np.ndarray:
    """The array that a list of JSON was written from."""
    array = np.array(value)
    if array.dtype.kind == "f" or (array == None).any():  # noqa: E711
        return _as_floats(value)
    if array.dtype.kind == "i":
        narrow = array.astype(np.int32)
        return narrow if (narrow == array).all() else array
    return array if array.dtype.kind == "b" else np.array(value, object)


def _readable(hparams: HyperParameters) -> dict[str, np.ndarray]:
    return {
        name: space.readable(getattr(hparams, name))
        for name, space in spaces(type(hparams)).items()
    }


def _jsonable(value: Any) -> Any:
    """Lists of Python numbers; numbers that JSON does not have become `None`."""
    if isinstance(value, np.ndarray):
        if value.dtype == np.float32:  # the shortest digits that give these bits back
            value = value.astype(str).astype(np.float64)
        return _jsonable(value.tolist())
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, bool | int | float | str | None):
        return value
    return repr(value)  # a choice that is neither number nor text


class Score(NamedTuple):
    """A mean over examples, and how sure it is.

    Attributes:
        mean: accuracy in [0, 1] for a classification.
        standard_error: of the mean; 1.96 of them on either side are a 95 % interval.
    """

    mean: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ±{1.96 * self.standard_error:.3f}"
