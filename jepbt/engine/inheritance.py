"""Copies members over members: a gather on one device, a ring over several."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jepbt.engine.devices import AXIS, largest_divisor
from jepbt.population import PyTree


def inherit(population: PyTree, parents: jax.Array, mesh: Mesh | None = None) -> PyTree:
    """Fills slot `i` with a copy of member `parents[i]`.

    Over several devices every share travels around the ring of devices once, and each
    device picks what it needs from the share that passes: a plain gather would hold the
    whole population on each device.

    Args:
        population: leaves `[P, ...]`, sharded over the mesh if there is one.
        parents: `i32[P]`, from 0 to `P - 1`.
        mesh: the devices that share the population; `None` for no sharding.

    Returns:
        A population like the one given.

    Example:
        >>> import jax.numpy as jnp
        >>> inherit(jnp.array([10, 11, 12]), jnp.array([1, 0, 1])).tolist()
        [11, 10, 11]
    """
    if mesh is None or mesh.size == 1:
        return jax.tree.map(lambda leaf: _pick_in_place(leaf, parents), population)
    share, whole = PartitionSpec(AXIS), PartitionSpec()

    def pass_around(members, parents):
        return jax.tree.map(
            lambda leaf: _pick_as_it_passes(leaf, parents, mesh.size), members
        )

    return jax.shard_map(
        pass_around,
        mesh=mesh,
        in_specs=(share, whole),
        out_specs=share,
        check_vma=False,
    )(population, parents)


_FEWEST_BYTES = 2**20
"""Leaves below this size are copied as a whole."""

_MOST_BLOCKS = 64


def _pick_in_place(leaf: jax.Array, parents: jax.Array) -> jax.Array:
    """Picks rows `leaf[parents]`, a block of columns at a time.

    Members trade places only within a column, so that each block may overwrite its own:
    the population is held once, and one block beside it.
    """
    columns = leaf.size // leaf.shape[0]
    blocks = largest_divisor(columns, _MOST_BLOCKS)
    if blocks == 1 or leaf.nbytes < _FEWEST_BYTES:
        return leaf[parents]
    width = columns // blocks

    def pick(number, flat):
        block = lax.dynamic_slice_in_dim(flat, number * width, width, 1)
        picked = block[parents]
        return lax.dynamic_update_slice_in_dim(flat, picked, number * width, 1)

    flat = lax.fori_loop(0, blocks, pick, leaf.reshape(-1, columns))
    return flat.reshape(leaf.shape)


def _pick_as_it_passes(
    leaf: jax.Array, parents: jax.Array, num_devices: int
) -> jax.Array:
    """Takes what one device's slots need from the shares that pass: `[P / n, ...]`."""
    device, size = lax.axis_index(AXIS), leaf.shape[0]
    mine = lax.dynamic_slice_in_dim(parents, device * size, size)
    owners, places = mine // size, mine % size
    ring = [(i, (i + 1) % num_devices) for i in range(num_devices)]

    def pick(chosen, passing, source):
        mask = jnp.reshape(owners == source, (-1,) + (1,) * (leaf.ndim - 1))
        return jnp.where(mask, passing[places], chosen)

    def turn(number, carried):
        chosen, passing = carried
        passing = lax.ppermute(passing, AXIS, ring)
        return pick(chosen, passing, (device - number) % num_devices), passing

    near = pick(leaf, leaf, device)
    return lax.fori_loop(1, num_devices, turn, (near, leaf))[0]
