"""Writes a moving picture of a run."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from jepbt.arguments import user_file
from jepbt.plots import style
from jepbt.plots.history import draw_schedule, fitness, lineage
from jepbt.results import Recorded, recorded

if TYPE_CHECKING:  # matplotlib takes longer to import than all of jepbt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image as Picture

_FRAMES = 60
_SECONDS, _REST = 6, 3  # of the whole run, and of its last frame
_COLOURS = 128
_OVERHANG = 15  # pixels to the right of a panel, for the winner's star and its number


def animate(
    run: Any, path: str | os.PathLike, *, hparam: str | None = None
) -> pathlib.Path:
    """Writes a run as a moving picture: fitness, ancestry, and a hyperparameter.

    The run unfolds from its first generation to its last within six seconds, again and
    again: every member's fitness, who descends from whom, and the values of one
    hyperparameter, dark where a member is fit. The winner's line is orange from the
    start.

    Args:
        run: a `Result`, its `history`, or the folder of a run.
        path: the file to write, which must end in `.gif`.
        hparam: the hyperparameter to show; `"learning_rate"`, if there is one, or else
            the first, if left out.

    Returns:
        The path of the file, of 800 x 450 pixels and well below a megabyte.

    Raises:
        ValueError: if the path or the hyperparameter is not as above, or no member ever
            had a finite fitness.

    Example:
        >>> import jepbt
        >>> jepbt.plots.animate("runs/0001", "evolution.gif")  # doctest: +SKIP
    """
    path = user_file("path", path)
    if path.suffix.lower() != ".gif":
        raise ValueError(
            f"path={str(path)!r} must end in .gif, the one format that is written."
        )
    run = recorded.read(run)
    figure, panels = _draw(run, _choose_column(run, hparam))
    first, *others = _unfold(figure, panels, len(run.history))
    first.save(
        path,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=[*[round(1000 * _SECONDS / _FRAMES)] * len(others), 1000 * _REST],
        loop=0,
        optimize=True,
    )
    return path


def _choose_column(run: Recorded, name: str | None) -> tuple | None:
    """Finds the hyperparameter to show, if any but losses evolved."""
    columns = {column[0]: column for column in run.columns}
    if name is None:
        first = next(iter(columns.values()), None)
        return columns.get("learning_rate", first)
    if name not in columns:
        raise ValueError(
            f"hparam={name!r} must be one of {', '.join(columns) or 'none'}, what "
            "evolved in this run and is no loss."
        )
    return columns[name]


def _draw(run: Recorded, column: tuple | None) -> tuple[Figure, list[Axes]]:
    """Draws the whole run, as its last frame shows it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    below = "schedule" if column else "lineage"
    panels = figure.subplot_mosaic(
        [["fitness", "lineage"], ["fitness", below]], width_ratios=[1.25, 1]
    )
    for axes in panels.values():
        style.tidy(axes)
    fitness(run, panels["fitness"])
    lineage(run, panels["lineage"])
    panels["lineage"].get_legend().remove()
    panels["lineage"].set(title="", xlabel="", ylabel="")
    num_members = run.history.fitness.shape[1]
    titles = {
        "fitness": f"{num_members} networks train and evolve",
        "lineage": "who descends from whom",
    }
    for name, title in titles.items():
        panels[name].set_title(title, fontsize=10, loc="left")
    if column:
        draw_schedule(panels["schedule"], run.history, *column)
    return figure, list(panels.values())


def _unfold(figure: Figure, panels: list[Axes], num_generations: int) -> list[Picture]:
    """Makes the frames, in each of which the panels are drawn further."""
    from PIL import Image

    whole = _render(figure)
    figure.set_layout_engine("none")  # nothing may move from here on
    for axes in panels:
        for artist in (*axes.lines, *axes.collections, *axes.texts):
            artist.set_visible(False)
    # Every frame is put together from these two, so they share their colours.
    both = Image.fromarray(np.concatenate([whole, _render(figure)]))
    both = both.quantize(_COLOURS, dither=Image.Dither.NONE)
    whole, empty = np.split(np.asarray(both), 2)
    frames = []
    for edge in [*np.linspace(0.1, num_generations - 0.5, _FRAMES - 1), np.inf]:
        frame = whole.copy()
        for axes in panels:
            box = axes.get_window_extent()
            right = min(axes.transData.transform((edge, 0))[0], len(whole[0]))
            rows = slice(len(whole) - round(box.y1), len(whole) - round(box.y0))
            columns = slice(round(right), round(box.x1) + _OVERHANG)
            frame[rows, columns] = empty[rows, columns]
        frames.append(Image.fromarray(frame))
        frames[-1].putpalette(both.getpalette())
    return frames


def _render(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
