"""What the host loop evolves: a model of any framework with its hyperparameters."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jepbt.hyperparameters import (
    Categorical,
    HyperParameters,
    Integer,
    Real,
    Space,
    TaylorLoss,
    encode,
    spaces,
)


@dataclasses.dataclass(eq=False)
class Candidate:
    """A model, the hyperparameters that it trains with, and how good it is.

    Candidates order by fitness, so that `max(candidates)` is the best; a fitness of
    `nan` or `None`, not yet evaluated or failed, ranks last. Inherit from it to let
    more than the model pass to the children (an epoch count, say): a child starts as a
    copy of its parent with new hyperparameters.

    Attributes:
        model: anything: a network with its optimizer, weights, a file's name; `None`
            until the first evaluation.
        hparams: the user's `HyperParameters`, with Python values.
        fitness: a number, higher is better.

    Example:
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     width: int = jepbt.hparam(4, min=1, max=64)
        >>> max(Candidate("a", Hyper(), 0.3), Candidate("b", Hyper()))
        Candidate(model='a', hparams=Hyper(width=4), fitness=0.3)
    """

    model: Any
    hparams: HyperParameters
    fitness: float | None = math.nan

    def __lt__(self, other: Candidate) -> bool:
        if not isinstance(other, Candidate):
            return NotImplemented
        return _rank(self) < _rank(other)

    def __le__(self, other: Candidate) -> bool:
        if not isinstance(other, Candidate):
            return NotImplemented
        return _rank(self) <= _rank(other)


def field_dict(instance: Any) -> dict[str, Any]:
    """Lists the fields of a dataclass instance by name, as they are.

    Unlike `dataclasses.asdict` it copies nothing and does not descend into values.

    Args:
        instance: of any dataclass.

    Returns:
        Its fields by name, in their order.

    Raises:
        TypeError: if it is no instance of a dataclass.

    Example:
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     width: int = jepbt.hparam(4, min=1, max=64)
        >>> field_dict(Hyper())
        {'width': 4}
    """
    if isinstance(instance, type) or not dataclasses.is_dataclass(instance):
        raise TypeError(
            f"field_dict takes an instance of a dataclass, got {instance!r}."
        )
    return {
        field.name: getattr(instance, field.name)
        for field in dataclasses.fields(instance)
    }


def check_population(population: Any) -> type[HyperParameters]:
    """Checks the candidates that a user starts with.

    Args:
        population: as given.

    Returns:
        The class of their hyperparameters.

    Raises:
        TypeError: if it is no sequence of candidates with hyperparameters of one class.
        ValueError: if it is empty, or a value lies outside of its space.
    """
    if not isinstance(population, Sequence) or isinstance(population, str):
        raise TypeError(
            "initial_population must be a list of jepbt.Candidate, got "
            f"{type(population).__name__}: [Candidate(None, Hyper()) for _ in range(8)]"
        )
    if not population:
        raise ValueError(
            "initial_population is empty. Give at least one jepbt.Candidate; 8 or more "
            "make evolution worth its name."
        )
    for slot, candidate in enumerate(population):
        where = f"initial_population[{slot}]"
        if not isinstance(candidate, Candidate):
            raise TypeError(
                f"{where} must be a jepbt.Candidate, got {type(candidate).__name__}."
            )
        check_hparams(
            f"{where}.hparams", candidate.hparams, type(population[0].hparams)
        )
    return type(population[0].hparams)


def check_hparams(where: str, hparams: Any, hparams_type: type) -> None:
    """Checks one candidate's hyperparameters against their spaces.

    Args:
        where: names them in messages.
        hparams: one candidate's.
        hparams_type: the class of all candidates' hyperparameters.

    Raises:
        TypeError: for another class, or a value of the wrong type.
        ValueError: for a value outside of its space.

    Example:
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     width: int = jepbt.hparam(4, min=1, max=64)
        >>> check_hparams("hparams", Hyper(width=65), Hyper)
        Traceback (most recent call last):
            ...
        ValueError: hparams.width=65 lies outside its bounds [1, 64].
    """
    if not isinstance(hparams, HyperParameters):
        raise TypeError(
            f"{where} must be a dataclass that inherits from jepbt.HyperParameters, "
            f"got {hparams!r}."
        )
    if type(hparams) is not hparams_type:
        raise TypeError(
            f"{where} is a {type(hparams).__name__}, others are a "
            f"{hparams_type.__name__}: all candidates share one class."
        )
    for name, space in spaces(hparams_type).items():
        _check_value(f"{where}.{name}", space, getattr(hparams, name))


def encode_population(candidates: Sequence[Candidate]) -> HyperParameters:
    """Stacks hyperparameters into the arrays that strategies work on.

    Args:
        candidates: `P` of them, checked.

    Returns:
        Their class, with NumPy leaves `[P, ...]`.
    """
    rows = [encode(candidate.hparams) for candidate in candidates]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def decode_population(hparams: HyperParameters) -> list[HyperParameters]:
    """Turns arrays back into each candidate's Python values.

    Whole numbers become `int`, reals `float` with the fewest digits that give the same
    float32 back, categoricals the choice itself, losses `np.ndarray` of `f32[8]`.

    Args:
        hparams: with leaves `[P, ...]`.

    Returns:
        One instance for each of the `P` rows.
    """
    leaves, treedef = jax.tree.flatten(hparams)
    fields = spaces(type(hparams)).values()
    columns = [
        _python_column(space, np.asarray(leaf))
        for space, leaf in zip(fields, leaves, strict=True)
    ]
    rows = zip(*columns, strict=True)
    return [jax.tree.unflatten(treedef, list(row)) for row in rows]


def _rank(candidate: Candidate) -> tuple[bool, float]:
    fitness = candidate.fitness
    is_live = fitness is not None and not math.isnan(fitness)
    return (is_live, fitness if is_live else 0.0)


def _python_column(space: Space, column: np.ndarray) -> list[Any]:
    match space:
        case Categorical(choices=choices):
            return [choices[index] for index in column.tolist()]
        case TaylorLoss():
            return [row.copy() for row in column]
        case Real(min=low, max=high):
            shortest = column.astype(str).astype(np.float64)
            if low is not None or high is not None:
                shortest = np.clip(shortest, low, high)
            return shortest.tolist()
        case Integer():
            return column.tolist()


def _check_value(where: str, space: Space, value: Any) -> None:
    if isinstance(space, Categorical):
        if value not in space.choices:
            raise ValueError(f"{where}={value!r} must be one of {space.choices}.")
        return
    if isinstance(space, TaylorLoss):
        if np.shape(value) != (8,) or not np.isfinite(value).all():
            raise ValueError(
                f"{where}={value!r} must be 8 finite numbers, in the order y, y2, y3, "
                "xy, xy2, x2y, x0, y0."
            )
        return
    kind = numbers.Integral if isinstance(space, Integer) else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        noun = "a whole number" if kind is numbers.Integral else "a number"
        raise TypeError(f"{where}={value!r} must be {noun}.")
    low = -math.inf if space.min is None else space.min
    high = math.inf if space.max is None else space.max
    if not low <= value <= high or math.isinf(value):
        raise ValueError(
            f"{where}={value!r} lies outside its bounds [{space.min}, {space.max}]."
        )
