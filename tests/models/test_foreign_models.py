"""Models as flax's own examples write them train as populations without a change."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from tiny_task import train

import jepbt
from jepbt.models import as_model

rng = np.random.default_rng(0)
LABELS = np.arange(48) % 3
IMAGES = (rng.normal(size=(48, 8, 8, 1)) + LABELS.reshape(-1, 1, 1, 1)).astype(
    np.float32
)


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.02, min=1e-3, max=0.1, log=True)
    dropout: float = jepbt.hparam(0.1, min=0.0, max=0.5)


class LinenCNN(linen.Module):
    """The MNIST example: no `train`, no random stream."""

    @linen.compact
    def __call__(self, x):
        for features in (4, 8):
            x = linen.relu(linen.Conv(features=features, kernel_size=(3, 3))(x))
            x = linen.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = linen.relu(linen.Dense(features=16)(x.reshape((x.shape[0], -1))))
        return linen.Dense(features=3)(x)


class Block(linen.Module):
    """A residual block that is given its layers as partial functions."""

    filters: int
    conv: Any
    norm: Any
    strides: tuple[int, int] = (1, 1)

    @linen.compact
    def __call__(self, x):
        y = linen.relu(self.norm()(self.conv(self.filters, (3, 3), self.strides)(x)))
        y = self.conv(self.filters, (3, 3))(y)
        y = self.norm(scale_init=linen.initializers.zeros_init())(y)
        if x.shape != y.shape:
            x = self.conv(self.filters, (1, 1), self.strides, name="conv_proj")(x)
            x = self.norm(name="norm_proj")(x)
        return linen.relu(x + y)


class LinenResNet(linen.Module):
    """The ImageNet example: `train` has a default, half precision is an attribute."""

    stage_sizes: Sequence[int] = (1, 1)
    block: Callable = Block
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x, train: bool = True):
        conv = functools.partial(linen.Conv, use_bias=False, dtype=self.dtype)
        norm = functools.partial(
            linen.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            dtype=self.dtype,
        )
        x = linen.relu(norm(name="bn_init")(conv(4, (3, 3), name="conv_init")(x)))
        x = linen.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for i, size in enumerate(self.stage_sizes):
            for j in range(size):
                strides = (2, 2) if i > 0 and j == 0 else (1, 1)
                x = self.block(4 * 2**i, conv=conv, norm=norm, strides=strides)(x)
        x = linen.Dense(3, dtype=self.dtype)(jnp.mean(x, axis=(1, 2)))
        return jnp.asarray(x, jnp.float32)


class Encoder(linen.Module):
    """A block of a transformer, told `deterministic`, with dropout in attention."""

    @linen.compact
    def __call__(self, x, *, deterministic):
        y = linen.LayerNorm()(x)
        y = linen.MultiHeadDotProductAttention(
            num_heads=2, dropout_rate=0.1, deterministic=deterministic
        )(y, y)
        x = x + linen.Dropout(0.1)(y, deterministic=deterministic)
        y = linen.gelu(linen.Dense(16)(linen.LayerNorm()(x)))
        y = linen.Dropout(0.1)(linen.Dense(x.shape[-1])(y), deterministic=deterministic)
        return x + y


class LinenViT(linen.Module):
    """A vision transformer: a class token, positions, `train` by keyword alone."""

    @linen.compact
    def __call__(self, x, *, train):
        x = linen.Conv(8, (4, 4), strides=(4, 4), padding="VALID")(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = self.param("cls", linen.initializers.zeros, (1, 1, x.shape[-1]))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
        place = linen.initializers.normal(stddev=0.02)
        x = x + self.param("pos_embedding", place, (1, *x.shape[1:]))
        for _ in range(2):
            x = Encoder()(x, deterministic=not train)
        # What a debugger may look at is no part of a member.
        self.sow("intermediates", "encoded", x)
        return linen.Dense(3)(linen.LayerNorm()(x)[:, 0])


class LinenSetup(linen.Module):
    """Layers of `setup`, spectral norm's statistics, and a stream called "noise"."""

    def setup(self):
        self.hidden = linen.Dense(16)
        self.norm = linen.SpectralNorm(linen.Dense(3))

    def __call__(self, x, train):
        x = linen.relu(self.hidden(x.reshape(x.shape[0], -1)))
        if train:
            x = x + 0.01 * jax.random.normal(self.make_rng("noise"), x.shape)
        return self.norm(x, update_stats=train)


class NnxCNN(nnx.Module):
    """The MNIST example in nnx: modes by `train()` and `eval()`, `rngs` or not."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 4, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm1 = nnx.BatchNorm(4, rngs=rngs)
        self.dropout1 = nnx.Dropout(rate=0.025, rngs=rngs)
        self.conv2 = nnx.Conv(4, 8, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm2 = nnx.BatchNorm(8, rngs=rngs)
        self.avg_pool = functools.partial(
            nnx.avg_pool, window_shape=(2, 2), strides=(2, 2)
        )
        self.linear1 = nnx.Linear(32, 16, rngs=rngs)
        self.dropout2 = nnx.Dropout(rate=0.025, rngs=rngs)
        self.linear2 = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        x = self.batch_norm1(self.dropout1(self.conv1(x), rngs=rngs))
        x = self.avg_pool(nnx.relu(x))
        x = self.avg_pool(nnx.relu(self.batch_norm2(self.conv2(x))))
        x = nnx.relu(self.dropout2(self.linear1(x.reshape(x.shape[0], -1)), rngs=rngs))
        return self.linear2(x)


class NnxNoise(nnx.Module):
    """Random numbers of its own, from streams that it names, and a plain Variable."""

    def __init__(self, *, num_hidden, rngs):
        self.rngs = nnx.Rngs(noise=rngs.noise(), dropout=rngs.dropout())
        layers = [nnx.Linear(64, num_hidden, rngs=rngs)]
        self.layers = nnx.List(layers) if hasattr(nnx, "List") else layers
        self.head = nnx.Linear(num_hidden, 3, rngs=rngs)
        self.offset = nnx.Variable(jnp.ones(()))

    def __call__(self, x, train):
        x = x.reshape(x.shape[0], -1)
        for layer in self.layers:
            x = nnx.relu(layer(x))
        if train:
            x = x + 0.01 * jax.random.normal(self.rngs.noise(), x.shape)
        return self.head(x + self.offset)


MODELS = {
    "linen CNN": LinenCNN(),
    "linen ResNet": LinenResNet(),
    "linen ResNet, bfloat16": LinenResNet(dtype=jnp.bfloat16),
    "linen ViT": LinenViT(),
    "linen setup": LinenSetup(),
    "nnx CNN": NnxCNN,
    "nnx noise": lambda rngs: NnxNoise(num_hidden=64, rngs=rngs),
}


LONG = {"linen ResNet, bfloat16", "linen ViT"}
NAMES = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in MODELS
]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_written_elsewhere_trains_as_a_population(name):
    """Two generations; weights move, and members that differ stay apart."""
    with jax.numpy_rank_promotion("allow"):
        task = jepbt.classification(
            (IMAGES, LABELS),
            hparams=Hyper,
            model=MODELS[name],
            loss=lambda h: jepbt.losses.cross_entropy,
            optimizer=lambda h: optax.sgd(h.rate, momentum=0.9),
        )
        settings = {"batch_size": 16, "strategy": "pbt"}
        result = train(task, 2, 2, 3, devices=jax.devices()[:1], **settings)
    assert np.isfinite(result.history.fitness).all()
    first = task.init(jax.random.key(0), Hyper())
    member = jax.tree.map(lambda leaf: leaf[0], result.population.state)
    assert jax.tree.structure(member) == jax.tree.structure(first)
    for kernel in jax.tree.leaves(result.population.state.params):
        assert np.isfinite(kernel).all()
    assert len(np.unique(result.history.metrics["loss"])) == 4


@pytest.mark.parametrize(
    ("model", "num_variables"),
    [
        (LinenCNN(), 0),
        (LinenResNet(), 12),  # mean and var of 6 batch norms
        (LinenViT(), 0),  # what was sown is dropped
        (LinenSetup(), 2),  # the largest singular value and its vector
        (NnxCNN, 4),
        (lambda rngs: NnxNoise(num_hidden=4, rngs=rngs), 1),  # the offset, no keys
    ],
)
def test_what_is_no_weight_travels_as_variables(model, num_variables):
    with jax.numpy_rank_promotion("allow"):
        made = jax.eval_shape(as_model(model).init, jax.random.key(0), IMAGES)
    assert len(jax.tree.leaves(made[1])) == num_variables


class LinenEvolved(linen.Module):
    @linen.compact
    def __call__(self, x, hparams, train):
        x = linen.Dense(3)(x.reshape(x.shape[0], -1))
        return linen.Dropout(hparams.dropout, deterministic=not train)(x)


class NnxEvolved(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(64, 3, rngs=rngs)
        self.rngs = rngs

    def __call__(self, x, hparams):
        x = self.dense(x.reshape(x.shape[0], -1))
        return nnx.Dropout(hparams.dropout, deterministic=False, rngs=self.rngs)(x)


def make_task(model):
    return jepbt.classification(
        (IMAGES, LABELS),
        hparams=Hyper,
        model=model,
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.rate),
    )


@pytest.mark.parametrize("model", [LinenEvolved(), NnxEvolved])
def test_flax_dropout_at_an_evolved_rate_gets_advice(model):
    with pytest.raises(
        ValueError, match=r"model: .*For dropout use jepbt\.nn\.dropout"
    ):
        make_task(model)


class LinenVAE(linen.Module):
    """The VAE example asks for a key, after its input."""

    @linen.compact
    def __call__(self, x, z_rng):
        return linen.Dense(3)(x + jax.random.normal(z_rng, x.shape))


class LinenPmapped(linen.Module):
    """Batch norm as it was written for `pmap`."""

    @linen.compact
    def __call__(self, x, train):
        norm = linen.BatchNorm(use_running_average=not train, axis_name="batch")
        return linen.Dense(3)(norm(x.reshape(x.shape[0], -1)))


class NnxPmapped(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(64, axis_name="devices", rngs=rngs)
        self.dense = nnx.Linear(64, 3, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.norm(x.reshape(x.shape[0], -1)))


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (LinenVAE(), TypeError, r"model: .*__call__ needs z_rng, .*self\.make_rng"),
        (LinenPmapped(), ValueError, r"model: .*batch.*leave axis_name out"),
        (NnxPmapped, ValueError, r"model: .*devices.*leave axis_name out"),
    ],
)
def test_what_a_model_asks_for_in_vain_is_named(model, error, words):
    with jax.numpy_rank_promotion("allow"), pytest.raises(error, match=words):
        make_task(model)


class NnxCalledWithRngs(nnx.Module):
    """Flax's newer style: streams are given to each call, and none are kept."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(64, 3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x, rngs):
        return self.dense(self.dropout(x.reshape(x.shape[0], -1), rngs=rngs))


class NnxMayBeCalledWithRngs(NnxCalledWithRngs):
    def __call__(self, x, rngs=None):
        return super().__call__(x, rngs)


class NnxKeepsRngs(NnxCalledWithRngs):
    def __init__(self, rngs):
        super().__init__(rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return super().__call__(x, None)


class NnxKeepsRngsAndMayGetThem(NnxKeepsRngs):
    def __call__(self, x, rngs=None):
        return NnxCalledWithRngs.__call__(self, x, rngs)


@pytest.mark.parametrize("module", [NnxCalledWithRngs, NnxMayBeCalledWithRngs])
def test_nnx_modules_get_streams_of_the_steps_key(module):
    network, x = as_model(module), jnp.ones((2, 64))
    params, variables = network.init(jax.random.key(0), x)

    def outputs(seed, train):
        key = jax.random.key(seed)
        return np.asarray(
            network.apply(key, params, variables, None, x, train=train)[0]
        )

    same = np.testing.assert_array_equal
    same(outputs(1, True), outputs(1, True))
    same(outputs(1, False), outputs(2, False))
    assert (outputs(1, True) != outputs(2, True)).any()
    assert (outputs(1, True) != outputs(1, False)).any()


def test_streams_that_a_module_keeps_are_used_where_it_can_do_without():
    x = jnp.ones((2, 64))
    drawn = []
    for module in (NnxKeepsRngs, NnxKeepsRngsAndMayGetThem):
        network, key = as_model(module), jax.random.key(0)
        params, variables = network.init(key, x)
        drawn.append(network.apply(key, params, variables, None, x, train=True)[0])
    np.testing.assert_array_equal(*drawn)
