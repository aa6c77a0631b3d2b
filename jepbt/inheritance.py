"""Copies members over others, on one device or around a ring of them."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jepbt.execution import AXIS

PyTree: TypeAlias = Any


def inherit(population: PyTree, parents: jax.Array, mesh: Mesh | None = None) -> PyTree:
    """Fills slot `i` with a copy of member `parents[i]`.

    Over devices every share travels around a ring, once, and each device picks what it
    needs from the share that passes: beside the old and the new population it holds
    one share in passing. A plain gather would hold the whole population on each.

    Args:
        population: leaves `[P, ...]`, sharded over the mesh if there is one.
        parents: `i32[P]`, from 0 to `P - 1`.
        mesh: of one axis named "population"; `None` for one device.

    Returns:
        Like `population`.

    Example:
        >>> import jax.numpy as jnp
        >>> inherit(jnp.array([10, 11, 12]), jnp.array([1, 0, 1])).tolist()
        [11, 10, 11]
    """
    if mesh is None or mesh.size == 1:
        return jax.tree.map(lambda leaf: leaf[parents], population)
    num_members = parents.size // mesh.size
    ring = [(i, (i + 1) % mesh.size) for i in range(mesh.size)]

    def share(members, parents):
        device = lax.axis_index(AXIS)
        mine = lax.dynamic_slice_in_dim(parents, device * num_members, num_members)
        owners, places = mine // num_members, mine % num_members

        def of_leaf(members):
            def pick(chosen, passing, source):
                mask = jnp.reshape(owners == source, (-1,) + (1,) * (passing.ndim - 1))
                return jnp.where(mask, passing[places], chosen)

            def turn(number, carried):
                chosen, passing = carried
                passing = lax.ppermute(passing, AXIS, ring)
                return pick(chosen, passing, (device - number) % mesh.size), passing

            near = pick(members, members, device)
            chosen, _ = lax.fori_loop(1, mesh.size, turn, (near, members))
            return chosen

        return jax.tree.map(of_leaf, members)

    over, whole = PartitionSpec(AXIS), PartitionSpec()
    return jax.shard_map(
        share, mesh=mesh, in_specs=(over, whole), out_specs=over, check_vma=False
    )(population, parents)
