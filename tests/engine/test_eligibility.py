"""Eligibility, applicability, suitability, and what a treatment itself needs; each with its own reason."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.calendar import format_rfc3339
from engine.candidates import Rejection, Rejections, select
from engine.context import context_of
from engine.eligibility import MAX_SHOWN, available, qualify
from engine.expression import compile_expression
from engine.funnel import decide
from engine.repertoire import Arbitration, Candidate, Channel, ContextWeight, Repertoire, Scope
from engine.signal import Signal
from tests.repertoires import DAY_MS, START_MS, Builder, a_funnel, a_profile, channels

LAYERS = ("eligibility", "applicability", "suitability")


def _qualify(repertoire: Repertoire, **traits) -> tuple[list[str], list[Rejection]]:
    """Treatments that qualify for a customer with these traits, and why the others do not."""
    profile = a_profile(traits=traits)
    context = context_of(profile, Signal("m1", "track", START_MS, event="Go"), repertoire)
    rejections = Rejections()
    qualified = qualify(repertoire.candidates, context, repertoire, rejections)
    return [each.treatment.id for each in qualified], list(rejections)


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_gives_its_own_reason(layer):
    """The stage, the level that set the rule, and the part of it that is not true."""
    repertoire = Builder().action("a", **{layer: ["profile.vip == true and profile.age >= 18"]}).build()
    assert _qualify(repertoire, vip=True, age=18) == (["a-email"], [])
    assert _qualify(repertoire, vip=True, age=17) == (
        [],
        [Rejection("a", layer, "action: not true: profile.age >= 18")],
    )


def test_the_first_layer_that_fails_is_the_reason():
    """Eligibility before applicability before suitability, whatever else fails."""
    fail = {layer: [f"profile.{layer} == true"] for layer in LAYERS}
    repertoire = Builder().action("a", **fail).build()
    for passed, layer in enumerate(LAYERS):
        _, rejections = _qualify(repertoire, **dict.fromkeys(LAYERS[:passed], True))
        assert [each.stage for each in rejections] == [layer]


def test_a_predicate_of_two_layers_fails_in_the_first():
    """The same condition written twice is reported where it is asked first."""
    same = ["profile.vip == true"]
    _, rejections = _qualify(Builder().action("a", suitability=same, applicability=same).build())
    assert [each.stage for each in rejections] == ["applicability"]


@pytest.mark.parametrize("rule", ["profile.age > 18", "profile.age / 0 > 1", "not (profile.age > 18)", "profile.name"])
def test_what_cannot_be_evaluated_is_not_true(rule):
    """A missing field, a wrong type and a division by zero shut the door, also behind a `not`."""
    qualified, rejections = _qualify(Builder().action("a", eligibility=[rule]).build(), name="Ana", age="old")
    assert (qualified, len(rejections)) == ([], 1)


@pytest.mark.parametrize(
    ("starts_ms", "ends_ms", "reason"),
    [
        (START_MS, None, None),
        (START_MS + 1, None, f"starts on {format_rfc3339(START_MS + 1)}"),
        (None, START_MS + 1, None),
        (None, START_MS, f"ended on {format_rfc3339(START_MS)}"),
        (0, 1, f"ended on {format_rfc3339(1)}"),
    ],
)
def test_validity_includes_its_start_and_not_its_end(starts_ms, ends_ms, reason):
    """To the millisecond, before any rule is asked."""
    repertoire = Builder().action("a", starts_ms=starts_ms, ends_ms=ends_ms).build()
    _, rejections = _qualify(repertoire)
    assert rejections == ([] if reason is None else [Rejection("a", "eligibility", reason)])


def test_a_treatment_leaves_alone():
    """Its own rule, a channel that does not reach, and content without a value leave the other treatments standing."""
    b = Builder()
    b.action(
        "a",
        b.treatment("email", when=b.rules("profile.digest == true")[0]),
        b.treatment("push", "push"),
        b.treatment("sms", "sms", content={"text": "Hi {profile.first_name}", "link": "example.com"}),
        b.treatment("web", "web"),
    )
    reachable = Channel(id="push", reachable=b.rules("has(profile.token)")[0])
    repertoire = b.build(channels={**channels(), "push": reachable})
    qualified, rejections = _qualify(repertoire)
    assert qualified == ["web"]
    assert [each.reason for each in rejections] == [
        "email: not true: profile.digest == true",
        "push: push does not reach: has(profile.token)",
        "sms: content text needs profile.first_name",
    ]
    assert {each.stage for each in rejections} == {"eligibility"}
    assert len(_qualify(repertoire, digest=True, token="t", first_name="Ana")[0]) == 4


@pytest.mark.parametrize("value", [None, "", "  ", [], {}, "x" * 20_000])
def test_content_with_nothing_to_show_is_not_offered(value):
    """Absent, blank, no text at all, or too long: as the template itself would say."""
    b = Builder()
    b.action("a", b.treatment("t", content={"body": "Hi {profile.first_name}"}))
    assert _qualify(b.build(), **({} if value is None else {"first_name": value}))[0] == []


def test_an_action_is_turned_away_once():
    """However many treatments it has, there is one reason for an action that does not qualify."""
    b = Builder()
    b.action("a", *(b.treatment(f"t{n}") for n in range(5)), eligibility=["false"])
    assert len(_qualify(b.build())[1]) == 1


def test_a_long_rule_is_cut_in_the_reason():
    """So that the size of a decision does not depend on the length of rules."""
    rule = " + ".join(["profile.age"] * 40) + " > 0"
    [rejection] = _qualify(Builder().action("a", eligibility=[rule]).build())[1]
    assert rejection.reason.endswith("…")
    assert len(rejection.reason) < MAX_SHOWN + 40


def test_equal_predicates_are_evaluated_once_in_a_decision():
    """Over all layers, actions, treatments, channels, context weights and arms: each distinct predicate once."""
    b = Builder()
    rule = "profile.age >= 18"
    spelled = ["profile.age >= 18", "(profile.age>=18)", "profile['age'] >= 18 and true", "profile.age >= 18"]
    for n, text in enumerate(spelled):
        b.action(f"a{n}", b.treatment(f"t{n}", when=b.rules(rule)[0]), eligibility=[text], suitability=[rule])
    reachable = {"email": Channel(id="email", reachable=b.rules(rule)[0])}
    weight = ContextWeight(when=b.rules(rule)[0], weight=10.0, scope=Scope())
    repertoire = b.build(channels=reachable, arbitration=Arbitration(context_weights=(weight, weight)))
    asked = Counter[str]()

    class Traits(dict):
        def __getitem__(self, name):
            asked[name] += 1
            return super().__getitem__(name)

    [decision] = decide(a_funnel(repertoire, a_profile(traits=Traits(age=18))))
    assert decision.score is not None
    assert decision.score.context_weight == 1.2
    assert asked["age"] == 1


RULES = ["profile.age >= 18", "profile.age < 65", "profile.vip == true", "not has(profile.owns)", "profile.missing > 0"]


@given(
    st.lists(st.lists(st.sampled_from(RULES), max_size=3), min_size=1, max_size=5),
    st.sampled_from(RULES),
    st.sampled_from(LAYERS),
    st.fixed_dictionaries({}, optional={"age": st.integers(0, 99), "vip": st.booleans(), "owns": st.just(1)}),
)
def test_a_rule_never_adds_an_action(rules, further, layer, traits):
    """What qualifies with one more rule qualified without it, and exactly one reason is given for each that did not."""
    few, more = Builder(), Builder()
    for n, sources in enumerate(rules):
        few.action(f"a{n}", eligibility=sources)
        own = {"eligibility": sources}
        more.action(f"a{n}", **{**own, layer: [*own.get(layer, []), further]})
    before, after = _qualify(few.build(), **traits), _qualify(more.build(), **traits)
    assert set(after[0]) <= set(before[0])
    for qualified, rejections in (before, after):
        assert sorted(
            [*(each.removesuffix("-email") for each in qualified), *(each.action for each in rejections)]
        ) == [f"a{n}" for n in range(len(rules))]


@st.composite
def _conditions(draw: st.DrawFn) -> Builder:
    """Actions with rules in every layer, dates, and treatments with rules of their own, some channels out of reach."""
    b, some = Builder(), st.lists(st.sampled_from(RULES), max_size=2)
    for n in range(draw(st.integers(1, 5))):
        treatments = []
        for m in range(draw(st.integers(1, 3))):
            own = draw(st.none() | st.sampled_from(RULES))
            channel = draw(st.sampled_from(["email", "push"]))
            treatments.append(b.treatment(f"t{n}{m}", channel, when=None if own is None else b.rules(own)[0]))
        dates = {name: draw(st.sampled_from([None, START_MS, START_MS + 1])) for name in ("starts_ms", "ends_ms")}
        b.action(f"a{n}", *treatments, **{layer: draw(some) for layer in LAYERS}, **dates)
    return b


def _leaves_by(candidate: Candidate, repertoire: Repertoire, traits: dict[str, Any]) -> tuple[bool, str, str] | None:
    """Asked one rule after another, in words: whether it is the action that leaves, the stage and the rule."""
    action, treatment, scope = candidate.action, candidate.treatment, {"profile": traits}
    if action.starts_ms is not None and action.starts_ms > START_MS:
        return True, "eligibility", "starts on"
    if action.ends_ms is not None and action.ends_ms <= START_MS:
        return True, "eligibility", "ended on"
    reachable = repertoire.channels[treatment.channel].reachable
    asked = [(True, layer, rule) for layer in LAYERS for rule in getattr(action.engagement, layer)]
    asked += [(False, "eligibility", rule) for rule in (treatment.when, reachable) if rule is not None]
    for of_action, stage, rule in asked:
        for predicate in rule.predicates:
            source = repertoire.predicates.source(predicate)
            if not compile_expression(source).test(scope):
                return of_action, stage, source
    return None


@given(
    _conditions(),
    st.fixed_dictionaries({}, optional={"age": st.integers(10, 70), "vip": st.booleans(), "owns": st.just(1)}),
    st.data(),
)
def test_all_at_once_is_one_after_another(b, traits, data):
    """For a whole pool and any part of it: who qualifies, and what is said of whom, in which order."""
    reachable = Channel(id="push", reachable=b.rules("profile.vip == true")[0])
    repertoire = b.build(channels={**channels(), "push": reachable})
    every = select(repertoire.candidates, repertoire)
    part = data.draw(st.lists(st.booleans(), min_size=len(every), max_size=len(every)))
    chosen = every if all(part) else every.keep(np.array(part))
    context = context_of(a_profile(traits=traits), Signal("m1", "track", START_MS, event="Go"), repertoire)
    rejections = Rejections()
    qualified = qualify(chosen, context, repertoire, rejections)
    leaving = [(each, _leaves_by(each, repertoire, traits)) for each in chosen]
    assert list(qualified) == [each for each, by in leaving if by is None]
    first = {each.action.id: each for each in reversed(every)}
    told = [(each, by) for each, by in leaving if by is not None and (not by[0] or each is first[each.action.id])]
    assert [(each.action, each.stage) for each in rejections] == [
        (each.action.id, stage) for each, (_, stage, _) in told
    ]
    assert all(source in each.reason for each, (_, (_, _, source)) in zip(rejections, told, strict=True))
    assert rejections.counts() == Counter(each.stage for each in rejections)


def test_a_fallback_must_still_be_available():
    """Dates, the treatment's rule, reach and content hold where engagement rules do not."""
    b = Builder()
    b.action("ended", ends_ms=START_MS - DAY_MS)
    b.action("nameless", b.treatment("n", content={"body": "{profile.first_name}"}))
    b.action("fine", eligibility=["false"])
    repertoire = b.build()
    context = context_of(a_profile(), Signal("m1", "track", START_MS), repertoire)
    truths, rejections = repertoire.predicates.evaluate(context), Rejections()
    found = available(select(repertoire.candidates, repertoire), context, rejections, truths)
    assert [each.action.id for each in found] == ["fine"]
    assert [each.action for each in rejections] == ["ended", "nameless"]
    assert rejections[1] == Rejection("nameless", "eligibility", "n: content body needs profile.first_name")
