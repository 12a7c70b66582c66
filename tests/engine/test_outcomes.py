"""Outcomes: what is accepted at the door, and what joining one to its decision changes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import consent
from engine.budgets import Spending
from engine.outcomes import MAX_BYTES, MAX_ID, OUTCOME_TYPES, Outcome, attribute, decode_outcome
from engine.profile import Answer, Contact, Profile
from engine.record import Record
from engine.rejects import CODES, Reject
from engine.repertoire import BudgetRule, Constraints, Repertoire, Scope, Window
from tests.repertoires import DAY_MS, HOUR_MS, START_MS, Builder, a_contact, a_profile

BODY = {"decisionId": "d1", "customerId": "u1", "type": "click"}
DAY = Window(unit="day")


def _record(value: bytes | None) -> Record:
    return Record("outcomes", 2, 7, START_MS, b"u1", value)


def _decode(**fields) -> Outcome | Reject:
    body = {name: value for name, value in {**BODY, **fields}.items() if value != "absent"}
    return decode_outcome(_record(json.dumps(body).encode()), "outcomes:2:7")


# --- At the door ---


@pytest.mark.parametrize("type_", OUTCOME_TYPES)
def test_every_type_of_the_contract_is_accepted(type_):
    """With and without the optional fields; unknown fields are ignored."""
    assert _decode(type=type_) == Outcome("outcomes:2:7", "d1", "u1", type_, START_MS, None)
    full = _decode(type=type_, outcomeId="o1", value=12, timestamp="2026-01-05T09:00:00+01:00", extra={"a": []})
    assert full == Outcome("o1", "d1", "u1", type_, START_MS, 12.0)


def test_ids_have_one_to_512_characters():
    """Both ends included."""
    for text in ("x", "x" * MAX_ID):
        assert isinstance(_decode(decisionId=text, customerId=text, outcomeId=text), Outcome)
    assert MAX_ID == 512


def test_the_types_are_those_of_the_contract():
    """Nine names, which policies and models count; nothing is invented."""
    said = "delivered|impression|click|accept|reject|dismiss|convert|bounce|unsubscribe"
    assert "|".join(OUTCOME_TYPES) == said


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"decisionId": "absent"}, "missing-field"),
        ({"customerId": "absent"}, "missing-field"),
        ({"type": "absent"}, "missing-field"),
        ({"type": "Click"}, "unknown-outcome"),
        ({"type": ""}, "unknown-outcome"),
        ({"type": 3}, "wrong-type"),
        ({"decisionId": None}, "wrong-type"),
        ({"customerId": ["u1"]}, "wrong-type"),
        ({"value": "12"}, "wrong-type"),
        ({"value": True}, "wrong-type"),
        ({"timestamp": 1767600000}, "wrong-type"),
        ({"timestamp": "yesterday"}, "bad-timestamp"),
        ({"timestamp": "2026-01-05T09:00:00"}, "bad-timestamp"),
        ({"decisionId": ""}, "missing-field"),
        ({"customerId": "x" * (MAX_ID + 1)}, "too-long"),
        ({"outcomeId": "x" * (MAX_ID + 1)}, "too-long"),
        ({"outcomeId": ""}, "missing-field"),
        ({"note": "x" * MAX_BYTES}, "too-large"),
    ],
)
def test_a_faulty_outcome_is_rejected_with_its_code(fields, code):
    """And a sentence that is one."""
    found = _decode(**fields)
    assert isinstance(found, Reject)
    assert (found.code, found.sentence[-1]) == (code, ".")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"[]", "wrong-type"),
        (b"null", "wrong-type"),
        (b"{", "not-json"),
        (b"\xff{}", "not-utf8"),
        (b'{"decisionId":"d1","customerId":"u1","type":"click","value":1e999}', "number-out-of-range"),
    ],
)
def test_what_is_no_outcome_at_all_is_rejected(value, code):
    """Nothing, another shape, no JSON, no UTF-8, a number beyond all numbers."""
    found = decode_outcome(_record(value), "o")
    assert isinstance(found, Reject)
    assert found.code == code


@given(
    st.binary(max_size=60) | st.recursive(st.none() | st.text(), st.lists).map(lambda each: json.dumps(each).encode())
)
def test_any_bytes_are_an_outcome_or_a_reject(value):
    """Never an exception, and every code is a known one."""
    found = decode_outcome(_record(value), "o")
    assert isinstance(found, Outcome) or found.code in CODES


# --- Joining ---


def _contact(decision: str = "d1", **changes) -> Contact:
    return a_contact(decision_id=decision, **{"cost": 2.0, **changes})


def _answer(
    profile: Profile,
    type_: str,
    *,
    after_ms: int = HOUR_MS,
    said_ms: int | None = None,
    repertoire: Repertoire | None = None,
    spending: dict[str, Spending] | None = None,
    decision: str = "d1",
) -> Contact | Reject:
    """Have an outcome arrive so long after the decision."""
    profile.now_ms = START_MS + after_ms
    outcome = Outcome("o1", decision, "u1", type_, profile.now_ms if said_ms is None else said_ms, None)
    repertoire = Builder().action("a").build() if repertoire is None else repertoire
    return attribute(profile, outcome, profile.now_ms, repertoire, {} if spending is None else spending)


@pytest.mark.parametrize("type_", OUTCOME_TYPES)
def test_every_outcome_enters_the_history_of_its_decision(type_):
    """With the decision's issue, group, action and channel; those that are final close the offer, the others do not."""
    profile = a_profile(contacts=[_contact("d0", action="b"), _contact()])
    assert _answer(profile, type_) is profile.contacts[1]
    assert profile.answers == [Answer(type_, START_MS + HOUR_MS, "sales", "offers", "a", "email")]
    closed = type_ not in ("delivered", "impression", "click")
    assert [each.answer for each in profile.contacts] == [None, type_ if closed else None]
    assert [each.taken for each in profile.contacts] == [False, type_ in ("click", "accept", "convert")]


def test_an_unknown_decision_is_rejected():
    """Nothing changes."""
    profile = a_profile(contacts=[_contact()])
    found = _answer(profile, "click", decision="d2")
    assert isinstance(found, Reject)
    assert found.code == "unknown-decision"
    assert profile == a_profile(contacts=[_contact()], now_ms=START_MS + HOUR_MS)


def test_an_expired_decision_is_rejected_with_its_date():
    """Up to and including the last moment an outcome counts; afterwards nothing changes, whatever it says of itself."""
    profile = a_profile(contacts=[_contact()])
    found = _answer(profile, "accept", after_ms=7 * DAY_MS + 1, said_ms=START_MS)
    assert isinstance(found, Reject)
    assert found.code == "expired-decision"
    assert "2026-01-12T08:00:00.000Z" in found.sentence
    assert profile.answers == []
    assert isinstance(_answer(profile, "accept", after_ms=7 * DAY_MS), Contact)


def test_an_offer_is_answerable_after_it_expired():
    """The offer and the time for outcomes end separately."""
    assert isinstance(_answer(a_profile(contacts=[_contact()]), "convert", after_ms=2 * DAY_MS), Contact)


@pytest.mark.parametrize(("said_ms", "noted_ms"), [(-DAY_MS, 0), (DAY_MS, HOUR_MS), (5, 5), (HOUR_MS, HOUR_MS)])
def test_an_outcome_happened_between_the_decision_and_its_arrival(said_ms, noted_ms):
    """A channel's clock that is off neither puts an answer before its question nor into the future."""
    profile = a_profile(contacts=[_contact()])
    _answer(profile, "click", said_ms=START_MS + said_ms)
    assert profile.answers[0].at_ms == START_MS + noted_ms


@pytest.mark.parametrize("type_", ["accept", "reject", "dismiss", "convert"])
def test_an_answer_closes_the_offer_on_every_channel(type_):
    """What was answered on the web is no longer promised by the push; other actions and earlier answers stay."""
    contacts = [
        _contact("d0", channel="push"),
        _contact("d1", channel="web", outbound=False),
        _contact("d2", action="b"),
        _contact("d3", answer="bounce"),
    ]
    profile = a_profile(contacts=contacts)
    _answer(profile, type_)
    assert [each.answer for each in profile.contacts] == [type_, type_, None, "bounce"]


@pytest.mark.parametrize("type_", ["bounce", "unsubscribe"])
def test_what_concerns_the_message_leaves_the_offer_open_elsewhere(type_):
    """A bounce or an unsubscription closes its own contact only."""
    profile = a_profile(contacts=[_contact(channel="push"), _contact("d0")])
    _answer(profile, type_)
    assert [each.answer for each in profile.contacts] == [type_, None]


def test_the_first_answer_stands():
    """A conversion after an acceptance is noted, and does not replace it."""
    profile = a_profile(contacts=[_contact()])
    _answer(profile, "accept")
    _answer(profile, "convert")
    assert (profile.contacts[0].answer, [each.type for each in profile.answers]) == ("accept", ["accept", "convert"])


# --- Consent ---


def test_an_unsubscription_revokes_consent_for_the_channel():
    """For every purpose on it and no other channel, from the moment it happened; a later grant gives it back."""
    profile = a_profile(contacts=[_contact()], consent=[{"*/*": consent.Statement("granted", START_MS)}])
    _answer(profile, "unsubscribe")
    for purpose in ("marketing", "anything"):
        assert consent.verdict(profile.consent, "email", purpose, profile.now_ms).allowed is False
    assert consent.verdict(profile.consent, "push", "marketing", profile.now_ms).allowed is True
    consent.state(profile.consent, {"email/*": consent.Statement("granted", profile.now_ms + 1)})
    assert consent.verdict(profile.consent, "email", "marketing", profile.now_ms + 1).allowed is True


def test_an_unsubscription_is_never_lost_for_want_of_room():
    """A ledger full of other statements still denies the channel afterwards."""
    full = {f"c{n}/p{n}": consent.Statement("granted", 1) for n in range(consent.MAX_STATEMENTS)}
    profile = a_profile(contacts=[_contact()], consent=[full])
    _answer(profile, "unsubscribe")
    assert consent.verdict(profile.consent, "email", "marketing", profile.now_ms).allowed is False


# --- Bounces ---


def _budgeted() -> Repertoire:
    """Budgets of decisions and of money, one over another action, and one by a tag."""
    budgets = (
        BudgetRule(id="n", unit="decisions", limit=9, window=DAY),
        BudgetRule(id="m", unit="money", limit=9, window=DAY, scope=Scope(tags=frozenset({"promo"}))),
        BudgetRule(id="b", unit="decisions", limit=9, window=DAY, scope=Scope(actions=frozenset({"b"}))),
    )
    b = Builder()
    b.action("a", b.treatment("a-email", cost=5.0), tags=frozenset({"promo"})).action("b")
    return b.build(constraints=Constraints(budgets=budgets))


def _spending() -> dict[str, Spending]:
    today_ms = START_MS - 8 * HOUR_MS
    return {id_: Spending({today_ms: 4.0}) for id_ in "nmb"}


def _used(spending: dict[str, Spending]) -> dict[str, float]:
    return {id_: sum(each.used.values()) for id_, each in spending.items()}


def test_a_bounce_gives_back_cap_and_budgets_once():
    """What it cost when it was sent, whatever it would cost today; a second bounce gives back nothing."""
    profile, spending = a_profile(contacts=[_contact()]), _spending()
    for _ in range(3):
        _answer(profile, "bounce", repertoire=_budgeted(), spending=spending)
        assert profile.contacts[0].counts is False
        assert _used(spending) == {"n": 3.0, "m": 2.0, "b": 4.0}


@pytest.mark.parametrize("answer", ["accept", "dismiss", "unsubscribe"])
def test_what_was_answered_did_not_bounce(answer):
    """A bounce after an answer is noted and gives back nothing."""
    profile, spending = a_profile(contacts=[_contact()]), _spending()
    _answer(profile, answer)
    _answer(profile, "bounce", repertoire=_budgeted(), spending=spending)
    assert profile.contacts[0].counts is True
    assert _used(spending) == _used(_spending())


def test_a_bounce_of_what_the_configuration_no_longer_has():
    """Budgets over everything are given back; no tag of the vanished action is known."""
    profile, spending = a_profile(contacts=[_contact(action="gone")]), _spending()
    _answer(profile, "bounce", repertoire=_budgeted(), spending=spending)
    assert _used(spending) == {"n": 3.0, "m": 4.0, "b": 4.0}


def test_a_bounce_after_its_window_gives_back_nothing():
    """Yesterday's room is of no use today."""
    profile, spending = a_profile(contacts=[_contact(at_ms=START_MS - DAY_MS)]), _spending()
    _answer(profile, "bounce", repertoire=_budgeted(), spending=spending)
    assert _used(spending) == _used(_spending())
