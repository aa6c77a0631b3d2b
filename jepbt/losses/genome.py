"""Checks and converts TaylorGLO genomes, and tells through what they act.

A genome `theta` is `f32[8]` in the convention of the published code,

    -Σ  a_y ȳ + a_yy ȳ² + a_yyy ȳ³ + a_xy x̄ȳ + a_xyy x̄ȳ² + a_xxy x̄²ȳ

summed over the classes, without factorials, with `x̄ = x - x0` for the label and
`ȳ = y - y0` for the predicted probability. Its order is `[a_y, a_yy, a_yyy, a_xy,
a_xyy, a_xxy, x0, y0]`. The paper's formula differs in factorials, scale and order:
`from_formula` converts, and no other function accepts it.

Functions that only do arithmetic return NumPy arrays for NumPy arrays and JAX arrays
for JAX arrays. Wrong shapes and dtypes raise a `ValueError` that says what is expected.
"""

from typing import NamedTuple

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
    """Returns `theta` as an array, or raises if it is not floating `[8]`."""
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


class Effective(NamedTuple):
    """The five numbers through which a genome acts under softmax, each `f32[...]`.

    The loss's derivative in a probability `y` with label `x` is minus

        c1 + ch y + chh y² + chy xy + cx x + cxx x²

    and softmax cancels `c1`. With one-hot labels `x² = x`, so `cx` and `cxx` act only
    through their sum.
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

    Example:
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
    """Writes effective numbers as the plainest genomes with them: with centres at 0.

    Example:
        >>> theta = from_effective(effective(CROSS_ENTROPY_EXPANSION))
        >>> (np.asarray(theta, np.float64).round(3) + 0).tolist()
        [0.0, -2.0, 1.333, 4.0, -2.0, 0.0, 0.0, 0.0]
    """
    ch, chh, chy, cx, cxx = coefficients
    zero = ch * 0
    return _stack([zero, ch / 2, chh / 3, cx, chy / 2, cxx, zero, zero])


def direction(theta: jax.Array) -> jax.Array:
    """Reduces genomes to the four numbers that act with one-hot labels, `f32[..., 4]`.

    These are `[ch, chh, chy, cx + cxx]`: such labels do not tell `cx` and `cxx` apart.

    Example:
        >>> direction(CROSS_ENTROPY_EXPANSION).tolist()
        [-4.0, 4.0, -4.0, 4.0]
    """
    ch, chh, chy, cx, cxx = effective(theta)
    return _stack([ch, chh, chy, cx + cxx])


def from_direction(numbers: jax.Array) -> jax.Array:
    """Writes the four numbers of `direction` as genomes, which have no `cxx`."""
    ch, chh, chy, cx = (numbers[..., i] for i in range(4))
    return from_effective(Effective(ch, chh, chy, cx, cx * 0))


def at_scale(theta: jax.Array, scale: float, fallback: np.ndarray) -> jax.Array:
    """Rescales genomes so that their `direction` has the Euclidean norm `scale`.

    What a learning rate could do as well is gone then: three numbers are left. A genome
    whose direction is 0 becomes `fallback`, `f32[8]`.

    Example:
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

    Example:
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
