"""Each strategy does what its paper says; what all promise is in test_properties."""

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jepbt
from jepbt import strategies
from jepbt.strategies import Evaluation

NAN = float("nan")


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-4, max=1.0, log=True)
    dropout: float = jepbt.hparam(0.1, min=0.0, max=0.6)
    width: int = jepbt.hparam(3, min=1, max=100)
    activation: str = jepbt.hparam("b", choices=("a", "b", "c"))
    loss: jepbt.Loss = jepbt.taylor_hparam(noise=0.5, genome="coefficients")


@functools.cache
def compiled(strategy, num_members):
    @jax.jit
    def run(key, fitness):
        init_key, step_key = jax.random.split(key)
        state, hparams = strategy.init(init_key, Hyper, num_members, 10)
        evaluation = Evaluation(fitness, jnp.zeros_like(fitness))
        _, plan = strategy.step(step_key, state, jnp.int32(1), hparams, evaluation)
        return hparams, plan

    return run


def advance(strategy, fitness, seed=0):
    """One step of a new population with the given fitness."""
    fitness = jnp.asarray(fitness, jnp.float32)
    return compiled(strategy, fitness.size)(jax.random.key(seed), fitness)


def fitnesses(num_members):
    return np.random.default_rng(num_members).permutation(num_members) / 10


@pytest.mark.parametrize("strategy", [strategies.epbt(), strategies.pbt()])
def test_steps_batch_over_runs(strategy):
    """`vmap` over keys equals each run alone."""
    evaluation = Evaluation(jnp.float32(fitnesses(6)), jnp.zeros(6))

    def run(key):
        state, hparams = strategy.init(key, Hyper, 6, 10)
        _, plan = strategy.step(key, state, jnp.int32(1), hparams, evaluation)
        return plan

    keys = jax.random.split(jax.random.key(2), 3)
    together = jax.jit(jax.vmap(run))(keys)
    alone = jax.jit(run)(keys[1])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-6), together, alone
    )


def test_exactly_the_children_are_crossed():
    def mark(key, hparams, is_child):
        return dataclasses.replace(hparams, dropout=jnp.where(is_child, 0.5, 0.25))

    _, plan = advance(strategies.epbt(crossover=mark), [0.1, 0.9, 0.3, 0.8, NAN, 0.2])
    np.testing.assert_array_equal(plan.hparams.dropout[jnp.array([0, 4, 5])], 0.5)

    def count(key, hparams, is_child):
        return dataclasses.replace(hparams, width=jnp.full(6, is_child.sum()))

    _, plan = advance(strategies.epbt(crossover=count), [0.1, 0.9, 0.3, 0.8, NAN, 0.2])
    np.testing.assert_array_equal(plan.hparams.width[jnp.array([0, 4, 5])], 3)


def test_epbt_crosses_by_default():
    """Without mutation, some child mixes the values of two parents."""
    strategy = strategies.epbt(mutate=lambda key, h: h)
    before, plan = advance(strategy, fitnesses(16))
    inherited = np.asarray(before.loss)[np.asarray(plan.parents)]
    assert not np.array_equal(inherited, plan.hparams.loss)


def test_with_fewer_live_members_than_elites_all_live_ones_are_elites():
    _, plan = advance(strategies.epbt(num_elites=3), [NAN, 0.2, NAN, 0.1, NAN, NAN])
    np.testing.assert_array_equal(np.flatnonzero(plan.info["elites"]), [1, 3])
    assert set(np.asarray(plan.parents)) == {1, 3}


def test_children_inherit_before_they_vary():
    """With nothing but inheritance, a child has its parent's hyperparameters."""
    strategy = strategies.epbt(
        mutate=lambda key, h: h, crossover=lambda key, h, is_child: h
    )
    before, plan = advance(strategy, fitnesses(8))
    for old, new in zip(
        jax.tree.leaves(before), jax.tree.leaves(plan.hparams), strict=True
    ):
        np.testing.assert_array_equal(new, np.asarray(old)[np.asarray(plan.parents)])


def test_pbt_explores_only_what_it_copied():
    fitness = [0.1, 0.9, 0.3, 0.4, 0.5]
    before, plan = advance(strategies.pbt(), fitness)
    np.testing.assert_array_equal(plan.parents, [1, 1, 2, 3, 4])
    np.testing.assert_array_equal(plan.hparams.rate[1:], before.rate[1:])
    assert plan.hparams.rate[0] != before.rate[0]
