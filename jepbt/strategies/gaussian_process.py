"""Computes a Gaussian process that drifts with time, on a fixed number of rows.

Rows without an observation are masked, so that shapes never change: a masked row is
independent of all others and was observed to be 0, which changes nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular


class Kernel(NamedTuple):
    """`k = exp(-|x - x'|² / 2 l²) (1 - drift)^(|t - t'| / 2)`, plus noise on itself."""

    length: jax.Array  # f32[], l
    drift: jax.Array  # f32[], the share of the function that a unit of time replaces
    noise: jax.Array  # f32[], the variance of an observation


class Points(NamedTuple):
    """Points at which the process is observed or asked."""

    inputs: jax.Array  # f32[N, D]
    time: jax.Array  # f32[N], generations
    is_real: jax.Array  # bool[N]; the other rows are masked


class Observations(NamedTuple):
    """Factored observations, which many questions share."""

    points: Points
    lower: jax.Array  # f32[N, N], the Cholesky factor of the points' covariance
    white: jax.Array  # f32[N], the values, whitened by it


def covariance(kernel: Kernel, left: Points, right: Points) -> jax.Array:
    """Evaluates the kernel without noise, `f32[N, M]`; masked points have 0."""
    distance = jnp.sum((left.inputs[:, None] - right.inputs[None]) ** 2, -1)
    apart = jnp.abs(left.time[:, None] - right.time[None])
    value = jnp.exp(-distance / (2 * kernel.length**2))
    value = value * (1 - kernel.drift) ** (apart / 2)
    return jnp.where(left.is_real[:, None] & right.is_real[None], value, 0.0)


def noisy_covariance(kernel: Kernel, points: Points) -> jax.Array:
    """Evaluates the covariance of observations at points, `f32[N, N]`."""
    # A masked row is a unit vector: it correlates with nothing.
    diagonal = jnp.where(points.is_real, kernel.noise, 1.0)
    return covariance(kernel, points, points) + jnp.diag(diagonal)


def observe(kernel: Kernel, points: Points, values: jax.Array) -> Observations:
    """Factors the observations of values `f32[N]`, which are 0 where masked."""
    lower = jnp.linalg.cholesky(noisy_covariance(kernel, points))
    return Observations(points, lower, solve_triangular(lower, values, lower=True))


def log_likelihood(kernel: Kernel, points: Points, values: jax.Array) -> jax.Array:
    """Computes how likely observations are, up to a constant: `f32[]`."""
    _, lower, white = observe(kernel, points, values)
    return -0.5 * jnp.sum(white**2) - jnp.sum(jnp.log(jnp.diagonal(lower)))


def upper_bound(
    kernel: Kernel,
    observed: Observations,
    pending: Points,
    candidates: Points,
    kappa: jax.Array,
) -> jax.Array:
    """Computes `mean + kappa * deviation` at `M` candidates: `f32[M]`.

    The mean knows the observations; the deviation also knows where observations are
    still pending, whatever they will be.

    Reference:
        Desautels et al., "Parallelizing Exploration-Exploitation Tradeoffs with
        Gaussian Process Bandit Optimization", JMLR 2014 (the deviation)
    """
    points, lower, white = observed

    def whiten(others):
        return solve_triangular(lower, covariance(kernel, points, others), lower=True)

    # The joint covariance's factor, by blocks: the first, of the observations, is
    # known; the last one's square is what the observations leave of the pending.
    cross, beside = whiten(candidates), whiten(pending)
    last = jnp.linalg.cholesky(noisy_covariance(kernel, pending) - beside.T @ beside)
    rest = covariance(kernel, pending, candidates) - beside.T @ cross
    rest = solve_triangular(last, rest, lower=True)
    variance = 1 - jnp.sum(cross**2, 0) - jnp.sum(rest**2, 0)
    return cross.T @ white + kappa * jnp.sqrt(jnp.maximum(variance, 0.0))
