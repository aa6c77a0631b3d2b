"""Distillation against two networks written out by hand; off, it leaves no trace."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numerics import softmax

import jepbt
from jepbt.engine import make_inputs, make_phases
from jepbt.population import Member
from jepbt.strategies import epbt

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(60, 6)).astype(np.float32)
LABELS = (IMAGES[:, 0] > 0).astype(np.int32) + (IMAGES[:, 1] > 1)


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=1e-3, max=1.0, log=True)


def make_task(distillation=None):
    return jepbt.classification(
        (IMAGES, LABELS),
        hparams=Hyper,
        model=jepbt.models.MLP(num_classes=3, hidden=(5,)),
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.rate),
        distillation=distillation,
    )


def forward(params, images):
    first, second = params["dense1"], params["dense2"]
    hidden = jax.nn.relu(images @ first["kernel"] + first["bias"][None])
    return hidden @ second["kernel"] + second["bias"][None]


def population_of(task, fitness):
    size = len(fitness)
    hparams = Hyper(jnp.full(size, 0.2))
    keys = jax.random.split(jax.random.key(3), size)
    return Member(jax.vmap(task.init)(keys, hparams), hparams, jnp.float32(fitness))


def member(population, slot):
    return jax.tree.map(lambda leaf: leaf[slot], population)


def batches():
    """One step of eight examples."""
    rows = np.arange(8)[None]
    return {"image": IMAGES[rows], "label": LABELS[rows]}


@pytest.mark.parametrize(("teacher", "taught_by"), [("best", [2]), ("elites", [2, 0])])
def test_a_step_equals_two_networks_by_hand(teacher, taught_by):
    """Own loss and distance from the teacher, mixed; plain SGD in plain jax."""
    weight, temperature = 0.3, 2.5
    settings = jepbt.distillation(
        weight=weight, temperature=temperature, teacher=teacher
    )
    task = make_task(settings)
    population = population_of(task, [0.5, np.nan, 0.9, 0.1])
    lesson = task.prepare(jax.random.key(0), population, batches(), ())
    soft = np.mean(
        [
            softmax(
                np.asarray(forward(member(population, slot).state.params, IMAGES[:8]))
                / temperature
            )
            for slot in taught_by
        ],
        0,
    )
    np.testing.assert_allclose(lesson.targets[0], soft, rtol=1e-5)

    student = member(population, 3)
    first = jax.tree.map(lambda leaf: leaf[0], (batches(), lesson))
    after, metrics = task.train_step(
        jax.random.key(1), student.state, student.hparams, first, ()
    )

    def objective(params):
        logits = forward(params, IMAGES[:8])
        own = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS[:8])
        log_probs = jax.nn.log_softmax(logits / temperature)
        distance = -(soft * log_probs).sum(-1)
        mixed = (1 - weight) * own + weight * temperature**2 * distance
        return mixed.mean()

    value, gradients = jax.value_and_grad(objective)(student.state.params)
    expected = jax.tree.map(lambda p, g: p - 0.2 * g, student.state.params, gradients)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params, expected
    )


def test_nobody_teaches_before_anybody_was_evaluated():
    task = make_task(jepbt.distillation(weight=0.5))
    population = population_of(task, [np.nan] * 3)
    lesson = task.prepare(jax.random.key(0), population, batches(), ())
    np.testing.assert_array_equal(lesson.weight, [0.0])
    assert np.isfinite(lesson.targets).all()


def lowered(task, strategy):
    config = jepbt.Config(
        population_size=4, num_generations=3, steps_per_generation=2, batch_size=8
    )
    run = jepbt.make_run(task, strategy, config)
    return jax.jit(run).lower(jax.random.key(0), task.data).as_text()


def test_switched_off_the_program_is_the_same():
    """Weight 0, novelty and behaviours that nobody asks for: not one operation."""
    plain = make_task()
    without = dataclasses.replace(plain, behaviour=None)
    expected = lowered(without, epbt())
    assert lowered(make_task(jepbt.distillation(weight=0.0)), epbt()) == expected
    assert lowered(plain, epbt(novelty=None)) == expected
    assert lowered(make_task(jepbt.distillation(weight=0.1)), epbt()) != expected


def test_the_teacher_is_who_was_best_where_it_still_stands():
    """The engine shows `prepare` the fitness of members, not of their children."""
    seen = []
    task = make_task()

    def prepare(key, population, batches, shared):
        jax.debug.callback(lambda f: seen.append(np.asarray(f)), population.fitness)
        return jnp.zeros(batches["label"].shape[0])

    def train_step(key, state, hparams, batch, shared):
        return task.train_step(key, state, hparams, batch[0], shared)

    watched = dataclasses.replace(task, prepare=prepare, train_step=train_step)
    config = jepbt.Config(
        population_size=4, num_generations=3, steps_per_generation=2, batch_size=8
    )
    phases = make_phases(watched, epbt(), config)
    data = jax.tree.map(jnp.asarray, task.data)
    inputs = make_inputs(jax.random.key(0), data, ())
    state = phases.init(inputs)
    state, metrics = phases.train(inputs, 0, state)
    state = phases.evaluate(inputs, 0, metrics, state)
    before = np.asarray(state.evaluation.fitness)
    state, plan = phases.evolve(inputs, 1, state)
    phases.train(inputs, 1, state)
    jax.effects_barrier()
    assert np.isnan(seen[0]).all()
    elites = np.asarray(plan.info["elites"])
    np.testing.assert_array_equal(seen[1][elites], before[elites])
    others = seen[1][~elites]
    assert (np.isnan(others) | (others == before[~elites])).all()
