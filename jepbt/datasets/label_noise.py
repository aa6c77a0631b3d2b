"""Makes labels wrong on purpose, for studies of robust losses."""

from __future__ import annotations

import dataclasses

import numpy as np

from jepbt.arguments import check_real, check_whole
from jepbt.datasets.dataset import Dataset, classes_of


def with_label_noise(
    dataset: Dataset,
    label_noise: float,
    *,
    validation_label_noise: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Makes a share of the labels wrong, for studies of robust losses.

    The noise is symmetric: that share of the examples is drawn without regard to class,
    and each gets one of the other classes with equal probability. At 0.4 exactly 40 %
    of the labels are wrong. With the same seed a higher share only adds wrong labels.
    Of probabilities `[N, C]` the likeliest class swaps with the wrong one. Test labels
    stay as they are.

    Args:
        dataset: the data set, which is not changed.
        label_noise: the share of training labels to make wrong, from 0 to 1.
        validation_label_noise: the share of validation labels to make wrong.
        seed: the seed of the draws, which depend on nothing else.

    Returns:
        A `Dataset` with the same images.

    Raises:
        ValueError: if a share is not from 0 to 1.

    Example:
        >>> from jepbt import datasets
        >>> clean = datasets.load("fashion_mnist")
        >>> noisy = with_label_noise(clean, 0.4)
        >>> float((noisy.train["label"] != clean.train["label"]).mean())
        0.4
    """
    check_rate("label_noise", label_noise)
    check_rate("validation_label_noise", validation_label_noise)
    check_whole("", "seed", seed, 0)
    changed, notes = {}, [dataset.note] if dataset.note else []
    rates = {"train": label_noise, "validation": validation_label_noise}
    # Streams start at 1, because NumPy takes the seeds (seed, 0) and seed for the same,
    # and the carving uses seed.
    for stream, (field, rate) in enumerate(rates.items(), start=1):
        if rate:
            split = getattr(dataset, field)
            noisy = noisy_labels(
                split["label"], rate, dataset.num_classes, (seed, stream)
            )
            changed[field] = {**split, "label": noisy}
            notes.append(f"{rate:.0%} of {field} labels wrong")
    return dataclasses.replace(dataset, note=", ".join(notes), **changed)


def noisy_labels(
    labels: np.ndarray, rate: float, num_classes: int, seed: int | tuple[int, ...]
) -> np.ndarray:
    """Makes `round(rate * N)` of `N` labels wrong: see `with_label_noise`.

    Args:
        labels: `int[N]`, from 0 to `num_classes - 1`, or probabilities `f32[N, C]`.
        rate: the share of labels to make wrong, from 0 to 1.
        num_classes: the number of classes.
        seed: the seed of the draw.

    Returns:
        A changed copy of the labels.

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
    old = classes_of(labels)[wrong]
    new = (old + shifts[wrong]) % num_classes
    if labels.ndim == 2:
        noisy[wrong, new], noisy[wrong, old] = labels[wrong, old], labels[wrong, new]
    else:
        noisy[wrong] = new
    return noisy


def check_rate(field: str, rate: float) -> None:
    """Raises a `ValueError` unless a rate is a share of labels."""
    note = ", the share of labels to make wrong: 0.4 for 40 %"
    check_real("", field, rate, 0, 1, note=note)
