"""Who is copied and who survives, against arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepbt.operators import best_first, binary_tournament, is_elite, truncation

NAN = float("nan")


def rates(select, fitness, num_draws=5_000):
    """How often each slot (row) takes each parent (column)."""
    fitness = jnp.array(fitness)
    keys = jax.random.split(jax.random.key(0), num_draws)
    parents = np.asarray(jax.vmap(select, (0, None))(keys, fitness))
    return np.stack(
        [np.bincount(column, minlength=fitness.size) for column in parents.T]
    ) / len(keys)


def test_pairwise_win_rates_follow_rank():
    """Of 4 members, rank r wins a 2-way tournament with probability (3 - r) / 6."""
    measured = rates(binary_tournament, [0.4, 0.1, 0.3, 0.2])
    np.testing.assert_allclose(measured, [[3 / 6, 0, 2 / 6, 1 / 6]] * 4, atol=0.03)


def test_equals_win_equally_often():
    measured = rates(binary_tournament, [0.5] * 4)
    np.testing.assert_allclose(measured, 0.25, atol=0.03)


def test_slots_are_drawn_independently(key):
    fitness = jnp.array([0.4, 0.1, 0.3, 0.2])
    keys = jax.random.split(key, 5_000)
    parents = jax.vmap(binary_tournament, (0, None))(keys, fitness)
    agreement = float((parents[:, 0] == parents[:, 1]).mean())
    np.testing.assert_allclose(agreement, (9 + 4 + 1) / 36, atol=0.03)


@pytest.mark.parametrize("select", [binary_tournament, truncation(0.25)])
def test_failed_members_are_never_parents_while_one_lives(select):
    measured = rates(select, [NAN, 0.2, NAN, 0.3, NAN], 500)
    assert measured[:, [0, 2, 4]].sum() == 0
    only = rates(select, [NAN, NAN, 0.1, NAN], 100)
    np.testing.assert_array_equal(only[:, 2], 1.0)


@pytest.mark.parametrize("select", [binary_tournament, truncation(0.25)])
@pytest.mark.parametrize("fitness", [[NAN] * 3, [0.5], [NAN]])
def test_without_anybody_to_copy_every_slot_is_its_own(key, select, fitness):
    parents = select(key, jnp.array(fitness))
    np.testing.assert_array_equal(parents, np.arange(len(fitness)))


def test_truncation_moves_the_worst_fifth_onto_the_best_fifth():
    fitness = np.array([0.7, 0.1, 0.9, 0.3, 0.5, 0.2, 0.8, 0.6, 0.4, 0.0])
    measured = rates(truncation(0.2), fitness)
    for slot in (1, 9):  # the two worst: each of the two best half of the time
        np.testing.assert_allclose(measured[slot, [2, 6]], 0.5, atol=0.03)
    stay = [0, 2, 3, 4, 5, 6, 7, 8]
    np.testing.assert_array_equal(measured[stay, stay], 1.0)


def test_truncation_draws_a_donor_for_each_slot():
    fitness = jnp.array([0.9, 0.8, 0.1, 0.0])
    keys = jax.random.split(jax.random.key(0), 2_000)
    parents = jax.vmap(truncation(0.5), (0, None))(keys, fitness)
    agreement = float((parents[:, 2] == parents[:, 3]).mean())
    np.testing.assert_allclose(agreement, 0.5, atol=0.05)


def test_truncation_of_two_copies_the_better(key):
    np.testing.assert_array_equal(truncation()(key, jnp.array([0.1, 0.2])), [1, 1])


def test_truncation_with_fewer_live_than_best_keeps_the_live(key):
    parents = truncation(0.5)(key, jnp.array([NAN, 0.3, NAN, NAN]))
    np.testing.assert_array_equal(parents, [1, 1, 1, 1])


def test_elites_are_the_fittest_live_members():
    fitness = jnp.array([0.2, NAN, 0.4, 0.4, 0.1])
    np.testing.assert_array_equal(is_elite(fitness, 2), [0, 0, 1, 1, 0])
    np.testing.assert_array_equal(is_elite(fitness, 5), [1, 0, 1, 1, 1])
    assert not is_elite(jnp.array([NAN, NAN]), 1).any()


def test_equal_fitness_ranks_by_slot():
    np.testing.assert_array_equal(best_first(jnp.array([1.0, 2.0, 2.0])), [1, 2, 0])
    np.testing.assert_array_equal(is_elite(jnp.full(4, 0.5), 2), [1, 1, 0, 0])
