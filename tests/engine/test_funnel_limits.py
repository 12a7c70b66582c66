"""Whatever happens to a customer: caps, pauses, quiet hours and budgets hold, as an outsider would count them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.budgets import Share, Spending
from engine.calendar import QuietHours
from engine.context import Request
from engine.funnel import decide
from engine.outcomes import Outcome, attribute
from engine.profile import Profile
from engine.rejects import Reject
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
    SuppressionPolicy,
    Trigger,
    Window,
)
from tests.repertoires import DAY_MS, HOUR_MS, Builder, a_funnel, a_profile, channels

SHARE = Share(1, 2)
NIGHT = QuietHours(22 * 60, 6 * 60)
ZONES_OF = {
    (None, None): ["UTC"],
    ("Asia/Tokyo", None): ["Asia/Tokyo"],
    (None, "ES"): ["Europe/Madrid"],
    (None, "US"): ["America/New_York", "America/Los_Angeles"],
}
"""Time zone and country a customer states → the zones that could be theirs."""
ASKS: dict[str, Any] = {
    "go": lambda number: {"limit": min(number, 5)},
    "slot": lambda number: {"placement": "hero", "request": Request("r", ("hero",), None, number)},
    "card": lambda number: {"placement": "card", "request": Request("r", ("card",), None, number)},
    "ask": lambda number: {"request": Request("r", (), None, number)},
    "ask email": lambda number: {"request": Request("r", (), "email", number)},
}
"""What is asked for how many decisions."""


class Step(NamedTuple):
    """So long after the last one: ask for `number` + 1 decisions, or answer the one made `number` before the last."""

    wait_ms: int
    what: str
    number: int


class Made(NamedTuple):
    """A decision as an outsider keeps it. `shown`: in a slot or where the customer came; `back`: step that undid it."""

    step: int
    at_ms: int
    id: str
    candidate: Candidate
    shown: bool
    back: int | None = None


class Answered(NamedTuple):
    """An outcome that was accepted."""

    step: int
    at_ms: int
    type: str
    candidate: Candidate


class Life:
    """One customer on one partition, and everything that was decided and answered."""

    def __init__(self, repertoire: Repertoire, profile: Profile | None = None) -> None:
        self.repertoire, self.profile = repertoire, a_profile() if profile is None else profile
        self.budgets: dict[str, Spending] = {}
        self.made: list[Made] = []
        self.answered: list[Answered] = []
        self._steps = 0

    def play(self, *steps: Step) -> Life:
        """Let these steps happen; returns itself."""
        for n, step in enumerate(steps, self._steps):
            self.profile.now_ms += step.wait_ms
            if step.what in ASKS:
                self._ask(n, ASKS[step.what](step.number + 1))
            elif step.number < len(self.made):
                self._answer(n, len(self.made) - 1 - step.number, step.what)
        self._steps += len(steps)
        return self

    def _ask(self, n: int, asked: dict[str, Any]) -> None:
        by_treatment = {each.treatment.id: each for each in self.repertoire.candidates}
        funnel = a_funnel(self.repertoire, self.profile, cause=f"m{n}", budgets=self.budgets, share=SHARE, **asked)
        for each in decide(funnel):
            shown = each.placement is not None or each.channel == "web"
            candidate = by_treatment[each.treatment or ""]
            self.made.append(Made(n, self.profile.now_ms, each.decision_id, candidate, shown))

    def _answer(self, n: int, at: int, type_: str) -> None:
        made, now_ms = self.made[at], self.profile.now_ms
        outcome = Outcome("o", made.id, "u1", type_, now_ms, None)
        contact = attribute(self.profile, outcome, now_ms, self.repertoire, self.budgets)
        if not isinstance(contact, Reject):
            self.answered.append(Answered(n, now_ms, type_, made.candidate))
            if contact.answer == "bounce" and made.back is None:
                self.made[at] = made._replace(back=n)


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from([0, 1, HOUR_MS, 5 * HOUR_MS, 11 * HOUR_MS, DAY_MS, 4 * DAY_MS]),
        st.sampled_from(["go", "go", "slot", "card", "ask", "ask email", "bounce", "accept", "dismiss", "click"]),
        st.integers(0, 8),
    ),
    max_size=30,
)
SCOPES = st.sampled_from(
    [
        Scope(),
        Scope(channels=frozenset({"email"})),
        Scope(channels=frozenset({"push", "web"})),
        Scope(tags=frozenset({"promo"})),
        Scope(tags=frozenset({"promo"}), channels=frozenset({"web"})),
        Scope(groups=frozenset({"care"})),
        Scope(actions=frozenset({"a"})),
    ]
)
WINDOWS = st.sampled_from([Window(span_ms=each) for each in (HOUR_MS, 3 * DAY_MS, 30 * DAY_MS)]) | st.builds(
    Window, unit=st.sampled_from(["hour", "day", "week", "month"]), count=st.integers(1, 3)
)
LIMITS = st.lists(
    st.builds(ContactLimit, id=st.just("l"), limit=st.integers(0, 4), window=WINDOWS, scope=SCOPES), max_size=4
)
BUDGETS = st.builds(
    BudgetRule,
    id=st.just("b"),
    unit=st.just("decisions"),
    limit=st.integers(0, 9).map(float),
    window=WINDOWS,
    scope=SCOPES,
)
POLICIES = st.lists(
    st.builds(
        SuppressionPolicy,
        id=st.just("s"),
        outcome=st.sampled_from(["contact", "click", "dismiss"]),
        level=st.sampled_from(["action", "group"]),
        across_channels=st.booleans(),
        threshold=st.integers(1, 3),
        window_ms=st.sampled_from([HOUR_MS, 3 * DAY_MS]),
        pause_ms=st.sampled_from([HOUR_MS, 10 * DAY_MS]),
        scope=SCOPES,
    ),
    max_size=2,
)


def _numbered(rules: list[Any]) -> tuple[Any, ...]:
    """The rules with ids of their own."""
    fields = [{name: getattr(rule, name) for name in rule.__struct_fields__} for rule in rules]
    return tuple(
        type(rule)(**{**settings, "id": f"{rule.id}{n}"})
        for n, (rule, settings) in enumerate(zip(rules, fields, strict=True))
    )


def _shop(bound: int = 200, **constraints) -> Repertoire:
    """Six actions of every class and switch, sent and shown, under these constraints."""
    b = Builder()
    promo, hero = frozenset({"promo"}), frozenset({"hero"})
    b.action("a", b.treatment("a1"), b.treatment("a2", "push", propensity=0.2), b.treatment("a3", "web"), tags=promo)
    b.action("b", b.treatment("b1", "push"), b.treatment("b2", "web", placements=hero), group="care", value=5.0)
    b.action("c", b.treatment("c1"), b.treatment("c2", "web"), tags=promo, counts_toward_caps=False)
    b.action("d", b.treatment("d1"), b.treatment("d2", "web"), value=3.0, obeys_caps=False, group="care")
    b.action("e", b.treatment("e1", "push"), action_class="mandatory", obeys_caps=False, counts_toward_caps=False)
    b.action("f", b.treatment("f1", "sms"), action_class="transactional", obeys_caps=False, ignores_quiet_hours=True)
    slots = (
        Placement(id="hero", channel="web", limit=4, fallback="d"),
        Placement(id="card", channel="push", limit=4),
    )
    return b.build(
        constraints=Constraints(purposes={"marketing": "none"}, **constraints),
        channels={**channels(), "push": Channel(id="push", quiet_hours=(NIGHT,))},
        placements={each.id: each for each in slots},
        triggers=(Trigger(id="go", limit=5, fallback="a"),),
        profile=ProfileRules(limits=Limits(contacts=bound)),
    )


@settings(max_examples=250)
@given(LIMITS, BUDGETS, STEPS, st.sampled_from(list(ZONES_OF)), st.sampled_from([2, 5, 9, 200]))
def test_no_limit_and_no_budget_is_ever_exceeded_and_nothing_sent_at_night(limits, budget, steps, stated, bound):
    """Over any sequence of signals, slots, requests, answers and bounces, however short the history is kept.

    At each decision that obeys caps every limit holds that covers it, in every zone that could be the customer's;
    nothing is sent while any of these is quiet; and the partition's share of the budget is not exceeded.
    """
    repertoire = _shop(bound, contact_limits=_numbered(limits), budgets=(budget,))
    traits = {name: value for name, value in zip(("timezone", "country"), stated, strict=True) if value is not None}
    made = Life(repertoire, a_profile(traits=traits)).play(*steps).made
    assert len({each.id for each in made}) == len(made)
    for n, last in enumerate(made):
        so_far = [each for each in made[: n + 1] if each.back is None or each.back > last.step]
        for zone in (repertoire.zones.zones[name] for name in ZONES_OF[stated]):
            for limit in repertoire.constraints.contact_limits:
                _check_cap(limit, last, so_far, zone)
            by_night = last.candidate.treatment.channel == "push" and not last.shown
            assert not by_night or 6 <= _local(last.at_ms, zone).hour < 22
        if _covers(budget.scope, last.candidate):
            spent = [each for each in so_far if _covers(budget.scope, each.candidate)]
            zone = repertoire.zones.zones["UTC"]
            assert sum(_in_window(budget.window, e.at_ms, last.at_ms, zone) for e in spent) <= SHARE.of(budget)


@given(POLICIES, STEPS)
def test_no_pause_is_ever_broken(policies, steps):
    """Nothing is decided, sent or shown, of any class, while a policy that covers it has it paused."""
    life = Life(_shop(suppressions=_numbered(policies))).play(*steps)
    for n, last in enumerate(life.made):
        contacts = [Answered(each.step, each.at_ms, "contact", each.candidate) for each in life.made[:n]]
        seen = [*contacts, *(each for each in life.answered if each.step < last.step)]
        for policy in policies:
            assert not (_covers(policy.scope, last.candidate) and _is_paused(policy, last, seen))


def test_what_had_no_room_in_the_history_is_not_sent_again():
    """A message, then more offers on the page than the history holds, all answered at once: the cap still holds."""
    b = Builder().action("mail")
    b.action("page", b.treatment("page-web", "web"))
    email = Scope(channels=frozenset({"email"}))
    weekly = ContactLimit(id="w", limit=1, window=Window(span_ms=7 * DAY_MS), scope=email)
    repertoire = b.build(
        constraints=Constraints(purposes={"marketing": "none"}, contact_limits=(weekly,)),
        profile=ProfileRules(limits=Limits(contacts=12)),
    )
    life = Life(repertoire).play(Step(0, "go", 0), *[Step(1, "slot", 0)] * 12, Step(1, "accept", 0), Step(1, "slot", 0))
    assert len(life.profile.contacts) < 12
    life.play(Step(1, "go", 0), Step(7 * DAY_MS, "go", 0))
    assert [each.candidate.action.id for each in life.made] == ["mail", *["page"] * 13, "mail"]


# --- As an outsider counts ---


def _check_cap(limit: ContactLimit, last: Made, so_far: list[Made], zone) -> None:
    counts_shown = bool(limit.scope.channels)
    action = last.candidate.action
    if not action.obeys_caps or not _covers(limit.scope, last.candidate) or (last.shown and not counts_shown):
        return
    held = [
        each
        for each in so_far
        if each.candidate.action.counts_toward_caps
        and _covers(limit.scope, each.candidate)
        and (counts_shown or not each.shown)
        and _in_window(limit.window, each.at_ms, last.at_ms, zone)
    ]
    # What obeys and does not count itself is let through as long as there is room for one more.
    assert len(held) <= limit.limit - (not action.counts_toward_caps), (limit, last, held)


def _is_paused(policy: SuppressionPolicy, last: Made, seen: list[Answered]) -> bool:
    """Whether enough outcomes in the window before one of them began a pause that lasts."""
    times = [
        each.at_ms
        for each in seen
        if each.type == policy.outcome
        and (policy.across_channels or each.candidate.treatment.channel == last.candidate.treatment.channel)
        and getattr(each.candidate.action, _LEVELS[policy.level])
        == getattr(last.candidate.action, _LEVELS[policy.level])
    ]
    return any(
        at_ms + policy.pause_ms > last.at_ms
        and sum(at_ms - policy.window_ms <= each <= at_ms for each in times) >= policy.threshold
        for at_ms in times
    )


_LEVELS = {"action": "id", "group": "group"}


def _covers(scope: Scope, candidate: Candidate) -> bool:
    action = candidate.action
    return scope.covers(action.issue, action.group, action.id, action.tags, candidate.treatment.channel)


def _in_window(window: Window, at_ms: int, last_ms: int, tz) -> bool:
    """Whether two moments lie in one window: a span of time, or so many units of the calendar in a row."""
    if window.unit is None:
        return last_ms - at_ms <= window.span_ms
    return _number(window.unit, last_ms, tz) - _number(window.unit, at_ms, tz) < window.count


def _number(unit: str, at_ms: int, tz) -> int:
    local = _local(at_ms, tz)
    numbers = {"hour": at_ms // HOUR_MS, "day": local.toordinal(), "week": (local.toordinal() - 1) // 7}
    return numbers.get(unit, local.year * 12 + local.month)


def _local(at_ms: int, tz) -> datetime:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).astimezone(tz)
