"""Builds PB2: the worst copy the best, and a Gaussian process tells what to try."""

from __future__ import annotations

import math
from collections.abc import Callable
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

# Lengths are for inputs in [0, 1] and grow with the square root of their number.
_KERNELS = np.array(
    [
        (length, drift, noise)
        for length in (0.2, 0.5, 1.5)
        for drift in (0.0, 0.1)
        for noise in (0.05, 0.5)
    ],
    np.float32,
)


class _Past(NamedTuple):
    """The last `W` generations of each slot.

    Attributes:
        before: `f32[P]` the fitness that a slot's weights had before they trained.
        inputs: `f32[P, W, D]` the coordinates of the hyperparameters they trained with.
        context: `f32[P, W, 2]` generation, and fitness before.
        gain: `f32[P, W]` the gain in fitness; `nan` where unknown.
    """

    before: jax.Array
    inputs: jax.Array
    context: jax.Array
    gain: jax.Array


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

    Returns:
        A `Strategy`.

    Raises:
        ValueError: if a number is below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> from jepbt.strategies import Evaluation
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     learning_rate: float = jepbt.hparam(0.1, min=0.01, max=1.0, log=True)
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
    for name, value in {
        "num_candidates": num_candidates,
        "num_observations": num_observations,
    }.items():
        check_whole("pb2", name, value, 1)
    exploit = truncation() if exploit is None else exploit
    propose = gaussian(reset=0.3) if propose is None else propose
    check_function("pb2", "exploit", exploit, "key, fitness", "truncation(0.2)")
    check_function("pb2", "propose", propose, "key, hparams", "gaussian()")

    def init(key, hparams_type, num_members, num_generations):
        hparams = sample_population(key, hparams_type, num_members)
        window = max(1, num_observations // num_members)
        unknown = jnp.full((num_members, window), jnp.nan)
        size = coordinates(hparams).shape[1]
        past = _Past(
            before=unknown[:, 0],
            inputs=jnp.zeros((num_members, window, size)),
            context=jnp.zeros((num_members, window, 2)),
            gain=unknown,
        )
        return past, hparams

    def step(key, past, generation, hparams, evaluation):
        exploit_key, explore_key = jax.random.split(key)
        fitness = evaluation.fitness
        parents = exploit(exploit_key, fitness)
        past = _remember(past, generation, hparams, fitness)
        inherited = take(hparams, parents)
        moves = parents != jnp.arange(fitness.size)
        explored = _explore(
            explore_key,
            propose,
            num_candidates,
            past,
            generation,
            inherited,
            fitness[parents],
            moves,
        )
        past = past._replace(before=fitness[parents])
        return past, Plan(parents, where(moves, explored, hparams), {})

    return Strategy(init, step)


def coordinates(hparams: HyperParameters) -> jax.Array:
    """Places hyperparameters in a space where a distance means something.

    Bounded numbers lie in [0, 1], by their logarithm where that is their scale, and so
    do places among ordered choices; numbers without bounds, and losses, have no fixed
    range.

    Args:
        hparams: leaves `[P, ...]`.

    Returns:
        `f32[P, D]`.

    Example:
        >>> import jax.numpy as jnp
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     learning_rate: float = jepbt.hparam(0.1, min=0.01, max=1.0, log=True)
        >>> coordinates(Hyper(jnp.array([0.1, 1.0]))).round(3).tolist()
        [[0.5], [1.0]]
    """
    columns = [
        space.coordinates(getattr(hparams, name))
        for name, space in spaces(type(hparams)).items()
    ]
    return jnp.concatenate(columns, 1)


def best_kernel(points: Points, values: jax.Array) -> Kernel:
    """Picks the likeliest of twelve kernels for observations: see `log_likelihood`."""
    kernels = _scaled_kernels(points.inputs.shape[1])
    likely = jax.lax.map(lambda k: log_likelihood(k, points, values), kernels)
    return take(kernels, jnp.argmax(likely))


def _scaled_kernels(num_inputs: int) -> Kernel:
    lengths, drifts, noises = map(jnp.asarray, _KERNELS.T)
    return Kernel(lengths * math.sqrt(num_inputs), drifts, noises)


def _remember(past: _Past, generation, hparams, fitness) -> _Past:
    generations = jnp.broadcast_to(jnp.float32(generation), fitness.shape)
    context = jnp.stack([generations, past.before], 1)

    def push(old, new):
        return jnp.concatenate([new[:, None], old[:, :-1]], 1)

    return past._replace(
        inputs=push(past.inputs, coordinates(hparams)),
        context=push(past.context, context),
        gain=push(past.gain, fitness - past.before),
    )


def _explore(
    key, propose, num_candidates, past, generation, inherited, fitness, moves
) -> HyperParameters:
    """Chooses for one moving slot after the other the candidate of the best bound."""
    num_members, window = past.gain.shape
    gain = past.gain.ravel()
    is_real = jnp.isfinite(gain)
    values = _standardise(gain, is_real)
    inputs = past.inputs.reshape(num_members * window, -1)
    context = past.context.reshape(num_members * window, 2)
    times, rewards = jnp.where(is_real[:, None], context, 0.0).T
    to_unit = _unit_scale(rewards, is_real)
    observed = _place(inputs, to_unit(rewards), times, is_real)
    kernel = best_kernel(observed, values)
    seen = observe(kernel, observed, values)
    number = jnp.maximum(jnp.sum(is_real), 1)
    kappa = jnp.sqrt(0.2 * jnp.maximum(jnp.log(0.4 * number), 0.0))
    now = jnp.full(num_members, jnp.float32(generation) + 1)
    nowhere = jnp.zeros((num_members, observed.inputs.shape[1]))
    pending = Points(nowhere, now, jnp.zeros(num_members, bool))

    def choose(pending, slot):
        repeated = jax.tree.map(
            lambda leaf: jnp.broadcast_to(
                leaf[slot], (num_candidates, *leaf.shape[1:])
            ),
            inherited,
        )
        candidates = clip_all(propose(jax.random.fold_in(key, slot), repeated))
        every = jnp.ones(num_candidates, bool)
        points = _place(
            coordinates(candidates),
            jnp.broadcast_to(to_unit(fitness[slot]), every.shape),
            jnp.broadcast_to(now[slot], every.shape),
            every,
        )
        bounds = upper_bound(kernel, seen, pending, points, kappa)
        best = jnp.argmax(jnp.where(jnp.isnan(bounds), -jnp.inf, bounds))
        pending = Points(
            pending.inputs.at[slot].set(points.inputs[best]),
            pending.time,
            pending.is_real.at[slot].set(True),
        )
        return pending, take(candidates, best)

    def skip(pending, slot):
        return pending, take(inherited, slot)

    def one(pending, slot):
        return jax.lax.cond(moves[slot], choose, skip, pending, slot)

    return jax.lax.scan(one, pending, jnp.arange(num_members))[1]


def _standardise(gain: jax.Array, is_real: jax.Array) -> jax.Array:
    """Standardises the known gains and clips them at two; unknown ones become 0."""
    number = jnp.maximum(jnp.sum(is_real), 1)
    mean = jnp.sum(jnp.where(is_real, gain, 0)) / number
    spread = jnp.sum(jnp.where(is_real, (gain - mean) ** 2, 0))
    deviation = jnp.sqrt(spread / number)
    values = (gain - mean) / jnp.where(deviation > 0, deviation, 1.0)
    return jnp.where(is_real, jnp.clip(values, -2, 2), 0.0)


def _unit_scale(
    rewards: jax.Array, is_real: jax.Array
) -> Callable[[jax.Array], jax.Array]:
    """Returns the function that maps the range of the known rewards to [0, 1]."""
    low = jnp.min(jnp.where(is_real, rewards, jnp.inf))
    high = jnp.max(jnp.where(is_real, rewards, -jnp.inf))
    width = jnp.where(high > low, high - low, 1.0)
    return lambda reward: jnp.where(is_real.any(), (reward - low) / width, 0.0)


def _place(inputs, rewards, time, is_real) -> Points:
    """Joins coordinates and rewards to points of the Gaussian process."""
    inputs = jnp.concatenate([inputs, rewards[:, None]], 1)
    return Points(jnp.where(is_real[:, None], inputs, 0.0), time, is_real)
