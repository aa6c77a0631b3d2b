"""Draws random numbers for many hyperparameters at once."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

UNIFORM_STEP = 2.0**-23
"""The step between uniform numbers, which have 23 random bits."""


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


def whole_of_two(count: int, uniform: jax.Array, rest: jax.Array) -> jax.Array:
    """Turns two numbers from 0 to below 1 into a whole one below a `count` of 32 bits.

    It is `floor((uniform + rest / 2**23) * count)`, exactly: the probabilities of two
    numbers differ by less than `count / 2**46` of one. Returns `u32[...]`.
    """
    first, second = ((u * 2**23).astype(jnp.uint32) for u in (uniform, rest))
    # 46 bits at the top of two words, of whose product with `count` the top is taken.
    high, low = (first << 9) | (second >> 14), second << 18
    number = jnp.uint32(count)
    carried = high * number
    carried = carried + _top_of_product(low, number) < carried
    return _top_of_product(high, number) + carried.astype(jnp.uint32)


def _top_of_product(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the upper 32 of the 64 bits of a product of `u32[...]`."""
    (x1, x0), (y1, y0) = ((word >> 16, word & 0xFFFF) for word in (x, y))
    middle = x1 * y0 + ((x0 * y0) >> 16)
    other = x0 * y1 + (middle & 0xFFFF)
    return x1 * y1 + (middle >> 16) + (other >> 16)
