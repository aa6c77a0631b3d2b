"""How all figures look: sizes, and colours that all eyes tell apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # matplotlib takes longer to import than all of jepbt
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap


MEMBER, WINNER, MEDIAN = "#9aa5b1", "#d55e00", "#0072b2"
INK, FAINT = "#27313b", "#d5dbe1"

LINES = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6bb1")
"""Okabe and Ito's palette without the winner's orange-red, in order of use."""


def new_axes(num_rows: int = 1, num_columns: int = 1, height: float = 4.2) -> Axes:
    """Makes axes in a figure of their own: one, or an array of them.

    Args:
        num_rows: of axes.
        num_columns: of axes.
        height: of the figure, in inches.

    Returns:
        The axes, `axes[num_rows, num_columns]` if there are several.
    """
    from matplotlib.figure import Figure

    # Without pyplot: no global state, no display needed, nothing to close.
    figure = Figure(figsize=(7, height), layout="constrained", dpi=150)
    axes = figure.subplots(num_rows, num_columns)
    for each in np.ravel(axes):
        each.spines[["top", "right"]].set_visible(False)
        each.grid(alpha=0.25, linewidth=0.5)
        each.tick_params(labelsize=9)
    return axes


def generation_axis(axes: Axes, num_generations: int) -> None:
    """Labels a horizontal axis of whole generations."""
    axes.set_xlim(-0.5, num_generations - 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("generation")


def early_to_late() -> Colormap:
    """Colours for time, readable in grey and by all eyes; no end vanishes on white."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap(matplotlib.colormaps["viridis_r"](np.linspace(0.08, 1, 256)))


def robust_range(values: np.ndarray, quantile: float) -> tuple[float, float]:
    """Returns a quantile and the maximum: a few failures do not press the rest.

    Args:
        values: any; at least one is finite.
        quantile: of the lower end.

    Returns:
        Two different numbers.
    """
    finite = values[np.isfinite(values)]
    low, high = float(np.quantile(finite, quantile)), float(finite.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)
