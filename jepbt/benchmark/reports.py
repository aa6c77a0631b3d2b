"""What the benchmarks return: numbers with their spread, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median over rounds, with the smallest and the largest.

    Attributes:
        median: of the rounds.
        low: the smallest.
        high: the largest.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarises one value a round.

        Example:
            >>> Spread.of([3.0, 1.0, 2.0])
            Spread(median=2.0, low=1.0, high=3.0)
        """
        return cls(float(np.median(values)), float(np.min(values)), float(max(values)))


@dataclasses.dataclass(frozen=True)
class ScalingRow:
    """One population size of a `ScalingReport`.

    Attributes:
        population_size: `P`.
        num_devices: that share it.
        chunk_size: members of a device computed together.
        seconds: of a generation's training.
        samples_per_second: over all members.
        relative_cost: seconds at `P` over seconds at the first size, round by round.
        seconds_per_member: of a generation's training.
        share_of_peak: of the machine's measured matmul FLOP/s.
        select_and_vary_seconds: the strategy alone, once a generation.
        inherit_seconds: the rest of the program between two generations.
        replaced_members: by the inheritance that was timed.
        copy_seconds: a plain copy of as many members' bytes.
        compile_seconds: all programs; short if they were in the compilation cache.
        memory_bytes: that the largest program reserves, all devices of one memory.
    """

    population_size: int
    num_devices: int
    chunk_size: int
    seconds: Spread
    samples_per_second: Spread
    relative_cost: Spread
    seconds_per_member: Spread
    share_of_peak: float
    select_and_vary_seconds: Spread
    inherit_seconds: Spread
    replaced_members: int
    copy_seconds: Spread
    compile_seconds: float
    memory_bytes: int


@dataclasses.dataclass(frozen=True, repr=False)
class ScalingReport:
    """What populations of growing size cost on one device or machine.

    Attributes:
        devices: where it was measured, in words.
        steps_per_generation: that the seconds of a generation stand for.
        batch_size: examples of a step.
        num_rounds: measurements behind each median.
        peak_flops: the largest measured matmul FLOP/s of all devices together.
        step_flops: of one member's training step.
        rows: by population size.
        notes: what was done otherwise than asked, a line each.
    """

    devices: str
    steps_per_generation: int
    batch_size: int
    num_rounds: int
    peak_flops: float
    step_flops: float
    rows: tuple[ScalingRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def share_of_one(self) -> float:
        """`u`: the share of the peak that the smallest population reaches."""
        return self.rows[0].share_of_peak

    @property
    def ceiling(self) -> float:
        """`1/u`: no population's throughput exceeds this many times the smallest's."""
        return 1 / self.share_of_one if self.share_of_one > 0 else float("inf")

    @property
    def knee(self) -> int:
        """The smallest population with 90 % of the largest throughput."""
        speeds = [row.samples_per_second.median for row in self.rows]
        enough = 0.9 * max(speeds)
        return next(
            row.population_size
            for row, speed in zip(self.rows, speeds, strict=True)
            if speed >= enough
        )

    def law(self) -> str:
        """Says in a line what bounds the gain, and how much of it was reached."""
        first = self.rows[0]
        speeds = [row.samples_per_second.median for row in self.rows]
        best = self.rows[int(np.argmax(speeds))]
        if not self.step_flops:
            return "The compiler counts no FLOPs in this step: no ceiling is known."
        return (
            f"{_members(first.population_size)} alone reach"
            f"{'es' if first.population_size == 1 else ''} u = "
            f"{100 * self.share_of_one:.2g} % of the measured matmul peak "
            f"({self.peak_flops / 1e9:.0f} GFLOP/s), so a population gains at most "
            f"1/u = {self.ceiling:.3g} times its throughput; here P = "
            f"{best.population_size} gains {max(speeds) / speeds[0]:.3g} times. "
            f"Knee: P = {self.knee}."
        )

    def table(self) -> str:
        """Lays the rows out as text, with the law below."""
        head = (
            "P",
            "chunk",
            "s/generation",
            "samples/s",
            "cost/one",
            "ms/member",
            "% of peak",
            "select+vary ms",
            "inherit ms",
            "compile s",
            "memory",
        )
        body = [
            (
                str(row.population_size),
                f"{row.chunk_size} x {row.num_devices} dev",
                _with_range(row.seconds, 1),
                f"{format_count(row.samples_per_second.median)}",
                f"{row.relative_cost.median:.3g}",
                f"{1e3 * row.seconds_per_member.median:.3g}",
                f"{100 * row.share_of_peak:.3g}",
                f"{1e3 * row.select_and_vary_seconds.median:.2g}",
                f"{1e3 * row.inherit_seconds.median:.2g}",
                f"{row.compile_seconds:.1f}",
                f"{row.memory_bytes / 1e6:.0f} MB",
            )
            for row in self.rows
        ]
        title = (
            f"{self.devices} | a generation: {self.steps_per_generation} steps of "
            f"{self.batch_size} | median (min..max) of {self.num_rounds} rounds"
        )
        return "\n".join([title, align([head, *body]), self.law(), *self.notes])

    def to_json(self) -> str:
        """Writes all of it as JSON, `law` and the derived numbers included."""
        ceiling = self.ceiling if np.isfinite(self.ceiling) else None
        facts = dataclasses.asdict(self) | {
            "share_of_one": self.share_of_one,
            "ceiling": ceiling,
            "knee": self.knee,
            "law": self.law(),
        }
        return json.dumps(facts, indent=1, allow_nan=False)

    def __repr__(self) -> str:
        return self.table()


@dataclasses.dataclass(frozen=True)
class SpeedRow:
    """One way to train the same population.

    Attributes:
        name: what it is.
        samples_per_second: over all members.
        ratio: jepbt's speed over this one's, round by round.
        note: where or how it ran.
        is_used: whether it is the faster one of those that share its name.
    """

    name: str
    samples_per_second: Spread
    ratio: Spread
    note: str = ""
    is_used: bool = True


@dataclasses.dataclass(frozen=True, repr=False)
class SpeedReport:
    """jepbt beside its controls, equal work, measured in turns.

    Attributes:
        title: of the work.
        population_size: `P`.
        batch_size: examples of a step.
        num_steps: of every member in each measurement.
        num_rounds: measurements behind each median.
        rows: jepbt first.
        notes: what could not be compared, a line each.
    """

    title: str
    population_size: int
    batch_size: int
    num_steps: int
    num_rounds: int
    rows: tuple[SpeedRow, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> str:
        """Lays the rows out as text; of two variants of one control, the faster."""
        head = ("", "samples/s", "jepbt is", "")
        body = [
            (
                row.name,
                _with_range(row.samples_per_second),
                f"{row.ratio.median:.2f}x ({row.ratio.low:.2f}..{row.ratio.high:.2f})",
                row.note,
            )
            for row in self.rows
            if row.is_used
        ]
        title = (
            f"{self.title}, P={self.population_size}, batch {self.batch_size} | "
            f"{self.num_steps} steps a member | median (min..max) of "
            f"{self.num_rounds} rounds, in turns"
        )
        return "\n".join([title, align([head, *body], left=(0, 3)), *self.notes])

    def __repr__(self) -> str:
        return self.table()


def align(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """Pads the cells of a table's columns to one width.

    Args:
        rows: of equally many cells.
        left: columns aligned to the left; the others to the right.

    Returns:
        A line for each row.

    Example:
        >>> print(align([("P", "s"), ("16", "1.5")]))
         P    s
        16  1.5
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def format_count(number: float) -> str:
    """Shortens a large number.

    Example:
        >>> format_count(8_214_000.0), format_count(310.0)
        ('8.21 M', '310')
    """
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def _with_range(spread: Spread, digits: int | None = None) -> str:
    show = format_count if digits is None else (lambda value: f"{value:.3g}")
    return f"{show(spread.median)} ({show(spread.low)}..{show(spread.high)})"


def _members(number: int) -> str:
    return "One member" if number == 1 else f"{number} members"
