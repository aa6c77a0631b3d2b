"""Shows a run as a card in a notebook: HTML and small pictures, in one piece."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jepbt.losses import EvolvedLoss
from jepbt.optional import optional
from jepbt.plots import style
from jepbt.plots.confusions import colours_of
from jepbt.plots.history import rank_founders
from jepbt.plots.losses import curves
from jepbt.results import Recorded

if TYPE_CHECKING:  # matplotlib takes longer to import than all of jepbt
    from matplotlib.figure import Figure

_STYLE = (
    f"font:14px/1.45 system-ui,sans-serif;color:{style.INK};background:#fff;"
    f"max-width:46em;border:1px solid {style.FAINT};border-radius:8px;"
    "padding:14px 18px;overflow-x:auto"
)
_QUIET = "color:#5c6873;font-size:12px"
_ROW = "display:flex;flex-wrap:wrap;align-items:center;gap:6px 28px;margin:8px 0"
_PLAIN = "border:0;background:none;color:inherit;white-space:nowrap"


def make_card(run: Recorded, scores: Mapping[str, str], seconds: float) -> str:
    """Writes a run's card, with texts of scores by name, as HTML that loads nothing."""
    history = run.history
    generation, slot = history.winner
    facts = [
        f"{history.fitness.shape[1]} members",
        f"{len(history)} generations",
        f"{seconds:.0f} s",
        f"{np.isnan(history.fitness).sum()} failed",
    ]
    numbers = "".join(
        f'<div><div style="{_QUIET}">{html.escape(name)}</div>'
        f'<b style="font-size:17px">{html.escape(value)}</b></div>'
        for name, value in scores.items()
    )
    parts = [
        f"<b>Winner: member {slot} of generation {generation}</b> "
        f'<span style="{_QUIET}">{" · ".join(facts)}</span>',
        f'<div style="{_ROW}">{numbers}</div>',
        _write_table(run),
        _show_loss(run) if run.has_loss else "",
        _show_confusions(run) if run.table is not None else "",
        f'<div style="{_QUIET}">Lineage: shares of the founders, '
        f"{len(history.surviving_founders)} left</div>",
        as_image("shares of the founders over the generations", _draw_founders, run),
    ]
    return f'<div class="jepbt-card" style="{_STYLE}">{"".join(parts)}</div>'


def format_value(value: Any) -> str:
    """Writes a value for people: fractions to three digits, lists with spaces.

    Example:
        >>> format_value(0.12345), format_value((0.5, 1e-6)), format_value({"a": 1024})
        ('0.123', '0.5 1e-06', 'a 1024')
    """
    match value:
        case Mapping():
            return ", ".join(f"{k} {format_value(v)}" for k, v in value.items())
        case list() | tuple():
            return " ".join(map(format_value, value))
        case float() | np.floating():
            return f"{value:.3g}"
    return str(value)


def typeset(loss: EvolvedLoss) -> str:
    """Writes a loss as a line of HTML that wraps; its LaTeX is the title.

    Example:
        >>> theta = np.float32([0, 2, 0, 0, 0, 0, 0, 0])
        >>> typeset(EvolvedLoss("loss", theta, theta[None])).partition(">")[2]
        '<i>L</i> = −∑[ 2&nbsp;<i>y</i><sup>2</sup> ]</span>'
    """
    text = "L = " + loss.formula.replace("sum", "∑").replace("-", "−")
    text = re.sub(r" (?=[(xy])", "&nbsp;", text)  # no line ends inside a term
    text = re.sub(r"[Lxy]", r"<i>\g<0></i>", text)
    text = re.sub(r"\^(\d)", r"<sup>\1</sup>", text)
    return (
        f'<span class="jepbt-loss" title="{html.escape(loss.latex())}" '
        f'style="font:1.15em/1.7 serif">{text}</span>'
    )


def as_image(description: str, draw: Callable[..., Figure], *args: Any) -> str:
    """Draws a figure as an `<img>` that holds its own data; where it fails, nothing.

    Matplotlib follows the user's settings, some of which need what is not there: LaTeX
    for example.
    """
    buffer = io.BytesIO()
    with optional("pictures of the run are missing") as attempt:
        # Twice the pixels that it is shown with, to be sharp everywhere.
        draw(*args).savefig(buffer, format="png", dpi=2 * 96)
    if attempt.failed:
        return ""
    png = buffer.getvalue()
    width = int.from_bytes(png[16:20], "big") // 2  # from the header of the PNG
    return (
        f'<img alt="{html.escape(description)}" width="{width}" '
        'style="max-width:100%;height:auto" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    )


def _write_table(run: Recorded) -> str:
    rows = []
    line = run.history.ancestry()
    for name, values, space in run.columns:
        values = values[line]
        picture = ""
        if values.dtype.kind in "fi":
            log = getattr(space, "log", False)
            picture = as_image(f"schedule of {name}", _draw_schedule, values, log)
        rows.append(
            f'<tr style="{_PLAIN}"><td style="text-align:left">{html.escape(name)}</td>'
            f'<td>{picture}</td><td style="text-align:right"><b>'
            f"{html.escape(format_value(values[-1]))}</b></td></tr>"
        )
    return f'<table style="{_PLAIN}">{"".join(rows)}</table>'


def _show_loss(run: Recorded) -> str:
    loss = run.evolved_loss
    description = "the winner's loss, solid, and cross-entropy, dashed"
    curve = as_image(description, _draw_loss, run)
    return (
        f'<div style="{_ROW}">{curve}<div style="flex:1 1 20em">{typeset(loss)}'
        f'<div style="{_QUIET}">attraction to zero error {loss.attraction:+.1f}</div>'
        "</div></div>"
    )


def _show_confusions(run: Recorded) -> str:
    rows, columns = run.settings.get("confusions", ("row", "column"))
    description = "what the winner's loss has learned of the labels"
    picture = as_image(description, _draw_confusions, run)
    names = f"rows: {rows}, columns: {columns}"
    return (
        f'<div style="{_ROW}">{picture}<div style="{_QUIET}">{description}: '
        f"{html.escape(names)}</div></div>"
    )


def _draw_confusions(run: Recorded) -> Figure:
    figure, axes = _new_picture(1.4, 1.4, margin=0.04)
    axes.imshow(run.confusions, **colours_of(run.confusions))
    return figure


def _draw_schedule(values: np.ndarray, log: bool) -> Figure:
    figure, axes = _new_picture(1.25, 0.25, margin=0.12)
    if log:
        axes.set_yscale("log")
    axes.plot(values, color=style.MEDIAN, linewidth=1.2)
    axes.plot(
        [len(values) - 1], values[-1:], "o", ms=4, color=style.WINNER, clip_on=False
    )
    return figure


def _draw_founders(run: Recorded) -> Figure:
    """Draws a column for each generation, its members coloured by their founders."""
    from matplotlib.colors import ListedColormap

    founders = run.history.founders
    mine = founders[run.history.winner]
    others = [name for name in rank_founders(founders) if name != mine]
    colours = ListedColormap([style.WINNER, *style.LINES, style.FAINT])
    rank = np.full(founders.shape, colours.N - 1)
    for place, name in zip(range(colours.N - 1), [mine, *others], strict=False):
        rank[founders == name] = place
    figure, axes = _new_picture(6.3, 0.55)
    axes.imshow(
        np.sort(rank, axis=1).T,
        cmap=colours,
        vmin=-0.5,
        vmax=colours.N - 0.5,
        aspect="auto",
        interpolation="nearest",
        origin="lower",
    )
    return figure


def _draw_loss(run: Recorded) -> Figure:
    figure, axes = _new_picture(1.8, 1.4, margin=0.14)
    axes.axis("on")
    axes.set(xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("true class's probability", fontsize=8, color=style.INK)
    p = np.linspace(0.03, 1, 60)
    loss, _ = curves(run.evolved_loss.theta, p, run.num_classes)
    axes.plot(p, -np.log(p), "--", color="black", linewidth=1.5)
    axes.plot(p, loss, color=style.WINNER, linewidth=1.8)
    return figure


def _new_picture(width: float, height: float, margin: float = 0.0):
    """Makes axes without any labels, that fill a figure of so many inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((margin, margin, 1 - 2 * margin, 1 - 2 * margin))
    axes.axis("off")
    return figure, axes
