"""Defines a strategy: two pure functions over arrays with a leading axis `P`.

A strategy sees hyperparameters and fitness, never weights, devices or files.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jepbt.hyperparameters import HyperParameters
from jepbt.operators import Behaviour


class Evaluation(NamedTuple):
    """The results of the population that has just trained.

    Attributes:
        fitness: `f32[P]` mean validation score, higher is better, `nan` if it failed.
        standard_error: `f32[P]` standard error of that mean over the validation
            examples; `nan` where it is not known.
        behaviour: `f32[P, K]` each member's behaviour, `nan` if it failed; `None`
            unless the strategy asks for it.
    """

    fitness: jax.Array
    standard_error: jax.Array
    behaviour: jax.Array | None = None


class Plan(NamedTuple):
    """The next population: who is copied where, with which hyperparameters.

    Attributes:
        parents: `i32[P]`, the member whose state fills each slot; a slot that stays
            names itself.
        hparams: the new hyperparameters, leaves `[P, ...]`.
        info: arrays for the history, such as `{"elites": bool[P]}`.
        fresh: `bool[P]` slots that start over with `task.init`; `None` for never.
    """

    parents: jax.Array
    hparams: HyperParameters
    info: dict[str, jax.Array]
    fresh: jax.Array | None = None


class Strategy(NamedTuple):
    """Two pure functions that evolve a population.

    Attributes:
        init: `(key, hparams_type, num_members, num_generations) -> (state, hparams)`.
        step: `(key, state, generation i32[], hparams, Evaluation) -> (state, Plan)`.
        behaviour: the measurement that `Evaluation.behaviour` shall hold; `None` for
            none, which costs nothing.
        needs_standard_error: `True` if it reads `Evaluation.standard_error`, which an
            evaluation function of the host loop then has to return.
        by_slot: `True` if every array of the state has a row for each slot, which the
            asynchronous host loop replaces alone; `False` if slots share the arrays; a
            tree of both if parts of the state differ.
    """

    init: Callable[[jax.Array, type, int, int], tuple[Any, HyperParameters]]
    step: Callable[..., tuple[Any, Plan]]
    behaviour: Behaviour | None = None
    needs_standard_error: bool = False
    by_slot: Any = True


def check_strategy(where: str, strategy: Any) -> None:
    """Raises a `TypeError` if a builder was given anything but a strategy to wrap."""
    if not isinstance(strategy, Strategy):
        given = getattr(strategy, "__name__", repr(strategy))
        raise TypeError(
            f"{where}: strategy={given} must be a Strategy, such as "
            "jepbt.strategies.pbt(): called, and not a name."
        )
