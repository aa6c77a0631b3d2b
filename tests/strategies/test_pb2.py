"""The bandit's Gaussian process against one in NumPy, and what it learns."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jepbt
from jepbt import strategies
from jepbt.strategies import Evaluation
from jepbt.strategies.gaussian_process import (
    Kernel,
    Points,
    log_likelihood,
    observe,
    upper_bound,
)
from jepbt.strategies.pb2 import best_kernel, coordinates

KERNEL = Kernel(jnp.float32(0.6), jnp.float32(0.2), jnp.float32(0.1))


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=0.01, max=1.0, log=True)
    momentum: float = jepbt.hparam(0.5, min=0.0, max=0.8)
    width: int = jepbt.hparam(3, min=1, max=5)
    activation: str = jepbt.hparam("b", choices=("a", "b"))
    free: float = 2.0
    loss: jepbt.Loss = jepbt.taylor_hparam(sigma=0.1, genome="effective")


def kernel_by_hand(a, s, b, t):
    squared = ((a[:, None] - b[None]) ** 2).sum(-1)
    apart = np.abs(s[:, None] - t[None])
    return np.exp(-squared / (2 * 0.6**2)) * 0.8 ** (apart / 2)


def draw(random, number):
    return random.uniform(size=(number, 3)), random.integers(0, 5, number).astype(float)


def points(inputs, time, is_real):
    return Points(jnp.float32(inputs), jnp.float32(time), jnp.asarray(is_real))


@pytest.mark.parametrize("seed", range(3))
def test_bounds_equal_those_of_a_process_in_numpy(seed):
    """Masked rows of both kinds do not exist for the one written with inverses."""
    random = np.random.default_rng(seed)
    seen, pending, asked = (draw(random, n) for n in (7, 4, 5))
    values = random.normal(size=7)
    is_seen = np.array([1, 1, 0, 1, 1, 0, 1], bool)
    is_pending = np.array([1, 0, 1, 0], bool)
    kappa = 0.7

    x, t = seen[0][is_seen], seen[1][is_seen]
    z = np.concatenate([x, pending[0][is_pending]])
    u = np.concatenate([t, pending[1][is_pending]])
    inverse = np.linalg.inv(kernel_by_hand(x, t, x, t) + 0.1 * np.eye(len(x)))
    mean = kernel_by_hand(*asked, x, t) @ inverse @ values[is_seen]
    cross = kernel_by_hand(*asked, z, u)
    inverse = np.linalg.inv(kernel_by_hand(z, u, z, u) + 0.1 * np.eye(len(z)))
    variance = 1 - np.einsum("ij,jk,ik->i", cross, inverse, cross)
    expected = mean + kappa * np.sqrt(variance)

    measured = jax.jit(upper_bound)(
        KERNEL,
        observe(
            KERNEL,
            points(*seen, is_seen),
            jnp.float32(np.where(is_seen, values, 0)),
        ),
        points(*pending, is_pending),
        points(*asked, np.ones(5, bool)),
        jnp.float32(kappa),
    )
    np.testing.assert_allclose(measured, expected, rtol=1e-4, atol=1e-5)


def test_the_likelihood_is_that_of_a_normal_distribution():
    from scipy import stats

    random = np.random.default_rng(0)
    (inputs, time), values = draw(random, 6), random.normal(size=6)
    covariance = kernel_by_hand(inputs, time, inputs, time) + 0.1 * np.eye(6)
    expected = stats.multivariate_normal(np.zeros(6), covariance).logpdf(values)
    measured = log_likelihood(
        KERNEL, points(inputs, time, np.ones(6, bool)), jnp.float32(values)
    )
    constant = 3 * np.log(2 * np.pi)
    np.testing.assert_allclose(measured - constant, expected, rtol=1e-4)


def test_smooth_data_choose_a_long_kernel_and_noise_a_noisy_one():
    random = np.random.default_rng(0)
    inputs = random.uniform(size=(60, 1))
    where = points(inputs, np.zeros(60), np.ones(60, bool))
    smooth = best_kernel(where, jnp.float32(np.sin(3 * inputs[:, 0])))
    noisy = best_kernel(where, jnp.float32(random.normal(size=60)))
    assert float(smooth.noise) < float(noisy.noise)
    assert float(smooth.length) >= 0.5


def test_coordinates_span_the_unit_cube():
    seed = np.float32(jepbt.taylorglo.CROSS_ENTROPY_EXPANSION)
    hparams = Hyper(
        rate=jnp.array([0.01, 0.1]),
        momentum=jnp.array([0.8, 0.0]),
        width=jnp.array([1, 5]),
        activation=jnp.array([0, 1]),
        free=jnp.array([2.0, 2 * np.exp(0.5)]),
        loss=jnp.stack([seed, seed]),
    )
    half = 1 / np.sqrt(2)
    loss = [-0.5, 0.5, -0.5, 0.5]  # at a scale of 1, and sigma * 10 is 1
    expected = [
        [0.0, 1.0, 0.0, half, 0, 0.5, *loss],
        [0.5, 0.0, 1.0, 0, half, 0.75, *loss],
    ]
    np.testing.assert_allclose(coordinates(hparams), expected, atol=1e-5)


def test_it_learns_where_fitness_grows():
    """Gain is highest at a rate of 0.1; half of uniform draws miss its third."""

    @dataclass
    class Rate(jepbt.HyperParameters):
        rate: float = jepbt.hparam(0.5, min=0.01, max=1.0, log=True)

    strategy = strategies.pb2()
    state, hparams = strategy.init(jax.random.key(0), Rate, 8, 30)
    step, fitness, proposed = jax.jit(strategy.step), np.zeros(8), []
    for generation in range(1, 25):
        away = np.log10(np.asarray(hparams.rate)) + 1
        fitness = fitness + 1 - away**2
        evaluation = Evaluation(jnp.float32(fitness), jnp.zeros(8))
        key = jax.random.fold_in(jax.random.key(1), generation)
        state, plan = step(key, state, jnp.int32(generation), hparams, evaluation)
        parents = np.asarray(plan.parents)
        moved = parents != np.arange(8)
        fitness, hparams = fitness[parents], plan.hparams
        if generation > 12:
            proposed += np.log10(np.asarray(hparams.rate)[moved] / 0.1).tolist()
    assert np.mean(np.abs(proposed)) < 0.3  # uniform draws: 0.5


def test_without_any_observation_it_still_explores(key):
    strategy = strategies.pb2(num_candidates=4, num_observations=10)
    state, hparams = strategy.init(key, Hyper, 5, 9)
    evaluation = Evaluation(jnp.array([0.1, 0.9, 0.3, 0.4, 0.5]), jnp.zeros(5))
    _, plan = jax.jit(strategy.step)(key, state, jnp.int32(1), hparams, evaluation)
    assert plan.parents.tolist() == [1, 1, 2, 3, 4]
    assert plan.hparams.rate[0] != hparams.rate[1]
