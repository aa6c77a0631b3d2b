"""Loads data sets by name, and makes them of the user's arrays.

Fitness comes from the validation split, which is carved out of the training data; the
test split is for one final report.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.resources
import numbers
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from jepbt.arguments import check_whole
from jepbt.datasets import npz, tfds
from jepbt.datasets.arrays import (
    check_labels,
    check_like_train,
    check_no_class_missing,
    count_classes,
    to_split,
    validation_count,
)
from jepbt.datasets.dataset import Dataset, rank_in_class, stratified_split
from jepbt.datasets.label_noise import check_rate, with_label_noise

NAMES = ("fashion_mnist",)  # embedded
VALIDATION_SHARES = {"mnist": 1 / 12, "fashion_mnist": 1 / 12}  # 5,000 of 60,000


def load(
    name: str | os.PathLike = "fashion_mnist",
    *,
    validation: float | None = None,
    label_noise: float = 0.0,
    validation_label_noise: float = 0.0,
    seed: int = 0,
    data_dir: str | os.PathLike | None = None,
) -> Dataset:
    """Loads a data set by its name.

    - "fashion_mnist" comes with the package.
    - "tfds:mnist", "tfds:fashion_mnist" and "tfds:cifar10" are downloaded and prepared
      once, without TensorFlow. Other sets of TFDS ("tfds:NAME") must be prepared
      already, or TensorFlow be installed; their images are of one size and `uint8`,
      with one label each.
    - "tfds:cifar10[:20%]" is a slice of the training split, in examples or whole
      percents; its test split stays whole.
    - "FILE.npz" holds x_train, y_train, perhaps x_validation, y_validation, x_test and
      y_test; or train_image, train_label, and so on.

    "fashion_mnist" holds the first 1,000 training images of each class of Fashion-MNIST
    and all of its test images, in their official order. The first 900 of each class are
    the training split, the other 100 the validation split.

    Args:
        name: the name of a data set, in one of the forms above.
        validation: the fraction or number of training examples to carve out for
            validation, with the classes in equal proportion. None takes the validation
            split that comes with the set, if there is one; otherwise 5,000 of the
            60,000 of MNIST and Fashion-MNIST, and a tenth of everything else (5,000 of
            CIFAR-10), in proportion for a slice.
        label_noise: the share of training labels to make wrong: see `with_label_noise`.
        validation_label_noise: the share of validation labels to make wrong.
        seed: the seed of the carving and the noise, which depend on nothing else.
        data_dir: the folder where TFDS keeps its data, for "tfds:" names only. None
            takes `TFDS_DATA_DIR`, or `~/tensorflow_datasets`.

    Returns:
        The `Dataset`; images of `uint8` stay so.

    Raises:
        ValueError: if there is no data set of that name, or it cannot be used.
        FileNotFoundError: if there is no such file.
        ConnectionError: if it must be downloaded and there is no network.
        OSError: if a download fails or cannot be stored.

    Example:
        >>> load("fashion_mnist")  # doctest: +NORMALIZE_WHITESPACE
        <Dataset fashion_mnist: 9,000 train / 1,000 validation / 10,000 test,
        28x28x1 uint8, 10 classes (embedded, MIT)>

    Reference:
        Xiao, Rasul & Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
        Machine Learning Algorithms", 2017, https://arxiv.org/abs/1708.07747
    """
    check_rate("label_noise", label_noise)
    check_rate("validation_label_noise", validation_label_noise)
    text = os.fspath(name) if isinstance(name, (str, os.PathLike)) else ""
    is_tfds = text.startswith("tfds:")
    if data_dir is not None and not is_tfds:
        raise ValueError(
            f"datasets.load: data_dir={data_dir!r} is for names like 'tfds:mnist', not "
            f"for {name!r}."
        )
    if is_tfds:
        dataset = _from_tfds(text, validation, seed, data_dir)
    elif text in NAMES:
        dataset = _embedded(text, validation, seed)
    elif text.endswith(".npz"):
        dataset = _from_npz(Path(text), validation, seed)
    else:
        raise _unknown(name)
    return with_label_noise(
        dataset, label_noise, validation_label_noise=validation_label_noise, seed=seed
    )


def _unknown(name: Any) -> ValueError:
    known = [*NAMES, *(f"tfds:{each}" for each in tfds.PREPARED_HERE)]
    close = difflib.get_close_matches(str(name).lower(), known, n=1)
    suggestion = f" Did you mean {close[0]!r}?" if close else ""
    return ValueError(
        f"datasets.load: name={name!r} is unknown.{suggestion} Available: "
        f"{', '.join(map(repr, known))}, other sets of TFDS as 'tfds:NAME', and "
        "'FILE.npz'. Arrays of your own become a data set by "
        "jepbt.datasets.from_arrays."
    )


def _embedded(name: str, validation: float | None, seed: int) -> Dataset:
    file = importlib.resources.files("jepbt.datasets").joinpath(f"{name}.npz")
    # Every array in the file has a checksum, which reading it verifies.
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
        image, label = arrays["train_image"], arrays["train_label"]
        test = arrays["test_image"], arrays["test_label"]
    if validation is None:
        is_train = rank_in_class(label) < 900
        validation = image[~is_train], label[~is_train]
        image, label = image[is_train], label[is_train]
    dataset = from_arrays(
        (image, label), validation, test, num_classes=10, name=name, seed=seed
    )
    return dataclasses.replace(dataset, note="embedded, MIT")


def _from_tfds(
    name: str, validation: float | None, seed: int, data_dir: Any
) -> Dataset:
    stock_name, start, stop = tfds.parse_name(name.removeprefix("tfds:"))
    arrays = tfds.load_arrays(stock_name, data_dir)
    splits = {
        split: (arrays[f"{split}_image"], arrays[f"{split}_label"])
        for split in tfds.SPLITS
        if f"{split}_image" in arrays
    }
    rows = tfds.slice_of(start, stop, len(arrays["train_label"]))
    if validation is None:
        share = VALIDATION_SHARES.get(re.split("[/:]", stock_name)[0], 0.1)
        validation = splits.get("validation", share)
    dataset = from_arrays(
        tuple(part[rows] for part in splits["train"]),
        validation,
        splits.get("test"),
        num_classes=int(arrays["num_classes"]),
        name=name,
        seed=seed,
    )
    return dataclasses.replace(dataset, note="TensorFlow Datasets")


def _from_npz(path: Path, validation: float | None, seed: int) -> Dataset:
    splits = npz.read(path)
    if validation is None:
        validation = splits.get("validation", 0.1)
    try:
        dataset = from_arrays(
            splits["train"], validation, splits.get("test"), name=path.stem, seed=seed
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return dataclasses.replace(dataset, note=str(path))


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
    `float32`. Anything that `np.asarray` accepts will do; arrays are copied only if
    they must be converted.

    Args:
        train: `(images, labels)` or `{"image": images, "label": labels}`: images of
            `uint8` or float, `[N, H, W, C]`, `[N, H, W]` or `[N, D]`, labels
            integer `[N]`.
        validation: images and labels like `train`; or the fraction or number of
            examples to carve out of `train`, with the classes in equal proportion.
        test: images and labels like `train`, or None.
        num_classes: the number of classes, of which some may have no training example.
            None takes the largest training label plus one, and then each class needs
            one.
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
    splits = {"train": to_split("train", train)}
    is_carved = isinstance(validation, numbers.Real)
    if not is_carved:
        splits["validation"] = to_split("validation", validation)
    if test is not None:
        splits["test"] = to_split("test", test)
    classes = count_classes(splits["train"]["label"], num_classes)
    for field, split in splits.items():
        check_labels(field, split["label"], classes)
        check_like_train(field, "image", split, splits["train"])
    if is_carved:
        everything = splits["train"]
        count = validation_count(validation, len(everything["label"]))
        carved = stratified_split(everything["label"], count, seed)
        for field, rows in zip(("train", "validation"), carved, strict=True):
            splits[field] = {part: array[rows] for part, array in everything.items()}
    if num_classes is None:
        check_no_class_missing(splits["train"]["label"], classes)
    for split in splits.values():
        split["label"] = split["label"].astype(np.int32)
    return Dataset(name, **{"test": None, **splits}, num_classes=classes)
