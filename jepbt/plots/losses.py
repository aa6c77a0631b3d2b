"""Draws losses that evolved: the winner's, and every member's attraction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jepbt.arguments import check_whole
from jepbt.losses import taylorglo
from jepbt.plots import style
from jepbt.results import recorded

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def evolved_loss(
    run: Any, axes: tuple[Axes, Axes] | None = None, num_classes: int | None = None
) -> tuple[Axes, Axes]:
    """Draws the winner's loss as it evolved, early to late, beside cross-entropy.

    Above, the loss against the predicted probability of the true class, while the other
    classes share the rest; its value at probability 1 is subtracted. Below, the push of
    its gradient on the true class's logit: up, or back where it is below zero.

    Args:
        run: a `Result`, or the folder of a run.
        axes: the two axes to draw into; a figure of their own if left out.
        num_classes: the number `C` of classes; the run's own if left out.

    Returns:
        The axes of the loss and of its gradient.

    Raises:
        ValueError: if no loss evolved in the run, or there are not two classes.

    Example:
        >>> import jepbt
        >>> jepbt.plots.evolved_loss("runs/0001")  # doctest: +SKIP
    """
    run = recorded.read(run)
    thetas = run.evolved_loss.thetas
    num_classes = run.num_classes if num_classes is None else num_classes
    check_whole("evolved_loss", "num_classes", num_classes, 2)
    if axes is None:
        axes = tuple(style.new_axes(2, 1, height=6))
        axes[0].sharex(axes[1])
    above, below = axes
    p = np.linspace(0.002, 1, 500)
    colours = style.early_to_late()
    last = len(thetas) - 1
    losses, pushes = zip(
        *(curves(theta, p, num_classes) for theta in thetas), strict=True
    )
    for axis, evolved, known in ((above, losses, -np.log(p)), (below, pushes, 1 - p)):
        for number, values in enumerate(evolved[:-1]):
            axis.plot(p, values, color=colours(number / last), linewidth=1)
        look = {"color": style.WINNER, "linewidth": 2.4, "zorder": 4}
        axis.plot(p, evolved[-1], label="the winner's loss", **look)
        axis.plot(p, known, color="black", linestyle="--", label="cross-entropy")
    below.axhline(0, color=style.INK, linewidth=0.8)
    top = max(3.0, losses[-1].max())
    above.set_ylim(min(np.min(losses), 0) - 0.06 * top, 1.06 * top)
    above.set_ylabel("loss, from its value at 1")
    below.set_ylabel("push on the true logit")
    below.set_xlabel(
        f"predicted probability of the true class; {num_classes - 1} others share "
        "the rest"
    )
    below.set_xlim(0, 1)
    above.legend(frameon=False, loc="upper right")
    if last > 0:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        scale = ScalarMappable(Normalize(0, last), colours)
        style.colour_bar(axes, scale, "generation of the winner's ancestor")
    return above, below


def attraction(run: Any, axes: Axes | None = None) -> Axes:
    """Draws the attraction of every member's loss to zero error, over the generations.

    Above zero, the loss still pulls a confident, correct output on towards zero error;
    below, it pushes it back, which regularises.

    Args:
        run: a `Result`, or the folder of a run.
        axes: the axes to draw into; a figure of its own if left out.

    Returns:
        The axes.

    Raises:
        ValueError: if no loss evolved in the run.

    Example:
        >>> import jepbt
        >>> jepbt.plots.attraction("runs/0001")  # doctest: +SKIP
    """
    run = recorded.read(run)
    line = run.history.ancestry()
    axes = style.new_axes() if axes is None else axes
    name = run.evolved_loss.name
    values = np.asarray(taylorglo.attraction(run.history.hparams[name]))
    axes.axhline(0, color=style.INK, linewidth=0.8)
    style.draw_members(axes, values, line)
    shown = np.append(np.nanquantile(values, [0.02, 0.98]), [0, *values[line]])
    margin = 0.08 * (shown.max() - shown.min() or 1)
    axes.set_ylim(shown.min() - margin, shown.max() + 1.5 * margin)
    axes.set_ylabel("attraction to zero error")
    box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1}
    look = {"ha": "right", "color": style.INK, "fontsize": 8, "bbox": box}
    look["transform"] = axes.transAxes
    axes.text(0.995, 0.99, "pulled on to zero error", va="top", **look)
    axes.text(0.995, 0.01, "pushed from zero error", va="bottom", **look)
    # Above: points may be anywhere inside.
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1)}
    axes.legend(frameon=False, fontsize=9, ncols=3, **place)
    return axes


def curves(
    theta: np.ndarray, p: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Evaluates a genome `f32[8]` at probabilities `f64[N]` of the true class.

    The wrong classes share what the true one leaves.

    Returns:
        `f64[N]` the loss minus its value at 1, and `f64[N]` its descent direction in
        the true class's logit.

    Example:
        >>> loss, push = curves(
        ...     taylorglo.CROSS_ENTROPY_EXPANSION, np.array([0.5, 1.0]), 2
        ... )
        >>> push.tolist()  # of cross-entropy itself, 0.5 and 0
        [0.5, 0.0]
    """
    theta = theta.astype(float)

    def whole(true):
        rest = (1 - true) / (num_classes - 1)
        wrong = (num_classes - 1) * taylorglo.polynomial(theta, 0, rest)
        return -taylorglo.polynomial(theta, 1, true) - wrong

    ch, chh, chy, cx, cxx = taylorglo.effective(theta)
    rest = (1 - p) / (num_classes - 1)
    of_true = ch * p + chh * p**2 + chy * p + cx + cxx
    of_rest = ch * rest + chh * rest**2
    # h_j (f'_j - sum_k h_k f'_k), with all wrong classes alike.
    return whole(p) - whole(np.ones(1)), p * (1 - p) * (of_true - of_rest)
