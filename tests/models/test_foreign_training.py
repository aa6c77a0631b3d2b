"""Other people's architectures, two steps of a population of two, against plain flax.

The reference is flax and optax as their own documentation writes a loop: one member,
one step after the other, without anything of jepbt's.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from jepbt.models import as_model

rng = np.random.default_rng(0)
TOKENS = rng.integers(1, 20, (6, 7)) * (np.arange(7) < rng.integers(3, 8, (6, 1)))
IMAGES = rng.normal(size=(6, 4, 4, 2)).astype(np.float32)
LABELS = np.arange(6) % 3
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


def loss_of(logits):
    logits = logits.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


class LinenLSTM(linen.Module):
    """The SST-2 example's kind: integers, padding, a bidirectional LSTM, its mean."""

    @linen.compact
    def __call__(self, tokens, *, deterministic: bool = True):
        x = linen.Embed(20, 8)(tokens)
        x = linen.Dropout(0.2)(x, deterministic=deterministic)
        lengths = (tokens > 0).sum(1)
        forward = linen.RNN(linen.OptimizedLSTMCell(5), name="forward")
        backward = linen.RNN(linen.LSTMCell(5), name="backward")
        both = linen.Bidirectional(forward, backward)(x, seq_lengths=lengths)
        return linen.Dense(3)(both.mean(1))


class LinenGRU(linen.Module):
    @linen.compact
    def __call__(self, tokens, train):
        x = linen.Embed(20, 8)(tokens)
        carry, _ = linen.RNN(linen.GRUCell(6), return_carry=True)(x)
        return linen.Dense(3)(carry)


class Block(linen.Module):
    """The WMT example's encoder block: a mask, dropout in attention and after it."""

    deterministic: bool
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x, mask):
        y = linen.LayerNorm(dtype=self.dtype)(x)
        y = linen.MultiHeadDotProductAttention(
            num_heads=2,
            qkv_features=8,
            dropout_rate=0.1,
            broadcast_dropout=False,
            deterministic=self.deterministic,
            dtype=self.dtype,
        )(y, mask=mask)
        x = x + linen.Dropout(0.1)(y, deterministic=self.deterministic)
        y = linen.gelu(linen.Dense(12, dtype=self.dtype)(x))
        return x + linen.Dense(8, dtype=self.dtype)(y), None


class LinenTransformer(linen.Module):
    """Two encoder blocks, recomputed in the gradient; the embedding is shared."""

    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, tokens, train: bool):
        embed = linen.Embed(20, 8, dtype=self.dtype, name="shared")
        mask = linen.make_attention_mask(tokens > 0, tokens > 0, dtype=self.dtype)
        x = embed(tokens)
        for i in range(2):
            block = linen.remat(Block)(not train, self.dtype, name=f"block{i}")
            x, _ = block(x, mask)
        return embed.attend(x.mean(1))[:, :3]


class LinenScanned(linen.Module):
    """Layers that lie in one array, as large models keep them."""

    @linen.compact
    def __call__(self, tokens, train: bool):
        mask = linen.make_attention_mask(tokens > 0, tokens > 0)
        stack = linen.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=linen.broadcast,
            length=3,
        )
        x, _ = stack(deterministic=not train)(linen.Embed(20, 8)(tokens), mask)
        return linen.Dense(3)(x.mean(1))


class LinenNorms(linen.Module):
    """Every normalisation, one dense layer applied twice, weights in half precision."""

    param_dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x, training):
        kind = {"dtype": self.param_dtype, "param_dtype": self.param_dtype}
        x = linen.Conv(4, (3, 3), feature_group_count=2, **kind)(x)
        x = linen.GroupNorm(num_groups=2, **kind)(x)
        x = linen.BatchNorm(use_running_average=not training, momentum=0.5, **kind)(x)
        x = linen.relu(linen.InstanceNorm(**kind)(x))
        shared = linen.Dense(4, **kind)
        x = shared(linen.relu(shared(x)))
        x = linen.WeightNorm(linen.Dense(8, **kind))(x.mean((1, 2)))
        x = linen.RMSNorm(**kind)(x)
        return linen.SpectralNorm(linen.Dense(3, **kind))(x, update_stats=training)


class LinenSampler(linen.Module):
    """A VAE's encoder under a classifier: it samples, from a stream called "z"."""

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.relu(linen.Dense(8)(x.reshape(x.shape[0], -1)))
        mean, log_variance = linen.Dense(4)(x), linen.Dense(4)(x)
        if train:
            noise = jax.random.normal(self.make_rng("z"), mean.shape)
            mean = mean + noise * jnp.exp(0.5 * log_variance)
        return linen.Dense(3)(mean)


class NnxTransformer(nnx.Module):
    """Attention without dropout, an embedding that is also the last layer."""

    def __init__(self, rngs: nnx.Rngs, dropout=0.0):
        self.embed = nnx.Embed(20, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            num_heads=2, in_features=8, dropout_rate=dropout, decode=False, rngs=rngs
        )
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, tokens):
        mask = nnx.make_attention_mask(tokens > 0, tokens > 0)
        x = self.embed(tokens)
        x = x + self.dropout(self.attention(self.norm(x), mask=mask))
        return self.embed.attend(x.mean(1))[:, :3]


class NnxLSTM(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(20, 8, rngs=rngs)
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(8, 6, rngs=rngs))
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, tokens):
        return self.head(self.rnn(self.embed(tokens))[:, -1])


class NnxShared(nnx.Module):
    """One layer under two names, batch norm, a variable of a class of its own."""

    class Offset(nnx.Variable):
        pass

    def __init__(self, rngs, dtype=jnp.float32):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs, dtype=dtype)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs, dtype=dtype)
        self.first = nnx.Linear(4, 4, rngs=rngs, dtype=dtype)
        self.second = self.first
        self.head = nnx.Linear(4, 3, rngs=rngs, dtype=dtype)
        self.offset = self.Offset(jnp.ones(()))

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x))).mean((1, 2))
        return self.head(self.second(nnx.relu(self.first(x + self.offset[...]))))


class NnxScanned(nnx.Module):
    """Layers made by `nnx.vmap` and applied by `nnx.scan`."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(20, 8, rngs=rngs)

        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs):
            return nnx.Linear(8, 8, rngs=rngs)

        self.layers = make(rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, tokens):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, layer):
            return x + nnx.relu(layer(x))

        return self.head(forward(self.embed(tokens).mean(1), self.layers))


slow = pytest.mark.slow
LINEN = [
    pytest.param(LinenLSTM(), TOKENS, "deterministic", id="LSTM"),
    pytest.param(LinenGRU(), TOKENS, "train", id="GRU", marks=slow),
    pytest.param(LinenTransformer(), TOKENS, "train", id="transformer", marks=slow),
    pytest.param(
        LinenTransformer(jnp.bfloat16), TOKENS, "train", id="half", marks=slow
    ),
    pytest.param(LinenScanned(), TOKENS, "train", id="scanned", marks=slow),
    pytest.param(LinenNorms(), IMAGES, "training", id="norms", marks=slow),
    pytest.param(
        LinenNorms(jnp.bfloat16), IMAGES, "training", id="half weights", marks=slow
    ),
    pytest.param(LinenSampler(), IMAGES, "train", id="sampler", marks=slow),
]
NNX = [
    pytest.param(NnxTransformer, TOKENS, id="transformer", marks=slow),
    pytest.param(NnxLSTM, TOKENS, id="LSTM", marks=slow),
    pytest.param(NnxShared, IMAGES, id="shared", marks=slow),
    pytest.param(
        lambda rngs: NnxShared(rngs, jnp.bfloat16), IMAGES, id="half", marks=slow
    ),
    pytest.param(NnxScanned, TOKENS, id="scanned", marks=slow),
]


@pytest.fixture(autouse=True)
def flax_promotes_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


def train_population(model, inputs):
    """Two members through the adapter, batched, and what they are after two steps."""
    network = as_model(model)

    def member(key):
        params, variables = network.init(key, inputs)
        opt_state = OPTIMIZER.init(params)
        for step in range(2):

            def objective(params, step=step, variables=variables):
                logits, after = network.apply(
                    jax.random.fold_in(key, step),
                    params,
                    variables,
                    None,
                    inputs,
                    train=True,
                )
                return loss_of(logits), after

            gradient, after = jax.grad(objective, has_aux=True)(params)
            assert jax.tree.structure(after) == jax.tree.structure(variables)
            variables = after
            updates, opt_state = OPTIMIZER.update(gradient, opt_state, params)
            params = optax.apply_updates(params, updates)
        scores, unchanged = network.apply(
            key, params, variables, None, inputs, train=False
        )
        return params, variables, scores, unchanged

    keys = jax.vmap(jax.random.key)(np.arange(2, dtype=np.uint32))
    params, variables, scores, unchanged = jax.jit(jax.vmap(member))(keys)
    jax.tree.map(np.testing.assert_array_equal, variables, unchanged)
    return params, variables, scores


def assert_alike(ours, theirs, is_half):
    """To what rounding leaves: batched and alone a sum has another order."""
    rtol, atol = (2e-2, 3e-2) if is_half else (2e-3, 2e-4)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert one.dtype == other.dtype
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize(("module", "inputs", "flag"), LINEN)
def test_a_linen_member_is_what_a_plain_flax_loop_makes_of_it(
    module, inputs, flag, request
):
    params, variables, scores = train_population(module, inputs)

    def settings(train):
        return {flag: not train if flag == "deterministic" else train}

    def streams(key):
        return {"params": jax.random.fold_in(key, 1), "dropout": key}

    @jax.jit
    def plain(key):
        state = dict(module.init(streams(key), inputs, **settings(False)))
        weights = state.pop("params")
        opt_state = OPTIMIZER.init(weights)
        for step in range(2):
            step_key = jax.random.fold_in(key, step)

            def objective(weights, state=state, step_key=step_key):
                logits, after = module.apply(
                    {"params": weights, **state},
                    inputs,
                    rngs=streams(step_key),
                    mutable=list(state),
                    **settings(True),
                )
                return loss_of(logits), after

            gradient, after = jax.grad(objective, has_aux=True)(weights)
            state |= after
            updates, opt_state = OPTIMIZER.update(gradient, opt_state, weights)
            weights = optax.apply_updates(weights, updates)
        logits = module.apply({"params": weights, **state}, inputs, **settings(False))
        return weights, state, logits

    expected = plain(jax.random.key(1))
    ours = jax.tree.map(lambda leaf: leaf[1], (params, variables, scores))
    assert_alike(ours, expected, "half" in request.node.callspec.id)


@pytest.mark.parametrize(("factory", "inputs"), NNX)
def test_an_nnx_member_is_what_a_plain_flax_loop_makes_of_it(factory, inputs, request):
    params, variables, scores = train_population(factory, inputs)
    module = factory(rngs=nnx.Rngs(jax.random.key(1)))
    optimizer = nnx.Optimizer(module, OPTIMIZER, wrt=nnx.Param)
    module.train()
    for _ in range(2):
        gradient = nnx.grad(lambda module: loss_of(module(inputs)))(module)
        optimizer.update(module, gradient)
    module.eval()
    logits = module(inputs)
    weights = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    others = nnx.All(nnx.Variable, nnx.Not(nnx.Any(nnx.Param, nnx.RngState)))
    state = nnx.to_pure_dict(nnx.state(module, others))
    ours = jax.tree.map(lambda leaf: leaf[1], (params, variables, scores))
    is_half = "half" in request.node.callspec.id
    assert_alike(ours, (weights, state, logits), is_half)


def test_nnx_attention_draws_masks_of_its_own_for_each_key():
    network = as_model(lambda rngs: NnxTransformer(rngs, dropout=0.5))
    key = jax.random.key(0)
    params, variables = network.init(key, TOKENS)

    def logits(number, train):
        return network.apply(
            jax.random.key(number), params, variables, None, TOKENS, train=train
        )[0]

    assert np.ptp(logits(1, True) - logits(1, True)) == 0
    assert np.ptp(logits(1, True) - logits(2, True)) > 1e-3
    assert np.ptp(logits(1, False) - logits(2, False)) == 0
