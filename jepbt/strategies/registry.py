"""Finds strategies by name."""

import difflib
import functools

from jepbt.strategies.base import Strategy
from jepbt.strategies.epbt import epbt
from jepbt.strategies.mf_pbt import mf_pbt
from jepbt.strategies.pb2 import pb2
from jepbt.strategies.pbt import pbt
from jepbt.strategies.random_search import random_search
from jepbt.strategies.successive_halving import successive_halving

_BUILDERS = (epbt, pbt, pb2, mf_pbt, random_search, successive_halving)
_NAMED = {builder.__name__: builder for builder in _BUILDERS}

STRATEGY_NAMES = tuple(_NAMED)
"""The names that `strategy="..."` takes."""


def resolve_strategy(strategy: str | Strategy) -> Strategy:
    """Finds a strategy by its name, such as "epbt", or takes one as it is."""
    if isinstance(strategy, Strategy):
        return strategy
    names = ", ".join(map(repr, _NAMED))
    if isinstance(strategy, str):
        if strategy in _NAMED:
            return _build(strategy)
        close = difflib.get_close_matches(strategy.lower(), _NAMED, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"strategy={strategy!r} is none of {names}.{hint} For settings pass one, "
            "as in strategy=jepbt.strategies.epbt(num_elites=4)."
        )
    hint = " Call it: a builder is no strategy yet." if callable(strategy) else ""
    if getattr(strategy, "__name__", None) == "epbt" and strategy is not epbt:
        hint = (
            " jepbt.epbt is the loop over an evaluation function; the strategy of that "
            "name is strategy='epbt', or jepbt.strategies.epbt() with settings."
        )
    raise TypeError(
        f"strategy must be one of {names} or a jepbt.strategies.Strategy, got "
        f"{getattr(strategy, '__name__', type(strategy).__name__)}.{hint}"
    )


@functools.cache
def _build(name: str) -> Strategy:
    """Builds each strategy once, so that its compiled programs are used again."""
    return _NAMED[name]()
