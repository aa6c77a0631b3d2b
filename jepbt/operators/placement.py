"""Which slot a child takes: its parent's own where that is free, or one near it."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def settle(parents: jax.Array, is_child: jax.Array) -> jax.Array:
    """Deals children out to slots so that few rows of weights move, and none far.

    Which child lands in which slot means nothing to evolution. So each parent that does
    not stay itself leaves its slot to its first child, and the other children take the
    free slots in the order of their parents. Then no parent is overwritten, which lets
    `inherit` copy in place, and hardly any child leaves its parent's device.

    Args:
        parents: `i32[P]` of the child drawn in each slot; one that stays is its own.
        is_child: `bool[P]` slots that children take; the others stay.

    Returns:
        `i32[P]` which slot's child each slot gets; itself where a member stays.

    Example:
        Slot 0 stays. Slot 2 has two children, of which one takes its place:

        >>> import jax.numpy as jnp
        >>> parents = jnp.array([0, 2, 0, 2])
        >>> order = settle(parents, jnp.array([False, True, True, True]))
        >>> order.tolist(), parents[order].tolist()
        ([0, 2, 1, 3], [0, 0, 2, 2])
    """
    slots = jnp.arange(parents.size)
    nobody = parents.size
    children = jnp.where(is_child, slots, nobody)
    first = jnp.full(nobody, nobody).at[parents].min(children)
    is_left = is_child & (first < nobody)
    is_placed = is_child & is_child[parents] & (first[parents] == slots)
    # The rest, by their parents, in the slots that are still free.
    rest = jnp.argsort(jnp.where(is_child & ~is_placed, parents, nobody), stable=True)
    is_free = is_child & ~is_left
    order = jnp.where(is_left, first, slots)
    return jnp.where(is_free, rest[jnp.cumsum(is_free) - 1], order)
