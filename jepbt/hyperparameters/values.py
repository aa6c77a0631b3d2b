"""Reads hyperparameters as arrays, as values and as Python values.

On the device the leaves of a user's class are arrays (`f32[]` real, `f32[n]` a vector
of them, `i32[]` integer, `i32[]` the index of a choice, `f32[8]` a TaylorGLO loss),
each with a leading axis `P` in a population. Code that trains a member reads *values*
(`decode`), people read Python values (`to_python`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jepbt.hyperparameters.base import Space
from jepbt.hyperparameters.categorical import Categorical
from jepbt.hyperparameters.declaration import HyperParameters, build, spaces
from jepbt.hyperparameters.draws import columns, draw_for
from jepbt.hyperparameters.integer import Integer
from jepbt.hyperparameters.numeric import Real, Vector
from jepbt.hyperparameters.taylor import TaylorLoss

_REST = 0x72657374  # makes a key for wide integers' second numbers

KINDS = {
    kind.__name__: kind for kind in (Real, Integer, Vector, Categorical, TaylorLoss)
}


def read_space(fields: Mapping[str, Any]) -> Space:
    """Reads a space again from what its `describe` wrote as JSON.

    Example:
        >>> read_space({"kind": "Categorical", "default": "a", "choices": ["a", "b"]})
        Categorical(default='a', choices=('a', 'b'), ordered=False)
    """
    values = {name: _to_tuples(value) for name, value in fields.items()}
    return KINDS[values.pop("kind")](**values)


def _to_tuples(value: Any) -> Any:
    """Makes tuples of lists, since JSON has no tuples and a space no lists."""
    return tuple(map(_to_tuples, value)) if isinstance(value, list) else value


def losses_in(spaces: Mapping[str, Space]) -> list[str]:
    """Names the hyperparameters that are evolving losses."""
    return [name for name, space in spaces.items() if isinstance(space, TaylorLoss)]


def map_fields(
    function: Callable[[str, Space, Any], Any], hparams: HyperParameters
) -> HyperParameters:
    """Applies `(name, space, leaf) -> leaf` to every field; returns the same class."""
    fields = spaces(type(hparams)).items()
    leaves = [function(name, space, getattr(hparams, name)) for name, space in fields]
    return build(type(hparams), leaves)


def clip_all(hparams: HyperParameters) -> HyperParameters:
    """Brings every field back into its space, after operators that may not know it."""
    return map_fields(
        lambda _, space, leaf: space.clip(leaf).astype(space.dtype), hparams
    )


def decode(hparams: HyperParameters) -> HyperParameters:
    """Turns indices of choices into what member code reads.

    Numeric choices become their values, others a `Choice` for `choose`; every other
    leaf stays as it is. Works with any leading axes.
    """
    return map_fields(lambda name, space, leaf: space.decode(leaf, name), hparams)


def encode(hparams: HyperParameters) -> HyperParameters:
    """Turns one member's Python values into NumPy leaves, as the device holds them."""
    return map_fields(lambda _, space, value: space.encode(value), hparams)


def to_python(hparams: HyperParameters) -> HyperParameters:
    """Turns one member's hyperparameters into Python values, as a person reads them.

    These are ints, floats of the fewest digits that give the same float32 back, the
    chosen values, tuples of floats, and `np.ndarray` losses.
    """
    return map_fields(lambda _, space, leaf: space.to_python(leaf), hparams)


def default_member(hparams_type: type[HyperParameters]) -> HyperParameters:
    """Returns a member that has every field's default, as the device holds it."""
    fields = spaces(hparams_type).values()
    return build(hparams_type, [space.encode(space.default) for space in fields])


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
        >>> from jepbt.tasks import RegressionHyperParameters as Hyper
        >>> first = sample_population(jax.random.key(0), Hyper, 5)
        >>> round(float(first.learning_rate[0]), 6)
        0.003
    """
    return jax.tree.map(
        lambda default, rest: jnp.concatenate([default[None], rest]),
        default_member(hparams_type),
        sample_prior(key, hparams_type, num_members - 1),
    )


def sample_prior(
    key: jax.Array, hparams_type: type[HyperParameters], num_members: int
) -> HyperParameters:
    """Draws every member from the prior, with leaves `[num_members, ...]`."""
    fields = spaces(hparams_type).values()
    shapes = [
        jax.ShapeDtypeStruct((num_members, *space.shape), space.dtype)
        for space in fields
    ]
    draws = [columns(draw_for(key, shapes, 1)[0], shapes)]
    if any(space.is_wide for space in fields):
        rest = draw_for(jax.random.fold_in(key, _REST), shapes, 1)[0]
        draws.append(columns(rest, shapes))
    leaves = [
        space.prior(*u).astype(space.dtype)
        for space, *u in zip(fields, *draws, strict=True)
    ]
    return build(hparams_type, leaves)
