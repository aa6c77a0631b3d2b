"""Halving by hand, schedules by formula, and what is frozen."""

import dataclasses
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
    rate: float = jepbt.hparam(0.05, min=1e-4, max=1.0, log=True)
    width: int = jepbt.hparam(3, min=1, max=100)
    activation: str = jepbt.hparam("b", choices=("a", "b", "c"))


def evolve(strategy, fitnesses):
    """Steps through given fitnesses; returns hyperparameters and plans by step."""
    num_members = len(fitnesses[0])
    state, hparams = strategy.init(
        jax.random.key(0), Hyper, num_members, len(fitnesses) + 1
    )
    step, seen, plans = jax.jit(strategy.step), [hparams], []
    for generation, fitness in enumerate(fitnesses, 1):
        evaluation = Evaluation(jnp.float32(fitness), jnp.full(num_members, 0.01))
        key = jax.random.fold_in(jax.random.key(1), generation)
        state, plan = step(key, state, jnp.int32(generation), seen[-1], evaluation)
        seen.append(plan.hparams)
        plans.append(plan)
    return seen, plans


def test_cohorts_are_halved_at_doubling_ages():
    """Eight start; four stop at 1; then two of each four, the old at age 2; ..."""
    falling = np.arange(8.0)[::-1]
    _, plans = evolve(strategies.successive_halving(), [falling] * 4)
    stopped = [np.flatnonzero(plan.fresh).tolist() for plan in plans]
    # Generation 3: {4, 5} is 2 old, {2, 3, 6, 7} is 1. Generation 4: {0, 1} is 4 old,
    # {4} alone 3, {2, 3} 2, {5, 6, 7} 1.
    assert stopped == [[4, 5, 6, 7], [2, 3, 6, 7], [5, 6, 7], [1, 3, 6, 7]]
    for plan in plans:
        np.testing.assert_array_equal(plan.parents, np.arange(8))


def test_a_cohort_keeps_at_least_one_and_failed_members_stop():
    _, plans = evolve(strategies.successive_halving(factor=4), [[0.3, 0.1, NAN]])
    np.testing.assert_array_equal(plans[0].fresh, [False, True, True])


def test_schedules_scale_the_first_draw_within_bounds():
    strategy = strategies.random_search(
        schedules={"rate": strategies.cosine_decay, "width": lambda p: 1 - p}
    )
    seen, _ = evolve(strategy, [[0.1, 0.2, 0.3]] * 3)
    drawn = jepbt.hyperparameters.sample_population(jax.random.key(0), Hyper, 3)
    for generation, hparams in enumerate(seen):
        progress = generation / 4
        factor = (1 + np.cos(np.pi * progress)) / 2
        expected = np.clip(np.asarray(drawn.rate) * factor, 1e-4, 1.0)
        np.testing.assert_allclose(hparams.rate, expected, rtol=1e-5)
        whole = np.maximum(np.round(np.asarray(drawn.width) * (1 - progress)), 1)
        np.testing.assert_array_equal(hparams.width, whole)
        np.testing.assert_array_equal(hparams.activation, drawn.activation)


def test_a_factor_of_one_changes_no_large_whole_number():
    hyper = dataclasses.make_dataclass(
        "Large",
        [("seed", int, jepbt.hparam(2**30 + 1, min=2**30, max=2**31 - 2))],
        bases=(jepbt.HyperParameters,),
    )
    strategy = strategies.random_search(schedules={"seed": lambda progress: 1.0})
    _, hparams = strategy.init(jax.random.key(0), hyper, 40, 4)
    drawn = jepbt.hyperparameters.sample_population(jax.random.key(0), hyper, 40)
    np.testing.assert_array_equal(hparams.seed, drawn.seed)
    assert hparams.seed[0] == 2**30 + 1


def test_schedules_scale_what_a_member_started_from():
    """A warm start's values, in generation 0 as they are; the others' first draws."""
    strategy = strategies.random_search(schedules={"rate": strategies.cosine_decay})
    state, drawn = strategy.init(jax.random.key(0), Hyper, 3, 4)
    rate = np.array([0.04, 0.5, drawn.rate[2]], np.float32)
    hparams = dataclasses.replace(drawn, rate=jnp.asarray(rate))
    for generation in (1, 2, 3):
        evaluation = Evaluation(jnp.zeros(3), jnp.zeros(3))
        key = jax.random.key(generation)
        state, plan = strategy.step(key, state, generation, hparams, evaluation)
        hparams = plan.hparams
        factor = (1 + np.cos(np.pi * generation / 4)) / 2
        np.testing.assert_allclose(hparams.rate, rate * factor, rtol=1e-5)


def test_frozen_fields_rest_and_thaw():
    strategy = strategies.frozen(
        strategies.pbt(explore=lambda key, h: Hyper(h.rate / 2, h.width, h.activation)),
        {"rate": (0, 2)},
    )
    seen, plans = evolve(strategy, [[0.1, 0.9], [0.1, 0.9], [0.1, 0.9]])
    np.testing.assert_array_equal(plans[0].parents, [1, 1])
    np.testing.assert_allclose(seen[1].rate[0], seen[0].rate[1])
    np.testing.assert_allclose(seen[2].rate[0], seen[1].rate[1] / 2, rtol=1e-6)


def test_burn_in_replaces_only_the_failed():
    strategy = strategies.pbt(burn_in=2)
    _, plans = evolve(strategy, [[0.1, 0.9, NAN], [0.1, 0.9, 0.5], [0.1, 0.9, 0.5]])
    assert plans[0].parents.tolist()[:2] == [0, 1]
    assert plans[0].parents[2] != 2
    assert plans[1].parents.tolist() == [0, 1, 2]
    assert plans[2].parents.tolist() == [1, 1, 2]


def test_what_a_users_explore_returns_is_brought_into_bounds():
    def wild(key, h):
        return Hyper(h.rate * 1e9, h.width - 1000, h.activation + 7)

    seen, _ = evolve(strategies.pbt(explore=wild), [[0.1, 0.9]])
    after = seen[1]
    assert (after.rate[0], after.width[0], after.activation[0]) == (1.0, 1, 2)


def test_a_copy_takes_over_its_parents_past():
    """Two evaluations a member: the copy's first comparison already has both."""
    strategy = strategies.pbt(exploit=strategies.welch_test(2))
    fitnesses = [[0.1, 0.90], [0.1001, 0.9001]]
    state, hparams = strategy.init(jax.random.key(0), Hyper, 2, 9)
    for generation, fitness in enumerate(fitnesses, 1):
        evaluation = Evaluation(jnp.float32(fitness), jnp.zeros(2))
        state, plan = strategy.step(
            jax.random.key(generation), state, generation, hparams, evaluation
        )
    np.testing.assert_array_equal(plan.parents, [1, 1])
    np.testing.assert_allclose(state[:, 0], [0.9001, 0.9001])
