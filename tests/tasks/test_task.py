"""Classification: what it reads, what it scores, and what it refuses."""

from dataclasses import dataclass

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiny_task import train

import jepbt
from jepbt.population import Member

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (60, 8, 8, 2), np.uint8)
LABELS = np.arange(60, dtype=np.int32) % 3


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-3, max=0.5, log=True)
    dropout: float = jepbt.hparam(0.1, min=0.0, max=0.6)


PARTS = {
    "hparams": Hyper,
    "model": jepbt.models.MLP(num_classes=3, hidden=(8,)),
    "loss": lambda h: jepbt.losses.cross_entropy,
    "optimizer": lambda h: optax.sgd(h.rate),
}


def make(data=(IMAGES, LABELS), **changes):
    return jepbt.classification(data, **(PARTS | changes))


def test_a_task_is_written_by_the_shapes_of_its_data():
    train = "train={'image': uint8[54, 8, 8, 2], 'label': int32[54]}"
    held = "validation={'image': uint8[6, 8, 8, 2], 'label': int32[6]}, test=None"
    assert repr(make()) == (
        f"Task(hparams=Hyper, data=Splits({train}, {held}), batch_size=64, shared=())"
    )
    assert len(repr(make().init)) < 200  # a method of what holds the data


def test_uint8_images_are_standardised_by_channel_when_read():
    """What the network sees of train has mean 0 and deviation 1 in each channel."""

    def features(images):
        by_channel = images[..., 0].mean((1, 2)), images[..., 1].std((1, 2))
        return jnp.stack([*by_channel, images.max((1, 2, 3))], -1)

    seen = jepbt.models.Model(
        init=lambda key, images: (jnp.zeros(()), ()),
        apply=lambda key, params, variables, h, images, train: (features(images), ()),
    )
    task = make(model=seen)
    assert task.data.train["image"].dtype == np.uint8
    train = task.data.train["image"].astype(np.float64)
    expected = (train - train.mean((0, 1, 2))) / train.std((0, 1, 2))
    scores = task.evaluate(
        jax.random.key(0),
        task.init(jax.random.key(0), Hyper()),
        Hyper(),
        jax.tree.map(jnp.asarray, task.data.train),
        (),
    )
    expected_scores = features(expected).argmax(-1) == task.data.train["label"]
    np.testing.assert_array_equal(scores, expected_scores)


def test_dropout_is_off_when_members_are_scored():
    images = rng.normal(size=(40, 6)).astype(np.float32)
    labels = np.arange(40, dtype=np.int32) % 3
    model = jepbt.models.MLP(num_classes=3, hidden=(32,), dropout=0.8)
    task = make((images, labels), model=model)
    state = task.init(jax.random.key(0), Hyper())
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    scores = [
        task.evaluate(jax.random.key(seed), state, Hyper(), batch, ())
        for seed in range(3)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])


def test_floats_are_taken_as_they_are():
    images = rng.normal(5.0, 3.0, (30, 4)).astype(np.float32)
    labels = (np.arange(30) % 2).astype(np.int32)
    pass_through = (
        lambda key, images: ({}, ()),
        lambda key, params, variables, h, images, train: (images[:, :2], ()),
    )
    task = make((images, labels), model=pass_through)
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    state = task.init(jax.random.key(0), Hyper())
    scores = task.evaluate(jax.random.key(0), state, Hyper(), batch, ())
    np.testing.assert_array_equal(scores, images[:, :2].argmax(-1) == labels)


def test_logits_of_nan_score_nan_not_class_zero():
    broken = (
        lambda key, images: ({}, ()),
        lambda key, params, variables, h, images, train: (
            jnp.full((images.shape[0], 3), jnp.nan),
            (),
        ),
    )
    task = make(model=broken)
    batch = jax.tree.map(jnp.asarray, task.data.validation)
    state = task.init(jax.random.key(0), Hyper())
    scores = task.evaluate(jax.random.key(0), state, Hyper(), batch, ())
    assert np.isnan(scores).all()


class Linen(linen.Module):
    """A user's network: batch norm, and dropout whose rate evolves."""

    @linen.compact
    def __call__(self, x, hparams, train):
        conv = jepbt.nn.conv_general_dilated
        x = linen.Conv(4, (3, 3), conv_general_dilated=conv)(x)
        x = linen.relu(linen.BatchNorm(use_running_average=not train)(x))
        x = x.reshape(x.shape[0], -1)
        if train:
            key = self.make_rng("dropout")
            x = jepbt.nn.dropout(key, x, hparams.dropout, train=True)
        return linen.Dense(3)(x)


class Nnx(nnx.Module):
    """The same in nnx."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(
            2,
            4,
            (3, 3),
            conv_general_dilated=jepbt.nn.conv_general_dilated,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.dense = nnx.Linear(8 * 8 * 4, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.dense(self.drop(x.reshape(x.shape[0], -1)))


@pytest.mark.parametrize(
    "model", [Linen(), lambda rngs: Nnx(rngs)], ids=["linen", "nnx"]
)
def test_a_users_flax_model_trains_as_a_population(model):
    """It learns three levels of brightness, and its batch statistics move."""
    images = np.clip(IMAGES // 4 + 80 * LABELS[:, None, None, None], 0, 255)
    with jax.numpy_rank_promotion("allow"):
        task = make((images.astype(np.uint8), LABELS), model=model)
        result = train(task, 4, 3, 15, batch_size=12)
    assert result.best.fitness.mean > 0.8
    variables = jax.tree.leaves(result.population.state.variables)
    assert len(variables) == 2
    for leaf in variables:  # mean and variance of 4 channels, a row for each member
        assert leaf.shape == (4, 4)
        assert len(np.unique(np.asarray(leaf)[:, 0])) > 1
    assert isinstance(result.population, Member)
