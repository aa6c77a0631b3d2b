"""Selects who survives and who is copied: index arrays from fitness alone.

Fitness, `f32[P]`, is higher-is-better; `nan` means that a member failed: it ranks last,
is never a parent and never an elite. Equal fitness ranks by slot, the lower one first.
A selection is a `SelectionFn`, which consumes its key.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jepbt.arguments import check_real
from jepbt.hyperparameters import whole_below

SelectionFn: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""`(key, fitness f32[P]) -> parents i32[P]`: the member that each slot would copy."""


def best_first(fitness: jax.Array) -> jax.Array:
    """Orders slots from the fittest to the failed: equals by slot, `nan` last.

    Example:
        >>> import jax.numpy as jnp
        >>> best_first(jnp.array([0.1, jnp.nan, 0.3])).tolist()
        [2, 0, 1]
    """
    return jnp.argsort(-fitness, stable=True)  # argsort puts nan last


def is_elite(fitness: jax.Array, num_elites: int) -> jax.Array:
    """Marks the `num_elites` fittest live members, or all of them if fewer live.

    Example:
        >>> import jax.numpy as jnp
        >>> is_elite(jnp.array([0.1, jnp.nan, 0.3]), 2).tolist()
        [True, False, True]
    """
    ranks = jnp.argsort(best_first(fitness))
    return (ranks < num_elites) & ~jnp.isnan(fitness)


def binary_tournament(key: jax.Array, fitness: jax.Array) -> jax.Array:
    """Picks for each slot the fitter of two distinct live members drawn at random.

    With one live member it is everybody's parent; with none, every slot is its own.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> fitness = jnp.array([0.1, jnp.nan, 0.3])
        >>> binary_tournament(jax.random.key(0), fitness).tolist()
        [2, 2, 2]

    Reference:
        Liang et al., 2021, https://arxiv.org/abs/2002.04225 (tournaments of size 2)
    """
    slots = jnp.arange(fitness.size)
    live = best_first(fitness)
    num_live = jnp.sum(~jnp.isnan(fitness))
    draws = jax.random.uniform(key, (2, fitness.size), jnp.float32)
    first = whole_below(jnp.maximum(num_live, 1), draws[0])
    # A step from 1 to num_live - 1 around the circle never meets the same member.
    second = first + 1 + whole_below(jnp.maximum(num_live - 1, 1), draws[1])
    second = jnp.where(second >= num_live, second - num_live, second)
    first, second = live[first], live[second]
    # Of equals, the first one drawn wins, so that no slot is favoured.
    winner = jnp.where(fitness[first] >= fitness[second], first, second)
    return jnp.where(num_live > 0, winner, slots)


def duel(key: jax.Array, fitness: jax.Array) -> jax.Array:
    """Lets each slot meet one random live opponent, and be filled by the fitter.

    This is PBT's binary tournament: unlike in `binary_tournament` the slot's own member
    is one of the two, so the best always stays. Equals stay.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> duel(jax.random.key(0), jnp.array([0.1, jnp.nan, 0.3]))[::2].tolist()
        [2, 2]

    Reference:
        Jaderberg et al., "Population Based Training of Neural Networks", 2017, section
        4.1.2, https://arxiv.org/abs/1711.09846
    """
    opponents = draw_opponents(key, fitness)
    slots = jnp.arange(fitness.size)
    loses = (fitness[opponents] > fitness) | jnp.isnan(fitness)
    return jnp.where(loses, opponents, slots)


def draw_opponents(key: jax.Array, fitness: jax.Array) -> jax.Array:
    """Draws for each slot a live member other than itself, uniformly.

    Where no other member lives it is the slot itself.
    """
    slots = jnp.arange(fitness.size)
    is_live = ~jnp.isnan(fitness)
    live = jnp.argsort(~is_live, stable=True)  # live slots first
    place = jnp.cumsum(is_live) - 1
    num_others = jnp.sum(is_live) - is_live
    uniform = jax.random.uniform(key, fitness.shape, jnp.float32)
    draw = whole_below(jnp.maximum(num_others, 1), uniform)
    # A live slot skips its own place; a dead one has none.
    draw = draw + (is_live & (draw >= place))
    return jnp.where(num_others > 0, live[draw], slots)


def truncation(fraction: float = 0.2) -> SelectionFn:
    """Builds PBT's truncation: the worst copy a random one of the best.

    Args:
        fraction: the share of the population that is replaced, and the share that is
            copied, in (0, 0.5]; at least one member each. Failed members are always
            replaced.

    Returns:
        `select(key, fitness) -> i32[P]`; slots that stay are their own parents.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> fitness = jnp.array([0.4, 0.1, 0.3, 0.2])
        >>> truncation(0.25)(jax.random.key(0), fitness).tolist()
        [0, 0, 2, 3]

    Reference:
        Jaderberg et al., "Population Based Training of Neural Networks", 2017, section
        4.1.1, https://arxiv.org/abs/1711.09846
    """
    check_real("truncation", "fraction", fraction, 0, 0.5, above=True)

    def select(key, fitness):
        slots = jnp.arange(fitness.size)
        num_moved = min(max(1, int(fraction * fitness.size)), fitness.size // 2)
        order = best_first(fitness)
        ranks = jnp.argsort(order)
        is_dead = jnp.isnan(fitness)
        num_live = jnp.sum(~is_dead)
        # A population of one copies nobody, unless it counts as its own best.
        num_best = jnp.clip(num_live, 1, max(num_moved, 1))
        is_moved = (ranks >= fitness.size - num_moved) | is_dead
        uniform = jax.random.uniform(key, fitness.shape, jnp.float32)
        donors = order[whole_below(num_best, uniform)]
        moves = is_moved & (ranks >= num_best) & (num_live > 0)
        return jnp.where(moves, donors, slots)

    return select
