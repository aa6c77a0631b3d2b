"""A run as a card for notebooks: HTML that needs nothing but itself."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jepbt.losses import EvolvedLoss
from jepbt.losses.formula import terms
from jepbt.plots import style
from jepbt.plots.losses import curves
from jepbt.results import Recorded, lineage

_STYLE = (
    "font:14px/1.45 system-ui,sans-serif;color:#27313b;background:#fff;max-width:46em;"
    "border:1px solid #d5dbe1;border-radius:8px;padding:14px 18px;overflow-x:auto"
)
_QUIET = "color:#5c6873;font-size:12px"


def make_card(run: Recorded, scores: Mapping[str, str], seconds: float | None) -> str:
    """Writes the card.

    Args:
        run: to show.
        scores: with intervals, by what they are of.
        seconds: that the run took, if known.

    Returns:
        HTML, everything from the run escaped.
    """
    history = run.history
    generation, slot = history.winner
    num_members = history.fitness.shape[1]
    facts = [
        f"{num_members} members",
        f"{len(history)} generations",
        *([f"{seconds:.0f} s"] if seconds is not None else []),
        f"{sum(g.num_failed for g in history.generations)} failed",
    ]
    cells = "".join(
        f'<div style="margin-right:28px">'
        f'<div style="{_QUIET}">{html.escape(name)}</div>'
        f'<b style="font-size:17px">{html.escape(value)}</b></div>'
        for name, value in scores.items()
    )
    parts = [
        f"<b>Winner: member {slot} of generation {generation}</b> "
        f'<span style="{_QUIET}">{" · ".join(facts)}</span>',
        f'<div style="display:flex;flex-wrap:wrap;margin:8px 0">{cells}</div>',
        _hparams_table(run),
    ]
    if run.has_loss:
        loss = run.evolved_loss
        parts.append(
            '<div style="display:flex;flex-wrap:wrap;align-items:center;margin:8px 0">'
            f"{loss_curve(run)}"
            f'<div style="flex:1 1 20em;min-width:0;overflow-x:auto">{typeset(loss)}'
            f'<div style="{_QUIET};text-align:center">attraction to zero error '
            f"{loss.attraction:+.1f}</div></div></div>"
        )
    parts.append(
        f'<div style="{_QUIET}">Lineage: shares of the founders, '
        f"{len(history.surviving_founders)} left</div>{lineage_strip(run)}"
    )
    return f'<div class="jepbt-card" style="{_STYLE}">{"".join(parts)}</div>'


def sparkline(values: Sequence[float], *, log: bool = False) -> str:
    """Draws a row of numbers as a small line, its last value a dot.

    Args:
        values: at least one.
        log: whether to draw logarithms.

    Returns:
        An `<svg>` element.

    Example:
        >>> sparkline([1.0, 2.0]).count("<path")
        1
    """
    values = np.asarray(values, float)
    if log:
        values = np.log(np.maximum(values, 1e-300))
    x = np.linspace(3, 117, len(values)) if len(values) > 1 else np.array([117.0])
    span = np.ptp(values)
    y = 20 - 16 * (values - values.min()) / span if span else np.full(len(x), 12.0)
    return (
        '<svg width="120" height="24" role="img" aria-label="schedule">'
        f'<path d="{_path(x, y)}" fill="none" stroke="{style.MEDIAN}" '
        'stroke-width="1.5"/>'
        f'<circle cx="{x[-1]:.1f}" cy="{y[-1]:.1f}" r="2.5" fill="{style.WINNER}"/>'
        "</svg>"
    )


def lineage_strip(run: Recorded, width: int = 560, height: int = 54) -> str:
    """Draws the founders' shares of the population over the generations, as bands.

    Args:
        run: to show.
        width: in pixels.
        height: in pixels.

    Returns:
        An `<svg>` element; the winner's founder has the winner's colour.
    """
    history = run.history
    first = lineage.founders(history.parents, history.fresh)
    num_members = first.shape[1]
    names, counts = np.unique(first, return_counts=True)
    names = names[np.argsort(-counts, kind="stable")]
    winner = first[history.winner]
    others = iter(style.LINES)
    x = np.linspace(0, width, len(first)) if len(first) > 1 else np.array([0.0, width])
    bands, below = [], np.zeros(len(x))
    for name in [winner, *names[names != winner]]:
        share = (first == name).sum(axis=1) / num_members
        above = below + (share if len(first) > 1 else np.repeat(share, 2))
        edge = np.concatenate([above, below[::-1]])
        colour = style.WINNER if name == winner else next(others, style.FAINT)
        bands.append(
            f'<path d="{_path(np.concatenate([x, x[::-1]]), height * (1 - edge))}Z" '
            f'fill="{colour}" stroke="#fff" stroke-width="0.5">'
            f"<title>founder {int(name) % num_members}</title></path>"
        )
        below = above
    return (
        f'<svg viewBox="0 0 {width} {height}" style="width:100%;max-width:{width}px;'
        f'height:{height}px" preserveAspectRatio="none" role="img" '
        f'aria-label="founders\' shares over the generations">{"".join(bands)}</svg>'
    )


def loss_curve(run: Recorded) -> str:
    """Draws the winner's loss beside cross-entropy, against the true probability.

    Args:
        run: in which a loss evolved.

    Returns:
        An `<svg>` element.
    """
    p = np.linspace(0.03, 1, 60)
    loss, _ = curves(run.evolved_loss.theta, p, run.num_classes)
    lines = [(-np.log(p), "#000", "4 3"), (loss, style.WINNER, "")]
    low = min(line.min() for line, *_ in lines)
    high = max(line.max() for line, *_ in lines)
    paths = "".join(
        f'<path d="{_path(8 + 154 * p, 88 - 80 * (line - low) / (high - low or 1))}" '
        f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        for line, colour, dash in lines
    )
    return (
        '<svg width="170" height="112" role="img" '
        'aria-label="the winner\'s loss, solid, and cross-entropy, dashed">'
        f'<path d="M8 4V92H166" fill="none" stroke="#9aa5b1"/>{paths}'
        '<text x="87" y="106" text-anchor="middle" font-size="11" fill="#5c6873">'
        "true class's probability</text></svg>"
    )


def format_value(value: Any) -> str:
    """Writes a hyperparameter's value for people: numbers to three digits.

    Example:
        >>> format_value(0.12345), format_value((0.5, 1e-6)), format_value("relu")
        ('0.123', '0.5 1e-06', 'relu')
    """
    if isinstance(value, tuple):
        return " ".join(map(format_value, value))
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, int | float | np.number):
        return f"{value:.3g}"
    return str(value)


def _hparams_table(run: Recorded) -> str:
    rows = []
    for name, values, space in run.by_number(run.schedule.by_generation):
        if values.ndim > 1:
            continue
        is_number = values.dtype.kind in "fi"
        picture = (
            sparkline(values, log=getattr(space, "log", False)) if is_number else ""
        )
        rows.append(
            f'<tr style="background:none"><td style="text-align:left">'
            f"{html.escape(name)}</td><td>{picture}</td>"
            f'<td style="text-align:right"><b>{html.escape(format_value(values[-1]))}'
            "</b></td></tr>"
        )
    look = "border:0;color:inherit;white-space:nowrap"
    return f'<table style="{look}">{"".join(rows)}</table>'


def _path(x: np.ndarray, y: np.ndarray) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))


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
