"""Writes TaylorGLO genomes as text: plain, LaTeX, and in words."""

from __future__ import annotations

import numpy as np

from jepbt.losses.effective import attraction
from jepbt.losses.genome import check_one_genome

_POWERS = ((0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1))  # of x and y, as in a genome


def terms(theta: np.ndarray) -> list[tuple[str, str, tuple[int, int]]]:
    """Lists the terms of a loss that a reader should see.

    Args:
        theta: `f32[8]` one genome.

    Returns:
        Sign, size to three digits, and the powers of label and prediction of each term
        that is at least a thousandth of the largest.

    Example:
        >>> from jepbt.losses.genome import CROSS_ENTROPY_EXPANSION
        >>> terms(CROSS_ENTROPY_EXPANSION)[2]
        ('+', '1.33', (0, 3))
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

    Raises:
        ValueError: if `theta` is not floating `[8]`.

    Example:
        >>> from jepbt.losses.genome import CROSS_ENTROPY_EXPANSION
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


def to_latex(theta: np.ndarray) -> str:
    """Writes a genome's loss as LaTeX: see `EvolvedLoss.latex`."""
    centres = np.asarray(check_one_genome(theta))[6:].tolist()
    body = ""
    for sign, size, powers in terms(theta):
        body += f" {sign} " if body else sign.replace("+", "")
        factors = [
            _latex_factor(name, centre, power)
            for name, centre, power in zip("xy", centres, powers, strict=True)
            if power
        ]
        if size != "1":
            factors.insert(0, _latex_number(size))
        body += "\\,".join(factors)
    return rf"\mathcal{{L}} = -\sum_{{i=1}}^{{C}} \left[ {body or '0'} \right]"


def describe_attraction(theta: np.ndarray) -> str:
    """Tells in words how a genome treats a confident, correct output.

    Args:
        theta: `f32[8]` one genome, concrete.

    Returns:
        A phrase with the attraction to one decimal; neutral if that reads 0.0.

    Raises:
        ValueError: if `theta` is not floating `[8]`.

    Example:
        >>> from jepbt.losses.genome import EVOLVED_EARLIER
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
    """Leaves out the zero before the point."""
    return size.removeprefix("0") or "0"


def _shifted(name: str, centre: float) -> str:
    """Writes `x` or `y` minus its centre, the way one would by hand."""
    size = _without_zero(f"{abs(centre):.3g}")
    if size == "0":
        return name
    return f"({name}{'+' if centre < 0 else '-'}{size})"


def _latex_number(text: str) -> str:
    mantissa, _, exponent = text.partition("e")
    return rf"{mantissa}\times 10^{{{int(exponent)}}}" if exponent else mantissa


def _latex_factor(name: str, centre: float, power: int) -> str:
    size = f"{abs(centre):.3g}"
    base = f"{name}_i"
    if size != "0":
        base = f"({base} {'+' if centre < 0 else '-'} {_latex_number(size)})"
    return f"{base}^{{{power}}}" if power > 1 else base
