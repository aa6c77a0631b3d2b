"""One table decides how a layer is lowered, and every form computes the same."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from numerics import enable_x64

import jepbt
from jepbt import nn
from jepbt.engine.batches import read_by_each
from jepbt.nn import lowering
from jepbt.nn.convolution import FORMS

NHWC = ("NHWC", "HWIO", "NHWC")


def population_gradients(convolve, padding, strides):
    """`(images [P, ...], kernels [P, ...]) -> gradients of both`, each member's own."""

    def weigh(lhs, rhs):
        out = convolve(lhs, rhs, strides, padding, dimension_numbers=NHWC)
        return jnp.sin(out).sum()

    return jax.vmap(jax.value_and_grad(weigh, (0, 1)))


KERNELS = (3, 2, 4), (3, 3, 4), (5, 4, 4), (2, 2, 130), (1, 1, 4)


@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("channels", [1, 9])
@pytest.mark.parametrize("form", FORMS)
def test_a_population_in_every_form_equals_laxs(form, channels, kernel, strides):
    """To 1e-11 in float64, values and both gradients, of images of an odd size too."""
    draw = np.random.default_rng(0).normal
    height, width, num_features = kernel
    images, kernels = (
        draw(size=(3, 2, 7, 6, channels)),
        draw(size=(3, height, width, channels, num_features)),
    )
    ours = functools.partial(nn.conv_general_dilated, form=form)
    with enable_x64(True):
        got, expected = (
            jax.jit(population_gradients(convolve, ((1, 0), (2, 1)), strides))(
                images, kernels
            )
            for convolve in (ours, lax.conv_general_dilated)
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), got, expected
        )


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_gradients_equal_laxs(form):
    """To 1e-11 in float64, of members that see the same images."""
    draw = np.random.default_rng(0).normal
    images, kernels = draw(size=(2, 5, 4, 9)), draw(size=(3, 3, 3, 9, 2))
    ours = functools.partial(nn.conv_general_dilated, form=form)

    def second_gradients(convolve):
        def weigh(lhs, rhs):
            out = convolve(lhs, rhs, (1, 1), "SAME", dimension_numbers=NHWC)
            return jnp.sin(out).sum()

        def weigh_gradients(lhs, rhs):
            gradients = jax.grad(weigh, (0, 1))(lhs, rhs)
            return sum(jnp.sin(gradient).sum() for gradient in gradients)

        return jax.vmap(jax.grad(weigh_gradients, (0, 1)), (None, 0))

    with enable_x64(True):
        got, expected = (
            jax.jit(second_gradients(convolve))(images, kernels)
            for convolve in (ours, lax.conv_general_dilated)
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), got, expected
        )


def compiled_for(platform, forms=()):
    images, kernels = jnp.zeros((4, 2, 8, 8, 9)), jnp.zeros((4, 3, 3, 9, 4))
    run = population_gradients(nn.conv_general_dilated, "SAME", (1, 1))
    with lowering.trying("tpu" if platform == "tpu" else "gpu", dict(forms)):
        traced = jax.jit(run).trace(images, kernels)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_where_nothing_better_is_known_xla_convolves():
    assert "feature_group_count = 4" in compiled_for("tpu")


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_on_every_gpu_windows_are_multiplied_in_one_batch(platform):
    text = compiled_for(platform)
    assert "stablehlo.convolution" not in text
    assert "stablehlo.dot_general" in text and "batching_dims = [0]" in text


def test_a_form_can_be_tried_and_is_forgotten():
    forms = {"convolution": lowering.XLA}
    assert "feature_group_count = 4" in compiled_for("cuda", forms)
    assert "feature_group_count" not in compiled_for("cuda")


def test_windows_are_not_kept_for_gradients():
    """They would take four times the memory of the images."""
    images, kernel = jnp.ones((2, 8, 8, 9)), jnp.ones((3, 3, 9, 4))

    def convolve(images, kernel):
        shape = (1, 1), "SAME"
        return nn.conv_general_dilated(
            images, kernel, *shape, dimension_numbers=NHWC, form="windows"
        )

    _, backward = jax.vjp(convolve, images, kernel)
    kept = sum(leaf.size for leaf in jax.tree.leaves(backward))
    assert kept <= images.size + kernel.size
    text = jax.jit(jax.grad(lambda *args: convolve(*args).sum(), (0, 1)))
    assert "optimization_barrier" in text.lower(images, kernel).as_text()


def test_forms_of_platforms_that_are_not_here_are_not_traced():
    def traced():
        run = population_gradients(nn.conv_general_dilated, "SAME", (1, 1))
        args = jnp.zeros((4, 2, 8, 8, 9)), jnp.zeros((4, 3, 3, 9, 4))
        return str(jax.make_jaxpr(run)(*args))

    here = {"cpu", jax.default_backend()}
    if "gpu" not in here:
        assert "remat" not in traced()
    with lowering.trying("gpu", {}):
        assert "remat" in traced()


def test_members_on_a_gpu_read_a_shared_batch_each_for_itself():
    """Else their first layers become one matrix, transposed in every step."""
    data = jnp.arange(20.0).reshape(10, 2)
    weights, rows = jnp.arange(12.0).reshape(3, 2, 2), jnp.array([7, 1, 7, 0])

    def first_layer(weights, rows):
        return data[read_by_each(weights, rows)] @ weights

    def is_batched(platform, forms):
        with lowering.trying("gpu", forms):
            traced = jax.jit(jax.vmap(first_layer, (0, None))).trace(weights, rows)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return "batching_dims = [0]" in text

    assert is_batched("cuda", {})
    assert not is_batched("cuda", {"batch": lowering.XLA})
    assert not is_batched("cpu", {"batch": lowering.XLA})
    np.testing.assert_array_equal(
        jax.vmap(first_layer, (0, None))(weights, rows),
        np.stack([data[rows] @ each for each in weights]),
    )


def test_a_form_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="form='fft' must be one of 'xla', 'in turn'"):
        nn.conv_general_dilated(
            *2 * [jnp.ones((1, 1, 1, 1))], (1, 1), "SAME", form="fft"
        )


def test_every_decision_names_its_evidence():
    for row in lowering.TABLE:
        assert row.evidence
        assert lowering.decide(row.platform, row.layer, row.most_flops) == row
    row = lowering.decide("metal", "members", 1e6)
    assert row.form is None and row.evidence == "unknown on metal, so XLA's default"


def test_nothing_else_asks_for_a_platform():
    """Beside the table, one file knows facts of devices: flags, and shared memory."""
    folder = pathlib.Path(jepbt.__file__).parent
    asks = re.compile(r"platform\s*(==|!=|in\b)|default_backend|platform_dependent")
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        if asks.search(path.read_text())
    }
    assert found == {"nn/lowering.py", "engine/devices.py"}
