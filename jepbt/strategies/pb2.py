"""PB2: the worst copy the best, and a Gaussian process says what to try next."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.arguments import check_operator, check_whole
from jepbt.hyperparameters import (
    Categorical,
    HyperParameters,
    TaylorLoss,
    sample_population,
    spaces,
)
from jepbt.losses import taylorglo
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
        inputs: `f32[P, W, D]` with which hyperparameters they trained.
        context: `f32[P, W, 2]` generation, and fitness before.
        gain: `f32[P, W]` of the fitness; `nan` where unknown.
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
    and fitness as context, the kernel, `kappa = sqrt(0.2 ln(0.4 N))`, and that points
    already chosen count for the deviation, follow the paper. Our choice is the rest:
    candidates are drawn by `propose` around the inherited values instead of climbing
    the bound; kernel settings are the likeliest of twelve; categoricals enter as
    indicators, ordered ones as places from 0 to 1, vectors entry by entry, and losses
    as coordinates in units of ten mutations; the oldest observations are forgotten.

    Args:
        exploit: `(key, fitness) -> parents`; `selection.truncation(0.2)` by default.
        propose: `(key, hparams) -> hparams` draws candidates;
            `mutation.gaussian(reset=0.3)` by default.
        num_candidates: for each slot that copies.
        num_observations: at most; rounded down to whole generations, but at least one.

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
    check_operator("pb2", "exploit", exploit, "key, fitness", "truncation(0.2)")
    check_operator("pb2", "propose", propose, "key, hparams", "mutation.gaussian()")

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
        _column(space, getattr(hparams, name))
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


def _column(space: Any, leaf: jax.Array) -> jax.Array:
    if isinstance(space, Categorical) and space.ordered:
        return leaf.astype(jnp.float32)[:, None] / (len(space.choices) - 1)
    if isinstance(space, Categorical):
        return jax.nn.one_hot(leaf, len(space.choices)) / math.sqrt(2)
    if isinstance(space, TaylorLoss):
        if space.genome == "effective":
            ch, chh, chy, cx, cxx = taylorglo.effective(leaf)
            leaf = jnp.stack([ch, chh, chy, cx + cxx], -1) / space.scale
        return leaf / (10 * space.sigma or 1.0)
    value = leaf.astype(jnp.float32).reshape(len(leaf), -1)
    if space.min is None or space.max is None:
        # Its prior is a normal distribution of this logarithm.
        default = np.broadcast_to(np.float32(space.default), value.shape)
        ratio = jnp.maximum(value / default, jnp.finfo(jnp.float32).tiny)
        return 0.5 + jnp.log(ratio) / 2
    low, high = space.min, space.max
    if space.log:
        value, low, high = jnp.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


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
    number = jnp.sum(is_real)
    mean = jnp.sum(jnp.where(is_real, gain, 0)) / jnp.maximum(number, 1)
    spread = jnp.sum(jnp.where(is_real, (gain - mean) ** 2, 0))
    deviation = jnp.sqrt(spread / jnp.maximum(number, 1))
    values = (gain - mean) / jnp.where(deviation > 0, deviation, 1.0)
    values = jnp.where(is_real, jnp.clip(values, -2, 2), 0.0)
    context = past.context.reshape(num_members * window, 2)
    context = jnp.where(is_real[:, None], context, 0.0)
    low = jnp.min(jnp.where(is_real, context[:, 1], jnp.inf))
    high = jnp.max(jnp.where(is_real, context[:, 1], -jnp.inf))
    width = jnp.where(high > low, high - low, 1.0)

    def place(inputs, reward, time, is_real):
        scaled = jnp.where(number > 0, (reward - low) / width, 0.0)
        inputs = jnp.concatenate([inputs, scaled[:, None]], 1)
        return Points(jnp.where(is_real[:, None], inputs, 0.0), time, is_real)

    inputs = past.inputs.reshape(num_members * window, -1)
    observed = place(inputs, context[:, 1], context[:, 0], is_real)
    kernel = best_kernel(observed, values)
    seen = observe(kernel, observed, values)
    kappa = jnp.sqrt(0.2 * jnp.maximum(jnp.log(0.4 * jnp.maximum(number, 1)), 0.0))
    now = jnp.float32(generation) + 1
    nobody = jnp.zeros(num_members, bool)
    pending = Points(
        jnp.zeros((num_members, observed.inputs.shape[1])),
        jnp.full(num_members, now),
        nobody,
    )
    every = jnp.ones(num_candidates, bool)

    def choose(pending, slot):
        repeated = jax.tree.map(
            lambda leaf: jnp.broadcast_to(
                leaf[slot], (num_candidates, *leaf.shape[1:])
            ),
            inherited,
        )
        candidates = propose(jax.random.fold_in(key, slot), repeated)
        reward = jnp.broadcast_to(fitness[slot], every.shape)
        times = jnp.broadcast_to(now, every.shape)
        points = place(coordinates(candidates), reward, times, every)
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
