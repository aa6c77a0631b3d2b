"""Builds EPBT: elites stay, children inherit, mutate and swap hyperparameters."""

import jax
import jax.numpy as jnp

from jepbt.arguments import check_function, check_whole
from jepbt.hyperparameters import clip_all, sample_population
from jepbt.operators import (
    CrossoverFn,
    MutationFn,
    Pulsation,
    SelectionFn,
    binary_tournament,
    check_pulsation,
    gaussian,
    is_elite,
    novel_elites,
    uniform,
)
from jepbt.population import take, where
from jepbt.strategies.base import Plan, Strategy


def epbt(
    *,
    num_elites: int | None = None,
    select: SelectionFn = binary_tournament,
    mutate: MutationFn | None = None,
    crossover: CrossoverFn | None = None,
    novelty: Pulsation | None = None,
) -> Strategy:
    """Builds Evolutionary Population-Based Training.

    Elites keep slot, weights and hyperparameters. Every other slot becomes the child of
    a tournament's winner: it inherits everything, mutates, and swaps hyperparameters
    with another child. This builds a strategy, for `train_population` as well as for
    `jepbt.epbt`: that loop of the same name takes an evaluation function instead.

    Half of the population as elites, tournaments of two, and swapping with probability
    0.5 follow the paper. The docstrings of `operators.gaussian` and
    `operators.pulsation` tell which of their settings are our choice.

    Args:
        num_elites: the number of members that survive unchanged; `None` for half of the
            population.
        select: `(key, fitness) -> parents`; a tournament of two by default.
        mutate: `(key, hparams) -> hparams`; by default `operators.gaussian()`.
        crossover: `(key, hparams, is_child) -> hparams`; by default
            `operators.uniform()`.
        novelty: a `pulsation`, which chooses elites that differ once in a while; `None`
            for the fittest always.

    Raises:
        ValueError: if `num_elites` is not a whole number from 1 up, or, from `init`, if
            it exceeds the population.
        TypeError: if an operator is not a function of its arguments, or `novelty` was
            not made by `pulsation`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jepbt.strategies import Evaluation
        >>> from jepbt.tasks import RegressionHyperParameters as Hyper
        >>> strategy = epbt(num_elites=1)
        >>> state, hparams = strategy.init(jax.random.key(0), Hyper, 4, 10)
        >>> evaluation = Evaluation(jnp.array([0.1, 0.9, 0.3, jnp.nan]), jnp.zeros(4))
        >>> _, plan = strategy.step(jax.random.key(1), state, 1, hparams, evaluation)
        >>> plan.parents.tolist()[1], 3 in plan.parents.tolist()
        (1, False)

    Reference:
        Liang et al., "Regularized Evolutionary Population-Based Training", 2021,
        https://arxiv.org/abs/2002.04225
    """
    if num_elites is not None:
        check_whole("epbt", "num_elites", num_elites, 1)
    if novelty is not None and not isinstance(novelty, Pulsation):
        raise TypeError(
            "epbt: novelty must be made by jepbt.strategies.pulsation(...), got "
            f"{getattr(novelty, '__name__', type(novelty).__name__)}."
        )
    mutate = gaussian() if mutate is None else mutate
    crossover = uniform() if crossover is None else crossover
    check_function("epbt", "select", select, "key, fitness", "truncation(0.2)")
    check_function("epbt", "mutate", mutate, "key, hparams", "gaussian()")
    inputs = "key, hparams, is_child"
    check_function("epbt", "crossover", crossover, inputs, "uniform()")

    def count_elites(num_members):
        return max(1, num_members // 2) if num_elites is None else num_elites

    def init(key, hparams_type, num_members, num_generations):
        count = count_elites(num_members)
        if count > num_members:
            raise ValueError(
                f"epbt: num_elites={num_elites} exceeds the population of "
                f"{num_members}. Choose a number from 1 to {num_members}."
            )
        if novelty is not None:
            check_pulsation(novelty, hparams_type, count, num_members)
        return (), sample_population(key, hparams_type, num_members)

    def find_elites(generation, hparams, fitness, behaviour):
        count = count_elites(fitness.size)
        if novelty is None:
            return is_elite(fitness, count)
        return novel_elites(novelty, generation, hparams, fitness, behaviour, count)

    def step(key, state, generation, hparams, evaluation):
        select_key, mutate_key, cross_key = jax.random.split(key, 3)
        fitness = evaluation.fitness
        elites = find_elites(generation, hparams, fitness, evaluation.behaviour)
        slots = jnp.arange(fitness.size)
        parents = jnp.where(elites, slots, select(select_key, fitness))
        children = mutate(mutate_key, take(hparams, parents))
        children = clip_all(crossover(cross_key, children, ~elites))
        hparams = where(elites, hparams, children)
        return state, Plan(parents, hparams, {"elites": elites})

    return Strategy(init, step, None if novelty is None else novelty.behaviour)
