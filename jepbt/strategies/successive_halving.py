"""Builds successive halving: the worst stop, the rest train on."""

import jax.numpy as jnp

from jepbt.arguments import check_whole
from jepbt.hyperparameters import sample_population, sample_prior
from jepbt.population import where
from jepbt.strategies.base import Plan, Strategy


def successive_halving(*, first_rung: int = 1, factor: int = 2) -> Strategy:
    """Builds the control that stops the worse ones early, again and again.

    Slots that start together are a cohort. At the ages `first_rung`, `first_rung *
    factor`, `first_rung * factor²`, ... generations a cohort keeps the fittest of its
    members, one in `factor` and at least one, and the others stop. Hyperparameters
    never change while a member trains.

    The size of a population is fixed, so a slot that stops starts afresh with new
    hyperparameters, in a new cohort: every slot works in every generation, and a run
    costs exactly what one of any other strategy costs. The halving within a cohort
    follows the paper; giving the freed budget to new cohorts, within one run, is our
    choice. Cohorts that start too late to be finished are part of the cost.

    Args:
        first_rung: the age at which a cohort is halved first.
        factor: the divisor of a cohort's size; 2 halves.

    Raises:
        ValueError: if `first_rung` is below 1 or `factor` below 2.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jepbt.strategies import Evaluation
        >>> from jepbt.tasks import RegressionHyperParameters as Hyper
        >>> strategy = successive_halving()
        >>> state, hparams = strategy.init(jax.random.key(0), Hyper, 4, 10)
        >>> evaluation = Evaluation(jnp.array([0.1, 0.9, 0.3, 0.2]), jnp.zeros(4))
        >>> _, plan = strategy.step(jax.random.key(1), state, 1, hparams, evaluation)
        >>> plan.fresh.tolist()
        [True, False, False, True]

    Reference:
        Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
        Optimization", 2015, https://arxiv.org/abs/1502.07943
    """
    check_whole("successive_halving", "first_rung", first_rung, 1)
    check_whole("successive_halving", "factor", factor, 2)
    rungs = [first_rung]
    while rungs[-1] < 2**31 // factor:
        rungs.append(rungs[-1] * factor)

    def init(key, hparams_type, num_members, num_generations):
        born = jnp.zeros(num_members, jnp.int32)
        return born, sample_population(key, hparams_type, num_members)

    def step(key, born, generation, hparams, evaluation):
        fitness = evaluation.fitness
        slots = jnp.arange(fitness.size)
        age = generation - born
        at_rung = (age[:, None] == jnp.array(rungs)[None]).any(1)
        # Row i marks the members of its cohort that rank before i; equals by slot.
        cohort = born[:, None] == born[None]
        fitter = fitness[None] > fitness[:, None]
        before = (fitness[None] == fitness[:, None]) & (slots[None] < slots[:, None])
        rank = jnp.sum(cohort & (fitter | before), 1)
        num_kept = jnp.maximum(jnp.sum(cohort, 1) // factor, 1)
        stops = (at_rung & (rank >= num_kept)) | jnp.isnan(fitness)
        drawn = sample_prior(key, type(hparams), fitness.size)
        info = {"age": jnp.where(stops, 0, age)}
        plan = Plan(slots, where(stops, drawn, hparams), info, stops)
        return jnp.where(stops, generation, born), plan

    return Strategy(init, step)
