"""Copies members over others: in place on CPU, around a ring of devices elsewhere."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jepbt.engine.devices import AXIS
from jepbt.engine.row_copies import pass_on, share_of, write_rows

PyTree: TypeAlias = Any

_BLOCK_BYTES = 2**20
"""That are copied out and back in at a time: what a cache holds."""

_SMALL_BYTES = 2**13
"""Of one member's part of a leaf, up to which the leaf is copied with others."""


def inherit(population: PyTree, parents: jax.Array, mesh: Mesh | None = None) -> PyTree:
    """Fills slot `i` with a copy of member `parents[i]`.

    On CPU, where a new array costs more than the copying, this happens in place: only
    the rows that change are written if no parent is itself replaced (`placement.settle`
    sees to that), and for any other parents some columns of all rows at a time. On
    accelerators, for which a loop over rows is slow, a second population is written:
    every share travels around the ring of devices once, and each device picks what it
    needs from the share that passes. A plain gather would hold the whole population on
    each device.

    Args:
        population: leaves `[P, ...]`, sharded over the mesh if there is one.
        parents: `i32[P]`, from 0 to `P - 1`.
        mesh: of one axis named "population"; `None` for a plain gather, which can be
            batched.

    Returns:
        Like `population`, which should be donated.

    Example:
        >>> import jax.numpy as jnp
        >>> inherit(jnp.array([10, 11, 12]), jnp.array([1, 0, 1])).tolist()
        [11, 10, 11]
    """
    if mesh is None:
        return jax.tree.map(lambda leaf: leaf[parents], population)
    copy = _copy_in_place if mesh.devices.flat[0].platform == "cpu" else _pass_shares

    def share(members, parents):
        device = lax.axis_index(AXIS) if mesh.size > 1 else 0
        return copy(members, parents, device, mesh.size)

    if mesh.size == 1:
        return share(population, parents)
    over, whole = PartitionSpec(AXIS), PartitionSpec()
    return jax.shard_map(
        share, mesh=mesh, in_specs=(over, whole), out_specs=over, check_vma=False
    )(population, parents)


def _copy_in_place(
    members: PyTree, parents: jax.Array, device: jax.Array, num_devices: int
) -> PyTree:
    plain = jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, members)
    leaves, structure = jax.tree.flatten(plain)
    is_small = [leaf.nbytes <= leaf.shape[0] * _SMALL_BYTES for leaf in leaves]
    small = [leaf for leaf, s in zip(leaves, is_small, strict=True) if s]
    large = [leaf for leaf, s in zip(leaves, is_small, strict=True) if not s]
    small = iter(_copy_joined(small, parents, device, num_devices))
    # Loops that may have no turn: a condition would copy the population.
    is_settled = jnp.all(parents[parents] == parents)
    large = lax.fori_loop(
        0,
        jnp.where(is_settled, 0, 1),
        lambda _, large: _move_columns(large, parents, device, num_devices),
        large,
    )
    remaining = jnp.where(is_settled, parents, jnp.arange(parents.size))
    large = iter(write_rows(large, remaining, device, num_devices))
    leaves = [next(small) if s else next(large) for s in is_small]
    return jax.tree.map(_like, structure.unflatten(leaves), members)


def _copy_joined(
    leaves: list[jax.Array], parents: jax.Array, device: jax.Array, num_devices: int
) -> list[jax.Array]:
    """Copies small leaves as one for each dtype: each loop takes time to compile."""
    by_dtype = {}
    for number, leaf in enumerate(leaves):
        by_dtype.setdefault(leaf.dtype, []).append(number)
    for numbers in by_dtype.values():
        flat = [leaves[n].reshape(leaves[n].shape[0], -1) for n in numbers]
        ends = np.cumsum([leaf.shape[1] for leaf in flat])
        joined = _pass_shares(jnp.concatenate(flat, 1), parents, device, num_devices)
        for number, part in zip(numbers, jnp.split(joined, ends[:-1], 1), strict=True):
            leaves[number] = part.reshape(leaves[number].shape)
    return leaves


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _like(plain: jax.Array, leaf: jax.Array) -> jax.Array:
    if not _is_key(leaf):
        return plain
    return jax.random.wrap_key_data(plain, impl=jax.random.key_impl(leaf))


def _pass_shares(
    members: PyTree, parents: jax.Array, device: jax.Array, num_devices: int
) -> PyTree:
    """Copies any rows over any others, into new arrays."""
    mine = share_of(parents, device, num_devices)
    owners, places = mine // mine.size, mine % mine.size

    def of_leaf(members):
        def pick(chosen, passing, source):
            mask = jnp.reshape(owners == source, (-1,) + (1,) * (passing.ndim - 1))
            return jnp.where(mask, passing[places], chosen)

        def turn(number, carried):
            chosen, passing = carried
            passing = pass_on(passing, num_devices)
            return pick(chosen, passing, (device - number) % num_devices), passing

        if num_devices == 1:
            return members[places]
        near = pick(members, members, device)
        chosen, _ = lax.fori_loop(1, num_devices, turn, (near, members))
        return chosen

    return jax.tree.map(of_leaf, members)


def _move_columns(
    members: PyTree, parents: jax.Array, device: jax.Array, num_devices: int
) -> PyTree:
    """Copies any rows over any others, some columns of all rows at a time."""

    def move(columns):
        return _pass_shares(columns, parents, device, num_devices)

    def of_leaf(leaf):
        num_columns = math.prod(leaf.shape[1:])
        if num_columns == 0:
            return leaf
        column_bytes = leaf.shape[0] * leaf.dtype.itemsize
        width = min(max(1, _BLOCK_BYTES // column_bytes), num_columns)

        def turn(number, flat):
            block = lax.dynamic_slice_in_dim(flat, number * width, width, 1)
            return lax.dynamic_update_slice_in_dim(flat, move(block), number * width, 1)

        flat = leaf.reshape(-1, num_columns)
        flat = lax.fori_loop(0, num_columns // width, turn, flat)
        rest = num_columns % width
        if rest:
            flat = flat.at[:, -rest:].set(move(flat[:, -rest:]))
        return flat.reshape(leaf.shape)

    return jax.tree.map(of_leaf, members)
