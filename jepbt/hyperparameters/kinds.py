"""Lists the kinds of hyperparameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jepbt.hyperparameters.base import Space
from jepbt.hyperparameters.categorical import Categorical
from jepbt.hyperparameters.numeric import Integer, Real, Vector
from jepbt.hyperparameters.taylor import TaylorLoss

KINDS = {
    kind.__name__: kind for kind in (Real, Integer, Vector, Categorical, TaylorLoss)
}


def read_space(fields: Mapping[str, Any]) -> Space:
    """Reads a space again from what its `describe` wrote as JSON.

    Example:
        >>> read_space({"kind": "Categorical", "default": "a", "choices": ["a", "b"]})
        Categorical(default='a', choices=('a', 'b'), ordered=False)
    """
    kind = KINDS[fields["kind"]]
    known = [field.name for field in dataclasses.fields(kind)]
    values = {name: fields[name] for name in known if name in fields}
    for name in ("choices", "default"):  # JSON has no tuples
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    return kind(**values)


def losses_in(spaces: Mapping[str, Space]) -> list[str]:
    """Names the hyperparameters that are evolving losses.

    Example:
        >>> losses_in({"rate": Real(0.5, 0.0, 1.0, False)})
        []
    """
    return [name for name, space in spaces.items() if isinstance(space, TaylorLoss)]
