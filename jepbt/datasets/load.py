"""Loads data sets by name: embedded, of TFDS, or from an .npz file.

Fitness comes from the validation split, which is carved out of the training data; the
test split is for one final report.
"""

import dataclasses
import difflib
import importlib.resources
import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jepbt.arguments import user_path
from jepbt.datasets import tfds
from jepbt.datasets.arrays import from_arrays
from jepbt.datasets.dataset import Dataset, rank_in_class
from jepbt.datasets.label_noise import check_noise, with_label_noise

NAMES = ("fashion_mnist",)  # embedded
CLASS_NAMES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt")
CLASS_NAMES += ("sneaker", "bag", "ankle boot")
KEYS = (("x_{}", "y_{}"), ("{}_image", "{}_label"))
ACCEPTED = (
    "x_train, y_train (and if there are any x_validation, y_validation, x_test, "
    "y_test), or train_image, train_label (and validation_image, validation_label, "
    "test_image, test_label)"
)
VALIDATION_SHARES = {"mnist": 1 / 12, "fashion_mnist": 1 / 12}  # 5,000 of 60,000


def load(
    name: str | os.PathLike = "fashion_mnist",
    *,
    validation: float | None = None,
    label_noise: float = 0.0,
    validation_label_noise: float = 0.0,
    label_noise_pattern: str | np.ndarray = "uniform",
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
        label_noise_pattern: "uniform"; "pairs", where each class is mistaken for one
            other; or a matrix `[C, C]`, whose rows sum to one.
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
    check_noise(label_noise, validation_label_noise, label_noise_pattern)
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
        dataset = _from_npz(user_path("name", text), validation, seed)
    else:
        raise _unknown(name)
    return with_label_noise(
        dataset,
        label_noise,
        validation_label_noise=validation_label_noise,
        pattern=label_noise_pattern,
        seed=seed,
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
    return dataclasses.replace(dataset, note="embedded, MIT", class_names=CLASS_NAMES)


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
    splits = _read_npz(path)
    if validation is None:
        validation = splits.get("validation", 0.1)
    try:
        dataset = from_arrays(
            splits["train"], validation, splits.get("test"), name=path.stem, seed=seed
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return dataclasses.replace(dataset, note=str(path))


def _read_npz(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads the images and labels of each split that a file holds.

    Labels `[N, 1]`, as Keras has them for CIFAR, become `[N]`. Arrays of objects are
    refused, since reading them may run code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is no .npz file, or was cut short. Write one by np.savez(path, "
            "x_train=..., y_train=...)."
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {
                split: (_array(path, stored, image), _array(path, stored, label, True))
                for split, (image, label) in _keys_of(path, stored.files).items()
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({error}). Copy or write it again."
        ) from error


def _keys_of(path: Path, found: list[str]) -> dict[str, tuple[str, str]]:
    for image, label in KEYS:
        pairs = {name: (image.format(name), label.format(name)) for name in tfds.SPLITS}
        pairs = {name: pair for name, pair in pairs.items() if set(pair) & set(found)}
        if "train" not in pairs:
            continue
        missing = [key for pair in pairs.values() for key in pair if key not in found]
        if missing:
            raise ValueError(
                f"{path} has no {' and no '.join(missing)}, only {', '.join(found)}. "
                f"Accepted are {ACCEPTED}."
            )
        return pairs
    raise ValueError(
        f"{path} holds {', '.join(found) or 'nothing'}. Accepted are {ACCEPTED}."
    )


def _array(path: Path, stored, key: str, is_label: bool = False) -> np.ndarray:
    try:
        array = stored[key]
    except ValueError as error:  # NumPy's answer to objects, and to a damaged header
        what = f"is damaged ({error})"
        if "Object" in str(error):
            what = "holds pickled objects, which could run code"
        raise ValueError(
            f"{path}: {key} {what}. Write it again as an array of numbers."
        ) from error
    if not isinstance(array, np.ndarray):  # NumPy's answer to a file of another kind
        raise ValueError(f"{path}: {key} is no array. Write it by np.savez.")
    return array[:, 0] if is_label and array.shape[1:] == (1,) else array
