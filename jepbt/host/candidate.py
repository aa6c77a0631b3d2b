"""Defines a candidate: a model of any framework with its hyperparameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jepbt.hyperparameters import HyperParameters, encode, to_python
from jepbt.population import take


@dataclasses.dataclass(eq=False)
class Candidate:
    """A model, the hyperparameters that it trains with, and how good it is.

    Candidates order by fitness, so that `max(candidates)` is the best; `nan` and `None`
    rank last. Inherit from this class to let more than the model pass to the children
    (an epoch count, say): a child starts as a copy of its parent with new
    hyperparameters.

    Attributes:
        model: any object, such as a network with its optimizer, or the name of a file;
            `None` until the first evaluation.
        hparams: the user's `HyperParameters`, with Python values.
        fitness: a number, higher is better; `nan` or `None` of a candidate that failed
            or was not evaluated yet.
        standard_error: the standard error of the fitness over validation examples,
            given by name only. `strategies.significant` needs it, and the history
            keeps it.

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
    standard_error: float | None = dataclasses.field(
        default=math.nan, kw_only=True, repr=False
    )

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
        instance: an instance of any dataclass.

    Returns:
        Its fields by name, in their order.

    Raises:
        TypeError: for anything else.

    Example:
        >>> from jepbt.tasks import RegressionHyperParameters as Hyper
        >>> field_dict(Hyper())
        {'learning_rate': 0.003, 'weight_decay': 0.0001}
    """
    if isinstance(instance, type) or not dataclasses.is_dataclass(instance):
        raise TypeError(
            f"field_dict takes an instance of a dataclass, got {instance!r}."
        )
    return {
        field.name: getattr(instance, field.name)
        for field in dataclasses.fields(instance)
    }


def encode_population(candidates: Sequence[Candidate]) -> HyperParameters:
    """Stacks hyperparameters into arrays `[P, ...]`, which strategies work on."""
    rows = [encode(candidate.hparams) for candidate in candidates]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def decode_population(hparams: HyperParameters) -> list[HyperParameters]:
    """Turns arrays `[P, ...]` back into Python values, one instance for each row."""
    hparams = jax.device_get(hparams)
    num_members = len(jax.tree.leaves(hparams)[0])
    return [to_python(take(hparams, slot)) for slot in range(num_members)]


def _rank(candidate: Candidate) -> tuple[bool, float]:
    fitness = candidate.fitness
    is_live = fitness is not None and not math.isnan(fitness)
    return (is_live, fitness if is_live else 0.0)
