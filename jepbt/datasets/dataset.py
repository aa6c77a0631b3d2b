"""Defines a data set, and how validation is carved out of its training data."""

import dataclasses
from typing import TypeAlias

import numpy as np

Split: TypeAlias = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """The splits of one data set, as `load` and `from_arrays` make them.

    A split is a dictionary of "image", `uint8` or `float32` `[N, H, W, C]` or
    `[N, D]`, or `int32[N, D]`, and "label", `int32[N]`, or `f32[N, C]` with each
    class's probability. The splits may have labels of either kind.

    Attributes:
        name: the name of the data set.
        train: the split that members are trained on.
        validation: the split that fitness is measured on.
        test: the split for one final report, or None.
        num_classes: the number of classes, `C`; labels are from 0 to `C - 1`.
        note: the source of the data, and its licence.
        class_names: the names of the classes, for figures, or None.
    """

    name: str
    train: Split
    validation: Split
    test: Split | None
    num_classes: int
    note: str = ""
    class_names: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        counts = " / ".join(
            f"{len(split['label']):,} {name}"
            for name, split in splits.items()
            if split is not None
        )
        image = self.train["image"]
        shape = "x".join(map(str, image.shape[1:]))
        note = f" ({self.note})" if self.note else ""
        return (
            f"<Dataset {self.name}: {counts}, {shape} {image.dtype}, "
            f"{self.num_classes} classes{note}>"
        )


def stratified_split(
    labels: np.ndarray, num_validation: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws validation examples from each class in proportion to its size.

    A class of `n` of the `N` examples gives `n * num_validation / N` of them, rounded
    down or up; those with the largest remainders are rounded up.

    Args:
        labels: `int[N]`, the class of each example, or probabilities `f32[N, C]`.
        num_validation: the number of examples for validation.
        seed: the seed of the draw.

    Returns:
        The indices of the training examples, `int[N - num_validation]`, and of the
        validation examples, `int[num_validation]`, in rising order.

    Raises:
        ValueError: if `num_validation` is not from 1 to `N - 1`.

    Example:
        >>> labels = np.array([0, 0, 1, 1, 1, 1])
        >>> train, validation = stratified_split(labels, 3, seed=0)
        >>> labels[validation].tolist()
        [0, 1, 1]
    """
    labels = classes_of(np.asarray(labels))
    if not 1 <= num_validation < len(labels):
        raise ValueError(
            f"num_validation={num_validation} of {len(labels)} examples: it must leave "
            f"some on either side, from 1 to {len(labels) - 1}."
        )
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    _, class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    quotas, remainders = np.divmod(sizes * int(num_validation), len(labels))
    # Of equal remainders the larger class gives an example, to spare the rarest.
    first = np.lexsort((-sizes, -remainders))[: num_validation - quotas.sum()]
    quotas[first] += 1
    shuffled = class_of[order]
    is_validation = rank_in_class(shuffled) < quotas[shuffled]
    return np.sort(order[~is_validation]), np.sort(order[is_validation])


def classes_of(labels: np.ndarray) -> np.ndarray:
    """Returns each example's class, `int[N]`: the likeliest of probabilities `[N, C]`.

    Example:
        >>> classes_of(np.array([[0.2, 0.8], [0.6, 0.4]])).tolist()
        [1, 0]
    """
    return labels.argmax(1) if labels.ndim == 2 else labels


def rank_in_class(labels: np.ndarray) -> np.ndarray:
    """Counts, for each example, the earlier examples of its class: `int[N]`."""
    order = np.argsort(labels, kind="stable")
    sizes = np.unique(labels, return_counts=True)[1]
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - starts
    return ranks
