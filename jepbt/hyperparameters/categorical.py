"""Describes hyperparameters that are one of several choices, and picks by them."""

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.arguments import check_bool
from jepbt.hyperparameters.base import Space, to_plain
from jepbt.hyperparameters.draws import whole_below


@dataclasses.dataclass(frozen=True)
class Categorical(Space):
    """One of several choices; on the device, its index.

    Ordered ones move to a neighbour where unordered ones are drawn anew.
    """

    default: Any
    choices: tuple[Any, ...]
    ordered: bool = False

    dtype: ClassVar = np.int32

    @classmethod
    def declare(cls, where, *, default, min, max, log, choices, ordered):
        """Makes the space of a declared field, or raises a `ValueError`."""
        if min is not None or max is not None or log:
            raise ValueError(
                f"{where}: min, max and log do not apply to choices. Remove them, or "
                "remove choices; ordered=True says that choices stand in an order."
            )
        check_bool(where, "ordered", ordered)
        if choices is None:
            if ordered:
                raise ValueError(
                    f"{where}: ordered=True needs choices; the two values of a bool "
                    "have no order."
                )
            return cls(default, (False, True))
        is_sequence = isinstance(choices, Sequence | np.ndarray)
        if (
            not is_sequence
            or isinstance(choices, str)
            or not all(isinstance(choice, Hashable) for choice in choices)
        ):
            raise ValueError(
                f"{where}: choices={choices!r} must be a list or tuple, whose order is "
                "the same in every run, of numbers, texts or other values that do not "
                "change, such as ('relu', 'tanh')."
            )
        choices = to_plain(tuple(choices))
        if len(choices) < 2 or len(set(choices)) < len(choices):
            raise ValueError(
                f"{where}: choices={choices} must be at least two different values."
            )
        if default not in choices:
            raise ValueError(
                f"{where}: default={default!r} must be one of choices={choices}."
            )
        return cls(default, choices, ordered)

    @property
    def is_numeric(self) -> bool:
        """`True` if the choices are numbers, which member code can read as values."""
        return all(isinstance(choice, int | float) for choice in self.choices)

    def _numbers(self) -> np.ndarray | None:
        """Returns choices that are numbers in 32 bits; `None` if they do not fit."""
        numbers = np.array(self.choices)
        if numbers.dtype.kind in "fb":
            return numbers.astype(np.float32 if numbers.dtype.kind == "f" else bool)
        fits = (numbers >= -(2**31)).all() and (numbers < 2**31).all()
        return numbers.astype(np.int32) if fits else None

    def prior(self, uniform: jax.Array, rest: jax.Array | None = None) -> jax.Array:
        """Draws each choice with equal probability."""
        return whole_below(len(self.choices), uniform)

    def clip(self, value: jax.Array) -> jax.Array:
        """Brings indices back among the choices."""
        return jnp.clip(value, 0, len(self.choices) - 1)

    def move(self, value, noise, side, *, sigma, redraw):
        """Moves an ordered choice to a neighbour with probability `redraw`."""
        moves = jnp.abs(side - 0.5) > (1 - redraw) / 2
        return self._step(value, moves, side >= 0.5)

    def multiply(self, value, factor, noise):
        """Moves an ordered choice to the neighbour on the factor's side."""
        return self._step(value, factor != 1, factor > 1)

    def _step(self, index: jax.Array, moves: jax.Array, up: jax.Array) -> jax.Array:
        """Moves an ordered choice to one side; at an end, to the only neighbour."""
        if not self.ordered:
            return index
        up = (up | (index == 0)) & (index < len(self.choices) - 1)
        return index + jnp.where(moves, jnp.where(up, 1, -1), 0)

    def coordinates(self, leaf: jax.Array) -> jax.Array:
        """Places ordered choices between 0 and 1, others each on an axis of its own."""
        if self.ordered:
            return leaf.astype(jnp.float32)[:, None] / (len(self.choices) - 1)
        places = jax.nn.one_hot(leaf, len(self.choices), dtype=jnp.float32)
        return places / math.sqrt(2)

    def encode(self, value: Any) -> np.ndarray:
        """Turns a choice into its index."""
        return np.array(self.choices.index(value), np.int32)

    def decode(self, leaf: jax.Array, name: str) -> Any:
        """Turns indices into the numbers that they stand for, or into a `Choice`."""
        if not self.is_numeric:
            return Choice(leaf, self.choices, name)
        numbers = self._numbers()
        if numbers is None:
            raise ValueError(
                f"{name}: choices={self.choices} do not fit the 32 bits that a whole "
                "number has in a compiled program. Write them as floats or, to pick "
                "functions by jepbt.choose, as texts."
            )
        return jnp.asarray(numbers)[leaf]

    def readable(self, leaf: np.ndarray) -> np.ndarray:
        """Turns indices into an array of the choices."""
        choices = self._numbers() if self.is_numeric else None
        if choices is None:
            choices = np.empty(len(self.choices), object)
            choices[:] = self.choices
        return choices[np.asarray(leaf)]

    def to_python(self, leaf: np.ndarray) -> Any:
        """Returns the choice itself."""
        return self.choices[int(leaf)]

    def check(self, where: str, value: Any) -> None:
        """Raises unless a value is one of the choices."""
        if value not in self.choices:
            raise ValueError(f"{where}={value!r} must be one of {self.choices}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """Stands in member code for a categorical whose choices are not numbers.

    `choose` picks by it. It cannot be compared: `h.activation == "relu"` would silently
    be false for every member, so it raises instead.
    """

    index: jax.Array
    choices: tuple[Any, ...]
    name: str = "a choice"

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError(
            f"{self.name} is a choice of {self.choices}: inside the compiled step an "
            "index, of which Python knows no value to compare or look up. Pick a "
            f"function by it, jepbt.choose(h.{self.name}, {{{self.choices[0]!r}: ..., "
            "...}). What decides on shapes, such as layers or a batch size, evolves "
            "with jepbt.epbt alone."
        )

    __eq__ = __hash__ = __bool__ = _refuse


def choose(choice: Choice, options: Mapping[Any, Callable]) -> Callable:
    """Picks a function by a member's own categorical hyperparameter.

    In a vmapped chunk every option runs and one result is kept; member by member only
    the chosen one runs.

    Args:
        choice: a field with non-numeric `choices`, as a member's code reads it; or the
            chosen value itself, as `result.best.hparams` holds it.
        options: a function for each choice; all return the same shapes.

    Returns:
        A function that takes the options' arguments.

    Raises:
        TypeError: if `choice` is not such a field.
        ValueError: if the options are not exactly the choices.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> activation = Choice(jnp.array(1), ("relu", "tanh"))
        >>> apply = choose(activation, {"relu": jax.nn.relu, "tanh": jnp.tanh})
        >>> round(float(apply(-1.0)), 3)
        -0.762
    """
    if not isinstance(choice, Choice):
        is_plain = isinstance(choice, Hashable) and not isinstance(choice, jax.Array)
        if is_plain and choice in options:
            return options[choice]
        raise TypeError(
            "choose takes a categorical hyperparameter with choices that are no "
            f"numbers, got {type(choice).__name__}. Numeric choices are read directly."
        )
    if set(options) != set(choice.choices):
        raise ValueError(
            f"choose: options {sorted(map(str, options))} must be exactly the choices "
            f"{sorted(map(str, choice.choices))}."
        )
    branches = [options[value] for value in choice.choices]
    return lambda *args: jax.lax.switch(choice.index, branches, *args)
