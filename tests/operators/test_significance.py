"""The t-test against scipy, and what passes the gates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jepbt.operators import draw_opponents, duel, significant, welch_p_value, welch_test

NAN = float("nan")


@pytest.mark.parametrize("num_samples", [2, 3, 10])
def test_welch_agrees_with_scipy(num_samples):
    random = np.random.default_rng(num_samples)
    left = random.normal(size=(num_samples, 40))
    right = random.normal(1.0, 2.0, size=(num_samples, 40))
    expected = stats.ttest_ind(left, right, equal_var=False).pvalue
    measured = welch_p_value(jnp.float32(left), jnp.float32(right))
    np.testing.assert_allclose(measured, expected, atol=2e-5, rtol=1e-3)


def test_welch_without_variance():
    left, right = jnp.full((3, 2), 0.5), jnp.array([[0.5, 0.6]] * 3)
    np.testing.assert_array_equal(welch_p_value(left, right), [1.0, 0.0])


def test_t_test_copies_only_what_it_tells_apart(key):
    """The same difference of means, with little and with much noise."""
    noise = jnp.array([-1.0, 0.0, 1.0])[:, None]
    means = jnp.array([[0.5, 0.6]])
    exploit = welch_test(3)
    clear = exploit.select(key, means + 0.01 * noise, jnp.zeros(2))
    blurred = exploit.select(key, means + 0.1 * noise, jnp.zeros(2))
    np.testing.assert_array_equal(clear, [1, 1])
    np.testing.assert_array_equal(blurred, [0, 1])


def test_t_test_waits_until_there_are_enough_evaluations(key):
    recent = jnp.array([[0.1, 0.9], [0.1, 0.9], [NAN, NAN]])
    np.testing.assert_array_equal(
        welch_test(3).select(key, recent, jnp.zeros(2)), [0, 1]
    )
    failed = recent.at[0, 0].set(NAN)
    np.testing.assert_array_equal(
        welch_test(3).select(key, failed, jnp.zeros(2)), [1, 1]
    )


def test_gate_compares_the_gain_with_both_standard_errors(key):
    """A gain of 0.1 with errors of 0.03 and 0.04 is 2 standard errors: p = 0.0228."""
    recent, errors = jnp.array([[0.5, 0.6]]), jnp.array([0.03, 0.04])
    passed = [
        significant(level=level).select(key, recent, errors)[0] == 1
        for level in (0.0227, 0.0229)
    ]
    assert passed == [False, True]


def test_gate_never_lets_a_worse_member_in(key):
    worse = significant(lambda key, fitness: jnp.array([1, 1]), level=1.0)
    parents = worse.select(key, jnp.array([[0.6, 0.5]]), jnp.ones(2))
    np.testing.assert_array_equal(parents, [0, 1])


def test_duel_win_rates():
    """Rank r of 4 keeps its slot unless one of the r fitter ones of 3 is drawn."""
    fitness = jnp.array([0.4, 0.1, 0.3, 0.2])
    keys = jax.random.split(jax.random.key(0), 4_000)
    parents = np.asarray(jax.vmap(duel, (0, None))(keys, fitness))
    rates = (parents == np.arange(4)).mean(0)
    np.testing.assert_allclose(rates, [1, 0, 2 / 3, 1 / 3], atol=0.03)
    assert set(parents[:, 2]) == {0, 2}


def test_opponents_are_live_others_drawn_evenly():
    fitness = jnp.array([0.4, NAN, 0.3, 0.2])
    keys = jax.random.split(jax.random.key(0), 4_000)
    drawn = np.asarray(jax.vmap(draw_opponents, (0, None))(keys, fitness))
    rates = np.stack([np.bincount(column, minlength=4) for column in drawn.T]) / 4_000
    third = 1 / 3
    expected = [[0, 0, 0.5, 0.5], [third, 0, third, third], [0.5, 0, 0, 0.5]]
    np.testing.assert_allclose(rates[:3], expected, atol=0.03)
