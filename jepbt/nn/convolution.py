"""Convolves in the form that is fast for a population on the platform at hand.

On CPU a vmapped convolution becomes a grouped one, and the gradients of a convolution
inside a loop leave XLA's fast path, so that plain code is tens of times slower than it
could be. There the same numbers come from operations that are fast in a loop. On a GPU
the grouped convolution is slower than one batched multiplication of windows
(`jepbt.nn.windows`). Which platform takes which form stands in `jepbt.nn.lowering`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jepbt.arguments import check_choice
from jepbt.nn import windows
from jepbt.nn.lowering import IN_TURN, WINDOWS, XLA, lower
from jepbt.nn.windows import output_size, pad

FORMS = (XLA, IN_TURN, WINDOWS)

_NHWC = ("NHWC", "HWIO", "NHWC")

# Below so many input channels, copying the windows pixel by pixel costs more than the
# multiplication, and `lax`'s convolution is three times slower than windows are.
_FEW_CHANNELS = 8

# The copies that a kernel's gradient makes should fit into a core's own cache.
_BLOCK_BYTES = 2**20


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
    *,
    form: str | None = None,
) -> jax.Array:
    """Convolves like `jax.lax.conv_general_dilated`, fast for a population.

    This is for two-dimensional convolutions of `NHWC` images with `HWIO` kernels, of
    any size, stride and padding. On CPU they get gradients of their own, and `vmap`
    over kernels runs one kernel after the other: both avoid forms that XLA's CPU
    backend runs tens of times slower. On a GPU the windows that output pixels see are
    gathered, so that `vmap` makes one batched multiplication. Groups, dilation, a
    sharding, other layouts, dtypes and numbers of dimensions are left to `lax`, and so
    is everything on other platforms, until one is measured there: `jepbt check`
    compares the forms on your device.

    All forms have reverse-mode gradients of any order. In the CPU's form, forward mode
    (`jax.jvp`, `jax.jacfwd`, `jax.hessian`) raises `TypeError`.

    Args:
        lhs: `[B, H, W, I]` images.
        rhs: `[h, w, I, O]` kernel.
        window_strides: the stride in each spatial dimension.
        padding: "SAME", "SAME_LOWER", "VALID", or `(before, after)` for each spatial
            dimension.
        lhs_dilation: the dilation of the images.
        rhs_dilation: the dilation of the kernel.
        dimension_numbers: the layouts, such as `("NHWC", "HWIO", "NHWC")`.
        feature_group_count: the number of groups of channels.
        batch_group_count: the number of groups of images.
        precision: the precision of the multiplications.
        preferred_element_type: the dtype of the result.
        out_sharding: the sharding of the result.
        form: "xla", "in turn" (the CPU's form, described above) or "windows" (the
            GPU's); None takes the platform's.

    Returns:
        `[B, H', W', O]`.

    Raises:
        TypeError, ValueError: as `lax` does; or if there is no such form.

    Example:
        >>> import jax.numpy as jnp
        >>> images, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
        >>> conv_general_dilated(
        ...     images, kernel, (1, 1), "SAME",
        ...     dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ... )[0, 0, :, 0].tolist()
        [4.0, 6.0, 6.0, 4.0]

        In flax: `nn.Conv(16, (3, 3), conv_general_dilated=conv_general_dilated)`.
    """
    if form is not None:
        check_choice("conv_general_dilated", "form", form, FORMS)
    left_to_lax = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        **({} if out_sharding is None else {"out_sharding": out_sharding}),
    )
    is_plain = (
        _is_nhwc(lhs, rhs, dimension_numbers)
        and all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and feature_group_count == batch_group_count == 1
        and preferred_element_type in (None, lhs.dtype)
        and out_sharding is None
        and lhs.dtype == rhs.dtype
        and jnp.issubdtype(lhs.dtype, jnp.floating)
        and lhs.shape[3] == rhs.shape[2]  # else lax says what is wrong
        and len(window_strides) == 2
        and 0 not in (*lhs.shape, *rhs.shape)
    )
    if not is_plain:
        return left_to_lax(lhs, rhs)
    strides = tuple(window_strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    pads = tuple((int(before), int(after)) for before, after in padding)
    if len(pads) != 2 or min(output_size(lhs.shape, rhs.shape, strides, pads)) < 1:
        return left_to_lax(lhs, rhs)
    forms = {
        XLA: left_to_lax,
        IN_TURN: functools.partial(_convolve, strides, pads, precision),
        WINDOWS: functools.partial(windows.convolve, strides, pads, precision),
    }
    return lower("convolution", forms, lhs, rhs, form=form)


def _is_nhwc(lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any) -> bool:
    if dimension_numbers is None or not lhs.ndim == rhs.ndim == 4:
        return False
    given = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    return given == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _convolve(strides, pads, precision, lhs, rhs):
    def convolve(lhs, rhs):
        kernel_size, num_channels = rhs.shape[:2], rhs.shape[2]
        if num_channels >= _FEW_CHANNELS and kernel_size != (1, 1):
            return lax.conv_general_dilated(
                lhs, rhs, strides, pads, dimension_numbers=_NHWC, precision=precision
            )
        flat, axis = _windows(lhs, kernel_size, strides, pads)
        product = _matmul(flat, rhs.reshape(-1, rhs.shape[3]), axis, precision)
        height, width = output_size(lhs.shape, rhs.shape, strides, pads)
        return product.reshape(lhs.shape[0], height, width, -1)

    return _kernel_by_kernel(convolve)(lhs, rhs)


def _forward(strides, pads, precision, lhs, rhs):
    return _convolve(strides, pads, precision, lhs, rhs), (lhs, rhs)


def _backward(strides, pads, precision, residuals, gradient):
    lhs, rhs = residuals
    to_lhs = _input_gradient(strides, pads, precision, lhs.shape, rhs, gradient)
    to_rhs = _kernel_gradient(strides, pads, precision, rhs.shape, lhs, gradient)
    return to_lhs, to_rhs


_convolve.defvjp(_forward, _backward)


def _input_gradient(strides, pads, precision, image_shape, rhs, gradient):
    """Convolves the gradient, spread by the strides, with the flipped kernel."""
    spread, around = [], []
    for i in range(2):
        width = (gradient.shape[1 + i] - 1) * strides[i] + 1
        before = rhs.shape[i] - 1 - pads[i][0]
        after = image_shape[1 + i] + rhs.shape[i] - 1 - width - before
        spread.append((0, 0, strides[i] - 1))
        around.append((before, after))
    if strides != (1, 1):
        gradient = pad(gradient, spread)
    flipped = jnp.flip(rhs, (0, 1)).swapaxes(2, 3)
    return _convolve((1, 1), tuple(around), precision, gradient, flipped)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _kernel_gradient(strides, pads, precision, kernel_shape, lhs, gradient):
    # Under `vmap` one kernel after the other is faster than a batched multiplication.
    return jax.custom_batching.sequential_vmap(
        functools.partial(_sum_over_pixels, strides, pads, precision, kernel_shape)
    )(lhs, gradient)


def _kernel_gradient_forward(strides, pads, precision, kernel_shape, lhs, gradient):
    value = _kernel_gradient(strides, pads, precision, kernel_shape, lhs, gradient)
    return value, (lhs, gradient)


def _kernel_gradient_backward(
    strides, pads, precision, kernel_shape, residuals, kernel
):
    """The gradient's own gradients are convolutions with the kernel it is given."""
    lhs, gradient = residuals
    to_lhs = _input_gradient(strides, pads, precision, lhs.shape, kernel, gradient)
    return to_lhs, _convolve(strides, pads, precision, lhs, kernel)


_kernel_gradient.defvjp(_kernel_gradient_forward, _kernel_gradient_backward)


def _sum_over_pixels(strides, pads, precision, kernel_shape, lhs, gradient):
    """Sums image times gradient over all pixels, for each place of the kernel."""
    height, width, num_channels, num_features = kernel_shape
    if num_channels < _FEW_CHANNELS or strides != (1, 1):
        flat, axis = _windows(lhs, (height, width), strides, pads)
        right = gradient.reshape(-1, num_features)
        return _matmul(flat, right, 1 - axis, precision).reshape(kernel_shape)

    def of_block(lhs, gradient):
        """Computes all places of the kernel by one multiplication.

        Shifting the images along the width and the gradient along the height makes
        `w + h` copies; windows for all places would be `w * h` copies.
        """
        lhs = pad(lhs, [(*p, 0) for p in pads])
        rows, columns = lhs.shape[1], gradient.shape[2]
        rest = rows - gradient.shape[1]
        shifted_images = [lhs[:, :, left : left + columns] for left in range(width)]
        # Padding once and slicing is faster than padding each slice: slices are copied
        # row by row, pads value by value.
        gradient = pad(gradient, [(rest, rest, 0), (0, 0, 0)])
        shifted_gradients = [
            gradient[:, rest - top : rest - top + rows] for top in range(height)
        ]
        return _matmul(
            jnp.concatenate(shifted_images, 3).reshape(-1, width * num_channels),
            jnp.concatenate(shifted_gradients, 3).reshape(-1, height * num_features),
            0,
            precision,
        )

    copied = width * lhs[0].size + height * gradient[0].size
    block = _block_size(lhs.shape[0], copied * lhs.dtype.itemsize)
    if block == lhs.shape[0]:
        product = of_block(lhs, gradient)
    else:
        zeros = jnp.zeros((width * num_channels, height * num_features), lhs.dtype)

        def add_block(number, total):
            # Slices need no copy; scanning over blocks would copy the arrays first.
            cut = functools.partial(
                lax.dynamic_slice_in_dim, start_index=number * block, slice_size=block
            )
            return total + of_block(cut(lhs), cut(gradient))

        product = lax.fori_loop(0, lhs.shape[0] // block, add_block, zeros)
    product = product.reshape(width, num_channels, height, num_features)
    return product.transpose(2, 0, 1, 3)


def _block_size(num_images: int, image_bytes: int) -> int:
    """Returns the largest divisor of the number of images that fits into a cache."""
    sizes = [size for size in range(1, num_images + 1) if num_images % size == 0]
    return max((n for n in sizes if n * image_bytes <= _BLOCK_BYTES), default=1)


def _kernel_by_kernel(convolve):
    """Makes `vmap` loop over kernels, and join batches of images of one kernel.

    A loop over lax's convolution is 2 to 5 times faster on CPU than one multiplication
    of batched windows, and both are far faster than the grouped convolution that `vmap`
    would make.
    """
    one = jax.custom_batching.custom_vmap(convolve)

    @one.def_vmap
    def batched(axis_size, in_batched, lhs, rhs):
        if in_batched[1]:
            axes = tuple(0 if is_batched else None for is_batched in in_batched)
            loop = jax.vmap(jax.custom_batching.sequential_vmap(one), axes)
            return loop(lhs, rhs), True
        result = one(lhs.reshape(-1, *lhs.shape[2:]), rhs)
        return result.reshape(axis_size, -1, *result.shape[1:]), True

    return one


def _windows(images, kernel_size, strides, pads) -> tuple[jax.Array, int]:
    """Gathers the window of each output pixel as a matrix.

    Returns `[B * H' * W', h * w * I]` and the axis of the windows' values, 1; for few
    channels `[h * w * I, B * H' * W']` and 0, so that whole rows of pixels are copied.
    """
    height, width = output_size(images.shape, kernel_size, strides, pads)
    images = pad(images, [(*p, 0) for p in pads])
    last_row, last_column = (height - 1) * strides[0], (width - 1) * strides[1]
    shifted = [
        images[
            :,
            row : row + last_row + 1 : strides[0],
            column : column + last_column + 1 : strides[1],
        ]
        for row in range(kernel_size[0])
        for column in range(kernel_size[1])
    ]
    num_channels = images.shape[3]
    if num_channels < _FEW_CHANNELS:
        shifted = [part.transpose(3, 0, 1, 2) for part in shifted]
        gathered = jnp.concatenate(shifted, 0)
        return gathered.reshape(gathered.shape[0], -1), 0
    gathered = jnp.concatenate(shifted, 3)
    return gathered.reshape(-1, gathered.shape[3]), 1


def _matmul(left, right, left_axis, precision) -> jax.Array:
    """Sums over an axis of `left` and the first of `right`."""
    contracted = (((left_axis,), (0,)), ((), ()))
    return lax.dot_general(left, right, contracted, precision=precision)
