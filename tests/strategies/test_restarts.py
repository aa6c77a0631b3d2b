"""Iterated PBT's schedule by hand, and what a restart leaves of the weights."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import jepbt
from jepbt import strategies
from jepbt.strategies import Evaluation, Plan, Strategy
from jepbt.tasks import shrink_and_perturb


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=0.01, max=1.0, log=True)


def counting():
    """Counts its steps, and copies slot 0 everywhere."""

    def init(key, hparams_type, num_members, num_generations):
        return jnp.int32(0), Hyper(jnp.full(num_members, 0.5))

    def step(key, state, generation, hparams, evaluation):
        return state + 1, Plan(jnp.zeros(2, jnp.int32), Hyper(hparams.rate * 0.9), {})

    return Strategy(init, step)


def test_intervals_double_when_the_best_stagnates():
    """Patience 2, by hand: evolves at 1 to 4, restarts at 4, then every second one."""
    strategy = strategies.restarts(counting(), patience=2)
    state, hparams = strategy.init(jax.random.key(0), Hyper, 2, 20)
    step = jax.jit(strategy.step)
    tops = [0.1, 0.5, 0.5, 0.4, 0.2, 0.3, 0.9, 0.25, 0.9, 0.2, 0.9, 0.9, 0.1, 0.1]
    events = ""
    for generation, top in enumerate(tops, 1):
        evaluation = Evaluation(jnp.array([top, 0.0]), jnp.zeros(2))
        before = hparams
        state, plan = step(
            jax.random.key(generation),
            state,
            jnp.int32(generation),
            hparams,
            evaluation,
        )
        hparams = plan.hparams
        if plan.fresh.all():
            events += "R"
            np.testing.assert_array_equal(plan.parents, [0, 1])
            assert len(set(hparams.rate.tolist()) & set(before.rate.tolist())) == 0
            assert int(state.strategy) == 0
        elif plan.parents[1] == 0:
            events += "e"
            np.testing.assert_allclose(hparams.rate, before.rate * 0.9, rtol=1e-6)
        else:
            events += "."
            np.testing.assert_array_equal(hparams.rate, before.rate)
    # New bests at 1 and 2; 3 and 4 stagnate. Then the interval is 2: at 6, 0.3 is the
    # round's new best, at 8 and 10 there is none. Then it is 4.
    assert events == "eeeR.e.e.R...e"
    assert int(state.interval) == 4


def test_shrunk_and_perturbed_weights_by_numbers():
    images = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    task = jepbt.regression((images, images[:, 0]))
    again = shrink_and_perturb(task, shrink=0.25, noise=0.5)
    hparams = task.hparams(jnp.float32(0.1), jnp.float32(0.1))
    old = task.init(jax.random.key(1), hparams)
    new = task.init(jax.random.key(2), hparams)
    restarted = again.restart(jax.random.key(2), old, hparams)
    jax.tree.map(
        lambda a, b, c: np.testing.assert_allclose(a, 0.25 * b + 0.5 * c, rtol=1e-6),
        restarted.params,
        old.params,
        new.params,
    )
    jax.tree.map(np.testing.assert_array_equal, restarted.opt_state, new.opt_state)


def test_a_run_restarts_from_what_is_left_of_its_weights():
    """Whole runs: every slot starts over at once, with its own shrunk weight."""
    task = jepbt.Task(
        hparams=Hyper,
        init=lambda key, h: jnp.float32(1.0),
        train_step=lambda key, x, h, batch, shared: (x + 1, {"loss": x}),
        evaluate=lambda key, x, h, batch, shared: jnp.zeros(1),
        restart=lambda key, x, h: x / 2,
    )
    strategy = strategies.restarts(strategies.random_search(), patience=1)
    config = jepbt.Config(population_size=2, num_generations=3, steps_per_generation=1)
    population, _, history = jax.jit(jepbt.make_run(task, strategy, config))(
        jax.random.key(0), None
    )
    np.testing.assert_array_equal(history.info["restarts"].any(1), [0, 0, 1])
    # 1 + 1 = 2; +1 = 3; halved 1.5; +1 = 2.5
    np.testing.assert_allclose(population.state, [2.5, 2.5])
