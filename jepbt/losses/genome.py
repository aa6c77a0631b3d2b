"""Checks TaylorGLO genomes, converts them, and keeps those that were published.

A genome `theta` is `f32[8]` in the convention of the published code,

    -Σ  a_y ȳ + a_yy ȳ² + a_yyy ȳ³ + a_xy x̄ȳ + a_xyy x̄ȳ² + a_xxy x̄²ȳ

summed over the classes, without factorials, with `x̄ = x - x0` for the label and
`ȳ = y - y0` for the predicted probability. Its order is `[a_y, a_yy, a_yyy, a_xy,
a_xyy, a_xxy, x0, y0]`. The paper's formula differs in factorials, scale and order:
`from_formula` converts, and no other function accepts it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.arguments import check_whole

NUM_COEFFICIENTS = 8

CROSS_ENTROPY_EXPANSION = np.array([1, -1, 4 / 3, 2, -2, 0, 0.5, 0.5], np.float32)
"""The third-order expansion of cross-entropy about (0.5, 0.5): the natural seed."""

EVOLVED_ON_MNIST = np.array(
    [8.2896, 0.2415, 7.8726, 8.9666, 2.0184, 7.0513, -10.9408, 7.5216], np.float32
)
"""The loss that the authors of TaylorGLO evolved on MNIST and published."""

EVOLVED_EARLIER = np.array(
    [1.5742, -1.4446, 2.3616, -0.6632, -2.8569, -1.1313, 0.8439, 1.4872], np.float32
)
"""An older evolved loss of the same authors."""

# The paper numbers its parameters t0..t7 with the centres first, and divides by these.
_CODE_FROM_FORMULA = np.array([2, 3, 4, 5, 6, 7, 0, 1])
_FACTORIALS = np.array([1, 2, 6, 1, 2, 2])


def check_one_genome(theta: jax.Array) -> jax.Array:
    """Returns `theta`, or raises if it is not one genome, floating `[8]`.

    Args:
        theta: anything array-like.

    Returns:
        `f32[8]` the same values, as an array.

    Raises:
        ValueError: if `theta` is not floating `[8]`.

    Example:
        >>> check_one_genome(np.zeros((4, 8)))
        Traceback (most recent call last):
        ...
        ValueError: theta has shape (4, 8), expected (8,): vmap over a population.
    """
    theta = check_genomes(theta)
    if theta.ndim != 1:
        raise ValueError(
            f"theta has shape {theta.shape}, expected (8,): vmap over a population."
        )
    return theta


def check_genomes(theta: jax.Array, name: str = "theta") -> jax.Array:
    """Returns `theta` as an array, or raises if it is not floating `[..., 8]`."""
    if not isinstance(theta, jax.Array):
        theta = np.asarray(theta)
    if theta.shape[-1:] != (NUM_COEFFICIENTS,):
        raise ValueError(
            f"{name} has shape {theta.shape}, expected (..., 8): the coefficients of "
            "y, y2, y3, xy, xy2, x2y, then the centres x0, y0 (the paper's formula: "
            "t0 to t7, see from_formula)."
        )
    if not jnp.issubdtype(theta.dtype, jnp.floating):
        raise ValueError(f"{name} has dtype {theta.dtype}, expected floats: cast it.")
    return theta


def check_num_classes(num_classes: int, least: int) -> None:
    """Raises a `ValueError` for a number of classes below `least`."""
    note = ", the size of the labels' last axis"
    check_whole("", "num_classes", num_classes, least, note=note)


def unpack(theta: jax.Array) -> tuple[jax.Array, ...]:
    """Splits genomes `[..., 8]` into their eight numbers `[...]`."""
    return tuple(theta[..., i] for i in range(NUM_COEFFICIENTS))


def from_formula(t: jax.Array, num_classes: int) -> jax.Array:
    """Converts parameters of the paper's formula to a genome of the same loss.

    The formula is, for `n` classes,

        -(1/n) Σ  t2 ȳ + t3/2 ȳ² + t4/6 ȳ³ + t5 x̄ȳ + t6/2 x̄ȳ² + t7/2 x̄²ȳ

    with `x̄ = x - t0` and `ȳ = y - t1`.

    Args:
        t: `f32[..., 8]` the formula's `t0` to `t7`.
        num_classes: the formula's `n`; 1 reads it as a sum instead of a mean.

    Returns:
        `f32[..., 8]` genomes.

    Raises:
        ValueError: if `t` is not floating `[..., 8]` or `num_classes` is below 1.

    Example:
        >>> t = np.array([0.5, 0.5, 10.0, -20.0, 80.0, 20.0, -40.0, 0.0])
        >>> from_formula(t, num_classes=10).round(3).tolist()
        [1.0, -1.0, 1.333, 2.0, -2.0, 0.0, 0.5, 0.5]

    Reference:
        Gonzalez & Miikkulainen, 2021, https://arxiv.org/abs/2002.00059
    """
    t = check_genomes(t, "t")
    check_num_classes(num_classes, least=1)
    divisors = np.append(_FACTORIALS * num_classes, [1, 1]).astype(t.dtype)
    return t[..., _CODE_FROM_FORMULA] / np.broadcast_to(divisors, t.shape)
