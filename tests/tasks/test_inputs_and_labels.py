"""Token ids, pixels and probabilities: what a network and its score make of them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from tiny_task import train

import jepbt
from jepbt.losses import taylorglo

rng = np.random.default_rng(0)
IDS = rng.integers(0, 9, (40, 3))
VECTORS = rng.normal(size=(60, 4)).astype(np.float32)
SOFT = rng.dirichlet([0.7] * 3, 60).astype(np.float32)
KEY = jax.random.key(0)


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=1e-3, max=1.0, log=True)
    loss: jepbt.Loss = jepbt.taylor_hparam()


class Linen(linen.Module):
    num_outputs: int

    @linen.compact
    def __call__(self, ids):
        embedded = linen.Embed(9, 2, name="table")(ids)
        flat = embedded.reshape(len(ids), -1)
        return linen.Dense(self.num_outputs, name="dense")(flat)


class Nnx(nnx.Module):
    def __init__(self, num_outputs, rngs):
        self.table = nnx.Embed(9, 2, rngs=rngs)
        self.dense = nnx.Linear(6, num_outputs, rngs=rngs)

    def __call__(self, ids):
        return self.dense(self.table(ids).reshape(len(ids), -1))


def plain(num_outputs):
    def init(key, ids):
        assert ids.dtype == jnp.int32
        table = {"embedding": jax.random.normal(key, (9, 2))}
        dense = {"kernel": jnp.ones((6, num_outputs)), "bias": jnp.arange(num_outputs)}
        return {"table": table, "dense": dense}, {}

    def apply(key, params, variables, hparams, ids, *, train):
        flat = params["table"]["embedding"][ids].reshape(len(ids), -1)
        dense = params["dense"]
        return flat @ dense["kernel"] + dense["bias"][None], variables

    return init, apply


MODELS = {
    "linen": Linen,
    "nnx": lambda size: lambda rngs: Nnx(size, rngs),
    "pair": plain,
}


def classify(data, model, loss=None, **parts):
    return jepbt.classification(
        data,
        hparams=Hyper,
        model=model,
        loss=loss or (lambda h: jepbt.losses.cross_entropy),
        optimizer=lambda h: optax.sgd(h.rate),
        **parts,
    )


def outputs_by_hand(params, ids):
    flat = np.asarray(params["table"]["embedding"])[ids].reshape(len(ids), -1)
    return flat @ np.asarray(params["dense"]["kernel"]) + params["dense"]["bias"][None]


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, ">i4"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_network_sees_token_ids_as_they_are(kind, dtype):
    labels = IDS[:, 0] % 2
    task = classify((IDS.astype(dtype), labels), MODELS[kind](2))
    batch = task.data.train
    assert batch["image"].dtype == np.int32
    state = task.init(KEY, Hyper())
    scores = task.evaluate(KEY, state, Hyper(), batch, ())
    expected = outputs_by_hand(state.params, batch["image"]).argmax(-1)
    np.testing.assert_array_equal(scores, expected == batch["label"])


@pytest.mark.parametrize("kind", MODELS)
def test_token_ids_do_for_regression_too(kind):
    task = jepbt.regression(
        (IDS, IDS[:, 0] * 0.5),
        hparams=Hyper,
        model=MODELS[kind](1),
        optimizer=lambda h: optax.sgd(h.rate),
    )
    batch = task.data.train
    state = task.init(KEY, Hyper())
    scores = task.evaluate(KEY, state, Hyper(), batch, ())
    errors = outputs_by_hand(state.params, batch["input"]) - batch["target"]
    np.testing.assert_allclose(scores, -(errors[:, 0] ** 2), rtol=1e-5)


def test_a_networks_own_error_says_how_token_ids_are_passed():
    for dtype, word in ((np.float32, "float32 inputs."), (np.uint8, "standardised")):
        with pytest.raises(ValueError, match="Input type must be an integer") as raised:
            classify((IDS.astype(dtype), IDS[:, 0] % 2), Linen(2))
        notes = " ".join(raised.value.__notes__)
        assert word in notes and "ids.astype(np.int32)" in notes


def test_pixels_do_for_every_network_that_follows_them():
    """Flattened ones, and images whose features a frozen part of it makes."""
    pixels = rng.integers(0, 256, (40, 64), np.uint8)

    class Convolves(linen.Module):  # with a gradient of its own, for reverse mode alone
        @linen.compact
        def __call__(self, flat):
            return jepbt.models.CNN(num_classes=2)(flat.reshape(-1, 8, 8, 1))

    class Loops(linen.Module):  # without a gradient by its inputs
        @linen.compact
        def __call__(self, flat):
            def halve(x):
                return x / 2

            small = jax.lax.while_loop(lambda x: x.max() > 1, halve, flat)
            return linen.Dense(2)(small)

    for model in (jepbt.models.MLP(num_classes=2, hidden=(3,)), Convolves(), Loops()):
        classify((pixels, IDS[:, 0] % 2), model)

    def apply(key, params, variables, hparams, images, *, train):
        features = jax.lax.stop_gradient(images).mean((1, 2))
        return features * params, variables

    model = (lambda key, images: (jnp.ones((1, 2)), {}), apply)
    classify((pixels.reshape(40, 8, 4, 2), IDS[:, 0] % 2), model)


def test_probabilities_train_as_they_are_and_are_scored_by_the_likeliest_class():
    """The loss and one step's weights by NumPy, of a softmax regression."""
    model = jepbt.models.MLP(num_classes=3, hidden=())
    task = classify((VECTORS, SOFT), model)
    batch = jax.tree.map(lambda leaf: leaf[:20], task.data.train)
    state = task.init(KEY, Hyper())
    kernel = np.asarray(state.params["dense1"]["kernel"], np.float64)
    exponents = np.exp(batch["image"] @ kernel)
    probs = exponents / exponents.sum(1, keepdims=True)
    after, metrics = task.train_step(KEY, state, Hyper(), batch, ())
    loss = -(batch["label"] * np.log(probs)).sum(1).mean()
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    gradient = batch["image"].T @ (probs - batch["label"]) / 20
    expected = kernel - 0.1 * gradient
    np.testing.assert_allclose(after.params["dense1"]["kernel"], expected, rtol=1e-4)
    scores = task.evaluate(KEY, state, Hyper(), batch, ())
    right = probs.argmax(1) == batch["label"].argmax(1)
    np.testing.assert_array_equal(scores, right)


def test_an_evolved_loss_reads_probabilities():
    """`-Σ a_xy x y` alone: the label's probabilities times the network's."""
    theta = np.zeros(8, np.float32)
    theta[3] = 1.0
    task = classify(
        (VECTORS, SOFT),
        jepbt.models.MLP(num_classes=3, hidden=()),
        lambda h: jepbt.losses.taylor(h.loss),
    )
    batch = task.data.train
    state = task.init(KEY, Hyper())
    exponents = np.exp(batch["image"] @ np.asarray(state.params["dense1"]["kernel"]))
    probs = exponents / exponents.sum(1, keepdims=True)
    _, metrics = task.train_step(KEY, state, Hyper(loss=theta), batch, ())
    expected = -(batch["label"] * probs).sum(1).mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert taylorglo.margin(theta, 3) > 0


@pytest.mark.slow
def test_a_run_on_probabilities_goes_all_the_way():
    """With a teacher, an evolved loss, novelty, and a test split of class numbers."""
    labels = SOFT.argmax(1)
    dataset = jepbt.datasets.from_arrays((VECTORS, SOFT), 20, (VECTORS, labels))
    noisy = jepbt.datasets.with_label_noise(dataset, 0.1)
    task = classify(
        noisy,
        jepbt.models.MLP(num_classes=3, hidden=(4,)),
        lambda h: jepbt.losses.taylor(h.loss),
        augment=lambda h: jepbt.augment.mixup(0.2),
        distillation=jepbt.distillation(),
    )
    pulsation = jepbt.strategies.pulsation(period=1, metric="probabilities")
    strategy = jepbt.strategies.epbt(novelty=pulsation)
    result = train(task, 4, 2, 3, strategy=strategy)
    assert np.isfinite(result.history.fitness).all()
    params = jax.device_get(result.best.params)
    hidden = VECTORS @ params["dense1"]["kernel"] + params["dense1"]["bias"]
    logits = np.maximum(hidden, 0) @ params["dense2"]["kernel"]
    right = (logits + params["dense2"]["bias"]).argmax(1) == labels
    np.testing.assert_allclose(result.test().best.mean, right.mean(), rtol=1e-6)
