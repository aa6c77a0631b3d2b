"""Winners together: an ensemble of the best members, and a mean of their weights."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.engine.evaluation import EVALUATION_BATCH, mean_score
from jepbt.hyperparameters import decode
from jepbt.population import EVALUATE, Population, PyTree, derive_key
from jepbt.results import lineage
from jepbt.results.history import History
from jepbt.tasks import Task

_ADAPTATION_STEPS = 500
"""After so many, a running mean of momentum 0.99 keeps 0.7 % of what it began with."""


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Members of a last generation that predict together.

    Attributes:
        slots: of the members, best first.
        mean: their common score on validation data, from averaged predictions.
        standard_error: of the mean.
        members: states and hyperparameters, leaves `[k, ...]`.
        task: what they were trained on.
    """

    slots: tuple[int, ...]
    mean: float
    standard_error: float
    members: Any = dataclasses.field(repr=False)
    task: Task = dataclasses.field(repr=False)

    def predict(self, batch: PyTree) -> jax.Array:
        """Averages the members' predictions: of a classification, probabilities.

        Args:
            batch: rows like those of the task's data.

        Returns:
            `f32[B, C]`.
        """
        return _predict(self.task, jax.random.key(0), self.members, batch)


def make_ensemble(
    task: Task, population: Population, history: History, seed: int, k: int
) -> Ensemble:
    """Puts the `k` best live members of the last generation together.

    Args:
        task: with a `blend`.
        population: the last.
        history: of the run.
        seed: of the run.
        k: how many.

    Returns:
        The ensemble, scored on the validation split.

    Raises:
        ValueError: if the task cannot do it, or `k` is not from 1 to the live members.
    """
    slots = _best_slots(task, history, k)
    members = _take(population, slots)
    key = derive_key(jax.random.key(seed), EVALUATE, len(history) - 1)
    scores = []
    for batch in _batches(task.data.validation):
        averaged = _predict(task, key, members, batch)
        scores.append(np.asarray(task.blend.score(averaged, batch), np.float32))
    scores = np.concatenate(scores)
    error = float(scores.std() / math.sqrt(scores.size))
    return Ensemble(tuple(slots), float(scores.mean()), error, members, task)


def average_weights(
    task: Task, population: Population, history: History, seed: int, k: int
) -> tuple[PyTree, float, float] | None:
    """Averages the weights of the best members that descend from one founder.

    Members of different founders lie in different valleys, and their mean in neither:
    only relatives of the best are taken. What is no weight, such as batch statistics,
    is estimated anew from training data.

    Args:
        task: with a `blend`.
        population: the last.
        history: of the run.
        seed: of the run.
        k: how many, from the best downwards; relatives beyond the first `k` members
            are left out.

    Returns:
        State, validation score and its standard error; `None` if that does not beat the
        best member of the last generation.

    Raises:
        ValueError: if the task cannot do it, or `k` is not from 1 to the live members.
    """
    slots = _best_slots(task, history, k)
    first = lineage.founders(history.parents, history.fresh)[-1]
    slots = [slot for slot in slots if first[slot] == first[slots[0]]]
    if len(slots) < 2:
        return None
    states, hparams = _take(population, slots)
    values = jax.tree.map(lambda leaf: leaf[0], hparams)
    run_key = jax.random.key(seed)
    state = _adapt(task, run_key, task.blend.mix(states), decode(values))
    key = derive_key(run_key, EVALUATE, len(history) - 1)
    rows = jax.tree.map(jnp.asarray, task.data.validation)
    mean, error = mean_score(task, key, state, decode(values), rows, task.shared)
    if not float(mean) > history.fitness[-1, slots[0]]:
        return None
    return jax.device_get(state), float(mean), float(error)


def _best_slots(task: Task, history: History, k: int) -> list[int]:
    if task.blend is None or task.data is None:
        raise ValueError(
            "this task has no `blend`: it does not say how its members' predictions "
            "are averaged. jepbt.classification's and jepbt.regression's do."
        )
    fitness = history.fitness[-1]
    ranked = np.argsort(-fitness, kind="stable")[: np.isfinite(fitness).sum()]
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(ranked):
        raise ValueError(
            f"k={k!r} must be a whole number from 1 to {len(ranked)}, the members of "
            "the last generation that live."
        )
    return ranked[:k].tolist()


def _take(population: Population, slots: Sequence[int]) -> tuple[PyTree, PyTree]:
    chosen = population.state, population.hparams
    return jax.device_get(jax.tree.map(lambda leaf: leaf[np.array(slots)], chosen))


def _predict(task: Task, key: jax.Array, members: Any, batch: PyTree) -> jax.Array:
    def predict(member):
        state, hparams = member
        return task.blend.predict(key, state, decode(hparams), batch)

    return jax.lax.map(predict, jax.tree.map(jnp.asarray, members)).mean(0)


def _adapt(task: Task, key: jax.Array, state: PyTree, values: PyTree) -> PyTree:
    rows = task.data.train
    num_rows = len(jax.tree.leaves(rows)[0])
    rng = np.random.default_rng(0)
    size = min(task.batch_size, num_rows)
    indices = rng.integers(num_rows, size=(_ADAPTATION_STEPS, size))
    rows = jax.tree.map(jnp.asarray, rows)

    def step(state, numbered):
        number, chosen = numbered
        batch = jax.tree.map(lambda leaf: leaf[chosen], rows)
        step_key = jax.random.fold_in(key, number)
        return task.blend.adapt(step_key, state, values, batch), None

    state, _ = jax.lax.scan(step, state, (jnp.arange(_ADAPTATION_STEPS), indices))
    return state


def _batches(rows: PyTree):
    num_rows = len(jax.tree.leaves(rows)[0])
    for start in range(0, num_rows, EVALUATION_BATCH):
        stop = start + EVALUATION_BATCH
        yield jax.tree.map(operator.itemgetter(slice(start, stop)), rows)
