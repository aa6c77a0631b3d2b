"""Draws a run from its history: fitness, schedules, lineage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jepbt.hyperparameters import Categorical, Space
from jepbt.plots import style
from jepbt.plots.style import MEMBER, WINNER
from jepbt.results import History, recorded
from jepbt.results import lineage as lines
from jepbt.results.sample import choose_shown

if TYPE_CHECKING:  # matplotlib takes longer to import than all of jepbt
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection


def fitness(run: Any, axes: Axes | None = None) -> Axes:
    """Draws every member's fitness over the generations, and the winner's ancestors.

    Thin lines lead from parents to children, of thousands of members to some of them; a
    member that was replaced ends as a dot. The winner is the best of all generations.

    Args:
        run: a `Result`, its `history`, or the folder of a run.
        axes: the axes to draw into; a figure of its own if left out.

    Returns:
        The axes; `axes.figure.savefig("fitness.png")` writes them.

    Raises:
        ValueError: if no member ever had a finite fitness.

    Example:
        >>> import numpy as np
        >>> import jepbt
        >>> from jepbt.results import Generation, History
        >>> first = Generation(0, np.ones(2), None, np.arange(2), {}, {}, {}, {})
        >>> history = History()
        >>> history.generations.append(first)
        >>> jepbt.plots.fitness(history).get_ylabel()
        'fitness on validation data'
    """
    history = recorded.read(run).history
    line = history.ancestry()
    values = history.fitness
    axes = style.new_axes() if axes is None else axes
    is_child = ~history.fresh & choose_shown(history.parents, history.fresh, line)
    look = {"colors": MEMBER, "linewidths": 0.6, "alpha": 0.6, "zorder": 1}
    _draw_edges(axes, history.parents, values, is_child, **look)
    style.draw_members(axes, values, line)
    best = float(values[line][-1])
    place = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center"}
    axes.annotate(f"{best:.3f}", (line.generations[-1], best), color=WINNER, **place)
    # A member that fell to chance would press all others into one line.
    low = np.nanquantile(values, 0.05)
    span = best - low
    if span > 0:
        axes.set_ylim(low - 0.1 * span, best + 0.15 * span)
    axes.set_ylabel("fitness on validation data")
    axes.legend(frameon=False, loc="lower right")
    return axes


def hparam_schedules(run: Any) -> np.ndarray:
    """Draws every member's hyperparameters over the generations, by fitness.

    Dark is fit; of thousands of members some are drawn. The line is the winner's
    schedule. Axes are logarithmic where the space is; a categorical's has its choices;
    losses have figures of their own.

    Args:
        run: a `Result`, or the folder of a run.

    Returns:
        `Axes[N]`, one for each hyperparameter that is not a loss, and one for each
        entry of a vector.

    Raises:
        ValueError: if there is none, or no member ever had a finite fitness.

    Example:
        >>> import jepbt
        >>> jepbt.plots.hparam_schedules("runs/0001")  # doctest: +SKIP
    """
    run = recorded.read(run)
    shown = run.columns
    if not shown:
        raise ValueError("no hyperparameter but losses evolved: see evolved_loss.")
    num_rows = -(-len(shown) // 2)
    grid = style.new_axes(num_rows, min(len(shown), 2), height=0.6 + 2.3 * num_rows)
    axes, unused = np.split(np.ravel(grid), [len(shown)])
    for axis in unused:
        axis.remove()
    for axis, column in zip(axes, shown, strict=True):
        points = draw_schedule(axis, run.history, *column)
    for axis in axes[:-2]:
        axis.set_xlabel("")
    style.colour_bar(axes, points, "fitness; the line is the winner's schedule")
    return axes


def draw_schedule(
    axes: Axes, history: History, name: str, values: np.ndarray, space: Space | None
) -> PathCollection:
    """Draws one of a run's `columns`, and returns the points, coloured by fitness."""
    line = history.ancestry()
    spread = 0.0
    if isinstance(space, Categorical) or values.dtype == object:
        values = _place_choices(axes, values, space)
        spread = np.linspace(-0.25, 0.25, values.shape[1])
    shown = choose_shown(history.parents, history.fresh, line)
    points = _scatter_by_fitness(axes, values + spread, history.fitness, shown)
    look = {"color": WINNER, "linewidth": 2, "drawstyle": "steps-mid", "zorder": 3}
    axes.plot(line.generations, values[line], **look)
    if getattr(space, "log", False):
        axes.set_yscale("log")
    style.generation_axis(axes, len(history))
    axes.set_title(name, fontsize=10, loc="left")
    return points


def lineage(run: Any, axes: Axes | None = None) -> Axes:
    """Draws the tree of who descends from whom.

    Siblings stand together and no two lines cross, so that a founder's descendants are
    a band that widens or dies out. Strong lines lead to the last generation, faint
    ones died out; the founders with most descendants have a colour each. Of thousands
    of members some stand for all, evenly.

    Args:
        run: a `Result`, its `history`, or the folder of a run.
        axes: the axes to draw into; a figure of its own if left out.

    Returns:
        The axes.

    Raises:
        ValueError: if no member ever had a finite fitness.

    Example:
        >>> import jepbt
        >>> jepbt.plots.lineage("runs/0001")  # doctest: +SKIP
    """
    history = recorded.read(run).history
    line = history.ancestry()
    parents, fresh, founders = history.parents, history.fresh, history.founders
    num_generations, num_members = parents.shape
    places = lines.tree_order(parents, fresh)
    survives = lines.survivors(parents, fresh)
    shown = choose_shown(parents, fresh, line)
    ranked = rank_founders(founders)
    colour = dict(zip(ranked, style.LINES, strict=False))
    axes = style.new_axes(height=5) if axes is None else axes
    for lasts, width, alpha in ((False, 0.6, 0.35), (True, 1.3, 1.0)):
        is_child = (survives == lasts) & ~fresh & shown
        names = founders[1:][is_child[1:]]
        colours = [colour.get(name, MEMBER) for name in names.tolist()]
        look = {"linewidths": width, "alpha": alpha, "zorder": 1 + lasts}
        _draw_edges(axes, parents, places, is_child, colors=colours, **look)
    generation, slot = history.winner
    label = f"the winner, member {slot} of generation {generation}"
    style.draw_winner(axes, line, places[line], linewidth=2.6, label=label)
    for name in ranked[:3]:
        axes.plot([], [], color=colour[name], label=_name_founder(name, founders))
    style.generation_axis(axes, num_generations)
    axes.set_ylim(-1, num_members)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    drawn = "" if shown.all() else f", {shown.sum(axis=1).max()} drawn"
    axes.set_ylabel(f"{num_members} members{drawn}, siblings together")
    axes.set_title(describe_lineage(history), fontsize=10, loc="left")
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12)}
    axes.legend(frameon=False, fontsize=8, ncols=2, **place)
    return axes


def describe_lineage(run: Any) -> str:
    """Says in a line how many founders are left, since when, and how varied it was.

    Args:
        run: a `Result`, its `history`, or the folder of a run.

    Returns:
        The line, such as `"3 founders left; effective population size 4.2"`.
    """
    history = recorded.read(run).history
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


def rank_founders(founders: np.ndarray) -> list[int]:
    """Lists the founders, those with most descendants in all generations first."""
    names, counts = np.unique(founders, return_counts=True)
    return names[np.argsort(-counts, kind="stable")].tolist()


def _draw_edges(
    axes: Axes, parents: np.ndarray, values: np.ndarray, is_child: np.ndarray, **look
) -> None:
    """Draws lines from parents to children, at values `f[G, P]`."""
    from matplotlib.collections import LineCollection

    before, slots = np.nonzero(is_child[1:])
    after = before + 1
    ends = values[before, parents[after, slots]], values[after, slots]
    edges = np.stack([np.stack([before, after], 1), np.stack(ends, 1)], 2)
    axes.add_collection(LineCollection(edges, **look), autolim=False)


def _place_choices(axis: Axes, values: np.ndarray, space) -> np.ndarray:
    """Gives each choice a place on the vertical axis, and returns every member's."""
    texts = np.array([str(v) for v in values.flat]).reshape(values.shape)
    choices = [str(c) for c in getattr(space, "choices", np.unique(texts))]
    short = [c if len(c) <= 14 else c[:13] + "…" for c in choices]
    axis.set_yticks(range(len(choices)), short)
    axis.set_ylim(-0.5, len(choices) - 0.5)
    return np.argmax(texts[..., None] == choices, axis=-1)


def _scatter_by_fitness(
    axis: Axes, values: np.ndarray, fitness: np.ndarray, shown: np.ndarray
) -> PathCollection:
    low, high = style.robust_range(fitness, 0.25)
    numbers = np.nonzero(shown)[0]
    values, fitness = values[shown], fitness[shown]
    order = np.argsort(np.nan_to_num(fitness, nan=-np.inf))  # fittest on top
    return axis.scatter(
        numbers[order],
        values[order],
        c=fitness[order],
        cmap=style.early_to_late(),
        vmin=low,
        vmax=high,
        s=10 if fitness.size < 2000 else 4,
        linewidths=0,
        plotnonfinite=False,
    )


def _name_founder(name: int, founders: np.ndarray) -> str:
    generation, slot = divmod(name, founders.shape[1])
    born = f"founder {slot}" + (f" of generation {generation}" if generation else "")
    share = (founders[-1] == name).mean()
    return f"{born}: {100 * share:.0f} % at the end"
