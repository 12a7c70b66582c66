"""One decision from candidates to choice: the stages in order with their reasons, ranks, requests, budgets."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.budgets import Share, Spending
from engine.calendar import QuietHours
from engine.candidates import STAGES, Pool, Rejection, pools_of
from engine.context import Request
from engine.decision import Decision, outputs_of
from engine.funnel import decide, prepare
from engine.repertoire import (
    Arbitration,
    Arm,
    BudgetRule,
    Channel,
    Constraints,
    ContactLimit,
    Experiment,
    Exploration,
    Placement,
    Repertoire,
    Scope,
    SuppressionPolicy,
    Trigger,
    Window,
)
from tests.repertoires import (
    DAY_MS,
    HOUR_MS,
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


# --- The stages and their reasons ---


def _every_stage() -> Builder:
    """One action for each stage that leaves it out, and one that passes all of them."""
    b = Builder()
    b.action("1-eligibility", eligibility=["profile.age >= 99"])
    b.action("2-applicability", applicability=["not has(profile.age)"])
    b.action("3-suitability", suitability=["profile.score > 1"])
    b.action("4-consent", b.treatment("t4", purpose="research"))
    b.action("5-suppression")
    b.action("6-limit", tags=frozenset({"promo"}))
    b.action("7-quiet", b.treatment("t7", "push"))
    b.action("8-budget", b.treatment("t8", cost=3.0))
    b.action("9-experiment")
    return b.action("chosen")


def _strict(b: Builder) -> Repertoire:
    policy = {"window_ms": 7 * DAY_MS, "pause_ms": 10 * DAY_MS, "threshold": 1}
    arms = (Arm(id="with", weight=0.0), Arm(id="without", weight=1.0, exclude=frozenset({"9-experiment"})))
    return b.build(
        constraints=Constraints(
            purposes=FREE,
            suppressions=(
                SuppressionPolicy(
                    id="s",
                    outcome="contact",
                    level="action",
                    scope=Scope(actions=frozenset({"5-suppression"})),
                    **policy,
                ),
            ),
            contact_limits=(ContactLimit(id="promos", limit=2, window=WEEK, scope=Scope(tags=frozenset({"promo"}))),),
            budgets=(BudgetRule(id="b", unit="money", limit=2.5, window=Window(unit="day")),),
        ),
        channels={**channels(), "push": Channel(id="push", quiet_hours=(QuietHours(0, 600),))},
        experiments=(Experiment(id="x", salt="x", arms=arms),),
    )


def test_every_stage_leaves_out_with_its_own_reason_and_its_numbers():
    """In the order of the funnel, each reason once; only what passed all stages is chosen."""
    contacts = [a_contact(START_MS - n, action) for n, action in ((3, "5-suppression"), (2, "6-limit"), (1, "6-limit"))]
    profile = a_profile(traits={"age": 40}, contacts=contacts)
    [decision] = decide(a_funnel(_strict(_every_stage()), profile))
    assert decision.action == "chosen"
    assert [(each.action, each.stage, each.reason) for each in decision.explanation.rejected] == [
        ("1-eligibility", "eligibility", "action: not true: profile.age >= 99"),
        ("2-applicability", "applicability", "action: not true: not has(profile.age)"),
        ("3-suitability", "suitability", "action: not true: profile.score > 1"),
        ("4-consent", "consent", "t4: no consent on record for email, research"),
        (
            "5-suppression",
            "contact-policy",
            "5-suppression-email: paused until 2026-01-15: 1 contact of this action on this channel within 7d (s)",
        ),
        ("6-limit", "contact-policy", "6-limit-email: 2 of 2 any contacts since 2026-01-05 (promos)"),
        ("7-quiet", "quiet-hours", "t7: quiet hours on push until 2026-01-05T10:00:00.000Z"),
        ("8-budget", "budget", "t8: 0 of 2.5 money used since 2026-01-05T00:00:00.000Z (b)"),
        ("9-experiment", "experiment", "9-experiment-email: not in arm without of x"),
    ]
    assert decision.explanation.considered == 10
    assert {each.stage for each in decision.explanation.rejected} == set(STAGES) - {"approval"}


def test_a_decision_says_all_there_is_to_say():
    """Cause, choice, content, score, contenders, models, configuration, times."""
    b = Builder().action("a", value=20.0, expires_after_ms=HOUR_MS).action("b").action("c", value=1.0)
    settings = Arbitration(contenders=1)
    profile = a_profile(traits={"first_name": "Ana"})
    repertoire = b.build(arbitration=settings)
    [decision] = decide(a_funnel(repertoire, profile))
    [output] = outputs_of(decision, repertoire, None)
    assert json.loads(output.value) == {
        "decisionId": decision.decision_id,
        "customerId": "u1",
        "signalId": "m1",
        "requestId": None,
        "trigger": "go",
        "journey": None,
        "action": "a",
        "treatment": "a-email",
        "channel": "email",
        "placement": None,
        "content": {"body": "Hello Ana"},
        "rank": 1,
        "score": {"propensity": 0.1, "contextWeight": 1.0, "value": 20.0, "lever": 1.0, "priority": 2.0},
        "probability": 1.0,
        "control": False,
        "experiment": None,
        "explanation": {
            "considered": 3,
            "rejected": [],
            "contenders": [{"action": "b", "priority": 1.0, "probability": 0.0}],
        },
        "models": {"prior": "v1"},
        "config": "v1",
        "decidedAt": "2026-01-05T08:00:00.000Z",
        "expiresAt": "2026-01-05T09:00:00.000Z",
    }


def test_whoever_measures_hears_of_every_stage():
    """Once each, in order."""
    funnel, heard = a_funnel(Builder().action("a").build()), list[str]()
    funnel.lap = heard.append
    decide(funnel)
    assert heard == ["eligibility", "constraints", "score", "arbitrate", "decide"]


def test_what_is_prepared_is_not_left_to_the_first_decision():
    """Nothing of a pool is compiled when a trigger or a slot asks for the first time."""
    b = Builder()
    repertoire = b.action("a").action("w", b.treatment("w", "web")).build()
    prepare(repertoire)
    compiled = {id(pool): dict(pool._parts) for pool in pools_of(repertoire)}
    assert decide(a_funnel(repertoire))
    assert decide(a_funnel(repertoire, placement="hero"))
    assert {id(pool): pool._parts for pool in pools_of(repertoire)} == compiled


# --- Order does not matter, chance is repeatable ---


def _catalogue(order: list[int], epsilon: float) -> Repertoire:
    """A dozen actions configured in some order, with ties, several treatments, limits and an experiment."""
    b = Builder()
    for n in order:
        treatments = [
            b.treatment(f"t{n}-{c}", c, propensity=0.1 * (1 + n % 3)) for c in ("push", "email", "sms")[: 1 + n % 3]
        ]
        b.action(
            f"a{n}",
            *treatments,
            value=float(10 + n % 4),
            group=f"g{n % 2}",
            eligibility=[f"profile.age >= {15 + n % 5}"],
        )
    limit = ContactLimit(id="l", limit=2, window=WEEK, scope=Scope(groups=frozenset({"g1"})))
    arms = (Arm(id="p", weight=1.0, exclude=frozenset({"a3"})), Arm(id="q", weight=2.0))
    return b.build(
        constraints=Constraints(purposes=FREE, contact_limits=(limit,)),
        arbitration=Arbitration(exploration=Exploration(epsilon=epsilon)),
        experiments=(Experiment(id="x", salt="x", arms=arms),),
        triggers=(Trigger(id="go", limit=4),),
    )


@given(st.permutations(range(12)), st.integers(14, 20), st.sampled_from([0.0, 0.4]), st.text("abc", max_size=3))
def test_no_order_in_the_configuration_matters(order, age, epsilon, cause):
    """Permuting the actions changes no bit of any decision."""
    made = [
        decide(a_funnel(_catalogue(each, epsilon), a_profile(traits={"age": age}), cause=cause))
        for each in (list(range(12)), order)
    ]
    assert made[0] == made[1]


@given(st.randoms(use_true_random=False), st.sampled_from([0.0, 0.4]))
def test_no_order_of_candidates_matters(chance, epsilon):
    """Nor does permuting what the funnel is given, but for the order of the reasons."""
    repertoire, made = _catalogue(list(range(12)), epsilon), []
    for shuffle in (False, True):
        funnel = a_funnel(repertoire, a_profile(traits={"age": 17}))
        if shuffle:
            pool = list(funnel.ask.pool)
            chance.shuffle(pool)
            funnel.ask = msgspec.structs.replace(funnel.ask, pool=Pool(pool, repertoire))
        made.append([_without_order(each) for each in decide(funnel)])
    assert made[0] == made[1]


def _without_order(decision: Decision) -> tuple[Decision, set[Rejection]]:
    explanation = msgspec.structs.replace(decision.explanation, rejected=[])
    return msgspec.structs.replace(decision, explanation=explanation), set(decision.explanation.rejected)


def test_the_same_question_has_the_same_answer():
    """To the last byte, exploration included; another seed draws anew."""
    repertoire = _catalogue(list(range(12)), 0.9)
    settings = {name: getattr(repertoire, name) for name in repertoire.__struct_fields__}
    reseeded = Repertoire(**{**settings, "seed": 1})

    def chosen(rules: Repertoire, cause: str) -> list[str | None]:
        return _actions(decide(a_funnel(rules, a_profile(traits={"age": 20}), cause=cause)))

    causes = [f"m{n}" for n in range(20)]
    assert [chosen(repertoire, each) for each in causes] == [chosen(repertoire, each) for each in causes]
    assert [chosen(repertoire, each) for each in causes] != [chosen(reseeded, each) for each in causes]


# --- Ranks ---


def test_the_best_come_first_and_no_action_twice():
    """Up to the limit, ranks from 1, each action in the treatment best for this person, each with an id of its own."""
    b = Builder()
    for n in range(4):
        b.action(f"a{n}", b.treatment(f"e{n}"), b.treatment(f"p{n}", "push", propensity=0.2), value=float(n))
    made = decide(a_funnel(b.build(), limit=3))
    assert [(each.rank, each.treatment) for each in made] == [(1, "p3"), (2, "p2"), (3, "p1")]
    assert len({each.decision_id for each in made}) == 3
    assert len(decide(a_funnel(b.build(), limit=20))) == 4


def test_each_choice_counts_before_the_next():
    """Of four e-mails two fit the cap and three the budget; the reason stands in the decision that came after."""
    b = Builder()
    for n in range(4):
        b.action(f"a{n}", b.treatment(f"e{n}"), b.treatment(f"s{n}", "sms", propensity=0.01))
    email = Scope(channels=frozenset({"email"}))
    limits = (ContactLimit(id="l", limit=2, window=WEEK, scope=email),)
    budget = BudgetRule(id="b", unit="decisions", limit=3, window=Window(unit="day"))
    repertoire = b.build(constraints=Constraints(purposes=FREE, contact_limits=limits, budgets=(budget,)))
    profile, budgets = a_profile(), dict[str, Spending]()
    made = decide(a_funnel(repertoire, profile, limit=20, budgets=budgets))
    assert [each.treatment for each in made] == ["e0", "e1", "s2"]
    assert [each.decision_id for each in profile.contacts] == [each.decision_id for each in made]
    assert sum(budgets["b"].used.values()) == 3
    assert made[1].explanation.rejected == []
    assert made[2].explanation.rejected[0] == Rejection(
        "a2", "contact-policy", "e2: 2 of 2 email contacts since 2026-01-05 (l)"
    )


def test_what_a_decision_enters_into_the_history():
    """All that limits, outcomes and promises need to know of it."""
    b = Builder()
    b.action(
        "a",
        b.treatment("t", "push", cost=0.5),
        counts_toward_caps=False,
        expires_after_ms=HOUR_MS,
        answerable_ms=2 * HOUR_MS,
    )
    profile = a_profile()
    [decision] = decide(a_funnel(b.build(), profile))
    [contact] = profile.contacts
    assert msgspec.structs.asdict(contact) == {
        "decision_id": decision.decision_id,
        "at_ms": START_MS,
        "issue": "sales",
        "group": "offers",
        "action": "a",
        "treatment": "t",
        "channel": "push",
        "expires_ms": START_MS + HOUR_MS,
        "answerable_until_ms": START_MS + 2 * HOUR_MS,
        "counts": False,
        "outbound": True,
        "cost": 0.5,
        "answer": None,
        "taken": False,
        "pending": None,
    }


@pytest.mark.parametrize(
    ("asked", "channel", "outbound"),
    [
        ({}, "push", True),
        ({"request": Request("r", (), "push", None)}, "push", True),
        ({"request": Request("r", (), "web", None)}, "web", False),
        ({"placement": "hero"}, "web", False),
        ({"placement": "card"}, "push", False),
    ],
)
def test_what_is_sent_is_outbound_whoever_asked(asked, channel, outbound):
    """A request for a channel we write to is answered with a message; a slot or an inbound channel is not."""
    b = Builder()
    b.action("a", b.treatment("p", "push"), b.treatment("w", "web"))
    slots = {"hero": Placement(id="hero", channel="web"), "card": Placement(id="card", channel="push")}
    profile = a_profile()
    [decision] = decide(a_funnel(b.build(placements=slots), profile, **asked))
    assert (decision.channel, profile.contacts[0].outbound) == (channel, outbound)


def test_a_request_for_a_message_respects_the_night():
    """Asking for a decision is no way around quiet hours."""
    b = Builder()
    b.action("a", b.treatment("p", "push"))
    night = {"push": Channel(id="push", quiet_hours=(QuietHours(0, 1439),))}
    repertoire = b.build(channels={**channels(), **night})
    [decision] = decide(a_funnel(repertoire, request=Request("r", (), "push", None), answer_always=True))
    assert (decision.action, [each.stage for each in decision.explanation.rejected]) == (None, ["quiet-hours"])


# --- Requests: always an answer ---


def _ask(repertoire: Repertoire, **properties) -> list[dict[str, Any]]:
    """The answers to a request."""
    signal = a_signal("Decision Requested", properties={"requestId": "r1", **properties})
    return decisions_of(a_replay(repertoire).signal(signal, START_MS))


def _page(**changes) -> Repertoire:
    """Three actions on the web, and one by e-mail."""
    b = Builder().action("mail")
    for n in range(3):
        b.action(f"a{n}", b.treatment(f"w{n}", "web"), value=float(n))
    slots = (Placement(id="hero", channel="web", limit=2), Placement(id="footer", channel="web"))
    return b.build(placements={each.id: each for each in slots}, **changes)


def test_several_slots_of_a_page_never_show_one_action_twice():
    """The first slot has the first choice; why an action is not in the second slot is said."""
    answers = _ask(_page(), placement=["footer", "hero"])
    assert [(each["placement"], each["rank"], each["action"]) for each in answers] == [
        ("footer", 1, "a2"),
        ("hero", 1, "a1"),
        ("hero", 2, "a0"),
    ]
    assert answers[1]["explanation"]["rejected"] == [
        {"action": "a2", "stage": "applicability", "reason": "shown in another slot of this request"}
    ]
    assert len({each["decisionId"] for each in answers}) == 3
    assert {each["requestId"] for each in answers} == {"r1"}


def test_a_request_gets_no_more_than_it_asks_for_and_the_slot_holds():
    """The lesser of the two; without a slot what it asks for, else one."""
    made = [len(_ask(_page(), **each)) for each in ({"placement": "hero", "limit": n} for n in (1, 2, 20))]
    assert made == [1, 2, 2]
    assert [len(_ask(_page(), channel="web", **each)) for each in ({}, {"limit": 2}, {"limit": 20})] == [1, 2, 3]


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"placement": "attic"}, "no treatment is configured for placement 'attic'"),
        ({"channel": "fax"}, "no treatment is configured for channel 'fax'"),
        ({"channel": "sms"}, "no treatment is configured for channel 'sms'"),
        ({"placement": "x" * 256}, f"no treatment is configured for placement '{'x' * 64}'"),
    ],
)
def test_nothing_because(properties, reason):
    """A slot or channel nobody configured gets an answer that says so."""
    [answer] = _ask(_page(), **properties)
    assert (answer["rank"], answer["control"]) == (1, False)
    assert (answer["action"], answer["score"], answer["content"], answer["expiresAt"]) == (None, None, None, None)
    assert (answer["probability"], answer["explanation"]["considered"]) == (1.0, 0)
    assert answer["explanation"]["rejected"] == [{"action": "*", "stage": "eligibility", "reason": reason}]


def test_an_answer_of_nothing_is_no_contact():
    """It enters neither history nor budget."""
    profile = a_profile()
    [decision] = decide(a_funnel(Builder().action("a", eligibility=["false"]).build(), profile, answer_always=True))
    assert (decision.action, profile.contacts) == (None, [])


def test_a_trigger_is_silent_unless_it_always_answers():
    """When nothing qualified."""
    repertoire = Builder().action("a", eligibility=["false"]).build()
    assert decide(a_funnel(repertoire)) == []
    assert _actions(decide(a_funnel(repertoire, answer_always=True))) == [None]


# --- Budgets over customers and partitions ---


def test_a_budget_over_all_customers_and_partitions_is_never_exceeded():
    """Two hundred customers, four partitions, two days: eleven a day at most, and not much less."""
    budget = BudgetRule(id="b", unit="decisions", limit=11, window=Window(unit="day"))
    repertoire = Builder().action("a").build(constraints=Constraints(purposes=FREE, budgets=(budget,)))
    replay, chance = a_replay(repertoire), random.Random(7)
    days: dict[str, int] = {}
    for n in range(400):
        at_ms = START_MS + n * 2 * DAY_MS // 400
        for each in decisions_of(replay.signal(a_signal(user=f"u{chance.randrange(200)}"), at_ms)):
            days[each["decidedAt"][:10]] = days.get(each["decidedAt"][:10], 0) + 1
    assert sorted(days) == ["2026-01-05", "2026-01-06", "2026-01-07"]
    assert max(days.values()) == 11


def test_a_partition_keeps_to_its_share():
    """Whatever the others leave unused."""
    budget = BudgetRule(id="b", unit="decisions", limit=5, window=Window(unit="day"))
    repertoire = Builder().action("a").build(constraints=Constraints(purposes=FREE, budgets=(budget,)))
    made = []
    for partition in range(2):
        budgets: dict[str, Spending] = {}
        share = Share(partition, 2)
        made.append(sum(len(decide(a_funnel(repertoire, a_profile(), budgets=budgets, share=share))) for _ in range(9)))
    assert sorted(made) == [2, 3]
