"""Consent: the latest statement counts, grants end, and no merge ever allows what one of the two denied."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.consent import (
    CONSENT_EVENT,
    MAX_LEDGERS,
    MAX_STATEMENTS,
    Ledger,
    Statement,
    merge_ledgers,
    state,
    statements_of,
    verdict,
)
from engine.signal import Signal
from tests.repertoires import START_MS

CHANNELS, PURPOSES = ("email", "sms", "web"), ("marketing", "service")
MOMENTS = range(12)
PARTS = st.tuples(st.sampled_from([*CHANNELS, "*"]), st.sampled_from([*PURPOSES, "*"])).map("/".join)
STATEMENTS = st.builds(
    Statement,
    status=st.sampled_from(["granted", "granted", "denied", "revoked"]),
    at_ms=st.integers(0, 9),
    expires_ms=st.none() | st.integers(1, 11),
)
LEDGERS = st.dictionaries(PARTS, STATEMENTS, min_size=1, max_size=5)


def said(*entries: Any, event: str = CONSENT_EVENT, **properties: Any) -> dict[str, Statement]:
    """What a signal states, with a list of entries or one in its properties."""
    body = {"consents": list(entries)} if entries else properties
    return statements_of(Signal("m", "track", START_MS, event, properties=body))


def allowed(ledgers: list[Ledger], channel: str = "email", purpose: str = "marketing", now_ms: int = 0) -> bool | None:
    """What is on record."""
    return verdict(ledgers, channel, purpose, now_ms).allowed


def everything(ledgers: list[Ledger]) -> dict[tuple[str, str, int], bool | None]:
    """What is on record for every channel and purpose at every moment."""
    return {
        (channel, purpose, now_ms): allowed(ledgers, channel, purpose, now_ms)
        for channel in (*CHANNELS, "push")
        for purpose in PURPOSES
        for now_ms in MOMENTS
    }


# --- What a signal says ---


def test_one_statement_or_a_list() -> None:
    """Channel and purpose are all when they are not named; an end is a date."""
    assert said(status="granted") == {"*/*": Statement("granted", START_MS)}
    ends = "2026-01-05T08:00:01Z"
    many = said(
        {"channel": "email", "status": "denied"}, {"purpose": "service", "status": "granted", "expiresAt": ends}
    )
    assert many == {
        "email/*": Statement("denied", START_MS),
        "*/service": Statement("granted", START_MS, START_MS + 1_000),
    }


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"status": "maybe"},
        {"status": ["granted"]},
        {"status": "granted", "channel": 7},
        {"status": "granted", "channel": None},
        {"status": "granted", "channel": "a/b"},
        {"status": "granted", "purpose": {}},
        {"status": "granted", "purpose": "p" * 201},
        {"status": "granted", "expiresAt": "soon"},
    ],
)
def test_what_is_malformed_says_nothing(entry: dict[str, Any]) -> None:
    """It neither grants nor denies, and leaves the others of its list alone."""
    assert said(entry, {"status": "denied"}) == {"*/*": Statement("denied", START_MS)}


def test_other_shapes_and_events_say_nothing() -> None:
    """Statements are made by one event only."""
    assert said(consents="granted") == said("granted", None) == said(event="Go", status="granted") == {}


# --- What follows ---


def test_the_latest_statement_that_speaks_of_it_counts() -> None:
    """However general it is; at the same moment the stricter one."""
    ledgers = [{"email/*": Statement("granted", 1)}]
    state(ledgers, {"*/*": Statement("revoked", 3)})
    assert allowed(ledgers) is False
    state(ledgers, {"email/marketing": Statement("granted", 5)})
    assert (allowed(ledgers), allowed(ledgers, purpose="service")) == (True, False)
    state(ledgers, {"*/marketing": Statement("denied", 5)})
    assert allowed(ledgers) is False


def test_nothing_said_is_no_answer() -> None:
    """Neither yes nor no: what that means is for the purpose to say."""
    assert allowed([]) is allowed([{"sms/*": Statement("denied", 1)}]) is None
    assert verdict([], "email", "marketing", 0).statement is None


def test_a_grant_ends_and_a_denial_does_not() -> None:
    """At its end a grant is a no, not silence."""
    assert [allowed([{"email/*": Statement("granted", 1, 5)}], now_ms=now) for now in (4, 5)] == [True, False]
    assert allowed([{"email/*": Statement("denied", 1, 5)}], now_ms=9) is False


@given(
    st.permutations([("*/*", 1), ("email/*", 2), ("email/*", 3), ("email/marketing", 2), ("*/marketing", 3)]), st.data()
)
def test_statements_may_come_in_any_order(order: list[tuple[str, int]], data: st.DataObject) -> None:
    """What counts is when they were made."""
    made = {each: Statement(data.draw(st.sampled_from(["granted", "denied"])), each[1]) for each in order}
    ledgers: list[list[Ledger]] = [[], []]
    for found, sequence in zip(ledgers, (order, sorted(order)), strict=True):
        for each in sequence:
            state(found, {each[0]: made[each]})
    assert ledgers[0] == ledgers[1]


def test_a_full_ledger_never_loses_a_denial() -> None:
    """A grant without room is dropped; a denial without room is one of everything. Both are counted."""
    ledgers: list[Ledger] = []
    statements = {f"c{n}/*": Statement("granted", 1) for n in range(MAX_STATEMENTS)}
    assert state(ledgers, statements) == 0
    assert state(ledgers, {"new/*": Statement("granted", 2), "c1/*": Statement("granted", 2)}) == 1
    assert allowed(ledgers, "new") is None
    assert state(ledgers, {"new/*": Statement("revoked", 3)}) == 1
    assert allowed(ledgers, "new") is allowed(ledgers, "c5") is False
    assert len(ledgers[0]) == MAX_STATEMENTS + 1


# --- Merging ---


@given(st.lists(LEDGERS, min_size=2, max_size=MAX_LEDGERS + 4), st.data())
def test_a_merge_never_widens(ledgers: list[Ledger], data: st.DataObject) -> None:
    """What one of two people denied, or whose grant ended, the merged one denies, now and at any later moment."""
    at = data.draw(st.integers(1, len(ledgers) - 1))
    ours, theirs = merge_ledgers([], ledgers[:at]), merge_ledgers([], ledgers[at:])
    separate = [everything(copy.deepcopy(each)) for each in (ours, theirs)]
    merged = merge_ledgers(ours, theirs)
    assert len(merged) <= MAX_LEDGERS
    for asked, answer in everything(merged).items():
        before = [each[asked] for each in separate]
        assert answer is not True or (False not in before and True in before)
        assert answer is not None or before == [None, None]


@given(LEDGERS, LEDGERS)
def test_the_order_of_a_merge_does_not_matter(one: Ledger, other: Ledger) -> None:
    """Both ways give the same answers; and nothing is gained from merging with nothing or with the same."""
    assert everything(merge_ledgers([one], [other])) == everything(merge_ledgers([other], [one]))
    assert everything(merge_ledgers([one], [{}])) == everything(merge_ledgers([one], [one])) == everything([one])


@given(st.lists(LEDGERS, min_size=1, max_size=12), st.sampled_from(["granted", "denied"]))
def test_a_statement_after_the_merge_settles_the_matter(ledgers: list[Ledger], status: Any) -> None:
    """A later grant allows again what one side had denied, a later denial ends it."""
    merged = merge_ledgers([], ledgers)
    state(merged, {"*/*": Statement(status, 10)})
    assert set(everything(merged).values()) == {status == "granted"}


def test_many_merges_of_long_ledgers_deny_in_doubt() -> None:
    """When the statements of two ledgers have no room in one, nothing is allowed any more."""
    ledgers = [{f"c{n}-{i}/*": Statement("granted", 1) for i in range(40)} for n in range(MAX_LEDGERS + 1)]
    merged = merge_ledgers(ledgers[:MAX_LEDGERS], ledgers[MAX_LEDGERS:])
    assert len(merged) == MAX_LEDGERS
    assert allowed(merged, "c0-0") is False
