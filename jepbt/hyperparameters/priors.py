"""What hyperparameters are before anything is known: draws from their spaces."""

from __future__ import annotations

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.hyperparameters.declaration import HyperParameters, spaces
from jepbt.hyperparameters.spaces import (
    Categorical,
    Integer,
    Real,
    Space,
    TaylorLoss,
    clip,
    move_loss,
)
from jepbt.hyperparameters.values import default_member


def sample_population(
    key: jax.Array, hparams_type: type[HyperParameters], num_members: int
) -> HyperParameters:
    """Draws the first population: defaults in slot 0, the prior everywhere else.

    Args:
        key: consumed.
        hparams_type: the user's dataclass.
        num_members: `P`.

    Returns:
        `hparams_type` with leaves `[P, ...]`.

    Example:
        >>> import jax
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     width: int = jepbt.hparam(4, min=1, max=64, log=True)
        >>> int(sample_population(jax.random.key(0), Hyper, 5).width[0])
        4
    """
    defaults = default_member(hparams_type)
    first = jax.tree.leaves(defaults)
    draws = uniforms(key, [(num_members, *jnp.shape(leaf)) for leaf in first])
    fields = spaces(hparams_type).values()
    leaves = [
        prior(space, uniform).at[0].set(leaf)
        for space, uniform, leaf in zip(fields, draws, first, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(defaults), leaves)


def uniforms(key: jax.Array, shapes: Iterable[tuple[int, ...]]) -> list[jax.Array]:
    """Draws numbers between 0 and 1 for many arrays at once.

    A program with a draw for each takes several times as long to compile.

    Args:
        key: consumed.
        shapes: of the arrays.

    Returns:
        `f32[*shape]` for each shape, below 1.

    Example:
        >>> import jax
        >>> [draws.shape for draws in uniforms(jax.random.key(0), [(2, 3), ()])]
        [(2, 3), ()]
    """
    shapes = list(shapes)
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    draws = jax.random.uniform(key, (int(ends[-1]),), jnp.float32)
    parts = jnp.split(draws, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def normal(uniform: jax.Array) -> jax.Array:
    """Turns numbers between 0 and 1 into normal ones, of mean 0 and deviation 1.

    Args:
        uniform: `f32[...]`, from 0 to below 1.

    Returns:
        `f32[...]`, finite.

    Example:
        >>> import jax.numpy as jnp
        >>> [f"{x:.2f}" for x in normal(jnp.array([0.5, 0.975])).tolist()]
        ['0.00', '1.96']
    """
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    return math.sqrt(2) * jax.lax.erf_inv(jnp.maximum(2 * uniform - 1, lowest))


def prior(space: Space, uniform: jax.Array) -> jax.Array:
    """Turns uniform numbers into draws from a space's prior.

    Uniform between bounds (of the logarithm, where the space is logarithmic), uniform
    over choices; `default * exp(N(0, 0.5))` where a bound is missing; the default plus
    its noise for a loss.

    Args:
        space: from `spaces`.
        uniform: `f32[...]`, from 0 to below 1; the entries of a vector or a loss last.

    Returns:
        The same shape, in the space's dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> prior(Integer(2, 1, 3, False), jnp.array([0.0, 0.4, 0.99])).tolist()
        [1, 2, 3]
    """
    match space:
        case Categorical(choices=choices):
            return clip(jnp.int32(uniform * len(choices)), space)
        case TaylorLoss(default=default, noise=noise):
            seed = jnp.broadcast_to(jnp.asarray(default), uniform.shape)
            return move_loss(space, seed, noise * normal(uniform))
        case Real(min=None) | Real(max=None) | Integer(min=None) | Integer(max=None):
            default = np.broadcast_to(np.float32(space.default), uniform.shape)
            draws = default * jnp.exp(0.5 * normal(uniform))
        case Real():
            draws = _between(uniform, space.min, space.max, space.log)
        case Integer():  # the cell of n is [n, n + 1), so that both ends are as likely
            draws = _between(uniform, space.min, space.max + 1, space.log)
            draws = jnp.floor(draws)
    return clip(draws, space)


def _between(uniform, low, high, log):
    if not log:
        return low + (high - low) * uniform
    return jnp.exp(_between(uniform, math.log(low), math.log(high), False))
