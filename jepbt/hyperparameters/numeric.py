"""Describes hyperparameters that are numbers; the real ones, alone or in a vector."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.arguments import check_bool, is_real
from jepbt.hyperparameters.base import Space
from jepbt.hyperparameters.draws import normal

MIN_FACTOR = 0.1
"""A mutation never shrinks a number more than this, nor turns its sign."""

_SMALLEST, _LARGEST = 1.2e-38, 3.4e38  # of the numbers that float32 holds in full


@dataclasses.dataclass(frozen=True)
class Number(Space):
    """The base of numbers in `[min, max]`, either of which may be missing."""

    default: Any
    min: float | None
    max: float | None
    log: bool

    @classmethod
    def declare(cls, where, *, default, min, max, log, choices, ordered):
        """Makes the space of a declared field, or raises a `ValueError`."""
        for name, value in {"default": default, "min": min, "max": max}.items():
            if value is not None:
                _check_number(where, name, value, default)
        check_bool(where, "log", log)
        space = cls(default, min, max, log)
        _check_bounds(where, space)
        return space

    @property
    def is_bounded(self) -> bool:
        """`True` if there are both bounds."""
        return self.min is not None and self.max is not None

    @property
    def holds_zero(self) -> bool:
        """`True` if zero, which no factor leaves, lies between two bounds."""
        return self.is_bounded and self.min <= 0 <= self.max

    @property
    def limits(self) -> tuple[Any, Any]:
        """The smallest and the largest value that the device may hold."""
        return _round_inside(self.min, +1), _round_inside(self.max, -1)

    def prior(self, uniform: jax.Array, rest: jax.Array | None = None) -> jax.Array:
        """Draws uniformly between the bounds, or log-normally about the default."""
        if self.is_bounded:
            return self.clip(between(uniform, self.min, self.max, self.log))
        default = np.broadcast_to(np.float32(self.default), uniform.shape)
        return self.clip(default * jnp.exp(0.5 * normal(uniform)))

    def clip(self, value: jax.Array) -> jax.Array:
        """Brings values inside the bounds."""
        return jnp.clip(value, *self.limits)

    def move(self, value, noise, side, *, sigma, redraw):
        """Multiplies by `N(1, sigma)`; adds `sigma` of the range if that holds zero."""
        if self.holds_zero:
            return value + (self.max - self.min) * (sigma * noise)
        return value * jnp.maximum(1 + sigma * noise, MIN_FACTOR)

    def multiply(self, value, factor, noise):
        """Multiplies by the factor; at zero, 1.2 adds a fifth of the range."""
        if not self.holds_zero:
            return value * factor
        from_zero = (self.max - self.min) * (factor - 1)
        return jnp.where(value == 0, from_zero, value * factor)

    def scale(self, value: jax.Array, factor: jax.Array) -> jax.Array:
        """Multiplies by a schedule's factor, inside the bounds."""
        return self.clip(value * factor)

    def coordinates(self, leaf: jax.Array) -> jax.Array:
        """Places values in [0, 1], by their logarithm where that is their scale."""
        value = leaf.astype(jnp.float32).reshape(len(leaf), -1)
        if not self.is_bounded:
            # The prior is a normal distribution of this logarithm.
            default = np.broadcast_to(np.float32(self.default), value.shape)
            ratio = jnp.maximum(value / default, jnp.finfo(jnp.float32).tiny)
            return 0.5 + jnp.log(ratio) / 2
        low, high = self.min, self.max
        if self.log:
            value, low, high = jnp.log(value), math.log(low), math.log(high)
        return (value - low) / (high - low)

    def encode(self, value: Any) -> np.ndarray:
        """Turns a Python value into what the device holds, inside the bounds."""
        return np.clip(np.array(value, self.dtype), *self.limits)

    def check(self, where: str, value: Any) -> None:
        """Raises unless a value is a number inside the bounds."""
        if not is_real(value):
            raise TypeError(f"{where}={value!r} must be a number.")
        low = -math.inf if self.min is None else self.min
        high = math.inf if self.max is None else self.max
        if not low <= value <= high or math.isinf(value):
            raise ValueError(
                f"{where}={value!r} lies outside its bounds [{self.min}, {self.max}]."
            )


class Real(Number):
    """A real number."""

    def to_python(self, leaf: np.ndarray) -> float:
        """Returns the float with the fewest digits that gives the same float32 back.

        On a bound it is the bound itself.
        """
        value = np.float32(leaf)
        for bound, limit in zip((self.min, self.max), self.limits, strict=True):
            if bound is not None and value == limit:
                return float(bound)
        return float(str(value))


class Vector(Real):
    """Several real numbers that share bounds and evolve each on its own."""

    @classmethod
    def declare(cls, where, *, default, **declared):
        """Makes the space of a declared field, or raises a `ValueError`."""
        is_number = all(isinstance(v, int | float) and is_real(v) for v in default)
        if not default or not is_number or all(isinstance(v, int) for v in default):
            raise ValueError(
                f"{where}: default={default!r} must be a tuple of floats to be a "
                "vector, such as (0.1, 0.1). For one of several tuples give "
                "choices=(...)."
            )
        default = tuple(map(float, default))
        for place, value in enumerate(default):
            Real.declare(f"{where}[{place}]", default=value, **declared)
        return cls(default, declared["min"], declared["max"], declared["log"])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one member's value, `(n,)`."""
        return (len(self.default),)

    def to_python(self, leaf: np.ndarray) -> tuple[float, ...]:
        """Returns a tuple of floats: see `Real.to_python`."""
        return tuple(map(super().to_python, leaf))

    def check(self, where: str, value: Any) -> None:
        """Raises unless a value is as many numbers, all inside the bounds."""
        if np.shape(value) != self.shape:
            raise ValueError(
                f"{where}={value!r} must be {len(self.default)} numbers, as many as "
                "its default has."
            )
        for place, number in enumerate(value):
            super().check(f"{where}[{place}]", number)


def _check_bounds(where: str, space: Number) -> None:
    default, low, high = space.default, space.min, space.max
    if space.is_bounded and low >= high:
        hint = "A value that never changes is no hyperparameter."
        raise ValueError(
            f"{where}: min={low!r} must be below max={high!r}. "
            f"{hint if low == high else 'Are they swapped?'}"
        )
    if (low is not None and default < low) or (high is not None and default > high):
        raise ValueError(
            f"{where}: default={default!r} lies outside its bounds "
            f"[{low!r}, {high!r}]. Move the default or widen the bounds."
        )
    if space.log and (not space.is_bounded or low <= 0):
        raise ValueError(
            f"{where}: log=True needs min and max with min > 0, got min={low!r}, "
            f"max={high!r}."
        )
    if default == 0 and not space.is_bounded:
        raise ValueError(
            f"{where}: a default of 0 without bounds has no scale to vary on. "
            "Give min and max."
        )


def _check_number(where: str, name: str, value: Any, default: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: {name}={value!r} must be a number.")
    if not math.isfinite(value):
        raise ValueError(
            f"{where}: {name}={value!r} must be finite; leave a bound out instead."
        )
    if isinstance(default, int) and not isinstance(value, int):
        raise ValueError(
            f"{where}: {name}={value!r} must be whole, since the default {default!r} "
            f"is an int. Write {float(default)!r} for a real one."
        )
    if isinstance(default, float):
        fits = value == 0 or _SMALLEST <= abs(value) <= _LARGEST
    else:
        fits = -(2**31) <= value < 2**31 - 1
    if not fits:
        raise ValueError(
            f"{where}: {name}={value!r} does not fit the 32 bits that a member's "
            "hyperparameter has."
        )


def between(uniform: jax.Array, low: float, high: float, log: bool) -> jax.Array:
    """Turns numbers from 0 to below 1 into uniform or log-uniform ones of a range."""
    if log:
        return jnp.exp(between(uniform, math.log(low), math.log(high), False))
    return low + (high - low) * uniform


def _round_inside(bound: float | None, direction: int) -> np.float32:
    """Returns the nearest float32 that does not lie outside of a bound.

    `float(np.float32(0.6))` is above 0.6: without this a user's own check
    `dropout <= 0.6` would fail on a value that sits on its bound.
    """
    if bound is None:
        return np.float32(-direction * np.inf)
    rounded = np.float32(bound)
    if (float(rounded) - bound) * direction < 0:
        rounded = np.nextafter(rounded, np.float32(direction * np.inf))
    return rounded
