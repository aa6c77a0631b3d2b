"""The winner predicts, and comes back as the user's own model, of whatever kind."""

import dataclasses
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from resumable import make_task as make_resumable_task
from resumable import train as train_resumable

import jepbt

generator = np.random.default_rng(0)
PIXELS = generator.integers(0, 256, (330, 3, 3, 1), dtype=np.uint8)
LABELS = (PIXELS[:, 0, 0, 0] > 127).astype(int) + (PIXELS[:, 1, 1, 0] > 127)


@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=0.01, max=0.5, log=True)
    activation: str = jepbt.hparam("relu", choices=("relu", "tanh"))


class NnxNet(nnx.Module):
    """Batch norm and dropout: two things that differ between training and use."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(9, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, images):
        x = self.hidden(images.reshape(len(images), -1))
        return self.head(self.dropout(nnx.relu(self.norm(x))))


class LinenNet(linen.Module):
    """Its activation evolves; it keeps statistics, and drops in training."""

    @linen.compact
    def __call__(self, images, *, hparams, train):
        x = linen.Dense(8)(images.reshape(len(images), -1))
        x = linen.BatchNorm(momentum=0.5, use_running_average=not train)(x)
        functions = {"relu": linen.relu, "tanh": jnp.tanh}
        x = jepbt.choose(hparams.activation, functions)(x)
        return linen.Dense(3)(linen.Dropout(0.3, deterministic=not train)(x))


def pair():
    def init(key, images):
        return {"w": 0.1 * jax.random.normal(key, (9, 3))}, {"calls": jnp.zeros(())}

    def apply(key, params, variables, hparams, images, *, train):
        functions = {"relu": lambda x: x, "tanh": jnp.tanh}
        x = images.reshape(len(images), -1) @ params["w"]
        calls = {"calls": variables["calls"] + train}
        return jepbt.choose(hparams.activation, functions)(x), calls

    return init, apply


KINDS = {"nnx": NnxNet, "linen": LinenNet(), "pair": pair()}


@functools.cache
def train(kind):
    task = jepbt.classification(
        (PIXELS, LABELS),
        hparams=Hyper,
        model=KINDS[kind],
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.rate),
        batch_size=32,
    )
    return jepbt.train_population(
        task,
        population_size=4,
        num_generations=2,
        steps_per_generation=20,
        chunk_size=1,
        progress=False,
    )


@pytest.fixture(scope="module", autouse=True)
def _flax_promotes_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module", params=KINDS)
def trained(request):
    return request.param, train(request.param)


def standardise(result, pixels):
    """By hand: the training split's mean and deviation, in float64."""
    seen = result.task.data.train["image"].astype(float)
    return (pixels - seen.mean()) / seen.std()


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_predictions_are_what_the_fitness_was_measured_on(trained):
    _, result = trained
    split = result.task.data.validation
    ensemble = result.ensemble(2)
    scores = result.best.fitness.mean, ensemble.mean
    for member, score in zip((result, ensemble), scores, strict=True):
        predicted = member.predict(split["image"])
        assert predicted.shape == (33, 3) and predicted.dtype == np.float32
        np.testing.assert_allclose(predicted.sum(-1), 1, rtol=1e-5)
        accuracy = (predicted.argmax(-1) == split["label"]).mean()
        np.testing.assert_allclose(accuracy, score, rtol=1e-6)
        assert accuracy > 0.4  # of three classes: it has learned


def test_the_model_is_the_users_own_with_weights_and_statistics(trained):
    kind, result = trained
    best, model = result.best, result.best.model
    inputs = jnp.float32(standardise(result, PIXELS[:7]))
    np.testing.assert_allclose(best.preprocess(PIXELS[:7]), inputs, atol=1e-5)
    if kind == "nnx":
        assert type(model) is NnxNet
        logits = model(inputs)
        mean = model.norm.mean[...]
        np.testing.assert_array_equal(mean, best.state.variables["norm"]["mean"])
        assert np.abs(mean).max() > 0.01  # it followed the data
    elif kind == "linen":
        assert type(model) is LinenNet
        logits = model(inputs, hparams=best.hparams, train=False)
        other = {"relu": "tanh", "tanh": "relu"}[best.hparams.activation]
        others = dataclasses.replace(best.hparams, activation=other)
        changed = model(inputs, hparams=others, train=False)
        assert np.abs(changed - logits).max() > 1e-3
    else:
        logits = model(inputs)
        x = np.asarray(inputs).reshape(7, 9) @ best.params["w"]
        expected = np.tanh(x) if best.hparams.activation == "tanh" else x
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    expected = softmax(np.asarray(logits, float))
    np.testing.assert_allclose(result.predict(PIXELS[:7]), expected, atol=1e-5)


def test_any_number_of_rows_is_predicted_row_by_row(trained):
    _, result = trained
    everything = np.concatenate([PIXELS, PIXELS])
    whole = result.predict(everything)
    for count in (1, 3, 256, 257, 600):
        part = result.predict(everything[:count])
        np.testing.assert_allclose(part, whole[:count], atol=1e-6)


def test_a_nnx_winner_trains_on_as_any_module():
    model = train("nnx").best.model
    before = np.array(model.head.bias[...])
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    def objective(model):
        return jnp.mean(model(jnp.ones((4, 3, 3, 1))) ** 2)

    optimizer.update(model, nnx.grad(objective)(model))
    assert np.abs(model.head.bias[...] - before).max() > 1e-6


@pytest.mark.parametrize("num_targets", [None, 2])
def test_a_regression_predicts_in_the_shape_and_units_of_its_targets(num_targets):
    inputs = generator.normal(size=(100, 4))
    targets = 100 + 10 * inputs[:, 0]
    if num_targets is not None:
        targets = np.stack([targets] * num_targets, 1)
    task = jepbt.regression((inputs, targets))
    result = jepbt.train_population(
        task,
        population_size=2,
        num_generations=1,
        steps_per_generation=5,
        progress=False,
    )
    split = task.data.validation
    ensemble = result.ensemble(2)
    scores = result.best.fitness.mean, ensemble.mean
    for member, score in zip((result, ensemble), scores, strict=True):
        predicted = member.predict(split["input"])
        assert predicted.shape == (10, *targets.shape[1:])
        errors = predicted.reshape(10, -1) - split["target"]
        np.testing.assert_allclose(-np.mean(errors**2), score, rtol=1e-5)


@pytest.fixture(scope="module")
def on_vectors():
    return train_resumable(population_size=4, num_generations=2)


def test_a_winner_is_written_by_the_shapes_of_its_weights(on_vectors):
    best = on_vectors.best
    for winner in (best, pickle.loads(pickle.dumps(best))):
        text = repr(winner)
        assert text.startswith(f"Winner(hparams={best.hparams}, fitness=Score(mean=")
        assert "'kernel': float32[6, 8]" in text and len(text) < 1000


def refuse(*_):
    raise AssertionError("something was computed")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (
            np.zeros((5, 7)),
            "dtype float32 and shape (5, 7), and the network was trained",
        ),
        (np.zeros(6), "allowed are [N, D]"),
        (np.zeros((0, 6)), "inputs has shape (0, 6)"),
        (np.zeros((5, 6), int), "dtype int32 and shape (5, 6), and the network was"),
        (np.full((5, 6), np.nan), "inputs has 30 values like nan"),
        (np.array([["a"] * 6]), "holds texts"),
        ([[1.0], [2.0, 3.0]], "different shapes"),
        (None, "predict: inputs"),
    ],
)
def test_inputs_unlike_the_data_are_refused_before_anything_compiles(
    on_vectors, inputs, said
):
    task = on_vectors.task
    use = task.inference._replace(predict=refuse)
    best = dataclasses.replace(
        on_vectors.best, task=dataclasses.replace(task, inference=use)
    )
    ensemble = dataclasses.replace(on_vectors.ensemble(2), task=best.task)
    for function in (best.predict, best.preprocess, ensemble.predict):
        with pytest.raises(ValueError) as error:
            function(inputs)
        assert said in str(error.value) and "\n" not in str(error.value)


def test_one_example_is_told_from_a_batch():
    result = train("nnx")
    with pytest.raises(ValueError, match=r"pass one example as inputs\[None\]"):
        result.predict(PIXELS[0])
    with pytest.raises(ValueError, match=r"trained on uint8\[N, 3, 3, 1\]"):
        result.predict(PIXELS[:4].astype(np.float32))
    assert result.predict(PIXELS[:4, ..., 0]).shape == (4, 3)  # as from_arrays takes it


def test_a_task_that_does_not_say_how_to_predict_says_so(on_vectors):
    bare = dataclasses.replace(on_vectors.task, inference=None)
    best = dataclasses.replace(on_vectors.best, task=bare)
    ensemble = dataclasses.replace(on_vectors.ensemble(2), task=bare)
    inputs = np.zeros((1, 6))
    for use in (
        lambda: best.model,
        lambda: best.predict(inputs),
        lambda: ensemble.predict(inputs),
    ):
        with pytest.raises(ValueError, match="its `inference` is None"):
            use()


def test_a_replayed_network_is_a_model_too(on_vectors):
    task = make_resumable_task()
    again = jepbt.replay(task, on_vectors, progress=False)
    inputs = task.data.validation["image"]
    predicted = again.final_best.predict(inputs)
    accuracy = (predicted.argmax(-1) == task.data.validation["label"]).mean()
    np.testing.assert_allclose(accuracy, again.final_best.fitness.mean, rtol=1e-6)
    logits = again.final_best.model(inputs)
    np.testing.assert_allclose(softmax(np.asarray(logits)), predicted, atol=1e-5)


def test_a_pickled_winner_predicts_once_it_has_its_task(on_vectors):
    inputs = on_vectors.task.data.validation["image"]
    expected = on_vectors.predict(inputs)
    result, best = pickle.loads(pickle.dumps((on_vectors, on_vectors.best)))
    for absent in (result, best):
        with pytest.raises(RuntimeError, match=r"result\.task = task"):
            absent.predict(inputs)
    result.task = task = make_resumable_task()
    assert result.median.task is task
    best = dataclasses.replace(best, task=task)
    for back in (result, best, result.best):
        np.testing.assert_array_equal(back.predict(inputs), expected)
