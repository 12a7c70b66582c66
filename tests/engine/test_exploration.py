"""Exploration: the table of draws, and chances taken from it."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.exploration import DRAWS, expected, mixed, posterior_draws, random_draws, shares_won


def _columns(count: int, start: int = 0):
    return np.arange(start, start + count)


def test_draws_are_optimistic_and_in_proportion_to_the_deviation():
    """Most are above the mean, all candidates share how much, and a certain one is not moved."""
    drawn = posterior_draws(np.full(50, 0.5), np.full(50, 0.1), "identity", _columns(50))
    assert drawn.shape == (50, DRAWS)
    assert ((drawn > 0.5).mean(axis=1) > 0.75).all()
    narrower = posterior_draws(np.full(50, 0.5), np.full(50, 0.05), "identity", _columns(50))
    assert (narrower - 0.5) * 2 == pytest.approx(drawn - 0.5, abs=1e-5)
    assert (posterior_draws(np.array([0.3]), np.zeros(1), "identity", _columns(1)) == np.float32(0.3)).all()


def test_the_expected_reward_is_that_of_the_posterior():
    """Not of the draws, which are optimistic: against 200,000 normal draws of our own."""
    mean, deviation = np.array([-3.0, -0.5, 2.0]), np.array([0.5, 1.5, 1.0])
    drawn = mean + deviation * np.random.default_rng(1).normal(size=(200_000, 3))
    assert expected(mean, deviation, "logit") == pytest.approx((1 / (1 + np.exp(-drawn))).mean(axis=0), abs=0.015)
    assert expected(np.array([-0.2, 0.4, 1.3]), deviation, "identity") == pytest.approx([0.0, 0.4, 1.0])


def test_draws_on_the_logit_scale_are_chances():
    """In (0, 1), whatever the posterior; certain where it is."""
    drawn = posterior_draws(np.array([-1e9, 0.0, 3.0, 1e9]), np.array([1e9, 0.0, 2.0, 0.0]), "logit", _columns(4))
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert (drawn[1] == 0.5).all()
    assert drawn[3] == pytest.approx(np.ones(DRAWS))


def test_draws_are_repeatable_and_differ_between_candidates():
    """Equal columns, equal draws; different ones are no more alike than chance has it."""
    one, other = (posterior_draws(np.zeros(2), np.ones(2), "logit", _columns(2, start)) for start in (7, 8))
    assert (one[1] == other[0]).all()
    assert not np.allclose(one[0], one[1])
    assert len(np.unique(random_draws(_columns(1)))) == DRAWS


def test_a_lead_of_so_many_deviations_wins_as_often_as_it_should():
    """Between two known equally well the own halves decide: the normal chance that the one exceeds the other."""
    for lead in (0.0, 0.25, 0.75):
        won = [
            shares_won(posterior_draws(np.array([lead, 0.0]), np.ones(2), "logit", np.array([n, n + 100])))[0]
            for n in range(1_500)
        ]
        assert np.mean(won) == pytest.approx(NormalDist().cdf(lead / 0.5 / 2**0.5), abs=0.01)


def test_of_two_alike_the_one_less_known_is_tried_more():
    """Optimism: it could be better."""
    won = [
        shares_won(posterior_draws(np.array([0.2, 0.2]), np.array([0.02, 0.1]), "identity", np.array([n, n + 100])))
        for n in range(300)
    ]
    assert np.mean(won, axis=0)[1] > 0.7


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_shares_add_up_and_the_first_of_equals_wins(levels):
    """Without any spread the best one wins every draw."""
    shares = shares_won(np.repeat(np.array(levels, dtype=np.float32)[:, None], DRAWS, axis=1))
    assert sum(shares) == pytest.approx(1)
    assert shares[levels.index(max(levels))] == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0, 1), st.floats(0, 1))
def test_mixing_keeps_the_sum_and_the_floor(weights, epsilon, floor):
    """With room for it each has the floor; without, all are equal."""
    total = sum(weights)
    chances = [each / total for each in weights] if total > 1e-9 else [1 / len(weights)] * len(weights)
    mixture = mixed(chances, epsilon, floor)
    assert sum(mixture) == pytest.approx(1)
    assert min(mixture) >= min(1 / len(weights), max(epsilon / len(weights), floor)) - 1e-9
    assert mixed([], epsilon, floor) == []
