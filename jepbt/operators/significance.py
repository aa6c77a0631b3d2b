"""Selects members to copy only where they are significantly better.

Both tests ask if the member to be copied is better than the one it would replace by
more than chance explains. A failed member has nothing to lose and is always replaced
while another lives.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, ndtr

from jepbt.arguments import check_function, check_real, check_whole
from jepbt.operators.selection import SelectionFn, draw_opponents, truncation


class Exploit(NamedTuple):
    """A selection that reads more than the last fitness.

    Attributes:
        select: `(key, recent f32[K, P], standard_error f32[P]) -> parents i32[P]`, with
            the last evaluation in `recent[0]` and `nan` where there was none yet.
        num_evaluations: `K`, the number of evaluations that `select` reads.
        needs_standard_error: `True` if `select` reads the standard errors.
    """

    select: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    num_evaluations: int
    needs_standard_error: bool = False


def welch_test(num_evaluations: int = 10, *, level: float = 0.05) -> Exploit:
    """Builds PBT's t-test selection for `pbt(exploit=...)`.

    Each slot meets a random live opponent and copies it if the opponent's mean over the
    last evaluations is higher and Welch's t-test tells the two apart. Before a member
    has that many evaluations it neither copies nor is copied, unless it has failed. Ten
    evaluations are the paper's. Our choice: the test is two-sided at 5 %, and a copy
    takes over its parent's past evaluations.

    Args:
        num_evaluations: `K`, at least 2, the number of evaluations that are compared.
        level: the level of significance, in (0, 1]; the larger, the more is copied.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> exploit = welch_test(3)
        >>> recent = jnp.array([[0.1, 0.9], [0.2, 0.8], [0.1, 0.9]])
        >>> exploit.select(jax.random.key(0), recent, jnp.zeros(2)).tolist()
        [1, 1]

    Reference:
        Jaderberg et al., 2017, section 4.1.1, https://arxiv.org/abs/1711.09846
    """
    check_whole("welch_test", "num_evaluations", num_evaluations, 2)
    check_real("welch_test", "level", level, 0, 1, above=True)

    def select(key, recent, standard_error):
        fitness = recent[0]
        opponents = draw_opponents(key, fitness)
        is_better = recent[:, opponents].mean(0) > recent.mean(0)
        differs = welch_p_value(recent[:, opponents], recent) < level
        moves = (is_better & differs) | jnp.isnan(fitness)
        return jnp.where(moves, opponents, jnp.arange(fitness.size))

    return Exploit(select, num_evaluations)


def significant(select: SelectionFn | None = None, *, level: float = 0.05) -> Exploit:
    """Builds a gate for `pbt(exploit=...)`: only the significantly fitter are copied.

    The difference of two fitnesses is compared with the standard errors of both over
    the validation examples, one-sided, as if both were measured on examples of their
    own. Members share them, which makes the gate stricter than `level` says. No paper
    of PBT has this gate: all of it is our choice.

    Args:
        select: `(key, fitness) -> parents`, the member that each slot would copy;
            `truncation(0.2)` by default.
        level: the level of significance, in (0, 1]; 0.5 lets everything better pass.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> recent = jnp.array([[0.80, 0.81]])
        >>> key, noise = jax.random.key(0), jnp.array([0.02, 0.02])
        >>> significant().select(key, recent, noise).tolist()
        [0, 1]
        >>> significant().select(key, recent, noise / 10).tolist()
        [1, 1]
    """
    check_real("significant", "level", level, 0, 1, above=True)
    select = truncation() if select is None else select
    check_function("significant", "select", select, "key, fitness", "truncation(0.2)")

    def gated(key, recent, standard_error):
        fitness = recent[0]
        parents = select(key, fitness)
        gain = fitness[parents] - fitness
        error = jnp.hypot(standard_error[parents], standard_error)
        # Without any error every gain is significant; with an unknown one, none.
        z = jnp.where(error == 0, jnp.inf, gain / jnp.where(error == 0, 1.0, error))
        passes = (gain > 0) & (ndtr(-z) < level)
        passes |= jnp.isnan(fitness)
        return jnp.where(passes, parents, jnp.arange(fitness.size))

    return Exploit(gated, 1, needs_standard_error=True)


def welch_p_value(left: jax.Array, right: jax.Array) -> jax.Array:
    """Computes the two-sided p-value of Welch's t-test of samples `f32[K, ...]`.

    Without any variance it is 0 where the means differ and 1 where they are equal;
    `nan` where a sample is.

    Example:
        >>> import jax.numpy as jnp
        >>> p = welch_p_value(jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 3.0, 4.0]))
        >>> round(float(p), 4)
        0.2879

    Reference:
        Welch, "The generalization of Student's problem when several different
        population variances are involved", Biometrika 34, 1947.
    """
    count = left.shape[0]
    first, second = (x.var(0, ddof=1) / count for x in (left, right))
    difference = left.mean(0) - right.mean(0)
    total = first + second
    varies = total > 0
    safe = jnp.where(varies, total, 1.0)
    shares = (first / safe) ** 2 + (second / safe) ** 2
    freedom = (count - 1) / jnp.where(varies, shares, 1.0)
    t_squared = difference**2 / safe
    p = betainc(freedom / 2, 0.5, freedom / (freedom + t_squared))
    without = jnp.where(difference == 0, 1.0, 0.0)
    return jnp.where(jnp.isnan(difference), jnp.nan, jnp.where(varies, p, without))
