"""A loss typeset for a browser: MathML, which needs no script and no font to load."""

from __future__ import annotations

import html


from jepbt.evolved_loss import EvolvedLoss, terms


def typeset(loss: EvolvedLoss) -> str:
    """Writes a loss as a `<math>` element, its LaTeX beside it for copying.

    Args:
        loss: of a run.

    Returns:
        HTML.

    Example:
        >>> import numpy as np
        >>> theta = np.zeros(8, np.float32)
        >>> theta[1] = 2.0
        >>> text = typeset(EvolvedLoss("loss", theta, theta[None]))
        >>> "<mn>2</mn>" in text and "<msubsup>" in text
        True
    """
    centres = loss.theta[6:].tolist()
    parts = []
    for sign, size, powers in terms(loss.theta):
        if parts or sign == "-":
            parts.append(_operator("−" if sign == "-" else "+"))
        if size != "1":
            parts.append(_number(size))
        for name, centre, power in zip("xy", centres, powers, strict=True):
            if power:
                parts.append(_factor(name, centre, power))
    return (
        '<math display="block"><semantics><mrow>'
        "<mi>L</mi><mo>=</mo><mo>−</mo>"
        "<munder><mo>∑</mo><mi>i</mi></munder>"
        f"<mrow><mo>[</mo>{''.join(parts) or _number('0')}<mo>]</mo></mrow></mrow>"
        f'<annotation encoding="application/x-tex">{html.escape(loss.latex())}'
        "</annotation></semantics></math>"
    )


def _factor(name: str, centre: float, power: int) -> str:
    size = f"{abs(centre):.3g}"
    if size == "0":
        if power == 1:
            return f"<msub><mi>{name}</mi><mi>i</mi></msub>"
        return f"<msubsup><mi>{name}</mi><mi>i</mi><mn>{power}</mn></msubsup>"
    inside = (
        f"<mo>(</mo><msub><mi>{name}</mi><mi>i</mi></msub>"
        f"{_operator('+' if centre < 0 else '−')}{_number(size)}<mo>)</mo>"
    )
    if power == 1:
        return f"<mrow>{inside}</mrow>"
    return f"<msup><mrow>{inside}</mrow><mn>{power}</mn></msup>"


def _number(text: str) -> str:
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return f"<mn>{mantissa}</mn>"
    return (
        f"<mn>{mantissa}</mn><mo>×</mo>"
        f"<msup><mn>10</mn><mn>{str(int(exponent)).replace('-', '−')}</mn></msup>"
    )


def _operator(text: str) -> str:
    return f'<mo form="infix">{text}</mo>'
