"""Describes the kinds of hyperparameters, and keeps values inside their bounds."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.losses import taylorglo

_SMALLEST, _LARGEST = 1.2e-38, 3.4e38  # of the numbers that float32 holds in full


@dataclasses.dataclass(frozen=True)
class Real:
    """A real number in `[min, max]`, either of which may be missing.

    A default of several numbers makes it a vector, whose entries share the bounds and
    evolve each on its own.
    """

    default: float | tuple[float, ...]
    min: float | None
    max: float | None
    log: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one member's value: `()`, or `(n,)` for a vector."""
        return np.shape(self.default)


@dataclasses.dataclass(frozen=True)
class Integer:
    """A whole number in `[min, max]`, either of which may be missing."""

    default: int
    min: int | None
    max: int | None
    log: bool


@dataclasses.dataclass(frozen=True)
class Categorical:
    """One of several choices; on the device, its index.

    Ordered ones move to a neighbour where unordered ones are drawn anew.
    """

    default: Any
    choices: tuple[Any, ...]
    ordered: bool = False

    @property
    def is_numeric(self) -> bool:
        """Whether the choices are numbers, so that member code can read the value."""
        return all(isinstance(choice, int | float) for choice in self.choices)


@dataclasses.dataclass(frozen=True)
class TaylorLoss:
    """A TaylorGLO loss: eight coefficients, or a direction; it mutates additively."""

    default: tuple[float, ...]
    noise: float
    sigma: float
    genome: str = "coefficients"

    @property
    def scale(self) -> float:
        """The norm of the default's effective numbers, which a direction keeps."""
        ch, chh, chy, cx, cxx = taylorglo.effective(np.array(self.default))
        return float(np.linalg.norm([ch, chh, chy, cx + cxx]))


Space: TypeAlias = Real | Integer | Categorical | TaylorLoss


def clip(value: jax.Array, space: Space) -> jax.Array:
    """Brings values back into a space: rounded where whole, inside its bounds.

    Args:
        value: `f32[...]` or `i32[...]`.
        space: from `spaces`.

    Returns:
        The same shape, in the space's dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> clip(jnp.array([-1.0, 2.6, 9.0]), Integer(2, 0, 5, False)).tolist()
        [0, 3, 5]
    """
    match space:
        case Real(min=low, max=high):
            return jnp.clip(value, _round_inside(low, +1), _round_inside(high, -1))
        case Integer(min=low, max=high):
            return jnp.clip(jnp.round(value).astype(jnp.int32), low, high)
        case Categorical(choices=choices):
            return jnp.clip(value, 0, len(choices) - 1)
        case TaylorLoss(genome="effective"):
            seed = np.array(space.default, np.float32)
            return taylorglo.at_scale(value, space.scale, seed)
        case TaylorLoss():
            return value


def move_loss(space: TaylorLoss, theta: jax.Array, step: jax.Array) -> jax.Array:
    """Adds a step to losses, in the coordinates in which their space evolves.

    Args:
        space: of the field.
        theta: `f32[..., 8]`.
        step: `f32[..., 8]`; a direction reads the first four of each, in units of its
            scale.

    Returns:
        `f32[..., 8]`.

    Example:
        >>> import numpy as np
        >>> seed = taylorglo.CROSS_ENTROPY_EXPANSION
        >>> space = TaylorLoss(tuple(seed.tolist()), 0.0, 0.1)
        >>> moved = move_loss(space, jnp.asarray(seed), jnp.ones(8))
        >>> bool((moved == seed + 1).all())
        True
    """
    if space.genome == "coefficients":
        return theta + step
    ch, chh, chy, cx, cxx = taylorglo.effective(theta)
    moved = jnp.stack([ch, chh, chy, cx + cxx], -1) + space.scale * step[..., :4]
    ch, chh, chy, cx = jnp.moveaxis(moved, -1, 0)
    return clip(
        taylorglo.from_effective(
            taylorglo.Effective(ch, chh, chy, cx, jnp.zeros_like(cx))
        ),
        space,
    )


@functools.cache
def _round_inside(bound: float | None, direction: int) -> np.float32 | None:
    """The float32 nearest to a bound that does not lie outside of it.

    `float(np.float32(0.6))` is above 0.6: without this a user's own check
    `dropout <= 0.6` would fail on a value that sits on its bound.
    """
    if bound is None:
        return None
    rounded = np.float32(bound)
    if (float(rounded) - bound) * direction < 0:
        rounded = np.nextafter(rounded, np.float32(direction * np.inf))
    return rounded
