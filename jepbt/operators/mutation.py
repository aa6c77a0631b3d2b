"""Mutates inherited hyperparameters: pure functions of a key and a population.

Every entry of every field and slot has its own numbers in one draw, so two children of
one parent differ and equal fields are independent. What a step means is known by each
kind of hyperparameter (`hyperparameters.base`). Values stay in their spaces.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jepbt.arguments import check_each, check_real
from jepbt.hyperparameters import (
    HyperParameters,
    columns,
    draw_for,
    normal,
    spaces,
    whole_below,
)

MutationFn: TypeAlias = Callable[[jax.Array, HyperParameters], HyperParameters]
"""`(key, hparams [P]) -> hparams [P]`."""


def gaussian(
    *, sigma: float = 0.2, reset: float = 0.05, redraw: float = 0.25
) -> MutationFn:
    """Builds EPBT's mutation.

    Real and integer values are multiplied by `N(1, sigma)`; an integer is rounded at
    random in proportion, so that small ones can move. Where zero is inside the bounds
    the step is added instead, `sigma` of the range wide, since a factor can never leave
    zero. Loss coefficients get the additive step of their own `sigma`. The entries of a
    vector vary each on its own.

    No paper states `sigma`, the additive steps and `redraw`: they are our choice
    (`redraw=1` is the published rule for categoricals). It is also our choice that an
    ordered categorical moves to a neighbour with probability `redraw`, and is drawn
    anew with probability `reset`, as numbers are.

    Args:
        sigma: the standard deviation of the factor, at least 0.
        reset: the probability that a value is drawn anew from its prior.
        redraw: the probability that a categorical is drawn anew, or that an ordered one
            moves to a neighbour.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jepbt.tasks import RegressionHyperParameters as Hyper
        >>> parents = Hyper(jnp.full(3, 0.01), jnp.full(3, 0.001))
        >>> children = gaussian(reset=0.0)(jax.random.key(0), parents)
        >>> len(set(children.learning_rate.tolist()))
        3

    Reference:
        Liang et al., 2021, https://arxiv.org/abs/2002.04225
    """
    check_real("gaussian", "sigma", sigma, 0)
    check_real("gaussian", "reset", reset, 0, 1)
    check_real("gaussian", "redraw", redraw, 0, 1)

    def vary(space, value, noise, side, anew, chance):
        moved = space.move(value, noise, side, sigma=sigma, redraw=redraw)
        is_reset = chance < (reset if space.ordered else redraw)
        # What is drawn anew has no other use for the numbers that would move it.
        return space.clip(jnp.where(is_reset, space.prior(anew, side), moved))

    return lambda key, hparams: _vary_all(vary, key, hparams)


def perturb(
    *, factors: Sequence[float] = (0.8, 1.2), resample: float = 0.25
) -> MutationFn:
    """Builds PBT's explore: multiply by one of the factors, or draw anew.

    Integers are rounded away from their old value, so that only a bound can hold them.
    Since no factor leaves zero, an integer there moves by one to the factor's side, a
    real number by `factor - 1` of its range. Categoricals only draw anew; ordered ones
    move to the neighbour on the factor's side (above 1, up), or to the only one at an
    end. Every entry of a vector draws for itself. Loss coefficients get the additive
    step of their own `sigma`. Everything here that is not about single numbers, and
    what happens at zero, is our choice.

    Args:
        factors: positive numbers, of which each value draws one.
        resample: the probability that a value is drawn anew from its prior, uniform in
            the logarithm where the space is logarithmic.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jepbt.tasks import RegressionHyperParameters as Hyper
        >>> parents = Hyper(jnp.full(9, 0.01), jnp.full(9, 0.001))
        >>> explored = perturb(resample=0.0)(jax.random.key(0), parents)
        >>> sorted({f"{value:.3f}" for value in explored.learning_rate.tolist()})
        ['0.008', '0.012']

    Reference:
        Jaderberg et al., 2017, section 4.1, https://arxiv.org/abs/1711.09846
    """
    check_real("perturb", "resample", resample, 0, 1)
    factors = check_each("perturb", "factors", factors, "positive numbers")
    for number, factor in enumerate(factors):
        check_real("perturb", f"factors[{number}]", factor, 0, above=True)

    def vary(space, value, noise, which, anew, chance):
        factor = jnp.array(factors, jnp.float32)[whole_below(len(factors), which)]
        moved = space.multiply(value, factor, noise)
        drawn = space.prior(anew, which)
        return space.clip(jnp.where(chance < resample, drawn, moved))

    return lambda key, hparams: _vary_all(vary, key, hparams)


def _vary_all(
    vary: Callable[..., jax.Array], key: jax.Array, hparams: HyperParameters
) -> HyperParameters:
    """Applies `vary(space, value, noise, *uniforms)` to every field of a population."""
    fields = spaces(type(hparams)).values()
    leaves, treedef = jax.tree.flatten(hparams)
    step, *uniforms = draw_for(key, leaves, 4)
    # Normal numbers for all fields at once: their formula is long in a program.
    draws = [columns(row, leaves) for row in (normal(step), *uniforms)]
    varied = [vary(*given) for given in zip(fields, leaves, *draws, strict=True)]
    return jax.tree.unflatten(treedef, varied)
