"""Scores members on the test split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jepbt.config import Config
from jepbt.engine.evaluation import mean_score
from jepbt.engine.forks import check_fork
from jepbt.hyperparameters import HyperParameters, decode, encode
from jepbt.population import EVALUATE, Population, PyTree, derive_key
from jepbt.results import Score
from jepbt.tasks import Task


def score_on_test(
    task: Task,
    config: Config,
    members: Sequence[tuple[PyTree, HyperParameters]],
    population: Population,
) -> list[Score]:
    """Scores states with their hyperparameters, where the population was trained."""
    check_fork("test()")
    key = jax.random.key(config.seed)
    encoded = [(state, encode(hparams)) for state, hparams in members]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *encoded)

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
