"""Computes losses of classification, for fixed and for evolving settings.

Every loss is a `LossFn` of one-hot or soft labels, as in optax, so losses of optax can
stand beside these. A builder's setting may be a Python number, which is checked, or
traced, one value per member of a population, which cannot be. Wrong shapes, and labels
that are class indices, raise a `ValueError` that tells a remedy.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jepbt.arguments import check_scalar, check_transition
from jepbt.losses import taylorglo

LossFn: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""`(logits f32[..., C], labels f32[..., C]) -> f32[...]`, one loss for each example."""


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Measures cross-entropy: `optax.softmax_cross_entropy`, with its input checked.

    It is a `LossFn`, as a builder returns it.

    Example:
        >>> loss = cross_entropy(jnp.zeros(4), jax.nn.one_hot(2, 4))
        >>> round(float(loss), 4)  # log 4
        1.3863
    """
    _check(logits, labels)
    return optax.softmax_cross_entropy(logits, labels)


def brier(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Measures the Brier score: the squared distance of probabilities to labels.

    It is a `LossFn`, summed over the classes: from 0 to 2 for one-hot labels.

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


def focal(gamma: float | jax.Array) -> LossFn:
    """Builds cross-entropy that counts an example less the surer it is right.

    The true class's loss `-log p` is multiplied by `(1 - p)^gamma`; at `gamma = 0` it
    is cross-entropy. Soft labels weigh the classes' losses.

    Args:
        gamma: `f32[]` from 0 up; 2 in the paper.

    Example:
        >>> loss_fn = focal(2.0)
        >>> round(float(loss_fn(jnp.zeros(4), jax.nn.one_hot(2, 4))), 4)  # 9/16 log 4
        0.7798

    Reference:
        Lin et al., "Focal Loss for Dense Object Detection", 2017, equation 4,
        https://arxiv.org/abs/1708.02002
    """
    check_scalar("", "gamma", gamma, 0)

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        _check(logits, labels)
        log_p = jax.nn.log_softmax(logits)
        # A power's gradient is nan at 0, which 1 - p reaches by rounding.
        others = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(log_p.dtype).tiny)
        return -jnp.sum(labels * others**gamma * log_p, axis=-1)

    return loss


def logit_adjusted(
    counts: Sequence[float] | jax.Array, tau: float | jax.Array = 1.0
) -> LossFn:
    """Builds cross-entropy for rare classes: logits get `tau log(share of the class)`.

    A network trained with it treats all classes alike where the training examples do
    not: use its plain logits for predictions.

    Args:
        counts: `[C]` the number of training examples of each class, above 0.
        tau: `f32[]` the strength: 0 is cross-entropy, 1 the paper's choice.

    Raises:
        ValueError: if a count is not above 0, or there is not one for each class.

    Example:
        >>> loss_fn = logit_adjusted([30, 10])
        >>> round(float(loss_fn(jnp.zeros(2), jax.nn.one_hot(1, 2))), 4)  # log 4
        1.3863

    Reference:
        Menon et al., "Long-Tail Learning via Logit Adjustment", 2021, equation 10,
        https://arxiv.org/abs/2007.07314
    """
    offsets = log_shares("logit_adjusted", counts)
    check_scalar("logit_adjusted", "tau", tau)

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        _check(logits, labels)
        check_classes("logit_adjusted", "counts", len(offsets), logits)
        added = jnp.broadcast_to(jnp.asarray(offsets, logits.dtype), logits.shape)
        return optax.softmax_cross_entropy(logits + tau * added, labels)

    return loss


def forward_corrected(transition: np.ndarray | jax.Array) -> LossFn:
    """Builds cross-entropy for labels that are wrong by a known pattern.

    The network's probabilities `p` of the true classes become those of the labels that
    one sees, `p T`, and these are compared with the labels. What is learned is `p`.

    Gold Loss Correction is this loss with an estimate of `T` from a few trusted labels:
    train with `cross_entropy` first; row `a` of `T` is the mean of that network's
    softmax over the trusted images of class `a`; then train with this.

    Args:
        transition: `f32[C, C]` the probability `T[a, b]` that an example of class `a`
            is labelled `b`; rows sum to one. A traced matrix, which is a member's
            own, cannot be checked for that.

    Raises:
        ValueError: if the matrix is not square, or a row does not sum to one.

    Example:
        >>> sees_half = forward_corrected(np.array([[0.5, 0.5], [0.0, 1.0]]))
        >>> is_first = jnp.array([20.0, 0.0])
        >>> round(float(sees_half(is_first, jax.nn.one_hot(1, 2))), 4)  # log 2
        0.6931

    Reference:
        Patrini et al., "Making Deep Neural Networks Robust to Label Noise: a Loss
        Correction Approach", 2017, theorem 2, https://arxiv.org/abs/1609.03683;
        Hendrycks et al., "Using Trusted Data to Train Deep Networks on Labels Corrupted
        by Severe Noise", 2018, https://arxiv.org/abs/1802.05300
    """
    if not isinstance(transition, jax.core.Tracer):
        matrix = check_transition("forward_corrected", "transition", transition)
        # One of JAX's stays what it is, and so does the program that it is part of.
        transition = transition if isinstance(transition, jax.Array) else matrix

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        _check(logits, labels)
        for count in transition.shape:
            check_classes("forward_corrected", "transition", count, logits)
        seen = jax.nn.softmax(logits) @ jnp.asarray(transition, logits.dtype)
        # The constant bounds the loss of a label that the matrix holds impossible.
        return -jnp.sum(labels * jnp.log(seen + 1e-6), axis=-1)

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


def log_shares(where: str, counts: Sequence[float] | jax.Array) -> np.ndarray:
    """Computes the logarithm of each class's share of the examples: `f64[C]`.

    Raises:
        ValueError: if a count is not above 0.
    """
    counts = np.asarray(counts)
    are_numbers = counts.ndim == 1 and jnp.issubdtype(counts.dtype, jnp.number)
    if not are_numbers or not np.all(np.isfinite(counts) & (counts > 0)):
        raise ValueError(
            f"{where}: counts={counts.tolist()} must hold one number above 0 for each "
            "class, such as np.bincount(labels)."
        )
    return np.log(counts / counts.sum())


def check_classes(where: str, name: str, count: int, logits: jax.Array) -> None:
    """Raises a `ValueError` if a setting is for another number of classes."""
    if logits.shape[-1] != count:
        raise ValueError(
            f"{where}: {name} is of {count} classes, the logits are of "
            f"{logits.shape[-1]}."
        )


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
