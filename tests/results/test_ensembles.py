"""Members together, against NumPy."""

import dataclasses
from dataclasses import dataclass

import flax.linen as linen
import jax
import numpy as np
import optax
import pytest
import tiny_task

import jepbt
from jepbt.results import History

rng = np.random.default_rng(0)
CENTRES = rng.normal(size=(4, 12))
LABELS = np.arange(1_200) % 4
IMAGES = (CENTRES[LABELS] + 1.5 * rng.normal(size=(1_200, 12))).astype(np.float32)
DATA = jepbt.datasets.from_arrays((IMAGES, LABELS), validation=600)


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-3, max=0.3, log=True)


class Normalized(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.Dense(8)(x)
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return linen.Dense(4)(linen.relu(x))


def train(model, strategy="epbt", **settings):
    task = jepbt.classification(
        DATA,
        hparams=Hyper,
        model=model,
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.rate, momentum=0.9),
        batch_size=32,
    )
    settings = {"population_size": 6, "num_generations": 3} | settings
    return jepbt.train_population(
        task,
        strategy=strategy,
        steps_per_generation=20,
        chunk_size=1,
        progress=False,
        **settings,
    )


@pytest.fixture(scope="module")
def result():
    return train(jepbt.models.MLP(num_classes=4, hidden=(8,)))


def predict(params, images):
    first, last = params["dense1"], params["dense2"]
    hidden = np.maximum(images @ first["kernel"] + first["bias"], 0)
    powers = np.exp(hidden @ last["kernel"] + last["bias"])
    return powers / powers.sum(-1, keepdims=True)


def test_an_ensemble_averages_the_best_members_probabilities(result):
    ensemble = result.ensemble(3)
    best = np.argsort(-result.history.fitness[-1], kind="stable")[:3]
    assert ensemble.slots == tuple(best)
    params = jax.device_get(result.population.state.params)
    rows = result.task.data.validation
    mean = np.mean(
        [
            predict(jax.tree.map(lambda leaf: leaf[slot], params), rows["image"])  # noqa: B023
            for slot in best
        ],
        axis=0,
    )
    np.testing.assert_allclose(ensemble.predict(rows["image"]), mean, atol=1e-5)
    correct = mean.argmax(-1) == rows["label"]
    np.testing.assert_allclose(ensemble.mean, correct.mean(), atol=1e-6)
    np.testing.assert_allclose(
        ensemble.standard_error, correct.std() / np.sqrt(600), atol=1e-6
    )


def test_an_average_is_kept_only_if_validation_improves(result):
    average = result.average(6)
    if average is result.final_best:
        return
    assert average.fitness.mean > result.final_best.fitness.mean
    rows = result.task.data.validation
    correct = predict(average.params, rows["image"]).argmax(-1) == rows["label"]
    np.testing.assert_allclose(average.fitness.mean, correct.mean(), atol=1e-6)


def test_members_of_other_founders_are_left_out():
    """Without evolution everyone is a founder: there is nothing to average."""
    result = train(
        jepbt.models.MLP(num_classes=4, hidden=(8,)), strategy="random_search"
    )
    never = result.task.blend._replace(mix=None)
    result.task = dataclasses.replace(result.task, blend=never)
    assert result.average(6) is result.final_best


def test_batch_statistics_of_an_average_fit_its_weights():
    """The statistics that a pass over the training data gives, in NumPy."""
    from jepbt.results import ensembles

    result = train(Normalized())
    history, task = result.history, result.task
    *before, last = history.generations  # made worse, so that any average improves
    worse = {"fitness": last.fitness - 1, "parents": np.zeros_like(last.parents)}
    history = History()  # and of one founder, so that there is something to average
    history.generations += [*before, dataclasses.replace(last, **worse)]
    state = result.population.state
    wrong = jax.tree.map(lambda leaf: 0 * leaf + 50, state.variables)
    population = dataclasses.replace(
        result.population, state=dataclasses.replace(state, variables=wrong)
    )
    state, mean, _ = ensembles.average_weights(task, population, history, 0, 6)
    first = result.history.surviving_founders
    assert len(first) < 6 and mean > 0
    dense = state.params["Dense_0"]
    hidden = task.data.train["image"] @ dense["kernel"] + dense["bias"]
    got = state.variables["batch_stats"]["BatchNorm_0"]
    deviation = hidden.std(0)
    np.testing.assert_allclose(got["mean"], hidden.mean(0), atol=0.3 * deviation.max())
    np.testing.assert_allclose(got["var"], hidden.var(0), rtol=0.35)


def test_what_cannot_be_put_together_says_why(result):
    for k in (0, 7, True, 2.0):
        with pytest.raises(ValueError, match=f"k={k!r} must be .* from 1 to 6"):
            result.ensemble(k)
    bare = tiny_task.train(tiny_task.TASK, 2, 1, 1)
    with pytest.raises(ValueError, match="this task has no `blend`"):
        bare.average()
