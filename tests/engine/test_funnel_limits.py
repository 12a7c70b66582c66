"""Whatever happens to a customer: caps, pauses, quiet hours and budgets hold, as an outsider would count them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.budgets import Share, Spending
from engine.calendar import QuietHours
from engine.context import Request
from engine.decision import Decision
from engine.funnel import decide
from engine.outcomes import Outcome, attribute
from engine.profile import Contact, Profile
from engine.repertoire import (
    BudgetRule,
    Candidate,
    Channel,
    Constraints,
    ContactLimit,
    Limits,
    Placement,
    ProfileRules,
    Repertoire,
    Scope,
    Trigger,
    Window,
)
from tests.repertoires import DAY_MS, HOUR_MS, Builder, a_funnel, a_profile, channels

NIGHT = QuietHours(22 * 60, 6 * 60)
ZONES_OF = {
    (None, None): ["UTC"],
    ("Asia/Tokyo", None): ["Asia/Tokyo"],
    (None, "ES"): ["Europe/Madrid"],
    (None, "US"): ["America/New_York", "America/Los_Angeles"],
}
"""Time zone and country a customer states → the zones that could be theirs."""
SHARE = Share(1, 2)


class Step(NamedTuple):
    """So long after the last one: ask for decisions, or answer an earlier one."""

    wait_ms: int
    what: str
    number: int


class Made(NamedTuple):
    """A decision as an outsider keeps it. `shown`: in a slot or where the customer came; `back`: step that undid it."""

    step: int
    at_ms: int
    candidate: Candidate
    shown: bool
    back: int | None = None


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from([0, 1, HOUR_MS, 5 * HOUR_MS, 11 * HOUR_MS, DAY_MS, 4 * DAY_MS]),
        st.sampled_from(["go", "go", "slot", "card", "ask", "ask email", "bounce", "accept", "dismiss", "click"]),
        st.integers(0, 8),
    ),
    max_size=30,
)
SCOPES = [
    Scope(),
    Scope(),
    Scope(channels=frozenset({"email"})),
    Scope(channels=frozenset({"push", "web"})),
    Scope(tags=frozenset({"promo"})),
    Scope(tags=frozenset({"promo"}), channels=frozenset({"web"})),
    Scope(groups=frozenset({"care"})),
    Scope(actions=frozenset({"a"})),
]
WINDOWS = [
    Window(span_ms=HOUR_MS),
    Window(span_ms=3 * DAY_MS),
    Window(span_ms=30 * DAY_MS),
    Window(unit="hour"),
    Window(unit="day"),
    Window(unit="day", count=3),
    Window(unit="week"),
    Window(unit="month", count=2),
]
LIMITS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(WINDOWS), st.sampled_from(SCOPES)), max_size=4)
BUDGET = st.tuples(st.integers(0, 5), st.sampled_from(WINDOWS), st.sampled_from(SCOPES))


def _life(limits, budget, bound: int) -> Repertoire:
    """Six actions of every class and switch, sent and shown, under these limits and a budget."""
    b = Builder()
    promo, hero = frozenset({"promo"}), frozenset({"hero"})
    b.action("a", b.treatment("a1"), b.treatment("a2", "push", propensity=0.2), b.treatment("a3", "web"), tags=promo)
    b.action("b", b.treatment("b1", "push"), b.treatment("b2", "web", placements=hero), group="care", value=5.0)
    b.action("c", b.treatment("c1"), b.treatment("c2", "web"), tags=promo, counts_toward_caps=False)
    b.action("d", b.treatment("d1"), b.treatment("d2", "web"), value=3.0, obeys_caps=False, group="care")
    b.action("e", b.treatment("e1", "push"), action_class="mandatory", obeys_caps=False, counts_toward_caps=False)
    b.action("f", b.treatment("f1", "sms"), action_class="transactional", obeys_caps=False, ignores_quiet_hours=True)
    constraints = Constraints(
        purposes={"marketing": "none"},
        contact_limits=tuple(
            ContactLimit(id=f"l{n}", limit=limit, window=window, scope=scope)
            for n, (limit, window, scope) in enumerate(limits)
        ),
        budgets=(BudgetRule(id="b", unit="decisions", limit=float(budget[0]), window=budget[1], scope=budget[2]),),
    )
    return b.build(
        constraints=constraints,
        channels={**channels(), "push": Channel(id="push", quiet_hours=(NIGHT,))},
        placements={
            "hero": Placement(id="hero", channel="web", limit=4, fallback="d"),
            "card": Placement(id="card", channel="push", limit=4),
        },
        triggers=(Trigger(id="go", limit=5, fallback="a"),),
        profile=ProfileRules(limits=Limits(contacts=bound)),
    )


def _play(repertoire: Repertoire, steps: list[Step], profile: Profile) -> list[Made]:
    """Everything that was decided for one customer on one partition."""
    budgets: dict[str, Spending] = {}
    by_treatment = {each.treatment.id: each for each in repertoire.candidates}
    made: list[Made] = []
    ids: list[str] = []
    for n, step in enumerate(steps):
        profile.now_ms += step.wait_ms
        if step.what not in ASKS:
            if step.number < len(made):
                _answer(repertoire, profile, budgets, ids[step.number], step.what)
                contact = next((each for each in profile.contacts if each.decision_id == ids[step.number]), None)
                gone = contact is not None and contact.answer == "bounce" and made[step.number].back is None
                made[step.number] = made[step.number]._replace(back=n) if gone else made[step.number]
            continue
        asked: dict[str, Any] = ASKS[step.what](step.number + 1)
        for each in decide(a_funnel(repertoire, profile, cause=f"m{n}", budgets=budgets, share=SHARE, **asked)):
            candidate = by_treatment[each.treatment or ""]
            made.append(Made(n, profile.now_ms, candidate, _is_shown(each)))
            ids.append(each.decision_id)
    assert len(set(ids)) == len(ids)
    assert len(profile.contacts) <= repertoire.profile.limits.contacts
    return made


ASKS: dict[str, Any] = {
    "go": lambda number: {"limit": min(number, 5)},
    "slot": lambda number: {"placement": "hero", "request": Request("r", ("hero",), None, number)},
    "card": lambda number: {"placement": "card", "request": Request("r", ("card",), None, number)},
    "ask": lambda number: {"request": Request("r", (), None, number)},
    "ask email": lambda number: {"request": Request("r", (), "email", number)},
}


def _is_shown(decision: Decision) -> bool:
    return decision.placement is not None or decision.channel == "web"


def _answer(repertoire, profile: Profile, budgets: dict[str, Spending], decision: str, type_: str) -> Contact | None:
    outcome = Outcome("o", decision, "u1", type_, profile.now_ms, None)
    found = attribute(profile, outcome, profile.now_ms, repertoire, budgets)
    return found if isinstance(found, Contact) else None


def test_what_had_no_room_in_the_history_is_not_sent_again():
    """A message, then more offers on the page than the history holds, all answered at once: the cap still holds."""
    b = Builder().action("mail")
    b.action("page", b.treatment("page-web", "web"))
    weekly = ContactLimit(id="w", limit=1, window=Window(span_ms=7 * DAY_MS), scope=SCOPES[2])
    repertoire = b.build(
        constraints=Constraints(purposes={"marketing": "none"}, contact_limits=(weekly,)),
        profile=ProfileRules(limits=Limits(contacts=12)),
    )
    steps = [Step(0, "go", 0), *[Step(1, "slot", 0)] * 12, Step(1, "accept", 12), Step(1, "slot", 0), Step(1, "go", 0)]
    profile = a_profile()
    assert [each.candidate.action.id for each in _play(repertoire, steps, profile)] == ["mail", *["page"] * 13]
    assert len(profile.contacts) < 12
    profile.now_ms += 7 * DAY_MS
    assert len(_play(repertoire, [Step(0, "go", 0)], profile)) == 1


# --- As an outsider counts ---


def _local(at_ms: int, tz) -> datetime:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).astimezone(tz)


def _in_window(window: Window, at_ms: int, last_ms: int, tz) -> bool:
    """Whether two moments lie in one window: a span of time, or so many units of the calendar in a row."""
    if window.unit is None:
        return last_ms - at_ms <= window.span_ms
    one, other = _number(window.unit, at_ms, tz), _number(window.unit, last_ms, tz)
    return other - one < window.count


def _number(unit: str, at_ms: int, tz) -> int:
    local = _local(at_ms, tz)
    numbers = {"hour": at_ms // HOUR_MS, "day": local.toordinal(), "week": (local.toordinal() - 1) // 7}
    return numbers.get(unit, local.year * 12 + local.month)


def _covers(scope: Scope, made: Made) -> bool:
    action = made.candidate.action
    return scope.covers(action.issue, action.group, action.id, action.tags, made.candidate.treatment.channel)


def _stands(each: Made, last: Made) -> bool:
    """Whether a decision had not been undone when another was made."""
    return each.back is None or each.back > last.step


@settings(max_examples=300)
@given(LIMITS, BUDGET, STEPS, st.sampled_from(list(ZONES_OF)), st.sampled_from([2, 5, 9, 200]))
def test_nothing_is_ever_exceeded(limits, budget, steps, stated, bound):
    """Over any sequence of signals, slots, requests, answers and bounces, however short the history is kept.

    At each decision that obeys caps every limit holds that covers it, in every zone that could be the customer's;
    nothing is sent while any of these is quiet; and the partition's share of the budget is not exceeded.
    """
    repertoire = _life(limits, budget, bound)
    traits = {name: value for name, value in zip(("timezone", "country"), stated, strict=True) if value is not None}
    made = _play(repertoire, steps, a_profile(traits=traits))
    zones = [repertoire.zones.zones[name] for name in ZONES_OF[stated]]
    for n, last in enumerate(made):
        so_far = [each for each in made[: n + 1] if _stands(each, last)]
        for zone in zones:
            for limit in repertoire.constraints.contact_limits:
                _check_cap(limit, last, so_far, zone)
            hour = _local(last.at_ms, zone).hour
            quiet = last.candidate.treatment.channel == "push" and not last.shown
            assert last.candidate.action.ignores_quiet_hours or not quiet or 6 <= hour < 22
        [rule] = repertoire.constraints.budgets
        if _covers(rule.scope, last):
            engine_zone = repertoire.zones.zones["UTC"]
            used = [
                e
                for e in so_far
                if _covers(rule.scope, e) and _in_window(rule.window, e.at_ms, last.at_ms, engine_zone)
            ]
            assert len(used) <= SHARE.of(rule)


def _check_cap(limit: ContactLimit, last: Made, so_far: list[Made], zone) -> None:
    counted_shown = bool(limit.scope.channels)
    if not last.candidate.action.obeys_caps or not _covers(limit.scope, last) or (last.shown and not counted_shown):
        return
    held = [
        each
        for each in so_far
        if each.candidate.action.counts_toward_caps
        and _covers(limit.scope, each)
        and (counted_shown or not each.shown)
        and _in_window(limit.window, each.at_ms, last.at_ms, zone)
    ]
    # What obeys and does not count is let through while others leave room.
    room = limit.limit if last.candidate.action.counts_toward_caps else limit.limit - 1
    assert len(held) <= room, (limit, last, held)
