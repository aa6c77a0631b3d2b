"""Chooses members to draw where all would be more than an eye, or a page, can take."""

from __future__ import annotations

import numpy as np

from jepbt.results import lineage
from jepbt.results.lineage import Line

MOST = 20_000
"""Members of all generations that are drawn at most, unless that leaves too few."""

FEWEST = 16
"""Members of each generation that are drawn at least."""


def choose_shown(
    parents: np.ndarray, fresh: np.ndarray, line: Line, most: int = MOST
) -> np.ndarray:
    """Marks the members to draw, `bool[G, P]`: all of them, if they are few.

    Otherwise as many of each generation, which stand evenly in the tree, so that shares
    of founders keep their proportions. With a member its parent is shown, and so are
    all its ancestors; the winner and its line are among them.

    Args:
        parents: `i32[G, P]`, the parents of a history.
        fresh: `bool[G, P]`, its slots that started over.
        line: the winner's line.
        most: the number of members to show, in all generations together.

    Example:
        >>> parents, fresh = np.zeros((2, 40), int), np.zeros((2, 40), bool)
        >>> line = lineage.ancestry(parents, 1, 7, fresh)
        >>> choose_shown(parents, fresh, line, 60).sum(1).tolist()
        [30, 30]
    """
    num_generations, num_members = parents.shape
    room = max(most // num_generations, FEWEST)
    shown = np.ones(parents.shape, bool)
    if room >= num_members:
        return shown
    order = np.argsort(lineage.tree_order(parents, fresh), axis=1)
    winners = dict(zip(line.generations.tolist(), line.slots.tolist(), strict=True))
    shown[:] = False
    for number in reversed(range(num_generations)):
        row = shown[number]
        is_late = number > line.generations[-1]  # the winner joins the parents of these
        if number in winners:
            row[winners[number]] = True
        free = order[number][~row[order[number]]]
        count = room - is_late - row.sum()
        row[free[np.linspace(0, free.size - 1, count).astype(int)]] = True
        if number > 0:
            shown[number - 1, parents[number][row & ~fresh[number]]] = True
    return shown
