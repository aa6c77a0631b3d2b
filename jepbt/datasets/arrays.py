"""Makes data sets of the user's arrays, after checking them.

Every error names the split and the part, the value, what is allowed and the cure.
"""

import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from jepbt.arguments import check_whole, is_real, is_whole
from jepbt.datasets.conversion import pixel_advice, to_inputs, to_labels
from jepbt.datasets.dataset import Dataset, Split, stratified_split


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

    Images `[N, H, W]` gain a channel axis. `uint8` counts as pixels and stays as it is,
    at any rank; other integers are allowed as `[N, D]` only, such as token ids, and
    become `int32`; floats and bools become `float32`. Anything that `np.asarray`
    accepts will do; arrays are copied only if they must be converted.

    Args:
        train: `(images, labels)` or `{"image": images, "label": labels}`: images
            `[N, H, W, C]`, `[N, H, W]` or `[N, D]`; labels integer `[N]`, or a
            probability for each class, `[N, C]`, in rows that sum to one.
        validation: images and labels like `train`; or the fraction or number of
            examples to carve out of `train`, with the classes in equal proportion.
        test: images and labels like `train`, or None.
        num_classes: the number of classes, of which some may have no training example.
            None takes the largest training label plus one, and then each class needs
            one; labels `[N, C]` tell by themselves.
        name: the data set's name, for reports.
        seed: the seed of the carving, which depends on nothing else.

    Returns:
        The `Dataset`.

    Raises:
        ValueError: if the arrays or settings are not as above, or an image is not
            finite; the message names the split and the part.

    Example:
        >>> images = np.zeros((20, 8, 8), np.uint8)
        >>> dataset = from_arrays((images, np.arange(20) % 2), validation=4)
        >>> dataset
        <Dataset arrays: 16 train / 4 validation, 8x8x1 uint8, 2 classes>
        >>> np.bincount(dataset.validation["label"]).tolist()
        [2, 2]
    """
    check_whole("", "seed", seed, 0)
    splits = {"train": _to_split("train", train)}
    is_carved = isinstance(validation, numbers.Real)
    if not is_carved:
        splits["validation"] = _to_split("validation", validation)
    if test is not None:
        splits["test"] = _to_split("test", test)
    classes = _count_classes(splits["train"]["label"], num_classes)
    for field, split in splits.items():
        _check_labels(field, split["label"], classes)
        check_like_train(field, "image", split, splits["train"])
    if is_carved:
        everything = splits["train"]
        count = _validation_count(validation, len(everything["label"]))
        carved = stratified_split(everything["label"], count, seed)
        for field, rows in zip(("train", "validation"), carved, strict=True):
            splits[field] = {part: array[rows] for part, array in everything.items()}
    if num_classes is None and splits["train"]["label"].ndim == 1:
        _check_no_class_missing(splits["train"]["label"], classes)
    for split in splits.values():
        if split["label"].ndim == 1:
            split["label"] = split["label"].astype(np.int32)
    return Dataset(name, **{"test": None, **splits}, num_classes=classes)


def _to_split(field: str, value: Any) -> Split:
    """Makes checked images and labels of what a user gave for a split."""
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
    image = to_images(f"{field} image", image)
    label = to_labels(f"{field} label", label)
    if len(image) != len(label):
        raise ValueError(
            f"{field}: {len(image)} images and {len(label)} labels; each image needs "
            "one label."
        )
    return {"image": image, "label": label}


def to_images(field: str, value: Any) -> np.ndarray:
    """Makes images `[N, H, W, C]` or vectors `[N, D]` of what a user gave."""
    images = to_inputs(field, value)
    if images.ndim not in (2, 3, 4) or 0 in images.shape:
        raise ValueError(
            f"{field} has shape {images.shape}; allowed are [N, D], [N, H, W] and "
            "[N, H, W, C], none of them 0."
        )
    if images.dtype.kind in "iu" and images.dtype != np.uint8 and images.ndim > 2:
        raise ValueError(
            f"{field} has {pixel_advice(images)}. Images are uint8, from 0 to 255, or "
            "floats; other integers are token ids or counts, [N, T]."
        )
    return images[..., None] if images.ndim == 3 else images


def _count_classes(labels: np.ndarray, num_classes: Any) -> int:
    """Returns the number of classes, taken from the labels if the user gave none."""
    source = ""
    if num_classes is None and labels.ndim == 2:
        num_classes = labels.shape[1]
    elif num_classes is None:
        # Negative labels are refused later, whatever the largest one is.
        num_classes = max(int(labels.max()) + 1, 2 if labels.min() < 0 else 0)
        source = " by the largest training label"
    if not is_whole(num_classes) or num_classes < 2:
        raise ValueError(
            f"num_classes={num_classes!r}{source}; a classification needs an integer "
            "of at least 2."
        )
    return int(num_classes)


def _check_labels(field: str, labels: np.ndarray, num_classes: int) -> None:
    """Refuses labels that are none of the classes' numbers."""
    if labels.ndim == 2:
        if labels.shape[1] != num_classes:
            raise ValueError(
                f"{field} label has shape {labels.shape}, with probabilities of "
                f"{labels.shape[1]} classes; there are {num_classes}."
            )
        return
    bad = (labels < 0) | (labels >= num_classes)
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(
            f"{field} label has {np.count_nonzero(bad)} values outside 0 to "
            f"{num_classes - 1}, the first being {labels[first]} at {first}. Number "
            "the classes from 0, np.unique(labels, return_inverse=True)[1], or pass "
            "num_classes."
        )


def check_like_train(field: str, part: str, split: Split, train: Split) -> None:
    """Refuses a part of a split of another shape or dtype than that of the training."""
    array, wanted = split[part], train[part]
    if array.shape[1:] != wanted.shape[1:] or array.dtype != wanted.dtype:
        raise ValueError(
            f"{field} {part} has examples of {array.dtype}{list(array.shape[1:])}, "
            f"train {part} of {wanted.dtype}{list(wanted.shape[1:])}; they must be "
            "alike."
        )


def _validation_count(validation: Any, num_examples: int) -> int:
    """Returns the number of examples that a fraction or number carves out.

    A fraction takes one at least.
    """
    if num_examples < 2:
        raise ValueError(
            f"train has {num_examples} example, of which none can be spared for "
            "validation; give it at least 2, or validation=(images, labels)."
        )
    if is_whole(validation):
        count = int(validation)
    elif is_real(validation) and 0 < validation < 1:
        count = max(1, round(float(validation) * num_examples))
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
    """Refuses training labels that leave a class without an example."""
    present = np.unique(labels)
    num_missing = num_classes - len(present)
    if num_missing:
        is_gap = present != np.arange(len(present))
        first = int(np.argmax(is_gap)) if is_gap.any() else len(present)
        raise ValueError(
            f"train label has no example of {num_missing} of {num_classes} classes, "
            f"the first being class {first}, once validation is taken. Number the "
            "classes without gaps, np.unique(labels, return_inverse=True)[1], or, if "
            "this is meant, make the data by jepbt.datasets.from_arrays(..., "
            f"num_classes={num_classes})."
        )
