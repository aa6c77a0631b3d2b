"""Who descends from whom, from the parents of every generation alone."""

from __future__ import annotations

import numpy as np


def ancestry(parents: np.ndarray, generation: int, slot: int) -> np.ndarray:
    """Follows one member back to the first generation.

    Args:
        parents: `i32[G, P]`; row `g` says whose state each slot of `g` trained on from.
        generation: of the member.
        slot: of the member.

    Returns:
        `i64[generation + 1]` the slot of its ancestor in each generation, itself last.

    Example:
        >>> import numpy as np
        >>> ancestry(np.array([[0, 1, 2], [2, 1, 2], [0, 0, 2]]), 2, 1)
        array([2, 0, 1])
    """
    slots = [slot]
    for row in parents[generation:0:-1]:
        slots.append(int(row[slots[-1]]))
    return np.array(slots[::-1])


def founders(parents: np.ndarray) -> np.ndarray:
    """Finds the first-generation ancestor of every slot, in every generation.

    Args:
        parents: `i32[G, P]`.

    Returns:
        `i64[G, P]` slots of the first generation.

    Example:
        >>> import numpy as np
        >>> founders(np.array([[0, 1, 2], [2, 1, 2], [0, 0, 2]]))[-1]
        array([2, 2, 2])
    """
    rows = [np.arange(parents.shape[1])]
    for row in parents[1:]:
        rows.append(rows[-1][row])
    return np.stack(rows)
