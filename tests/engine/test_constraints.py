"""What holds a qualified candidate back: consent, pauses, contact limits, quiet hours, budgets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import consent
from engine.budgets import Spending
from engine.calendar import QuietHours, format_rfc3339
from engine.candidates import Rejection
from engine.consent import Statement
from engine.profile import Answer
from engine.repertoire import (
    BudgetRule,
    Channel,
    Constraints,
    ContactLimit,
    Repertoire,
    Scope,
    SuppressionPolicy,
    Window,
)
from tests.repertoires import DAY_MS, HOUR_MS, START_MS, Builder, a_contact, a_profile, channels, let_through

ROLLING_WEEK = Window(span_ms=7 * DAY_MS)
EMAIL = Scope(channels=frozenset({"email"}))


def _constrained(**rules) -> Constraints:
    return Constraints(purposes={"marketing": "none"}, **rules)


# --- Consent ---


@pytest.mark.parametrize(
    ("rule", "said", "reason"),
    [
        ("none", {}, None),
        ("none", {"email/marketing": Statement("revoked", 1)}, None),
        ("implied", {}, None),
        ("implied", {"push/marketing": Statement("denied", 1)}, None),
        ("implied", {"*/*": Statement("denied", START_MS)}, "denied for email, marketing on 2026-01-05"),
        ("required", {}, "no consent on record for email, marketing"),
        ("required", {"email/marketing": Statement("granted", 1)}, None),
        ("required", {"email/*": Statement("granted", 1, START_MS + 1)}, None),
        (
            "required",
            {"email/*": Statement("granted", 1, START_MS)},
            "consent for email, marketing expired on 2026-01-05",
        ),
        (
            "required",
            {"email/*": Statement("granted", 1), "*/marketing": Statement("revoked", START_MS)},
            "revoked for email, marketing on 2026-01-05",
        ),
    ],
)
def test_consent_holds_by_the_rule_of_its_purpose(rule, said, reason):
    """A grant where one is required, no denial where consent is implied; the reason has channel, purpose and day."""
    repertoire = Builder().action("a").build(constraints=Constraints(purposes={"marketing": rule}))
    _, rejections = let_through(repertoire, a_profile(consent=[said]))
    assert rejections == ([] if reason is None else [Rejection("a", "consent", f"a-email: {reason}")])


def test_a_purpose_nobody_declared_needs_a_grant():
    """What is not known is not allowed."""
    b = Builder()
    b.action("a", b.treatment("t", purpose="research"))
    assert let_through(b.build(), a_profile())[0] == []
    assert let_through(b.build(), a_profile(consent=[{"email/research": Statement("granted", 1)}]))[0] == ["t"]


STATEMENTS = st.builds(
    Statement,
    st.sampled_from(["granted", "denied", "revoked"]),
    st.integers(START_MS - 5, START_MS),
    st.none() | st.integers(START_MS - 3, START_MS + 3),
)
LEDGERS = st.lists(
    st.dictionaries(
        st.builds("{}/{}".format, st.sampled_from(["email", "push", "*"]), st.sampled_from(["marketing", "news", "*"])),
        STATEMENTS,
        max_size=5,
    ),
    max_size=3,
)


@given(LEDGERS, st.sampled_from(["required", "implied"]))
def test_consent_is_never_violated(ledgers, rule):
    """Whatever was said by whom: what is permitted has a verdict that its purpose accepts."""
    b = Builder()
    b.action("a", *(b.treatment(f"{c}-{p}", c, purpose=p) for c in ("email", "push") for p in ("marketing", "news")))
    repertoire = b.build(constraints=Constraints(purposes={"marketing": rule, "news": rule}))
    permitted, _ = let_through(repertoire, a_profile(consent=ledgers))
    for each in repertoire.candidates:
        allowed = consent.verdict(ledgers, each.treatment.channel, each.treatment.purpose, START_MS).allowed
        assert (each.treatment.id in permitted) == (allowed is True or (allowed is None and rule == "implied"))


# --- Quiet hours ---


def _by_night(**changes) -> Repertoire:
    quiet = (QuietHours(22 * 60, 6 * 60),)
    b = Builder()
    b.action("a", b.treatment("email"), b.treatment("push", "push"), b.treatment("web", "web"), **changes)
    night = {name: Channel(id=name, quiet_hours=quiet, inbound=name == "web") for name in ("push", "web")}
    return b.build(constraints=_constrained(), channels={**channels(), **night})


def test_quiet_hours_say_until_when():
    """Of the channel, in the recipient's zone: 23:00 in Madrid is quiet until 06:00 there, 05:00 UTC."""
    profile = a_profile(now_ms=START_MS + 14 * HOUR_MS, traits={"timezone": "Europe/Madrid"})
    until = format_rfc3339(START_MS + 21 * HOUR_MS)
    assert let_through(_by_night(), profile) == (
        ["email", "web"],
        [Rejection("a", "quiet-hours", f"push: quiet hours on push until {until}")],
    )


def test_what_is_shown_and_what_is_urgent_knows_no_quiet_hours():
    """A slot, an inbound channel, and an action that ignores them."""
    profile = a_profile(now_ms=START_MS + 15 * HOUR_MS)
    assert let_through(_by_night(), profile, in_slot=True)[1] == []
    assert let_through(_by_night(ignores_quiet_hours=True), profile)[1] == []
    assert [each.stage for each in let_through(_by_night(), profile)[1]] == ["quiet-hours"]


POSSIBLE = {
    "Europe/Madrid": ["Europe/Madrid"],
    "ES": ["Europe/Madrid"],
    "US": ["America/New_York", "America/Los_Angeles"],
}
"""Zones a customer may be in who states this time zone or country; UTC, the engine's, when that tells nothing."""


@given(
    st.integers(0, 366 * 24 * 60),
    st.fixed_dictionaries(
        {},
        optional={
            "timezone": st.sampled_from(["Europe/Madrid", "America/New_York", "Nowhere/Land", 7]),
            "country": st.sampled_from(["ES", "US", "us", "XX", None]),
        },
    ),
    st.tuples(st.integers(0, 1439), st.integers(0, 1440)).filter(lambda each: each[0] != each[1] != each[0] + 1440),
    st.none() | st.frozensets(st.integers(0, 6), min_size=1, max_size=6),
)
def test_quiet_hours_hold_in_every_zone_that_could_be_the_recipients(minute, traits, span, days):
    """Judged by the wall clock of each possible zone: nothing is permitted while any of them is quiet."""
    if span == (0, 1440) and days is None:
        span = (0, 1439)
    quiet = QuietHours(*span, days)
    b = Builder().action("a")
    repertoire = b.build(constraints=_constrained(), channels={"email": Channel(id="email", quiet_hours=(quiet,))})
    now_ms = START_MS + minute * 60_000
    permitted, _ = let_through(repertoire, a_profile(now_ms=now_ms, traits=traits))
    timezone, country = traits.get("timezone"), traits.get("country")
    names = [timezone] if timezone in repertoire.zones.zones else POSSIBLE.get(str(country).upper(), ["UTC"])
    if any(_is_quiet(quiet, now_ms, repertoire.zones.zones[name]) for name in names):
        assert permitted == []
    elif not any(
        _is_quiet(quiet, now_ms + n * HOUR_MS, repertoire.zones.zones[name]) for name in names for n in (-1, 1)
    ):
        assert permitted == ["a-email"]  # away from clock changes both sides agree to the minute


def _is_quiet(quiet: QuietHours, at_ms: int, tz) -> bool:
    """What the wall clock shows, compared with the span and the day it began on."""
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).astimezone(tz)
    minute, crosses = local.hour * 60 + local.minute, quiet.end_minute <= quiet.start_minute
    today = quiet.days is None or local.weekday() in quiet.days
    yesterday = quiet.days is None or (local.weekday() - 1) % 7 in quiet.days
    if not crosses:
        return today and quiet.start_minute <= minute < quiet.end_minute
    return (today and minute >= quiet.start_minute) or (yesterday and minute < quiet.end_minute)


# --- Budgets, and all of them ---


def test_an_exhausted_budget_holds_back_what_no_longer_fits():
    """Of money: the dearer treatment does not fit into the rest, the cheaper one does."""
    b = Builder()
    b.action("a", b.treatment("cheap", cost=1.0), b.treatment("dear", cost=3.0), b.treatment("free"))
    budget = BudgetRule(id="m", unit="money", limit=5.0, window=Window(unit="day"))
    repertoire = b.build(constraints=_constrained(budgets=(budget,)))
    spent = {"m": Spending({START_MS - 8 * HOUR_MS: 4.0})}
    assert let_through(repertoire, a_profile(), budgets=spent) == (
        ["cheap", "free"],
        [Rejection("a", "budget", "dear: 4 of 5 money used since 2026-01-05T00:00:00.000Z (m)")],
    )


def _pause(level: str, outcome: str = "contact", threshold: int = 1, **changes) -> SuppressionPolicy:
    spans = {"window_ms": 7 * DAY_MS, "pause_ms": 30 * DAY_MS}
    settings = {"id": f"{outcome}-{level}-{threshold}", "outcome": outcome, "threshold": threshold}
    return SuppressionPolicy(**{**settings, **spans, "level": level, **changes})


def test_constraints_are_asked_in_order():
    """Consent, pauses, limits, quiet hours, budgets: lifting one after the other shows the next reason."""
    quiet = Channel(id="email", quiet_hours=(QuietHours(0, 1439),))
    rules = {
        "suppressions": (_pause("action"),),
        "contact_limits": (ContactLimit(id="l", limit=0, window=ROLLING_WEEK),),
        "budgets": (BudgetRule(id="b", unit="decisions", limit=0, window=ROLLING_WEEK),),
    }
    profile, found = a_profile(contacts=[a_contact(START_MS)]), []
    for lifted in range(6):
        kept = {name: each for n, (name, each) in enumerate(rules.items()) if lifted <= (1, 2, 4)[n]}
        purposes = {"marketing": "required" if lifted == 0 else "none"}
        silent = channels() if lifted > 3 else {**channels(), "email": quiet}
        repertoire = Builder().action("a").build(constraints=Constraints(purposes=purposes, **kept), channels=silent)
        found += [(each.stage, each.reason.rpartition("(")[2]) for each in let_through(repertoire, profile)[1]]
    assert [stage for stage, _ in found] == ["consent", "contact-policy", "contact-policy", "quiet-hours", "budget"]
    assert [why for _, why in found][1:3] == ["contact-action-1)", "l)"]


SUPPRESSIONS = [
    _pause("group", threshold=3),
    _pause("action", "reject"),
    _pause("action", scope=EMAIL, across_channels=True),
]
LIMITS = [
    ContactLimit(id="l1", limit=1, window=ROLLING_WEEK),
    ContactLimit(id="l2", limit=2, window=Window(unit="day"), scope=EMAIL),
    ContactLimit(id="l3", limit=3, window=Window(unit="month", count=2), scope=Scope(groups=frozenset({"cards"}))),
]
BUDGETS = [
    BudgetRule(id="b1", unit="decisions", limit=0, window=ROLLING_WEEK, scope=EMAIL),
    BudgetRule(id="b2", unit="money", limit=2, window=ROLLING_WEEK),
]
MOMENTS = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from("abc"), st.sampled_from(["email", "push"])), max_size=8
).map(sorted)


@given(MOMENTS, st.data())
def test_a_constraint_never_adds_an_action(moments, data):
    """Leaving any constraints out permits at least as much; every candidate is permitted or has exactly one reason."""
    contacts = [a_contact(START_MS + day * DAY_MS, action, channel) for day, action, channel in moments]
    answers = [Answer("reject", each.at_ms, "sales", "cards", each.action, each.channel) for each in contacts[::2]]
    profile = a_profile(now_ms=START_MS + 21 * DAY_MS, contacts=contacts, answers=answers)
    every = {"suppressions": SUPPRESSIONS, "contact_limits": LIMITS, "budgets": BUDGETS}
    through: list[set[str]] = []
    for _ in range(2):
        kept = {name: tuple(each for each in rules if data.draw(st.booleans())) for name, rules in every.items()}
        every = {name: list(rules) for name, rules in kept.items()}
        b = Builder()
        for id_, group in (("a", "cards"), ("b", "cards"), ("c", "loans")):
            b.action(id_, b.treatment(f"{id_}1"), b.treatment(f"{id_}2", "push", cost=3.0), group=group)
        repertoire = b.build(constraints=_constrained(**kept))
        found, rejections = let_through(repertoire, profile)
        assert len(found) + len(rejections) == len(repertoire.candidates)
        through.append(set(found))
    assert through[0] <= through[1]
