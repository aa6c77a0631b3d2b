"""TaylorGLO: a loss function as eight numbers, and what those numbers do.

A genome `theta` is `f32[8]` in the convention of the published code,

    -Σ  a_y ȳ + a_yy ȳ² + a_yyy ȳ³ + a_xy x̄ȳ + a_xyy x̄ȳ² + a_xxy x̄²ȳ

summed over the classes, without factorials, with `x̄ = x - x0` for the label and
`ȳ = y - y0` for the predicted probability. Its order is `[a_y, a_yy, a_yyy, a_xy,
a_xyy, a_xxy, x0, y0]`. The paper's formula differs in factorials, scale and order:
`from_formula` and `to_formula` convert, and nothing else here accepts it.

Functions that only do arithmetic return NumPy arrays for NumPy arrays and JAX arrays
for JAX arrays.

Reference:
    Gonzalez & Miikkulainen, "Optimizing Loss Functions Through Multivariate Taylor
    Polynomial Parameterization", 2021, https://arxiv.org/abs/2002.00059
"""

from __future__ import annotations

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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

REPAIRED_MARGIN = 0.1
"""The margin that `repair` lifts a genome to."""

_XY = 3
_TERMS = ("{y}", "{y}^2", "{y}^3", "{x}{y}", "{x}{y}^2", "{x}^2 {y}")

# The paper numbers its parameters t0..t7 with the centres first, and divides by these.
_FORMULA_FROM_CODE = np.array([6, 7, 0, 1, 2, 3, 4, 5])
_CODE_FROM_FORMULA = np.array([2, 3, 4, 5, 6, 7, 0, 1])
_FACTORIALS = np.array([1, 2, 6, 1, 2, 2])


class Effective(NamedTuple):
    """The five numbers through which a genome acts under softmax, each `f32[...]`.

    The loss's derivative in a probability `y` with label `x` is minus

        c1 + ch y + chh y² + chy xy + cx x + cxx x²

    and softmax cancels `c1`. With one-hot labels `x² = x`, so `cx` and `cxx` act only
    through their sum.

    Attributes:
        ch: of `y`.
        chh: of `y²`.
        chy: of `xy`.
        cx: of `x`.
        cxx: of `x²`.
    """

    ch: jax.Array
    chh: jax.Array
    chy: jax.Array
    cx: jax.Array
    cxx: jax.Array


def taylor_loss(theta: jax.Array, labels: jax.Array, probs: jax.Array) -> jax.Array:
    """Evaluates one genome's loss, summed over the classes.

    Args:
        theta: `f32[8]` one genome; `vmap` over a population.
        labels: `f32[..., C]` one-hot or soft labels.
        probs: `f32[..., C]` predicted class probabilities.

    Returns:
        `f32[...]` one loss per example.

    Raises:
        ValueError: if the shapes above do not hold or `theta` is not floating.

    Example:
        >>> theta = np.zeros(8, np.float32)
        >>> theta[3] = 1.0  # only the term in xy
        >>> float(taylor_loss(theta, jnp.array([1.0, 0.0]), jnp.array([0.75, 0.25])))
        -0.75

    Reference:
        Gonzalez & Miikkulainen, 2021, https://arxiv.org/abs/2002.00059
    """
    theta = jnp.asarray(check_one_genome(theta))
    if jnp.shape(labels) != jnp.shape(probs):
        raise ValueError(
            f"labels have shape {jnp.shape(labels)} and probs {jnp.shape(probs)}; "
            "both must be [..., C]. Class indices become labels with jax.nn.one_hot."
        )
    a_y, a_yy, a_yyy, a_xy, a_xyy, a_xxy, x0, y0 = _unpack(theta)
    x = labels - x0
    y = probs - y0
    of_y = a_y + y * (a_yy + y * a_yyy)
    of_xy = a_xy + y * a_xyy + x * a_xxy
    return -jnp.sum(y * (of_y + x * of_xy), axis=-1)


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
    t = _check_genomes(t, "t")
    return t[..., _CODE_FROM_FORMULA] / _divisors(t, num_classes)


def to_formula(theta: jax.Array, num_classes: int) -> jax.Array:
    """Converts genomes to the paper's formula: the inverse of `from_formula`.

    Args:
        theta: `f32[..., 8]` genomes.
        num_classes: the formula's `n`; 1 reads it as a sum instead of a mean.

    Returns:
        `f32[..., 8]` the formula's `t0` to `t7`.

    Raises:
        ValueError: if `theta` is not floating `[..., 8]` or `num_classes` is below 1.

    Example:
        >>> to_formula(CROSS_ENTROPY_EXPANSION, num_classes=1).round(3).tolist()
        [0.5, 0.5, 1.0, -2.0, 8.0, 2.0, -4.0, 0.0]

    Reference:
        Gonzalez & Miikkulainen, 2021, https://arxiv.org/abs/2002.00059
    """
    theta = _check_genomes(theta)
    return (theta * _divisors(theta, num_classes))[..., _FORMULA_FROM_CODE]


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
        >>> [float(c) for c in effective(CROSS_ENTROPY_EXPANSION)]
        [-4.0, 4.0, -4.0, 4.0, 0.0]
    """
    _, a_yy, a_yyy, a_xy, a_xyy, a_xxy, x0, y0 = _unpack(_check_genomes(theta))
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
        >>> theta = from_effective(effective(CROSS_ENTROPY_EXPANSION))
        >>> (np.asarray(theta, np.float64).round(3) + 0).tolist()
        [0.0, -2.0, 1.333, 4.0, -2.0, 0.0, 0.0, 0.0]
    """
    ch, chh, chy, cx, cxx = coefficients
    zero = ch * 0
    stack = jnp.stack if isinstance(ch, jax.Array) else np.stack
    return stack([zero, ch / 2, chh / 3, cx, chy / 2, cxx, zero, zero], -1)


def at_scale(theta: jax.Array, scale: float, fallback: np.ndarray) -> jax.Array:
    """Reduces genomes to a direction: effective numbers of a fixed Euclidean norm.

    `cx` and `cxx`, which one-hot labels do not tell apart, are merged first. What is
    left of a genome are three numbers, none of which a learning rate could replace.

    Args:
        theta: `f32[..., 8]` genomes.
        scale: the norm of `(ch, chh, chy, cx + cxx)`.
        fallback: `f32[8]` where all four are 0.

    Returns:
        `f32[..., 8]` genomes, from `from_effective`.

    Raises:
        ValueError: if `theta` is not floating `[..., 8]`.

    Example:
        >>> five_times = CROSS_ENTROPY_EXPANSION * np.float32([5] * 6 + [1, 1])
        >>> theta = at_scale(five_times, 8.0, np.zeros(8))
        >>> round(float(effective(theta).ch), 3)
        -4.0
    """
    ch, chh, chy, cx, cxx = effective(theta)
    merged = jnp.stack([ch, chh, chy, cx + cxx], -1)
    norm = jnp.linalg.norm(merged, axis=-1, keepdims=True)
    vanishes = norm == 0
    ch, chh, chy, cx = jnp.moveaxis(
        merged * scale / jnp.where(vanishes, 1, norm), -1, 0
    )
    scaled = from_effective(Effective(ch, chh, chy, cx, jnp.zeros_like(cx)))
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
        >>> round(float(attraction(EVOLVED_ON_MNIST)))
        -143

    Reference:
        On the effect: Gonzalez & Miikkulainen, https://arxiv.org/abs/2010.00788
    """
    ch, chh, chy, cx, cxx = effective(theta)
    return ch + chh + chy + cx + cxx


def margin(theta: jax.Array, num_classes: int) -> jax.Array:
    """Measures how strongly genomes raise the true logit of an untrained network.

    The margin is `cx + cxx + chy / C`. At uniform outputs the true logit's descent
    direction is the margin times `(C - 1) / C²`.

    Args:
        theta: `f32[..., 8]` genomes.
        num_classes: `C`, at least 2.

    Returns:
        `f32[...]` the margin; training starts only where it is positive.

    Raises:
        ValueError: if `theta` is not floating `[..., 8]` or `num_classes` is below 2.

    Example:
        >>> round(float(margin(CROSS_ENTROPY_EXPANSION, num_classes=10)), 4)
        3.6
    """
    theta = _check_genomes(theta)
    by_xyy, by_xxy = _margin_beside_xy(theta, num_classes)
    return theta[..., _XY] + (by_xyy + by_xxy)


def is_trainable(theta: jax.Array, num_classes: int) -> jax.Array:
    """Says which genomes can train a network from uniform outputs.

    Args:
        theta: `f32[..., 8]` genomes.
        num_classes: `C`, at least 2.

    Returns:
        `bool[...]` where the margin is positive; `nan` is not.

    Raises:
        ValueError: if `theta` is not floating `[..., 8]` or `num_classes` is below 2.

    Example:
        >>> bool(is_trainable(CROSS_ENTROPY_EXPANSION, num_classes=10))
        True
    """
    return margin(theta, num_classes) > 0


def repair(theta: jax.Array, num_classes: int) -> jax.Array:
    """Raises `a_xy` of genomes whose margin is below 0.1 until it is 0.1.

    This is `a_xy += max(0, 0.1 - margin)`, the smallest change of one coefficient
    that makes a genome trainable. All other genomes keep every bit, and so does a
    genome repaired before, in this program or in another one. Rounding is far below
    the target of 0.1 while coefficients times centres stay below 1e5; `nan` stays.

    Args:
        theta: `f32[..., 8]` genomes.
        num_classes: `C`, at least 2.

    Returns:
        `f32[..., 8]` genomes with a margin of at least 0.1, to rounding.

    Raises:
        ValueError: if `theta` is not floating `[..., 8]` or `num_classes` is below 2.

    Example:
        >>> flat = np.zeros(8, np.float32)  # a loss without any gradient
        >>> [round(a, 3) for a in repair(flat, num_classes=10).tolist()]
        [0.0, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0]
    """
    theta = jnp.asarray(_check_genomes(theta))
    by_xyy, by_xxy = _margin_beside_xy(theta, num_classes)
    # The least a_xy comes from the other coefficients alone: adding 0.1 - margin to
    # a_xy would round anew each time. The guard covers what rounding differs by
    # between two compilations of this function (fused multiply-adds).
    least = REPAIRED_MARGIN - (by_xyy + by_xxy)
    size = REPAIRED_MARGIN + abs(by_xyy) + abs(by_xxy)
    guard = 8 * jnp.finfo(theta.dtype).eps * size
    a_xy = theta[..., _XY]
    return theta.at[..., _XY].set(jnp.where(a_xy < least - guard, least, a_xy))


def describe(theta: np.ndarray) -> str:
    """Writes a genome's loss as one line of plain text.

    Numbers have three digits; terms below a thousandth of the largest are left out.

    Args:
        theta: `f32[8]` one genome, concrete.

    Returns:
        The formula, with `x` the label and `y` the predicted probability.

    Raises:
        ValueError: if `theta` is not floating `[8]`.

    Example:
        >>> describe(CROSS_ENTROPY_EXPANSION)
        '-sum[ (y-.5) - (y-.5)^2 + 1.33 (y-.5)^3 + 2 (x-.5)(y-.5) - 2 (x-.5)(y-.5)^2 ]'
    """
    *coefficients, x0, y0 = np.asarray(check_one_genome(theta)).tolist()
    x, y = _shifted("x", x0), _shifted("y", y0)
    negligible = 1e-3 * max(abs(a) for a in coefficients)
    text = ""
    for a, term in zip(coefficients, _TERMS, strict=True):
        if a == 0 or abs(a) < negligible:
            continue
        sign = "-" if a < 0 else "+"
        text += f" {sign} " if text else sign.replace("+", "")
        size = _short(abs(a))
        text += "" if size == "1" else f"{size} "
        text += term.format(x=x, y=y)
    return f"-sum[ {text or '0'} ]"


def describe_attraction(theta: np.ndarray) -> str:
    """Says what a genome does to a confident, correct output.

    Args:
        theta: `f32[8]` one genome, concrete.

    Returns:
        A phrase with the attraction to one decimal; neutral if that reads 0.0.

    Raises:
        ValueError: if `theta` is not floating `[8]`.

    Example:
        >>> describe_attraction(EVOLVED_EARLIER)
        'pushes back from zero error (attraction -9.2)'
    """
    value = float(attraction(np.asarray(check_one_genome(theta))))
    shown = f"{value:+.1f}"
    if shown in ("+0.0", "-0.0"):
        return "neutral at zero error (attraction 0.0)"
    if np.isnan(value):
        return "undefined at zero error (attraction nan)"
    verb = "pulls on to" if value > 0 else "pushes back from"
    return f"{verb} zero error (attraction {shown})"


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
    theta = _check_genomes(theta)
    if theta.ndim != 1:
        raise ValueError(
            f"theta has shape {theta.shape}, expected (8,): vmap over a population."
        )
    return theta


def _check_genomes(theta: jax.Array, name: str = "theta") -> jax.Array:
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


def _unpack(theta: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(theta[..., i] for i in range(NUM_COEFFICIENTS))


def _divisors(t: jax.Array, num_classes: int) -> np.ndarray:
    """Returns what the formula's parameters are divided by, in the code's order."""
    num_classes = _check_num_classes(num_classes, least=1)
    divisors = np.append(_FACTORIALS * num_classes, [1, 1]).astype(t.dtype)
    return np.broadcast_to(divisors, t.shape)


def _check_num_classes(num_classes: int, least: int) -> int:
    try:
        value = operator.index(num_classes)
    except TypeError:
        value = None
    if value is None or value < least:
        raise ValueError(
            f"num_classes={num_classes!r} must be an integer of at least {least}: "
            "the size of the labels' last axis."
        )
    return value


def _margin_beside_xy(theta: jax.Array, num_classes: int) -> tuple[jax.Array, ...]:
    """Returns the two terms of the margin that do not depend on `a_xy`.

    Collected by coefficient, `cx + cxx + chy / C` is
    `a_xy + 2 a_xyy (1/C - y0) + a_xxy (1 - 2 x0)`.
    """
    uniform = 1 / _check_num_classes(num_classes, least=2)
    _, _, _, _, a_xyy, a_xxy, x0, y0 = _unpack(theta)
    return 2 * a_xyy * (uniform - y0), a_xxy * (1 - 2 * x0)


def _short(value: float) -> str:
    """Writes three digits, without the zero before the point."""
    return f"{value:.3g}".removeprefix("0") or "0"


def _shifted(name: str, centre: float) -> str:
    """Writes `x` or `y` minus its centre, the way one would by hand."""
    size = _short(abs(centre))
    if size == "0":
        return name
    return f"({name}{'+' if centre < 0 else '-'}{size})"
