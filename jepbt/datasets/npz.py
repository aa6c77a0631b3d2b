"""Reads data sets from .npz files, as Keras and as this package write them."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

SPLITS = ("train", "validation", "test")
KEYS = (("x_{}", "y_{}"), ("{}_image", "{}_label"))
ACCEPTED = (
    "x_train, y_train (and if there are any x_validation, y_validation, x_test, "
    "y_test), or train_image, train_label (and validation_image, validation_label, "
    "test_image, test_label)"
)


def read(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
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
        pairs = {name: (image.format(name), label.format(name)) for name in SPLITS}
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
        what = "holds pickled objects, which could run code" * ("Object" in str(error))
        raise ValueError(
            f"{path}: {key} {what or f'is damaged ({error})'}. Write it again as an "
            "array of numbers."
        ) from error
    if not isinstance(array, np.ndarray):  # NumPy's answer to a file of another kind
        raise ValueError(f"{path}: {key} is no array. Write it by np.savez.")
    return array[:, 0] if is_label and array.shape[1:] == (1,) else array
