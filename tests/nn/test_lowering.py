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
from jepbt.nn import lowering
from jepbt.nn.convolution import FORMS

NHWC = ("NHWC", "HWIO", "NHWC")


def population_gradients(convolve, padding, strides):
    """`(images [P, ...], kernels [P, ...]) -> gradients of both`, each member's own."""

    def weigh(lhs, rhs):
        out = convolve(lhs, rhs, strides, padding, dimension_numbers=NHWC)
        return jnp.sin(out).sum()

    return jax.vmap(jax.value_and_grad(weigh, (0, 1)))


@pytest.mark.parametrize("channels", [1, 9])
@pytest.mark.parametrize("form", FORMS)
def test_a_population_in_every_form_equals_laxs(form, channels):
    """To 1e-11 in float64, values and both gradients."""
    draw = np.random.default_rng(0).normal
    images, kernels = (
        draw(size=(3, 2, 7, 6, channels)),
        draw(size=(3, 3, 2, channels, 4)),
    )
    ours = functools.partial(nn.conv_general_dilated, form=form)
    with enable_x64(True):
        got, expected = (
            jax.jit(population_gradients(convolve, ((1, 0), (2, 1)), (2, 1)))(
                images, kernels
            )
            for convolve in (ours, lax.conv_general_dilated)
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), got, expected
        )


def compiled_for(platform):
    images, kernels = jnp.zeros((4, 2, 8, 8, 9)), jnp.zeros((4, 3, 3, 9, 4))
    run = population_gradients(nn.conv_general_dilated, "SAME", (1, 1))
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
    with lowering.trying("gpu", {"convolution": lowering.XLA}):
        assert "feature_group_count = 4" in compiled_for("cuda")
    assert "feature_group_count" not in compiled_for("cuda")


def test_windows_are_not_kept_for_gradients():
    """They would take nine times the memory of the images."""
    images, kernel = jnp.ones((2, 8, 8, 9)), jnp.ones((3, 3, 9, 4))

    def convolve(images, kernel):
        shape = (1, 1), "SAME"
        return nn.conv_general_dilated(
            images, kernel, *shape, dimension_numbers=NHWC, form="windows"
        )

    _, backward = jax.vjp(convolve, images, kernel)
    kept = sum(leaf.size for leaf in jax.tree.leaves(backward))
    assert kept <= images.size + kernel.size


def test_a_form_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="form='fft' must be one of 'xla', 'in turn'"):
        nn.conv_general_dilated(
            *2 * [jnp.ones((1, 1, 1, 1))], (1, 1), "SAME", form="fft"
        )


def test_every_decision_names_its_evidence():
    for row in lowering.TABLE:
        assert row.evidence and row.detail
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
