"""Reads hyperparameters as arrays, as values and as Python values.

A user's class is an ordinary dataclass that inherits from `HyperParameters`. On the
device its leaves are arrays (`f32[]` real, `f32[n]` a vector of them, `i32[]` integer,
`i32[]` the index of a choice, `f32[8]` a TaylorGLO loss), each with a leading axis `P`
in a population. Code that trains a member reads *values* (`decode`), people read Python
values (`to_python`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.hyperparameters.declaration import HyperParameters, _build, spaces
from jepbt.hyperparameters.spaces import (
    Categorical,
    Integer,
    Real,
    Space,
    TaylorLoss,
    _round_inside,
    clip,
)


def clip_all(hparams: HyperParameters) -> HyperParameters:
    """Brings every field back into its space: see `clip`.

    Args:
        hparams: leaves `[P, ...]`, from operators that may not know the spaces.

    Returns:
        The same class.

    Example:
        >>> import jax.numpy as jnp
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     width: int = jepbt.hparam(4, min=1, max=64)
        >>> clip_all(Hyper(jnp.array([0, 5, 99]))).width.tolist()
        [1, 5, 64]
    """
    return map_fields(lambda space, leaf: clip(leaf, space), hparams)


def decode(hparams: HyperParameters) -> HyperParameters:
    """Turns indices of choices into what member code reads.

    Numeric choices become their values, others a `Choice` for `choose`; every other
    leaf stays as it is. Works with any leading axes.

    Args:
        hparams: as they are on the device.

    Returns:
        The same class.

    Example:
        >>> import jax.numpy as jnp
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     decay: float = jepbt.hparam(0.0, choices=(0.0, 0.25))
        >>> float(decode(Hyper(decay=jnp.array(1))).decay)
        0.25
    """

    def value(name, space):
        leaf = getattr(hparams, name)
        if not isinstance(space, Categorical):
            return leaf
        if not space.is_numeric:
            return Choice(leaf, space.choices, name)
        return jnp.asarray(np.array(space.choices))[leaf]

    hparams_type = type(hparams)
    return _build(hparams_type, [value(*each) for each in spaces(hparams_type).items()])


def to_python(hparams: HyperParameters) -> HyperParameters:
    """Turns one member's hyperparameters into Python values, as a person reads them.

    Args:
        hparams: one member's, as on the device or fetched from it.

    Returns:
        The same class with floats, ints, the chosen values, tuples of floats, and
        `np.ndarray` losses.

    Example:
        >>> import numpy as np
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     activation: str = jepbt.hparam("relu", choices=("relu", "tanh"))
        >>> to_python(Hyper(activation=np.int32(1)))
        Hyper(activation='tanh')
    """

    def value(space, leaf):
        match space:
            case Categorical(choices=choices):
                return choices[int(leaf)]
            case TaylorLoss():
                return np.array(leaf)
            case Real(shape=(_,)):
                return tuple(np.asarray(leaf).tolist())
            case _:
                return np.asarray(leaf).item()

    return map_fields(value, hparams)


def map_fields(
    function: Callable[[Space, Any], Any], hparams: HyperParameters
) -> HyperParameters:
    """Applies `(space, leaf) -> leaf` to every field and returns the same class."""
    leaves = [
        function(space, getattr(hparams, name))
        for name, space in spaces(type(hparams)).items()
    ]
    return _build(type(hparams), leaves)


def encode(hparams: HyperParameters) -> HyperParameters:
    """Turns one member's Python values into what the device holds: see `to_python`.

    Args:
        hparams: with Python values.

    Returns:
        The same class with NumPy leaves `f32[]`, `f32[n]`, `i32[]` or `f32[8]`.

    Example:
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     activation: str = jepbt.hparam("relu", choices=("relu", "tanh"))
        >>> int(encode(Hyper("tanh")).activation)
        1
    """
    return map_fields(_encode, hparams)


def default_member(hparams_type: type[HyperParameters]) -> HyperParameters:
    """A member that has every field's default, as the device holds it: see `encode`.

    Example:
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     width: int = jepbt.hparam(4, min=1, max=64, log=True)
        >>> int(default_member(Hyper).width)
        4
    """
    fields = spaces(hparams_type).values()
    leaves = [_encode(space, space.default) for space in fields]
    return _build(hparams_type, leaves)


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """What member code sees of a categorical that is no number: see `choose`.

    It has no value to compare: `h.activation == "relu"` would be false for every
    member, without a word, so that it raises.
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
        choice: a field with non-numeric `choices`, as a member's code reads it.
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


def _encode(space: Space, value: Any) -> np.ndarray:
    match space:
        case Categorical(choices=choices):
            return np.int32(choices.index(value))
        case Integer():
            return np.int32(value)
        case Real(min=low, max=high):
            value = (
                np.float32(value) if np.isscalar(value) else np.array(value, np.float32)
            )
            if low is not None:
                value = np.maximum(value, _round_inside(low, +1))
            if high is not None:
                value = np.minimum(value, _round_inside(high, -1))
            return value
        case TaylorLoss():
            return np.array(value, np.float32)
