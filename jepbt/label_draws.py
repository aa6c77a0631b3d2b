"""Draws from a seed alone: which examples validate, and whose labels are made wrong."""

from __future__ import annotations

import numbers

import numpy as np


def stratified_split(
    labels: np.ndarray, num_validation: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws validation examples from each class in proportion to its size.

    A class of `n` of the `N` examples gives `n * num_validation / N` of them, rounded
    down or up; those with the largest remainders are rounded up.

    Args:
        labels: `int[N]`.
        num_validation: how many of the `N` are for validation.
        seed: of the draw.

    Returns:
        `int[N - num_validation]` and `int[num_validation]`, indices in rising order.

    Raises:
        ValueError: if `num_validation` is not from 1 to `N - 1`.

    Example:
        >>> labels = np.array([0, 0, 1, 1, 1, 1])
        >>> train, validation = stratified_split(labels, 3, seed=0)
        >>> labels[validation].tolist()
        [0, 1, 1]
    """
    labels = np.asarray(labels)
    if not 1 <= num_validation < len(labels):
        raise ValueError(
            f"num_validation={num_validation} of {len(labels)} examples: it must leave "
            f"some on either side, from 1 to {len(labels) - 1}."
        )
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    _, class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    quotas, remainders = np.divmod(sizes * int(num_validation), len(labels))
    # Equal remainders: the larger class first, which spares the rarest.
    first = np.lexsort((-sizes, -remainders))[: num_validation - quotas.sum()]
    quotas[first] += 1
    shuffled = class_of[order]
    is_validation = rank_in_class(shuffled) < quotas[shuffled]
    return np.sort(order[~is_validation]), np.sort(order[is_validation])


def rank_in_class(labels: np.ndarray) -> np.ndarray:
    """Counts, for each example, the earlier ones of its class."""
    order = np.argsort(labels, kind="stable")
    sizes = np.unique(labels, return_counts=True)[1]
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - starts
    return ranks


def noisy_labels(
    labels: np.ndarray, rate: float, num_classes: int, seed: int | tuple[int, ...]
) -> np.ndarray:
    """Replaces a share of the labels by wrong ones, whatever the class.

    Of `N` labels `round(rate * N)` are drawn, and each becomes one of the other classes
    with equal probability: `rate` is the share that is wrong. With the same seed a
    higher rate only adds wrong labels.

    Args:
        labels: `int[N]`, from 0 to `num_classes - 1`.
        rate: from 0 to 1.
        num_classes: `C`.
        seed: of the draw.

    Returns:
        `int[N]`, a copy.

    Raises:
        ValueError: if `rate` is not from 0 to 1.

    Example:
        >>> labels = np.arange(10) % 2
        >>> noisy = noisy_labels(labels, 0.4, num_classes=2, seed=0)
        >>> int((noisy != labels).sum())
        4
    """
    check_rate("rate", rate)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    shifts = generator.integers(1, num_classes, len(labels))
    wrong = order[: round(rate * len(labels))]
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + shifts[wrong]) % num_classes
    return noisy


def check_rate(field: str, rate: float) -> None:
    """Raises a `ValueError` that names the field if `rate` is no share."""
    is_number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
    if not is_number or not 0 <= rate <= 1:
        raise ValueError(
            f"{field}={rate!r}; allowed is the share of labels to make wrong, from 0 "
            "to 1: 0.4 for 40 %."
        )


def check_seed(seed: int) -> None:
    """Raises a `ValueError` if `seed` is none."""
    is_integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not is_integer or seed < 0:
        raise ValueError(f"seed={seed!r}; allowed are integers from 0.")
