"""What the host loop evolves: a model of any framework with its hyperparameters."""

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

    Candidates order by fitness, so that `max(candidates)` is the best; a fitness of
    `nan` or `None`, not yet evaluated or failed, ranks last. Inherit from it to let
    more than the model pass to the children (an epoch count, say): a child starts as a
    copy of its parent with new hyperparameters.

    Attributes:
        model: anything: a network with its optimizer, weights, a file's name; `None`
            until the first evaluation.
        hparams: the user's `HyperParameters`, with Python values.
        fitness: a number, higher is better.
        standard_error: of the fitness, over validation examples; by name only. Only
            `strategies.significant` needs it, the history keeps it.

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
    float32 back (on a bound, the bound), vectors a tuple of those, categoricals the
    choice itself, losses `np.ndarray` of `f32[8]`.

    Args:
        hparams: with leaves `[P, ...]`.

    Returns:
        One instance for each of the `P` rows.
    """
    hparams = jax.device_get(hparams)
    num_members = len(jax.tree.leaves(hparams)[0])
    return [to_python(take(hparams, slot)) for slot in range(num_members)]


def _rank(candidate: Candidate) -> tuple[bool, float]:
    fitness = candidate.fitness
    is_live = fitness is not None and not math.isnan(fitness)
    return (is_live, fitness if is_live else 0.0)
