"""Holds what is known of a run, and makes its result out of it."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jepbt.config import Config
from jepbt.engine import Best
from jepbt.population import Population, take
from jepbt.results import Generation, History
from jepbt.tasks import Task
from jepbt.training.result import Result
from jepbt.training.winner import Winner, as_winner


@dataclasses.dataclass
class Run:
    """What a run has come to so far, all of it on the host.

    Attributes:
        task: the task that is trained.
        config: the settings.
        run_dir: the folder of the run's files, or `None`.
        history: the generations so far.
        best: the best member so far; `None` while nobody has a fitness.
        shown: the names of the files that show this best member already.
        rests_until: the time before which those files are not written again.
        told: the sentences on what is missing, each of which is said once a run.
    """

    task: Task
    config: Config
    run_dir: pathlib.Path | None
    history: History = dataclasses.field(default_factory=History)
    best: Winner | None = None
    shown: set[str] = dataclasses.field(default_factory=set)
    rests_until: float = -float("inf")
    told: set[str] = dataclasses.field(default_factory=set)

    @property
    def last(self) -> Generation:
        """The generation that has just ended."""
        return self.history.generations[-1]

    def add(self, report: Generation) -> None:
        """Takes a generation in.

        Raises:
            RuntimeError: if the strategy copied a failed member while others lived.
        """
        if self.history.generations:
            _check_parents(report, self.last)
        self.history.generations.append(report)

    def update_best(self, best: Best, reports: Sequence[Generation]) -> None:
        """Fetches the best member ever if one of these generations may have made it."""
        highest = max(np.fmax.reduce(r.fitness, initial=-np.inf) for r in reports)
        if self.best is None or highest > self.best.fitness.mean:
            self.take_best(best)

    def take_best(self, best: Best) -> None:
        """Copies the best member ever to the host."""
        self.best = as_winner(best, self.task)
        self.shown.clear()

    def result(
        self,
        population: Population,
        pick: Callable[[np.ndarray], Population],
        first: Best,
        seconds: Mapping[str, float],
    ) -> Result:
        """Makes the result, when the run ends or is loaded.

        Args:
            population: the last population.
            pick: `(slots i32[2]) -> Population` of these members, on the host.
            first: the best of the first generation.
            seconds: the time spent outside of generations, by phase.
        """
        final_best = median = self.best
        last = self.last
        live = last.fitness.size - last.num_failed
        if live:
            ranked = np.argsort(-last.fitness, kind="stable")
            slots = np.array([ranked[0], ranked[live // 2]], np.int32)
            members, errors = pick(slots), last.standard_error[slots]
            final_best, median = (
                as_winner(
                    Best(take(members, i), errors[i], last.number, slots[i]), self.task
                )
                for i in range(2)
            )
        spent = {
            phase: sum(report.seconds[phase] for report in self.history.generations)
            for phase in ("evolve", "train", "evaluate")
        }
        return Result(
            best=self.best,
            final_best=final_best,
            median=median,
            first_best=as_winner(first, self.task) or self.best,
            history=self.history,
            population=population,
            config=self.config,
            seconds={**seconds, **spent},
            run_dir=self.run_dir,
        )


def _check_parents(report: Generation, before: Generation) -> None:
    """Stops a strategy that copies failed members while others live."""
    slots = np.arange(report.parents.size)
    dead = np.isnan(before.fitness)
    wrong = (report.parents < 0) | (report.parents >= slots.size)
    moved = report.parents != slots
    wrong |= moved & dead[np.clip(report.parents, 0, slots.size - 1)] & ~dead.all()
    if wrong.any():
        slot = int(np.flatnonzero(wrong)[0])
        raise RuntimeError(
            f"the strategy made slot {slot} a child of {report.parents[slot]} in "
            f"generation {report.number}, which is no live member. A Strategy's "
            "Plan.parents must name slots whose fitness is not nan."
        )
