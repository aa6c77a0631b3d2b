"""Computes losses that hold a table of which classes the labels confuse."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jepbt.arguments import check_choice
from jepbt.losses.classification import (
    check_classes,
    cross_entropy,
    forward_corrected,
    log_shares,
)


@dataclasses.dataclass(frozen=True)
class AdaptiveLoss:
    """A loss with parameters that learn from validation labels: see `jepbt.adapt`.

    Attributes:
        init: `(num_classes) -> parameters`, a pytree of `f32`.
        loss: `(parameters, logits [..., C], labels [..., C]) -> f32[...]`.
        limit: the largest size of a parameter.
        start: `(parameters, logits [N, C], labels [N, C]) -> parameters`, what they
            become once, after a member's first generation, by its own logits for the
            trusted examples; or `None`.
        table: `(parameters) -> f32[C, C]` for people to look at, or `None`.
        meaning: the words for a row and for a column of the table.
    """

    init: Callable[[int], Any]
    loss: Callable[[Any, jax.Array, jax.Array], jax.Array]
    limit: float
    start: Callable[[Any, jax.Array, jax.Array], Any] | None = None
    table: Callable[[Any], jax.Array] | None = None
    meaning: tuple[str, str] = ("row", "column")


def confusion(
    form: str = "transition", *, counts: Sequence[float] | jax.Array | None = None
) -> AdaptiveLoss:
    """Makes a loss that learns which classes the training labels confuse.

    It is for `jepbt.adapt`, which trains its table by the gradient of the validation
    loss. The forms are:

    - `"transition"`: `-log(p T)[label]`, as in `losses.forward_corrected`, where `T =
      softmax(F)` by rows. `F` is 4 on the diagonal at first and stays within ±8. After
      a member's first generation row `a` of `T` becomes the mean of its own `p T` over
      the trusted images of class `a`, Gold Loss Correction's estimate. Entry `T[a, b]`
      reads: so many of class `a` are labelled `b`.
    - `"offsets"`: cross-entropy of `z + log(share of each class) + A[label]`. `A` has
      rows of mean 0, starts at 0 and stays within ±6. It covers rare classes too. A
      low entry `A[b, a]` reads: what is labelled `b` may well be an `a`.

    Args:
        form: "transition" or "offsets".
        counts: `[C]` the number of training examples of each class, for "offsets";
            `None` if all are alike.

    Raises:
        ValueError: if the form is neither, or counts are not for it.

    Example:
        >>> loss = confusion()
        >>> [round(p, 2) for p in loss.table(loss.init(3))[0].tolist()]
        [0.96, 0.02, 0.02]

    Reference:
        Patrini et al., "Making Deep Neural Networks Robust to Label Noise: a Loss
        Correction Approach", 2017, https://arxiv.org/abs/1609.03683; Hendrycks et al.,
        "Using Trusted Data to Train Deep Networks on Labels Corrupted by Severe Noise",
        2018, https://arxiv.org/abs/1802.05300
    """
    check_choice("confusion", "form", form, ("transition", "offsets"))
    if form == "offsets":
        shares = None if counts is None else log_shares("confusion", counts)
        return AdaptiveLoss(
            init=lambda num_classes: jnp.zeros((num_classes, num_classes), jnp.float32),
            loss=_with_offsets(shares),
            limit=6.0,
            table=_centre,
            meaning=("label", "class"),
        )
    if counts is not None:
        raise ValueError(
            "confusion: counts are for form='offsets'; a transition matrix needs none."
        )
    return AdaptiveLoss(
        init=lambda num_classes: 4.0 * jnp.eye(num_classes, dtype=jnp.float32),
        loss=lambda table, *example: forward_corrected(_transition(table))(*example),
        limit=8.0,
        start=_estimate,
        table=_transition,
        meaning=("true class", "label"),
    )


def _transition(table: jax.Array) -> jax.Array:
    return jax.nn.softmax(table, axis=-1)


def _estimate(table: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Estimates the transition from trusted labels; classes without keep their row."""
    seen = jax.nn.softmax(logits) @ _transition(table)
    counts = labels.sum(0)[:, None]
    mean = labels.T @ seen / jnp.maximum(counts, 1e-6)
    return jnp.where(counts > 0, jnp.log(mean + 1e-3), table)


def _centre(table: jax.Array) -> jax.Array:
    return table - table.mean(-1, keepdims=True)


def _with_offsets(shares: Any) -> Callable[..., jax.Array]:
    def loss(table: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
        moved = logits + labels @ _centre(table).astype(logits.dtype)
        if shares is not None:
            check_classes("confusion", "counts", len(shares), logits)
            moved += jnp.broadcast_to(jnp.asarray(shares, logits.dtype), logits.shape)
        return cross_entropy(moved, labels)

    return loss
