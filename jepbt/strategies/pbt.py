"""Builds PBT: the worst copy the best, then explore."""

import jax
import jax.numpy as jnp

from jepbt.arguments import check_bool, check_function, check_whole
from jepbt.hyperparameters import clip_all, sample_population
from jepbt.operators import Exploit, MutationFn, SelectionFn, perturb, truncation
from jepbt.population import take, where
from jepbt.strategies.base import Plan, Strategy


def pbt(
    *,
    exploit: SelectionFn | Exploit | None = None,
    explore: MutationFn | None = None,
    copy_hparams: bool = True,
    burn_in: int = 0,
) -> Strategy:
    """Builds Population-Based Training: the worst copy the best, then explore.

    Truncation at a fifth, the duel, the t-test over ten evaluations, factors of 0.8 and
    1.2, and copying both weights and hyperparameters follow the paper. Resampling a
    quarter, the significance gate and the burn-in are our choice.

    Args:
        exploit: `(key, fitness) -> parents`, such as `truncation(0.2)`, the default, or
            `duel`; or an `Exploit` from `welch_test` or `significant`.
        explore: `(key, hparams [P]) -> hparams [P]`, for the slots that copied;
            `operators.perturb()` by default. The values that your own function returns
            are brought back into bounds.
        copy_hparams: `True` if a slot that copies a member's state takes its
            hyperparameters too, unlike in the paper's toy problem.
        burn_in: the number of evolutions at the start that only replace failed members.

    Raises:
        ValueError: if `burn_in` is not a whole number from 0 up.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jepbt.strategies import Evaluation
        >>> from jepbt.tasks import RegressionHyperParameters as Hyper
        >>> strategy = pbt()
        >>> state, hparams = strategy.init(jax.random.key(0), Hyper, 5, 10)
        >>> fitness = jnp.array([0.1, 0.9, 0.3, 0.4, 0.5])
        >>> evaluation = Evaluation(fitness, jnp.zeros(5))
        >>> _, plan = strategy.step(jax.random.key(1), state, 1, hparams, evaluation)
        >>> plan.parents.tolist()
        [1, 1, 2, 3, 4]

    Reference:
        Jaderberg et al., "Population Based Training of Neural Networks", 2017,
        https://arxiv.org/abs/1711.09846
    """
    check_whole("pbt", "burn_in", burn_in, 0)
    check_bool("pbt", "copy_hparams", copy_hparams)
    exploit = truncation() if exploit is None else exploit
    explore = perturb() if explore is None else explore
    check_function("pbt", "explore", explore, "key, hparams", "perturb()")
    if not isinstance(exploit, Exploit):
        select = exploit
        check_function("pbt", "exploit", select, "key, fitness", "truncation(0.2)")
        exploit = Exploit(lambda key, recent, _: select(key, recent[0]), 1)

    # The state is each member's last evaluations, newest first; copies inherit them.
    def init(key, hparams_type, num_members, num_generations):
        shape = num_members, exploit.num_evaluations
        recent = jnp.full(shape, jnp.nan, jnp.float32)
        return recent, sample_population(key, hparams_type, num_members)

    def step(key, recent, generation, hparams, evaluation):
        exploit_key, explore_key = jax.random.split(key)
        fitness = evaluation.fitness
        slots = jnp.arange(fitness.size)
        recent = jnp.concatenate([fitness[:, None], recent[:, :-1]], 1)
        parents = exploit.select(exploit_key, recent.T, evaluation.standard_error)
        if burn_in:
            may_move = (generation > burn_in) | jnp.isnan(fitness)
            parents = jnp.where(may_move, parents, slots)
        copied = take(hparams, parents) if copy_hparams else hparams
        explored = clip_all(explore(explore_key, copied))
        hparams = where(parents == slots, hparams, explored)
        return recent[parents], Plan(parents, hparams, {})

    return Strategy(init, step, needs_standard_error=exploit.needs_standard_error)
