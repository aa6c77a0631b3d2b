"""Evaluates and repairs TaylorGLO losses: a loss function as eight numbers.

The module hands on everything about genomes: their convention and conversions
(`losses.genome`), the numbers through which they act (`losses.effective`), and how they
read as text (`losses.formula`).

Reference:
    Gonzalez & Miikkulainen, "Optimizing Loss Functions Through Multivariate Taylor
    Polynomial Parameterization", 2021, https://arxiv.org/abs/2002.00059
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jepbt.losses.effective import (
    Effective,
    at_scale,
    attraction,
    direction,
    effective,
    from_direction,
    from_effective,
)
from jepbt.losses.formula import describe, describe_attraction
from jepbt.losses.genome import (
    CROSS_ENTROPY_EXPANSION,
    EVOLVED_EARLIER,
    EVOLVED_ON_MNIST,
    NUM_COEFFICIENTS,
    check_genomes,
    check_num_classes,
    check_one_genome,
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
        >>> import numpy as np
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
    a_y, a_yy, a_yyy, a_xy, a_xyy, a_xxy, x0, y0 = unpack(theta)
    x = labels - x0
    y = probs - y0
    of_y = a_y + y * (a_yy + y * a_yyy)
    of_xy = a_xy + y * a_xyy + x * a_xxy
    return -jnp.sum(y * (of_y + x * of_xy), axis=-1)


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

    Raises:
        ValueError: if `theta` is not floating `[..., 8]` or `num_classes` is below 2.

    Example:
        >>> import numpy as np
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
