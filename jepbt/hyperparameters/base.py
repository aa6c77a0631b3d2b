"""Defines what every kind of hyperparameter is and can do."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np


class Space(abc.ABC):
    """The base of every kind of hyperparameter.

    A new kind is one frozen dataclass that fills in the abstract methods, named in
    `values.KINDS`. Arrays that a method takes may have leading axes, such as `P`.

    Attributes:
        default: the value of slot 0 of the first population, as a Python value.
        shape: the shape of one member's value.
        dtype: the dtype of its leaf, `float32` or `int32`.
        ordered: `True` if a small step makes sense, so that mutations move values
            instead of only drawing them anew.
        is_wide: `True` if `prior` needs a second uniform number for each, `rest`.
    """

    default: Any
    shape: ClassVar[tuple[int, ...]] = ()
    dtype: ClassVar[type] = np.float32
    ordered: ClassVar[bool] = True
    is_wide: ClassVar[bool] = False

    @classmethod
    @abc.abstractmethod
    def declare(cls, where: str, **declared: Any) -> Space:
        """Makes the space of a declared field, or raises a `ValueError`."""

    @abc.abstractmethod
    def prior(self, uniform: jax.Array, rest: jax.Array | None = None) -> jax.Array:
        """Turns uniform numbers `f32[..., *shape]` into draws from the prior."""

    @abc.abstractmethod
    def clip(self, value: jax.Array) -> jax.Array:
        """Brings values back into the space: rounded where whole, inside bounds."""

    @abc.abstractmethod
    def move(self, value, noise, side, *, sigma: float, redraw: float) -> jax.Array:
        """Takes a small random step, EPBT's; the result may need `clip`.

        `noise` is normal, `side` uniform, both of the shape of `value`. `sigma` is the
        step's deviation relative to the value, `redraw` the probability that an ordered
        choice moves.
        """

    @abc.abstractmethod
    def multiply(self, value, factor, noise) -> jax.Array:
        """Multiplies by positive factors, PBT's step, or does what comes closest."""

    @abc.abstractmethod
    def coordinates(self, leaf: jax.Array) -> jax.Array:
        """Places values `[P, ...]` where distances mean something, as `f32[P, D]`."""

    def encode(self, value: Any) -> np.ndarray:
        """Turns a Python value into what the device holds."""
        return np.array(value, self.dtype)

    def decode(self, leaf: jax.Array, name: str) -> Any:
        """Turns what the device holds into what member code reads as field `name`."""
        return leaf

    def readable(self, leaf: np.ndarray) -> np.ndarray:
        """Turns what the device holds into what a history shows."""
        return np.array(leaf)

    def to_python(self, leaf: np.ndarray) -> Any:
        """Turns one member's leaf into a Python value: the inverse of `encode`."""
        return np.array(leaf)

    @abc.abstractmethod
    def check(self, where: str, value: Any) -> None:
        """Raises a `TypeError` or `ValueError` for a Python value outside the space."""

    def describe(self) -> dict[str, Any]:
        """Returns the kind's name and its fields, as `config.json` holds them."""
        return {"kind": type(self).__name__, **dataclasses.asdict(self)}


def to_plain(value: Any) -> Any:
    """Turns NumPy's numbers, alone or in a tuple, into Python's."""
    if isinstance(value, tuple):
        return tuple(map(to_plain, value))
    return value.item() if isinstance(value, np.generic) else value
