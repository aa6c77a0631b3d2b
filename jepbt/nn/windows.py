"""Convolves by gathering what output pixels see, and one matrix multiplication.

`vmap` makes it one batched multiplication for all members. What costs is the gathering:
windows of 3x3 copy each image nine times. So two by two output pixels share a window of
4x4, which copies each image four times, and the kernel stands in it in four places
among zeros: less than half of the memory is moved, for 1.8 times the arithmetic.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

# From so many output channels on, the zeros cost more than the copies.
_MANY_CHANNELS = 128

_NONE = (0, 0, 0)


@functools.partial(jax.checkpoint, static_argnums=(0, 1, 2))
def convolve(strides, pads, precision, lhs, rhs) -> jax.Array:
    """Convolves `[B, H, W, I]` images with a `[h, w, I, O]` kernel.

    `pads` are `(before, after)` for height and width. Windows are not kept for
    gradients: they take at least four times the memory of the images.
    """
    height, width = output_size(lhs.shape, rhs.shape, strides, pads)
    num_channels, side = rhs.shape[3], _pixels_that_share(strides, rhs.shape)
    rows, columns = -(-height // side), -(-width // side)
    steps = [side * stride for stride in strides]
    window_size = [size + side - 1 for size in rhs.shape[:2]]
    windows = _gather(lhs, window_size, steps, (rows, columns), pads)
    kernels = _in_each_place(rhs, side, window_size)
    product = lax.dot_general(
        windows,
        kernels.reshape(-1, side**2 * num_channels),
        (((1,), (0,)), ((), ())),
        precision=precision,
    )
    pixels = product.reshape(-1, rows, columns, side, side, num_channels).swapaxes(2, 3)
    pixels = pixels.reshape(-1, rows * side, columns * side, num_channels)
    return pixels[:, :height, :width]


def _pixels_that_share(strides, kernel_shape) -> int:
    """Returns how many output pixels in height, and in width, share a window."""
    overlap = strides == (1, 1) and min(kernel_shape[:2]) > 1
    return 2 if overlap and kernel_shape[3] < _MANY_CHANNELS else 1


def _gather(images, window_size, steps, shape, pads) -> jax.Array:
    """Gathers windows, each of which begins a step after the last.

    A window is made of few blocks as large as a step: one copy of each block is faster
    than one of each pixel.

    Args:
        images: `[B, H, W, I]`.
        window_size: the height and width of a window, `h` and `w`.
        steps: the distance from window to window in height and width.
        shape: the number of windows in height and width, `H'` and `W'`.
        pads: the zeros before height and width; those after follow from the rest.

    Returns:
        `[B * H' * W', h * w * I]`.
    """
    num_images, num_channels = images.shape[0], images.shape[3]
    blocks = [-(-window_size[i] // steps[i]) for i in range(2)]
    spans = [steps[i] * (shape[i] + blocks[i] - 1) for i in range(2)]
    after = [spans[i] - images.shape[1 + i] - pads[i][0] for i in range(2)]
    images = pad(images, [(pads[i][0], after[i], 0) for i in range(2)])
    images = images.reshape(num_images, spans[0], -1, steps[1] * num_channels)
    images = _side_by_side(images, 2, 3, shape[1], blocks[1])
    images = images[..., : window_size[1] * num_channels]
    images = images.reshape(num_images, -1, steps[0], *images.shape[2:])
    images = _side_by_side(images, 1, 2, shape[0], blocks[0])
    images = images[:, :, : window_size[0]]
    return images.swapaxes(2, 3).reshape(num_images * shape[0] * shape[1], -1)


def _side_by_side(images, axis, joined, number, count) -> jax.Array:
    """Joins `count` neighbours along an axis, for `number` windows."""
    shifted = [lax.slice_in_dim(images, i, i + number, axis=axis) for i in range(count)]
    return jnp.concatenate(shifted, joined)


def _in_each_place(kernel, side, window_size) -> jax.Array:
    """Puts a kernel into each of its places in a shared window, among zeros."""
    zero = jnp.zeros((), kernel.dtype)
    places = []
    for top in range(side):
        for left in range(side):
            around = [
                (before, size - before - width, 0)
                for before, size, width in zip(
                    (top, left), window_size, kernel.shape[:2], strict=True
                )
            ]
            places.append(lax.pad(kernel, zero, (*around, _NONE, _NONE)))
    return jnp.concatenate(places, 3)


def output_size(
    image_shape: Sequence[int],
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> list[int]:
    """Returns the height and width of what a convolution gives."""
    return [
        (image_shape[1 + i] + sum(pads[i]) - kernel_shape[i]) // strides[i] + 1
        for i in range(2)
    ]


def pad(images: jax.Array, amounts: Sequence[tuple[int, int, int]]) -> jax.Array:
    """Pads height and width with zeros, by `(before, after, between)` each."""
    zero = jnp.zeros((), images.dtype)
    return lax.pad(images, zero, (_NONE, *amounts, _NONE))
