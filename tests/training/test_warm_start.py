"""Runs that go on from other runs' weights, in populations of any size."""

from dataclasses import dataclass, make_dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jepbt
from jepbt.strategies import random_search
from jepbt.training import prepare

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(60, 6)).astype(np.float32)
SETTINGS = {
    "num_generations": 1,
    "steps_per_generation": 1,
    "batch_size": 8,
    "progress": False,
    "strategy": random_search(),
}


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=1e-3, max=1.0, log=True)


@dataclass
class Other(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=1e-3, max=1.0, log=True)


def momentum(h):
    return optax.sgd(h.rate, momentum=0.9)


def make_task(hparams=Hyper, hidden=(4,), optimizer=momentum):
    return jepbt.classification(
        (IMAGES, (IMAGES[:, 0] > 0).astype(int)),
        hparams=hparams,
        model=jepbt.models.MLP(num_classes=2, hidden=hidden),
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=optimizer,
    )


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture(scope="module")
def earlier(task):
    return jepbt.train_population(task, population_size=4, **SETTINGS)


def begun(task, num_members, initial):
    """The population that a run begins with."""
    prepared = prepare(task, population_size=num_members, initial=initial, **SETTINGS)
    return jax.device_get(prepared.start(prepared.programs.init(prepared.inputs)))


def test_one_set_of_weights_goes_to_every_member(task, earlier):
    population = begun(task, 4, earlier.best.params).population
    jax.tree.map(
        lambda leaf, given: np.testing.assert_array_equal(leaf, np.stack([given] * 4)),
        population.state.params,
        earlier.best.params,
    )
    assert len(np.unique(population.hparams.rate)) == 4
    momentum = jax.tree.leaves(population.state.opt_state)
    assert not any(np.any(leaf) for leaf in momentum)


@pytest.mark.parametrize("num_members", [2, 4, 8])
def test_a_population_goes_on_the_fittest_first(task, earlier, num_members):
    before = jax.device_get(earlier.population)
    order = np.argsort(-before.fitness, kind="stable")
    population = begun(task, num_members, earlier).population
    source = np.resize(order, num_members)
    jax.tree.map(
        lambda leaf, given: np.testing.assert_array_equal(leaf, given[source]),
        population.state,
        before.state,
    )
    kept = min(num_members, 4)
    np.testing.assert_array_equal(
        population.hparams.rate[:kept], before.hparams.rate[source[:kept]]
    )
    assert len(np.unique(population.hparams.rate)) == num_members


def test_failed_members_do_not_go_on(task, earlier):
    population = jax.device_get(earlier.population)
    fitness = np.array(population.fitness)
    fitness[np.argmax(fitness)] = np.nan
    damaged = replace(earlier, population=replace(population, fitness=fitness))
    first = begun(task, 2, damaged).population
    best = int(np.nanargmax(fitness))
    np.testing.assert_array_equal(first.hparams.rate[0], population.hparams.rate[best])
    dead = replace(earlier, population=replace(population, fitness=np.full(4, np.nan)))
    with pytest.raises(ValueError, match="no member of the earlier run's last"):
        begun(task, 2, dead)


def test_a_run_starts_where_the_weights_were(task, earlier):
    """With a learning rate of nearly nothing, fitness is that of the weights given."""

    @dataclass
    class Frozen(jepbt.HyperParameters):
        rate: float = jepbt.hparam(1e-9, min=1e-10, max=1e-8, log=True)

    result = jepbt.train_population(
        make_task(Frozen), population_size=2, initial=earlier.best.params, **SETTINGS
    )
    np.testing.assert_allclose(
        result.history.fitness[-1], earlier.best.fitness.mean, atol=1e-6
    )


def test_a_cosine_schedule_starts_from_what_was_handed_over(task, earlier):
    cosine = random_search(schedules={"rate": jepbt.strategies.cosine_decay})
    settings = SETTINGS | {"strategy": cosine, "num_generations": 4}
    result = jepbt.train_population(
        task, population_size=4, initial=earlier, **settings
    )
    before = jax.device_get(earlier.population)
    rates = before.hparams.rate[np.argsort(-before.fitness, kind="stable")]
    progress = np.arange(4)[:, None] / 4
    expected = np.maximum(rates * (1 + np.cos(np.pi * progress)) / 2, 1e-3)
    np.testing.assert_allclose(result.history.hparams["rate"], expected, rtol=1e-5)


def test_optax_schedules_go_on_from_a_result_and_start_over_from_weights():
    """One step a generation: the count of steps is the optimizer's state."""

    def optimizer(h):
        decay = optax.cosine_decay_schedule(1.0, 10)
        return optax.chain(optax.sgd(decay), optax.scale(h.rate))

    task = make_task(optimizer=optimizer)
    first = jepbt.train_population(task, population_size=2, **SETTINGS)

    def counts(initial):
        state = begun(task, 2, initial).population.state.opt_state
        leaves = jax.tree.leaves(state)
        return [leaf.tolist() for leaf in leaves if leaf.dtype == np.int32]

    assert counts(first) == [[1, 1]]
    assert counts(first.best.params) == [[0, 0]]


def test_what_does_not_fit_is_named_before_it_compiles(task, earlier):
    with pytest.raises(ValueError, match=r"params: leaf .*\[4\] where .*\[5\]"):
        prepare(make_task(hidden=(5,)), initial=earlier.best.params, **SETTINGS)
    with pytest.raises(ValueError, match="earlier run evolved Hyper, this task Other"):
        prepare(make_task(Other), initial=earlier, **SETTINGS)
    rate = jepbt.hparam(0.1, min=1e-3, max=1.0, log=True)
    fields, bases = [("rate", float, rate)], (jepbt.HyperParameters,)
    again = make_dataclass("Hyper", fields, bases=bases)
    with pytest.raises(ValueError, match=r"Hyper was defined twice.*load\(run_dir"):
        prepare(make_task(again), initial=earlier, **SETTINGS)
    plain = jepbt.Task(
        hparams=Hyper,
        init=lambda key, h: jnp.float32(1.0),
        train_step=lambda key, x, h, batch, shared: (x, {"loss": x}),
        evaluate=lambda key, x, h, batch, shared: x[None],
    )
    with pytest.raises(ValueError, match="without `params`"):
        prepare(plain, initial={"kernel": np.ones(3)}, **SETTINGS)
