"""Files and names: what is there is loaded, and what is wrong with it is said."""

import os
import zipfile

import numpy as np
import pytest

from jepbt import datasets

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 4, 4), np.uint8)
LABELS = np.arange(60, dtype=np.uint8) % 3
TRAIN = {"x_train": IMAGES, "y_train": LABELS}
TEST = {"x_test": IMAGES[:6], "y_test": LABELS[:6]}


@pytest.fixture
def save(tmp_path):
    def to_file(name="toy.npz", **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return to_file


def all_images(*splits):
    return sorted(image.tobytes() for split in splits for image in split["image"])


@pytest.mark.parametrize("convert", [str, lambda path: path])
def test_npz_as_keras_writes_it(convert, save):
    """Keras has labels of CIFAR as [N, 1], and images of MNIST as [N, H, W]."""
    path = save(**TRAIN | TEST | {"y_train": LABELS[:, None]})
    dataset = datasets.load(convert(path))
    assert dataset.name == "toy"
    assert dataset.train["image"].shape == (54, 4, 4, 1)
    assert dataset.train["image"].dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(dataset.validation["label"]), [2, 2, 2])
    assert all_images(dataset.train, dataset.validation) == sorted(
        image.tobytes() for image in IMAGES
    )
    np.testing.assert_array_equal(dataset.test["image"][..., 0], IMAGES[:6])


def test_npz_without_a_test_split(save):
    assert datasets.load(save(**TRAIN)).test is None


def test_npz_in_the_embedded_file_s_form_with_its_own_validation(save):
    arrays = {
        "train_image": IMAGES,
        "train_label": LABELS,
        "validation_image": IMAGES[:9],
        "validation_label": LABELS[:9],
    }
    path = save(**arrays)
    dataset = datasets.load(path)
    assert len(dataset.train["label"]) == 60
    np.testing.assert_array_equal(dataset.validation["label"], LABELS[:9])
    assert len(datasets.load(path, validation=12).train["label"]) == 48


def test_a_compressed_file_does_too(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **TRAIN)
    assert len(datasets.load(tmp_path / "a.npz").train["label"]) == 54


def test_carving_of_a_named_set_is_by_seed(save):
    path = save(**TRAIN)
    first, same, other = (datasets.load(path, seed=s).validation for s in (1, 1, 2))
    np.testing.assert_array_equal(first["image"], same["image"])
    assert (first["image"] != other["image"]).any()


def test_the_embedded_set_can_be_carved_anew():
    dataset = datasets.load("fashion_mnist", validation=0.25, seed=1)
    counts = [len(dataset.train["label"]), len(dataset.validation["label"])]
    assert counts == [7_500, 2_500]
    np.testing.assert_array_equal(
        np.bincount(dataset.validation["label"]), np.full(10, 250)
    )
    official = datasets.load("fashion_mnist")
    assert all_images(dataset.train, dataset.validation) == all_images(
        official.train, official.validation
    )
    assert all_images(dataset.test) == all_images(official.test)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "holds images. Accepted are x_train, y_train.*train_im"),
        ({}, "holds nothing. Accepted are"),
        ({"x_train": IMAGES}, "has no y_train, only x_train. Accepted are"),
        (TRAIN | {"x_test": IMAGES}, "has no y_test, only"),
        (TRAIN | {"x_train": IMAGES.astype(object)}, "x_train holds pickled objects"),
        (TRAIN | {"y_train": np.array(["a", None] * 30)}, "y_train holds pickled"),
        (TRAIN | {"x_train": IMAGES[:50]}, "train: 50 images and 60 labels"),
        (TRAIN | {"x_train": IMAGES.astype(int)}, "train image has dtype int64"),
        (TRAIN | {"y_train": 2 * np.eye(3)[LABELS]}, "example 0 have the sum 2"),
        (TRAIN | {"y_train": LABELS * 2}, "no example of 2 of 5 classes"),
        (TRAIN | {"x_test": IMAGES[:0], "y_test": LABELS[:0]}, r"test image.*\(0, 4"),
        (TRAIN | TEST | {"x_test": IMAGES[:6, :3]}, r"test image .*\[3, 4, 1\]"),
        (TRAIN | TEST | {"y_test": LABELS[:6] + 1}, "test label has .* outside 0 to 2"),
        ({"x_train": IMAGES[:0], "y_train": LABELS[:0]}, r"train image.*\(0, 4, 4\)"),
    ],
)
def test_unusable_files_are_refused_by_path_and_key(arrays, message, save):
    path = save(**arrays)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        datasets.load(path)


def test_a_folder_is_no_file_of_arrays(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder\.npz"):
        datasets.load(tmp_path / "folder.npz")


def test_a_truncated_file_is_refused(save):
    path = save(**TRAIN)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"toy.npz is no \.npz file, or was cut short"):
        datasets.load(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
def test_another_file_is_refused(content, tmp_path):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.npz is no \.npz file"):
        datasets.load(tmp_path / "a.npz")


@pytest.mark.parametrize("offset", [40, 100, 150, 400, 900])
def test_a_flipped_byte_is_noticed(offset, save):
    path = save(**TRAIN)
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"toy.npz.* damaged"):
        datasets.load(path)


def test_a_file_with_a_foreign_member_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x_train", b"text")
        archive.writestr("y_train", b"text")
    with pytest.raises(ValueError, match=r"a.npz: x_train is no array"):
        datasets.load(tmp_path / "a.npz")


def test_pickled_code_never_runs(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    bomb = np.array([Bomb()] * 60, dtype=object)
    np.savez(tmp_path / "a.npz", x_train=bomb, y_train=LABELS)
    with pytest.raises(ValueError, match="pickled objects"):
        datasets.load(tmp_path / "a.npz")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["cifar10", "mnist", "TFDS:cifar10", "tfds.mnist"])
def test_names_without_their_prefix_get_it_suggested(name):
    stock = name.lower().replace(".", ":").removeprefix("tfds:")
    with pytest.raises(ValueError, match=f"Did you mean 'tfds:{stock}'"):
        datasets.load(name)
