"""The embedded data is what it says, and arrays are checked before they are used."""

import decimal
import hashlib
import importlib.resources
import tempfile

import jax.numpy as jnp
import numpy as np
import pytest

from jepbt import datasets
from jepbt.datasets import from_arrays, stratified_split

# Of the published test images and labels, and of the selection from the published
# training set that `load` documents: uint8 in C order.
PUBLISHED = {
    "test_image": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "test_label": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    "train_image": "e1427044c614fabc29feeff0f27e6b68f88a9ee2f2cfe7d783b9157159864883",
    "train_label": "2c02745d4ad8b4511333d0eca662ac5664a371860abaa4588b1670e7be59fbdf",
}


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array, np.uint8).tobytes()).hexdigest()


def images_of(count, dtype=np.float32, shape=(4, 4, 1)):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, *shape)).astype(dtype)


@pytest.fixture(scope="module")
def fashion():
    return datasets.load("fashion_mnist")


@pytest.fixture
def pair():
    return images_of(40), np.arange(40) % 4


def test_embedded_test_split_is_the_published_one(fashion):
    assert sha256(fashion.test["image"]) == PUBLISHED["test_image"]
    assert sha256(fashion.test["label"]) == PUBLISHED["test_label"]
    assert fashion.test["image"].shape == (10_000, 28, 28, 1)


def test_embedded_training_images_are_the_documented_selection(fashion):
    """Of each class the first 900 train, the next 100 validate, in official order."""
    image = fashion.train["image"], fashion.validation["image"]
    label = fashion.train["label"], fashion.validation["label"]
    file = importlib.resources.files("jepbt.datasets").joinpath("fashion_mnist.npz")
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
        order, pixels = stored["train_label"], stored["train_image"]
    assert sha256(order) == PUBLISHED["train_label"]
    assert sha256(pixels) == PUBLISHED["train_image"]
    for c in range(10):
        merged = np.concatenate(
            [part[of == c] for part, of in zip(image, label, strict=True)]
        )
        np.testing.assert_array_equal(merged, pixels[order == c])


def test_embedded_splits_hold_every_class_equally(fashion):
    for split, count in ((fashion.train, 900), (fashion.validation, 100)):
        np.testing.assert_array_equal(np.bincount(split["label"]), np.full(10, count))
    np.testing.assert_array_equal(np.bincount(fashion.test["label"]), np.full(10, 1000))
    for split in (fashion.train, fashion.validation, fashion.test):
        assert split["image"].dtype == np.uint8
        assert split["label"].dtype == np.int32


def test_embedded_splits_share_no_image(fashion):
    seen = [
        {image.tobytes() for image in split["image"]}
        for split in (fashion.train, fashion.validation)
    ]
    assert not seen[0] & seen[1]


def test_data_ships_with_its_licence():
    data = importlib.resources.files("jepbt.datasets")
    text = data.joinpath("fashion_mnist.LICENSE").read_text()
    assert "Copyright (c) 2017 Zalando SE, https://tech.zalando.com" in text
    assert "Permission is hereby granted, free of charge" in text


def test_carving_is_stratified_disjoint_complete_and_never_from_test(pair):
    images = np.arange(40, dtype=np.float32)[:, None]
    test = (images + 100, pair[1])
    dataset = from_arrays((images, pair[1]), 0.2, test)
    np.testing.assert_array_equal(np.bincount(dataset.validation["label"]), [2] * 4)
    both = np.concatenate([dataset.train["image"], dataset.validation["image"]])
    np.testing.assert_array_equal(np.sort(both[:, 0]), np.arange(40))
    np.testing.assert_array_equal(dataset.test["image"], test[0])
    np.testing.assert_array_equal(
        dataset.train["label"], dataset.train["image"][:, 0] % 4
    )


def test_carving_depends_on_the_seed_alone(pair):
    first, same, other = (from_arrays(pair, 8, seed=s).validation for s in (1, 1, 2))
    np.testing.assert_array_equal(first["image"], same["image"])
    assert (first["image"] != other["image"]).any()


@pytest.mark.parametrize("num_validation", [1, 7, 50, 83, 99])
@pytest.mark.parametrize("seed", range(5))
def test_stratified_split_is_proportional_within_one(num_validation, seed):
    labels = np.random.default_rng(seed).choice(5, 100, p=[0.5, 0.3, 0.1, 0.05, 0.05])
    train, validation = stratified_split(labels, num_validation, seed)
    assert len(validation) == num_validation
    np.testing.assert_array_equal(
        np.sort(np.concatenate([train, validation])), np.arange(100)
    )
    for c in range(5):
        expected = (labels == c).sum() * num_validation / 100
        assert abs((labels[validation] == c).sum() - expected) < 1


def test_every_example_is_equally_likely_to_be_carved():
    labels = np.arange(20) % 2
    draws = [stratified_split(labels, 5, seed)[1] for seed in range(2_000)]
    rates = np.bincount(np.concatenate(draws), minlength=20) / 2_000
    # Of 5, 2.5 are due to each class: the tie always favours the same class.
    np.testing.assert_allclose(rates[0::2], 3 / 10, atol=0.05)
    np.testing.assert_allclose(rates[1::2], 2 / 10, atol=0.05)


def test_rarest_class_keeps_its_training_examples():
    labels = np.array([0] * 95 + [1] * 5)
    train, validation = stratified_split(labels, 10, 0)  # quotas 9.5 and 0.5
    assert (labels[validation] == 1).sum() == 0
    assert (labels[train] == 1).sum() == 5


def test_given_validation_is_used_as_it_is(pair):
    images, labels = pair
    split = {"image": images[:8], "label": labels[:8]}
    dataset = from_arrays(pair, split, split)
    np.testing.assert_array_equal(dataset.validation["image"], images[:8])
    assert len(dataset.train["label"]) == 40
    assert len(dataset.test["label"]) == 8


@pytest.mark.parametrize(
    ("shape", "dtype", "stored_shape", "stored_dtype"),
    [
        ((4, 5), np.uint8, (4, 5, 1), np.uint8),
        ((4, 5, 3), np.float64, (4, 5, 3), np.float32),
        ((6,), np.float16, (6,), np.float32),
    ],
)
def test_images_are_brought_to_one_form(shape, dtype, stored_shape, stored_dtype):
    images = images_of(20, dtype, shape)
    image = from_arrays((images, np.arange(20) % 2), 4).train["image"]
    assert image.shape == (16, *stored_shape)
    assert image.dtype == stored_dtype


NUMBERS = np.arange(120).reshape(20, 6) % 7
with tempfile.TemporaryFile() as file:
    MAPPED = np.memmap(file, np.float64, "w+", shape=(20, 6))
MAPPED[:] = NUMBERS
LOCKED = NUMBERS.astype(np.float32)
LOCKED.setflags(write=False)
BESIDE_BOOLS = NUMBERS.astype(object)
BESIDE_BOOLS[:, 0] = [bool(value) for value in NUMBERS[:, 0] % 2]


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        *((NUMBERS.astype(kind), np.int32) for kind in ("i1", "u2", "i8", ">i4", "u8")),
        (jnp.asarray(NUMBERS), np.int32),
        (NUMBERS.astype(object), np.int32),
        (NUMBERS.tolist(), np.int32),
        (NUMBERS.astype(np.uint8), np.uint8),
        (NUMBERS.astype(np.float16), np.float32),
        (NUMBERS.astype(">f8"), np.float32),
        (jnp.asarray(NUMBERS, jnp.bfloat16), np.float32),
        (np.asfortranarray(NUMBERS.astype(float)), np.float32),
        (NUMBERS.astype(float)[::-1][::-1], np.float32),
        (MAPPED, np.float32),
        (LOCKED, np.float32),
        (np.ma.masked_greater(NUMBERS.astype(float), 99), np.float32),  # none is
        (NUMBERS % 2 == 0, np.float32),
        (BESIDE_BOOLS, np.int32),
        (np.add(BESIDE_BOOLS, [0.5, 0, 0, 0, 0, 0]), np.float32),
    ],
)
def test_vectors_keep_their_numbers_whatever_holds_them(given, dtype):
    validation = given[:4], [0, 1, 0, 1]
    dataset = from_arrays((given, np.arange(20) % 2), validation)
    assert dataset.train["image"].dtype == dtype
    expected = np.array(given.tolist() if hasattr(given, "tolist") else given)
    np.testing.assert_array_equal(dataset.train["image"], expected)
    np.testing.assert_array_equal(dataset.validation["image"], expected[:4])


CLASSES = np.arange(20) % 2


@pytest.mark.parametrize(
    "given",
    [
        *(CLASSES.astype(kind) for kind in ("u1", ">i2", "f2", "f8", bool, object)),
        CLASSES.astype(float).astype(object),
        [decimal.Decimal(int(each)) for each in CLASSES],
        (CLASSES == 1).astype(object),
        jnp.asarray(CLASSES, jnp.bfloat16),
        CLASSES.tolist(),
    ],
)
def test_whole_numbers_are_labels_whatever_holds_them(given):
    dataset = from_arrays((np.arange(20)[:, None], given), 4)
    assert dataset.train["label"].dtype == np.int32 and dataset.num_classes == 2
    rows = dataset.train["image"][:, 0]
    np.testing.assert_array_equal(dataset.train["label"], CLASSES[rows])


def test_a_label_that_is_no_whole_number_is_shown():
    with pytest.raises(
        ValueError, match=r"train label .* values like 2\.5; labels are"
    ):
        from_arrays((np.zeros((3, 2)), [0.0, 1.0, 2.5]))


def test_a_fraction_carves_one_example_at_least():
    assert len(from_arrays((LOCKED[:3], [0, 1, 1])).validation["label"]) == 1


SOFT = np.random.default_rng(0).dirichlet([0.5] * 3, 90).astype(np.float32)


def test_probabilities_are_carved_by_their_likeliest_class():
    images = np.arange(90, dtype=np.float32)[:, None]
    dataset = from_arrays((images, SOFT), 30, (images[:3], [0, 1, 2]))
    for split in (dataset.train, dataset.validation):
        rows = split["image"][:, 0].astype(int)
        np.testing.assert_array_equal(split["label"], SOFT[rows])
    sizes = np.bincount(SOFT.argmax(1))
    carved = np.bincount(dataset.validation["label"].argmax(1), minlength=3)
    assert (abs(carved - sizes / 3) < 1).all()
    assert dataset.num_classes == 3 and dataset.test["label"].dtype == np.int32


@pytest.mark.parametrize("kind", [np.int64, np.float64, bool])
def test_one_hot_labels_are_probabilities(kind):
    labels = np.eye(4)[np.arange(40) % 3].astype(kind)  # the last class has no example
    dataset = from_arrays((images_of(40), labels))
    assert dataset.num_classes == 4 and dataset.train["label"].shape == (36, 4)


def test_given_num_classes_allows_classes_without_examples(pair):
    assert from_arrays(pair, num_classes=9).num_classes == 9


@pytest.mark.parametrize("num_validation", [0, 4, -1])
def test_stratified_split_leaves_some_on_either_side(num_validation):
    with pytest.raises(ValueError, match=f"num_validation={num_validation} of 4"):
        stratified_split(np.array([0, 0, 1, 1]), num_validation, seed=0)
