"""Scoring by priors: the operator's propensity, bent by how this person took what came on a channel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.outcomes import OUTCOME_TYPES, Outcome, attribute
from engine.profile import Contact, Profile
from engine.repertoire import Repertoire
from models.baseline import MODEL, STARTING_EVIDENCE, PriorScorer
from tests.repertoires import DAY_MS, START_MS, Builder, a_contact, a_profile, channels

CHANNELS = ("email", "push", "sms")


def _shop(propensity: float = 0.2, answers: float = 0.1) -> Repertoire:
    """One action on three channels."""
    b = Builder()
    b.action("a", *(b.treatment(each, each, propensity=propensity) for each in CHANNELS))
    usual = {name: type(each)(id=name, answers=answers) for name, each in channels().items()}
    return b.build(channels=usual)


def _score(profile: Profile, **changes) -> dict[str, float]:
    repertoire = _shop(**changes)
    scores = PriorScorer(repertoire).score(repertoire.candidates, {}, profile)
    assert scores.models == {MODEL: "v1"}
    return dict(zip(CHANNELS, scores.propensities, strict=True))


def test_without_history_the_prior_stands():
    """To the last bit; an offer still open says nothing yet."""
    assert set(_score(a_profile()).values()) == {0.2}
    assert set(_score(a_profile(contacts=[a_contact()])).values()) == {0.2}


@given(st.integers(0, 20), st.integers(0, 20), st.floats(0.01, 1), st.floats(0, 1))
def test_the_persons_rate_is_smoothed_toward_the_channels(taken, ignored, usual, propensity):
    """(SE · SP + E · p) / (SE + E) over SP, times the prior, at most 1; other channels are not concerned."""
    contacts = [a_contact(START_MS - 2 * DAY_MS, taken=n < taken) for n in range(taken + ignored)]
    scores = _score(a_profile(contacts=contacts), propensity=propensity, answers=usual)
    evidence = taken + ignored
    rate = (STARTING_EVIDENCE * usual + taken) / (STARTING_EVIDENCE + evidence)
    assert scores["email"] == pytest.approx(min(1.0, propensity * rate / usual))
    assert scores["push"] == scores["sms"] == propensity


def test_the_best_channel_follows_the_answers():
    """Who takes what comes by push and ignores e-mail: push before SMS, of which nothing is known, before e-mail."""
    contacts = [
        *(a_contact(START_MS - 2 * DAY_MS, "a", "push", taken=True) for _ in range(3)),
        *(a_contact(START_MS - 2 * DAY_MS, "a", "email") for _ in range(3)),
    ]
    scores = _score(a_profile(contacts=contacts))
    assert scores["push"] > scores["sms"] > scores["email"]


@pytest.mark.parametrize("type_", OUTCOME_TYPES)
def test_which_outcomes_bend_a_propensity(type_):
    """Clicks, acceptances and conversions raise it at once, other answers lower it, what only arrived says nothing."""
    profile = a_profile(contacts=[a_contact()])
    outcome = Outcome("o", profile.contacts[0].decision_id, "u1", type_, START_MS, None)
    attribute(profile, outcome, START_MS, _shop(), {})
    score = _score(profile)["email"]
    if type_ in ("click", "accept", "convert"):
        assert score > 0.2
    elif type_ in ("delivered", "impression"):
        assert score == 0.2
    else:
        assert score < 0.2


def test_several_answers_to_one_contact_are_one():
    """A click and the conversion that follows do not count twice."""
    contacts = [a_contact(START_MS - 2 * DAY_MS, taken=True), a_contact(START_MS - DAY_MS - 1)]
    once = _score(a_profile(contacts=contacts))
    profile = a_profile(contacts=[a_contact(START_MS - 2 * DAY_MS), contacts[1]])
    for type_ in ("click", "accept", "convert"):
        outcome = Outcome("o", profile.contacts[0].decision_id, "u1", type_, START_MS, None)
        attribute(profile, outcome, START_MS, _shop(), {})
    assert _score(profile) == once


CONTACTS = st.lists(
    st.builds(
        a_contact,
        st.integers(START_MS - 30 * DAY_MS, START_MS),
        st.sampled_from("ab"),
        st.sampled_from(CHANNELS),
        taken=st.booleans(),
        answer=st.none() | st.sampled_from(["accept", "reject", "bounce"]),
    ),
    max_size=30,
)


@given(CONTACTS, st.floats(0, 1), st.floats(0, 1))
def test_a_propensity_is_a_probability(contacts: list[Contact], propensity, usual):
    """In [0, 1] for any history, any prior, and a channel nobody is expected to answer on."""
    scores = _score(a_profile(contacts=contacts), propensity=propensity, answers=usual)
    assert all(0 <= each <= 1 for each in scores.values())


def test_scoring_changes_nothing():
    """Neither the customer nor what it says the second time; nothing to score is no error."""
    profile, repertoire = a_profile(contacts=[a_contact(START_MS - 2 * DAY_MS, taken=True)]), _shop()
    scorer = PriorScorer(repertoire)
    first = scorer.score(repertoire.candidates, {}, profile)
    assert profile == a_profile(contacts=[a_contact(START_MS - 2 * DAY_MS, taken=True)])
    assert list(scorer.score(repertoire.candidates, {}, profile).propensities) == list(first.propensities)
    assert list(scorer.score([], {}, profile).propensities) == []
