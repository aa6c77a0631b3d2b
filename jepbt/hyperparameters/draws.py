"""Draws random numbers for many hyperparameters at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def draw_for(key: jax.Array, leaves: Sequence[jax.Array], number: int) -> jax.Array:
    """Draws `number` uniform numbers for every entry of a population's leaves.

    Returns `f32[number, P, D]` for the `D` entries that a member has in all leaves
    together; `columns` cuts it into a part for each. One draw serves all, because a
    program with a draw for each leaf takes several times as long to compile.
    """
    width = sum(math.prod(leaf.shape[1:]) for leaf in leaves)
    return jax.random.uniform(key, (number, leaves[0].shape[0], width), jnp.float32)


def columns(joined: jax.Array, leaves: Sequence[jax.Array]) -> list[jax.Array]:
    """Cuts `[..., P, D]`, as `draw_for` returns it, into a part for each leaf."""
    widths = [math.prod(leaf.shape[1:]) for leaf in leaves]
    parts = jnp.split(joined, np.cumsum(widths)[:-1], axis=-1)
    front = joined.shape[:-1]
    return [
        part.reshape(*front, *leaf.shape[1:])
        for part, leaf in zip(parts, leaves, strict=True)
    ]


def normal(uniform: jax.Array) -> jax.Array:
    """Turns numbers from 0 to below 1 into standard normal ones, all of them finite."""
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    return math.sqrt(2) * jax.lax.erf_inv(jnp.maximum(2 * uniform - 1, lowest))


def whole_below(count: int | jax.Array, uniform: jax.Array) -> jax.Array:
    """Turns numbers from 0 to below 1 into whole numbers from 0 to below `count`.

    Much smaller in a program than `jax.random.randint`. The numbers are not exactly
    equally likely, but their probabilities differ by less than `count / 2**23` of one.
    """
    # `uniform` is at most 1 - 2**-23: the product rounds to less than `count`.
    return (uniform * count).astype(jnp.int32)
