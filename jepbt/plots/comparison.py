"""Draws what arms of a comparison differ by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jepbt.plots import style
from jepbt.plots.style import INK, MEDIAN, MEMBER, WINNER

if TYPE_CHECKING:  # matplotlib takes longer to import than all of jepbt
    from matplotlib.axes import Axes


def comparison(report: Any, axes: Axes | None = None) -> Axes:
    """Draws each arm's difference to the control: the mean, its interval, every seed.

    Intervals are not corrected for their number; the words "p < 0.05" stand where an
    arm differs after correction.

    Args:
        report: the `Comparison` that `jepbt.compare` returns.
        axes: the axes to draw into; a figure of its own if left out.

    Returns:
        The axes.

    Raises:
        TypeError: if the report is something else.

    Example:
        >>> import jepbt
        >>> report = jepbt.compare(arms, seeds=20)  # doctest: +SKIP
        >>> jepbt.plots.comparison(report)  # doctest: +SKIP
    """
    wanted = "the Comparison that jepbt.compare returns"
    style.check_report(report, "is_accuracy", wanted)
    rows = [row for row in report.rows if row.difference is not None]
    axes = style.new_axes(height=1.5 + 0.55 * len(rows)) if axes is None else axes
    scale = 100 if report.is_accuracy else 1
    reference = report.scores[report.names.index(report.control)]
    axes.axvline(0, color=MEDIAN, linewidth=1, zorder=1)
    for place, row in enumerate(rows):
        mean, low, high, _ = (scale * number for number in row.difference.estimate)
        seeds = scale * (report.scores[report.names.index(row.name)] - reference)
        below = np.full(len(seeds), place + 0.2)
        axes.scatter(seeds, below, s=9, linewidths=0, color=MEMBER, zorder=2)
        colour = WINNER if row.name == report.primary else INK
        axes.plot([low, high], [place, place], color=colour, linewidth=2, zorder=3)
        axes.plot(mean, place, "s", color=colour, markersize=7, zorder=4)
        digits = "+.2f" if report.is_accuracy else "+.3g"
        text = f"{mean:{digits}}"
        if np.isfinite(low):
            text += f" [{low:{digits}}, {high:{digits}}]"
        axes.annotate(
            text + ("  p < 0.05" if row.is_significant else ""),
            (mean, place),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=colour,
            bbox={"color": "white", "pad": 1},
            zorder=5,
        )
    labels = [f"{r.name} *" if r.name == report.primary else r.name for r in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.7)
    axes.grid(axis="y", visible=False)
    quantity = "accuracy, points" if report.is_accuracy else "score"
    axes.set_xlabel(f"{report.split} {quantity}: difference to {report.control}")
    title = f"{len(report.seeds)} seeds, means with 95 % intervals, seeds as dots"
    axes.set_title(title, loc="left", fontsize=9)
    return axes
