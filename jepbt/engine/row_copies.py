"""Copies rows that stay over rows that do not, in place, on one or several devices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jepbt.engine.devices import AXIS

PyTree: TypeAlias = Any


def share_of(array: jax.Array, device: jax.Array, num_devices: int) -> jax.Array:
    """Takes one device's part of an array of one axis."""
    size = array.size // num_devices
    return lax.dynamic_slice_in_dim(array, device * size, size)


def pass_on(array: jax.Array, num_devices: int) -> jax.Array:
    """Sends an array to the next device of the ring, and returns what comes in."""
    ring = [(i, (i + 1) % num_devices) for i in range(num_devices)]
    return lax.ppermute(array, AXIS, ring)


def write_rows(
    members: PyTree, parents: jax.Array, device: jax.Array, num_devices: int
) -> PyTree:
    """Fills slot `i` with a copy of member `parents[i]`, where no parent is replaced.

    XLA writes into the arrays it is given, row by row, since it sees rows read from
    one place and written to another: their order does not matter, and nothing but the
    rows that change is touched.

    Args:
        members: a device's share, leaves `[P / num_devices, ...]`.
        parents: `i32[P]`, the same on all devices, with `parents[parents] == parents`.
        device: `i32[]`, which share this is.
        num_devices: that hold a share.

    Returns:
        Like `members`.
    """
    slots = jnp.arange(parents.size)
    mine, my_slots = (share_of(x, device, num_devices) for x in (parents, slots))
    size = mine.size
    is_near = mine // size == device

    def copy(place, members):
        read = lambda leaf: _row(leaf, mine[place] % size)  # noqa: E731
        return _write(members, jax.tree.map(read, members), place)

    members = _for_each(is_near & (mine != my_slots), copy, members)
    if num_devices == 1:
        return members
    # Rows that are wanted elsewhere, first on each device: in rounds of a few they
    # circle, and every device takes from those of another what it needs.
    wanted = jnp.zeros(parents.size, bool)
    wanted = wanted.at[parents].max(parents // size != slots // size)
    wanted = wanted.reshape(num_devices, size)
    order = jnp.argsort(~wanted, 1, stable=True)
    rank = jnp.argsort(order, 1).ravel()[mine]
    per_round = min(2, max(1, size // 8))
    num_rounds = -(-jnp.max(jnp.sum(wanted, 1)) // per_round)

    def circle(number, members):
        def load(place, packed):
            row = order[device, jnp.minimum(number * per_round + place, size - 1)]
            return _pack(packed, members, row, place)

        packed = lax.fori_loop(0, per_round, load, _empty_packs(members, per_round))

        def turn(hops, carried):
            members, packed = carried
            packed = [pass_on(pack, num_devices) for pack in packed]
            is_here = mine // size == (device - hops) % num_devices
            is_here &= ~is_near & (rank // per_round == number)

            def take(place, members):
                row = _unpack(packed, members, rank[place] % per_round)
                return _write(members, row, place)

            return _for_each(is_here, take, members), packed

        return lax.fori_loop(1, num_devices, turn, (members, packed))[0]

    return lax.fori_loop(0, num_rounds, circle, members)


def _for_each(mask: jax.Array, body: Callable[..., PyTree], carried: PyTree) -> PyTree:
    """Calls `body(place, carried)` for the places that a mask marks, and no others."""
    places = jnp.argsort(~mask, stable=True)
    return lax.fori_loop(
        0, jnp.sum(mask), lambda i, carried: body(places[i], carried), carried
    )


def _row(leaf: jax.Array, place: jax.Array) -> jax.Array:
    return lax.dynamic_index_in_dim(leaf, place, 0)


def _write(members: PyTree, row: PyTree, place: jax.Array) -> PyTree:
    def write(leaf, row):
        return lax.dynamic_update_index_in_dim(leaf, row, place, 0)

    return jax.tree.map(write, members, row)


# All leaves of one dtype travel as one array: a collective costs as much as copying a
# hundred kilobytes.


def _groups(members: PyTree) -> list[list[tuple[int, jax.Array, int, int]]]:
    """Groups leaves by dtype: `(number, leaf, offset, size)` of each in its pack."""
    groups = {}
    for number, leaf in enumerate(jax.tree.leaves(members)):
        group = groups.setdefault(leaf.dtype, [])
        offset = group[-1][2] + group[-1][3] if group else 0
        group.append((number, leaf, offset, math.prod(leaf.shape[1:])))
    return list(groups.values())


def _empty_packs(members: PyTree, num_rows: int) -> list[jax.Array]:
    def empty(group):
        _, leaf, offset, size = group[-1]
        return jnp.zeros((num_rows, offset + size), leaf.dtype)

    return [empty(group) for group in _groups(members)]


def _pack(
    packed: list[jax.Array], members: PyTree, row: jax.Array, place: jax.Array
) -> list[jax.Array]:
    def fill(pack, group):
        for _, leaf, offset, _ in group:
            flat = _row(leaf, row).reshape(1, -1)
            pack = lax.dynamic_update_slice(pack, flat, (place, offset))
        return pack

    return [fill(*pair) for pair in zip(packed, _groups(members), strict=True)]


def _unpack(packed: list[jax.Array], members: PyTree, place: jax.Array) -> PyTree:
    leaves, structure = jax.tree.flatten(members)
    for pack, group in zip(packed, _groups(members), strict=True):
        for number, leaf, offset, size in group:
            flat = lax.dynamic_slice(pack, (place, offset), (1, size))
            leaves[number] = flat.reshape(1, *leaf.shape[1:])
    return structure.unflatten(leaves)
