"""How inherited hyperparameters change: pure functions of a key and a population.

Every field and every slot has places of its own in one draw, so two children of one
parent differ and equal fields are independent. Values stay in their spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jepbt.arguments import check_each, check_real
from jepbt.hyperparameters import (
    Categorical,
    HyperParameters,
    Integer,
    Real,
    TaylorLoss,
    clip,
    move_loss,
    normal,
    prior,
    spaces,
    uniforms,
)

MutationFn: TypeAlias = Callable[[jax.Array, HyperParameters], HyperParameters]
"""`(key, hparams [P]) -> hparams [P]`."""

MIN_FACTOR = 0.1
"""A multiplicative step never shrinks a value more than this, nor turns its sign."""


def gaussian(
    *, sigma: float = 0.2, reset: float = 0.05, redraw: float = 0.25
) -> MutationFn:
    """Builds EPBT's mutation.

    Real and integer values are multiplied by `N(1, sigma)`; an integer is rounded at
    random in proportion, so that small ones can move. Where a real space holds zero the
    step is added instead, `sigma` of the range wide, since a factor can never leave
    zero. Loss coefficients get the additive step of their own `sigma`. `sigma`, the
    additive steps and `redraw` are our choice: no paper states them (`redraw=1` is the
    published rule for categoricals). So is that an ordered categorical moves to a
    neighbour with probability `redraw`, and is drawn anew with `reset`, as numbers are.
    The entries of a vector vary each on its own.

    Args:
        sigma: standard deviation of the factor.
        reset: probability that a value is drawn anew from its prior.
        redraw: probability that a categorical is drawn anew; that an ordered one moves
            to a neighbour.

    Returns:
        `mutate(key, hparams) -> hparams`.

    Raises:
        ValueError: if `sigma` is negative or a probability is not in [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     learning_rate: float = jepbt.hparam(0.1, min=0.01, max=1.0, log=True)
        >>> parents = Hyper(jnp.full(3, 0.1))
        >>> children = gaussian(reset=0.0)(jax.random.key(0), parents)
        >>> len(set(children.learning_rate.tolist()))
        3

    Reference:
        Liang et al., 2021, https://arxiv.org/abs/2002.04225
    """
    check_real("gaussian", "sigma", sigma, 0)
    check_real("gaussian", "reset", reset, 0, 1)
    check_real("gaussian", "redraw", redraw, 0, 1)

    def vary(draws, space, value):
        step, side, anew, chance = draws
        match space:
            case Categorical(ordered=True):
                neighbour = _neighbour(space, value, side < 0.5)
                moved, probability = jnp.where(step < redraw, neighbour, value), reset
            case Categorical():
                moved, probability = value, redraw
            case TaylorLoss(sigma=own_sigma):
                step = own_sigma * normal(step)
                moved, probability = move_loss(space, value, step), reset
            case Real():
                moved, probability = _step(space, sigma * normal(step), value), reset
            case Integer():  # rounded at random, in proportion: see `clip`
                dither = side - 0.5
                moved = _step(space, sigma * normal(step), value) + dither
                probability = reset
        return clip(jnp.where(chance < probability, prior(space, anew), moved), space)

    return lambda key, hparams: _per_field(vary, key, hparams)


def perturb(
    *, factors: Sequence[float] = (0.8, 1.2), resample: float = 0.25
) -> MutationFn:
    """Builds PBT's explore: multiply by one of the factors, or draw anew.

    Integers are rounded away from where they were, so that they always move.
    Categoricals only draw anew; ordered ones move to the neighbour on the factor's side
    (above 1, up), or to the only one at an end. Every entry of a vector draws for
    itself. Loss coefficients get the additive step of their own `sigma`, since a factor
    cannot leave zero. What is said here of other than single numbers is our choice.

    Args:
        factors: positive numbers of which each value draws one.
        resample: probability that a value is drawn anew from its prior, uniform in the
            logarithm where the space is logarithmic.

    Returns:
        `explore(key, hparams) -> hparams`.

    Raises:
        ValueError: if a factor is not positive or `resample` is not in [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     learning_rate: float = jepbt.hparam(0.1, min=0.01, max=1.0, log=True)
        >>> explored = perturb(resample=0.0)(jax.random.key(0), Hyper(jnp.full(9, 0.1)))
        >>> sorted({f"{value:.3f}" for value in explored.learning_rate.tolist()})
        ['0.080', '0.120']

    Reference:
        Jaderberg et al., 2017, section 4.1, https://arxiv.org/abs/1711.09846
    """
    check_real("perturb", "resample", resample, 0, 1)
    factors = check_each("perturb", "factors", factors, "positive numbers")
    for number, factor in enumerate(factors):
        check_real("perturb", f"factors[{number}]", factor, 0, above=True)

    def vary(draws, space, value):
        step, which, anew, chance = draws
        number = jnp.minimum(jnp.int32(which * len(factors)), len(factors) - 1)
        factor = jnp.array(factors)[number]
        match space:
            case Categorical(ordered=True):
                moved = jnp.where(
                    factor == 1, value, _neighbour(space, value, factor > 1)
                )
            case Categorical():
                moved = value
            case TaylorLoss(sigma=sigma):
                moved = move_loss(space, value, sigma * normal(step))
            case Real():
                moved = value * factor
            case Integer():
                size = jnp.abs(value) * factor
                size = jnp.where(factor > 1, jnp.ceil(size), jnp.floor(size))
                moved = jnp.sign(value) * size
        return clip(jnp.where(chance < resample, prior(space, anew), moved), space)

    return lambda key, hparams: _per_field(vary, key, hparams)


def _per_field(vary: Callable, key: jax.Array, hparams: HyperParameters):
    leaves, treedef = jax.tree.flatten(hparams)
    fields = spaces(type(hparams)).values()
    draws = uniforms(key, [(4, *leaf.shape) for leaf in leaves])
    varied = [vary(*given) for given in zip(draws, fields, leaves, strict=True)]
    return jax.tree.unflatten(treedef, varied)


def _step(space: Real | Integer, noise: jax.Array, value: jax.Array) -> jax.Array:
    bounded = space.min is not None and space.max is not None
    if bounded and space.min <= 0 <= space.max:
        return value + (space.max - space.min) * noise
    return value * jnp.maximum(1 + noise, MIN_FACTOR)


def _neighbour(space: Categorical, index: jax.Array, up: jax.Array) -> jax.Array:
    """The choice beside an ordered one, on a side; the only one, at an end."""
    up = (up | (index == 0)) & (index < len(space.choices) - 1)
    return index + jnp.where(up, 1, -1)
