"""Contact policies and contact limits: pauses after outcomes, and at most so many contacts in a window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.candidates import Rejection
from engine.constraints import count_contacts
from engine.profile import Answer
from engine.repertoire import (
    Constraints,
    ContactLimit,
    Repertoire,
    Scope,
    SuppressionPolicy,
    Window,
)
from tests.repertoires import DAY_MS, HOUR_MS, START_MS, Builder, a_contact, a_profile, let_through

ROLLING_WEEK = Window(span_ms=7 * DAY_MS)
EMAIL = Scope(channels=frozenset({"email"}))


def _answer(type_: str, at_ms: int, action: str = "a", channel: str = "email", group: str = "offers") -> Answer:
    return Answer(type_, at_ms, "sales", group, action, channel)


def _constrained(**rules) -> Constraints:
    return Constraints(purposes={"marketing": "none"}, **rules)


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
    _, rejections = let_through(repertoire, a_profile(now_ms=now_ms, answers=answers))
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
    _, [rejection] = let_through(repertoire, a_profile(now_ms=until_ms - 1, answers=answers))
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
    _, rejections = let_through(repertoire, a_profile(now_ms=START_MS, answers=answers))
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
    assert let_through(repertoire, a_profile(contacts=[a_contact(START_MS)]))[0] == []


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
    contacts = [a_contact(each.at_ms, each.action, each.channel, group=each.group) for each in seen]
    repertoire = _two_cards(*policies)
    profile = a_profile(now_ms=now_ms, answers=seen, contacts=sorted(contacts, key=lambda each: each.at_ms))
    permitted, _ = let_through(repertoire, profile)
    for each in repertoire.candidates:
        named = (each.action.id, each.action.group, each.treatment.channel, seen)
        paused = any(_pause_ends_ms(policy, *named) > now_ms for policy in policies)
        assert (each.treatment.id in permitted) is not paused


# --- Contact limits ---


def test_a_reached_limit_says_how_far_and_since_when():
    """The numbers, the channel, the first day of the window, and the limit's id."""
    limit = ContactLimit(id="weekly", limit=2, window=Window(unit="week"), scope=EMAIL)
    repertoire = Builder().action("a").build(constraints=_constrained(contact_limits=(limit,)))
    contacts = [a_contact(at) for at in _days(0, 1)]
    now_ms = START_MS + 2 * DAY_MS
    assert let_through(repertoire, a_profile(now_ms=now_ms, contacts=contacts[:1]))[0] == ["a-email"]
    assert let_through(repertoire, a_profile(now_ms=now_ms, contacts=contacts)) == (
        [],
        [Rejection("a", "contact-policy", "a-email: 2 of 2 email contacts since 2026-01-05 (weekly)")],
    )
    sunday_ends_ms = START_MS - 8 * HOUR_MS + 7 * DAY_MS
    assert let_through(repertoire, a_profile(now_ms=sunday_ends_ms - 1, contacts=contacts))[0] == []
    assert let_through(repertoire, a_profile(now_ms=sunday_ends_ms, contacts=contacts))[0] == ["a-email"]


def test_a_rolling_limit_counts_the_whole_span():
    """A contact exactly as old as the span still counts; a millisecond later it does not."""
    limit = ContactLimit(id="r", limit=1, window=ROLLING_WEEK)
    repertoire = Builder().action("a").build(constraints=_constrained(contact_limits=(limit,)))
    contacts = [a_contact(START_MS)]
    assert let_through(repertoire, a_profile(now_ms=START_MS + 7 * DAY_MS + 1, contacts=contacts))[1] == []
    _, [rejection] = let_through(repertoire, a_profile(now_ms=START_MS + 7 * DAY_MS, contacts=contacts))
    assert rejection.reason == "a-email: 1 of 1 any contacts since 2026-01-05 (r)"
    several = ContactLimit(id="r", limit=1, window=ROLLING_WEEK, scope=Scope(channels=frozenset({"push", "email"})))
    repertoire = Builder().action("a").build(constraints=_constrained(contact_limits=(several,)))
    _, [rejection] = let_through(repertoire, a_profile(contacts=contacts * 2))
    assert rejection.reason == "a-email: 2 of 1 email or push contacts since 2025-12-29 (r)"


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
    profile = a_profile(now_ms=at_ms + half_ms, contacts=[a_contact(at_ms - half_ms)], traits=traits)
    assert (let_through(repertoire, profile)[0] == ["a-email"]) is permitted


def test_which_contacts_a_limit_counts():
    """Those that count, in its scope; tags as they are in the configuration of the day; shown ones by channel only."""
    b = Builder().action("a", tags=frozenset({"promo"})).action("b", group="other")
    repertoire = b.build()
    contacts = [
        a_contact(START_MS - 3),
        a_contact(START_MS - 2),
        a_contact(START_MS - 1, "b", "push", group="other"),
        a_contact(START_MS, "gone", "web", outbound=False),
        a_contact(START_MS, counts=False),
    ]

    def count(since_ms: int = 0, **scope) -> int:
        named = {name: frozenset(values) for name, values in scope.items()}
        limit = ContactLimit(id="l", limit=1, window=ROLLING_WEEK, scope=Scope(**named))
        every = ContactLimit(id="all", limit=1, window=ROLLING_WEEK)
        counts = count_contacts([limit, every], [since_ms, 0], contacts, repertoire)
        assert counts[1] == 3
        return counts[0]

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
    assert let_through(repertoire, a_profile(contacts=[a_contact(START_MS)]))[0] == ["free-email"]
    assert len(let_through(repertoire, a_profile(contacts=[a_contact(START_MS, counts=False)]))[0]) == 2


def test_a_limit_over_all_channels_is_about_being_written_to():
    """It neither holds back nor counts what a slot or an inbound channel shows; one that names the channel does."""
    b = Builder()
    b.action("a", b.treatment("sent"), b.treatment("shown", "web"))
    every = ContactLimit(id="all", limit=0, window=ROLLING_WEEK)
    web = ContactLimit(id="web", limit=0, window=ROLLING_WEEK, scope=Scope(channels=frozenset({"web"})))
    repertoire = b.build(constraints=_constrained(contact_limits=(every,)))
    assert let_through(repertoire, a_profile())[0] == ["shown"]
    assert let_through(repertoire, a_profile(), in_slot=True)[0] == ["sent", "shown"]
    both = b.build(constraints=_constrained(contact_limits=(every, web)))
    assert let_through(both, a_profile(), in_slot=True)[0] == ["sent"]


def test_a_history_that_lost_contacts_of_the_window_holds_back():
    """As they cannot be counted; a shorter window, and what does not obey caps, is not concerned."""
    limits = (
        ContactLimit(id="a-day", limit=9, window=Window(span_ms=DAY_MS)),
        ContactLimit(id="a-week", limit=9, window=ROLLING_WEEK),
    )
    b = Builder().action("a").action("free", obeys_caps=False)
    repertoire = b.build(constraints=_constrained(contact_limits=limits))
    _, [rejection] = let_through(repertoire, a_profile(now_ms=START_MS + 2 * DAY_MS, lost_ms=START_MS))
    assert rejection.reason == (
        "a-email: contacts since 2025-12-31 had no room in the history and cannot be counted (a-week)"
    )
    assert let_through(repertoire, a_profile(now_ms=START_MS + 7 * DAY_MS, lost_ms=START_MS))[0] == ["free-email"]
    assert let_through(repertoire, a_profile(now_ms=START_MS + 7 * DAY_MS + 1, lost_ms=START_MS))[1] == []
