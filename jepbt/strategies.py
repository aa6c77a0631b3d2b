"""What happens between generations: EPBT, PBT, and a control that does nothing.

A strategy is two pure functions over arrays with a leading axis `P`. It sees
hyperparameters and fitness, never weights, devices or files.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jepbt import crossover as crossovers
from jepbt.hyperparameters import HyperParameters, sample_population
from jepbt.mutation import MutationFn, gaussian, perturb
from jepbt.selection import (
    SelectionFn,
    binary_tournament,
    is_elite,
    truncation,
)


class Evaluation(NamedTuple):
    """What a strategy learns of the population that has just trained.

    Attributes:
        fitness: `f32[P]` mean validation score, higher is better, `nan` if it failed.
        standard_error: `f32[P]` of that mean, over the validation examples.
    """

    fitness: jax.Array
    standard_error: jax.Array


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
    """

    init: Callable[[jax.Array, type, int, int], tuple[Any, HyperParameters]]
    step: Callable[..., tuple[Any, Plan]]


def epbt(
    *loop_arguments: Any,
    num_elites: int | None = None,
    select: SelectionFn = binary_tournament,
    mutate: MutationFn | None = None,
    crossover: crossovers.CrossoverFn | None = None,
) -> Strategy:
    """Builds Evolutionary Population-Based Training.

    Elites keep slot, weights and hyperparameters. Every other slot becomes the child of
    a tournament's winner: it inherits everything, mutates, and swaps hyperparameters
    with another child. This builds a strategy, for `train_population` as well as for
    `jepbt.epbt`: that loop of the same name takes an evaluation function instead.

    Args:
        *loop_arguments: none; what `jepbt.epbt` takes is refused by name.
        num_elites: how many survive unchanged; `None` for half of the population.
        select: `(key, fitness) -> parents`; a tournament of two by default.
        mutate: `(key, hparams) -> hparams`; `mutation.gaussian()` by default.
        crossover: `(key, hparams, is_child) -> hparams`; `crossover.uniform()` by
            default.

    Returns:
        A `Strategy`. Its `init` raises `ValueError` for more elites than members.

    Raises:
        TypeError: if `num_elites` is not a whole number, or something is passed by
            position.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from dataclasses import dataclass
        >>> import jepbt
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
    mutate = gaussian() if mutate is None else mutate
    crossover = crossovers.uniform() if crossover is None else crossover

    def count_elites(num_members):
        return max(1, num_members // 2) if num_elites is None else num_elites

    def init(key, hparams_type, num_members, num_generations):
        if not 1 <= count_elites(num_members) <= num_members:
            relation = "exceeds" if num_elites > num_members else "is too few for"
            raise ValueError(
                f"epbt: num_elites={num_elites} {relation} the population of "
                f"{num_members}. Choose a number from 1 to {num_members}."
            )
        return (), sample_population(key, hparams_type, num_members)

    def step(key, state, generation, hparams, evaluation):
        select_key, mutate_key, cross_key = jax.random.split(key, 3)
        slots = jnp.arange(evaluation.fitness.size)
        elites = is_elite(evaluation.fitness, count_elites(slots.size))
        parents = jnp.where(elites, slots, select(select_key, evaluation.fitness))
        children = mutate(mutate_key, take(hparams, parents))
        children = crossover(cross_key, children, ~elites)
        return state, Plan(
            parents, where(elites, hparams, children), {"elites": elites}
        )

    return Strategy(init, step)


def pbt(
    *,
    exploit: SelectionFn | None = None,
    explore: MutationFn | None = None,
    copy_hparams: bool = True,
) -> Strategy:
    """Builds Population-Based Training: the worst copy the best, then explore.

    Args:
        exploit: `(key, fitness) -> parents`; `selection.truncation(0.2)` by default.
        explore: `(key, hparams) -> hparams`, for the slots that copied;
            `mutation.perturb()` by default.
        copy_hparams: whether a slot that copies a member's state takes its
            hyperparameters too. The paper's toy problem does not.

    Returns:
        A `Strategy`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     learning_rate: float = jepbt.hparam(0.1, min=0.01, max=1.0, log=True)
        >>> strategy = pbt()
        >>> state, hparams = strategy.init(jax.random.key(0), Hyper, 5, 10)
        >>> fitness = jnp.array([0.1, 0.9, 0.3, 0.4, 0.5])
        >>> evaluation = Evaluation(fitness, jnp.zeros(5))
        >>> step_key = jax.random.key(1)
        >>> state, plan = strategy.step(step_key, state, 1, hparams, evaluation)
        >>> plan.parents.tolist()
        [1, 1, 2, 3, 4]

    Reference:
        Jaderberg et al., "Population Based Training of Neural Networks", 2017,
        https://arxiv.org/abs/1711.09846
    """
    exploit = truncation() if exploit is None else exploit
    explore = perturb() if explore is None else explore

    def init(key, hparams_type, num_members, num_generations):
        return (), sample_population(key, hparams_type, num_members)

    def step(key, state, generation, hparams, evaluation):
        exploit_key, explore_key = jax.random.split(key)
        parents = exploit(exploit_key, evaluation.fitness)
        stays = parents == jnp.arange(parents.size)
        copied = take(hparams, parents) if copy_hparams else hparams
        explored = explore(explore_key, copied)
        return state, Plan(parents, where(stays, hparams, explored), {})

    return Strategy(init, step)


def random_search() -> Strategy:
    """Builds the control without evolution: every member keeps its first draw.

    Returns:
        A `Strategy` whose members never meet; a failed member stays failed.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     learning_rate: float = jepbt.hparam(0.1, min=0.01, max=1.0, log=True)
        >>> state, hparams = random_search().init(jax.random.key(0), Hyper, 3, 10)
        >>> evaluation = Evaluation(jnp.array([0.1, 0.9, 0.3]), jnp.zeros(3))
        >>> _, plan = random_search().step(
        ...     jax.random.key(1), state, 1, hparams, evaluation
        ... )
        >>> plan.parents.tolist()
        [0, 1, 2]

    Reference:
        Bergstra & Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 2012.
    """

    def init(key, hparams_type, num_members, num_generations):
        return (), sample_population(key, hparams_type, num_members)

    def step(key, state, generation, hparams, evaluation):
        return state, Plan(jnp.arange(evaluation.fitness.size), hparams, {})

    return Strategy(init, step)


def take(tree: Any, parents: jax.Array) -> Any:
    """Gathers rows `parents` (`i32[P]`) of every leaf `[P, ...]`."""
    return jax.tree.map(lambda leaf: leaf[parents], tree)


def where(mask: jax.Array, chosen: Any, otherwise: Any) -> Any:
    """Picks each slot's row from one of two trees, by a mask `bool[P]`."""

    def pick(left, right):
        rows = jnp.reshape(mask, mask.shape + (1,) * (left.ndim - 1))
        return jnp.where(rows, left, right)

    return jax.tree.map(pick, chosen, otherwise)
