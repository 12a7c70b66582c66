from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.learning.statistics import area_under_curve, clustered_interval, log_loss, t_interval


def test_the_t_interval_of_known_numbers():
    """1, 2, 3, 4 and 5: mean 3, standard error 0.7071, t 2.776 at 4 degrees of freedom."""
    mean, low, high = t_interval([1, 2, 3, 4, 5])
    assert mean == 3
    assert high - 3 == pytest.approx(3 - low) == pytest.approx(2.776 * math.sqrt(0.5), rel=1e-6)
    assert t_interval([7.0]).low == -math.inf


@pytest.mark.parametrize(("count", "quantile"), [(17, 2.1199), (31, 2.0423), (121, 1.9799)])
def test_quantiles_beyond_the_table(count, quantile):
    """Within one in a thousand of the printed tables of Student's t."""
    values = np.arange(float(count))
    interval = t_interval(values)
    assert (interval.high - interval.mean) / (values.std(ddof=1) / math.sqrt(count)) == pytest.approx(
        quantile, rel=2e-3
    )


def test_a_cluster_repeated_counts_once():
    """Copies of a value under one cluster are as good as the value alone; as clusters of their own they seem more."""
    values = np.random.default_rng(1).normal(size=40)
    alone = clustered_interval(values, np.arange(40))
    copied = clustered_interval(np.repeat(values, 5), np.repeat(np.arange(40), 5))
    assert copied == pytest.approx(alone)
    spread = clustered_interval(np.repeat(values, 5), np.arange(200))
    assert spread.high - spread.low < 0.5 * (alone.high - alone.low)
    assert alone == pytest.approx(t_interval(values), rel=1e-3)


def test_intervals_cover_the_truth_at_their_rate():
    """Of 2,000 samples of ten, about 95 % have the true mean in their interval."""
    draw = np.random.default_rng(2)
    covered = [low <= 0 <= high for _, low, high in (t_interval(draw.normal(size=10)) for _ in range(2_000))]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_the_area_is_the_chance_that_a_positive_scores_higher(pairs):
    """As counted over all pairs, ties half; NaN without both kinds."""
    positives = [score for label, score in pairs if label]
    negatives = [score for label, score in pairs if not label]
    area = area_under_curve(*zip(*pairs, strict=True))
    if not positives or not negatives:
        assert math.isnan(area)
        return
    won = [float(a > b) + 0.5 * (a == b) for a in positives for b in negatives]
    assert area == pytest.approx(sum(won) / len(won))


def test_log_loss_of_known_numbers():
    """A coin costs log 2; certainty is held back, so that nothing costs infinitely much."""
    assert log_loss([0, 1], [0.5, 0.5]) == pytest.approx(math.log(2))
    assert log_loss([1], [0.0]) == pytest.approx(-math.log(1e-3))
