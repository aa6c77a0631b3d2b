"""Computes losses of classification, for fixed and for evolving settings.

Every loss is a `LossFn` of one-hot or soft labels, as in optax, so losses of optax can
stand beside these. A builder's setting may be a Python number, which is checked, or
traced, one value per member of a population, which cannot be. Wrong shapes, and labels
that are class indices, raise a `ValueError` that tells a remedy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

from jepbt.arguments import check_scalar
from jepbt.losses import taylorglo

LossFn: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""`(logits f32[..., C], labels f32[..., C]) -> f32[...]`, one loss for each example."""


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Measures cross-entropy: `optax.softmax_cross_entropy`, with its input checked.

    Args:
        logits: `f32[..., C]`.
        labels: `f32[..., C]` one-hot or soft.

    Returns:
        `f32[...]` one loss per example.

    Example:
        >>> loss = cross_entropy(jnp.zeros(4), jax.nn.one_hot(2, 4))
        >>> round(float(loss), 4)  # log 4
        1.3863
    """
    _check(logits, labels)
    return optax.softmax_cross_entropy(logits, labels)


def brier(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Measures the Brier score: the squared distance of probabilities to labels.

    It lies between 0 and 2 for one-hot labels.

    Args:
        logits: `f32[..., C]`.
        labels: `f32[..., C]` one-hot or soft.

    Returns:
        `f32[...]` one loss per example, summed over the classes.

    Example:
        >>> float(brier(jnp.zeros(4), jax.nn.one_hot(2, 4)))  # 3/16 + 9/16
        0.75
    """
    _check(logits, labels)
    return jnp.sum((jax.nn.softmax(logits) - labels) ** 2, axis=-1)


def taylor(theta: jax.Array) -> LossFn:
    """Builds the loss of a TaylorGLO genome.

    Args:
        theta: `f32[8]` one member's genome, `[y, y2, y3, xy, xy2, x2y, x0, y0]` as
            in `jepbt.taylorglo`.

    Example:
        >>> loss_fn = taylor(taylorglo.CROSS_ENTROPY_EXPANSION)
        >>> labels = jax.nn.one_hot(0, 2)
        >>> right, wrong = jnp.array([2.0, -2.0]), jnp.array([-2.0, 2.0])
        >>> bool(loss_fn(right, labels) < loss_fn(wrong, labels))
        True

    Reference:
        Gonzalez & Miikkulainen, "Optimizing Loss Functions Through Multivariate
        Taylor Polynomial Parameterization", 2021, https://arxiv.org/abs/2002.00059
    """
    theta = taylorglo.check_one_genome(theta)

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        _check(logits, labels)
        return taylorglo.taylor_loss(theta, labels, jax.nn.softmax(logits))

    return loss


def generalized_cross_entropy(q: float | jax.Array) -> LossFn:
    """Builds the loss `(1 - p^q) / q` of the true class's probability `p`.

    Made for wrong labels: `q = 1` is bounded by 1, and `q -> 0` is cross-entropy, also
    at a traced `q` of exactly 0. Soft labels weigh the classes' losses.

    Args:
        q: `f32[]` in (0, 1].

    Example:
        >>> loss_fn = generalized_cross_entropy(0.5)
        >>> float(loss_fn(jnp.zeros(4), jax.nn.one_hot(2, 4)))  # (1 - sqrt(1/4)) / 0.5
        1.0

    Reference:
        Zhang & Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural
        Networks with Noisy Labels", 2018, https://arxiv.org/abs/1805.07836
    """
    note = "; for its limit at 0 use losses.cross_entropy"
    check_scalar("", "q", q, 0, 1, above=True, note=note)

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        _check(logits, labels)
        class_losses = _one_minus_power_over_q(jax.nn.log_softmax(logits), q)
        return jnp.sum(labels * class_losses, axis=-1)

    return loss


def label_smoothing(alpha: float | jax.Array) -> LossFn:
    """Builds cross-entropy with labels `(1 - alpha) labels + alpha / C`.

    Args:
        alpha: `f32[]` in [0, 1).

    Example:
        >>> loss_fn = label_smoothing(0.2)
        >>> round(float(loss_fn(jnp.zeros(4), jax.nn.one_hot(2, 4))), 4)  # log 4
        1.3863
    """
    note = ": at 1 every class is labelled alike"
    check_scalar("", "alpha", alpha, 0, 1, below=True, note=note)

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        _check(logits, labels)
        smoothed = optax.smooth_labels(labels, alpha)
        return optax.softmax_cross_entropy(logits, smoothed)

    return loss


def _one_minus_power_over_q(log_p: jax.Array, q: float | jax.Array) -> jax.Array:
    """Computes `(1 - p^q) / q`, with values and gradients that are finite at `q = 0`.

    Near `q log p = 0` the quotient cancels, most of all in its derivative by `q`, and a
    series takes over. Each branch gets a harmless input where the other one is used:
    otherwise the gradient would hold 0 times infinity.
    """
    exponent = q * log_p
    near = jnp.abs(exponent) < 1e-2  # there, the series errs by less than 1e-12
    quotient = -jnp.expm1(exponent) / jnp.where(near, 1.0, q)
    log_p = jnp.where(near, log_p, 0.0)
    z = q * log_p
    series = -log_p * (1 + z / 2 * (1 + z / 3 * (1 + z / 4 * (1 + z / 5))))
    return jnp.where(near, series, quotient)


def _check(logits: jax.Array, labels: jax.Array) -> None:
    """Refuses shapes and dtypes that broadcasting or softmax would silently accept."""
    shape = jnp.shape(logits)
    if len(shape) == 0 or shape[-1] < 2:
        raise ValueError(
            f"logits have shape {shape}, expected (..., C) with at least 2 classes: "
            "give a binary classifier two outputs."
        )
    if not jnp.issubdtype(jnp.result_type(logits), jnp.floating):
        raise ValueError(
            f"logits have dtype {jnp.result_type(logits)}, expected floats: the "
            "outputs of a network before softmax."
        )
    labels_dtype = jnp.result_type(labels)
    if not jnp.issubdtype(labels_dtype, jnp.floating):
        raise ValueError(
            f"labels have dtype {labels_dtype}, expected floats, one-hot or soft: use "
            f"jax.nn.one_hot(labels, {shape[-1]}) for class indices."
        )
    if jnp.shape(labels) != shape:
        raise ValueError(
            f"labels have shape {jnp.shape(labels)}, expected the logits' {shape}: use "
            f"jax.nn.one_hot(labels, {shape[-1]}) for class indices."
        )
