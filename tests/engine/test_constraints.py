"""What holds a qualified candidate back: consent, pauses, contact limits, quiet hours, budgets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import consent
from engine.budgets import Share, Spending
from engine.calendar import QuietHours, format_rfc3339
from engine.candidates import Rejection
from engine.consent import Statement
from engine.constraints import count_contacts, permit, surroundings
from engine.profile import Answer, Contact, Profile
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
from tests.repertoires import DAY_MS, HOUR_MS, START_MS, Builder, a_profile, channels

ROLLING_WEEK = Window(span_ms=7 * DAY_MS)
EMAIL = Scope(channels=frozenset({"email"}))


def _permit(
    repertoire: Repertoire, profile: Profile, *, in_slot: bool = False, budgets: dict[str, Spending] | None = None
) -> tuple[list[str], list[Rejection]]:
    """Treatments that nothing holds back, and why the others are held."""
    rejections: list[Rejection] = []
    spent = {} if budgets is None else budgets
    around = surroundings(profile, spent, Share(0, 1), repertoire, in_slot=in_slot)
    permitted = permit(repertoire.candidates, around, rejections)
    return [each.treatment.id for each in permitted], rejections


def _contact(at_ms: int, action: str = "a", channel: str = "email", **changes) -> Contact:
    """A contact that counts, sent at a time."""
    settings = {"issue": "sales", "group": "offers", "treatment": f"{action}-{channel}", "decision_id": f"d{at_ms}"}
    ends = {"expires_ms": at_ms + DAY_MS, "answerable_until_ms": at_ms + 7 * DAY_MS}
    return Contact(
        **{**settings, **ends, "at_ms": at_ms, "action": action, "channel": channel, "counts": True, "outbound": True}
        | changes
    )


def _answer(type_: str, at_ms: int, action: str = "a", channel: str = "email", group: str = "offers") -> Answer:
    return Answer(type_, at_ms, "sales", group, action, channel)


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
    _, rejections = _permit(repertoire, a_profile(consent=[said]))
    assert rejections == ([] if reason is None else [Rejection("a", "consent", f"a-email: {reason}")])


def test_a_purpose_nobody_declared_needs_a_grant():
    """What is not known is not allowed."""
    b = Builder()
    b.action("a", b.treatment("t", purpose="research"))
    assert _permit(b.build(), a_profile())[0] == []
    assert _permit(b.build(), a_profile(consent=[{"email/research": Statement("granted", 1)}]))[0] == ["t"]


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
    permitted, _ = _permit(repertoire, a_profile(consent=ledgers))
    for each in repertoire.candidates:
        allowed = consent.verdict(ledgers, each.treatment.channel, each.treatment.purpose, START_MS).allowed
        assert (each.treatment.id in permitted) == (allowed is True or (allowed is None and rule == "implied"))


# --- Contact policies ---


def _policy(outcome: str, threshold: int, days: int, pause_days: int, **changes) -> SuppressionPolicy:
    spans = {"window_ms": days * DAY_MS, "pause_ms": pause_days * DAY_MS}
    return SuppressionPolicy(
        **{"id": f"{outcome}s", "outcome": outcome, "threshold": threshold, "level": "action", **spans, **changes}
    )


def _two_cards(*policies: SuppressionPolicy) -> Repertoire:
    """Cards `a` and `b` in one group, each by e-mail and push, and `c` in another group."""
    b = Builder()
    for id_, group in (("a", "cards"), ("b", "cards"), ("c", "loans")):
        b.action(id_, b.treatment(f"{id_}-email"), b.treatment(f"{id_}-push", "push"), group=group)
    return b.build(constraints=_constrained(suppressions=policies))


def _held(repertoire: Repertoire, answers: list[Answer], now_ms: int) -> set[str]:
    _, rejections = _permit(repertoire, a_profile(now_ms=now_ms, answers=answers))
    assert {each.stage for each in rejections} <= {"contact-policy"}
    return {each.reason.partition(":")[0] for each in rejections}


def _days(*days: float) -> list[int]:
    return [START_MS + round(each * DAY_MS) for each in days]


def test_three_impressions_of_a_card_in_a_week_pause_that_card_for_ten_days():
    """Worked example: on its channel, from the third impression, to the millisecond; the reason has the numbers."""
    repertoire = _two_cards(_policy("impression", 3, 7, 10))
    answers = [_answer("impression", at, group="cards") for at in _days(0, 3, 7)]
    assert _held(repertoire, answers[:2], answers[1].at_ms) == set()
    until_ms = answers[2].at_ms + 10 * DAY_MS
    assert _held(repertoire, answers, answers[2].at_ms) == {"a-email"}
    assert _held(repertoire, answers, until_ms - 1) == {"a-email"}
    assert _held(repertoire, answers, until_ms) == set()
    late = [*answers[:2], _answer("impression", answers[2].at_ms + 1, group="cards")]
    assert _held(repertoire, late, late[2].at_ms) == set()
    _, [rejection] = _permit(repertoire, a_profile(now_ms=until_ms - 1, answers=answers))
    assert rejection.reason == (
        "a-email: paused until 2026-01-22: 3 impression of this action on this channel within 7d (impressions)"
    )


def test_five_clicks_on_any_card_in_a_week_pause_all_cards_for_ten_days():
    """Worked example: group level pools the group and pauses every action in it, but no other group."""
    repertoire = _two_cards(_policy("click", 5, 7, 10, level="group"))
    answers = [_answer("click", at, "ab"[n % 2], group="cards") for n, at in enumerate(_days(0, 1, 2, 3, 4))]
    assert _held(repertoire, answers[:4], answers[3].at_ms) == set()
    assert _held(repertoire, answers, answers[4].at_ms) == {"a-email", "b-email"}
    assert _held(repertoire, answers, answers[4].at_ms + 10 * DAY_MS) == set()


def test_two_rejects_in_any_channel_in_fifteen_days_pause_an_action_for_thirty():
    """Worked example: one reject by e-mail and one by push count together and pause both channels."""
    repertoire = _two_cards(_policy("reject", 2, 15, 30, across_channels=True))
    answers = [
        _answer("reject", at, channel=c, group="cards") for at, c in zip(_days(0, 15), ("email", "push"), strict=True)
    ]
    assert _held(repertoire, answers, answers[1].at_ms) == {"a-email", "a-push"}
    assert _held(repertoire, answers, answers[1].at_ms + 30 * DAY_MS) == set()
    one_channel = _two_cards(_policy("reject", 2, 15, 30))
    assert _held(one_channel, answers, answers[1].at_ms) == set()


def test_of_several_policies_the_longest_pause_counts():
    """Any policy that fires pauses, and the reason names the one that ends last."""
    policies = [_policy("reject", 1, 1, days, id=f"p{days}", across_channels=bool(days % 2)) for days in (3, 9, 6)]
    repertoire = _two_cards(*policies)
    answers = [_answer("reject", START_MS, group="cards")]
    _, rejections = _permit(repertoire, a_profile(now_ms=START_MS, answers=answers))
    assert [each.reason.rpartition(" ")[2] for each in rejections] == ["(p9)", "(p9)"]
    assert _held(repertoire, answers, START_MS + 6 * DAY_MS) == {"a-email", "a-push"}
    assert _held(repertoire, answers, START_MS + 9 * DAY_MS) == set()


@pytest.mark.parametrize("changes", [{}, {"action_class": "mandatory"}, {"action_class": "transactional"}])
def test_no_class_of_action_escapes_a_pause(changes):
    """Mandatory and transactional actions skip limits, not suppression."""
    policy = _policy("contact", 1, 1, 1)
    repertoire = (
        Builder().action("a", obeys_caps=False, **changes).build(constraints=_constrained(suppressions=(policy,)))
    )
    assert _permit(repertoire, a_profile(contacts=[_contact(START_MS)]))[0] == []


def test_a_policy_holds_where_its_scope_says():
    """Here for one channel only, while it counts all of them."""
    scoped = _policy("reject", 1, 1, 1, across_channels=True, scope=Scope(channels=frozenset({"push"})))
    assert _held(_two_cards(scoped), [_answer("reject", START_MS, group="cards")], START_MS) == {"a-push"}


MOMENTS = st.lists(
    st.tuples(
        st.sampled_from(["impression", "click", "reject"]),
        st.integers(0, 40),
        st.sampled_from("abc"),
        st.sampled_from(["email", "push"]),
    ),
    max_size=14,
)
POLICIES = st.lists(
    st.builds(
        _policy,
        st.sampled_from(["impression", "click", "reject", "contact"]),
        st.integers(1, 4),
        st.integers(1, 15),
        st.integers(1, 30),
        level=st.sampled_from(["action", "group"]),
        across_channels=st.booleans(),
    ),
    min_size=1,
    max_size=3,
).map(lambda found: [_renamed(each, n) for n, each in enumerate(found)])


def _renamed(policy: SuppressionPolicy, n: int) -> SuppressionPolicy:
    settings = {name: getattr(policy, name) for name in policy.__struct_fields__}
    return SuppressionPolicy(**{**settings, "id": f"p{n}"})


def _pause_ends_ms(policy: SuppressionPolicy, action: str, group: str, channel: str, seen: list[Answer]) -> int:
    """By the definition: each outcome with enough of them in the window before it starts a pause; 0 for none."""
    times = [
        each.at_ms
        for each in seen
        if policy.outcome in (each.type, "contact")
        and (policy.across_channels or each.channel == channel)
        and (each.action == action if policy.level == "action" else each.group == group)
    ]
    ends = [
        last + policy.pause_ms
        for last in times
        if sum(last - policy.window_ms <= each <= last for each in times) >= policy.threshold
    ]
    return max(ends, default=0)


@given(POLICIES, MOMENTS, st.integers(0, 60))
def test_pauses_are_those_of_the_definition(policies, moments, day):
    """For every candidate, time and order of outcomes: held exactly while some policy's latest pause lasts."""
    groups = {"a": "cards", "b": "cards", "c": "loans"}
    now_ms = START_MS + day * DAY_MS
    seen = [_answer(t, START_MS + d * DAY_MS, a, c, groups[a]) for t, d, a, c in moments if d <= day]
    contacts = [_contact(each.at_ms, each.action, each.channel, group=each.group) for each in seen]
    repertoire = _two_cards(*policies)
    profile = a_profile(now_ms=now_ms, answers=seen, contacts=sorted(contacts, key=lambda each: each.at_ms))
    permitted, _ = _permit(repertoire, profile)
    for each in repertoire.candidates:
        named = (each.action.id, each.action.group, each.treatment.channel, seen)
        paused = any(_pause_ends_ms(policy, *named) > now_ms for policy in policies)
        assert (each.treatment.id in permitted) is not paused


# --- Contact limits ---


def test_a_reached_limit_says_how_far_and_since_when():
    """The numbers, the channel, the first day of the window, and the limit's id."""
    limit = ContactLimit(id="weekly", limit=2, window=Window(unit="week"), scope=EMAIL)
    repertoire = Builder().action("a").build(constraints=_constrained(contact_limits=(limit,)))
    contacts = [_contact(at) for at in _days(0, 1)]
    now_ms = START_MS + 2 * DAY_MS
    assert _permit(repertoire, a_profile(now_ms=now_ms, contacts=contacts[:1]))[0] == ["a-email"]
    assert _permit(repertoire, a_profile(now_ms=now_ms, contacts=contacts)) == (
        [],
        [Rejection("a", "contact-policy", "a-email: 2 of 2 email contacts since 2026-01-05 (weekly)")],
    )
    sunday_ends_ms = START_MS - 8 * HOUR_MS + 7 * DAY_MS
    assert _permit(repertoire, a_profile(now_ms=sunday_ends_ms - 1, contacts=contacts))[0] == []
    assert _permit(repertoire, a_profile(now_ms=sunday_ends_ms, contacts=contacts))[0] == ["a-email"]


def test_a_rolling_limit_counts_the_whole_span():
    """A contact exactly as old as the span still counts; a millisecond later it does not."""
    limit = ContactLimit(id="r", limit=1, window=ROLLING_WEEK)
    repertoire = Builder().action("a").build(constraints=_constrained(contact_limits=(limit,)))
    contacts = [_contact(START_MS)]
    _, [rejection] = _permit(repertoire, a_profile(now_ms=START_MS + 7 * DAY_MS, contacts=contacts))
    assert rejection.reason == "a-email: 1 of 1 any contacts since 2026-01-05 (r)"
    assert _permit(repertoire, a_profile(now_ms=START_MS + 7 * DAY_MS + 1, contacts=contacts))[1] == []


@pytest.mark.parametrize(
    ("traits", "utc_hour", "permitted"),
    [
        ({"timezone": "Asia/Tokyo"}, 15, True),
        ({"timezone": "Asia/Tokyo"}, 24, False),
        ({"timezone": "America/New_York"}, 24, False),
        ({"country": "ES"}, 23, True),
        ({"country": "us"}, 29, False),  # midnight in New York is not yet midnight in Los Angeles
        ({"country": "us"}, 32, False),  # and midnight there is no longer that of New York
        ({"timezone": 9, "country": ["US"]}, 24, True),
        ({"timezone": "Mars/Olympus", "country": "US"}, 24, False),
    ],
)
def test_a_calendar_day_is_the_recipients(traits, utc_hour, permitted):
    """One a day: half an hour before and after an hour are two days only where that hour is midnight, for certain."""
    limit = ContactLimit(id="daily", limit=1, window=Window(unit="day"))
    repertoire = Builder().action("a").build(constraints=_constrained(contact_limits=(limit,)))
    at_ms, half_ms = START_MS + (utc_hour - 8) * HOUR_MS, HOUR_MS // 2
    profile = a_profile(now_ms=at_ms + half_ms, contacts=[_contact(at_ms - half_ms)], traits=traits)
    assert (_permit(repertoire, profile)[0] == ["a-email"]) is permitted


def test_which_contacts_a_limit_counts():
    """Those that count, in its scope; tags as they are in the configuration of the day; shown ones by channel only."""
    b = Builder().action("a", tags=frozenset({"promo"})).action("b", group="other")
    repertoire = b.build()
    contacts = [
        _contact(START_MS - 3),
        _contact(START_MS - 2),
        _contact(START_MS - 1, "b", "push", group="other"),
        _contact(START_MS, "gone", "web", outbound=False),
        _contact(START_MS, counts=False),
    ]

    def count(since_ms: int = 0, **scope) -> int:
        named = {name: frozenset(values) for name, values in scope.items()}
        return count_contacts(Scope(**named), since_ms, contacts, repertoire)

    assert count() == 3
    assert count(since_ms=START_MS - 2) == 2
    assert count(channels={"web"}) == 1
    assert count(channels={"email", "web"}) == 3
    assert count(tags={"promo"}) == 2
    assert count(groups={"other"}) == 1
    assert count(actions={"gone"}) == 0
    assert count(actions={"gone"}, channels={"web"}) == 1


def test_the_two_switches_of_an_action():
    """What does not obey caps is never held by one; whether it counts is another matter."""
    limit = ContactLimit(id="one", limit=1, window=ROLLING_WEEK)
    b = Builder().action("free", obeys_caps=False).action("bound", counts_toward_caps=False)
    repertoire = b.build(constraints=_constrained(contact_limits=(limit,)))
    assert _permit(repertoire, a_profile(contacts=[_contact(START_MS)]))[0] == ["free-email"]
    assert len(_permit(repertoire, a_profile(contacts=[_contact(START_MS, counts=False)]))[0]) == 2


def test_a_limit_over_all_channels_is_about_being_written_to():
    """It neither holds back nor counts what a slot or an inbound channel shows; one that names the channel does."""
    b = Builder()
    b.action("a", b.treatment("sent"), b.treatment("shown", "web"))
    every = ContactLimit(id="all", limit=0, window=ROLLING_WEEK)
    web = ContactLimit(id="web", limit=0, window=ROLLING_WEEK, scope=Scope(channels=frozenset({"web"})))
    repertoire = b.build(constraints=_constrained(contact_limits=(every,)))
    assert _permit(repertoire, a_profile())[0] == ["shown"]
    assert _permit(repertoire, a_profile(), in_slot=True)[0] == ["sent", "shown"]
    both = b.build(constraints=_constrained(contact_limits=(every, web)))
    assert _permit(both, a_profile(), in_slot=True)[0] == ["sent"]


def test_a_history_that_lost_contacts_of_the_window_holds_back():
    """As they cannot be counted; a shorter window, and what does not obey caps, is not concerned."""
    limits = (
        ContactLimit(id="a-day", limit=9, window=Window(span_ms=DAY_MS)),
        ContactLimit(id="a-week", limit=9, window=ROLLING_WEEK),
    )
    b = Builder().action("a").action("free", obeys_caps=False)
    repertoire = b.build(constraints=_constrained(contact_limits=limits))
    _, [rejection] = _permit(repertoire, a_profile(now_ms=START_MS + 2 * DAY_MS, lost_ms=START_MS))
    assert rejection.reason == (
        "a-email: contacts since 2025-12-31 had no room in the history and cannot be counted (a-week)"
    )
    assert _permit(repertoire, a_profile(now_ms=START_MS + 7 * DAY_MS, lost_ms=START_MS))[0] == ["free-email"]
    assert _permit(repertoire, a_profile(now_ms=START_MS + 7 * DAY_MS + 1, lost_ms=START_MS))[1] == []


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
    assert _permit(_by_night(), profile) == (
        ["email", "web"],
        [Rejection("a", "quiet-hours", f"push: quiet hours on push until {until}")],
    )


def test_what_is_shown_and_what_is_urgent_knows_no_quiet_hours():
    """A slot, an inbound channel, and an action that ignores them."""
    profile = a_profile(now_ms=START_MS + 15 * HOUR_MS)
    assert _permit(_by_night(), profile, in_slot=True)[1] == []
    assert _permit(_by_night(ignores_quiet_hours=True), profile)[1] == []
    assert [each.stage for each in _permit(_by_night(), profile)[1]] == ["quiet-hours"]


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
    permitted, _ = _permit(repertoire, a_profile(now_ms=now_ms, traits=traits))
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
    assert _permit(repertoire, a_profile(), budgets=spent) == (
        ["cheap", "free"],
        [Rejection("a", "budget", "dear: 4 of 5 money used since 2026-01-05T00:00:00.000Z (m)")],
    )


def test_constraints_are_asked_in_order():
    """Consent, pauses, limits, quiet hours, budgets: lifting one after the other shows the next reason."""
    quiet = Channel(id="email", quiet_hours=(QuietHours(0, 1439),))
    rules = {
        "suppressions": (_policy("contact", 1, 1, 1),),
        "contact_limits": (ContactLimit(id="l", limit=0, window=ROLLING_WEEK),),
        "budgets": (BudgetRule(id="b", unit="decisions", limit=0, window=ROLLING_WEEK),),
    }
    profile, found = a_profile(contacts=[_contact(START_MS)]), []
    for lifted in range(6):
        kept = {name: each for n, (name, each) in enumerate(rules.items()) if lifted <= (1, 2, 4)[n]}
        purposes = {"marketing": "required" if lifted == 0 else "none"}
        silent = channels() if lifted > 3 else {**channels(), "email": quiet}
        repertoire = Builder().action("a").build(constraints=Constraints(purposes=purposes, **kept), channels=silent)
        found += [(each.stage, each.reason.rpartition("(")[2]) for each in _permit(repertoire, profile)[1]]
    assert [stage for stage, _ in found] == ["consent", "contact-policy", "contact-policy", "quiet-hours", "budget"]
    assert [why for _, why in found][1:3] == ["contacts)", "l)"]


CONSTRAINTS = st.fixed_dictionaries(
    {
        "suppressions": POLICIES.map(tuple),
        "contact_limits": st.lists(
            st.builds(
                ContactLimit,
                id=st.uuids().map(str),
                limit=st.integers(0, 3),
                window=st.sampled_from([ROLLING_WEEK, Window(unit="day"), Window(unit="month", count=2)]),
                scope=st.sampled_from([Scope(), EMAIL, Scope(groups=frozenset({"cards"}))]),
            ),
            max_size=2,
        ).map(tuple),
        "budgets": st.lists(
            st.builds(
                BudgetRule,
                id=st.uuids().map(str),
                unit=st.just("decisions"),
                limit=st.integers(0, 2).map(float),
                window=st.just(ROLLING_WEEK),
                scope=st.sampled_from([Scope(), EMAIL]),
            ),
            max_size=2,
        ).map(tuple),
    }
)


@given(CONSTRAINTS, MOMENTS, st.data())
def test_a_constraint_never_adds_an_action(rules, moments, data):
    """Leaving any constraints out permits at least as much, and every candidate is permitted or has one reason."""
    fewer = {name: tuple(each for each in found if data.draw(st.booleans())) for name, found in rules.items()}
    contacts = [_contact(START_MS + d * DAY_MS, a, c) for _, d, a, c in sorted(moments, key=lambda each: each[1])]
    answers = [_answer(t, START_MS + d * DAY_MS, a, c) for t, d, a, c in moments]
    profile = a_profile(now_ms=START_MS + 41 * DAY_MS, contacts=contacts, answers=answers)
    by_rules = []
    for kept in (rules, fewer):
        repertoire = _two_cards()
        settings = {name: getattr(repertoire, name) for name in repertoire.__struct_fields__}
        constrained = Repertoire(**{**settings, "constraints": _constrained(**kept), "covering": {}})
        permitted, rejections = _permit(constrained, profile)
        assert len(permitted) + len(rejections) == len(repertoire.candidates)
        by_rules.append(set(permitted))
    assert by_rules[0] <= by_rules[1]
