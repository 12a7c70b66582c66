"""Confidence intervals of means and ratios over customers, for skewed terms: what importance weights make."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.learner import Vector

Numbers = npt.NDArray[np.intp]


class Interval(NamedTuple):
    """From the lowest to the highest value that the data does not speak against."""

    low: float
    high: float


def per_cluster(values: Vector, clusters: Numbers) -> Vector:
    """Sums by cluster. `clusters`: a number from 0 for each value, all used."""
    sums: Vector = np.bincount(clusters, weights=values).astype(np.float64)
    return sums


def clustered(value: float, influence: Vector, clusters: Numbers, confidence: float) -> Interval:
    """Interval of an estimate whose error is the mean of independent clusters' influence.

    `influence`: of each decision, (n,), of mean 0; the estimate minus the truth is about its mean. `confidence`: in
    (0, 1). Three things a normal interval leaves out: decisions of one customer are dependent (sums by cluster,
    Liang & Zeger 1986), the variance is itself estimated from few heavy terms (Student's t with the degrees of
    freedom that the kurtosis leaves, Satterthwaite 1946), and the terms are skewed (Hall 1992, "On the removal of
    skewness by transformation", JRSS B 54, §2). Infinite below two clusters.
    """
    sums = per_cluster(influence, clusters) * (clusters.max(initial=-1) + 1) / max(len(influence), 1)
    count = len(sums)
    if count < 2:
        return Interval(-np.inf, np.inf)
    centred = sums - sums.mean()
    variance = float(np.mean(centred**2))
    if variance <= 0:
        return Interval(value, value)
    scaled = centred / np.sqrt(variance)
    skewness, kurtosis = float(np.mean(scaled**3)), float(np.mean(scaled**4))
    quantile = t_quantile(0.5 + confidence / 2, min(count - 1, 2 * count / max(kurtosis - 1, 1e-9)))
    error = float(np.sqrt(variance / (count - 1)))
    return Interval(
        value - error * _unskewed(quantile, skewness / float(np.sqrt(count))),
        value - error * _unskewed(-quantile, skewness / float(np.sqrt(count))),
    )


def _unskewed(quantile: float, skewness: float) -> float:
    """The inverse of Hall's monotone transformation. `skewness`: of the mean, in its standard errors."""
    if abs(skewness) < 1e-6:
        return quantile
    return float((np.cbrt(1 + skewness * quantile - skewness**2 / 6) - 1) * 3 / skewness)


def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t, within 1 % of the exact one from 2 degrees of freedom on, to which it is held.

    Abramowitz & Stegun 1964, 26.7.5. `probability`: in (0, 1).
    """
    z, v = NormalDist().inv_cdf(probability), max(freedom, 2.0)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + first / v + second / v**2 + third / v**3 + fourth / v**4


def empirical_bernstein(values: Vector, width: float, confidence: float) -> float:
    """How far the mean of independent values can lie below or above its expectation, whatever they follow.

    sqrt(2 s^2 ln(2/d) / n) + 7 R ln(2/d) / (3 (n - 1)) holds on one side with probability 1 - d (Maurer & Pontil
    2009, "Empirical Bernstein bounds", theorem 4). `width`: R, of the range that all values lie in by construction.
    `confidence`: 1 - d, in (0, 1). Infinite below two values.
    """
    count = len(values)
    if count < 2:
        return float("inf")
    log = np.log(2 / (1 - confidence))
    return float(np.sqrt(2 * np.var(values, ddof=1) * log / count) + 7 * width * log / (3 * (count - 1)))


def guaranteed(
    rewards: Vector,
    weights: Vector,
    clusters: Numbers,
    reward_range: tuple[float, float],
    confidence: float,
) -> Interval:
    """Interval that holds for any number of customers, any weights and any distribution of rewards in their range.

    Clipping weights of what is never below 0 only lowers its mean, so a lower bound of the clipped mean is one of
    the value, also where the log never takes what the target would (Thomas, Theocharous & Ghavamzadeh 2015,
    "High-confidence off-policy evaluation"). Taken of the gain over the lowest reward for `low`, and of the loss to
    the highest for `high`, each with an empirical Bernstein bound over customers. Weights are clipped at the third
    root of the number of customers: any number fixed beforehand is valid. Takes the sizes of customers as given.
    """
    lowest, highest = reward_range
    sizes = per_cluster(np.ones(len(rewards)), clusters)
    clip = max(1.0, len(sizes) ** (1 / 3))
    width = clip * (highest - lowest) * sizes.max() / sizes.mean()

    def least(gains: Vector) -> float:
        sums = per_cluster(np.minimum(weights, clip) * gains, clusters) / sizes.mean()
        bound = float(sums.mean()) - empirical_bernstein(sums, width, 0.5 + confidence / 2)
        return min(max(bound, 0.0), highest - lowest)

    return Interval(lowest + least(rewards - lowest), highest - least(highest - rewards))
