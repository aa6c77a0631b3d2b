"""Pools images; by reshaping, where windows do not overlap and the platform gains."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jepbt.arguments import check_whole
from jepbt.nn.lowering import BLOCKS, XLA, lower


def max_pool(
    images: jax.Array,
    window: int | Sequence[int] = 2,
    *,
    strides: int | Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> jax.Array:
    """Takes the largest value of each window of each image.

    Windows that touch but do not overlap are fast on CPU and GPU; for others, and on
    every other platform, this is `jax.lax.reduce_window`. Among equal values the first
    one, row by row, receives the gradient. Forward-mode derivatives raise `TypeError`.

    Args:
        images: `[B, H, W, C]`.
        window: the size of a window, or its height and width.
        strides: the distance between windows, by default their size.
        padding: "VALID" leaves out rows and columns that do not fill a window; "SAME",
            or `(before, after)` for height and width.

    Returns:
        `[B, H', W', C]`, by default with `H' = H // window`.

    Raises:
        ValueError: if `images` does not have four axes, or `window` or `strides` is
            not a positive integer or a pair of them.

    Example:
        >>> import jax.numpy as jnp
        >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[5.0, 7.0], [13.0, 15.0]]
    """
    return _pool(
        "max_pool", images, window, strides, padding, _block_max, -jnp.inf, lax.max
    )


def avg_pool(
    images: jax.Array,
    window: int | Sequence[int] = 2,
    *,
    strides: int | Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> jax.Array:
    """Averages each window of each image, padding included.

    Args:
        images: `[B, H, W, C]`.
        window: the size of a window, or its height and width.
        strides: the distance between windows, by default their size.
        padding: the same choices as in `max_pool`.

    Returns:
        `[B, H', W', C]`.

    Raises:
        ValueError: for the same reasons as `max_pool`.

    Example:
        >>> import jax.numpy as jnp
        >>> avg_pool(jnp.arange(4.0).reshape(1, 2, 2, 1)).tolist()
        [[[[1.5]]]]
    """

    def block_sum(blocks):
        return blocks.sum((2, 4))

    sums = _pool("avg_pool", images, window, strides, padding, block_sum, 0.0, lax.add)
    return sums / math.prod(_pair("avg_pool", "window", window))


def _pool(name, images, window, strides, padding, over_blocks, initial, combine):
    """Pools touching windows as blocks on CPU, and all else by `reduce_window`."""
    if images.ndim != 4:
        raise ValueError(
            f"{name}: images must be [B, H, W, C], got shape {images.shape}."
        )
    window = _pair(name, "window", window)
    strides = window if strides is None else _pair(name, "strides", strides)
    around = padding if isinstance(padding, str) else ((0, 0), *padding, (0, 0))

    def over_windows(images):
        return lax.reduce_window(
            images, initial, combine, (1, *window, 1), (1, *strides, 1), around
        )

    if strides != window or padding != "VALID":
        return over_windows(images)

    def in_blocks(images):
        return over_blocks(_blocks(images, window))

    forms = {XLA: over_windows, BLOCKS: in_blocks}
    return lower("pooling", forms, images)


def _pair(where: str, name: str, value: int | Sequence[int]) -> tuple[int, ...]:
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{where}: {name}={value!r} must be a whole number, or two.")
    for size in pair:
        check_whole(where, name, size, 1, note=", or two of them")
    return pair


def _blocks(images: jax.Array, window: tuple[int, int]) -> jax.Array:
    """Reshapes to touching windows `[B, H', h, W', w, C]`, and cuts off the rest."""
    num, height, width, channels = images.shape
    height, width = height // window[0], width // window[1]
    images = images[:, : height * window[0], : width * window[1]]
    return images.reshape(num, height, window[0], width, window[1], channels)


@jax.custom_vjp
def _block_max(blocks: jax.Array) -> jax.Array:
    return blocks.max((2, 4))


def _block_max_forward(blocks):
    """Keeps each largest value and its place, which take less memory than images."""
    num_places = blocks.shape[2] * blocks.shape[4]
    dtype = jnp.uint8 if num_places <= 256 else jnp.int32
    largest = blocks[:, :, 0, :, 0]
    place = jnp.zeros(largest.shape, dtype)
    for number in range(1, num_places):
        row, column = divmod(number, blocks.shape[4])
        value = blocks[:, :, row, :, column]
        place = jnp.where(value > largest, jnp.asarray(number, dtype), place)
        largest = lax.max(value, largest)  # nan wins
    places = jnp.arange(num_places, dtype=dtype)
    places = places.reshape(1, 1, blocks.shape[2], 1, blocks.shape[4], 1)
    return largest, (place, places)


def _block_max_backward(residuals, gradient):
    place, places = residuals
    is_largest = place[:, :, None, :, None] == places
    return (jnp.where(is_largest, gradient[:, :, None, :, None], 0),)


_block_max.defvjp(_block_max_forward, _block_max_backward)
