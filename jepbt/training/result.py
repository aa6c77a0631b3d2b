"""The result of a run."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jepbt.checkpoints import folder as run_directory
from jepbt.config import Config
from jepbt.hyperparameters import HyperParameters
from jepbt.losses import EvolvedLoss
from jepbt.losses.taylorglo import describe_attraction
from jepbt.population import Population
from jepbt.report import make_card
from jepbt.results import Ensemble, History, Schedules, Score, recorded
from jepbt.results.ensembles import average_weights, make_ensemble
from jepbt.tasks import Task


class TestReport(NamedTuple):
    """Scores on the test split, of which only the first is the run's result.

    Attributes:
        best: the member that `Result.best` chose by validation.
        median: the final generation's member of median validation fitness.
        first: the first generation's best: what the same networks reached before
            anything evolved, and with fewer steps.
    """

    # pytest collects classes by this name's start.
    __test__ = False

    best: Score
    median: Score
    first: Score


@dataclasses.dataclass(frozen=True)
class Winner:
    """One member taken out of the population, on the host.

    Attributes:
        state: the member's state, as the task's `init` made it, in NumPy arrays.
        hparams: the user's class with Python values.
        fitness: its validation score, and the standard error.
        generation: the generation that it was evaluated in.
        slot: the slot that it stood in.
    """

    state: Any
    hparams: HyperParameters
    fitness: Score
    generation: int
    slot: int

    @property
    def params(self) -> Any:
        """The weights of a `Learner`; other states are read from `state`."""
        try:
            return self.state.params
        except AttributeError:
            raise AttributeError(
                f"this task's state is a {type(self.state).__name__} without `params`: "
                "read `state`."
            ) from None


@dataclasses.dataclass
class Result:
    """A finished run: the best network, what made it, and what happened on the way.

    Attributes:
        best: the best member of all generations by validation (ties: the earliest).
        final_best: the best of the last generation.
        median: the median member of the last generation by validation.
        first_best: the best of the first generation.
        history: every generation's fitness, parents, hyperparameters, metrics.
        population: the last population, on its devices, leaves `[P, ...]`.
        task: the task that was trained.
        config: the settings, with the batch size that was used.
        seconds: spent by phase: compile, evolve, train, evaluate.
        run_dir: the folder of the run's files, or `None`.
    """

    best: Winner
    final_best: Winner
    median: Winner
    first_best: Winner
    history: History
    population: Population
    task: Task
    config: Config
    seconds: dict[str, float]
    run_dir: pathlib.Path | None
    score_on_test: Callable[[Sequence[Winner]], list[Score]] = dataclasses.field(
        repr=False
    )
    _report: TestReport | None = dataclasses.field(default=None, repr=False)

    def test(self) -> TestReport:
        """Reads the test split: once, all three members together.

        The first call measures and records the scores, in the run directory too if
        there is one; later calls return what the first one saw.

        Returns:
            The scores of the winner, the median and the first generation's best.

        Raises:
            ValueError: if the task has no test split.
        """
        if self._report is None:
            if self.task.data is None or self.task.data.test is None:
                raise ValueError(
                    "this task has no test split. Give one: "
                    "jepbt.datasets.from_arrays(train, test=(images, labels))."
                )
            winners = [self.best, self.median, self.first_best]
            self._report = TestReport(*self.score_on_test(winners))
            if self.run_dir is not None:
                scores = {k: v._asdict() for k, v in self._report._asdict().items()}
                text = json.dumps(scores, indent=2).encode()
                run_directory.write_safely(_write_test, self.run_dir, text)
        return self._report

    def ensemble(self, k: int = 5) -> Ensemble:
        """Lets the best members of the last generation predict together.

        Args:
            k: the number of members, the best by validation.

        Returns:
            The ensemble with its score on the validation split, on which its members
            were chosen too: it flatters, as every choice by validation does.

        Raises:
            ValueError: if the task does not say how, or `k` does not fit.
        """
        return make_ensemble(
            self.task, self.population, self.history, self.config.seed, k
        )

    def average(self, k: int = 5) -> Winner:
        """Averages the weights of the last generation's best that share a founder.

        Batch statistics are estimated anew on training data.

        Args:
            k: the number of members to look at, the best by validation.

        Returns:
            The average if it beats the last generation's best on validation data, and
            else that best, `final_best`.

        Raises:
            ValueError: if the task does not say how, or `k` does not fit.
        """
        averaged = average_weights(
            self.task, self.population, self.history, self.config.seed, k
        )
        if averaged is None:
            return self.final_best
        state, *fitness = averaged
        return dataclasses.replace(
            self.final_best, state=state, fitness=Score(*fitness)
        )

    @property
    def num_founders(self) -> int:
        """How many of the first generation still have descendants."""
        return len(self.history.surviving_founders)

    @property
    def num_failed(self) -> int:
        """How often a member failed, counted over all generations."""
        return sum(generation.num_failed for generation in self.history.generations)

    def describe_loss(self) -> str | None:
        """The winner's evolved loss in one line, or `None` if none evolved."""
        if not recorded.read(self).has_loss:
            return None
        loss = self.evolved_loss
        return f"{loss.formula}   {describe_attraction(loss.theta)}"

    @property
    def evolved_loss(self) -> EvolvedLoss:
        """The loss that the winner trained with: text, LaTeX, source, a callable.

        Raises:
            ValueError: if no loss evolved in this run.
        """
        return recorded.read(self).evolved_loss

    @property
    def schedule(self) -> Schedules:
        """What the winner's ancestors trained with: by name, an optax schedule."""
        return recorded.read(self).schedule

    def _repr_html_(self) -> str:
        """The card that a notebook shows."""
        scores = {"best on validation data": self.best.fitness}
        if self._report is not None:
            scores["the same on test data"] = self._report.best
        scores["median on validation data"] = self.median.fitness
        scores["best of the first generation"] = self.first_best.fitness
        scores = {name: str(score) for name, score in scores.items()}
        return make_card(recorded.read(self), scores, sum(self.seconds.values()))

    def __repr__(self) -> str:
        best = self.best
        lines = [
            f"jepbt.Result: {self.config.population_size} members, "
            f"{len(self.history)} generations",
            f"  best    validation {best.fitness}, member {best.slot} of generation "
            f"{best.generation}",
            f"  hparams {best.hparams}",
        ]
        if self._report is not None:
            lines.append(f"  test    {self._report.best}")
        return "\n".join(lines)


def _write_test(folder: pathlib.Path, text: bytes) -> None:
    run_directory.replace(folder / "test.json", text)
