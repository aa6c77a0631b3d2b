"""Puts trained members together: an ensemble of the best, or a mean of their weights.

A task says how by its `blend`; `jepbt.classification` and `jepbt.regression` have one.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.arguments import check_whole
from jepbt.engine.evaluation import mean_score
from jepbt.engine.forks import check_fork
from jepbt.hyperparameters import decode, to_python
from jepbt.population import (
    EVALUATE,
    Population,
    PyTree,
    count_rows,
    derive_key,
    take,
)
from jepbt.results.history import History
from jepbt.results.pickled import AbsentTask, to_host
from jepbt.results.predictions import predict
from jepbt.tasks import Task

# After them a running mean of momentum 0.99 keeps 0.7 % of its first value.
_ADAPTATION_STEPS = 500


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Members of a last generation that predict together.

    Attributes:
        slots: the members' slots, best first.
        mean: the score of their averaged predictions on validation data.
        standard_error: the standard error of that score.
        members: their states and hyperparameters, leaves `[k, ...]`.
        task: the task that they were trained on.
    """

    slots: tuple[int, ...]
    mean: float
    standard_error: float
    members: Any = dataclasses.field(repr=False)
    task: Task = dataclasses.field(repr=False)

    def __getstate__(self) -> dict[str, Any]:
        states, hparams = self.members
        members = to_host(states), jax.device_get(hparams)
        return vars(self) | {"members": members, "task": AbsentTask(self.task)}

    def __copy__(self) -> Ensemble:
        return dataclasses.replace(self)

    def __deepcopy__(self, memo: Any) -> Ensemble:
        return dataclasses.replace(self, members=copy.deepcopy(self.members, memo))

    def predict(self, inputs: Any) -> np.ndarray:
        """Averages the members' predictions for raw inputs: see `Result.predict`.

        Args:
            inputs: examples `[N, ...]`, of the data's shape and dtype.

        Returns:
            Probabilities `f32[N, C]` for a classification; `f32[N, D]`, or `f32[N]`,
            for a regression.

        Raises:
            ValueError: if the inputs are unlike the data, or the task has no
                `inference`; before anything compiles.
        """
        members = [take(self.members, place) for place in range(len(self.slots))]
        predicted = [
            predict(self.task, state, to_python(hparams), inputs)
            for state, hparams in members
        ]
        return np.mean(predicted, 0)


def make_ensemble(
    task: Task, population: Population, history: History, seed: int, k: int
) -> Ensemble:
    """Makes an ensemble of the `k` best live members of the last generation."""
    slots = _best_slots(task, history, k)
    members = _take(population, slots)

    def evaluate(key, members, hparams, batch, shared):
        return task.blend.score(_predict(task, key, members, batch), batch)

    # The members are the state of one member of this task.
    together = dataclasses.replace(task, evaluate=evaluate)
    mean, error = _validate(together, history, seed, members, None)
    return Ensemble(tuple(slots), mean, error, members, task)


def average_weights(
    task: Task, population: Population, history: History, seed: int, k: int
) -> tuple[PyTree, float, float] | None:
    """Averages the weights of the best members that descend from one founder.

    Members of different founders have little in common, and the mean of their weights
    would be a bad network: of the best `k` members only relatives of the best one are
    taken. Batch statistics are estimated anew from training data. Returns the state,
    its validation score and standard error; `None` if that is not better than the best
    member of the last generation.
    """
    slots = _best_slots(task, history, k)
    founders = history.founders[-1]
    slots = [slot for slot in slots if founders[slot] == founders[slots[0]]]
    if len(slots) < 2:
        return None
    states, hparams = _take(population, slots)
    values = decode(take(hparams, 0))
    state = _adapt(task, jax.random.key(seed), task.blend.mix(states), values)
    mean, error = _validate(task, history, seed, state, values)
    if not mean > history.fitness[-1, slots[0]]:
        return None
    return jax.device_get(state), mean, error


def _best_slots(task: Task, history: History, k: int) -> list[int]:
    check_fork("ensemble() or average()")
    if task.blend is None or task.data is None:
        raise ValueError(
            "this task has no `blend`: it does not say how its members' predictions "
            "are averaged. jepbt.classification's and jepbt.regression's do."
        )
    fitness = history.fitness[-1]
    ranked = np.argsort(-fitness, kind="stable")[: np.isfinite(fitness).sum()]
    note = ", the members of the last generation that live"
    check_whole("", "k", k, 1, len(ranked), note)
    return ranked[:k].tolist()


def _take(population: Population, slots: list[int]) -> tuple[PyTree, PyTree]:
    chosen = population.state, population.hparams
    return jax.device_get(take(chosen, np.array(slots)))


def _predict(task: Task, key: jax.Array, members: Any, batch: PyTree) -> jax.Array:
    def predict(member):
        state, hparams = member
        return task.blend.predict(key, state, decode(hparams), batch)

    # One member after another: their activations need not fit into memory together.
    return jax.lax.map(predict, jax.tree.map(jnp.asarray, members)).mean(0)


def _validate(
    task: Task, history: History, seed: int, state: PyTree, values: Any
) -> tuple[float, float]:
    """Scores a state with the key that the last generation was scored with."""
    key = derive_key(jax.random.key(seed), EVALUATE, len(history) - 1)
    rows = jax.tree.map(jnp.asarray, task.data.validation)
    mean, error = mean_score(task, key, state, values, rows, task.shared)
    return float(mean), float(error)


def _adapt(task: Task, key: jax.Array, state: PyTree, values: PyTree) -> PyTree:
    """Lets running statistics follow new weights, over batches drawn at random."""
    rows = jax.tree.map(jnp.asarray, task.data.train)
    num_rows = count_rows(rows)
    shape = _ADAPTATION_STEPS, min(task.batch_size, num_rows)
    indices = np.random.default_rng(0).integers(num_rows, size=shape)

    def step(state, numbered):
        number, chosen = numbered
        step_key = jax.random.fold_in(key, number)
        return task.blend.adapt(step_key, state, values, take(rows, chosen)), None

    state, _ = jax.lax.scan(step, state, (jnp.arange(_ADAPTATION_STEPS), indices))
    return state
