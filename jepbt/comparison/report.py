"""Reports a comparison: numbers with their intervals, as a table and as files."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jepbt.comparison import table
from jepbt.comparison.statistics import (
    LEVEL,
    Difference,
    Estimate,
    compare_paired,
    count_seeds,
    estimate_mean,
    holm,
)
from jepbt.results.json_lines import to_lists
from jepbt.results.table import make_frame, write_csv


class Cost(NamedTuple):
    """What one run of an arm costs.

    Attributes:
        num_steps: the training steps of one member.
        step_cost: the cost of one of them, in steps of an arm that declares none.
        flops: the floating-point operations of training all members; 0 if unknown.
        seconds: the mean over seeds of evolving, training and evaluating.
        compile_seconds: the time of compiling, once for all seeds.
    """

    num_steps: int
    step_cost: float
    flops: float
    seconds: float
    compile_seconds: float


class Row(NamedTuple):
    """One arm of a comparison.

    Attributes:
        name: the arm's name.
        score: its mean score, with the interval.
        difference: its paired difference to the control; `None` for the control.
        p: the probability that decides: by the paired t-test, as it is for the primary
            arm and corrected by Holm's method for all others.
    """

    name: str
    score: Estimate
    difference: Difference | None
    p: float

    @property
    def is_significant(self) -> bool:
        """Tells whether the arm differs from the control."""
        return self.difference is not None and self.p < 1 - LEVEL


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What arms reached over the same seeds, and whether they differ.

    `dataclasses.replace(comparison, control="another")` computes the differences to
    another arm; chosen after the fact, they are exploratory.

    Attributes:
        names: the arms, in order; a name with " + biases" is that arm with a bias for
            each class, tuned on validation data after training.
        seeds: `i64[N]`.
        scores: `f64[A, N]`, the winners' scores on the split `split`.
        validation: `f64[A, N]`, their fitness, by which they were chosen.
        control: the arm that the others are compared with.
        primary: the arm whose difference was named beforehand, or `None`.
        split: "test", read once for each arm and seed, or "validation" for tasks that
            have no test split.
        is_accuracy: True if scores are shares of right answers, shown in points.
        settings: the numbers of a run that all arms share, by name.
        costs: the cost of a run, by arm.
        notes: sentences on what else a reader must know.
    """

    names: tuple[str, ...]
    seeds: np.ndarray
    scores: np.ndarray
    validation: np.ndarray
    control: str
    primary: str | None
    split: str
    is_accuracy: bool
    settings: Mapping[str, int]
    costs: Mapping[str, Cost]
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """One row for each arm: its mean, and its difference to the control."""
        reference = self.scores[self.names.index(self.control)]
        differences = {
            name: compare_paired(scores, reference)
            for name, scores in zip(self.names, self.scores, strict=True)
            if name != self.control
        }
        p = {name: difference.p_t for name, difference in differences.items()}
        others = [name for name in p if name != self.primary]
        p |= dict(zip(others, holm([p[name] for name in others]), strict=True))
        return tuple(
            Row(
                name,
                estimate_mean(scores),
                differences.get(name),
                p.get(name, math.nan),
            )
            for name, scores in zip(self.names, self.scores, strict=True)
        )

    def num_seeds(self, name: str, difference: float) -> int:
        """Counts the seeds with which a difference to the control would be detected.

        By the spread of the paired differences seen, with a power of 0.8.

        Args:
            name: the arm.
            difference: the true difference, in the scores' own unit: 0.003 for 0.3
                points of accuracy.

        Returns:
            The number of seeds of a paired t-test.

        Raises:
            ValueError: if there is no such arm, there is only one seed, a score is no
                number, or the difference is not above 0.
        """
        rows = {row.name: row.difference for row in self.rows}
        if rows.get(name) is None or len(self.seeds) < 2 or not difference > 0:
            names = ", ".join(n for n in rows if n != self.control)
            raise ValueError(
                f"num_seeds: name={name!r} must be one of {names}, and difference="
                f"{difference!r} above 0; {len(self.seeds)} seeds were run, of which "
                "it takes two."
            )
        sd = rows[name].estimate.sd
        if math.isnan(sd):
            raise ValueError(f"num_seeds: a score of {name!r} or the control is nan.")
        return count_seeds(sd, difference)

    def to_json(self, path: str | os.PathLike | None = None) -> str:
        """Writes all numbers as JSON, to a file too if a path is given.

        Returns:
            The text; what is no finite number is `null`.
        """
        facts = dict(vars(self))
        facts["costs"] = {name: c._asdict() for name, c in self.costs.items()}
        facts["rows"] = [_describe(row) for row in self.rows]
        text = json.dumps(_plain(facts), indent=1, allow_nan=False) + "\n"
        if path is not None:
            pathlib.Path(path).write_text(text, encoding="utf-8")
        return text

    def to_csv(self, path: str | os.PathLike) -> None:
        """Writes a line for each arm and seed: arm, seed, score, validation."""
        write_csv(self._columns(), path)

    def to_frame(self) -> Any:
        """Makes a pandas `DataFrame` with a row for each arm and seed.

        Raises:
            ImportError: if pandas is not installed.
        """
        return make_frame(self._columns())

    def _columns(self) -> dict[str, np.ndarray]:
        return {
            "arm": np.repeat(self.names, len(self.seeds)),
            "seed": np.tile(self.seeds, len(self.names)),
            "score": self.scores.ravel(),
            "validation": self.validation.ravel(),
        }

    def __str__(self) -> str:
        return table.write(self)

    __repr__ = __str__


def _describe(row: Row) -> dict[str, Any]:
    facts = {"name": row.name, "score": row.score._asdict(), "p": row.p}
    if row.difference is not None:
        facts["difference"] = row.difference.estimate._asdict()
        facts["p_t"], facts["p_wilcoxon"] = row.difference[1:]
        facts["is_significant"] = row.is_significant
    return facts


def _plain(value: Any) -> Any:
    """Turns mappings, tuples and arrays into what JSON has."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return to_lists(value)
