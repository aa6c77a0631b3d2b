"""Computes what a comparison claims: intervals, paired tests, and what n can show."""

from __future__ import annotations

import bisect
import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
"""The confidence of every interval; differences are judged at `1 - LEVEL`."""

POWER = 0.8
"""The probability of detecting a difference, where numbers of seeds are named."""


class Estimate(NamedTuple):
    """A mean over seeds, its interval, and the standard deviation of the values."""

    mean: float
    low: float
    high: float
    sd: float


class Difference(NamedTuple):
    """A paired difference, and the probability of one as large without any effect."""

    estimate: Estimate
    p_t: float
    p_wilcoxon: float


def estimate_mean(values: np.ndarray) -> Estimate:
    """Estimates the mean of `f64[N]`, a value a seed, with its interval by Student's t.

    Of one value there is no interval, and it is `nan`.

    Example:
        >>> estimate = estimate_mean(np.array([1.0, 2.0, 3.0]))
        >>> round(estimate.high - estimate.mean, 3)  # 4.303 / sqrt 3
        2.484
    """
    from scipy import special

    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return Estimate(mean, math.nan, math.nan, math.nan)
    sd = float(np.std(values, ddof=1))
    half = special.stdtrit(count - 1, (1 + LEVEL) / 2) * sd / math.sqrt(count)
    return Estimate(mean, mean - float(half), mean + float(half), sd)


def compare_paired(values: np.ndarray, control: np.ndarray) -> Difference:
    """Compares two arms seed by seed: paired t-test and Wilcoxon's signed ranks.

    Both are `f64[N]`, for the same seeds. The estimate is that of `values - control`;
    the probabilities are two-sided, 1 if nothing differs at all, `nan` for one seed.

    Example:
        >>> arm, control = np.array([5.0, 7.0, 9.0]), np.array([4.0, 5.0, 6.0])
        >>> round(compare_paired(arm, control).p_t, 4)
        0.0742

    Reference:
        Demsar, "Statistical Comparisons of Classifiers over Multiple Data Sets", 2006.
    """
    from scipy import stats

    differences = values - control
    estimate = estimate_mean(differences)
    if len(differences) < 2 or not np.isfinite(differences).all():
        return Difference(estimate, math.nan, math.nan)
    if not differences.any():
        return Difference(estimate, 1.0, 1.0)
    with warnings.catch_warnings():  # of differences that tie, or are all equal
        warnings.simplefilter("ignore")
        p_t = float(stats.ttest_1samp(differences, 0).pvalue)
        p_wilcoxon = float(stats.wilcoxon(differences).pvalue)
    return Difference(estimate, p_t, p_wilcoxon)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects probabilities for their number, by Holm's method; `nan` stays out of it.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]

    Reference:
        Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
    """
    corrected = [math.nan] * len(p_values)
    known = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    highest = 0.0
    for rank, i in enumerate(sorted(known, key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(known) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def count_seeds(sd: float, difference: float) -> int:
    """Counts the seeds with which a paired t-test detects a difference above 0.

    That is the smallest number, at least 2, that gives the power `POWER` if the paired
    differences have the standard deviation `sd`.

    Example:
        >>> count_seeds(sd=1.0, difference=0.5)
        34
    """
    if sd == 0:
        return 2

    def is_enough(count):
        return _power(difference / sd, count) >= POWER

    high = 2
    while not is_enough(high):
        high *= 2
    lowest = max(2, high // 2)
    return bisect.bisect_left(range(high), True, lo=lowest, key=is_enough)


def detectable(sd: float, num_seeds: int) -> float:
    """Computes the difference that so many seeds detect: the reverse of `count_seeds`.

    Example:
        >>> round(detectable(sd=1.0, num_seeds=34), 2)
        0.5
    """
    from scipy import optimize

    high = 1.0
    while _power(high, num_seeds) < POWER:
        high *= 2
    return sd * optimize.brentq(lambda x: _power(x, num_seeds) - POWER, 0.0, high)


def _power(ratio: float, count: int) -> float:
    """The power of a paired t-test at a difference of `ratio` standard deviations."""
    from scipy import special

    limit = special.stdtrit(count - 1, (1 + LEVEL) / 2)
    shift = ratio * math.sqrt(count)
    # SciPy returns nan for probabilities that are too small for it.
    within, below = np.nan_to_num(special.nctdtr(count - 1, shift, [limit, -limit]))
    return float(1 - within + below)
