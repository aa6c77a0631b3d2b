"""Recombines hyperparameters; weights are never crossed."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jepbt.arguments import check_real
from jepbt.hyperparameters import HyperParameters, columns, draw_for

CrossoverFn: TypeAlias = Callable[
    [jax.Array, HyperParameters, jax.Array], HyperParameters
]
"""`(key, hparams [P], is_child bool[P]) -> hparams [P]`."""


def uniform(probability: float = 0.5) -> CrossoverFn:
    """Builds uniform crossover: children pair up and swap values at random.

    The first child pairs with the second, the third with the fourth; one left over
    stays as it is. Every value, every entry of a vector, and every coefficient of a
    loss is swapped on its own.

    Args:
        probability: the probability that a pair swaps a value, in [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     width: int = jepbt.hparam(1, min=1, max=9)
        >>> crossed = uniform(1.0)(
        ...     jax.random.key(0),
        ...     Hyper(jnp.array([1, 2, 3, 4])),
        ...     jnp.array([False, True, True, True]),
        ... )
        >>> crossed.width.tolist()
        [1, 3, 2, 4]

    Reference:
        Liang et al., 2021, https://arxiv.org/abs/2002.04225
    """
    check_real("uniform", "probability", probability, 0, 1)

    def crossover(key, hparams, is_child):
        partners, pair = pair_children(is_child)
        leaves, treedef = jax.tree.flatten(hparams)
        swaps = draw_for(key, leaves, 1)[0] < probability
        # Both members of a pair read the row of their pair's number, which is below P.
        swapped = [
            jnp.where(swap, leaf[partners], leaf)
            for swap, leaf in zip(columns(swaps[pair], leaves), leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, swapped)

    return crossover


def pair_children(is_child: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pairs children in the order of their slots.

    Returns `i32[P]` each slot's partner, itself if it has none, and `i32[P]` the number
    of its pair, equal for both.

    Example:
        >>> import jax.numpy as jnp
        >>> partners, _ = pair_children(jnp.array([True, False, True, True]))
        >>> partners.tolist()
        [2, 1, 0, 3]
    """
    slots = jnp.arange(is_child.size)
    children_first = jnp.argsort(~is_child, stable=True)
    rank = jnp.cumsum(is_child) - 1
    partner_rank = rank ^ 1
    has_partner = is_child & (partner_rank < jnp.sum(is_child))
    partners = jnp.where(has_partner, children_first[partner_rank], slots)
    return partners, jnp.maximum(rank, 0) >> 1
