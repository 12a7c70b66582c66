"""Statistics of the comparison: paired differences and their intervals, area under the curve, log loss."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's t, 97.5 % quantile, for 1 degree of freedom and so on; beyond, its expansion around the normal's."""
_Z_975 = 1.959964


class Interval(NamedTuple):
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def t_interval(values: npt.ArrayLike) -> Interval:
    """The mean of independent repetitions and its 95 % interval; unbounded for a single one."""
    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = _t_975(len(numbers) - 1) * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return Interval(mean, mean - half, mean + half)


def clustered_interval(values: npt.ArrayLike, clusters: npt.NDArray[Any]) -> Interval:
    """The mean of values of which those of one cluster depend on each other, and its 95 % interval.

    The linearised ("sandwich") variance of a ratio of sums over clusters, as in Liang & Zeger 1986.
    """
    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean())
    _, places = np.unique(clusters, return_inverse=True)
    sums = np.bincount(places, weights=numbers - mean)
    count = len(sums)
    if count < 2:
        return Interval(mean, -math.inf, math.inf)
    half = _t_975(count - 1) * math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(numbers)
    return Interval(mean, mean - half, mean + half)


def _t_975(freedom: int) -> float:
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    z = _Z_975
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def area_under_curve(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """The chance that a positive scores higher than a negative, ties counting half; NaN without either."""
    truth = np.asarray(labels, dtype=bool)
    _, places, counts = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return math.nan
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def log_loss(labels: npt.ArrayLike, chances: npt.ArrayLike, least: float = 1e-3) -> float:
    """Mean negative log likelihood, with chances held within `least` and 1 - `least`."""
    truth = np.asarray(labels, dtype=np.float64)
    held = np.clip(np.asarray(chances, dtype=np.float64), least, 1 - least)
    return float(-np.mean(truth * np.log(held) + (1 - truth) * np.log1p(-held)))
