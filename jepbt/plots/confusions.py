"""Draws which classes a loss has learned that the labels confuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jepbt.plots import style
from jepbt.results import recorded

if TYPE_CHECKING:  # matplotlib takes longer to import than all of jepbt
    from matplotlib.axes import Axes

_MOST_NUMBERS = 20  # classes, above which cells are too small for numbers


def confusions(
    run: Any, axes: Axes | None = None, class_names: Sequence[str] | None = None
) -> Axes:
    """Draws the table of the winner's loss, `losses.confusion`, as a heat map.

    Of a transition, an entry reads: so many of the row's class are labelled as the
    column's. Of offsets, the lowest entry of a label's row names the class that it was
    probably mistaken from.

    Args:
        run: a `Result`, or the folder of a run.
        axes: the axes to draw into; a figure of its own if left out.
        class_names: the names of the classes; the data set's, or numbers, if left out.

    Returns:
        The axes.

    Raises:
        ValueError: if the run's loss holds no such table, or there are not as many
            names as classes.

    Example:
        >>> import jepbt
        >>> jepbt.plots.confusions("runs/0001")  # doctest: +SKIP
    """
    run = recorded.read(run)
    table = run.confusions
    count = len(table)
    names = class_names
    if names is None:
        names = run.settings.get("class_names") or range(count)
    if len(names) != count:
        raise ValueError(
            f"confusions: class_names={list(names)} must be {count} names."
        )
    if axes is None:
        axes = style.new_axes(height=6.2)
    image = axes.imshow(table, **colours_of(table))
    axes.grid(False)
    row, column = run.settings.get("confusions", ("row", "column"))
    axes.set_ylabel(row)
    axes.set_xlabel(column)
    axes.set_xticks(range(count), names, rotation=45, ha="right")
    axes.set_yticks(range(count), names)
    is_share = _is_of_shares(table)
    if count <= _MOST_NUMBERS:
        _write_numbers(axes, table, is_share)
    label = "share of the class" if is_share else "offset of the logit"
    style.colour_bar([axes], image, label)
    return axes


def colours_of(table: np.ndarray) -> dict[str, Any]:
    """Chooses the colours of a table: arguments of `imshow`.

    Example:
        >>> colours_of(np.array([[0.5, -2.0]]))
        {'cmap': 'PuOr', 'vmin': -2.0, 'vmax': 2.0}
    """
    if _is_of_shares(table):
        return {"cmap": "Blues", "vmin": 0.0, "vmax": 1.0}
    limit = float(np.abs(table).max()) or 1.0
    return {"cmap": "PuOr", "vmin": -limit, "vmax": limit}


def _is_of_shares(table: np.ndarray) -> bool:
    return bool(table.min() >= 0)


def _write_numbers(axes: Axes, table: np.ndarray, is_share: bool) -> None:
    darkest = 0.6 * colours_of(table)["vmax"]
    for (row, column), value in np.ndenumerate(table):
        if is_share and value < 0.005:
            continue
        axes.text(
            column,
            row,
            f"{value:.2f}".removeprefix("0") if is_share else f"{value:.1f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if abs(value) > darkest else style.INK,
        )
