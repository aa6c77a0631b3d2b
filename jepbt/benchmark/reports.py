"""Reports a scaling: numbers with their spread, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jepbt.results.text import align


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median over rounds, with the smallest and the largest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarises one value a round."""
        return cls(float(np.median(values)), float(np.min(values)), float(max(values)))


@dataclasses.dataclass(frozen=True)
class ScalingRow:
    """One population size of a `ScalingReport`.

    Attributes:
        population_size: the number of members, `P`.
        num_devices: the number of devices that share them.
        chunk_size: the members of a device that are computed together.
        seconds: the seconds of a generation's training.
        samples_per_second: training examples, summed over members.
        relative_cost: seconds at `P` over seconds at the first size, round by round.
        seconds_per_member: the seconds of a generation's training, divided by `P`.
        share_of_peak: the share of the machine's measured matmul FLOP/s.
        select_and_vary_seconds: the seconds of the strategy alone, once a generation.
        inherit_seconds: the rest of the program between two generations.
        compile_seconds: the seconds of compiling; few if the programs were cached.
        memory_bytes: the bytes that the largest program reserves in one memory.
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
    compile_seconds: float
    memory_bytes: int


@dataclasses.dataclass(frozen=True, repr=False)
class ScalingReport:
    """The cost of populations of growing size on one device or machine.

    Attributes:
        devices: the devices, in words.
        steps_per_generation: the steps that a generation's seconds are scaled to.
        batch_size: the number of examples in a training step.
        num_rounds: the number of measurements behind each median.
        peak_flops: the largest measured matmul FLOP/s of all devices together.
        step_flops: the floating-point operations of one member's training step.
        rows: one row for each population size.
        notes: a line for everything that was done otherwise than asked.
        chunk_costs: seconds over those of the chunk size in use, by chunk size, for the
            largest population; every size that was measured.
    """

    devices: str
    steps_per_generation: int
    batch_size: int
    num_rounds: int
    peak_flops: float
    step_flops: float
    rows: tuple[ScalingRow, ...]
    notes: tuple[str, ...] = ()
    chunk_costs: Mapping[int, Spread] = dataclasses.field(default_factory=dict)

    @property
    def share_of_one(self) -> float:
        """The share of the peak that the smallest population reaches, `u`."""
        return self.rows[0].share_of_peak

    @property
    def ceiling(self) -> float:
        """The most that a population's throughput can gain over the smallest, `1/u`."""
        return 1 / self.share_of_one if self.share_of_one > 0 else float("inf")

    @property
    def knee(self) -> int:
        """The smallest population with 90 % of the largest throughput."""
        enough = 0.9 * max(row.samples_per_second.median for row in self.rows)
        fast = [row for row in self.rows if row.samples_per_second.median >= enough]
        return fast[0].population_size

    @property
    def fastest_chunk(self) -> int:
        """The fastest chunk size for the largest population."""
        return min(
            self.chunk_costs,
            key=lambda size: self.chunk_costs[size].median,
            default=self.rows[-1].chunk_size,
        )

    @property
    def chunk_gain(self) -> float:
        """The fastest chunk size's speed over that of the chunk size in use."""
        return 1 / min((cost.median for cost in self.chunk_costs.values()), default=1)

    def law(self) -> str:
        """Says in a line what bounds the gain, and how much of it was reached."""
        if not self.step_flops:
            return "The compiler counts no FLOPs in this step: no ceiling is known."
        best = max(self.rows, key=lambda row: row.samples_per_second.median)
        one = self.rows[0].samples_per_second.median
        return (
            f"One member alone reaches u = {100 * self.share_of_one:.2g} % of the "
            f"measured matmul peak ({self.peak_flops / 1e9:.0f} GFLOP/s), so a "
            f"population gains at most 1/u = {self.ceiling:.3g} times its throughput; "
            f"here P = {best.population_size} gains "
            f"{best.samples_per_second.median / one:.3g} times. Knee: P = {self.knee}."
        )

    def chunk_advice(self) -> str:
        """Says in a line which chunk size is the fastest, and what it gains."""
        used, number = self.rows[-1].chunk_size, self.rows[-1].population_size
        if len(self.chunk_costs) < 2:
            return f"At P = {number} only chunk_size={used} was measured."
        verdict = f"chunk_size={used}, the one in use, is the fastest"
        if self.fastest_chunk != used:
            verdict = (
                f"chunk_size={self.fastest_chunk} is {self.chunk_gain:.2f} times as "
                f"fast as {used}, the one in use"
            )
        costs = ", ".join(
            f"{size}: {with_range(cost, '{:.2f}'.format)}"
            for size, cost in self.chunk_costs.items()
        )
        return f"At P = {number} {verdict}. Seconds by chunk size, relative: {costs}."

    def table(self) -> str:
        """Lays the rows out as text, with the law and the chunk sizes below."""
        cells = [
            {
                "P": str(row.population_size),
                "chunk": f"{row.chunk_size} x {row.num_devices} dev",
                "s/generation": with_range(row.seconds, "{:.3g}".format),
                "samples/s": format_count(row.samples_per_second.median),
                "cost/one": f"{row.relative_cost.median:.3g}",
                "ms/member": f"{1e3 * row.seconds_per_member.median:.3g}",
                "% of peak": f"{100 * row.share_of_peak:.3g}",
                "select+vary ms": f"{1e3 * row.select_and_vary_seconds.median:.2g}",
                "inherit ms": f"{1e3 * row.inherit_seconds.median:.2g}",
                "compile s": f"{row.compile_seconds:.1f}",
                "memory": f"{row.memory_bytes / 1e6:.0f} MB",
            }
            for row in self.rows
        ]
        table = align([list(cells[0]), *(list(row.values()) for row in cells)])
        title = (
            f"{self.devices} | a generation: {self.steps_per_generation} steps of "
            f"{self.batch_size} | median (min..max) of {self.num_rounds} rounds"
        )
        lines = (title, table, self.law(), self.chunk_advice(), *self.notes)
        return "\n".join(lines)

    def to_json(self) -> str:
        """Writes all of it as JSON, with the derived numbers and lines."""
        names = ("share_of_one", "knee", "fastest_chunk", "chunk_gain")
        facts = dataclasses.asdict(self) | {name: getattr(self, name) for name in names}
        facts["ceiling"] = self.ceiling if np.isfinite(self.ceiling) else None
        facts |= {"law": self.law(), "chunk_advice": self.chunk_advice()}
        return json.dumps(facts, indent=1, allow_nan=False)

    __repr__ = table


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


def with_range(spread: Spread, show: Callable[[float], str]) -> str:
    """Writes a median with its range in brackets."""
    return f"{show(spread.median)} ({show(spread.low)}..{show(spread.high)})"
