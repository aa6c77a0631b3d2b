"""Starts a run from the weights, or from the population, of an earlier one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jepbt.arguments import if_defined_twice
from jepbt.engine import RunState
from jepbt.engine.checks import first_difference
from jepbt.engine.member import TracedMember
from jepbt.population import PyTree, take
from jepbt.training.result import Result


def warm_start(
    initial: Any, member: TracedMember, num_members: int
) -> tuple[Callable[[RunState], RunState], PyTree]:
    """Checks the weights or members to start from, and makes what puts them in place.

    One set of weights goes to every member: hyperparameters, optimizer state and all
    else start as in any run. A `Result` hands over its last population's live members,
    the fittest first, with all they have. In a larger population they repeat: the
    first copy of each keeps its hyperparameters, the others, which would be twins, take
    what the new run drew for their slots.

    All they have includes the optimizer's state: a schedule of optax that counts steps
    goes on where the earlier run stopped, and stays at its end if it had ended. To
    start it over, start from weights. `random_search(schedules=...)` starts over, from
    the hyperparameters that were handed over.

    Args:
        initial: a pytree like the `params` of the task's state, a `Result`, or `None`.
        member: one member of the new run, traced.
        num_members: the new run's population size.

    Returns:
        `start(state) -> state`, for the state that a run begins with, and the host
        arrays that the new run depends on.
    """
    if initial is None:
        return lambda state: state, None
    if isinstance(initial, Result):
        return _from_population(initial, member, num_members)
    if not hasattr(member.state, "params"):
        raise ValueError(
            f"initial: the task's state is a {type(member.state).__name__} without "
            "`params`, so weights have no place in it. Start from a Result instead."
        )
    weights = jax.tree.map(np.asarray, initial)
    _check_same("params", weights, member.state.params)

    def start(state):
        def fill(old, new):
            return _place(np.broadcast_to(new, old.shape), old)

        learner = state.population.state
        params = jax.tree.map(fill, learner.params, weights)
        learner = dataclasses.replace(learner, params=params)
        population = dataclasses.replace(state.population, state=learner)
        return dataclasses.replace(state, population=population)

    return start, weights


def _from_population(
    result: Result, member: TracedMember, num_members: int
) -> tuple[Callable[[RunState], RunState], PyTree]:
    earlier = jax.device_get(result.population)
    before, now = type(earlier.hparams), type(member.hparams)
    if before is not now:
        raise ValueError(
            f"initial: the earlier run evolved {before.__name__}, this task "
            f"{now.__name__}.{if_defined_twice(before, now)} Use the same class "
            "(jepbt.load(run_dir, task) gives a result the task's own), or start from "
            "weights: initial=result.best.params."
        )
    _check_same("state", take(earlier.state, 0), member.state)
    live = np.flatnonzero(~np.isnan(earlier.fitness))
    if not live.size:
        raise ValueError(
            "initial: no member of the earlier run's last population lives. Start from "
            "its best weights: initial=result.best.params."
        )
    order = live[np.argsort(-earlier.fitness[live], kind="stable")]
    slots = np.arange(num_members)
    source = order[slots % order.size]
    is_first = slots < order.size

    def start(state):
        def fill(old, new):
            return _place(new[source], old)

        def fill_first(old, new):
            mask = is_first.reshape((-1,) + (1,) * (new.ndim - 1))
            return _place(np.where(mask, new[source], jax.device_get(old)), old)

        population = dataclasses.replace(
            state.population,
            state=jax.tree.map(fill, state.population.state, earlier.state),
            hparams=jax.tree.map(fill_first, state.population.hparams, earlier.hparams),
        )
        return dataclasses.replace(state, population=population)

    return start, earlier


def _place(array: np.ndarray, like: jax.Array) -> jax.Array:
    """Puts an array where another one lies, on the devices of this process."""
    return jax.make_array_from_callback(
        like.shape, like.sharding, lambda index: array[index]
    )


def _check_same(what: str, given: PyTree, wanted: PyTree) -> None:
    difference = first_difference(given, wanted)
    if difference is not None:
        path, got, want = difference
        raise ValueError(
            f"initial does not fit the task's {what}: leaf {path} is {got} where "
            f"{want} is needed. Give what the same model made."
        )
