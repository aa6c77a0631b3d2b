"""Tunes a bias for each class after training: the control that costs nothing."""

from __future__ import annotations

import numpy as np

_TINY = np.finfo(np.float32).tiny
_MAX_ROUNDS = 50


def tune_biases(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Finds a bias for each class that makes predictions more often right.

    Coordinate ascent: one class after another gets the bias with the highest accuracy,
    found exactly by sorting, until a whole round changes nothing. A bias stays as it
    is unless another is strictly better.

    The probabilities `f32[N, C]` are a network's on validation examples, the labels
    their classes `int[N]`. The biases `f64[C]` are to be added to log-probabilities.

    Example:
        >>> p = np.array([[0.6, 0.4], [0.55, 0.45], [0.9, 0.1]])
        >>> biases = tune_biases(p, np.array([1, 1, 0]))
        >>> biased_accuracy(p, np.array([1, 1, 0]), biases)
        1.0
    """
    is_finite = np.isfinite(probabilities).all(1)
    logits, labels = _to_logits(probabilities[is_finite]), labels[is_finite]
    biases = np.zeros(logits.shape[1])
    for _ in range(_MAX_ROUNDS):
        before = biases.copy()
        for number in range(biases.size):
            biases[number] = _best_bias(logits, labels, biases, number)
        if (biases == before).all():
            break
    return biases


def biased_accuracy(
    probabilities: np.ndarray, labels: np.ndarray, biases: np.ndarray
) -> float:
    """Measures how often the class of the highest biased log-probability is right."""
    predicted = (_to_logits(probabilities) + biases).argmax(1)
    is_right = (predicted == labels) & np.isfinite(probabilities).all(1)
    return float(is_right.mean())


def _to_logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities.astype(np.float64), _TINY))


def _best_bias(
    logits: np.ndarray, labels: np.ndarray, biases: np.ndarray, number: int
) -> float:
    """Finds the best bias of one class while the others stay.

    With the bias `t` the class is predicted where `t` exceeds the gap to the best other
    class. As `t` rises past an example's gap, an example of the class becomes right,
    and one that the best other class had right becomes wrong.
    """
    others = np.delete(logits + biases, number, axis=1)
    names = np.delete(np.arange(biases.size), number)
    gaps = others.max(1) - logits[:, number]
    change = (labels == number) - (labels == names[others.argmax(1)]).astype(int)
    order = np.argsort(gaps, kind="stable")
    gaps, gained = gaps[order], np.cumsum(change[order])
    now = biases[number]
    num_below = int(np.searchsorted(gaps, now))
    gain_now = gained[num_below - 1] if num_below else 0
    # Between equal gaps there is no bias.
    is_last = np.append(gaps[:-1] < gaps[1:], True)
    gain = np.where(is_last, gained, np.iinfo(int).min)
    best = int(gain.argmax())
    if max(gain[best], 0) <= gain_now:
        return float(now)
    if gain[best] <= 0:
        return float(gaps[0] - 1)  # the class is better never predicted
    above = gaps[best + 1] if best + 1 < gaps.size else gaps[best] + 1
    return float((gaps[best] + above) / 2)
