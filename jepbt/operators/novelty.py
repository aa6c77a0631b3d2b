"""Selects survivors that differ: novelty, in pulses between those of fitness."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jepbt.arguments import check_choice, check_real, check_whole
from jepbt.hyperparameters import HyperParameters, losses_in, spaces
from jepbt.losses import taylorglo
from jepbt.operators.selection import best_first, is_elite


class Behaviour(NamedTuple):
    """A measurement of members beside their fitness, which the engine makes.

    Attributes:
        metric: "correctness", the scores of validation examples, or "probabilities",
            the outputs of the task's `behaviour`.
        num_examples: the number of validation examples, always the first ones; a
            smaller split gives all it has.
    """

    metric: str
    num_examples: int


class Pulsation(NamedTuple):
    """The settings of `pulsation`, which tells what each means."""

    period: int
    pool: float
    metric: str
    num_examples: int

    @property
    def behaviour(self) -> Behaviour | None:
        """The measurement that the metric needs; losses are known without one."""
        if self.metric == "loss":
            return None
        return Behaviour(self.metric, self.num_examples)


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
    published code. Our choice: `period`, `pool`, and to compare members by their
    correctness on 400 validation examples. EPBT's settings are not published where we
    could read them.

    Args:
        period: the number of generations between two choices; 1 for every generation.
        pool: the size of the pool in numbers of elites, at least 1: it holds
            `round(num_elites * pool)` members, at most all.
        metric: "correctness" compares which examples members get right,
            "probabilities" what they predict for them, and "loss" the effective
            coefficients of their evolved losses, which costs no evaluation.
        num_examples: the number of validation examples, always the first ones.

    Example:
        >>> pulsation(metric="loss").behaviour is None
        True

    Reference:
        Liang et al., 2021, https://arxiv.org/abs/2002.04225
    """
    for name, value in {"period": period, "num_examples": num_examples}.items():
        check_whole("pulsation", name, value, 1)
    check_real("pulsation", "pool", pool, 1)
    check_choice(
        "pulsation", "metric", metric, ("correctness", "probabilities", "loss")
    )
    return Pulsation(period, pool, metric, num_examples)


def check_pulsation(
    pulsation: Pulsation,
    hparams_type: type[HyperParameters],
    num_elites: int,
    num_members: int,
) -> None:
    """Raises a `ValueError` for a pool above `P`, or a metric without its field."""
    size = _pool_size(pulsation, num_elites)
    if size > num_members:
        raise ValueError(
            f"pulsation: pool={pulsation.pool} times num_elites={num_elites} makes a "
            f"pool of {size}, more than the population of {num_members}. At most "
            f"pool={num_members / num_elites:.3g} fits; or choose fewer elites."
        )
    if pulsation.metric == "loss" and not losses_in(spaces(hparams_type)):
        raise ValueError(
            f"pulsation: metric='loss' compares evolved losses, but "
            f"{hparams_type.__name__} has no field made by jepbt.taylor_hparam. Add "
            "one, or use metric='correctness'."
        )


def _pool_size(pulsation: Pulsation, num_elites: int) -> int:
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

    `behaviour` is `f32[P, K]`, or `None` if the metric is "loss".
    """
    if pulsation.metric == "loss":
        behaviour = _effective_losses(hparams)
    elif behaviour is None:
        raise ValueError(
            f"pulsation: metric={pulsation.metric!r} needs Evaluation.behaviour, and "
            "this evaluation has none. metric='loss' needs no evaluation."
        )
    size = _pool_size(pulsation, num_elites)
    return jax.lax.cond(
        generation % pulsation.period == 0,
        lambda: spread_out(fitness, behaviour, num_elites, size),
        lambda: is_elite(fitness, num_elites),
    )


def spread_out(
    fitness: jax.Array, behaviour: jax.Array, num_survivors: int, pool_size: int
) -> jax.Array:
    """Chooses survivors that behave differently among the fittest.

    The fittest always survives. The others of the pool are sorted by their summed
    distance to the pool, and the first of them fill the remaining places. Then each one
    left over joins them in turn, the closest two of that group are found, and the one
    with the smaller sum leaves. Our choice: of equals the later one leaves, and the
    fittest takes no part in the comparison.

    The pool are the `pool_size` fittest. A distance of `behaviour`, `f32[P, K]`, that
    is `nan` counts as 0. Fewer than `num_survivors` are marked if fewer live.

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
    """Joins the effective coefficients of all losses of each member: `f32[P, K]`."""
    names = losses_in(spaces(type(hparams)))
    effective = [taylorglo.effective(getattr(hparams, name)) for name in names]
    return jnp.concatenate([jnp.stack(numbers, -1) for numbers in effective], -1)
