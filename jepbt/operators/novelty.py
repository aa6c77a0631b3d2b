"""Survivors that differ: novelty selection, in pulses between those of fitness."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jepbt.arguments import check_real, check_whole
from jepbt.hyperparameters import HyperParameters, TaylorLoss, spaces
from jepbt.losses import taylorglo
from jepbt.operators.selection import best_first, is_elite


class Behaviour(NamedTuple):
    """What a strategy wants to know of its members beside their fitness.

    Attributes:
        metric: "scores": their first validation scores, for a classification which
            examples they get right; "task": what the task's `behaviour` returns, for a
            classification the predicted probabilities.
        num_examples: on how many validation examples, always the first ones; a smaller
            split gives all it has.
    """

    metric: str
    num_examples: int


_METRICS = {
    "correctness": "scores",
    "probabilities": "task",
    "loss": None,
}


class Pulsation(NamedTuple):
    """When survivors are chosen for novelty, among whom, and how they are compared.

    Attributes:
        period: in generations.
        pool: how many times the survivors the pool holds.
        metric: "correctness", "probabilities" or "loss".
        behaviour: what the engine has to measure for it.
    """

    period: int
    pool: float
    metric: str
    behaviour: Behaviour | None


def pulsation(
    *,
    period: int = 5,
    pool: float = 1.5,
    metric: str = "correctness",
    num_examples: int = 400,
) -> Pulsation:
    """Builds novelty pulsation for `epbt(novelty=...)`.

    In every generation that `period` divides, elites are chosen by `spread_out` among
    the fittest; in all others by fitness alone. The selection follows the authors'
    published code. `period`, `pool`, and that correctness on 400 validation examples is
    the behaviour, are our choice: EPBT's settings are not published where we could
    read them.

    Args:
        period: 1 for always.
        pool: the pool holds `round(num_elites * pool)` members, at most all.
        metric: "correctness", which of the examples a member gets right;
            "probabilities", what it predicts for them; "loss", the effective
            coefficients of its evolved loss, which costs no evaluation.
        num_examples: how many validation examples, the first ones.

    Returns:
        A `Pulsation`.

    Raises:
        ValueError: names the setting, its value and what is allowed.

    Example:
        >>> pulsation(metric="loss").behaviour is None
        True

    Reference:
        Liang et al., 2021, https://arxiv.org/abs/2002.04225
    """
    for name, value in {"period": period, "num_examples": num_examples}.items():
        check_whole("pulsation", name, value, 1)
    check_real("pulsation", "pool", pool, 1)
    if metric not in _METRICS:
        raise ValueError(
            f"pulsation: metric={metric!r} must be one of "
            f"{', '.join(map(repr, _METRICS))}."
        )
    measured = _METRICS[metric]
    behaviour = None if measured is None else Behaviour(measured, num_examples)
    return Pulsation(period, pool, metric, behaviour)


def check_pulsation(
    pulsation: Pulsation,
    hparams_type: type[HyperParameters],
    num_elites: int,
    num_members: int,
) -> None:
    """Refuses a pool larger than the population, and a metric without its field.

    Args:
        pulsation: the settings.
        hparams_type: the user's class.
        num_elites: how many survive.
        num_members: `P`.

    Raises:
        ValueError: says what to change.
    """
    size = pool_size(pulsation, num_elites)
    if size > num_members:
        raise ValueError(
            f"pulsation: pool={pulsation.pool} times num_elites={num_elites} makes a "
            f"pool of {size}, more than the population of {num_members}. At most "
            f"pool={num_members / num_elites:.3g} fits; or choose fewer elites."
        )
    has_loss = any(isinstance(s, TaylorLoss) for s in spaces(hparams_type).values())
    if pulsation.metric == "loss" and not has_loss:
        raise ValueError(
            f"pulsation: metric='loss' compares evolved losses, but "
            f"{hparams_type.__name__} has no field made by jepbt.taylor_hparam. Add "
            "one, or use metric='correctness'."
        )


def pool_size(pulsation: Pulsation, num_elites: int) -> int:
    """Counts the members that compete for novelty."""
    return round(num_elites * pulsation.pool)


def novel_elites(
    pulsation: Pulsation,
    generation: jax.Array,
    hparams: HyperParameters,
    fitness: jax.Array,
    behaviour: jax.Array | None,
    num_elites: int,
) -> jax.Array:
    """Marks the survivors of one generation: by novelty in a pulse, else by fitness.

    Args:
        pulsation: the settings.
        generation: `i32[]`.
        hparams: leaves `[P, ...]`.
        fitness: `f32[P]`.
        behaviour: `f32[P, K]`; may be `None` if the metric is "loss".
        num_elites: how many survive.

    Returns:
        `bool[P]`.

    Raises:
        ValueError: if there is no behaviour.
    """
    if pulsation.metric == "loss":
        behaviour = _effective_losses(hparams)
    elif behaviour is None:
        raise ValueError(
            f"pulsation: metric={pulsation.metric!r} needs Evaluation.behaviour, and "
            "this evaluation has none. metric='loss' needs no evaluation."
        )
    return jax.lax.cond(
        generation % pulsation.period == 0,
        lambda: spread_out(
            fitness, behaviour, num_elites, pool_size(pulsation, num_elites)
        ),
        lambda: is_elite(fitness, num_elites),
    )


def spread_out(
    fitness: jax.Array, behaviour: jax.Array, num_survivors: int, pool_size: int
) -> jax.Array:
    """Chooses survivors that behave differently among the fittest.

    The fittest always survives. The others of the pool are sorted by their summed
    distance to the pool, and the first of them fill the remaining places. Then each one
    left over is put beside them in turn, the closest two of that group are found, and
    the one with the smaller sum leaves. Which of equals leaves is our choice (the later
    one), and so is that the fittest takes no part in the comparison.

    Args:
        fitness: `f32[P]`.
        behaviour: `f32[P, K]`; a distance that is `nan` counts as 0.
        num_survivors: how many, from 1.
        pool_size: how many of the fittest compete, at most `P`.

    Returns:
        `bool[P]`; fewer are marked if fewer live.

    Example:
        The two fittest do the same; the third does not, and takes the second's place:

        >>> import jax.numpy as jnp
        >>> behaviour = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> spread_out(jnp.array([0.9, 0.8, 0.7]), behaviour, 2, 3).tolist()
        [True, False, True]
    """
    is_live = ~jnp.isnan(fitness)
    order = best_first(fitness)[:pool_size]
    points = jnp.where(is_live[:, None], behaviour, jnp.nan)[order]
    between = points[:, None] - points[None]
    distance = jnp.nan_to_num(jnp.sqrt(jnp.sum(between**2, -1)), nan=0.0)
    sums = distance.sum(1)
    by_novelty = 1 + jnp.argsort(-sums[1:], stable=True)  # the fittest is place 0
    chosen, left = by_novelty[: num_survivors - 1], by_novelty[num_survivors - 1 :]
    size = chosen.size + 1
    # Each pair once: places on and below the diagonal are never the closest.
    is_pair = jnp.triu(jnp.ones((size, size), bool), 1)

    def challenge(chosen, newcomer):
        group = jnp.append(chosen, newcomer)
        among = jnp.where(is_pair, distance[group[:, None], group[None]], jnp.inf)
        first, second = jnp.divmod(jnp.argmin(among), size)
        leaves = jnp.where(sums[group[first]] < sums[group[second]], first, second)
        return group.at[leaves].set(newcomer)[:-1], None

    if chosen.size and left.size:
        chosen, _ = jax.lax.scan(challenge, chosen, left)
    survives = jnp.zeros(fitness.shape, bool)
    survives = survives.at[order[0]].set(True).at[order[chosen]].set(True)
    return survives & is_live


def _effective_losses(hparams: HyperParameters) -> jax.Array:
    fields = spaces(type(hparams))
    genomes = [
        jnp.stack(taylorglo.effective(getattr(hparams, name)), -1)
        for name, space in fields.items()
        if isinstance(space, TaylorLoss)
    ]
    return jnp.concatenate(genomes, -1)
