"""Where members run must not change what they compute."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepbt.engine import make_mesh, memory
from jepbt.engine.devices import check_chunk, choose_devices, map_members

X = np.arange(24, dtype=np.float32).reshape(8, 3)


def member(x, common):
    """A loop inside, a result of another shape, and something for all."""
    total, _ = jax.lax.scan(lambda c, _: (c * common + x, None), x, None, length=3)
    return {"sum": total.sum(), "twice": 2 * total}


@pytest.mark.parametrize("num_devices", [1, 2, 4])
@pytest.mark.parametrize("chunk_size", [1, 2])
def test_devices_and_chunks_give_what_each_member_gives_alone(num_devices, chunk_size):
    expected = X * (0.5**3 + 0.5**2 + 0.5 + 1)
    mesh = make_mesh(jax.devices()[:num_devices])
    run = jax.jit(map_members(member, mesh=mesh, chunk_size=chunk_size))
    results = run(X, jnp.float32(0.5))
    np.testing.assert_allclose(results["twice"], 2 * expected, rtol=1e-6)
    np.testing.assert_allclose(results["sum"], expected.sum(1), rtol=1e-6)
    assert len(results["twice"].sharding.device_set) == num_devices


@pytest.mark.parametrize("num_groups", [1, 3])
@pytest.mark.devices(2)
def test_gradients_of_convolutions_are_batched_on_several_devices(num_groups):
    """A kernel of ones, its sum's gradient: each pixel counts where it is seen."""
    images = np.arange(9, dtype=np.float32).reshape(1, 3, 1, 3)

    def kernel_gradient(kernel, images):
        def total(kernel):
            return jax.lax.conv_general_dilated(
                images,
                kernel,
                (1, 1),
                "VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=num_groups,
            ).sum()

        return jax.grad(total)(kernel)

    kernels = np.ones((4, 3, 1, 3 // num_groups, 3), np.float32)
    run = map_members(kernel_gradient, mesh=make_mesh(jax.devices()[:2]), chunk_size=2)
    seen = images[0, ..., None] if num_groups == 1 else images[0, :, :, None]
    expected = np.broadcast_to(seen, kernels.shape)
    np.testing.assert_array_equal(jax.jit(run)(kernels, images), expected)


def test_a_chunk_of_all_members_is_one_vmap():
    text = jax.jit(map_members(member, chunk_size=8)).lower(X, 0.5).as_text()
    one_by_one = jax.jit(map_members(member, chunk_size=1)).lower(X, 0.5).as_text()
    assert text.count("stablehlo.while") == 1 < one_by_one.count("stablehlo.while")


@pytest.mark.parametrize(("population_size", "count"), [(8, 4), (6, 3), (7, 1), (1, 1)])
@pytest.mark.devices(4)
def test_the_most_devices_that_divide_the_population_are_used(population_size, count):
    assert len(choose_devices(None, population_size)) == count


def test_chunks_must_divide_a_devices_members():
    check_chunk(4, 16)
    check_chunk("auto", 7)
    with pytest.raises(ValueError, match=r"chunk_size=3 .* one of \[1, 2, 4, 8, 16\]"):
        check_chunk(3, 16)


@pytest.mark.devices("cpu")
def test_memory_is_the_smaller_of_machine_and_control_group(monkeypatch):
    monkeypatch.setattr(memory.pathlib.Path, "read_text", lambda self: "1000\n")
    assert memory.memory_limit(jax.devices("cpu")[0]) == 1000
    monkeypatch.setattr(memory.pathlib.Path, "read_text", lambda self: "max\n")
    assert memory.memory_limit(jax.devices("cpu")[0]) > 1000


@pytest.mark.devices(2)
def test_where_jax_extend_has_changed_a_warning_says_what_to_suspect(monkeypatch):
    """The function is then traced where it is called, and computes the same."""
    monkeypatch.setitem(sys.modules, "jax.extend.core", None)
    mesh = make_mesh(jax.devices()[:2])
    double = map_members(lambda x, factor: factor * x, mesh=mesh)
    with pytest.warns(RuntimeWarning, match="use one device, or an earlier JAX"):
        assert double(jnp.arange(4), 2).tolist() == [0, 2, 4, 6]
