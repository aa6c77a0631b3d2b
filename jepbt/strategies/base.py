"""What a strategy is: two pure functions over arrays with a leading axis `P`.

A strategy sees hyperparameters and fitness, never weights, devices or files.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jepbt.hyperparameters import HyperParameters
from jepbt.operators import Behaviour


class Evaluation(NamedTuple):
    """What a strategy learns of the population that has just trained.

    Attributes:
        fitness: `f32[P]` mean validation score, higher is better, `nan` if it failed.
        standard_error: `f32[P]` of that mean, over the validation examples; `nan`
            where it is not known.
        behaviour: `f32[P, K]` what each member does, `nan` if it failed; `None` unless
            the strategy asks for it.
    """

    fitness: jax.Array
    standard_error: jax.Array
    behaviour: jax.Array | None = None


class Plan(NamedTuple):
    """What becomes of the population before it trains again.

    Attributes:
        parents: `i32[P]` whose state fills each slot; a slot that stays names itself.
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
        behaviour: what `Evaluation.behaviour` shall hold; `None` for nothing, which
            costs nothing.
        needs_standard_error: whether it reads `Evaluation.standard_error`, which an
            evaluation function of the host loop then has to return.
    """

    init: Callable[[jax.Array, type, int, int], tuple[Any, HyperParameters]]
    step: Callable[..., tuple[Any, Plan]]
    behaviour: Behaviour | None = None
    needs_standard_error: bool = False


def check_strategy(where: str, strategy: Any) -> None:
    """Raises a `TypeError` for what is no strategy, when a builder wraps one."""
    if not isinstance(strategy, Strategy):
        given = getattr(strategy, "__name__", repr(strategy))
        raise TypeError(
            f"{where}: strategy={given} must be a Strategy, such as "
            "jepbt.strategies.pbt(): called, and no name."
        )
