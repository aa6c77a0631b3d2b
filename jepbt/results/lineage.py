"""Who descends from whom, from the parents of every generation alone.

`parents` is `i32[G, P]`: row `g` says whose state each slot of generation `g` trained
on from; row 0 is not read. `fresh` is `bool[G, P]`, or `None`: slots that started over
with new weights in that generation, which begin a line of their own.
"""

from __future__ import annotations

import numpy as np

OPERATIONS = ("fresh", "kept", "varied", "copied")
"""What can happen to a slot between two generations: see `operations`."""


def ancestry(
    parents: np.ndarray, generation: int, slot: int, fresh: np.ndarray | None = None
) -> np.ndarray:
    """Follows one member back to the first of its line.

    Args:
        parents: `i32[G, P]`.
        generation: of the member.
        slot: of the member.
        fresh: `bool[G, P]` or `None`.

    Returns:
        `i64[generation + 1]` the slot of its ancestor in each generation, itself last;
        -1 in the generations before its line started over.

    Raises:
        ValueError: if there is no such member.

    Example:
        >>> import numpy as np
        >>> ancestry(np.array([[0, 1, 2], [2, 1, 2], [0, 0, 2]]), 2, 1)
        array([2, 0, 1])
    """
    num_generations, num_members = parents.shape
    for name, value, count in (
        ("generation", generation, num_generations),
        ("slot", slot, num_members),
    ):
        if not 0 <= value < count:
            raise ValueError(f"{name}={value} must be from 0 to {count - 1}.")
    line = np.full(generation + 1, -1)
    line[generation] = slot
    for number in range(generation, 0, -1):
        if fresh is not None and fresh[number, slot]:
            break
        slot = int(parents[number, slot])
        line[number - 1] = slot
    return line


def founders(parents: np.ndarray, fresh: np.ndarray | None = None) -> np.ndarray:
    """Finds the first ancestor of every slot, in every generation.

    Args:
        parents: `i32[G, P]`.
        fresh: `bool[G, P]` or `None`.

    Returns:
        `i64[G, P]`; a founder is named `generation * P + slot` by where it began, which
        for the first generation is its slot.

    Example:
        >>> import numpy as np
        >>> founders(np.array([[0, 1, 2], [2, 1, 2], [0, 0, 2]]))[-1]
        array([2, 2, 2])
    """
    num_members = parents.shape[1]
    slots = np.arange(num_members)
    rows = [slots]
    for number in range(1, len(parents)):
        row = rows[-1][parents[number]]
        if fresh is not None:
            row = np.where(fresh[number], number * num_members + slots, row)
        rows.append(row)
    return np.stack(rows)


def survivors(parents: np.ndarray, fresh: np.ndarray | None = None) -> np.ndarray:
    """Says which members have descendants in the last generation.

    Args:
        parents: `i32[G, P]`.
        fresh: `bool[G, P]` or `None`.

    Returns:
        `bool[G, P]`; the last row is true.

    Example:
        >>> import numpy as np
        >>> survivors(np.array([[0, 1, 2], [2, 1, 2], [0, 0, 2]]))[0].tolist()
        [False, False, True]
    """
    lives = np.zeros(parents.shape, bool)
    lives[-1] = True
    for number in range(len(parents) - 1, 0, -1):
        inherits = lives[number].copy()
        if fresh is not None:
            inherits &= ~fresh[number]
        lives[number - 1, parents[number][inherits]] = True
    return lives


def takeover_generation(
    parents: np.ndarray, fresh: np.ndarray | None = None
) -> int | None:
    """Finds when one founder's descendants had filled the population for good.

    Args:
        parents: `i32[G, P]`.
        fresh: `bool[G, P]` or `None`.

    Returns:
        The first generation from which on all members had one founder; `None` if
        several founders are left.

    Example:
        >>> import numpy as np
        >>> takeover_generation(np.array([[0, 1, 2], [2, 1, 2], [0, 0, 2]]))
        2
    """
    first = founders(parents, fresh)
    alone = (first == first[-1, 0]).all(axis=1)
    if not alone[-1]:
        return None
    mixed = np.flatnonzero(~alone)
    return int(mixed[-1]) + 1 if mixed.size else 0


def effective_size(parents: np.ndarray, fresh: np.ndarray | None = None) -> np.ndarray:
    """Measures how many members each generation effectively descends from.

    It is the size of an ideal population, one that draws every parent at random, in
    which two members share their parent as often as they do here:

        P (P - 1) / Σ k (k - 1)

    over the numbers `k` of children. Small values mean strong selection; the harmonic
    mean over generations is the run's.

    Args:
        parents: `i32[G, P]`.
        fresh: `bool[G, P]` or `None`; what starts over shares no parent.

    Returns:
        `f64[G]`; `inf` where no two members share a parent, in row 0 too.

    Example:
        >>> import numpy as np
        >>> effective_size(np.array([[0, 1, 2, 3], [0, 0, 2, 2], [1, 1, 1, 1]]))
        array([inf,  3.,  1.])

    Reference:
        Kimura & Crow, "The Measurement of Effective Population Number", Evolution 1963.
    """
    num_members = parents.shape[1]
    sizes = [np.inf]
    for number in range(1, len(parents)):
        row = parents[number]
        if fresh is not None:
            row = row[~fresh[number]]
        children = np.bincount(row, minlength=num_members)
        pairs = int((children * (children - 1)).sum())
        sizes.append(num_members * (num_members - 1) / pairs if pairs else np.inf)
    return np.array(sizes)


def operations(
    parents: np.ndarray,
    hparams: dict[str, np.ndarray],
    fresh: np.ndarray | None = None,
) -> np.ndarray:
    """Names what happened to each slot before its generation trained.

    Args:
        parents: `i32[G, P]`.
        hparams: `[G, P, ...]` by name.
        fresh: `bool[G, P]` or `None`.

    Returns:
        `str[G, P]`: "fresh" has new weights, as all of generation 0 do; "kept" has its
        own weights and hyperparameters (an elite, or a member that no one replaced);
        "varied" has its own weights and new hyperparameters; "copied" has another
        slot's weights.

    Example:
        >>> import numpy as np
        >>> rate = np.array([[1.0, 2.0, 3.0], [1.0, 1.5, 3.5]])
        >>> operations(np.array([[0, 1, 2], [0, 0, 2]]), {"rate": rate})[1].tolist()
        ['kept', 'copied', 'varied']
    """
    slots = np.arange(parents.shape[1])
    changed = np.zeros(parents.shape, bool)
    for values in hparams.values():
        differs = values[1:] != values[:-1]
        changed[1:] |= differs.reshape(*differs.shape[:2], -1).any(axis=-1)
    named = np.where(changed, "varied", "kept")
    named = np.where(parents != slots, "copied", named)
    if fresh is not None:
        named = np.where(fresh, "fresh", named)
    named[0] = "fresh"
    return named


def tree_order(parents: np.ndarray, fresh: np.ndarray | None = None) -> np.ndarray:
    """Places members so that no two lines from parents to children cross.

    Siblings stand together, in the order of their parents in the generation before, so
    that a founder's descendants form one band.

    Args:
        parents: `i32[G, P]`.
        fresh: `bool[G, P]` or `None`; what starts over stands last.

    Returns:
        `i64[G, P]` the place of each slot in its generation, from 0.

    Example:
        >>> import numpy as np
        >>> tree_order(np.array([[0, 1, 2], [2, 1, 2], [0, 0, 2]]))
        array([[0, 1, 2],
               [1, 0, 2],
               [0, 1, 2]])
    """
    num_generations, num_members = parents.shape
    places = np.empty(parents.shape, int)
    places[0] = np.arange(num_members)
    for number in range(1, num_generations):
        rank = places[number - 1][parents[number]]
        if fresh is not None:
            rank = np.where(fresh[number], num_members, rank)
        order = np.argsort(rank, kind="stable")  # siblings by their slots
        places[number, order] = np.arange(num_members)
    return places
