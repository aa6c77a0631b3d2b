"""ResNet is the paper's network; layers of half precision keep their weights whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from jepbt.models import CNN, MLP, ResNet
from jepbt.models.layers import batch_norm

# Compiling takes most of the time here, and unoptimised code compiles much faster.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("depth", "in_millions", "exact"),
    [(20, 0.27, 269_722), (32, 0.46, 464_154), (56, 0.85, 853_018)],
)
def test_numbers_of_weights_are_the_papers(depth, in_millions, exact):
    """Table 6 of the paper; exactly, convolutions, batch norms and the dense layer."""
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, variables = jax.eval_shape(ResNet(depth=depth).init, key, images)
    count = sum(weight.size for weight in jax.tree.leaves(params))
    assert (round(count / 1e6, 2), count) == (in_millions, exact)
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    assert len(kernels) == depth
    assert len(jax.tree.leaves(variables)) == 2 * (depth - 1)


class Reference(linen.Module):
    """Section 4.2 of the paper in flax's words, one block a stage."""

    @linen.compact
    def __call__(self, x, train):
        def convolve(x, features, stride=1):
            pads = ((1, 1), (1, 1))
            conv = linen.Conv(features, (3, 3), stride, padding=pads, use_bias=False)
            return linen.BatchNorm(not train, momentum=0.9)(conv(x))

        x = linen.relu(convolve(x, 4))
        for features, stride in ((4, 1), (8, 2), (16, 2)):
            y = linen.relu(convolve(x, features, stride))
            y = convolve(y, features)
            if stride == 2:
                zeros = jnp.zeros((*y.shape[:3], features // 4))
                x = jnp.concatenate([zeros, x[:, ::2, ::2], zeros], -1)
            x = linen.relu(y + x)
        return linen.Dense(5)(x.mean((1, 2)))


def renamed(params, variables):
    """The member of a ResNet-8 with flax's names."""
    names = ["first", *[f"stage{i}_block1" for i in (1, 2, 3)]]
    layers, statistics = [], []
    for name in names:
        for part in ("conv1", "conv2") if name != "first" else (None,):
            layers.append(params[name][part] if part else params[name])
            statistics.append(variables[name][part] if part else variables[name])
    flax_params, flax_statistics = {"Dense_0": params["last"]}, {}
    for i, (layer, statistic) in enumerate(zip(layers, statistics, strict=True)):
        flax_params[f"Conv_{i}"] = {"kernel": layer["kernel"]}
        flax_params[f"BatchNorm_{i}"] = {k: layer[k] for k in ("scale", "bias")}
        flax_statistics[f"BatchNorm_{i}"] = statistic
    return flax_params, flax_statistics


@pytest.mark.parametrize("size", [8, 7])
def test_resnet_is_the_documented_network(size, key):
    """Logits, gradients and statistics of a training step, and logits without."""
    images = jnp.asarray(IMAGES[:, :size, :size])
    model, reference = ResNet(depth=8, width=4, num_classes=5), Reference()

    def ours(params, variables, train):
        logits, after = model.apply(None, params, variables, None, images, train=train)
        return jnp.sum(logits**2), (logits, renamed(params, after)[1])

    def theirs(params, variables, train):
        params, statistics = renamed(params, variables)
        logits, after = reference.apply(
            {"params": params, "batch_stats": statistics},
            images,
            train=train,
            mutable=["batch_stats"],
        )
        return jnp.sum(logits**2), (logits, after["batch_stats"])

    @jit
    def both(key):
        member = model.init(key, images)
        moved = jax.tree.map(lambda leaf: leaf + 0.3, member[1])
        return [
            (
                jax.value_and_grad(function, has_aux=True)(member[0], moved, True),
                function(member[0], moved, False),
            )
            for function in (ours, theirs)
        ]

    with jax.numpy_rank_promotion("allow"):
        got, expected = both(key)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3),
        got,
        expected,
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_batch_norm_normalises_and_remembers(dtype, key):
    """Mean 0 and deviation 1 in each channel; a tenth of the batch is remembered."""
    x = 3 + 2 * jax.random.normal(key, (4000, 3))
    layer = {"scale": jnp.ones(3), "bias": jnp.zeros(3)}
    old = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
    out, new = batch_norm(layer, old, x.astype(dtype), train=True)
    assert out.dtype == dtype
    np.testing.assert_allclose(out.astype(jnp.float32).mean(0), np.zeros(3), atol=1e-2)
    np.testing.assert_allclose(out.astype(jnp.float32).std(0), np.ones(3), atol=1e-2)
    np.testing.assert_allclose(new["mean"], np.full(3, 0.3), atol=0.03)
    np.testing.assert_allclose(new["var"], np.full(3, 0.9 + 0.4), atol=0.03)
    kept, same = batch_norm(layer, new, x.astype(dtype), train=False)
    assert same is new
    expected = (np.asarray(x) - 0.3) / np.sqrt(1.3)
    np.testing.assert_allclose(kept.astype(jnp.float32), expected, atol=0.15)


BUILDERS = {
    "cnn": functools.partial(CNN, dropout=0.2),
    "mlp": functools.partial(MLP, dropout=0.2),
    "resnet": functools.partial(ResNet, depth=8, width=4),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_bfloat16_computes_in_half_precision_and_keeps_whole_weights(name, key):
    whole, half = (BUILDERS[name](dtype=d) for d in (jnp.float32, jnp.bfloat16))
    images = jnp.asarray(IMAGES)

    @jit
    def logits_of(key):
        members = [model.init(key, images) for model in (whole, half)]
        return members, [
            model.apply(key, *member, None, images, train=False)[0]
            for model, member in zip((whole, half), members, strict=True)
        ]

    (one, other), (expected, logits) = logits_of(key)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(other))
    assert logits.dtype == jnp.float32
    error = np.abs(logits - expected).max()
    assert 1e-5 < error < 0.05 * np.abs(expected).max() + 0.05

    def loss(params, variables):
        out, after = half.apply(key, params, variables, None, images, train=True)
        return jnp.mean(out**2), after

    program = jax.make_jaxpr(jax.grad(loss, has_aux=True))(*other)
    assert all(a.dtype == jnp.float32 for a in program.out_avals)
    text = str(program)
    assert "bf16" in text and "f32[4,8,8,16]" not in text  # no activation is whole


def test_other_settings_are_refused():
    with pytest.raises(ValueError, match=r"ResNet: width must be .*got 0"):
        ResNet(width=0)
    with pytest.raises(ValueError, match=r"ResNet: num_classes must be .*got 0"):
        ResNet(num_classes=0)
    with pytest.raises(ValueError, match=r"ResNet takes images .*got shape \(2, 784\)"):
        ResNet().init(jax.random.key(0), jnp.zeros((2, 784)))


@pytest.mark.parametrize("build", BUILDERS.values())
def test_other_dtypes_are_refused(build):
    with pytest.raises(ValueError, match=r"dtype must be jnp.float32, .* got 'half'"):
        build(dtype="half")
