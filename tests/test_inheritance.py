"""Copying members over others equals indexing, on one device and around a ring."""

import jax
import numpy as np
import pytest

from jepbt.execution import make_mesh, over_members, replicated
from jepbt.inheritance import inherit

NUM_MEMBERS = 8


def draw(*shapes):
    generator = np.random.default_rng(0)
    return [
        generator.normal(size=(NUM_MEMBERS, *shape)).astype(np.float32)
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
    parents = jax.ShapeDtypeStruct((NUM_MEMBERS,), np.int32)
    return program.lower(population, parents).compile(), over


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_inheriting_equals_indexing_for_any_parents(num_devices):
    population = draw((3,), (2, 5), ())
    run, over = compiled(population, num_devices)
    generator = np.random.default_rng(1)
    everyone = np.arange(NUM_MEMBERS)
    cases = [
        everyone,  # all stay
        everyone[::-1],  # all change places
        np.full(NUM_MEMBERS, 3),  # one takes over
        everyone // 2 * 2,  # neighbours, on the same device
        (everyone + 2) % NUM_MEMBERS,  # everyone from the next device
        *(generator.integers(0, NUM_MEMBERS, NUM_MEMBERS) for _ in range(20)),
    ]
    for parents in cases:
        inherited = run(jax.device_put(population, over), parents.astype(np.int32))
        for leaf, before in zip(inherited, population, strict=True):
            np.testing.assert_array_equal(leaf, before[parents])


def test_a_ring_holds_one_share_in_passing():
    """Eight equal leaves on 4 devices: at most 1.25 shares of temporaries.

    One share passes, and the largest leaf is written twice. A gather holds 4 shares.
    """
    population = draw(*[(64, 64)] * 8)
    share = sum(leaf.nbytes for leaf in population) / 4
    run, _ = compiled(population, 4)
    memory = run.memory_analysis()
    assert memory.temp_size_in_bytes <= 1.25 * share
    assert memory.alias_size_in_bytes >= share  # the donated population is reused
