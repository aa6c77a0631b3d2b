"""Fast layers against lax and flax: values, gradients, batches, other backends."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from numerics import enable_x64

from jepbt import nn
from jepbt.nn import convolution

NHWC = ("NHWC", "HWIO", "NHWC")


def draw(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def value_and_gradients(convolve, strides, padding, **settings):
    """`(lhs, rhs) -> output and both gradients`, of a sum that weighs each output."""

    def outputs(lhs, rhs):
        return convolve(lhs, rhs, strides, padding, dimension_numbers=NHWC, **settings)

    def weigh(lhs, rhs):
        return jnp.sin(outputs(lhs, rhs)).sum()

    return lambda lhs, rhs: (outputs(lhs, rhs), *jax.grad(weigh, (0, 1))(lhs, rhs))


def agree(ours, theirs, atol=1e-11):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), ours, theirs)


def both():
    return nn.conv_general_dilated, lax.conv_general_dilated


@pytest.mark.parametrize("channels", [1, 9])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((0, 1), (2, 0))])
def test_values_and_gradients_equal_laxs(kernel, strides, padding, channels):
    """To 1e-11 in float64."""
    lhs, rhs = draw(2, 9, 8, channels), draw(*kernel, channels, 4)
    with enable_x64(True):
        ours, theirs = (
            jax.jit(value_and_gradients(convolve, strides, padding))(lhs, rhs)
            for convolve in both()
        )
        assert ours[0].dtype == jnp.float64
        agree(ours, theirs)


def test_a_kernels_gradient_is_the_same_in_blocks_of_images(monkeypatch):
    lhs, rhs = draw(12, 9, 8, 9), draw(3, 5, 9, 4)
    with enable_x64(True):
        ours = []
        for limit in (2**30, 4 * 9 * 8 * (5 * 9 + 3 * 4) * 8):  # whole; four at a time
            monkeypatch.setattr(convolution, "_BLOCK_BYTES", limit)
            jax.clear_caches()  # a gradient is traced once for each shape
            run = value_and_gradients(nn.conv_general_dilated, (1, 1), "SAME")
            ours.append(jax.jit(run)(lhs, rhs))
            jaxpr = str(jax.make_jaxpr(run)(lhs, rhs))
            assert ("= scan[" in jaxpr) == (limit < 2**30)
        theirs = value_and_gradients(lax.conv_general_dilated, (1, 1), "SAME")(lhs, rhs)
        agree(ours[0], theirs)
        agree(ours[1], theirs)


@pytest.mark.parametrize("channels", [1, 9])
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_batches_of_images_and_of_kernels_equal_laxs(channels, axes):
    lhs, rhs = draw(3, 2, 7, 6, channels), draw(3, 3, 3, channels, 4)
    args = [x if axis == 0 else x[0] for x, axis in zip((lhs, rhs), axes, strict=True)]
    with enable_x64(True):
        ours, theirs = (
            jax.jit(jax.vmap(value_and_gradients(convolve, (2, 1), "SAME"), axes))(
                *args
            )
            for convolve in both()
        )
        agree(ours, theirs)


def test_batches_of_batches_and_loops_equal_laxs():
    lhs, rhs = draw(2, 3, 2, 6, 6, 9), draw(2, 3, 3, 3, 9, 4)
    with enable_x64(True):
        nested, looped = [], []
        for convolve in both():
            run = value_and_gradients(convolve, (1, 1), "SAME")
            nested.append(jax.jit(jax.vmap(jax.vmap(run)))(lhs, rhs))
            one = jax.jit(lambda *args, run=run: lax.map(lambda a: run(*a), args))
            looped.append(one(lhs[0], rhs[0]))
        agree(*nested)
        agree(*looped)


@pytest.mark.parametrize(
    "settings",
    [
        {"feature_group_count": 3},
        {"rhs_dilation": (2, 1)},
        {"lhs_dilation": (1, 2)},
        {"preferred_element_type": jnp.float32},
    ],
)
def test_what_is_left_to_lax_is_laxs(settings):
    channels = 3 // settings.get("feature_group_count", 1)
    lhs = jnp.asarray(draw(2, 7, 7, 3), jnp.float32)
    rhs = jnp.asarray(draw(3, 3, channels, 6), jnp.float32)
    around = ((1, 1), (1, 1))
    ours, theirs = (
        jax.jit(value_and_gradients(convolve, (1, 1), around, **settings))(lhs, rhs)
        for convolve in both()
    )
    agree(ours, theirs, 1e-5)


def test_on_cpu_a_population_makes_no_grouped_convolution():
    lhs, rhs = jnp.zeros((4, 2, 8, 8, 9)), jnp.zeros((4, 3, 3, 9, 4))

    def text(convolve, platform):
        run = jax.vmap(value_and_gradients(convolve, (1, 1), "SAME"))
        traced = jax.jit(run).trace(lhs, rhs)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    grouped = "feature_group_count = 4"
    assert grouped in text(lax.conv_general_dilated, "cpu")
    assert grouped not in text(nn.conv_general_dilated, "cpu")
    assert grouped in text(nn.conv_general_dilated, "tpu")


def test_flax_layers_take_it_in_place_of_laxs():
    images = jnp.asarray(draw(2, 8, 8, 3), jnp.float32)
    fast = {"conv_general_dilated": nn.conv_general_dilated}
    with jax.numpy_rank_promotion("allow"):
        for settings in ({}, {"strides": 2}, {"padding": "VALID"}):
            plain = linen.Conv(4, (3, 3), **settings)
            variables = plain.init(jax.random.key(0), images)
            ours = linen.Conv(4, (3, 3), **settings, **fast)
            agree(ours.apply(variables, images), plain.apply(variables, images), 1e-5)
            ours, theirs = (
                nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0), **settings, **more)(images)
                for more in (fast, {})
            )
            agree(ours, theirs, 1e-5)


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (1, 7, 9, 2)])
@pytest.mark.parametrize("window", [2, 3])
def test_pooling_equals_flaxs_with_gradients_and_ties(shape, window):
    images = jnp.asarray(np.round(draw(*shape)), jnp.float32)  # rounded: many ties
    weights = draw(shape[0], shape[1] // window, shape[2] // window, 1)
    weights = jnp.asarray(weights, jnp.float32)
    size = (window, window)
    for ours, theirs in (
        (lambda x: nn.max_pool(x, window), lambda x: linen.max_pool(x, size, size)),
        (lambda x: nn.avg_pool(x, window), lambda x: linen.avg_pool(x, size, size)),
    ):
        agree(ours(images), theirs(images), 1e-6)
        agree(
            jax.jit(jax.grad(lambda x, pool=ours: (weights * pool(x)).sum()))(images),
            jax.jit(jax.grad(lambda x, pool=theirs: (weights * pool(x)).sum()))(images),
            1e-6,
        )


def test_pooling_does_not_hide_a_nan():
    images = jnp.zeros((1, 4, 4, 1)).at[0, 3, 2, 0].set(jnp.nan)
    value, pull = jax.vjp(nn.max_pool, images)
    np.testing.assert_array_equal(np.isnan(value[0, :, :, 0]), [[0, 0], [0, 1]])
    assert pull(jnp.ones_like(value))[0].sum() == 4


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(key, rate):
    run = jax.jit(lambda rate: nn.dropout(key, jnp.ones(100_000), rate, train=True))
    dropped = np.asarray(run(rate))
    np.testing.assert_allclose((dropped == 0).mean(), rate, atol=0.006)
    if rate < 1:
        np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - rate), rtol=1e-6)
    assert np.isfinite(jax.grad(lambda rate: run(rate).sum())(rate))


def test_dropout_masks_are_the_keys_own(key):
    x = jnp.ones(10_000)
    first, again = (nn.dropout(key, x, 0.5, train=True) for _ in range(2))
    other = nn.dropout(jax.random.key(1), x, 0.5, train=True)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose((first == other).mean(), 0.5, atol=0.03)
    assert abs(np.corrcoef(first[:5_000], first[5_000:])[0, 1]) < 0.06
    assert abs(np.corrcoef(first[::2], first[1::2])[0, 1]) < 0.06
    assert nn.dropout(key, x, 0.5, train=False) is x


def test_wrong_arguments_are_named(key):
    with pytest.raises(ValueError, match=r"dropout: rate=1.5 must lie in"):
        nn.dropout(key, jnp.ones(3), 1.5, train=True)
    with pytest.raises(ValueError, match=r"max_pool: images must be \[B, H, W, C\]"):
        nn.max_pool(jnp.ones((4, 4)))
    with pytest.raises(ValueError, match="window=0 must be a whole number from 1 up"):
        nn.max_pool(jnp.ones((1, 4, 4, 1)), 0)
