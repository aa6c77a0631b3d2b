"""Members train with their own hyperparameters, wherever an optimizer keeps them."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

import jepbt
from jepbt.engine.member import trace_member, trace_steps
from jepbt.strategies import pbt, truncation

inject = optax.inject_hyperparams
CONFIG = jepbt.Config(population_size=2, batch_size=4)


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=1e-3, max=0.5, log=True)
    count: int = jepbt.hparam(3, min=1, max=9)


def of_optimizer(optimizer):
    """A task that walks two numbers downhill with any optimizer."""

    def init(key, h):
        params = jax.random.normal(key, (2,))
        return {"params": params, "opt": optimizer(h).init(params)}

    def train_step(key, state, h, batch, shared):
        params, more = state["params"], {"value": jnp.sum(state["params"] ** 2)}
        transformation = optax.with_extra_args_support(optimizer(h))
        updates, opt = transformation.update(2 * params, state["opt"], params, **more)
        return {"params": params + updates, "opt": opt}, {"loss": more["value"]}

    def evaluate(key, state, h, batch, shared):
        return -jnp.sum(state["params"] ** 2)[None]

    return jepbt.Task(Hyper, init, train_step, evaluate)


def of_state(begin, go_on):
    """A task whose state also holds what `begin(key, h)` made and `go_on` changes."""

    def train_step(key, state, h, batch, shared):
        x, kept = state
        return (x - 0.1 * x, go_on(kept, x, h)), {"loss": x}

    return jepbt.Task(
        Hyper,
        lambda key, h: (jax.random.normal(key), begin(key, h)),
        train_step,
        lambda key, state, h, batch, shared: -(state[0] ** 2)[None],
    )


def late(count, h):
    return h.rate / (1.0 + count)


# fmt: off
STATES = {  # by name: a task, and the number of copies that its state holds
    "none": (of_optimizer(lambda h: optax.adam(h.rate)), 0),
    "injected": (of_optimizer(lambda h: inject(optax.adam)(h.rate, b1=h.rate)), 2),
    "in a chain": (of_optimizer(lambda h: optax.chain(
        optax.clip(1.0), inject(optax.add_decayed_weights)(h.rate),
        inject(optax.sgd)(h.rate))), 2),
    "every third step": (of_optimizer(lambda h: optax.MultiSteps(
        inject(optax.sgd)(h.rate), 3).gradient_transformation()), 1),
    "unless not finite": (of_optimizer(
        lambda h: optax.apply_if_finite(inject(optax.sgd)(h.rate), 2)), 1),
    "a schedule reads its own": (of_optimizer(
        lambda h: inject(optax.sgd)(functools.partial(late, h=h))), 0),
    "an estimate": (of_optimizer(
        lambda h: optax.contrib.prodigy(estim_lr0=h.rate)), 0),
    "by hand": (of_state(lambda key, h: h.rate, lambda kept, x, h: kept), 1),
    "a whole number": (of_state(lambda key, h: 2 * h.count, lambda kept, x, h: kept),
                       1),
    "a countdown": (of_state(
        lambda key, h: h.count, lambda kept, x, h: jnp.maximum(kept - 1, 0)), 0),
    "a decay": (of_state(lambda key, h: h.rate, lambda kept, x, h: 0.9 * kept), 0),
    "a draw": (of_state(lambda key, h: h.rate * jax.random.uniform(key),
                        lambda kept, x, h: kept), 0),
}
# fmt: on


@pytest.mark.parametrize("name", STATES)
def test_copies_are_told_from_what_begins_at_a_hyperparameter(name):
    task, num_copies = STATES[name]
    traced = trace_steps(task, CONFIG)
    assert (traced.task is task) == (num_copies == 0)
    state, h = task.init(jax.random.key(0), Hyper(0.1, 3)), Hyper(0.4, 7)
    after, _ = traced.task.train_step(jax.random.key(1), state, h, None, ())
    plain, _ = task.train_step(jax.random.key(1), state, h, None, ())
    born = task.init(jax.random.key(0), h)
    renewed = [
        not np.array_equal(old, new) and np.array_equal(new, own)
        for old, new, own in zip(
            *map(jax.tree.leaves, (plain, after, born)), strict=True
        )
    ]
    assert sum(renewed) == num_copies


def run(task):
    usual = {"population_size": 4, "num_generations": 3, "steps_per_generation": 2}
    usual |= {"devices": jax.devices()[:1], "progress": False}
    return jepbt.train_population(task, strategy=pbt(exploit=truncation(0.5)), **usual)


def test_an_injected_rate_trains_as_the_plain_one_bit_for_bit():
    plain, injected = (
        run(of_optimizer(optimizer))
        for optimizer in (
            lambda h: optax.sgd(h.rate),
            lambda h: inject(optax.sgd)(learning_rate=h.rate),
        )
    )
    assert len(np.unique(plain.history.hparams["rate"])) > 4  # they evolved
    np.testing.assert_array_equal(plain.history.fitness, injected.history.fitness)
    used = injected.population.state["opt"].hyperparams["learning_rate"]
    np.testing.assert_array_equal(used, injected.history.hparams["rate"][-1])


def test_a_whole_run_as_a_function_renews_copies_too():
    task = of_state(lambda key, h: h.rate, lambda kept, x, h: kept)
    settings = {"num_generations": 3, "steps_per_generation": 1}
    config = jepbt.Config(population_size=4, **settings)
    run = jepbt.make_run(task, pbt(exploit=truncation(0.5)), config)
    population, _, _ = jax.jit(run)(jax.random.key(0), None)
    np.testing.assert_array_equal(population.state[1], population.hparams.rate)


def test_an_optimizer_kept_outside_the_states_arrays_is_refused():
    def init(key, h):
        params = {"x": jnp.zeros(2)}
        return TrainState.create(apply_fn=None, params=params, tx=optax.adam(h.rate))

    def train_step(key, state, h, batch, shared):
        return state.apply_gradients(grads=state.params), {"loss": h.rate}

    task = jepbt.Task(Hyper, init, train_step, lambda key, state, *_: state.params["x"])
    with pytest.raises(ValueError, match=r"(?s)train_step reads .*`tx`.*optax\.adam"):
        trace_member(task, pbt(), CONFIG)
