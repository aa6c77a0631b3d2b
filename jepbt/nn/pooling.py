"""Pools images; by reshaping, where windows do not overlap, on CPU."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def max_pool(
    images: jax.Array,
    window: int | Sequence[int] = 2,
    *,
    strides: int | Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> jax.Array:
    """Takes the largest value of each window of each image.

    Windows that touch but do not overlap are fast on CPU; for others, and on every
    other platform, this is `jax.lax.reduce_window`. Among equal values the first one,
    row by row, receives the gradient. Forward-mode derivatives raise `TypeError`.

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
    window, strides = _pool_sizes("max_pool", images, window, strides)
    over_windows = _over_windows(-jnp.inf, lax.max, window, strides, padding)
    if strides != window or padding != "VALID":
        return over_windows(images)

    def over_blocks(images):
        return _block_max(_blocks(images, window))

    return lax.platform_dependent(images, cpu=over_blocks, default=over_windows)


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
    window, strides = _pool_sizes("avg_pool", images, window, strides)
    sum_windows = _over_windows(0.0, lax.add, window, strides, padding)

    def over_windows(images):
        return sum_windows(images) / (window[0] * window[1])

    if strides != window or padding != "VALID":
        return over_windows(images)

    def over_blocks(images):
        return _blocks(images, window).mean((2, 4))

    return lax.platform_dependent(images, cpu=over_blocks, default=over_windows)


def _pool_sizes(name, images, window, strides) -> tuple[tuple[int, int], ...]:
    if images.ndim != 4:
        raise ValueError(
            f"{name}: images must be [B, H, W, C], got shape {images.shape}."
        )
    strides = window if strides is None else strides
    pairs = []
    for argument, given in (("window", window), ("strides", strides)):
        pair = (given, given) if isinstance(given, int) else tuple(given)
        if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
            raise ValueError(
                f"{name}: {argument}={given!r} must be a positive integer or two."
            )
        pairs.append(pair)
    return tuple(pairs)


def _over_windows(initial, combine, window, strides, padding):
    if not isinstance(padding, str):
        padding = ((0, 0), *padding, (0, 0))

    def over_windows(images):
        return lax.reduce_window(
            images, initial, combine, (1, *window, 1), (1, *strides, 1), padding
        )

    return over_windows


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
        is_larger = (value > largest) | (value != value)  # nan wins, as in `max`
        largest = jnp.where(is_larger, value, largest)
        place = jnp.where(is_larger, jnp.asarray(number, dtype), place)
    places = jnp.arange(num_places, dtype=dtype)
    places = places.reshape(1, 1, blocks.shape[2], 1, blocks.shape[4], 1)
    return largest, (place, places)


def _block_max_backward(residuals, gradient):
    place, places = residuals
    is_largest = place[:, :, None, :, None] == places
    return (jnp.where(is_largest, gradient[:, :, None, :, None], 0),)


_block_max.defvjp(_block_max_forward, _block_max_backward)
