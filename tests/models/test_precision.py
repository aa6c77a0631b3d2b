"""bfloat16 is one setting: networks compute in it, all that stays is float32."""

from dataclasses import dataclass

import flax
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from numerics import jit
from tiny_task import train

import jepbt
from jepbt.models import CNN, MLP, ResNet, as_model
from jepbt.models.precision import computing_in

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(60, 8, 8, 2)).astype(np.float32)
LABELS = (IMAGES.mean((1, 2, 3)) > 0).astype(np.int32)
TOKENS = rng.integers(0, 20, (5, 6)).astype(np.int32)


@pytest.fixture(autouse=True)
def flax_promotes_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=1e-3, max=1.0, log=True)


class LinenNorm(linen.Module):
    """Layers as flax makes them, with batch norm and dropout."""

    dtype: object = None

    @linen.compact
    def __call__(self, x, *, train):
        x = linen.Conv(4, (3, 3), dtype=self.dtype)(x)
        x = linen.BatchNorm(not train, momentum=0.5, dtype=self.dtype)(x)
        x = linen.Dropout(0.5, deterministic=not train)(linen.relu(x))
        return linen.Dense(2, dtype=self.dtype)(x.reshape(x.shape[0], -1))


class NnxNorm(nnx.Module):
    def __init__(self, rngs, dtype=jnp.bfloat16):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs, dtype=dtype)
        self.head = nnx.Linear(256, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.head(x.reshape(x.shape[0], -1))


class Tokens(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        return linen.Dense(2)(linen.Embed(20, 8)(tokens).mean(1))


def plain_init(key, images):
    return {"w": 0.1 * jax.random.normal(key, (128, 2))}, {"mean": jnp.zeros(2)}


def plain_apply(key, params, variables, hparams, images, *, train):
    out = images.reshape(len(images), -1) @ params["w"]
    return out, {"mean": out.mean(0)}  # bfloat16, where the network is


MODELS = {
    "MLP": (MLP(num_classes=2, hidden=(8,), dropout=0.2), IMAGES),
    "CNN": (CNN(num_classes=2), IMAGES),
    "ResNet": (ResNet(depth=8, width=4, num_classes=2), IMAGES),
    "linen": (LinenNorm(), IMAGES),
    "nnx": (NnxNorm, IMAGES),
    "tokens": (Tokens(), TOKENS),
    "plain": ((plain_init, plain_apply), IMAGES),
}


def dtypes(tree):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


def gradient_program(model, key, params, variables, images):
    def loss(params):
        out, after = model.apply(key, params, variables, None, images, train=True)
        return jnp.mean(out**2), after

    return jax.make_jaxpr(jax.grad(loss, has_aux=True))(params)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_computes_in_bfloat16_and_keeps_float32(name, key):
    model, inputs = MODELS[name]
    whole = as_model(model)
    half = computing_in(whole, "bfloat16")
    inputs = jnp.asarray(inputs[:5])

    @jit
    def run(key):
        member = whole.init(key, inputs)
        return member, [
            m.apply(key, *member, None, inputs, train=True) for m in (whole, half)
        ]

    (params, variables), ((expected, stats), (logits, half_stats)) = run(key)
    assert dtypes((params, variables, logits, half_stats)) == {"float32"}
    error = np.abs(logits - expected).max()
    assert 1e-5 < error < 0.05 * np.abs(expected).max() + 0.05
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0.05, atol=0.05),
        stats,
        half_stats,
    )
    program = gradient_program(half, key, params, variables, inputs)
    assert all(aval.dtype == jnp.float32 for aval in program.out_avals)
    assert multiplied(program) == {"bfloat16"}


def multiplied(program):
    """The dtypes that matrices and convolutions of a program multiply in."""
    found = set()

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("dot_general", "conv_general_dilated"):
                found.update(str(v.aval.dtype) for v in equation.invars)
            for value in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
            ):
                value = getattr(value, "jaxpr", value)
                if hasattr(value, "eqns"):
                    visit(value)

    visit(program.jaxpr)
    return found


def test_a_layer_with_a_dtype_of_its_own_computes_in_that(key):
    model = as_model(LinenNorm(jnp.float32))
    half = computing_in(model, "bfloat16")
    member = model.init(key, IMAGES[:5])
    assert "bfloat16" not in multiplied(
        gradient_program(half, key, *member, IMAGES[:5])
    )


def test_float32_leaves_a_model_as_it_is():
    model = as_model(MLP())
    assert computing_in(model, "float32") is model


@pytest.mark.skipif(
    flax.__version__.startswith("0.11"), reason="it stays in bfloat16 there"
)
def test_nnxs_batch_norm_goes_back_to_float32_unless_it_has_a_dtype(key):
    model = computing_in(as_model(lambda rngs: NnxNorm(rngs, None)), "bfloat16")
    member = model.init(key, IMAGES[:5])
    program = gradient_program(model, key, *member, IMAGES[:5])
    assert multiplied(program) == {"bfloat16", "float32"}


@pytest.mark.parametrize("model", [LinenNorm(), NnxNorm])
def test_a_population_trains_in_bfloat16_with_float32_states(model):
    """One step away from the same weights, the weights differ by rounding alone."""
    trained = {}
    for compute_dtype in ("float32", "bfloat16"):
        task = jepbt.classification(
            (IMAGES, LABELS),
            hparams=Hyper,
            model=model,
            loss=lambda h: jepbt.losses.cross_entropy,
            optimizer=lambda h: optax.sgd(h.rate, momentum=0.9),
            compute_dtype=compute_dtype,
        )
        assert task.about["compute_dtype"] == compute_dtype
        result = train(task, 2, 1, 2, batch_size=16, devices=jax.devices()[:1])
        trained[compute_dtype] = result.best.state
        assert dtypes(result.best.state) == {"float32"}
    gaps = jax.tree.map(
        lambda a, b: np.abs(a - b).max(),
        trained["float32"].params,
        trained["bfloat16"].params,
    )
    assert 0 < max(jax.tree.leaves(gaps)) < 0.05
