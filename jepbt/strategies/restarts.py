"""Builds iterated PBT: start over with a longer interval when nothing gets better."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jepbt.arguments import check_whole
from jepbt.hyperparameters import sample_prior
from jepbt.strategies.base import Plan, Strategy, check_strategy


class _Round(NamedTuple):
    """The state of one round of evolutions, all but the first two `[]`."""

    strategy: Any  # the wrapped strategy's state
    forgotten: Any  # the same at the start
    interval: jax.Array  # generations between evolutions
    waited: jax.Array  # generations since the last evolution
    stagnant: jax.Array  # evaluations without a new best
    best: jax.Array  # the best fitness of this round


def restarts(strategy: Strategy, *, interval: int = 1, patience: int = 3) -> Strategy:
    """Wraps a strategy: it evolves at intervals that double with every restart.

    The strategy acts every `interval` generations. When `patience` of its evaluations
    in a row bring no best fitness of this round, the whole population restarts with
    hyperparameters drawn anew, the interval doubles, and the strategy forgets. The task
    decides about the weights: new ones, or shrunken and perturbed old ones with
    `shrink_and_perturb`. The best member ever stays the run's result.

    Restarts on stagnation, the doubling, and new hyperparameters follow the paper. Our
    choice: stagnation is counted in evaluations without a new best, the interval is a
    number of generations, and failed members wait for the next evolution.

    Args:
        strategy: any strategy, such as `pbt()`.
        interval: the generations between two evolutions, in the first round.
        patience: the evaluations without a new best before a restart.

    Raises:
        ValueError: if `interval` or `patience` is below 1.

    Example:
        >>> from jepbt.strategies import pbt
        >>> type(restarts(pbt(), interval=2)).__name__
        'Strategy'

    Reference:
        Iterated population based training, 2025, https://arxiv.org/abs/2511.09190
    """
    check_whole("restarts", "interval", interval, 1)
    check_whole("restarts", "patience", patience, 1)
    check_strategy("restarts", strategy)

    def begin(key, hparams_type, num_members, num_generations):
        state, hparams = strategy.init(key, hparams_type, num_members, num_generations)
        counts = jnp.int32(interval), jnp.int32(0), jnp.int32(0)
        return _Round(state, state, *counts, jnp.float32(-jnp.inf)), hparams

    def step(key, now, generation, hparams, evaluation):
        inner_key, draw_key = jax.random.split(key)
        fitness = evaluation.fitness
        slots = jnp.arange(fitness.size)
        is_due = now.waited + 1 >= now.interval
        top = jnp.max(jnp.where(jnp.isnan(fitness), -jnp.inf, fitness))
        stagnant = jnp.where(top > now.best, 0, now.stagnant + 1)
        restart = is_due & (stagnant >= patience)
        state, plan = strategy.step(
            inner_key, now.strategy, generation, hparams, evaluation
        )
        drawn = sample_prior(draw_key, type(hparams), fitness.size)

        def choose(new, evolved, waiting):
            return jax.tree.map(
                lambda a, b, c: jnp.where(restart, a, jnp.where(is_due, b, c)),
                new,
                evolved,
                waiting,
            )

        never = jnp.zeros(fitness.size, bool)
        plan = Plan(
            choose(slots, plan.parents, slots),
            choose(drawn, plan.hparams, hparams),
            {"restarts": jnp.broadcast_to(restart, slots.shape)},
            choose(~never, never if plan.fresh is None else plan.fresh, never),
        )
        following = _Round(
            strategy=choose(now.forgotten, state, now.strategy),
            forgotten=now.forgotten,
            interval=jnp.where(restart, now.interval * 2, now.interval),
            waited=jnp.where(is_due, 0, now.waited + 1),
            # Between evolutions nothing is judged.
            stagnant=choose(0, stagnant, now.stagnant),
            best=choose(-jnp.inf, jnp.maximum(top, now.best), now.best),
        )
        return following, plan

    inner = strategy.by_slot
    by_slot = _Round(inner, inner, False, False, False, False)
    return strategy._replace(init=begin, step=step, by_slot=by_slot)
