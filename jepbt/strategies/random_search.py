"""Builds random search: the control that evolution has to beat."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jepbt.arguments import check_function, check_mapping
from jepbt.hyperparameters import (
    HyperParameters,
    Number,
    map_fields,
    sample_population,
    spaces,
)
from jepbt.population import where
from jepbt.strategies.base import Plan, Strategy

ScheduleFn = Callable[[jax.Array], jax.Array]
"""`(progress f32[] in [0, 1)) -> factor f32[]`."""


def random_search(*, schedules: Mapping[str, ScheduleFn] | None = None) -> Strategy:
    """Builds the control without evolution: every member keeps its first draw.

    Members never meet, and a failed member stays failed.

    Args:
        schedules: functions by the name of a field, each the factor of the first draw
            at each generation, as in `{"learning_rate": cosine_decay}`. Values change
            between generations only, and stay in the field's bounds. A member that
            starts from other values than its first draw, such as an earlier run's,
            keeps them during generation 0 and has those scaled. Schedules are our
            choice.

    Raises:
        ValueError: from `init`, if a schedule's field is not a number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jepbt.strategies import Evaluation
        >>> from jepbt.tasks import RegressionHyperParameters as Hyper
        >>> strategy = random_search(schedules={"learning_rate": cosine_decay})
        >>> state, hparams = strategy.init(jax.random.key(0), Hyper, 3, 10)
        >>> evaluation = Evaluation(jnp.array([0.1, 0.9, 0.3]), jnp.zeros(3))
        >>> _, plan = strategy.step(jax.random.key(1), state, 1, hparams, evaluation)
        >>> plan.parents.tolist()
        [0, 1, 2]

    Reference:
        Bergstra & Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 2012.
    """
    schedules = {} if schedules is None else schedules
    check_mapping("random_search", "schedules", schedules, "{'rate': cosine_decay}")
    for name, schedule in schedules.items():
        field = "random_search: schedules"
        check_function(field, name, schedule, "progress", "cosine_decay")

    def init(key, hparams_type, num_members, num_generations):
        fields = spaces(hparams_type)
        numbers = [name for name, s in fields.items() if isinstance(s, Number)]
        for name in schedules:
            if name not in numbers:
                raise ValueError(
                    f"random_search: schedules has {name!r}, which is no number of "
                    f"{hparams_type.__name__}. Choose among {', '.join(numbers)}."
                )
        drawn = sample_population(key, hparams_type, num_members)
        scheduled = _scheduled(schedules, drawn, jnp.float32(0))
        if not schedules:
            return (), scheduled
        has_begun = jnp.zeros(num_members, bool)
        return (drawn, has_begun, jnp.float32(num_generations)), scheduled

    def step(key, state, generation, hparams, evaluation):
        if schedules:
            drawn, has_begun, num_generations = state
            # A warm start may have replaced the first draw by its own values.
            first = _scheduled(schedules, drawn, jnp.float32(0))
            is_first = jax.tree.map(jnp.equal, hparams, first)
            begun = jax.tree.map(jnp.where, is_first, drawn, hparams)
            drawn = where(has_begun, drawn, begun)
            state = drawn, jnp.ones_like(has_begun), num_generations
            progress = jnp.float32(generation) / num_generations
            hparams = _scheduled(schedules, drawn, progress)
        return state, Plan(jnp.arange(evaluation.fitness.size), hparams, {})

    return Strategy(init, step, by_slot=(True, True, False) if schedules else True)


def cosine_decay(progress: jax.Array) -> jax.Array:
    """Falls from 1 at the start to 0 at the end, along half a cosine.

    It turns the share of a run that is over, `f32[]`, into a factor.

    Example:
        >>> [round(float(cosine_decay(p)), 3) for p in (0.0, 0.5, 1.0)]
        [1.0, 0.5, 0.0]
    """
    return 0.5 * (1 + jnp.cos(jnp.pi * progress))


def _scheduled(
    schedules: Mapping[str, ScheduleFn], drawn: HyperParameters, progress: jax.Array
) -> HyperParameters:
    def scale(name, space, leaf):
        schedule = schedules.get(name)
        return leaf if schedule is None else space.scale(leaf, schedule(progress))

    return map_fields(scale, drawn)
