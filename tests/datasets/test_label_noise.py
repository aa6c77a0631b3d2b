"""Wrong labels come at the rate asked for, evenly, and from the seed alone."""

import numpy as np
import pytest

from jepbt import datasets
from jepbt.datasets import from_arrays, noisy_labels, with_label_noise

NUM_EXAMPLES, NUM_CLASSES = 20_000, 5
LABELS = np.arange(NUM_EXAMPLES) % NUM_CLASSES


@pytest.fixture(scope="module")
def clean():
    images = np.arange(NUM_EXAMPLES, dtype=np.float32)[:, None]
    return from_arrays((images, LABELS), 0.25, (images[:10], LABELS[:10]))


def wrong(noisy, clean, split="train"):
    return getattr(noisy, split)["label"] != getattr(clean, split)["label"]


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 1.0])
def test_the_rate_is_the_share_of_wrong_labels(rate, clean):
    noisy = with_label_noise(clean, rate)
    assert wrong(noisy, clean).sum() == rate * 15_000
    np.testing.assert_array_equal(noisy.train["image"], clean.train["image"])


def test_noise_is_symmetric(clean):
    """Of 3,000 training labels of a class 40 % go to 4 others, 300 to each."""
    counts = confusion(with_label_noise(clean, 0.4), clean)
    expected = np.full((NUM_CLASSES, NUM_CLASSES), 300.0)
    np.fill_diagonal(expected, 1_800)
    # 5 standard deviations of a binomial of 3,000 at 0.1 and at 0.6
    assert (abs(counts - expected) < 5 * np.sqrt(3_000 * 0.24)).all()
    assert (abs(counts - expected)[expected == 300] < 5 * np.sqrt(270)).all()


def confusion(noisy, clean, split="train"):
    """How many labels of each class became which, `[C, C]`."""
    counts = np.zeros((NUM_CLASSES, NUM_CLASSES), int)
    labels = getattr(clean, split)["label"], getattr(noisy, split)["label"]
    np.add.at(counts, labels, 1)
    return counts


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pairs_are_one_cycle_of_all_classes(seed, clean):
    """Each class is mistaken for one other, and following that leads through all."""
    noisy = with_label_noise(
        clean, 0.4, validation_label_noise=0.4, pattern="pairs", seed=seed
    )
    assert wrong(noisy, clean).sum() == 6_000
    for split in ("train", "validation"):
        counts = confusion(noisy, clean, split)
        np.fill_diagonal(counts, 0)
        following = counts.argmax(1)
        assert ((counts > 0).sum(1) == 1).all()
        visited = [0]
        while len(visited) < NUM_CLASSES:
            visited.append(following[visited[-1]])
        assert sorted(visited) == list(range(NUM_CLASSES))
        expected = datasets.label_pairs(NUM_CLASSES, seed)
        np.testing.assert_array_equal(following, expected.argmax(1))


def test_the_seed_draws_the_cycle(clean):
    cycles = {tuple(datasets.label_pairs(5, seed).argmax(1)) for seed in range(400)}
    assert len(cycles) == 24  # (5 - 1)! cycles of five classes


def test_a_matrix_gives_its_rows_probabilities(clean):
    """Of 3,000 labels of a class the row's shares, within 5 standard deviations."""
    matrix = np.random.default_rng(0).dirichlet(np.ones(NUM_CLASSES), NUM_CLASSES)
    shares = confusion(with_label_noise(clean, 1.0, pattern=matrix), clean) / 3_000
    spread = np.sqrt(matrix * (1 - matrix) / 3_000)
    assert (abs(shares - matrix) < 5 * spread).all()
    certain = np.eye(NUM_CLASSES)[[1, 1, 2, 0, 0]]
    exact = confusion(with_label_noise(clean, 1.0, pattern=certain), clean)
    np.testing.assert_array_equal(exact, 3_000 * certain)


def test_a_share_of_a_matrix_leaves_the_others_alone(clean):
    swap = np.roll(np.eye(NUM_CLASSES), 1, axis=0)
    noisy = with_label_noise(clean, 0.2, pattern=swap)
    assert wrong(noisy, clean).sum() == 3_000
    assert (np.diag(confusion(noisy, clean)) > 0).all()


def test_patterns_that_cannot_be_are_refused(clean):
    lame = np.full((NUM_CLASSES, NUM_CLASSES), 0.1)
    for dataset, rate, pattern, message in [
        (clean, 0.4, "cycle", r"^label_noise_pattern='cycle' must be 'uniform' or"),
        (clean, 0.4, lame, r"^label_noise_pattern .* row 0 is .* whose sum is 0.5"),
        (clean, 0.4, np.ones((2, 3)), r"^label_noise_pattern .* shape \(2, 3\)"),
        (clean, 0.4, np.eye(2), r"^label_noise_pattern is of 2 classes, .* has 5"),
        (clean, 0.0, "pairs", r"^label_noise_pattern does nothing .* label_noise=0.4"),
    ]:
        with pytest.raises(ValueError, match=message):
            with_label_noise(dataset, rate, pattern=pattern)


def test_only_what_was_asked_for_is_noisy(clean):
    train_only = with_label_noise(clean, 0.4)
    validation_only = with_label_noise(clean, 0.0, validation_label_noise=0.2)
    assert not wrong(train_only, clean, "validation").any()
    assert not wrong(validation_only, clean).any()
    assert wrong(validation_only, clean, "validation").sum() == 1_000
    for noisy in (train_only, validation_only):
        assert not wrong(noisy, clean, "test").any()


def test_noise_depends_on_the_seed_alone(clean):
    first, same, other = (with_label_noise(clean, 0.4, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.train["label"], same.train["label"])
    agreement = (wrong(first, clean) & wrong(other, clean)).mean()
    assert abs(agreement - 0.16) < 0.02  # independent masks


def test_train_and_validation_draws_are_independent():
    pair = np.zeros((4_000, 1), np.float32), np.arange(4_000) % 5
    clean = from_arrays(pair, pair)
    noisy = with_label_noise(clean, 0.5, validation_label_noise=0.5)
    both = wrong(noisy, clean) & wrong(noisy, clean, "validation")
    assert abs(both.mean() - 0.25) < 0.04


def test_noise_is_independent_of_the_carving():
    """An example's place in the carving's order says nothing about its label."""
    images = np.zeros((1_000, 1), np.float32)
    full = from_arrays((images, np.zeros(1_000, int)), 1, num_classes=2, seed=3)
    noisy = with_label_noise(full, 0.5, seed=3)
    order = np.random.default_rng(3).permutation(999)
    assert abs(wrong(noisy, full)[order[:500]].mean() - 0.5) < 0.1


def test_more_noise_with_the_same_seed_only_adds(clean):
    some, more = with_label_noise(clean, 0.2), with_label_noise(clean, 0.4)
    chosen = wrong(some, clean)
    np.testing.assert_array_equal(
        some.train["label"][chosen], more.train["label"][chosen]
    )


def test_the_given_data_set_is_left_alone_and_the_note_tells(clean):
    before = clean.train["label"].copy()
    noisy = with_label_noise(clean, 0.4, validation_label_noise=0.25)
    np.testing.assert_array_equal(clean.train["label"], before)
    assert noisy.note == "40% of train labels wrong, 25% of validation labels wrong"
    assert noisy.train["label"].dtype == np.int32


def test_load_adds_the_same_noise():
    noisy = datasets.load(label_noise=0.4, validation_label_noise=0.1, seed=7)
    clean = datasets.load()
    expected = with_label_noise(clean, 0.4, validation_label_noise=0.1, seed=7)
    assert wrong(noisy, clean).sum() == 3_600
    for split in ("train", "validation"):
        np.testing.assert_array_equal(
            getattr(noisy, split)["label"], getattr(expected, split)["label"]
        )
    assert noisy.note.startswith("embedded, MIT, 40% of train labels wrong")
    paired = datasets.load(label_noise=0.4, label_noise_pattern="pairs", seed=7)
    expected = with_label_noise(clean, 0.4, pattern="pairs", seed=7)
    np.testing.assert_array_equal(paired.train["label"], expected.train["label"])
    assert paired.note == "embedded, MIT, 40% of train labels wrong by pairs of classes"


def test_noise_on_probabilities_moves_the_likeliest_class_as_it_moves_a_label(clean):
    """The same examples and the same wrong classes; all other numbers stay."""
    soft = np.random.default_rng(0).dirichlet([0.3] * NUM_CLASSES, 1_000)
    order = np.argsort(-soft, 1)
    noisy = noisy_labels(soft, 0.4, NUM_CLASSES, 7)
    hard = noisy_labels(order[:, 0], 0.4, NUM_CLASSES, 7)
    np.testing.assert_array_equal(noisy.argmax(1), hard)
    np.testing.assert_array_equal(np.sort(noisy, 1), np.sort(soft, 1))
    changed = (noisy != soft).sum(1)
    np.testing.assert_array_equal(changed, np.where(hard != order[:, 0], 2, 0))
    one_hot = np.eye(NUM_CLASSES)[order[:, 0]]
    expected = np.eye(NUM_CLASSES)[hard]
    np.testing.assert_array_equal(noisy_labels(one_hot, 0.4, NUM_CLASSES, 7), expected)
