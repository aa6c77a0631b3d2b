"""Data sets of Hugging Face's library, written to disk by the real library."""

import importlib

import numpy as np
import pytest
from example_scripts import load_example

# Where the library is missing, `datasets` is this folder.
pytest.importorskip("datasets.features", reason="pip install 'jepbt[data]'")
datasets = importlib.import_module("datasets")

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (40, 6, 5), np.uint8)
VECTORS = rng.normal(size=(40, 7)).astype(np.float32)
LABELS = np.arange(40) % 4
CLASSES = datasets.ClassLabel(num_classes=4)


def load(*args, **settings):
    return load_example("hugging_face").load(*args, **settings)


def write(folder, columns, features, **splits):
    """Writes rows of the columns as a `DatasetDict`, and returns the folder's name."""
    features = datasets.Features(features)
    datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict(
                {column: values[rows] for column, values in columns.items()},
                features=features,
            )
            for name, rows in splits.items()
        }
    ).save_to_disk(str(folder))
    return str(folder)


def test_images_and_their_classes_come_back_as_they_were_written(tmp_path):
    from PIL import Image

    images = np.empty(40, object)
    images[:] = [Image.fromarray(pixels) for pixels in PIXELS]
    folder = write(
        tmp_path / "pictures",
        {"image": images, "label": LABELS},
        {"image": datasets.Image(), "label": CLASSES},
        train=slice(0, 20),
        validation=slice(20, 28),
        test=slice(28, 40),
    )
    dataset = load(folder)
    rows = {"train": slice(0, 20), "validation": slice(20, 28), "test": slice(28, 40)}
    for name, where in rows.items():
        split = getattr(dataset, name)
        np.testing.assert_array_equal(split["image"][..., 0], PIXELS[where])
        np.testing.assert_array_equal(split["label"], LABELS[where])
        assert split["image"].dtype == np.uint8


def test_other_columns_are_named_and_validation_is_carved_out(tmp_path):
    folder = write(
        tmp_path / "rows",
        {"values": VECTORS, "kind": LABELS, "note": np.full(40, "aside")},
        {
            "values": datasets.Sequence(datasets.Value("float32"), length=7),
            "kind": CLASSES,
            "note": datasets.Value("string"),
        },
        train=slice(0, 40),
    )
    dataset = load(folder, image="values", label="kind")
    assert dataset.test is None and len(dataset.validation["label"]) == 4
    found = np.concatenate([dataset.train["image"], dataset.validation["image"]])
    np.testing.assert_array_equal(np.sort(found, 0), np.sort(VECTORS, 0))
