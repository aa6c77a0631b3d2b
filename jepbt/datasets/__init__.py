"""Loads data sets: train, validation and test as NumPy arrays, checked before use."""

from jepbt.datasets.arrays import from_arrays
from jepbt.datasets.dataset import Dataset, Split, stratified_split
from jepbt.datasets.label_noise import label_pairs, noisy_labels, with_label_noise
from jepbt.datasets.load import NAMES, load

__all__ = [
    "NAMES",
    "Dataset",
    "Split",
    "from_arrays",
    "label_pairs",
    "load",
    "noisy_labels",
    "stratified_split",
    "with_label_noise",
]
