"""Evaluates, repairs and describes TaylorGLO losses: loss functions as eight numbers.

The module hands on everything about genomes: their convention, conversions and effect
(`losses.genome`).

Reference:
    Gonzalez & Miikkulainen, "Optimizing Loss Functions Through Multivariate Taylor
    Polynomial Parameterization", 2021, https://arxiv.org/abs/2002.00059
"""

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.losses.genome import (
    CROSS_ENTROPY_EXPANSION,
    EVOLVED_EARLIER,
    EVOLVED_ON_MNIST,
    NUM_COEFFICIENTS,
    Effective,
    at_scale,
    attraction,
    check_genomes,
    check_num_classes,
    check_one_genome,
    direction,
    effective,
    from_direction,
    from_effective,
    from_formula,
    unpack,
)

__all__ = [
    "CROSS_ENTROPY_EXPANSION",
    "EVOLVED_EARLIER",
    "EVOLVED_ON_MNIST",
    "NUM_COEFFICIENTS",
    "REPAIRED_MARGIN",
    "Effective",
    "at_scale",
    "attraction",
    "check_one_genome",
    "describe",
    "describe_attraction",
    "direction",
    "effective",
    "from_direction",
    "from_effective",
    "from_formula",
    "margin",
    "repair",
    "taylor_loss",
]

REPAIRED_MARGIN = 0.1
"""The margin that `repair` lifts a genome to."""

_XY = 3  # the place of a_xy in a genome
_POWERS = ((0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1))  # of x and y, as in a genome


def taylor_loss(theta: jax.Array, labels: jax.Array, probs: jax.Array) -> jax.Array:
    """Evaluates one genome's loss, summed over the classes.

    Args:
        theta: `f32[8]` one genome; `vmap` over a population.
        labels: `f32[..., C]` one-hot or soft labels.
        probs: `f32[..., C]` predicted class probabilities.

    Returns:
        `f32[...]` one loss per example.

    Example:
        >>> theta = np.zeros(8, np.float32)
        >>> theta[3] = 1.0  # only the term in xy
        >>> float(taylor_loss(theta, jnp.array([1.0, 0.0]), jnp.array([0.75, 0.25])))
        -0.75
    """
    theta = jnp.asarray(check_one_genome(theta))
    if jnp.shape(labels) != jnp.shape(probs):
        raise ValueError(
            f"labels have shape {jnp.shape(labels)} and probs {jnp.shape(probs)}; "
            "both must be [..., C]. Class indices become labels with jax.nn.one_hot."
        )
    return -jnp.sum(polynomial(theta, labels, probs), axis=-1)


def polynomial(theta: jax.Array, labels: jax.Array, probs: jax.Array) -> jax.Array:
    """Evaluates one genome's polynomial for each class; `taylor_loss` is minus the sum.

    Numbers and NumPy arrays give such back, of the precision that `theta` has.
    """
    a_y, a_yy, a_yyy, a_xy, a_xyy, a_xxy, x0, y0 = unpack(theta)
    x = labels - x0
    y = probs - y0
    of_y = a_y + y * (a_yy + y * a_yyy)
    of_xy = a_xy + y * a_xyy + x * a_xxy
    return y * (of_y + x * of_xy)


def margin(theta: jax.Array, num_classes: int) -> jax.Array:
    """Measures how strongly genomes raise the true logit of an untrained network.

    The margin is `cx + cxx + chy / C`. At uniform outputs the true logit's descent
    direction is the margin times `(C - 1) / C²`.

    Args:
        theta: `f32[..., 8]` genomes.
        num_classes: `C`, at least 2.

    Returns:
        `f32[...]` the margin; training starts only where it is positive.

    Example:
        >>> round(float(margin(CROSS_ENTROPY_EXPANSION, num_classes=10)), 4)
        3.6
    """
    theta = check_genomes(theta)
    by_xyy, by_xxy = _margin_beside_xy(theta, num_classes)
    return theta[..., _XY] + (by_xyy + by_xxy)


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

    Example:
        >>> flat = np.zeros(8, np.float32)  # a loss without any gradient
        >>> [round(a, 3) for a in repair(flat, num_classes=10).tolist()]
        [0.0, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0]
    """
    theta = jnp.asarray(check_genomes(theta))
    by_xyy, by_xxy = _margin_beside_xy(theta, num_classes)
    # The least a_xy comes from the other coefficients alone: adding 0.1 - margin to
    # a_xy would round anew each time. The guard covers what rounding differs by
    # between two compilations of this function (fused multiply-adds).
    least = REPAIRED_MARGIN - (by_xyy + by_xxy)
    size = REPAIRED_MARGIN + abs(by_xyy) + abs(by_xxy)
    guard = 8 * jnp.finfo(theta.dtype).eps * size
    a_xy = theta[..., _XY]
    return theta.at[..., _XY].set(jnp.where(a_xy < least - guard, least, a_xy))


def _margin_beside_xy(theta: jax.Array, num_classes: int) -> tuple[jax.Array, ...]:
    """Returns the two terms of the margin that do not depend on `a_xy`.

    Collected by coefficient, `cx + cxx + chy / C` is
    `a_xy + 2 a_xyy (1/C - y0) + a_xxy (1 - 2 x0)`.
    """
    check_num_classes(num_classes, least=2)
    uniform = 1 / num_classes
    _, _, _, _, a_xyy, a_xxy, x0, y0 = unpack(theta)
    return 2 * a_xyy * (uniform - y0), a_xxy * (1 - 2 * x0)


def terms(theta: np.ndarray) -> list[tuple[str, str, tuple[int, int]]]:
    """Lists the terms of a loss that a reader should see.

    Each has a sign, a size to three digits, and the powers of label and prediction.
    Terms below a thousandth of the largest are left out.
    """
    coefficients = np.asarray(check_one_genome(theta))[:6].tolist()
    negligible = 1e-3 * max(map(abs, coefficients))
    return [
        ("-" if value < 0 else "+", f"{abs(value):.3g}", powers)
        for value, powers in zip(coefficients, _POWERS, strict=True)
        if value != 0 and not abs(value) < negligible
    ]


def describe(theta: np.ndarray) -> str:
    """Writes a genome's loss as one line of plain text.

    Numbers have three digits; terms below a thousandth of the largest are left out.

    Args:
        theta: `f32[8]` one genome, concrete.

    Returns:
        The formula, with `x` the label and `y` the predicted probability.

    Example:
        >>> describe(CROSS_ENTROPY_EXPANSION)
        '-sum[ (y-.5) - (y-.5)^2 + 1.33 (y-.5)^3 + 2 (x-.5)(y-.5) - 2 (x-.5)(y-.5)^2 ]'
    """
    x0, y0 = np.asarray(check_one_genome(theta))[6:].tolist()
    x, y = _shifted("x", x0), _shifted("y", y0)
    text = ""
    for sign, size, (of_x, of_y) in terms(theta):
        text += f" {sign} " if text else sign.replace("+", "")
        text += "" if size == "1" else f"{_without_zero(size)} "
        text += ("", x, f"{x}^2 ")[of_x] + ("", y, f"{y}^2", f"{y}^3")[of_y]
    return f"-sum[ {text or '0'} ]"


def describe_attraction(theta: np.ndarray) -> str:
    """Tells in words how a genome treats a confident, correct output.

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


def _without_zero(size: str) -> str:
    return size.removeprefix("0") or "0"


def _shifted(name: str, centre: float) -> str:
    """Writes `x` or `y` minus its centre, the way one would by hand."""
    size = _without_zero(f"{abs(centre):.3g}")
    if size == "0":
        return name
    return f"({name}{'+' if centre < 0 else '-'}{size})"
