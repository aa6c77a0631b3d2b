"""Decides how all figures look: sizes, and colours that all eyes tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jepbt.results.lineage import Line

if TYPE_CHECKING:  # matplotlib takes longer to import than all of jepbt
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap


MEMBER, WINNER, MEDIAN = "#9aa5b1", "#d55e00", "#0072b2"
INK, FAINT = "#27313b", "#d5dbe1"

LINES = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6bb1")
"""Okabe and Ito's palette without the winner's orange-red, in order of use."""


def check_report(report: Any, has: str, wanted: str) -> None:
    """Raises a `TypeError` unless a report has an attribute that only its kind has."""
    if not hasattr(report, has):
        raise TypeError(f"expected {wanted}, got {type(report).__name__}.")


def new_axes(num_rows: int = 1, num_columns: int = 1, height: float = 4.2) -> Axes:
    """Makes axes in a figure of their own: one, or an array of them."""
    from matplotlib.figure import Figure

    # Without pyplot: no global state, no display needed, nothing to close.
    figure = Figure(figsize=(7, height), layout="constrained", dpi=150)
    axes = figure.subplots(num_rows, num_columns)
    for each in np.ravel(axes):
        tidy(each)
    return axes


def tidy(axes: Axes) -> None:
    """Leaves of an axes' frame what helps to read it."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.tick_params(labelsize=9)


def generation_axis(axes: Axes, num_generations: int) -> None:
    """Labels a horizontal axis of whole generations."""
    axes.set_xlim(-0.5, num_generations - 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("generation")


def draw_members(axes: Axes, values: np.ndarray, line: Line) -> None:
    """Draws values `f[G, P]` of all members, their median, and the winner's line."""
    num_generations, num_members = values.shape
    numbers = np.arange(num_generations)
    axes.scatter(
        np.repeat(numbers, num_members),
        values.ravel(),
        s=7 if values.size < 2000 else 2,
        linewidths=0,
        color=MEMBER,
        zorder=2,
        label=f"each of {num_members} members",
    )
    axes.plot(numbers, medians(values), "--", color=MEDIAN, label="median", zorder=3)
    draw_winner(axes, line, values[line], label="the winner and its ancestors")
    generation_axis(axes, num_generations)


def draw_winner(axes: Axes, line: Line, values: np.ndarray, **look: object) -> None:
    """Draws the values `[L]` along the winner's line, with a star at the winner."""
    look = {"color": WINNER, "linewidth": 2, "zorder": 4} | look
    axes.plot(line.generations, values, **look)
    axes.scatter(
        line.generations[-1:], values[-1:], s=80, marker="*", color=WINNER, zorder=5
    )


def colour_bar(axes: Sequence[Axes], scale: ScalarMappable, label: str) -> None:
    """Adds the colours of a figure, beside all of its axes."""
    bar = axes[0].figure.colorbar(scale, ax=axes, pad=0.02, aspect=40)
    bar.set_label(label)
    bar.outline.set_visible(False)


def medians(values: np.ndarray) -> np.ndarray:
    """Computes the median of each row without its `nan`; `nan` if nothing is left."""
    return np.array(
        [np.nanmedian(row) if np.isfinite(row).any() else np.nan for row in values]
    )


def early_to_late() -> Colormap:
    """Makes colours for time, readable in grey and by all eyes, visible on white."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap(matplotlib.colormaps["viridis_r"](np.linspace(0.08, 1, 256)))


def robust_range(values: np.ndarray, quantile: float) -> tuple[float, float]:
    """Returns a low quantile and the maximum, so that a few failures do not matter."""
    finite = values[np.isfinite(values)]
    low, high = float(np.quantile(finite, quantile)), float(finite.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)
