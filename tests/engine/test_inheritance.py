"""Copying members over others equals indexing, on one device and around a ring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepbt.engine import make_mesh
from jepbt.engine.devices import over_members, replicated
from jepbt.engine.inheritance import inherit


def draw(num_members, *shapes):
    generator = np.random.default_rng(0)
    return [
        generator.normal(size=(num_members, *shape)).astype(np.float32)
        for shape in shapes
    ]


def compiled(population, num_devices):
    mesh = make_mesh(jax.devices()[:num_devices])
    over, whole = over_members(mesh), replicated(mesh)
    program = jax.jit(
        lambda population, parents: inherit(population, parents, mesh),
        in_shardings=(over, whole),
        out_shardings=over,
        donate_argnums=0,
    )
    parents = jax.ShapeDtypeStruct((len(population[0]),), np.int32)
    return program.lower(population, parents).compile(), over


def any_parents(num_members):
    generator = np.random.default_rng(1)
    everyone = np.arange(num_members)
    return [
        everyone,  # all stay
        everyone[::-1],  # all change places
        everyone // 2 * 2,  # neighbours, on the same device
        (everyone + 2) % num_members,  # everyone from the next device
        *(generator.integers(0, num_members, num_members) for _ in range(10)),
    ]


def test_a_large_leaf_is_copied_in_blocks_which_equal_indexing():
    """1.3 MB of 40,000 columns in 64 blocks; 33,431 = 101 * 331 columns as a whole."""
    population = draw(8, (400, 100), (101, 331))
    run, over = compiled(population, 1)
    assert "while" in run.as_text()
    for parents in any_parents(8):
        placed = jax.device_put(population, over)
        for leaf, result in zip(population, run(placed, parents), strict=True):
            np.testing.assert_array_equal(result, leaf[parents])


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_inheriting_equals_indexing_for_any_parents(num_devices):
    population = draw(8, (3,), (2, 5), ())
    run, over = compiled(population, num_devices)
    for parents in any_parents(8):
        inherited = run(jax.device_put(population, over), parents.astype(np.int32))
        for leaf, before in zip(inherited, population, strict=True):
            np.testing.assert_array_equal(leaf, before[parents])


@pytest.mark.parametrize("num_devices", [1, 4])
def test_leaves_of_every_kind_are_inherited(num_devices):
    numbers = np.arange(8)
    population = {
        "empty": np.zeros((8, 0), np.float32),
        "half": jnp.asarray(numbers[:, None] * np.ones(3), jnp.bfloat16),
        "flag": numbers % 3 == 0,
        "count": numbers.astype(np.int8),
        "key": jax.random.split(jax.random.key(0), 8),
    }
    mesh = make_mesh(jax.devices()[:num_devices])
    copy = jax.jit(lambda population, parents: inherit(population, parents, mesh))
    placed = jax.device_put(population, over_members(mesh))
    for parents in (numbers[::-1], np.full(8, 5)):
        inherited = copy(placed, parents.astype(np.int32))
        assert inherited["empty"].shape == (8, 0)
        for name in ("half", "flag", "count"):
            assert inherited[name].dtype == population[name].dtype
            np.testing.assert_array_equal(
                np.asarray(inherited[name]), np.asarray(population[name])[parents]
            )
        np.testing.assert_array_equal(
            jax.random.key_data(inherited["key"]),
            np.asarray(jax.random.key_data(population["key"]))[parents],
        )


@pytest.mark.devices(4)
def test_a_ring_holds_one_share_in_passing():
    """Eight equal leaves on 4 devices: at most 1.25 shares of temporaries.

    One share passes, and the largest leaf is written twice. A gather holds 4 shares.
    """
    population = draw(8, *[(64, 64)] * 8)
    share = sum(leaf.nbytes for leaf in population) / 4
    run, _ = compiled(population, 4)
    memory = run.memory_analysis()
    assert memory.temp_size_in_bytes <= 1.25 * share
    assert memory.alias_size_in_bytes >= share  # the donated population is reused
