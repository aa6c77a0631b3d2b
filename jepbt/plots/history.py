"""Draws a run from its history: fitness, schedules, lineage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jepbt.hyperparameters import Categorical
from jepbt.plots import style
from jepbt.plots.style import MEDIAN, MEMBER, WINNER
from jepbt.results import History, recorded
from jepbt.results import lineage as lines

if TYPE_CHECKING:  # matplotlib takes longer to import than all of jepbt
    from matplotlib.axes import Axes


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
        >>> from jepbt.results import Generation, History
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


def hparam_schedules(run: Any) -> np.ndarray:
    """Draws every member's hyperparameters over the generations, by fitness.

    Dark is fit. The line is the winner's schedule. Logarithmic axes where the space is;
    categoricals by their choices; losses have figures of their own.

    Args:
        run: a `Result`, or the folder of a run.

    Returns:
        `Axes[N]`, one for each hyperparameter that is no loss, and each entry of a
        vector.

    Raises:
        ValueError: if there is none, or no member ever had a finite fitness.

    Example:
        >>> import jepbt
        >>> jepbt.plots.hparam_schedules("runs/0001")  # doctest: +SKIP
    """
    run = recorded.read(run)
    history = run.history
    shown = {
        name: (values, space)
        for name, values, space in run.by_number(history.hparams)
        if values.ndim == 2
    }
    if not shown:
        raise ValueError("no hyperparameter but losses evolved: see evolved_loss.")
    line = history.ancestry()
    born = int(np.argmax(line >= 0))
    numbers = np.arange(born, len(line))
    fit = history.fitness
    low, high = style.robust_range(fit, 0.25)
    order = np.argsort(np.nan_to_num(fit, nan=-np.inf), axis=None)  # the fittest on top
    generations = np.repeat(np.arange(len(history)), fit.shape[1])
    num_rows = -(-len(shown) // 2) if len(shown) > 1 else 1
    grid = style.new_axes(num_rows, min(len(shown), 2), height=0.6 + 2.3 * num_rows)
    axes = np.ravel(grid)
    for unused in axes[len(shown) :]:
        unused.remove()
    axes = axes[: len(shown)]
    colours = style.early_to_late()
    for axis, (name, (values, space)) in zip(axes, shown.items(), strict=True):
        spread = np.zeros(values.shape)
        if isinstance(space, Categorical) or values.dtype == object:
            choices = [str(c) for c in getattr(space, "choices", np.unique(values))]
            values = np.argmax(values.astype(str)[..., None] == choices, axis=-1)
            axis.set_yticks(range(len(choices)), [_shorten(c) for c in choices])
            axis.set_ylim(-0.5, len(choices) - 0.5)
            spread += np.linspace(-0.25, 0.25, values.shape[1])
        points = axis.scatter(
            generations[order],
            (values + spread).ravel()[order],
            c=fit.ravel()[order],
            cmap=colours,
            vmin=low,
            vmax=high,
            s=10 if fit.size < 2000 else 4,
            linewidths=0,
            plotnonfinite=False,
        )
        axis.plot(
            numbers,
            values[numbers, line[born:]],
            color=WINNER,
            linewidth=2,
            zorder=3,
            drawstyle="steps-mid",
        )
        if getattr(space, "log", False):
            axis.set_yscale("log")
        style.generation_axis(axis, len(history))
        axis.set_title(name, fontsize=10, loc="left")
    if len(shown) > 2:
        for axis in axes[:-2]:
            axis.set_xlabel("")
    bar = axes[0].figure.colorbar(points, ax=list(axes), pad=0.02, aspect=40)
    bar.set_label("fitness; the line is the winner's schedule")
    bar.outline.set_visible(False)
    return axes


def lineage(run: Any, axes: Axes | None = None) -> Axes:
    """Draws the tree of who descends from whom.

    Siblings stand together and no two lines cross, so that a founder's descendants are
    a band which widens or dies out. Strong lines lead to the last generation, faint
    ones died out; the founders with most descendants have a colour each.

    Args:
        run: a `Result`, its `history`, or the folder of a run.
        axes: to draw into; a figure of its own if left out.

    Returns:
        The axes.

    Raises:
        ValueError: if no member ever had a finite fitness.

    Example:
        >>> import jepbt
        >>> jepbt.plots.lineage("runs/0001")  # doctest: +SKIP
    """
    from matplotlib.collections import LineCollection

    history = recorded.read(run).history
    parents, fresh = history.parents, history.fresh
    axes = style.new_axes(height=5) if axes is None else axes
    num_generations, num_members = parents.shape
    places = lines.tree_order(parents, fresh)
    first = lines.founders(parents, fresh)
    survives = lines.survivors(parents, fresh)
    names, counts = np.unique(first, return_counts=True)
    ranked = names[np.argsort(-counts, kind="stable")][: len(style.LINES)]
    colours = dict(zip(ranked.tolist(), style.LINES, strict=False))
    for lasting in (False, True):
        segments, paints = [], []
        for number in range(1, num_generations):
            chosen = (survives[number] == lasting) & ~fresh[number]
            for slot in np.flatnonzero(chosen):
                before = places[number - 1, parents[number, slot]]
                segments.append([(number - 1, before), (number, places[number, slot])])
                paints.append(colours.get(int(first[number, slot]), MEMBER))
        axes.add_collection(
            LineCollection(
                segments,
                colors=paints,
                linewidths=1.3 if lasting else 0.6,
                alpha=1.0 if lasting else 0.35,
                zorder=2 if lasting else 1,
            )
        )
    generation, slot = history.winner
    line = history.ancestry()
    numbers = np.arange(int(np.argmax(line >= 0)), generation + 1)
    axes.plot(
        numbers,
        places[numbers, line[numbers]],
        color=WINNER,
        linewidth=2.6,
        label=f"the winner, member {slot} of generation {generation}",
        zorder=4,
    )
    axes.scatter(
        [generation],
        [places[generation, slot]],
        s=90,
        marker="*",
        color=WINNER,
        zorder=5,
    )
    for name in ranked[:3].tolist():
        axes.plot([], [], color=colours[name], label=_name_founder(name, first))
    style.generation_axis(axes, num_generations)
    axes.set_ylim(-1, num_members)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.set_ylabel(f"{num_members} members, siblings together")
    axes.set_title(describe_lineage(history), fontsize=10, loc="left")
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12)}
    axes.legend(frameon=False, fontsize=8, ncols=2, **place)
    return axes


def _shorten(text: str) -> str:
    return text if len(text) <= 14 else text[:13] + "…"


def _name_founder(name: int, first: np.ndarray) -> str:
    generation, slot = divmod(name, first.shape[1])
    born = f"founder {slot}" + (f" of generation {generation}" if generation else "")
    share = (first[-1] == name).mean()
    return f"{born}: {100 * share:.0f} % at the end"


def describe_lineage(history: History) -> str:
    """Says in a line how many founders are left, since when, and how varied it was."""
    left = len(history.surviving_founders)
    sizes = history.effective_size[1:]
    takeover = history.takeover_generation
    parts = [f"{left} founder{'' if left == 1 else 's'} left"]
    if takeover:
        parts.append(f"one founder alone from generation {takeover}")
    if sizes.size and np.isfinite(sizes).any():
        mean = 1 / np.mean(1 / sizes)
        parts.append(f"effective population size {mean:.1f}")
    return "; ".join(parts)
