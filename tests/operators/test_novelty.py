"""Novelty selection against its description, written out in plain Python."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jepbt
from jepbt import strategies
from jepbt.operators import spread_out
from jepbt.strategies import Behaviour, Evaluation, pulsation

NAN = float("nan")


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-4, max=1.0, log=True)


@dataclass
class WithLoss(jepbt.HyperParameters):
    loss: jepbt.Loss = jepbt.taylor_hparam(noise=1.0)


def described(fitness, behaviour, num_survivors, pool_size):
    """The description, step by step, with lists."""
    slots = [i for i in range(len(fitness)) if not np.isnan(fitness[i])]
    pool = sorted(slots, key=lambda i: -fitness[i])[:pool_size]

    def distance(a, b):
        value = np.sqrt(((behaviour[a] - behaviour[b]) ** 2).sum())
        return 0.0 if np.isnan(value) else value

    total = {i: sum(distance(i, j) for j in pool) for i in pool}
    first, rest = pool[0], sorted(pool[1:], key=lambda i: -total[i])
    chosen, left = rest[: num_survivors - 1], rest[num_survivors - 1 :]
    for newcomer in left:
        group = [*chosen, newcomer]
        pairs = [(a, b) for i, a in enumerate(group) for b in group[i + 1 :]]
        if not pairs:
            break
        a, b = min(pairs, key=lambda pair: distance(*pair))
        group.remove(a if total[a] < total[b] else b)
        chosen = group
    return sorted([first, *chosen])


@pytest.mark.parametrize("num_survivors", [1, 2, 4])
def test_survivors_are_those_of_the_description(num_survivors):
    select = jax.jit(spread_out, static_argnums=(2, 3))
    changed = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        fitness = random.permutation(10).astype(np.float32)
        behaviour = random.normal(size=(10, 3)).astype(np.float32)
        if seed % 2:
            fitness[random.integers(10)] = np.nan
        survivors = np.flatnonzero(select(fitness, behaviour, num_survivors, 7))
        np.testing.assert_array_equal(
            survivors, described(fitness, behaviour, num_survivors, 7)
        )
        fittest = np.argsort(-np.nan_to_num(fitness, nan=-1))[:num_survivors]
        changed += sorted(survivors) != sorted(fittest)
    assert changed > 20 or num_survivors == 1


def test_with_fewer_live_members_than_places_all_of_them_survive():
    fitness = jnp.array([NAN, 0.2, NAN, 0.1])
    survivors = spread_out(fitness, jnp.eye(4), 3, 4)
    np.testing.assert_array_equal(survivors, [False, True, False, True])


def test_equal_members_survive_by_rank():
    survivors = spread_out(jnp.full(6, 0.5), jnp.ones((6, 2)), 3, 5)
    assert int(survivors.sum()) == 3
    assert bool(survivors[0])


def elites(strategy, generation, evaluation, hyper=Hyper):
    size = evaluation.fitness.size
    state, hparams = strategy.init(jax.random.key(0), hyper, size, 9)
    key = jax.random.key(1)
    _, plan = jax.jit(strategy.step)(
        key, state, jnp.int32(generation), hparams, evaluation
    )
    return np.flatnonzero(plan.info["elites"])


def test_novelty_counts_only_when_the_period_divides_the_generation():
    strategy = strategies.epbt(num_elites=2, novelty=pulsation(period=3))
    behaviour = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    evaluation = Evaluation(jnp.array([0.9, 0.8, 0.7, 0.6]), jnp.zeros(4), behaviour)
    found = [elites(strategy, g, evaluation).tolist() for g in (1, 2, 3, 4, 6)]
    assert found == [[0, 1], [0, 1], [0, 2], [0, 1], [0, 2]]


def test_losses_can_be_compared_without_an_evaluation():
    strategy = strategies.epbt(
        num_elites=2, novelty=pulsation(period=1, pool=2.0, metric="loss")
    )
    assert strategy.behaviour is None
    evaluation = Evaluation(jnp.array([0.9, 0.8, 0.7, 0.6]), jnp.zeros(4))
    assert 0 in elites(strategy, 1, evaluation, WithLoss)


def test_strategies_ask_for_what_their_metric_needs():
    asked = [
        strategies.epbt(novelty=pulsation(metric=m, num_examples=7)).behaviour
        for m in ("correctness", "probabilities")
    ]
    assert asked == [Behaviour("correctness", 7), Behaviour("probabilities", 7)]
    assert strategies.epbt().behaviour is None


def test_behaviour_is_needed():
    strategy = strategies.epbt(novelty=pulsation())
    with pytest.raises(ValueError, match=r"needs Evaluation\.behaviour"):
        elites(strategy, 1, Evaluation(jnp.ones(4), jnp.zeros(4)))
