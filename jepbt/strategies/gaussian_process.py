"""Computes a Gaussian process that drifts with time, on a fixed number of rows.

Rows without an observation are masked, so that shapes never change: a masked row is
independent of all others and was observed to be 0, which changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular


class Kernel(NamedTuple):
    """`k = exp(-|x - x'|² / 2 l²) (1 - drift)^(|t - t'| / 2)`, plus noise on itself.

    Attributes:
        length: `f32[]`, `l`.
        drift: `f32[]` the share of the function that a unit of time replaces.
        noise: `f32[]` variance of an observation.
    """

    length: jax.Array
    drift: jax.Array
    noise: jax.Array


class Points(NamedTuple):
    """Points at which the process is observed or asked.

    Attributes:
        inputs: `f32[N, D]` coordinates.
        time: `f32[N]` generations.
        is_real: `bool[N]`; the other rows are masked.
    """

    inputs: jax.Array
    time: jax.Array
    is_real: jax.Array


def covariance(kernel: Kernel, left: Points, right: Points) -> jax.Array:
    """Evaluates the kernel between points, without noise.

    Args:
        kernel: its settings.
        left: `N` points.
        right: `M` points.

    Returns:
        `f32[N, M]`, 0 where one of both is masked.

    Example:
        >>> import jax.numpy as jnp
        >>> points = Points(jnp.zeros((2, 1)), jnp.array([0.0, 2.0]), jnp.ones(2, bool))
        >>> covariance(Kernel(1.0, 0.5, 0.1), points, points).tolist()
        [[1.0, 0.5], [0.5, 1.0]]
    """
    distance = jnp.sum((left.inputs[:, None] - right.inputs[None]) ** 2, -1)
    apart = jnp.abs(left.time[:, None] - right.time[None])
    value = jnp.exp(-distance / (2 * kernel.length**2))
    value = value * (1 - kernel.drift) ** (apart / 2)
    return jnp.where(left.is_real[:, None] & right.is_real[None], value, 0.0)


def factor(kernel: Kernel, points: Points) -> jax.Array:
    """Factors the points' covariance with noise: the lower Cholesky factor `[N, N]`."""
    # A masked row is a unit vector: it correlates with nothing.
    diagonal = jnp.where(points.is_real, kernel.noise, 1.0)
    return jnp.linalg.cholesky(covariance(kernel, points, points) + jnp.diag(diagonal))


def log_likelihood(kernel: Kernel, points: Points, values: jax.Array) -> jax.Array:
    """Computes how likely observations are, up to a constant.

    Args:
        kernel: its settings.
        points: `N` points.
        values: `f32[N]`, 0 where masked.

    Returns:
        `f32[]`.
    """
    lower = factor(kernel, points)
    white = solve_triangular(lower, values, lower=True)
    return -0.5 * jnp.sum(white**2) - jnp.sum(jnp.log(jnp.diagonal(lower)))


class Observations(NamedTuple):
    """Factored observations, which many questions share: see `observe`.

    Attributes:
        points: `N` points.
        lower: `f32[N, N]` the factor of their covariance.
        white: `f32[N]` the values, whitened by it.
    """

    points: Points
    lower: jax.Array
    white: jax.Array


def observe(kernel: Kernel, points: Points, values: jax.Array) -> Observations:
    """Factors observations once, for `upper_bound`.

    Args:
        kernel: its settings.
        points: `N` points.
        values: `f32[N]` seen there, 0 where masked.

    Returns:
        The observations.
    """
    lower = factor(kernel, points)
    return Observations(points, lower, solve_triangular(lower, values, lower=True))


def upper_bound(
    kernel: Kernel,
    observed: Observations,
    pending: Points,
    candidates: Points,
    kappa: jax.Array,
) -> jax.Array:
    """Computes `mean + kappa * deviation` at candidates.

    The mean knows the observations; the deviation also knows where observations are
    still pending, whatever they will be.

    Args:
        kernel: its settings.
        observed: `N` points, from `observe`.
        pending: `Q` points.
        candidates: `M` points.
        kappa: `f32[]`.

    Returns:
        `f32[M]`.

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
    diagonal = jnp.where(pending.is_real, kernel.noise, 1.0)
    left = covariance(kernel, pending, pending) + jnp.diag(diagonal)
    last = jnp.linalg.cholesky(left - beside.T @ beside)
    rest = covariance(kernel, pending, candidates) - beside.T @ cross
    rest = solve_triangular(last, rest, lower=True)
    variance = 1 - jnp.sum(cross**2, 0) - jnp.sum(rest**2, 0)
    return cross.T @ white + kappa * jnp.sqrt(jnp.maximum(variance, 0.0))
