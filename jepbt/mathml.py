"""A loss typeset for a browser: MathML, which needs no script and no font to load."""

from __future__ import annotations

import html

from jepbt.evolved_loss import EvolvedLoss, terms


def typeset(loss: EvolvedLoss) -> str:
    """Writes a loss as a row of `<math>` elements, one for each term, so that it wraps.

    Args:
        loss: of a run.

    Returns:
        HTML; the LaTeX is its title and an annotation, for copying.

    Example:
        >>> import numpy as np
        >>> theta = np.zeros(8, np.float32)
        >>> theta[1] = 2.0
        >>> text = typeset(EvolvedLoss("loss", theta, theta[None]))
        >>> "<mn>2</mn>" in text and "<msubsup>" in text
        True
    """
    centres = loss.theta[6:].tolist()
    latex = html.escape(loss.latex())
    pieces = [
        "<math><semantics><mrow><mi>L</mi><mo>=</mo><mo>−</mo>"
        "<munder><mo>∑</mo><mi>i</mi></munder><mo>[</mo></mrow>"
        f'<annotation encoding="application/x-tex">{latex}</annotation></semantics>'
        "</math>"
    ]
    for number, (sign, size, powers) in enumerate(terms(loss.theta)):
        parts = [_operator("−" if sign == "-" else "+")] * bool(number or sign == "-")
        if size != "1":
            parts.append(_number(size) + '<mspace width="0.2em"></mspace>')
        for name, centre, power in zip("xy", centres, powers, strict=True):
            if power:
                parts.append(_factor(name, centre, power))
        pieces.append(f"<math><mrow>{''.join(parts)}</mrow></math>")
    if len(pieces) == 1:
        pieces.append("<math><mn>0</mn></math>")
    pieces.append("<math><mo>]</mo></math>")
    return (
        f'<span class="jepbt-loss" title="{latex}" style="font-size:1.15em;'
        f'line-height:2">{" ".join(pieces)}</span>'
    )


def _factor(name: str, centre: float, power: int) -> str:
    size = f"{abs(centre):.3g}"
    if size == "0":
        if power == 1:
            return f"<msub><mi>{name}</mi><mi>i</mi></msub>"
        return f"<msubsup><mi>{name}</mi><mi>i</mi><mn>{power}</mn></msubsup>"
    inside = (
        f'<mo stretchy="false">(</mo><msub><mi>{name}</mi><mi>i</mi></msub>'
        f"{_operator('+' if centre < 0 else '−')}{_number(size)}"
        '<mo stretchy="false">)</mo>'
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
