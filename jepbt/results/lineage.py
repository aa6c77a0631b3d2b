"""Finds who descends from whom, from the parents of every generation alone.

Every function takes `parents`, `i32[G, P]`: row `g` names the slot whose weights each
slot of generation `g` started from; row 0 is not read. It also takes `fresh`,
`bool[G, P]`: the slots that started over with new weights in that generation, each of
which begins a line of its own.
"""

from typing import NamedTuple

import numpy as np


class Line(NamedTuple):
    """A member and its ancestors, oldest first; an index into arrays `[G, P, ...]`.

    `history.fitness[line]` is `f32[L]`, the fitness along the line.

    Attributes:
        generations: `i64[L]`, consecutive numbers.
        slots: `i64[L]`, the slot of the ancestor in each of these generations.
    """

    generations: np.ndarray
    slots: np.ndarray


def ancestry(
    parents: np.ndarray, generation: int, slot: int, fresh: np.ndarray
) -> Line:
    """Follows one member back to the generation in which its weights were new."""
    sizes = zip(("generation", "slot"), (generation, slot), parents.shape, strict=True)
    for name, value, count in sizes:
        if not 0 <= value < count:
            raise ValueError(f"{name}={value} must be from 0 to {count - 1}.")
    slots = [slot]
    born = generation
    while born > 0 and not fresh[born, slots[-1]]:
        slots.append(int(parents[born, slots[-1]]))
        born -= 1
    return Line(np.arange(born, generation + 1), np.array(slots[::-1]))


def next_founders(
    before: np.ndarray, parents: np.ndarray, fresh: np.ndarray, number: int
) -> np.ndarray:
    """Hands the first ancestors `i64[P]` of one generation down to generation `number`.

    A founder's name is `generation * P + slot` of where it began, which is its slot in
    the first generation.
    """
    slots = np.arange(parents.size)
    return np.where(fresh, number * parents.size + slots, before[parents])


def survivors(parents: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    """Marks the members, `bool[G, P]`, that have descendants in the last generation."""
    lives = np.zeros(parents.shape, bool)
    lives[-1] = True
    for number in range(len(parents) - 1, 0, -1):
        inherits = lives[number] & ~fresh[number]
        lives[number - 1, parents[number][inherits]] = True
    return lives


def takeover_generation(founders: np.ndarray) -> int | None:
    """Finds from when on all members had one founder, `None` if several are left."""
    alone = (founders == founders[-1, 0]).all(axis=1)
    if not alone[-1]:
        return None
    mixed = np.flatnonzero(~alone)
    return int(mixed[-1]) + 1 if mixed.size else 0


def effective_size(parents: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    """Measures how many members, `f64[G]`, each generation effectively descends from.

    It is the size of an ideal population, one that draws every parent at random, in
    which two members share their parent as often as they do here:

        P (P - 1) / Σ k (k - 1)

    over the numbers `k` of children; fresh slots share no parent. It is `inf` where no
    two members share a parent, in row 0 too. Small values mean strong selection; the
    harmonic mean over generations is the run's.

    Reference:
        Kimura & Crow, "The Measurement of Effective Population Number", Evolution 1963.
    """
    num_members = parents.shape[1]
    sizes = [np.inf]
    for number in range(1, len(parents)):
        row = parents[number][~fresh[number]]
        children = np.bincount(row, minlength=num_members)
        pairs = int((children * (children - 1)).sum())
        sizes.append(num_members * (num_members - 1) / pairs if pairs else np.inf)
    return np.array(sizes)


def operations(
    parents: np.ndarray,
    hparams: dict[str, np.ndarray],
    fresh: np.ndarray,
) -> np.ndarray:
    """Names what happened to each slot, `str[G, P]`, before its generation trained.

    "fresh" has new weights, as all of generation 0 do; "kept" has its own weights and
    hyperparameters (an elite, or a member that no one replaced); "varied" has its own
    weights and new hyperparameters; "copied" has another slot's weights.
    """
    slots = np.arange(parents.shape[1])
    changed = np.zeros(parents.shape, bool)
    for values in hparams.values():
        differs = values[1:] != values[:-1]
        changed[1:] |= differs.any(axis=tuple(range(2, differs.ndim)))
    named = np.where(changed, "varied", "kept")
    named = np.where(parents != slots, "copied", named)
    named = np.where(fresh, "fresh", named)
    named[0] = "fresh"
    return named


def tree_order(parents: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    """Places members, `i64[G, P]`, so that no two lines from parents to children cross.

    Siblings stand together, in the order of their parents in the generation before, so
    that a founder's descendants form one band. Fresh slots stand last.
    """
    num_members = parents.shape[1]
    places = np.empty(parents.shape, int)
    places[0] = np.arange(num_members)
    for number in range(1, len(parents)):
        rank = places[number - 1][parents[number]]
        rank = np.where(fresh[number], num_members, rank)
        order = np.argsort(rank, kind="stable")  # siblings by their slots
        places[number, order] = np.arange(num_members)
    return places
