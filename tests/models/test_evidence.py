"""Rates are smoothed towards what was stated, and believed as far as there is evidence for them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from models.evidence import LEAST, Smoothing, count, log_odds, smoothed
from models.learner import Arm

rates = st.floats(0.001, 0.999)
NODES = (-np.arange(-4000, 4001) / 500.0, np.exp(-((np.arange(-4000, 4001) / 500.0) ** 2) / 2))


def _moments(p, strength) -> tuple[float, float]:
    """Mean and deviation of the propensity that the normal log odds stand for."""
    mean, deviation = log_odds(np.array(p), np.array(strength))
    value, weight = special.expit(mean + deviation * NODES[0]), NODES[1] / NODES[1].sum()
    average = float(value @ weight)
    return average, float((value**2 @ weight - average**2) ** 0.5)


@given(p=rates, strength=st.floats(2.0, 1e5))
def test_the_spread_is_that_of_the_beta(p, strength):
    """The propensity has the mean of Beta(p·E, (1-p)·E), and its deviation where that has a single peak."""
    mean, deviation = _moments(p, strength)
    wanted = stats.beta(p * strength, (1.0 - p) * strength)
    rare = min(p, 1.0 - p)
    assert mean == pytest.approx(wanted.mean(), abs=0.3 * rare)
    if rare * strength >= 1.0:
        assert mean == pytest.approx(wanted.mean(), abs=0.03 * rare)
        assert deviation == pytest.approx(wanted.std(), rel=0.2)
    if rare * strength >= 30.0:
        assert deviation == pytest.approx(wanted.std(), rel=0.02)


@given(p=st.floats(0.05, 0.95), strength=st.floats(400.0, 1e6))
def test_with_evidence_it_is_exact(p, strength):
    """With enough of it the log odds have the exact moments: differences of digammas, sums of trigammas."""
    a, b = p * strength, (1.0 - p) * strength
    mean, deviation = log_odds(np.array(p), np.array(strength))
    assert mean == pytest.approx(special.psi(a) - special.psi(b), abs=1e-3)
    assert deviation == pytest.approx((special.polygamma(1, a) + special.polygamma(1, b)) ** 0.5, rel=0.06)


@given(p=rates, prior=rates, evidence=st.floats(0.0, 1e6), start=st.floats(0.1, 1e3))
def test_smoothing_weighs_by_evidence(p, prior, evidence, start):
    """Between prior and rate; the prior without evidence, halfway when both weigh the same."""
    found = smoothed(np.array([p] * 3), np.array([prior] * 3), np.array([evidence, 0.0, start]), start)
    assert min(p, prior) - 1e-9 <= found[0] <= max(p, prior) + 1e-9
    assert found[1:] == pytest.approx([prior, (p + prior) / 2])


def test_no_propensity_is_certain():
    """Neither 0 nor 1, whatever was seen."""
    assert smoothed(np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.array([1e9, 1e9]), 1.0).tolist() == [
        LEAST,
        1 - LEAST,
    ]


def test_evidence_counts_for_all_above():
    """An observation counts for its arm, action, group and all actions; an empty name is nothing of its own."""
    evidence: dict[Arm, float] = {}
    count(evidence, Arm("g", "a", "t"))
    count(evidence, Arm("g", "a", "u"))
    count(evidence, Arm("", "b", ""))
    assert evidence == {
        Arm("", "", ""): 3.0, Arm("g", "", ""): 2.0, Arm("g", "a", ""): 2.0, Arm("g", "a", "t"): 1.0,
        Arm("g", "a", "u"): 1.0, Arm("", "b", ""): 1.0,
    }  # fmt: skip


@given(p=rates, variance=st.floats(0.0, 0.25))
def test_disagreement_adds_doubt_and_never_takes_it(p, variance):
    """Members that differ make a rate less sure than its evidence does; members that agree make it no surer."""
    arm = Arm("g", "a", "t")
    evidence = {arm: 50.0, Arm("", "", ""): 500.0}
    smoothing = Smoothing(evidence, [arm], np.array([0.2]), 10.0)
    alone = smoothing.score(np.array([p]), None)[1]
    together = smoothing.score(np.array([p]), None, np.array([variance]))[1]
    assert together >= alone - 1e-12
    assert smoothing.score(np.array([p]), None, np.zeros(1))[1] == alone
