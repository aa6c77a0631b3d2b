"""The result of a run."""

from __future__ import annotations

import copy
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jepbt.checkpoints import folder as run_directory
from jepbt.config import Config
from jepbt.engine.evaluation import mean_score
from jepbt.engine.forks import check_fork
from jepbt.hyperparameters import decode, encode
from jepbt.losses import EvolvedLoss
from jepbt.losses.taylorglo import describe_attraction
from jepbt.optional import optional
from jepbt.population import EVALUATE, Population, derive_key
from jepbt.report import make_card
from jepbt.results import Ensemble, History, Schedules, Score, recorded
from jepbt.results.ensembles import average_weights, make_ensemble
from jepbt.results.pickled import to_host, with_choices, without_choices
from jepbt.tasks import Task
from jepbt.training.winner import Winner

_WINNERS = ("best", "final_best", "median", "first_best")


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


@dataclasses.dataclass
class Result:
    """A finished run: the best network, what made it, and what happened on the way.

    It can be pickled, and so come back from another process: its arrays then lie on the
    host. What the task is made of, functions and data, stays where it was. `test`,
    `predict`, `ensemble` and `average` need it, and say so; `result.task = task` puts
    it back. A copy shares task and population with the original.

    Attributes:
        best: the best member of all generations by validation (ties: the earliest).
        final_best: the best of the last generation.
        median: the median member of the last generation by validation.
        first_best: the best of the first generation.
        history: every generation's fitness, parents, hyperparameters, metrics.
        population: the last population, on its devices, leaves `[P, ...]`.
        config: the settings, with the batch size that was used.
        seconds: spent by phase: compile, which ends when training can begin; evolve,
            train, evaluate.
        run_dir: the folder of the run's files, or `None`.
    """

    best: Winner
    final_best: Winner
    median: Winner
    first_best: Winner
    history: History
    population: Population
    config: Config
    seconds: dict[str, float]
    run_dir: pathlib.Path | None
    _report: TestReport | None = dataclasses.field(default=None, repr=False)

    @property
    def task(self) -> Task:
        """The task that was trained."""
        return self.best.task

    @task.setter
    def task(self, task: Task) -> None:
        for name in _WINNERS:
            winner = dataclasses.replace(getattr(self, name), task=task)
            setattr(self, name, winner)

    def predict(self, inputs: Any) -> np.ndarray:
        """Lets the best member predict, from raw inputs: see `Winner.predict`.

        Args:
            inputs: examples `[N, ...]`, of the data's shape and dtype.

        Returns:
            Probabilities `f32[N, C]` for a classification; `f32[N, D]`, or `f32[N]`,
            for a regression.

        Raises:
            ValueError: if the inputs are unlike the data, or the task has no
                `inference`; before anything compiles.

        Example:
            >>> result.predict(images).argmax(-1)  # doctest: +SKIP
        """
        return self.best.predict(inputs)

    def test(self) -> TestReport:
        """Reads the test split: once, all three members together.

        The first call measures and records the scores, in the run directory too if
        there is one; later calls return what the first one saw.

        Returns:
            The scores of the winner, the median and the first generation's best.

        Raises:
            ValueError: if the task has no test split.
        """
        if self._report is not None:
            return self._report
        if self.task.data is None or self.task.data.test is None:
            raise ValueError(
                "this task has no test split. Give one: "
                "jepbt.datasets.from_arrays(train, test=(images, labels))."
            )
        winners = [self.best, self.median, self.first_best]
        scores = score_on_test(self.task, self.config, winners, self.population)
        self._report = TestReport(*scores)
        if self.run_dir is not None:
            fields = {k: v._asdict() for k, v in self._report._asdict().items()}
            path = self.run_dir / "test.json"
            with optional(f"{path} is not written"):
                run_directory.replace(path, json.dumps(fields, indent=2).encode())
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

    def __getstate__(self) -> dict[str, Any]:
        population = self.population
        hparams, fitness = jax.device_get((population.hparams, population.fitness))
        return vars(self) | {
            "population": Population(to_host(population.state), hparams, fitness),
            "history": without_choices(self.history, self.task.hparams),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        history = with_choices(state["history"], state["best"].task.hparams)
        vars(self).update(state | {"history": history})

    def __copy__(self) -> Result:
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __deepcopy__(self, memo: Any) -> Result:
        memo[id(self.population)] = self.population  # which never changes
        other = copy.copy(self)
        vars(other).update(copy.deepcopy(vars(self), memo))
        return other

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


def score_on_test(
    task: Task, config: Config, winners: Sequence[Winner], population: Population
) -> list[Score]:
    """Scores winners on the test split, where the population was trained."""
    check_fork("test()")
    key = jax.random.key(config.seed)
    members = [(winner.state, encode(winner.hparams)) for winner in winners]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)

    def run(key, stacked, rows, shared):
        key = derive_key(key, EVALUATE, config.num_generations)

        def score(member):
            state, hparams = member
            return mean_score(task, key, state, decode(hparams), rows, shared)

        return jax.lax.map(score, stacked)

    args = (key, stacked, task.data.test, task.shared)
    args = jax.device_put(args, _device_of(population))
    means, errors = jax.device_get(jax.jit(run)(*args))
    return [Score(float(m), float(e)) for m, e in zip(means, errors, strict=True)]


def _device_of(population: Population) -> Any:
    """Finds this process's first device of the kind that a population lies on."""
    fitness = population.fitness
    if not isinstance(fitness, jax.Array):  # it came out of a pickle
        return jax.local_devices()[0]
    platform = next(iter(fitness.sharding.device_set)).platform
    return jax.local_devices(backend=platform)[0]
