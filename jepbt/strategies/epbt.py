"""EPBT: elites stay, children inherit, mutate and swap hyperparameters."""

from __future__ import annotations

import numbers
from typing import Any

import jax
import jax.numpy as jnp

from jepbt.arguments import check_operator
from jepbt.hyperparameters import clip_all, sample_population
from jepbt.operators import (
    MutationFn,
    Pulsation,
    SelectionFn,
    binary_tournament,
    check_pulsation,
    gaussian,
    is_elite,
    novel_elites,
)
from jepbt.operators import crossover as crossovers
from jepbt.operators.placement import settle
from jepbt.population import take, where
from jepbt.strategies.base import Plan, Strategy


def epbt(
    *loop_arguments: Any,
    num_elites: int | None = None,
    select: SelectionFn = binary_tournament,
    mutate: MutationFn | None = None,
    crossover: crossovers.CrossoverFn | None = None,
    novelty: Pulsation | None = None,
) -> Strategy:
    """Builds Evolutionary Population-Based Training.

    Elites keep slot, weights and hyperparameters. Every other slot becomes the child of
    a tournament's winner: it inherits everything, mutates, and swaps hyperparameters
    with another child. This builds a strategy, for `train_population` as well as for
    `jepbt.epbt`: that loop of the same name takes an evaluation function instead.

    That half of the population are elites, tournaments of two, and swapping with
    probability 0.5 follow the paper. What a member does that is not told there is said
    by `mutation.gaussian` and `novelty.pulsation`; which child takes which slot, and so
    how little has to be copied, by `placement.settle`.

    Args:
        *loop_arguments: none; what `jepbt.epbt` takes is refused by name.
        num_elites: how many survive unchanged; `None` for half of the population.
        select: `(key, fitness) -> parents`; a tournament of two by default.
        mutate: `(key, hparams) -> hparams`; `mutation.gaussian()` by default.
        crossover: `(key, hparams, is_child) -> hparams`; `crossover.uniform()` by
            default.
        novelty: from `pulsation`: elites that differ, once in a while; `None` for the
            fittest always.

    Returns:
        A `Strategy`. Its `init` raises `ValueError` for more elites than members.

    Raises:
        TypeError: if `num_elites` is not a whole number, `novelty` is no `Pulsation`,
            or something is passed by position.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> from jepbt.strategies import Evaluation
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     learning_rate: float = jepbt.hparam(0.1, min=0.01, max=1.0, log=True)
        >>> strategy = epbt(num_elites=1)
        >>> state, hparams = strategy.init(jax.random.key(0), Hyper, 4, 10)
        >>> evaluation = Evaluation(jnp.array([0.1, 0.9, 0.3, jnp.nan]), jnp.zeros(4))
        >>> step_key = jax.random.key(1)
        >>> state, plan = strategy.step(step_key, state, 1, hparams, evaluation)
        >>> plan.parents.tolist()[1], 3 in plan.parents.tolist()
        (1, False)

    Reference:
        Liang et al., "Regularized Evolutionary Population-Based Training", 2021,
        https://arxiv.org/abs/2002.04225
    """
    if loop_arguments:
        raise TypeError(
            "jepbt.strategies.epbt builds a strategy and takes its settings by name; "
            "the loop over an evaluation function is jepbt.epbt(n_generations, "
            "initial_population, evaluation_function)."
        )
    if num_elites is not None and (
        isinstance(num_elites, bool) or not isinstance(num_elites, numbers.Integral)
    ):
        raise TypeError(f"epbt: num_elites={num_elites!r} must be a whole number.")
    if novelty is not None and not isinstance(novelty, Pulsation):
        raise TypeError(
            "epbt: novelty must be made by jepbt.strategies.pulsation(...), got "
            f"{getattr(novelty, '__name__', type(novelty).__name__)}."
        )
    mutate = gaussian() if mutate is None else mutate
    crossover = crossovers.uniform() if crossover is None else crossover
    check_operator("epbt", "select", select, "key, fitness", "truncation(0.2)")
    check_operator("epbt", "mutate", mutate, "key, hparams", "mutation.gaussian()")
    check_operator(
        "epbt", "crossover", crossover, "key, hparams, is_child", "crossover.uniform()"
    )

    def count_elites(num_members):
        return max(1, num_members // 2) if num_elites is None else num_elites

    def init(key, hparams_type, num_members, num_generations):
        if not 1 <= count_elites(num_members) <= num_members:
            relation = "exceeds" if num_elites > num_members else "is too few for"
            raise ValueError(
                f"epbt: num_elites={num_elites} {relation} the population of "
                f"{num_members}. Choose a number from 1 to {num_members}."
            )
        if novelty is not None:
            num_survivors = count_elites(num_members)
            check_pulsation(novelty, hparams_type, num_survivors, num_members)
        return (), sample_population(key, hparams_type, num_members)

    def find_elites(generation, hparams, evaluation):
        count = count_elites(evaluation.fitness.size)
        if novelty is None:
            return is_elite(evaluation.fitness, count)
        fitness, behaviour = evaluation.fitness, evaluation.behaviour
        return novel_elites(novelty, generation, hparams, fitness, behaviour, count)

    def step(key, state, generation, hparams, evaluation):
        select_key, mutate_key, cross_key = jax.random.split(key, 3)
        slots = jnp.arange(evaluation.fitness.size)
        elites = find_elites(generation, hparams, evaluation)
        parents = jnp.where(elites, slots, select(select_key, evaluation.fitness))
        children = mutate(mutate_key, take(hparams, parents))
        children = clip_all(crossover(cross_key, children, ~elites))
        order = settle(parents, ~elites)
        plan = Plan(
            parents[order],
            where(elites, hparams, take(children, order)),
            {"elites": elites},
        )
        return state, plan

    return Strategy(init, step, None if novelty is None else novelty.behaviour)
