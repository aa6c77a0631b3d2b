"""Reduces TaylorGLO genomes to the numbers through which they train a network.

Functions that only do arithmetic return NumPy arrays for NumPy arrays and JAX arrays
for JAX arrays.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.losses.genome import check_genomes, unpack


class Effective(NamedTuple):
    """The five numbers through which a genome acts under softmax, each `f32[...]`.

    The loss's derivative in a probability `y` with label `x` is minus

        c1 + ch y + chh y² + chy xy + cx x + cxx x²

    and softmax cancels `c1`. With one-hot labels `x² = x`, so `cx` and `cxx` act only
    through their sum.

    Attributes:
        ch: the coefficient of `y`.
        chh: the coefficient of `y²`.
        chy: the coefficient of `xy`.
        cx: the coefficient of `x`.
        cxx: the coefficient of `x²`.
    """

    ch: jax.Array
    chh: jax.Array
    chy: jax.Array
    cx: jax.Array
    cxx: jax.Array


def effective(theta: jax.Array) -> Effective:
    """Reduces genomes to the five numbers that decide how they train a network.

    Two genomes with equal numbers give equal gradients behind a softmax, whatever
    their eight coefficients. Scaling all five is scaling the learning rate of SGD.

    Args:
        theta: `f32[..., 8]` genomes.

    Returns:
        An `Effective` of five `f32[...]`.

    Raises:
        ValueError: if `theta` is not floating `[..., 8]`.

    Example:
        >>> from jepbt.losses.genome import CROSS_ENTROPY_EXPANSION
        >>> [float(c) for c in effective(CROSS_ENTROPY_EXPANSION)]
        [-4.0, 4.0, -4.0, 4.0, 0.0]
    """
    _, a_yy, a_yyy, a_xy, a_xyy, a_xxy, x0, y0 = unpack(check_genomes(theta))
    return Effective(
        ch=2 * a_yy - 6 * y0 * a_yyy - 2 * x0 * a_xyy,
        chh=3 * a_yyy,
        chy=2 * a_xyy,
        cx=a_xy - 2 * y0 * a_xyy - 2 * x0 * a_xxy,
        cxx=a_xxy,
    )


def from_effective(coefficients: Effective) -> jax.Array:
    """Writes effective numbers as genomes with both centres at 0.

    `effective` undoes it. Many genomes have the same numbers; this is the plainest.

    Args:
        coefficients: five of `f32[...]`.

    Returns:
        `f32[..., 8]` genomes.

    Example:
        >>> from jepbt.losses.genome import CROSS_ENTROPY_EXPANSION
        >>> theta = from_effective(effective(CROSS_ENTROPY_EXPANSION))
        >>> (np.asarray(theta, np.float64).round(3) + 0).tolist()
        [0.0, -2.0, 1.333, 4.0, -2.0, 0.0, 0.0, 0.0]
    """
    ch, chh, chy, cx, cxx = coefficients
    zero = ch * 0
    return _stack([zero, ch / 2, chh / 3, cx, chy / 2, cxx, zero, zero])


def direction(theta: jax.Array) -> jax.Array:
    """Reduces genomes to the four numbers that act with one-hot labels.

    Such labels do not tell `cx` and `cxx` apart, so the two are merged.

    Args:
        theta: `f32[..., 8]` genomes.

    Returns:
        `f32[..., 4]`, `[ch, chh, chy, cx + cxx]`.

    Raises:
        ValueError: if `theta` is not floating `[..., 8]`.

    Example:
        >>> from jepbt.losses.genome import CROSS_ENTROPY_EXPANSION
        >>> direction(CROSS_ENTROPY_EXPANSION).tolist()
        [-4.0, 4.0, -4.0, 4.0]
    """
    ch, chh, chy, cx, cxx = effective(theta)
    return _stack([ch, chh, chy, cx + cxx])


def from_direction(numbers: jax.Array) -> jax.Array:
    """Writes the four numbers of `direction` as genomes, which have no `cxx`.

    Args:
        numbers: `f32[..., 4]`.

    Returns:
        `f32[..., 8]` genomes, from `from_effective`.

    Example:
        >>> direction(from_direction(np.array([-4.0, 4.0, -4.0, 4.0]))).tolist()
        [-4.0, 4.0, -4.0, 4.0]
    """
    ch, chh, chy, cx = (numbers[..., i] for i in range(4))
    return from_effective(Effective(ch, chh, chy, cx, cx * 0))


def at_scale(theta: jax.Array, scale: float, fallback: np.ndarray) -> jax.Array:
    """Rescales genomes so that their `direction` has a fixed Euclidean norm.

    What a learning rate could do as well is gone then: three numbers are left.

    Args:
        theta: `f32[..., 8]` genomes.
        scale: the norm of the new direction.
        fallback: `f32[8]`, the genome to return where the direction is 0.

    Returns:
        `f32[..., 8]` genomes, from `from_direction`.

    Raises:
        ValueError: if `theta` is not floating `[..., 8]`.

    Example:
        >>> from jepbt.losses.genome import CROSS_ENTROPY_EXPANSION
        >>> five_times = CROSS_ENTROPY_EXPANSION * np.float32([5] * 6 + [1, 1])
        >>> theta = at_scale(five_times, 8.0, np.zeros(8))
        >>> round(float(effective(theta).ch), 3)
        -4.0
    """
    numbers = jnp.asarray(direction(theta))
    norm = jnp.linalg.norm(numbers, axis=-1, keepdims=True)
    vanishes = norm == 0
    scaled = from_direction(numbers * scale / jnp.where(vanishes, 1, norm))
    whole = jnp.broadcast_to(jnp.asarray(fallback, scaled.dtype), scaled.shape)
    return jnp.where(vanishes, whole, scaled)


def attraction(theta: jax.Array) -> jax.Array:
    """Measures how genomes treat a confident, correct output.

    Positive: it is pulled on to zero error. Negative: it is pushed back from it, which
    regularises as label smoothing does. The expansion of cross-entropy has 0.

    Args:
        theta: `f32[..., 8]` genomes.

    Returns:
        `f32[...]` the sum of the effective coefficients.

    Raises:
        ValueError: if `theta` is not floating `[..., 8]`.

    Example:
        >>> from jepbt.losses.genome import EVOLVED_ON_MNIST
        >>> round(float(attraction(EVOLVED_ON_MNIST)))
        -143

    Reference:
        On the effect: Gonzalez & Miikkulainen, https://arxiv.org/abs/2010.00788
    """
    ch, chh, chy, cx, cxx = effective(theta)
    return ch + chh + chy + cx + cxx


def _stack(numbers: list[jax.Array]) -> jax.Array:
    stack = jnp.stack if isinstance(numbers[0], jax.Array) else np.stack
    return stack(numbers, -1)
