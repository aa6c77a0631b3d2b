"""Draws random numbers for many hyperparameters at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def draw_for(key: jax.Array, leaves: Sequence[jax.Array], number: int) -> jax.Array:
    """Draws uniform numbers for every entry of a population's leaves.

    One draw serves all leaves: a program with a draw for each takes several times as
    long to compile.

    Args:
        key: consumed.
        leaves: arrays `[P, ...]`, whose shapes alone are read.
        number: the count of numbers for each entry.

    Returns:
        `f32[number, P, D]`, from 0 to below 1, for the `D` entries that a member has in
        all leaves together; `columns` cuts it into a part for each leaf.
    """
    width = sum(math.prod(leaf.shape[1:]) for leaf in leaves)
    return jax.random.uniform(key, (number, leaves[0].shape[0], width), jnp.float32)


def columns(joined: jax.Array, leaves: Sequence[jax.Array]) -> list[jax.Array]:
    """Cuts `[..., P, D]`, as `draw_for` returns it, into a part for each leaf.

    Example:
        >>> parts = columns(jnp.ones((5, 9)), [jnp.zeros(5), jnp.zeros((5, 8))])
        >>> [part.shape for part in parts]
        [(5,), (5, 8)]
    """
    widths = [math.prod(leaf.shape[1:]) for leaf in leaves]
    parts = jnp.split(joined, np.cumsum(widths)[:-1], axis=-1)
    front = joined.shape[:-1]
    return [
        part.reshape(*front, *leaf.shape[1:])
        for part, leaf in zip(parts, leaves, strict=True)
    ]


def normal(uniform: jax.Array) -> jax.Array:
    """Turns numbers between 0 and 1 into normal ones, of mean 0 and deviation 1.

    Args:
        uniform: `f32[...]`, from 0 to below 1.

    Returns:
        `f32[...]`, finite.

    Example:
        >>> import jax.numpy as jnp
        >>> [f"{x:.2f}" for x in normal(jnp.array([0.5, 0.975])).tolist()]
        ['0.00', '1.96']
    """
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    return math.sqrt(2) * jax.lax.erf_inv(jnp.maximum(2 * uniform - 1, lowest))


def whole_below(count: int | jax.Array, uniform: jax.Array) -> jax.Array:
    """Turns numbers between 0 and 1 into whole numbers from 0 to below `count`.

    Much smaller in a program than `jax.random.randint`. The numbers are not exactly
    equally likely, but their probabilities differ by less than `count / 2**23` of one.

    Args:
        count: `i32[...]`, at least 1.
        uniform: `f32[...]`, from 0 to below 1.

    Returns:
        `i32[...]`.

    Example:
        >>> import jax.numpy as jnp
        >>> whole_below(3, jnp.array([0.0, 0.4, 0.99])).tolist()
        [0, 1, 2]
    """
    # `uniform` is at most 1 - 2**-23: the product rounds to less than `count`.
    return (uniform * count).astype(jnp.int32)
