"""Builds MF-PBT: sub-populations that evolve at different frequencies."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jepbt.arguments import check_each, check_function, is_whole
from jepbt.hyperparameters import clip_all, sample_population
from jepbt.operators import MutationFn, best_first, perturb
from jepbt.population import take, where
from jepbt.strategies.base import Plan, Strategy


def mf_pbt(
    *,
    intervals: Sequence[int] = (1, 10, 25, 50),
    explore: MutationFn | None = None,
) -> Strategy:
    """Builds PBT with several frequencies, against its greed.

    The population is cut into as many groups of neighbouring slots as there are
    `intervals`; the first ones are larger by one if it does not divide. A group evolves
    in the generations that its interval divides. Its members are ranked into quarters:
    the last quarter copies members of the first and explores; the third takes the
    weights of a fitter member of another group, and its hyperparameters only if that
    group evolves more slowly. All else stays.

    Sub-populations at 1, 10, 25 and 50 times the shortest interval, the quarters, and
    the rule for a migrant's hyperparameters follow the paper as we know it. Our choice:
    a migrant is a random one among the fitter members of other groups; what it brings
    is explored, or two migrants from one member would be twins; a quarter is rounded
    down, but is at least one member of two or more; and a failed member copies at once,
    from its group or else from any.

    Args:
        intervals: the groups' intervals in generations, ascending.
        explore: `(key, hparams [P]) -> hparams [P]`, for the slots that took over
            hyperparameters; `operators.perturb()` by default.

    Raises:
        ValueError: if the intervals are not whole, positive and ascending, or, from
            `init`, if there are more of them than members.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jepbt.strategies import Evaluation
        >>> from jepbt.tasks import RegressionHyperParameters as Hyper
        >>> strategy = mf_pbt(intervals=(1, 2))
        >>> state, hparams = strategy.init(jax.random.key(0), Hyper, 8, 10)
        >>> fitness = jnp.array([0.4, 0.3, 0.2, 0.1, 0.04, 0.03, 0.02, 0.01])
        >>> evaluation = Evaluation(fitness, jnp.zeros(8))
        >>> _, plan = strategy.step(jax.random.key(1), state, 1, hparams, evaluation)
        >>> plan.parents.tolist()  # nobody outside is fitter than slot 2
        [0, 1, 2, 0, 4, 5, 6, 7]

    Reference:
        Multiple-frequencies population-based training, 2025,
        https://arxiv.org/abs/2506.03225
    """
    allowed = "whole numbers from 1 up, each greater than the one before"
    intervals = check_each("mf_pbt", "intervals", intervals, allowed)
    is_count = all(is_whole(n) and n >= 1 for n in intervals)
    if not is_count or list(intervals) != sorted(set(intervals)):
        raise ValueError(f"mf_pbt: intervals={intervals} must be {allowed}.")
    explore = perturb() if explore is None else explore
    check_function("mf_pbt", "explore", explore, "key, hparams", "perturb()")

    def init(key, hparams_type, num_members, num_generations):
        if num_members < len(intervals):
            raise ValueError(
                f"mf_pbt: {len(intervals)} intervals need at least as many members, "
                f"got a population of {num_members}. Choose fewer intervals."
            )
        return (), sample_population(key, hparams_type, num_members)

    def step(key, state, generation, hparams, evaluation):
        copy_key, migrate_key, explore_key = jax.random.split(key, 3)
        fitness = evaluation.fitness
        slots = jnp.arange(fitness.size)
        group = jnp.sort(slots % len(intervals))
        is_live = ~jnp.isnan(fitness)
        ranks = jnp.argsort(best_first(fitness))
        near = group[:, None] == group[None]
        place = jnp.sum(near & (ranks[None] < ranks[:, None]), 1)  # rank in the group
        size = jnp.sum(near, 1)
        quarter = jnp.where(size > 1, jnp.maximum(size // 4, 1), 0)
        is_due = generation % jnp.array(intervals)[group] == 0
        is_top = near & (place < quarter)[None] & is_live[None]
        # A failed member takes from its group's best, or from whoever lives.
        is_top = jnp.where(is_top.any(1, keepdims=True), is_top, is_live[None])
        copies = (is_due & (place >= size - quarter)) | ~is_live
        copies &= is_top.any(1) & ~((place < quarter) & is_live)
        donors = _draw(copy_key, is_top)
        is_third = is_due & ~copies & (place >= size - 2 * quarter) & (place >= quarter)
        outsiders = ~near & is_live[None] & (fitness[None] > fitness[:, None])
        migrates = is_third & outsiders.any(1)
        migrants = _draw(migrate_key, outsiders)
        parents = jnp.where(copies, donors, jnp.where(migrates, migrants, slots))
        brings = migrates & (group[parents] > group)
        inherited = where(copies | brings, take(hparams, parents), hparams)
        explored = clip_all(explore(explore_key, inherited))
        hparams = where(copies | brings, explored, hparams)
        return state, Plan(parents, hparams, {"migrates": migrates})

    return Strategy(init, step)


def _draw(key: jax.Array, allowed: jax.Array) -> jax.Array:
    """Draws one of the allowed columns for each row; any column if none is allowed."""
    scores = jax.random.uniform(key, allowed.shape, jnp.float32)
    return jnp.argmax(jnp.where(allowed, scores, -1.0), 1).astype(jnp.int32)
