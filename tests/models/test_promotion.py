"""Promotion: a better challenger takes over soon, one that is no better hardly ever, however often one looks."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.promotion import ALPHA, LEAST, RENEW_EVERY, Bet, Contest, Promotion


def _until_promoted(rng, champion, challengers, decisions) -> tuple[str | None, int]:
    """Who wins among forecasters of a yes, whose chance differs, and after how many decisions."""
    p = rng.uniform(0.02, 0.4, decisions)
    rewards = (rng.random(decisions) < p).astype(float).tolist()
    said = champion(p, rng).tolist()
    others = {name: says(p, rng).tolist() for name, says in challengers.items()}
    contest = Contest(challengers)
    for n, reward in enumerate(rewards):
        contest.add(said[n], {name: of[n] for name, of in others.items()}, 0.2, reward)
        if contest.winner() is not None:
            return contest.winner(), n + 1
    return None, decisions


def _near(p, rng) -> np.ndarray:
    return np.clip(p + rng.normal(0, 0.05, len(p)), 0.01, 0.99)


def _half(p, _rng) -> np.ndarray:
    return np.full(len(p), 0.5)


def _truth(p, _rng) -> np.ndarray:
    return p


def test_one_that_is_no_better_is_rarely_promoted():
    """Three as good as the champion, looked at after every one of 1,000 decisions: at most alpha of all runs promote.

    Of 100 runs with a chance of .05 each more than 11 promote less than once in a hundred times.
    """
    rng = np.random.default_rng(11)
    runs = [_until_promoted(rng, _near, dict.fromkeys("abc", _near), 1_000) for _ in range(100)]
    assert sum(winner is not None for winner, _ in runs) <= 11


@pytest.mark.slow
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-0.05, 0.95), (-0.95, 0.05)])
def test_the_error_of_the_first_kind_is_bounded_at_the_boundary(low, high):
    """Fair games, symmetric and skewed, 4,000 looks each, 500 runs: alpha within three standard errors."""
    rng = np.random.default_rng(5)
    runs = 500
    promoted = 0
    for _ in range(runs):
        bet = Bet()
        for won in (rng.random(4_000) < -low / (high - low)).tolist():
            bet.add(high if won else low, 1.0)
            if bet.examples >= LEAST and bet.e_value >= 1.0 / ALPHA:
                promoted += 1
                break
    assert promoted / runs <= ALPHA + 3.0 * np.sqrt(ALPHA * (1.0 - ALPHA) / runs)


def test_one_that_is_better_is_promoted():
    """A forecaster of the truth against one that always says one half; half of the runs need at most 400 decisions."""
    rng = np.random.default_rng(3)
    runs = [_until_promoted(rng, _half, {"better": _truth, "same": _half}, 2_000) for _ in range(30)]
    assert {winner for winner, _ in runs} == {"better"}
    assert np.median([n for _, n in runs]) <= 400


def test_a_worse_one_is_never_promoted():
    """Its wealth is gone, the reserve too small."""
    rng = np.random.default_rng(4)
    assert _until_promoted(rng, _truth, {"worse": _half}, 5_000) == (None, 5_000)


def test_nothing_is_proven_by_few_decisions():
    """Even if each of them speaks for the challenger."""
    contest = Contest(["b"])
    for _ in range(LEAST - 1):
        contest.add(0.0, {"b": 1.0}, 0.5, 1.0)
    assert contest.winner() is None
    contest.add(0.0, {"b": 1.0}, 0.5, 1.0)
    assert contest.winner() == "b"


def test_one_that_was_worse_until_the_world_changed_recovers():
    """The reserve lets it play again."""
    contest = Contest(["b"])
    for _ in range(3 * RENEW_EVERY):
        contest.add(0.7, {"b": 0.3}, 0.5, 1.0)
    assert contest.bets["b"].e_value < 0.5
    assert contest.bets["b"].difference < 0
    for _ in range(2 * RENEW_EVERY):
        contest.add(0.3, {"b": 0.7}, 0.5, 1.0)
    assert contest.winner() == "b"
    assert contest.bets["b"].difference > 0


@given(st.lists(st.floats(-2, 2), max_size=60))
def test_evidence_is_never_negative(differences):
    """Nor may a difference outside the bounds break it."""
    bet = Bet()
    for each in differences:
        bet.add(each, 1.0)
    assert bet.e_value >= 0.5
    assert bet.examples == len(differences)


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=60), st.integers(0, 59))
def test_a_contest_goes_on_from_its_bets(decisions, at):
    """Stored in between or not."""
    whole, first = Contest(["b", "c"]), Contest(["b", "c"])
    for place, (champion, challenger, base, reward) in enumerate(decisions):
        whole.add(champion, {"b": challenger}, base, reward)
        if place == at:
            stored = msgspec.msgpack.decode(msgspec.msgpack.encode(first.bets), type=dict[str, Bet])
            first = Contest(["c", "b"], stored)
        first.add(champion, {"b": challenger}, base, reward)
    assert first.bets == whole.bets
    assert first.bets["c"] == Bet()


def test_a_promotion_states_its_evidence():
    """As a record and as a sentence."""
    promotion = Promotion(
        model="offers", from_learner="main", to_learner="tree", examples=900, mean_difference=0.0123, e_value=41.5,
        alpha=0.025, at_ms=7,
    )  # fmt: skip
    record = msgspec.to_builtins(promotion)
    assert (record["from"], record["to"], record["alpha"]) == ("main", "tree", 0.025)
    for figure in ("main", "tree", "900", "0.0123", "41.5", "0.025"):
        assert figure in str(promotion)
