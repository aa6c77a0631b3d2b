"""Builds PB2: the worst copy the best, and a Gaussian process tells what to try."""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.arguments import check_function, check_whole
from jepbt.hyperparameters import (
    HyperParameters,
    clip_all,
    sample_population,
    spaces,
)
from jepbt.operators import MutationFn, SelectionFn, gaussian, truncation
from jepbt.population import take, where
from jepbt.strategies.base import Plan, Strategy
from jepbt.strategies.gaussian_process import (
    Kernel,
    Points,
    log_likelihood,
    observe,
    upper_bound,
)

# Lengths, drifts and noises. Lengths are for inputs in [0, 1] and grow with the square
# root of their number.
_KERNELS = np.array(
    list(itertools.product((0.2, 0.5, 1.5), (0.0, 0.1), (0.05, 0.5))), np.float32
)


class _Past(NamedTuple):
    """The last `W` generations of each slot."""

    before: jax.Array  # f32[P], the fitness that a slot's weights had before training
    rows: jax.Array  # f32[P, W, D + 2]: coordinates, fitness before, generation
    gain: jax.Array  # f32[P, W] in fitness; nan where unknown


def pb2(
    *,
    exploit: SelectionFn | None = None,
    propose: MutationFn | None = None,
    num_candidates: int = 64,
    num_observations: int = 256,
) -> Strategy:
    """Builds Population-Based Bandits.

    A slot that copies tries the candidate whose gain in fitness has the highest upper
    confidence bound. A Gaussian process over hyperparameters, generation and fitness
    before learns from what all slots gained.

    Truncation, the gain per generation as target (standardised, clipped at two), time
    and fitness as context, the kernel, `kappa = sqrt(0.2 ln(0.4 N))`, and a deviation
    that counts points already chosen follow the paper. Our choice is the rest:
    candidates are drawn by `propose` around the inherited values instead of climbing
    the bound; kernel settings are the likeliest of twelve; categoricals enter as
    indicators, ordered ones as places from 0 to 1, vectors entry by entry, and losses
    as coordinates in units of ten mutations; the oldest observations are forgotten.

    Args:
        exploit: `(key, fitness) -> parents`; `operators.truncation(0.2)` by default.
        propose: `(key, hparams) -> hparams`, which draws candidates;
            `operators.gaussian(reset=0.3)` by default.
        num_candidates: the number of candidates for each slot that copies.
        num_observations: the largest number of observations; rounded down to whole
            generations, but at least one.

    Raises:
        ValueError: if a number is below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jepbt.strategies import Evaluation
        >>> from jepbt.tasks import RegressionHyperParameters as Hyper
        >>> strategy = pb2()
        >>> state, hparams = strategy.init(jax.random.key(0), Hyper, 4, 10)
        >>> evaluation = Evaluation(jnp.array([0.1, 0.9, 0.3, 0.2]), jnp.zeros(4))
        >>> _, plan = strategy.step(jax.random.key(1), state, 1, hparams, evaluation)
        >>> plan.parents.tolist()
        [1, 1, 2, 3]

    Reference:
        Parker-Holder et al., "Provably Efficient Online Hyperparameter Optimization
        with Population-Based Bandits", 2020, https://arxiv.org/abs/2002.02518
    """
    check_whole("pb2", "num_candidates", num_candidates, 1)
    check_whole("pb2", "num_observations", num_observations, 1)
    exploit = truncation() if exploit is None else exploit
    propose = gaussian(reset=0.3) if propose is None else propose
    check_function("pb2", "exploit", exploit, "key, fitness", "truncation(0.2)")
    check_function("pb2", "propose", propose, "key, hparams", "gaussian()")

    def init(key, hparams_type, num_members, num_generations):
        hparams = sample_population(key, hparams_type, num_members)
        window = max(1, num_observations // num_members)
        unknown = jnp.full((num_members, window), jnp.nan, jnp.float32)
        width = coordinates(hparams).shape[1] + 2
        rows = jnp.zeros((num_members, window, width), jnp.float32)
        return _Past(unknown[:, 0], rows, unknown), hparams

    def step(key, past, generation, hparams, evaluation):
        exploit_key, explore_key = jax.random.split(key)
        fitness = evaluation.fitness
        parents = exploit(exploit_key, fitness)
        past = _remember(past, generation, hparams, fitness)
        past = past._replace(before=fitness[parents])
        inherited = take(hparams, parents)
        moves = parents != jnp.arange(fitness.size)

        def draw(slot):
            repeated = take(inherited, jnp.full(num_candidates, slot))
            return clip_all(propose(jax.random.fold_in(explore_key, slot), repeated))

        explored = _explore(draw, past, generation, inherited, moves)
        return past, Plan(parents, where(moves, explored, hparams), {})

    return Strategy(init, step)


def coordinates(hparams: HyperParameters) -> jax.Array:
    """Places hyperparameters in a space where a distance means something: `f32[P, D]`.

    Bounded numbers lie in [0, 1], by their logarithm where that is their scale, and so
    do places among ordered choices; numbers without bounds, and losses, have no fixed
    range.
    """
    columns = [
        space.coordinates(getattr(hparams, name))
        for name, space in spaces(type(hparams)).items()
    ]
    return jnp.concatenate(columns, 1).astype(jnp.float32)


def best_kernel(points: Points, values: jax.Array) -> Kernel:
    """Picks the likeliest of twelve kernels for observations."""
    lengths, drifts, noises = jnp.asarray(_KERNELS.T, jnp.float32)
    kernels = Kernel(lengths * math.sqrt(points.inputs.shape[1]), drifts, noises)
    likely = jax.lax.map(lambda k: log_likelihood(k, points, values), kernels)
    return take(kernels, jnp.argmax(likely))


def _remember(past: _Past, generation, hparams, fitness) -> _Past:
    generations = jnp.full(fitness.shape, generation, jnp.float32)
    row = jnp.column_stack([coordinates(hparams), past.before, generations])

    def push(old, new):
        return jnp.concatenate([new[:, None], old[:, :-1]], 1)

    return past._replace(
        rows=push(past.rows, row), gain=push(past.gain, fitness - past.before)
    )


def _explore(draw, past, generation, inherited, moves) -> HyperParameters:
    """Chooses, for one moving slot after the other, the candidate of the best bound."""
    gain, rows = past.gain.ravel(), past.rows.reshape(past.gain.size, -1)
    inputs, rewards, times = rows[:, :-2], rows[:, -2], rows[:, -1]
    is_real = jnp.isfinite(gain)
    low = jnp.min(rewards, where=is_real, initial=jnp.inf)
    high = jnp.max(rewards, where=is_real, initial=-jnp.inf)
    low, width = jnp.where(high > low, jnp.stack([low, high - low]), 1.0)

    def place(inputs, rewards, time, is_real):
        """Joins coordinates and rewards, those seen in [0, 1], to points."""
        rewards, time = (jnp.broadcast_to(x, is_real.shape) for x in (rewards, time))
        inputs = jnp.column_stack([inputs, (rewards - low) / width])
        return Points(jnp.where(is_real[:, None], inputs, 0.0), time, is_real)

    values = _standardise(gain, is_real)
    points = place(inputs, rewards, times, is_real)
    kernel = best_kernel(points, values)
    observed = observe(kernel, points, values)
    number = jnp.maximum(jnp.sum(is_real), 1)
    kappa = jnp.sqrt(0.2 * jnp.maximum(jnp.log(0.4 * number), 0.0))
    now = jnp.float32(generation) + 1

    def choose(pending, slot):
        candidates = draw(slot)
        asked = coordinates(candidates)
        every = jnp.ones(len(asked), bool)
        asked = place(asked, past.before[slot], now, every)
        bounds = upper_bound(kernel, observed, pending, asked, kappa)
        best = jnp.argmax(jnp.where(jnp.isnan(bounds), -jnp.inf, bounds))
        pending = pending._replace(
            inputs=pending.inputs.at[slot].set(asked.inputs[best]),
            is_real=pending.is_real.at[slot].set(True),
        )
        return pending, take(candidates, best)

    def skip(pending, slot):
        return pending, take(inherited, slot)

    def one(pending, slot):
        return jax.lax.cond(moves[slot], choose, skip, pending, slot)

    slots = jnp.arange(moves.size)
    nowhere = jnp.zeros((moves.size, inputs.shape[1]), jnp.float32)
    pending = place(nowhere, 0.0, now, jnp.zeros_like(moves))
    return jax.lax.scan(one, pending, slots)[1]


def _standardise(gain: jax.Array, is_real: jax.Array) -> jax.Array:
    """Standardises the known gains and clips them at two; unknown ones become 0."""
    mean, deviation = (f(gain, where=is_real) for f in (jnp.mean, jnp.std))
    values = (gain - mean) / jnp.where(deviation > 0, deviation, 1.0)
    return jnp.where(is_real, jnp.clip(values, -2, 2), 0.0)
