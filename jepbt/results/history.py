"""Holds what a run reported, generation by generation, as NumPy arrays."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jepbt.engine.state import Record
from jepbt.hyperparameters import spaces
from jepbt.results import lineage, table
from jepbt.results.lineage import Line

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclasses.dataclass(frozen=True)
class Generation:
    """One generation as callbacks get it: NumPy copies, free to keep.

    Attributes:
        number: the generation's number, from 0.
        fitness: `f32[P]`, higher is better, `nan` if the member failed.
        standard_error: `f32[P]`, the fitness's over the validation examples.
        parents: `i32[P]`, the slot whose state each slot trained on from.
        hparams: `[P, ...]` by name, as values: a categorical's are the choices
            themselves.
        metrics: `f32[P]` by name, means over the steps, `"loss"` among them.
        info: arrays that the strategy reports, by name, such as `"elites"` of
            `bool[P]`: the slots that were kept as they were when this generation
            began; `"fresh"` of `bool[P]`: the slots that started over with new weights.
        seconds: the time of each phase: evolve, train, evaluate. Of several generations
            in one call only the whole is known: each has an equal part, as train.
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
        """The number of members without a finite fitness."""
        return int(np.isnan(self.fitness).sum())

    @property
    def fresh(self) -> np.ndarray:
        """`bool[P]`: the slots that started over; in generation 0 none did."""
        nobody = np.zeros(len(self.parents), bool)
        if self.number == 0:
            return nobody
        return np.asarray(self.info.get("fresh", nobody), bool)


class History:
    """All generations of a run, also as read-only arrays with leading axes `[G, P]`.

    Each array grows with the generations, so that it may be read after every one.

    Attributes:
        generations: each `Generation`, in order; append to it, change nothing in it.
    """

    def __init__(self, generations: Iterable[Generation] = ()) -> None:
        self.generations = list(generations)
        self._rows: dict[tuple, _Rows] = collections.defaultdict(_Rows)

    def __len__(self) -> int:
        return len(self.generations)

    def __reduce__(self) -> tuple[type[History], tuple[list[Generation]]]:
        return History, (self.generations,)  # the arrays are made of them

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
        return self._stack("fresh")

    @property
    def hparams(self) -> dict[str, np.ndarray]:
        """`[G, P, ...]` by name."""
        return self._stack_by_name("hparams")

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """`f32[G, P]` by name."""
        return self._stack_by_name("metrics")

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
    def founders(self) -> np.ndarray:
        """`i64[G, P]` the first ancestor of every slot: see `results.lineage`."""
        parents, fresh, rows = self.parents, self.fresh, self._rows["founders", None]
        if not rows.count:
            rows.append(np.arange(parents.shape[1]))
        for number in range(rows.count, len(self)):
            before = rows.array[-1]
            rows.append(
                lineage.next_founders(before, parents[number], fresh[number], number)
            )
        return rows.array

    @property
    def surviving_founders(self) -> np.ndarray:
        """`i64[...]` the founders of the last generation's members."""
        return np.unique(self.founders[-1])

    @property
    def takeover_generation(self) -> int | None:
        """The generation from which on all had one founder; `None` if several live."""
        return lineage.takeover_generation(self.founders)

    @property
    def effective_size(self) -> np.ndarray:
        """`f64[G]` the effective population size: see `results.lineage`."""
        return lineage.effective_size(self.parents, self.fresh)

    def ancestry(self, generation: int | None = None, slot: int | None = None) -> Line:
        """Follows a member back to the first of its line: the winner if none is named.

        Args:
            generation: the member's generation.
            slot: the member's slot.

        Returns:
            The line of its ancestors, itself last, which is an index:
            `history.fitness[history.ancestry()]` is the fitness along the line.
        """
        if generation is None or slot is None:
            generation, slot = self.winner
        return lineage.ancestry(self.parents, generation, slot, self.fresh)

    def to_frame(self) -> DataFrame:
        """Makes a table of the run: a row for each member of each generation.

        Returns:
            A pandas `DataFrame` of `G * P` rows: `generation`, `member` (its slot),
            `fitness` (`nan` if the member failed), `standard_error`, `parent` (a slot
            of the generation before), `operation` (see `operations`), `hparams/NAME`,
            `hparams/NAME/before` (the parent's value, where the member's is another),
            `metrics/NAME`. Vectors and losses have a column for each entry, `NAME[0]`.

        Raises:
            ImportError: if pandas is not installed.
            ValueError: if the history holds no generation.

        Example:
            >>> import jepbt
            >>> frame = jepbt.load_history("runs/0001").to_frame()  # doctest: +SKIP
            >>> frame.groupby("generation").fitness.max()  # doctest: +SKIP
        """
        return table.make_frame(table.columns(self))

    def to_csv(self, path: str | os.PathLike) -> None:
        """Writes the table of `to_frame` as comma-separated text, without pandas.

        A cell is empty where there is no number: after a failure, or where no value was
        perturbed. Fractions have the digits that give the same float32 back.

        Args:
            path: the file, which is replaced.

        Raises:
            ValueError: if the history holds no generation.
        """
        table.write_csv(table.columns(self), path)

    def _stack(self, field: str, name: str | None = None) -> np.ndarray:
        """Stacks a field of all generations, or one of its entries by name."""
        if not self.generations:
            raise ValueError("this history holds no generation yet.")
        rows = self._rows[field, name]
        for generation in self.generations[rows.count :]:
            value = getattr(generation, field)
            rows.append(value if name is None else value[name])
        return rows.array

    def _stack_by_name(self, field: str) -> dict[str, np.ndarray]:
        names = getattr(self.generations[0], field) if self.generations else ()
        return {name: self._stack(field, name) for name in names}


class _Rows:
    """An array that grows row by row; its room doubles whenever it is full."""

    def __init__(self) -> None:
        self.count = 0
        self._room: np.ndarray | None = None

    @property
    def array(self) -> np.ndarray:
        array = self._room[: self.count]
        array.flags.writeable = False
        return array

    def append(self, row: np.ndarray) -> None:
        row = np.asarray(row)
        if self._room is None:
            self._room = np.empty((8, *row.shape), row.dtype)
        dtype = np.promote_types(self._room.dtype, row.dtype)
        if dtype != self._room.dtype:  # longer text, for example
            self._room = self._room.astype(dtype)
        if self.count == len(self._room):
            self._room = np.concatenate([self._room, np.empty_like(self._room)])
        self._room[self.count] = row
        self.count += 1


def make_generation(
    number: int, record: Record, seconds: Mapping[str, float]
) -> Generation:
    """Turns a record, fetched from the device, into what people and callbacks read."""
    return Generation(
        number=number,
        fitness=np.array(record.fitness),
        standard_error=np.array(record.standard_error),
        parents=np.array(record.parents),
        hparams={
            name: space.readable(getattr(record.hparams, name))
            for name, space in spaces(type(record.hparams)).items()
        },
        metrics={name: np.array(value) for name, value in record.metrics.items()},
        info={name: np.array(value) for name, value in record.info.items()},
        seconds=dict(seconds),
    )


def describe(generation: Generation) -> str:
    """Describes a generation in one line: live fitness, failures, seconds."""
    live = generation.fitness[~np.isnan(generation.fitness)]
    best, median = (live.max(), np.median(live)) if live.size else (np.nan, np.nan)
    return (
        f"best {best:.3f}  median {median:.3f}  "
        f"{generation.num_failed} failed  {sum(generation.seconds.values()):.1f} s"
    )


class Score(NamedTuple):
    """A mean over examples, and how sure it is.

    Attributes:
        mean: accuracy in [0, 1] for a classification.
        standard_error: the mean's; 1.96 of them on either side are a 95 % interval.
    """

    mean: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ±{1.96 * self.standard_error:.3f}"
