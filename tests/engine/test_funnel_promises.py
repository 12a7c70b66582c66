"""When nothing qualifies, the fallback; when a message promised something, the page shows that first."""

from __future__ import annotations

from typing import Any

import pytest

from engine.decision import Decision
from engine.funnel import decide
from engine.repertoire import (
    Arbitration,
    BudgetRule,
    Channel,
    Constraints,
    Exploration,
    Placement,
    Repertoire,
    Trigger,
    Window,
)
from tests.repertoires import (
    START_MS,
    Builder,
    a_contact,
    a_funnel,
    a_profile,
    a_replay,
    a_signal,
    channels,
    decisions_of,
)

FREE = {"marketing": "none"}
WEEK = Window(unit="week")


def _actions(made: list[Decision]) -> list[str | None]:
    return [each.action for each in made]


def _ask(repertoire: Repertoire, **properties) -> list[dict[str, Any]]:
    """The answers to a request."""
    signal = a_signal("Decision Requested", properties={"requestId": "r1", **properties})
    return decisions_of(a_replay(repertoire).signal(signal, START_MS))


# --- Fallbacks ---


def _with_fallback(b: Builder, **changes) -> Repertoire:
    return b.build(triggers=(Trigger(id="go", fallback="f"),), **changes)


def test_the_fallback_is_given_when_nothing_qualifies():
    """Its engagement rules are left aside; it counts like any other decision, and is certain."""
    b = Builder().action("a", eligibility=["profile.vip == true"]).action("f", suitability=["false"])
    profile = a_profile()
    [decision] = decide(a_funnel(_with_fallback(b), profile))
    assert (decision.action, decision.probability, decision.rank) == ("f", 1.0, 1)
    assert decision.score is not None
    assert decision.score.priority == 0.0
    assert [each.action for each in profile.contacts] == ["f"]
    assert _actions(decide(a_funnel(_with_fallback(b), a_profile(traits={"vip": True})))) == ["a"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ends_ms": START_MS}, "eligibility"),
        ({"treatments": {"content": {"body": "{profile.first_name}"}}}, "eligibility"),
        ({"treatments": {"channel": "sms"}}, "eligibility"),
        ({"treatments": {"purpose": "research"}}, "consent"),
        ({"treatments": {"cost": 9.0}}, "budget"),
        ({"treatments": {"channel": "web"}}, None),
        ({"treatments": {"placements": frozenset({"hero"})}}, None),
    ],
)
def test_a_fallback_obeys_dates_content_reach_and_every_constraint(changes, why):
    """And a trigger sends nothing that only a page can show; the reason is said with the answer."""
    b = Builder().action("a", eligibility=["false"])
    treatment = b.treatment("t", **changes.pop("treatments", {}))
    b.action("f", treatment, **changes)
    budget = BudgetRule(id="b", unit="money", limit=1, window=Window(unit="day"))
    unreached = {"sms": Channel(id="sms", reachable=b.rules("has(profile.phone)")[0])}
    repertoire = _with_fallback(
        b,
        constraints=Constraints(purposes=FREE, budgets=(budget,)),
        channels={**channels(), **unreached},
        placements={"hero": Placement(id="hero", channel="email")},
    )
    [decision] = decide(a_funnel(repertoire, answer_always=True))
    assert decision.action is None
    last = decision.explanation.rejected[-1]
    # Without a treatment that fits there is nothing to say but why it did not qualify itself.
    assert (last.action, last.stage) == (("f", why) if why else (last.action, "eligibility"))


def test_a_slot_has_its_own_fallback_and_shows_it_once():
    """In the treatment that fits it; not where another slot of the request already shows it."""
    b = Builder()
    hero, footer = frozenset({"hero"}), frozenset({"footer"})
    b.action(
        "f",
        b.treatment("f1", "web", placements=hero),
        b.treatment("f2", "web", placements=footer),
        eligibility=["false"],
    )
    slots = (
        Placement(id="hero", channel="web", fallback="f"),
        Placement(id="footer", channel="web", fallback="f"),
    )
    repertoire = b.build(placements={each.id: each for each in slots})
    assert [(each["placement"], each["treatment"]) for each in _ask(repertoire, placement=["footer", "hero"])] == [
        ("footer", "f2"),
        ("hero", None),
    ]


def test_a_reason_is_not_repeated_for_the_fallback():
    """When it was a candidate as well, and the same constraint holds it back twice."""
    b = Builder()
    b.action("f", b.treatment("f", purpose="research"))
    [decision] = decide(a_funnel(_with_fallback(b), answer_always=True))
    assert [each.stage for each in decision.explanation.rejected] == ["consent"]


# --- Promises ---


def _promising() -> Repertoire:
    """`best` wins on the page, unless something was promised; `law` is mandatory for some."""
    b = Builder()
    for id_, value in (("best", 9.0), ("old", 5.0), ("new", 1.0)):
        b.action(id_, b.treatment(f"{id_}-push", "push"), b.treatment(f"{id_}-web", "web"), value=value)
    b.action("law", b.treatment("law-web", "web"), action_class="mandatory", eligibility=["profile.law == true"])
    return b.build(
        constraints=Constraints(purposes=FREE), arbitration=Arbitration(exploration=Exploration(epsilon=0.5))
    )


def test_what_a_message_promised_is_shown_first():
    """The latest promise on top, then the earlier, then by priority; a promise is kept for certain."""
    contacts = [a_contact(START_MS - 2, "old", "push"), a_contact(START_MS - 1, "new", "push")]
    made = decide(a_funnel(_promising(), a_profile(contacts=contacts), placement="hero"))
    assert _actions(made) == ["new", "old", "best"]
    assert [each.probability for each in made] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "contact",
    [
        a_contact(START_MS, "new", answer="accept"),
        a_contact(START_MS, "new", expires_ms=START_MS),
        a_contact(START_MS, "new", "web", outbound=False),
        a_contact(START_MS, "gone"),
    ],
)
def test_until_it_is_answered_or_expires(contact):
    """A page's own offer is no promise, nor is what the configuration no longer has."""
    funnel = a_funnel(_promising(), a_profile(contacts=[contact]), placement="hero", limit=1)
    assert funnel.promised.keys() <= {"gone"}
    [decision] = decide(funnel)
    assert decision.probability < 1


def test_a_promise_binds_the_page_and_not_the_next_message():
    """A trigger chooses by priority; and what is mandatory comes before a promise."""
    profile = a_profile(contacts=[a_contact(START_MS, "new", "push")], traits={"law": True})
    assert a_funnel(_promising(), profile).promised == {}
    made = decide(a_funnel(_promising(), profile, placement="hero", limit=2))
    assert _actions(made) == ["law", "new"]


def test_push_then_app_from_end_to_end():
    """A push promises the lesser offer, the page shows it first, the customer dismisses it there: it is over."""
    b = Builder()
    b.action("best", b.treatment("best-web", "web"), value=90.0)
    b.action("promise", b.treatment("promise-push", "push"), b.treatment("promise-web", "web"))
    replay, at_ms = a_replay(b.build()), START_MS

    def shown() -> dict[str, Any]:
        asked = a_signal("Decision Requested", properties={"placement": "hero", "limit": 1})
        return decisions_of(replay.signal(asked, at_ms))[0]

    assert shown()["action"] == "best"
    [push] = decisions_of(replay.signal(a_signal(), at_ms))
    assert push["action"] == "promise"
    first = shown()
    assert first["action"] == "promise"
    outcome = f'{{"decisionId":"{first["decisionId"]}","customerId":"u1","type":"dismiss"}}'.encode()
    assert replay.publish("outcomes", "u1", outcome, at_ms) == []
    assert shown()["action"] == "best"
