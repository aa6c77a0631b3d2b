"""Data sets: train, validation and test as NumPy arrays, checked before they are used.

Fitness comes from the validation split, which is carved out of the training data; the
test split is for one final report.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.resources
import numbers
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

Split: TypeAlias = dict[str, np.ndarray]

NAMES = ("fashion_mnist",)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """The splits of one data set; `load` and `from_arrays` make and check them.

    A split is a dictionary of "image", `uint8` or `float32` `[N, H, W, C]` or
    `[N, D]`, and "label", `int32[N]`.

    Attributes:
        name: of the data set.
        train: for gradients.
        validation: for fitness.
        test: for one final report, or None.
        num_classes: `C`; labels are from 0 to `C - 1`.
        note: where it comes from, and its licence.
    """

    name: str
    train: Split
    validation: Split
    test: Split | None
    num_classes: int
    note: str = ""

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


def load(name: str = "fashion_mnist") -> Dataset:
    """Loads a data set that comes with the package.

    "fashion_mnist" holds the first 1,000 training images of each class of Fashion-MNIST
    and all of its test images, in their official order. The first 900 of each class are
    the training split, the other 100 the validation split.

    Args:
        name: one of `NAMES`.

    Returns:
        The `Dataset`, with images `uint8[N, 28, 28, 1]`.

    Raises:
        ValueError: if there is no data set of that name.

    Example:
        >>> load("fashion_mnist")  # doctest: +NORMALIZE_WHITESPACE
        <Dataset fashion_mnist: 9,000 train / 1,000 validation / 10,000 test,
        28x28x1 uint8, 10 classes (embedded, MIT)>

    Reference:
        Xiao, Rasul & Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
        Machine Learning Algorithms", 2017, https://arxiv.org/abs/1708.07747
    """
    if name not in NAMES:
        close = difflib.get_close_matches(str(name).lower(), NAMES, n=1)
        suggestion = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"datasets.load: name={name!r} is unknown.{suggestion} Available: "
            f"{', '.join(map(repr, NAMES))}. Arrays of your own become a data set by "
            "jepbt.datasets.from_arrays."
        )
    file = importlib.resources.files("jepbt").joinpath(f"data/{name}.npz")
    # Every array in the file has a checksum, which reading it verifies.
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
        image, label = arrays["train_image"], arrays["train_label"].astype(np.int32)
        test = {
            "image": arrays["test_image"],
            "label": arrays["test_label"].astype(np.int32),
        }
    is_train = _rank_in_class(label) < 900
    return Dataset(
        name=name,
        train={"image": image[is_train], "label": label[is_train]},
        validation={"image": image[~is_train], "label": label[~is_train]},
        test=test,
        num_classes=10,
        note="embedded, MIT",
    )


def from_arrays(
    train: Any,
    validation: Any = 0.1,
    test: Any = None,
    *,
    num_classes: int | None = None,
    name: str = "arrays",
    seed: int = 0,
) -> Dataset:
    """Makes a data set of the user's arrays, after checking them.

    Images `[N, H, W]` gain a channel axis. `uint8` stays as it is, floats become
    `float32`. Whatever `np.asarray` takes will do; arrays are not copied unless needed.

    Args:
        train: `(images, labels)` or `{"image": images, "label": labels}`: images of
            `uint8` or float, `[N, H, W, C]`, `[N, H, W]` or `[N, D]`, labels
            integer `[N]`.
        validation: like `train`; or how much to carve out of `train`, a fraction or a
            number of examples, with the classes in equal proportion.
        test: like `train`, or None.
        num_classes: `C`; None takes the largest training label plus one. Given, some
            classes may have no training example.
        name: for reports.
        seed: of the carving, which nothing else influences.

    Returns:
        The `Dataset`.

    Raises:
        ValueError: if anything about the arrays or settings is not as above, or an
            image is not finite; the message names the split and the part.

    Example:
        >>> images = np.zeros((20, 8, 8), np.uint8)
        >>> dataset = from_arrays((images, np.arange(20) % 2), validation=4)
        >>> dataset
        <Dataset arrays: 16 train / 4 validation, 8x8x1 uint8, 2 classes>
        >>> np.bincount(dataset.validation["label"]).tolist()
        [2, 2]
    """
    splits = {"train": _to_split("train", train)}
    is_carved = isinstance(validation, numbers.Real)
    if not is_carved:
        splits["validation"] = _to_split("validation", validation)
    if test is not None:
        splits["test"] = _to_split("test", test)
    classes = _count_classes(splits["train"]["label"], num_classes)
    for field, split in splits.items():
        _check_labels(field, split["label"], classes)
        _check_like_train(field, split["image"], splits["train"]["image"])
    if is_carved:
        labels = splits["train"]["label"]
        count = _validation_count(validation, len(labels))
        kept, carved = stratified_split(labels, count, seed)
        everything = splits["train"]
        splits["train"] = _take(everything, kept)
        splits["validation"] = _take(everything, carved)
    if num_classes is None:
        _check_no_class_missing(splits["train"]["label"], classes)
    for split in splits.values():
        split["label"] = split["label"].astype(np.int32)
    return Dataset(
        name=name,
        train=splits["train"],
        validation=splits["validation"],
        test=splits.get("test"),
        num_classes=classes,
    )


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
    is_validation = _rank_in_class(shuffled) < quotas[shuffled]
    return np.sort(order[~is_validation]), np.sort(order[is_validation])


def _rank_in_class(labels: np.ndarray) -> np.ndarray:
    """Counts, for each example, the earlier ones of its class."""
    order = np.argsort(labels, kind="stable")
    sizes = np.unique(labels, return_counts=True)[1]
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - starts
    return ranks


def _take(split: Split, indices: np.ndarray) -> Split:
    return {name: array[indices] for name, array in split.items()}


def _to_split(field: str, value: Any) -> Split:
    if isinstance(value, Mapping):
        if set(value) != {"image", "label"}:
            raise ValueError(
                f'{field}: a dictionary must have the keys "image" and "label" and no '
                f"others, got {sorted(map(str, value))}."
            )
        image, label = value["image"], value["label"]
    elif isinstance(value, (tuple, list)) and len(value) == 2:
        image, label = value
    else:
        allowed = ", a fraction or a number" if field == "validation" else ""
        raise ValueError(
            f"{field} must be (images, labels) or "
            f'{{"image": ..., "label": ...}}{allowed}; got {type(value).__name__}.'
        )
    image = _to_images(f"{field} image", image)
    label = _to_labels(f"{field} label", label)
    if len(image) != len(label):
        raise ValueError(
            f"{field}: {len(image)} images and {len(label)} labels; each image needs "
            "one label."
        )
    return {"image": image, "label": label}


def _to_array(field: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:  # NumPy's answer to ragged nested sequences
        raise ValueError(
            f"{field} is no array: its examples have different shapes. Crop, resize or "
            "pad them to one."
        ) from error
    if array.dtype == object:
        raise ValueError(
            f"{field} is an array of objects; stack its examples into one array of "
            "numbers, all of one shape."
        )
    return array


def _to_images(field: str, value: Any) -> np.ndarray:
    images = _to_array(field, value)
    is_float = np.issubdtype(images.dtype, np.floating)
    if images.dtype != np.uint8 and not is_float:
        raise ValueError(
            f"{field} has dtype {images.dtype}; allowed are uint8, for pixels from 0 "
            "to 255, and floats. Convert it by .astype of one of them."
        )
    if images.ndim not in (2, 3, 4) or 0 in images.shape:
        raise ValueError(
            f"{field} has shape {images.shape}; allowed are [N, D], [N, H, W] and "
            "[N, H, W, C], none of them 0."
        )
    if is_float:
        images = _to_float32(field, images)
    return images[..., None] if images.ndim == 3 else images


def _to_float32(field: str, images: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        converted = images.astype(np.float32, copy=False)
    is_finite = np.isfinite(converted)
    if is_finite.all():
        return converted
    bad = ~is_finite
    first = tuple(map(int, np.unravel_index(np.argmax(bad), bad.shape)))
    value = images[first]
    advice = (
        "which float32 cannot hold; scale the images"
        if np.isfinite(value)
        else "which no network can learn from; remove or repair those examples"
    )
    raise ValueError(
        f"{field} has {np.count_nonzero(bad)} values like {value} at {first}, the "
        f"first of them, {advice}."
    )


def _to_labels(field: str, value: Any) -> np.ndarray:
    labels = _to_array(field, value)
    if labels.ndim == 2:
        is_column = labels.shape[1] == 1
        what = "is a column" if is_column else "looks one-hot"
        cure = "[:, 0]" if is_column else ".argmax(axis=1)"
        raise ValueError(
            f"{field} has shape {labels.shape} and {what}; labels are integers [N]: "
            f"pass labels{cure}."
        )
    if labels.ndim != 1:
        raise ValueError(f"{field} has shape {labels.shape}; labels are integers [N].")
    if not np.issubdtype(labels.dtype, np.integer) and labels.size:
        raise ValueError(
            f"{field} has dtype {labels.dtype}; labels are integers from 0 to "
            "num_classes - 1: convert numbers by .astype(int), and names by "
            "np.unique(labels, return_inverse=True)[1]."
        )
    return labels


def _count_classes(labels: np.ndarray, num_classes: Any) -> int:
    if num_classes is None:
        num_classes = int(labels.max()) + 1
        source = " by the largest training label"
    else:
        source = ""
    is_integer = isinstance(num_classes, numbers.Integral)
    if not is_integer or isinstance(num_classes, bool) or num_classes < 2:
        raise ValueError(
            f"num_classes={num_classes!r}{source}; a classification needs an integer "
            "of at least 2."
        )
    return int(num_classes)


def _check_labels(field: str, labels: np.ndarray, num_classes: int) -> None:
    bad = (labels < 0) | (labels >= num_classes)
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(
            f"{field} label has {np.count_nonzero(bad)} values outside 0 to "
            f"{num_classes - 1}, the first being {labels[first]} at {first}. Number "
            "the classes from 0, or pass num_classes."
        )


def _check_like_train(field: str, images: np.ndarray, train: np.ndarray) -> None:
    if images.shape[1:] != train.shape[1:] or images.dtype != train.dtype:
        raise ValueError(
            f"{field} image has examples of {images.dtype}{list(images.shape[1:])}, "
            f"train image of {train.dtype}{list(train.shape[1:])}; they must be alike."
        )


def _validation_count(validation: Any, num_examples: int) -> int:
    is_bool = isinstance(validation, bool)
    if isinstance(validation, numbers.Integral) and not is_bool:
        count = int(validation)
    elif 0 < validation < 1 and not is_bool:
        count = round(float(validation) * num_examples)
    else:
        raise ValueError(
            f"validation={validation!r}; allowed are a fraction between 0 and 1, a "
            "whole number of examples, and (images, labels)."
        )
    if not 1 <= count < num_examples:
        raise ValueError(
            f"validation={validation!r} takes {count} of {num_examples} training "
            f"examples; it must take from 1 to {num_examples - 1}."
        )
    return count


def _check_no_class_missing(labels: np.ndarray, num_classes: int) -> None:
    present = np.unique(labels)
    num_missing = num_classes - len(present)
    if num_missing:
        is_gap = present != np.arange(len(present))
        first = int(np.argmax(is_gap)) if is_gap.any() else len(present)
        raise ValueError(
            f"train label has no example of {num_missing} of {num_classes} classes, "
            f"the first being class {first}, once validation is taken. Number the "
            f"classes without gaps, or pass num_classes={num_classes} if this is meant."
        )
