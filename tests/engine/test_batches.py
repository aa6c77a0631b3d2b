"""What steps read: whole epochs, in orders that look random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepbt.engine import batches
from jepbt.engine.batches import batch_indices


def read(key, generation, num_examples, batch_size, num_steps):
    return batch_indices(
        key,
        generation,
        num_examples=num_examples,
        batch_size=batch_size,
        num_steps=num_steps,
    )


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "num_steps"),
    # Then a square, one more than a square, and a prime.
    [(10, 3, 4), (6, 6, 1), (5, 4, 7), (2500, 7, 100), (2501, 50, 101), (1009, 97, 33)],
)
def test_every_epoch_is_a_permutation_across_generations(
    key, num_examples, batch_size, num_steps
):
    rows = np.concatenate(
        [
            read(key, generation, num_examples, batch_size, num_steps).ravel()
            for generation in range(10)
        ]
    )
    whole = rows[: len(rows) // num_examples * num_examples].reshape(-1, num_examples)
    for epoch in whole:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num_examples))
    assert len({tuple(epoch) for epoch in whole}) > 1


def chi_square(counts):
    """Deviations from equal counts, in standard deviations of chance."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return ((counts - expected) ** 2 / expected).sum() / np.sqrt(2 * freedom) - np.sqrt(
        freedom / 2
    )


@pytest.fixture(scope="module")
def orders():
    """3,000 epochs of 1,024 examples, by the way for many examples."""
    keys = jax.random.split(jax.random.key(7), 3000)
    draw = jax.jit(jax.vmap(lambda key: read(key, 0, 1024, 1024, 1)))
    assert batches._FEW < 1024
    return np.asarray(draw(keys)).reshape(3000, 1024)


def test_an_example_comes_anywhere_as_often(orders):
    where = np.argsort(orders, 1)
    for example in (0, 1, 500, 1023):
        counts = np.bincount(where[:, example] // 32, minlength=32)
        assert abs(chi_square(counts)) < 5


def test_neighbours_come_at_any_distance_as_often(orders):
    """Of examples that follow one another, and of places that do."""
    where = np.argsort(orders, 1)
    for table in (orders, where):
        for left, right in ((0, 1), (31, 32), (500, 900)):
            distance = (table[:, right] - table[:, left]) % 1024 - 1
            counts = np.bincount(distance * 31 // 1023, minlength=31)
            assert abs(chi_square(counts)) < 5
        steps = np.diff(table, axis=1) % 1024 - 1
        assert abs(chi_square(np.bincount(steps.ravel(), minlength=1023))) < 5


def test_pairs_of_places_hold_any_pair_as_often(orders):
    cells = orders[:, 0] // 64 * 16 + orders[:, 1] // 64
    assert abs(chi_square(np.bincount(cells, minlength=256))) < 5


def test_orders_are_even_and_odd_as_often(orders):
    # A permutation has the parity of its size less its cycles.
    def num_cycles(order):
        label = np.arange(order.size)
        for _ in range(11):  # 2**11 > 1,024: the least of a cycle reaches all of it
            label, order = np.minimum(label, label[order]), order[order]
        return np.unique(label).size

    odd = np.mean([(1024 - num_cycles(order)) % 2 for order in orders[:1000]])
    assert abs(odd - 0.5) < 5 * 0.5 / np.sqrt(1000)


@pytest.mark.parametrize("num_examples", [900, 70_000])
def test_each_epoch_and_each_key_has_an_order_of_its_own(key, num_examples):
    count = num_examples // 2  # two generations an epoch
    first = [read(key, g, num_examples, count, 1).ravel() for g in (0, 2, 4)]
    other = read(jax.random.key(99), 0, num_examples, count, 1).ravel()
    for i, left in enumerate(first):
        for right in (*first[:i], other):
            assert np.mean(np.asarray(left == right)) < 0.01


def test_large_numbers_of_examples_and_late_generations_stay_in_range(key):
    num_examples = 2**27 - 39
    rows = np.asarray(read(key, jnp.int32(2**20 - 2), num_examples, 64, 32))
    assert rows.min() >= 0 and rows.max() < num_examples
    assert np.unique(rows).size == rows.size
