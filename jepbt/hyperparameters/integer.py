"""Describes hyperparameters that are whole numbers.

Most are drawn and moved in float32. Where it has too few digits, between large bounds,
whole numbers are added to whole numbers, and a second random number fills the gaps that
one of 23 bits leaves.
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.arguments import is_whole
from jepbt.hyperparameters.draws import UNIFORM_STEP, normal, whole_of_two
from jepbt.hyperparameters.numeric import MIN_FACTOR, Number, between

_NARROW = 2**16
"""Whole numbers up to here are drawn and moved in float32, which errs by under 1 %."""


class Integer(Number):
    """A whole number."""

    dtype: ClassVar = np.int32

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest value that the device may hold."""
        low = -(2**31) if self.min is None else self.min
        return low, 2**31 - 1 if self.max is None else self.max

    @property
    def is_wide(self) -> bool:
        """Tells whether float32 has too few digits to draw and move these numbers."""
        known = (self.default, self.min, self.max)
        return any(v is not None and abs(v) > _NARROW for v in known)

    def prior(self, uniform: jax.Array, rest: jax.Array | None = None) -> jax.Array:
        """Draws uniformly, each number as likely as its cell `[n, n + 1)`.

        Of a wide range each value of `uniform` covers many numbers, of which `rest`
        picks one.
        """
        if not self.is_wide:
            if not self.is_bounded:
                return super().prior(uniform)
            cells = between(uniform, self.min, self.max + 1, self.log)
            return self.clip(jnp.floor(cells))
        if self.is_bounded and not self.log:
            drawn = whole_of_two(self.max - self.min + 1, uniform, rest)
            return drawn.astype(jnp.int32) + np.int32(self.min)  # wraps, both ways
        if self.is_bounded:
            start, rate = self.min, math.log((self.max + 1) / self.min)
            near, far = (
                start * jnp.expm1(rate * edge)
                for edge in (uniform, uniform + UNIFORM_STEP)
            )
        else:
            start = self.default
            near = start * jnp.expm1(0.5 * normal(uniform))
            far = near + _spread_over(start)
        start = jnp.full(uniform.shape, start, jnp.int32)
        return self.clip(self._add(start, near, (far - near) * rest))

    def clip(self, value: jax.Array) -> jax.Array:
        """Rounds values and brings them inside the bounds."""
        return super().clip(jnp.round(value).astype(jnp.int32))

    def move(self, value, noise, side, *, sigma, redraw):
        """Moves like a real number; rounded at random in proportion.

        Otherwise small numbers could not move: adding a uniform number between -0.5 and
        0.5 before rounding rounds up as often as the fraction says.
        """
        if not self.is_wide:
            moved = super().move(value, noise, side, sigma=sigma, redraw=redraw)
            return moved + (side - 0.5)
        if self.holds_zero:
            size, turn = float(self.max - self.min), sigma * noise
        else:
            size = value.astype(jnp.float32)
            turn = jnp.maximum(sigma * noise, MIN_FACTOR - 1)
        spread = _spread_over(size * sigma)
        return self._add(value, size * turn, 0.5 + (side - 0.5) * spread)

    def multiply(self, value, factor, noise):
        """Multiplies by the factor and rounds away from the old value.

        Zero, which no factor leaves, moves to the next number on the factor's side.
        """
        real = value.astype(jnp.float32)
        size = jnp.abs(real) * factor
        size = jnp.where(factor > 1, jnp.ceil(size), jnp.floor(size))
        moved = jnp.where(value == 0, jnp.sign(factor - 1), jnp.sign(real) * size)
        if not self.is_wide:
            return moved
        step = real * (factor - 1)
        far = self._add(value, jnp.sign(step) * jnp.ceil(jnp.abs(step)), 0.0)
        is_small = jnp.abs(real) < 2**22
        return jnp.where(is_small, moved.astype(jnp.int32), far)

    def scale(self, value, factor):
        """Multiplies by a schedule's factor, and rounds.

        What float32 cannot hold moves by the difference, which is 0 at a factor of 1.
        """
        scaled = super().scale(value, factor)
        if not self.is_wide:
            return scaled
        real = value.astype(jnp.float32)
        moved = self.clip(self._add(value, real * (factor - 1), 0.5))
        is_held = (jnp.abs(real) < 2**24) | (factor < 0.5)
        return jnp.where(is_held, scaled, moved)

    def _add(self, value: jax.Array, step: jax.Array, extra: jax.Array) -> jax.Array:
        """Adds `floor(step + extra)` to whole numbers without rounding to float32.

        A step is at most 2**31 long. What leaves the 32 bits stays on the bound.
        """
        longest = 2.0**31 - 2**17  # which leaves room for what `extra` adds
        whole = jnp.floor(step)
        rest = jnp.floor(step - whole + extra).astype(jnp.int32)
        step = jnp.clip(whole, -longest, longest).astype(jnp.int32) + rest
        moved = value + step
        low, high = self.limits
        moved = jnp.where((step > 0) & (moved < value), high, moved)
        return jnp.where((step < 0) & (moved > value), low, moved)

    def to_python(self, leaf: np.ndarray) -> int:
        """Returns an `int`."""
        return int(leaf)

    def check(self, where: str, value: Any) -> None:
        """Raises unless a value is a whole number inside the bounds."""
        if not is_whole(value):
            raise TypeError(f"{where}={value!r} must be a whole number.")
        super().check(where, value)


def _spread_over(size: jax.Array | float) -> jax.Array:
    """Returns how many whole numbers share one value of a normal draw of this size.

    A normal number made of 23 random bits has gaps, which grow towards its tails: this
    covers them up to 2.3 deviations, and is four millionths of one.
    """
    return jnp.maximum(jnp.abs(size) * 2.0**-18, 1.0)
