"""Describes hyperparameters that are a TaylorGLO loss."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.arguments import check_choice, check_real
from jepbt.hyperparameters.base import Space
from jepbt.hyperparameters.draws import normal
from jepbt.losses import taylorglo

_GENOME = "8 finite numbers, in the order y, y2, y3, xy, xy2, x2y, x0, y0."


@dataclasses.dataclass(frozen=True)
class TaylorLoss(Space):
    """A TaylorGLO loss with the settings of `taylor_hparam`; it mutates additively."""

    default: tuple[float, ...]
    noise: float
    sigma: float
    genome: str = "coefficients"

    shape: ClassVar = (taylorglo.NUM_COEFFICIENTS,)

    @classmethod
    def declare(cls, where, *, default, noise, sigma, genome):
        """Makes the space of a declared field, or raises a `ValueError`."""
        if not _is_genome(default):
            raise ValueError(f"{where}: default={default} must be {_GENOME}")
        check_real(where, "noise", noise, 0)
        check_real(where, "sigma", sigma, 0)
        check_choice(where, "genome", genome, ("coefficients", "effective"))
        space = cls(tuple(map(float, default)), noise, sigma, genome)
        if genome == "effective" and space.scale == 0:
            raise ValueError(
                f"{where}: default={default} has no gradient, so genome='effective' "
                "has no direction to start from. Choose another default, such as "
                "cross-entropy's expansion."
            )
        return space

    @property
    def scale(self) -> float:
        """The norm of the default's `direction`, which an effective genome keeps."""
        return float(np.linalg.norm(taylorglo.direction(np.array(self.default))))

    def prior(self, uniform: jax.Array, rest: jax.Array | None = None) -> jax.Array:
        """Draws the default plus its noise."""
        seed = jnp.broadcast_to(jnp.asarray(self.default), uniform.shape)
        step = self.noise * normal(uniform) if self.noise else jnp.zeros_like(uniform)
        return self.add(seed, step)

    def clip(self, value: jax.Array) -> jax.Array:
        """Brings a direction back to its scale; coefficients have no bounds."""
        if self.genome == "coefficients":
            return value
        seed = np.array(self.default, np.float32)
        return taylorglo.at_scale(value, self.scale, seed)

    def add(self, theta: jax.Array, step: jax.Array) -> jax.Array:
        """Adds a step `f32[..., 8]` to losses, in the coordinates in which they evolve.

        A direction reads the first four numbers, in units of its scale.
        """
        if self.genome == "coefficients":
            return theta + step
        numbers = taylorglo.direction(theta) + self.scale * step[..., :4]
        return self.clip(taylorglo.from_direction(numbers))

    def move(self, value, noise, side, *, sigma, redraw):
        """Adds noise of the field's own `sigma`."""
        return self.add(value, self.sigma * noise)

    def multiply(self, value, factor, noise):
        """Adds noise of the field's own `sigma`: a factor cannot leave zero."""
        return self.add(value, self.sigma * noise)

    def coordinates(self, leaf: jax.Array) -> jax.Array:
        """Places losses in units of ten mutations."""
        if self.genome == "effective":
            leaf = taylorglo.direction(leaf) / self.scale
        return leaf / (10 * self.sigma or 1.0)

    def check(self, where: str, value: Any) -> None:
        """Raises unless a value is eight finite numbers."""
        if not _is_genome(value):
            raise ValueError(f"{where}={value!r} must be {_GENOME}")


def _is_genome(value: Any) -> bool:
    try:
        numbers = np.asarray(value)
    except ValueError:  # lists of different lengths
        return False
    are_eight = numbers.shape == (taylorglo.NUM_COEFFICIENTS,)
    are_numbers = jnp.issubdtype(numbers.dtype, jnp.number)
    return are_eight and are_numbers and bool(np.isfinite(numbers).all())
