"""Groups, quarters and migrants of MF-PBT, by hand."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import jepbt
from jepbt import strategies
from jepbt.strategies import Evaluation

NAN = float("nan")


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=1e-6, max=10.0, log=True)


def evolve(fitness, generation, intervals=(1, 2), seed=0):
    strategy = strategies.mf_pbt(
        intervals=intervals, explore=lambda key, h: Hyper(h.rate * 2)
    )
    size = len(fitness)
    state, _ = strategy.init(jax.random.key(0), Hyper, size, 9)
    hparams = Hyper(jnp.arange(1.0, size + 1) / 10)
    evaluation = Evaluation(jnp.float32(fitness), jnp.zeros(size))
    _, plan = strategy.step(
        jax.random.key(seed), state, generation, hparams, evaluation
    )
    rates = np.asarray(plan.hparams.rate, np.float64) * 10
    return plan.parents.tolist(), rates.round(3).tolist()


def test_only_groups_whose_interval_divides_the_generation_evolve():
    """Two groups of four; the last of each copies its first and explores."""
    fitness = [4, 3, 2, 1, 4, 3, 2, 1]
    parents, _ = evolve(fitness, 1)
    assert parents[4:] == [4, 5, 6, 7]
    assert parents[3] == 0
    parents, rates = evolve(fitness, 2)
    assert (parents[3], parents[7]) == (0, 4)
    assert (rates[3], rates[7]) == (1 * 2, 5 * 2)


def test_migrants_bring_hyperparameters_only_from_slower_groups():
    """Third of its group, each takes weights of somebody fitter outside."""
    slow_is_better = [4, 3, 2, 1, 8, 2.5, 1.5, 0.5]
    parents, rates = evolve(slow_is_better, 2)
    assert parents[2] in (4, 5)
    assert rates[2] == (parents[2] + 1) * 2  # the donor's, explored
    assert parents[6] in (0, 1, 2)
    assert rates[6] == 7  # weights only
    for seed in range(5):
        assert evolve(slow_is_better, 2, seed=seed)[0][:2] == [0, 1]


def test_without_anybody_fitter_outside_the_third_quarter_stays():
    parents, rates = evolve([4, 3, 2, 1, 0.4, 0.3, 0.2, 0.1], 1)
    assert (parents[2], rates[2]) == (2, 3)


def test_the_failed_copy_at_once_from_their_group_or_else_from_any():
    parents, _ = evolve([4, 3, 2, 1, NAN, 3, 2, 1], 1)
    assert parents[4] == 5  # though its group is not due
    parents, _ = evolve([4, 3, 2, 1, NAN, NAN, NAN, NAN], 1)
    assert set(parents[4:]) <= {0, 1, 2, 3}
