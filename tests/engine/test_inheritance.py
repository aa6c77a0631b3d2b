"""Copying members over others equals indexing, in place and around a ring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from jepbt.engine import inheritance, make_mesh
from jepbt.engine.devices import AXIS, over_members, replicated
from jepbt.engine.inheritance import inherit


def draw(num_members, *shapes):
    generator = np.random.default_rng(0)
    return [
        generator.normal(size=(num_members, *shape)).astype(np.float32)
        for shape in shapes
    ]


def compiled(population, num_devices, copy=inherit):
    mesh = make_mesh(jax.devices()[:num_devices])
    over, whole = over_members(mesh), replicated(mesh)
    program = jax.jit(
        lambda population, parents: copy(population, parents, mesh),
        in_shardings=(over, whole),
        out_shardings=over,
        donate_argnums=0,
    )
    parents = jax.ShapeDtypeStruct((len(population[0]),), np.int32)
    return program.lower(population, parents).compile(), over


def around_the_ring(population, parents, mesh):
    """What accelerators do."""

    def share(members, parents):
        device = lax.axis_index(AXIS)
        return inheritance._pass_shares(members, parents, device, mesh.size)

    over = PartitionSpec(AXIS)
    return jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(over, PartitionSpec()),
        out_specs=over,
        check_vma=False,
    )(population, parents)


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


def settled_parents(num_members):
    """No parent is itself replaced."""
    generator = np.random.default_rng(2)
    cases = [np.full(num_members, num_members // 2)]  # one takes over
    for _ in range(20):
        parents = np.arange(num_members)
        stays = generator.random(num_members) < generator.random()
        stays[generator.integers(num_members)] = True
        donors = generator.choice(np.flatnonzero(stays), num_members)
        cases.append(np.where(stays, parents, donors))
    return cases


@pytest.mark.parametrize("copy", [inherit, around_the_ring])
@pytest.mark.parametrize("num_devices", [1, 2, 4])
@pytest.mark.parametrize("num_members", [8, 64])
def test_inheriting_equals_indexing_for_any_parents(
    monkeypatch, num_members, num_devices, copy
):
    """Three columns at a time, so that a leaf takes several turns and a rest.

    The leaf of single numbers is a small one, copied as a whole.
    """
    monkeypatch.setattr(inheritance, "_SMALL_BYTES", 4)
    share_bytes = num_members // num_devices * 4
    monkeypatch.setattr(inheritance, "_BLOCK_BYTES", 3 * share_bytes)
    population = draw(num_members, (3,), (2, 5), ())
    run, over = compiled(population, num_devices, copy)
    for parents in any_parents(num_members) + settled_parents(num_members):
        inherited = run(jax.device_put(population, over), parents.astype(np.int32))
        for leaf, before in zip(inherited, population, strict=True):
            np.testing.assert_array_equal(leaf, before[parents])


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("small", [0, 2**13])
def test_leaves_of_every_kind_are_inherited(monkeypatch, small, num_devices):
    monkeypatch.setattr(inheritance, "_SMALL_BYTES", small)
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


def test_a_ring_holds_one_share_in_passing():
    """Eight equal leaves on 4 devices: at most 1.25 shares of temporaries.

    One share passes, and the largest leaf is written twice. A gather holds 4 shares.
    """
    population = draw(8, *[(64, 64)] * 8)
    share = sum(leaf.nbytes for leaf in population) / 4
    run, _ = compiled(population, 4, around_the_ring)
    memory = run.memory_analysis()
    assert memory.temp_size_in_bytes <= 1.25 * share
    assert memory.alias_size_in_bytes >= share  # the donated population is reused


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_in_place_means_without_a_second_population(num_devices):
    """Of 64 rows of 1 MB, two travel at a time, and blocks of 1 MB: a few MB."""
    population = draw(64, (4, 256, 128), (512, 256))
    share = sum(leaf.nbytes for leaf in population) / num_devices
    run, _ = compiled(population, num_devices)
    memory = run.memory_analysis()
    assert memory.alias_size_in_bytes >= share
    assert memory.temp_size_in_bytes <= 9e6
