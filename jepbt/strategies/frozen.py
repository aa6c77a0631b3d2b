"""Freezes hyperparameters for a while."""

from collections.abc import Mapping

import jax.numpy as jnp

from jepbt.arguments import check_mapping, is_whole
from jepbt.hyperparameters import map_fields, spaces
from jepbt.population import take, where
from jepbt.strategies.base import Strategy, check_strategy

_NEVER = 2**31 - 1  # later than any generation


def frozen(
    strategy: Strategy, fields: Mapping[str, tuple[int, int | None]]
) -> Strategy:
    """Wraps a strategy so that some hyperparameters rest during given generations.

    A frozen hyperparameter is still inherited with the weights, but neither explored
    nor crossed. A slot that starts afresh draws its own all the same. No paper
    prescribes this: all of it is our choice.

    Args:
        strategy: any strategy.
        fields: `(first, stop)` by the name of the field, which then does not change at
            the start of a generation `g` with `first <= g < stop`; a `stop` of `None`
            never thaws it. Evolution first happens at the start of generation 1.

    Raises:
        ValueError: if a pair is not a range of generations, or, from `init`, if a field
            does not exist.

    Example:
        The loss stays as it is during the first ten generations, the learning rate
        from then on:

        >>> from jepbt.strategies import pbt
        >>> strategy = frozen(pbt(), {"loss": (0, 10), "learning_rate": (10, None)})
        >>> type(strategy).__name__
        'Strategy'
    """
    check_strategy("frozen", strategy)
    check_mapping("frozen", "fields", fields, "{'rate': (0, 10)}")
    for name, pair in fields.items():
        first, stop = pair if isinstance(pair, tuple) and len(pair) == 2 else (-1, None)
        is_start = is_whole(first) and first >= 0
        if not is_start or not (stop is None or (is_whole(stop) and stop > first)):
            raise ValueError(
                f"frozen: {name}={pair!r} must be (first, stop), two generations with "
                "0 <= first < stop, or a stop of None."
            )

    def init(key, hparams_type, num_members, num_generations):
        names = spaces(hparams_type)
        for name in fields:
            if name not in names:
                raise ValueError(
                    f"frozen: {hparams_type.__name__} has no field {name!r}. Its "
                    f"fields are {', '.join(names)}."
                )
        return strategy.init(key, hparams_type, num_members, num_generations)

    def step(key, state, generation, hparams, evaluation):
        state, plan = strategy.step(key, state, generation, hparams, evaluation)
        inherited = take(hparams, plan.parents)
        stays = True if plan.fresh is None else ~plan.fresh

        def rest(name, _, new):
            first, stop = fields.get(name, (_NEVER, None))
            is_due = (first <= generation) & (generation < (stop or _NEVER))
            is_frozen = jnp.broadcast_to(stays & is_due, plan.parents.shape)
            return where(is_frozen, getattr(inherited, name), new)

        return state, plan._replace(hparams=map_fields(rest, plan.hparams))

    return strategy._replace(init=init, step=step)
