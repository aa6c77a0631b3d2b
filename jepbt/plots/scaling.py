"""Draws the cost of a population by its size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jepbt.plots import style
from jepbt.plots.style import MEDIAN, MEMBER, WINNER

if TYPE_CHECKING:  # matplotlib takes longer to import than all of jepbt
    from matplotlib.axes import Axes


def scaling(report: Any, axes: Axes | None = None) -> Axes:
    """Draws a population's throughput by its size, beside the ideal and the ceiling.

    Ideally every member trains as fast as those of the smallest population. The ceiling
    is the machine's matmul peak. The knee is the smallest population that has 90 % of
    the largest throughput.

    Args:
        report: the report that `jepbt.scaling` returns.
        axes: the axes to draw into; a figure of its own if left out.

    Returns:
        The axes.

    Raises:
        TypeError: if the report is something else.

    Example:
        >>> import jepbt
        >>> task = jepbt.classification("fashion_mnist")
        >>> report = jepbt.scaling(task, max_population=16)  # doctest: +SKIP
        >>> jepbt.plots.scaling(report)  # doctest: +SKIP
    """
    wanted = "the ScalingReport that jepbt.scaling returns"
    style.check_report(report, "ceiling", wanted)
    axes = style.new_axes() if axes is None else axes
    sizes = np.array([row.population_size for row in report.rows])
    speeds = [row.samples_per_second for row in report.rows]
    medians = np.array([speed.median for speed in speeds])
    ranges = [medians - [s.low for s in speeds], [s.high for s in speeds] - medians]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ideal = medians[0] * sizes / sizes[0]
    axes.plot(sizes, ideal, "--", color=MEMBER, label="ideal: no member waits")
    if np.isfinite(report.ceiling):
        label = f"ceiling: {report.ceiling:.3g} times one, the matmul peak"
        ceiling = medians[0] * report.ceiling
        axes.axhline(ceiling, color=MEDIAN, linestyle=":", label=label)
    look = {"color": WINNER, "marker": "o", "capsize": 3}
    axes.errorbar(sizes, medians, ranges, label="measured, median and range", **look)
    label = f"knee: P = {report.knee}"
    axes.axvline(report.knee, color=WINNER, linewidth=0.8, label=label)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.minorticks_off()  # on the other axis they label a short range
    axes.set_xlabel("members P")
    axes.set_ylabel("training samples a second, all members")
    # Above the axes: inside, a line would run through it on some devices.
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return axes
