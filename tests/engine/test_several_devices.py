"""Novelty, distillation and warm starts on four devices equal those on one."""

from dataclasses import dataclass

import jax
import numpy as np
import optax
import pytest

import jepbt
from jepbt import strategies
from jepbt.engine import make_inputs, make_mesh, make_phases
from jepbt.training import prepare

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(60, 6)).astype(np.float32)
LABELS = (IMAGES[:, 0] > 0).astype(np.int32) + (IMAGES[:, 1] > 1)


pytestmark = [pytest.mark.slow, pytest.mark.devices(4)]


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=1e-3, max=1.0, log=True)
    layers: tuple[float, ...] = jepbt.hparam((0.5, 0.5), min=0.1, max=1.0)


def make_task(distillation=None):
    return jepbt.classification(
        (IMAGES, LABELS),
        hparams=Hyper,
        model=jepbt.models.MLP(num_classes=3, hidden=(5,)),
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.rate * h.layers[0], momentum=0.9),
        distillation=distillation,
    )


def final_state(task, strategy, mesh):
    config = jepbt.Config(
        population_size=8, num_generations=3, steps_per_generation=4, batch_size=8
    )
    phases = make_phases(task, strategy, config, mesh=mesh)
    inputs = make_inputs(jax.random.key(0), task.data, task.shared)

    @jax.jit
    def run(inputs):
        state = phases.init(inputs)
        for generation in range(3):
            if generation:
                state, _ = phases.evolve(inputs, generation, state)
            state, metrics = phases.train(inputs, generation, state)
            state = phases.evaluate(inputs, generation, metrics, state)
        return state

    return run(inputs)


@pytest.mark.parametrize("metric", ["correctness", "probabilities"])
def test_novelty_and_a_teacher_do_not_depend_on_the_devices(metric):
    task = make_task(jepbt.distillation(teacher="elites", weight=0.5))
    novelty = strategies.pulsation(period=1, metric=metric, num_examples=5)
    strategy = strategies.epbt(novelty=novelty)
    alone, shared = (
        final_state(task, strategy, mesh)
        for mesh in (None, make_mesh(jax.devices()[:4]))
    )
    leaf = jax.tree.leaves(shared.population.state)[0]
    assert len(leaf.sharding.device_set) == 4
    assert alone.evaluation.behaviour.shape[0] == 8
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        alone,
        shared,
    )


@pytest.mark.parametrize("from_weights", [True, False])
def test_a_warm_start_does_not_depend_on_the_devices(from_weights, earlier):
    initial = earlier.best.params if from_weights else earlier
    begun = []
    for devices in (jax.devices()[:1], jax.devices()[:4]):
        prepared = prepare(
            earlier.task, population_size=8, initial=initial, devices=devices, **SMALL
        )
        state = prepared.start(prepared.programs.init(prepared.inputs))
        leaf = jax.tree.leaves(state.population.state)[0]
        assert len(leaf.sharding.device_set) == len(devices)
        begun.append(jax.device_get(state.population))
    jax.tree.map(np.testing.assert_array_equal, *begun)


SMALL = {
    "num_generations": 1,
    "steps_per_generation": 1,
    "batch_size": 8,
    "progress": False,
}


@pytest.fixture(scope="module")
def earlier():
    return jepbt.train_population(
        make_task(), population_size=4, devices=jax.devices()[:1], **SMALL
    )
