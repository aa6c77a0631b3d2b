"""Intervals, tests and numbers of seeds, against SciPy, tables and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from jepbt.comparison import biases, statistics

rng = np.random.default_rng(0)
ARM, CONTROL = 0.80 + 0.02 * rng.normal(size=(2, 9))


def test_the_interval_is_students():
    mean, low, high, sd = statistics.estimate_mean(ARM)
    error = stats.sem(ARM)
    expected = stats.t.interval(0.95, 8, loc=ARM.mean(), scale=error)
    np.testing.assert_allclose((low, high), expected, rtol=1e-12)
    np.testing.assert_allclose((mean, sd), (ARM.mean(), ARM.std(ddof=1)), rtol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.01, -0.05])
def test_paired_tests_are_scipys(shift):
    found = statistics.compare_paired(ARM + shift, CONTROL)
    expected = stats.ttest_rel(ARM + shift, CONTROL)
    np.testing.assert_allclose(found.p_t, expected.pvalue, rtol=1e-9)
    np.testing.assert_allclose(
        found.p_wilcoxon, stats.wilcoxon(ARM + shift, CONTROL).pvalue
    )
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found.estimate[1:3], interval, rtol=1e-9)


@pytest.mark.parametrize(
    ("arm", "control", "p_t"),
    [
        ([1.0, 2.0], [1.0, 2.0], 1.0),  # nothing differs
        ([2.0, 3.0], [1.0, 2.0], 0.0),  # the difference never varies
        ([1.0], [2.0], math.nan),  # one seed
        ([1.0, math.nan], [2.0, 3.0], math.nan),
    ],
)
def test_borders_of_the_paired_test(arm, control, p_t):
    found = statistics.compare_paired(np.array(arm), np.array(control))
    np.testing.assert_equal(found.p_t, p_t)


def test_holm_by_hand():
    """Sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, and never falling."""
    found = statistics.holm([0.01, 0.04, math.nan, 0.03, 0.005])
    np.testing.assert_allclose(found, [0.03, 0.06, math.nan, 0.06, 0.02])
    assert statistics.holm([0.7, 0.6]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("effect", "count"), [(0.2, 199), (0.3, 90), (0.5, 34), (0.8, 15), (1.0, 10)]
)
def test_numbers_of_seeds_are_those_of_the_tables(effect, count):
    """G*Power: two-sided paired t-test, error 0.05, power 0.8."""
    assert statistics.count_seeds(1.0, effect) == count
    assert statistics.count_seeds(3.0, 3 * effect) == count


@pytest.mark.parametrize("count", [3, 6])
def test_what_seeds_detect_is_detected_four_times_out_of_five(count):
    difference = statistics.detectable(2.0, count)
    samples = difference + 2.0 * rng.normal(size=(count, 40_000))
    share = (stats.ttest_1samp(samples, 0).pvalue < 0.05).mean()
    assert abs(share - 0.8) < 0.01
    assert statistics.count_seeds(2.0, difference) == count
    assert 0 < statistics.detectable(1.0, 2) < 100  # with hardly any seeds, too
    many = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / 100
    assert statistics.detectable(1.0, 10_000) == pytest.approx(many, rel=1e-3)
    share = (stats.ttest_1samp(1 + samples - difference, 0).pvalue < 0.05).mean()
    assert abs(share - statistics._power(0.5, count)) < 0.01


def test_biases_are_the_best_that_brute_force_finds():
    """With two classes only their difference matters: try every threshold."""
    labels = rng.integers(2, size=200)
    logits = rng.normal(size=(200, 2)) + 0.7 * np.eye(2)[labels] + [0.8, 0]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = biases.biased_accuracy(p, labels, biases.tune_biases(p, labels))
    gaps = np.append(np.sort(logits[:, 0] - logits[:, 1]), np.inf) - 1e-9
    tried = [np.mean((logits[:, 1] + t > logits[:, 0]) == labels) for t in gaps]
    assert found == pytest.approx(max(tried))
    assert found > np.mean(logits.argmax(1) == labels)


def test_examples_that_look_alike_are_predicted_alike():
    """No bias parts them: four of six are right at best, whatever their order."""
    labels = np.array([1, 1, 1, 1, 0, 0])
    for first in np.linspace(0.51, 0.9, 20):
        p = np.tile([first, 1 - first], (6, 1))
        tuned = biases.tune_biases(p, labels)
        assert biases.biased_accuracy(p, labels, tuned) == pytest.approx(4 / 6)


def test_a_network_that_has_failed_is_never_right():
    p = np.full((3, 2), np.nan)
    assert biases.biased_accuracy(p, np.zeros(3, int), np.zeros(2)) == 0


def test_no_single_bias_could_be_better():
    labels = rng.integers(4, size=300)
    logits = rng.normal(size=(300, 4)) + np.eye(4)[labels] + [0, 1, 0, -1]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    p[7] = np.nan  # the network has failed there
    tuned = biases.tune_biases(p, labels)
    found = biases.biased_accuracy(p, labels, tuned)
    for number in range(4):
        for step in np.linspace(-3, 3, 601):
            moved = tuned + step * np.eye(4)[number]
            assert biases.biased_accuracy(p, labels, moved) <= found
    assert found > biases.biased_accuracy(p, labels, np.zeros(4))
