"""Layers that stay fast under a population: convolution, pooling, dropout.

On CPU a vmapped convolution becomes a grouped one, and the gradients of a convolution
inside a loop leave XLA's fast path: plain code is tens of times slower there than it
need be. Here the same numbers come from a matrix multiplication over shifted windows.
On every other backend these functions are `jax.lax`'s own.

With flax, and a dropout rate that evolves:

    nn.Conv(16, (3, 3), conv_general_dilated=jepbt.nn.conv_general_dilated)
    x = jepbt.nn.dropout(self.make_rng("dropout"), x, hparams.dropout, train=train)

and in nnx `self.rngs.dropout()` for the key.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_NHWC = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    """Convolves like `jax.lax.conv_general_dilated`, fast for a population on CPU.

    Two-dimensional convolutions of `NHWC` images with `HWIO` kernels, of any size,
    stride and padding, are computed there as windows times kernel. Groups, dilation,
    other layouts and other numbers of dimensions are left to `lax`. What is not left to
    `lax` can be differentiated once, in reverse mode.

    Args:
        lhs: `[B, H, W, I]` images.
        rhs: `[h, w, I, O]` kernel.
        window_strides: for each spatial dimension.
        padding: "SAME", "VALID", or `(before, after)` for each spatial dimension.
        lhs_dilation: left to `lax` unless 1.
        rhs_dilation: left to `lax` unless 1.
        dimension_numbers: left to `lax` unless `("NHWC", "HWIO", "NHWC")`.
        feature_group_count: left to `lax` unless 1.
        batch_group_count: left to `lax` unless 1.
        precision: of the multiplication.
        preferred_element_type: left to `lax` unless `None`.
        out_sharding: left to `lax` unless `None`.

    Returns:
        `[B, H', W', O]`.

    Raises:
        TypeError, ValueError: as `lax` does.

    Example:
        >>> import jax.numpy as jnp
        >>> ones = jnp.ones((1, 4, 4, 1))
        >>> conv_general_dilated(
        ...     ones, jnp.ones((3, 3, 1, 1)), (1, 1), "SAME",
        ...     dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ... )[0, :, :, 0].tolist()[0]
        [4.0, 6.0, 6.0, 4.0]
    """
    settings = {
        "lhs_dilation": lhs_dilation,
        "rhs_dilation": rhs_dilation,
        "dimension_numbers": dimension_numbers,
        "feature_group_count": feature_group_count,
        "batch_group_count": batch_group_count,
        "precision": precision,
        "preferred_element_type": preferred_element_type,
    }
    if out_sharding is not None:  # the oldest supported lax does not know it
        settings["out_sharding"] = out_sharding
    left_to_lax = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        **settings,
    )
    is_plain = (
        lhs.ndim == rhs.ndim == 4
        and _is_nhwc(lhs, rhs, dimension_numbers)
        and all(d in (None, 1) for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and feature_group_count == batch_group_count == 1
        and preferred_element_type is None
        and out_sharding is None
        and lhs.dtype == rhs.dtype
        and jnp.issubdtype(lhs.dtype, jnp.floating)
        and padding != "SAME_LOWER"
        and lhs.shape[3] == rhs.shape[2]  # else lax says what is wrong
        and 0 not in (*lhs.shape, *rhs.shape)
    )
    if not is_plain:
        return left_to_lax(lhs, rhs)
    strides = tuple(window_strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    if (
        min(_output_size(lhs.shape, rhs.shape, strides, pads)) < 1
        or min(map(min, pads)) < 0
    ):
        return left_to_lax(lhs, rhs)

    def by_windows(lhs, rhs):
        return _convolve(strides, pads, precision, lhs, rhs)

    return lax.platform_dependent(lhs, rhs, cpu=by_windows, default=left_to_lax)


def max_pool(images: jax.Array, window: int = 2) -> jax.Array:
    """Takes the largest value of each `window x window` square.

    Rows and columns that do not fill a square are left out, as "VALID" pooling does. Of
    equal values the first, row by row, receives the gradient, as in `flax`.

    Args:
        images: `[B, H, W, C]`.
        window: the side, and the distance, of the squares.

    Returns:
        `[B, H // window, W // window, C]`.

    Raises:
        ValueError: if the images are smaller than the window, or not of four axes.

    Example:
        >>> import jax.numpy as jnp
        >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[5.0, 7.0], [13.0, 15.0]]
    """
    return _pool(_check_pool("max_pool", images, window), window)


def avg_pool(images: jax.Array, window: int = 2) -> jax.Array:
    """Averages each `window x window` square: see `max_pool`.

    Args:
        images: `[B, H, W, C]`.
        window: the side, and the distance, of the squares.

    Returns:
        `[B, H // window, W // window, C]`.

    Raises:
        ValueError: if the images are smaller than the window, or not of four axes.

    Example:
        >>> import jax.numpy as jnp
        >>> avg_pool(jnp.arange(4.0).reshape(1, 2, 2, 1)).tolist()
        [[[[1.5]]]]
    """
    return _squares(_check_pool("avg_pool", images, window), window).mean((2, 4))


def dropout(
    key: jax.Array, x: jax.Array, rate: jax.Array | float, *, train: bool
) -> jax.Array:
    """Zeroes values at random, at a rate that may be traced and so may evolve.

    What stays is scaled by `1 / (1 - rate)`. The draw has 16 bits: a rate is met to
    within 1/65536.

    Args:
        key: consumed.
        x: any shape.
        rate: `f32[]` in [0, 1]; at 0 `x` stays to the bit, at 1 all is zero.
        train: whether to drop; `False` returns `x`.

    Returns:
        Like `x`.

    Raises:
        ValueError: if `rate` is a Python number outside of [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> kept = dropout(jax.random.key(0), jnp.ones(1000), 0.5, train=True)
        >>> sorted(set(kept.tolist()))
        [0.0, 2.0]

    Reference:
        Srivastava et al., "Dropout", JMLR 2014.
    """
    if isinstance(rate, int | float) and not 0 <= rate <= 1:
        raise ValueError(f"dropout: rate={rate!r} must lie in [0, 1].")
    if not train:
        return x
    bits = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.int32)
    rate = jnp.asarray(rate, jnp.float32)
    is_kept = bits >= jnp.round(rate * 2**16).astype(jnp.int32)
    # At a rate of 1 nothing is kept, but 1 / 0 would still reach the gradient.
    scale = 1 / jnp.where(rate < 1, 1 - rate, 1)
    return jnp.where(is_kept, x * scale.astype(x.dtype), jnp.zeros((), x.dtype))


def _is_nhwc(lhs, rhs, dimension_numbers) -> bool:
    if dimension_numbers is None:
        return False
    named = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    return named == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)


def _output_size(image_shape, kernel_shape, strides, pads) -> list[int]:
    return [
        (image_shape[1 + i] + sum(pads[i]) - kernel_shape[i]) // strides[i] + 1
        for i in range(2)
    ]


def _windows(images, kernel_shape, strides, pads) -> jax.Array:
    """`[B, H', W', h * w * I]`: beside each output pixel all that it is made of."""
    height, width = _output_size(images.shape, kernel_shape, strides, pads)
    zero = jnp.zeros((), images.dtype)
    padded = lax.pad(images, zero, ((0, 0, 0), *((*p, 0) for p in pads), (0, 0, 0)))
    num, _, _, channels = padded.shape
    shifted = [
        lax.slice(
            padded,
            (0, row, column, 0),
            (
                num,
                row + (height - 1) * strides[0] + 1,
                column + (width - 1) * strides[1] + 1,
                channels,
            ),
            (1, *strides, 1),
        )
        for row in range(kernel_shape[0])
        for column in range(kernel_shape[1])
    ]
    return jnp.concatenate(shifted, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _convolve(strides, pads, precision, lhs, rhs):
    return _forward(strides, pads, precision, lhs, rhs)[0]


def _forward(strides, pads, precision, lhs, rhs):
    columns = _windows(lhs, rhs.shape, strides, pads)
    kernel = rhs.reshape(-1, rhs.shape[3])
    return _matmul(columns, kernel, precision), (columns, lhs, rhs)


def _backward(strides, pads, precision, residuals, gradient):
    columns, lhs, rhs = residuals
    flat = columns.reshape(-1, columns.shape[3])
    to_rhs = _matmul(flat.T, gradient.reshape(-1, rhs.shape[3]), precision)
    # Where the gradient of an output pixel meets the flipped kernel.
    flipped = jnp.flip(rhs, (0, 1)).swapaxes(2, 3)
    around = []
    for i in range(2):
        before = rhs.shape[i] - 1 - pads[i][0]
        spread = (gradient.shape[1 + i] - 1) * strides[i] + 1
        after = lhs.shape[1 + i] + rhs.shape[i] - 1 - spread - before
        around.append((before, after))
    to_lhs = _input_gradient(strides, tuple(around), precision)(gradient, flipped)
    return to_lhs, to_rhs.reshape(rhs.shape)


_convolve.defvjp(_forward, _backward)


@functools.cache
def _input_gradient(strides, around, precision):
    """The gradient of the images: another convolution, in the faster of two ways.

    `lax`'s forward convolution is the fastest that there is for one kernel, and slow
    for a batch of them: inside `vmap` windows take its place.
    """

    @jax.custom_batching.custom_vmap
    def convolve(gradient, flipped):
        return lax.conv_general_dilated(
            gradient,
            flipped,
            (1, 1),
            around,
            lhs_dilation=strides,
            dimension_numbers=_NHWC,
            precision=precision,
        )

    def convolve_windows(gradient, flipped):
        spread = (
            (0, 0, 0),
            *((*a, s - 1) for a, s in zip(around, strides, strict=True)),
        )
        padded = lax.pad(gradient, jnp.zeros((), gradient.dtype), (*spread, (0, 0, 0)))
        columns = _windows(padded, flipped.shape, (1, 1), ((0, 0), (0, 0)))
        return _matmul(columns, flipped.reshape(-1, flipped.shape[3]), precision)

    @convolve.def_vmap
    def batched(axis_size, in_batched, gradient, flipped):
        if not in_batched[1]:  # one kernel: the batch is just more images
            merged = gradient.reshape(-1, *gradient.shape[2:])
            result = convolve(merged, flipped)
            return result.reshape(axis_size, -1, *result.shape[1:]), True
        axes = tuple(0 if is_batched else None for is_batched in in_batched)
        return jax.vmap(convolve_windows, axes)(gradient, flipped), True

    return convolve


def _matmul(left: jax.Array, right: jax.Array, precision: Any) -> jax.Array:
    contracted = (((left.ndim - 1,), (0,)), ((), ()))
    return lax.dot_general(left, right, contracted, precision=precision)


def _check_pool(name: str, images: jax.Array, window: int) -> jax.Array:
    if images.ndim != 4 or min(images.shape[1:3]) < window or window < 1:
        raise ValueError(
            f"{name}: images of shape {images.shape} must be [B, H, W, C] with H and W "
            f"of at least window={window}, which must be at least 1."
        )
    height, width = (size // window * window for size in images.shape[1:3])
    return images[:, :height, :width]


def _squares(images: jax.Array, window: int) -> jax.Array:
    """`[B, H', window, W', window, C]`."""
    num, height, width, channels = images.shape
    return images.reshape(
        num, height // window, window, width // window, window, channels
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _pool(images: jax.Array, window: int) -> jax.Array:
    return _squares(images, window).max((2, 4))


def _pool_forward(images, window):
    largest = _pool(images, window)
    return largest, (images, largest)


def _pool_backward(window, residuals, gradient):
    images, largest = residuals
    squares = _squares(images, window)
    is_free = jnp.ones(largest.shape, bool)
    rows = []
    for row in range(window):
        columns = []
        for column in range(window):
            is_first = is_free & (squares[:, :, row, :, column] == largest)
            is_free &= ~is_first
            columns.append(jnp.where(is_first, gradient, 0))
        rows.append(jnp.stack(columns, 3))
    return (jnp.stack(rows, 2).reshape(images.shape),)


_pool.defvjp(_pool_forward, _pool_backward)
