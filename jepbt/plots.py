"""Pictures, one function each, drawn from a run's history or a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jepbt import recorded, style
from jepbt.benchmark_reports import ScalingReport
from jepbt.history_plots import describe_lineage, hparam_schedules, lineage
from jepbt.loss_plots import attraction, evolved_loss
from jepbt.style import MEDIAN, MEMBER, WINNER

if TYPE_CHECKING:  # matplotlib takes longer to import than all of jepbt
    from matplotlib.axes import Axes

__all__ = [
    "attraction",
    "describe_lineage",
    "evolved_loss",
    "fitness",
    "hparam_schedules",
    "lineage",
    "scaling",
]


def fitness(run: Any, axes: Axes | None = None) -> Axes:
    """Draws every member's fitness over the generations, and the winner's ancestors.

    Each line follows a slot to the slot that it was continued in; a member that was
    replaced ends as a dot. The winner is the best of all generations.

    Args:
        run: a `Result`, its `history`, or the folder of a run.
        axes: to draw into; a figure of its own if left out.

    Returns:
        The axes; `axes.figure.savefig("fitness.png")` writes them.

    Raises:
        ValueError: if no member ever had a finite fitness.

    Example:
        >>> import numpy as np
        >>> import jepbt
        >>> from jepbt.history import Generation, History
        >>> history = History()
        >>> for number, values in enumerate([[0.5, 0.6], [0.7, 0.8]]):
        ...     history.generations.append(
        ...         Generation(
        ...             number, np.array(values), None, np.array([1, 1]), {}, {}, {}, {}
        ...         )
        ...     )
        >>> jepbt.plots.fitness(history).get_ylabel()
        'fitness on validation data'
    """
    history = recorded.read(run).history
    values = history.fitness
    generation, _ = history.winner
    axes = style.new_axes() if axes is None else axes
    num_generations, num_members = values.shape
    parents = history.parents
    numbers = np.arange(num_generations)
    for number in range(1, num_generations):
        before = values[number - 1, parents[number]]
        axes.plot(
            [number - 1, number],
            [before, values[number]],
            color=MEMBER,
            linewidth=0.6,
            alpha=0.6,
            zorder=1,
        )
    axes.scatter(
        np.repeat(numbers, num_members),
        values.ravel(),
        s=7 if values.size < 2000 else 2,
        color=MEMBER,
        zorder=2,
        label=f"each of {num_members} members",
    )
    axes.plot(
        numbers,
        [np.nanmedian(row) if np.isfinite(row).any() else np.nan for row in values],
        color=MEDIAN,
        linestyle="--",
        label="median",
        zorder=3,
    )
    line = history.ancestry()
    born = int(np.argmax(line >= 0))
    path = values[np.arange(born, generation + 1), line[born:]]
    axes.plot(
        numbers[born : generation + 1],
        path,
        color=WINNER,
        linewidth=2,
        label="the winner and its ancestors",
        zorder=4,
    )
    axes.scatter([generation], [path[-1]], s=70, marker="*", color=WINNER, zorder=5)
    axes.annotate(
        f"{path[-1]:.3f}",
        (generation, path[-1]),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        color=WINNER,
    )
    # A member that fell to chance would press all others into one line.
    low = np.nanquantile(values, 0.05)
    span = path[-1] - low
    if span > 0:
        axes.set_ylim(low - 0.1 * span, path[-1] + 0.15 * span)
    style.generation_axis(axes, num_generations)
    axes.set_ylabel("fitness on validation data")
    axes.legend(frameon=False, loc="lower right")
    return axes


def scaling(report: ScalingReport, axes: Axes | None = None) -> Axes:
    """Draws a population's throughput by its size, beside the ideal and the ceiling.

    The ideal: every member trains as fast as the smallest population's did alone. The
    ceiling: the machine's matmul peak. The knee: from there on more members gain less
    than a tenth.

    Args:
        report: from `jepbt.scaling`.
        axes: to draw into; a figure of its own if left out.

    Returns:
        The axes.

    Example:
        >>> import jepbt
        >>> task = jepbt.classification("fashion_mnist")
        >>> report = jepbt.scaling(task, max_population=16)  # doctest: +SKIP
        >>> jepbt.plots.scaling(report)  # doctest: +SKIP
    """
    axes = style.new_axes() if axes is None else axes
    sizes = np.array([row.population_size for row in report.rows])
    speeds = [row.samples_per_second for row in report.rows]
    medians = np.array([speed.median for speed in speeds])
    below = medians - [speed.low for speed in speeds]
    above = [speed.high for speed in speeds] - medians
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ideal = medians[0] * sizes / sizes[0]
    axes.plot(
        sizes, ideal, color=MEMBER, linestyle="--", label="ideal: no member waits"
    )
    if np.isfinite(report.ceiling):
        axes.axhline(
            medians[0] * report.ceiling,
            color=MEDIAN,
            linestyle=":",
            label=f"ceiling: {report.ceiling:.3g} times one, the matmul peak",
        )
    axes.errorbar(
        sizes,
        medians,
        [below, above],
        color=WINNER,
        marker="o",
        capsize=3,
        label="measured, median and range",
    )
    axes.axvline(
        report.knee, color=WINNER, linewidth=0.8, label=f"knee: P = {report.knee}"
    )
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.minorticks_off()  # on the other axis they label a short range
    axes.set_xlabel("members P")
    axes.set_ylabel("training samples a second, all members")
    # Above: inside, some line would run through it, on some device.
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return axes
