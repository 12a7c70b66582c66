"""Priority = P · C · V · L, the ranking that follows, and what earlier outcomes do to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arbitration import Scored, influences, rank
from engine.candidates import Rejection, Rejections, select
from engine.context import context_of
from engine.expression import compile_expression
from engine.profile import Answer, Profile
from engine.repertoire import Arbitration, ContextWeight, Influencer, Repertoire, Scope
from engine.signal import Signal
from tests.repertoires import DAY_MS, HOUR_MS, START_MS, Builder, a_profile

ANYTHING = Scope()


def _rank(
    repertoire: Repertoire,
    settings: Arbitration | None = None,
    profile: Profile | None = None,
    propensity: float | list[float] = 0.5,
) -> tuple[list[Scored], list[Rejection]]:
    """All candidates of a repertoire, ranked for a customer, and what was left out."""
    profile = a_profile() if profile is None else profile
    signal = Signal("m1", "track", START_MS, event="Go", properties={"intent": "cancel", "total": 40})
    context = context_of(profile, signal, repertoire)
    candidates = select(repertoire.candidates, repertoire)
    given_ = np.array(propensity if isinstance(propensity, list) else [propensity] * len(candidates))
    settings = repertoire.arbitration if settings is None else settings
    rejections = Rejections()
    truths = repertoire.predicates.evaluate(context)
    return list(rank(candidates, given_, context, profile, settings, truths, rejections)), list(rejections)


def _ids(ranked: list[Scored]) -> list[str]:
    return [each.candidate.action.id for each in ranked]


def _weighted(b: Builder, *weights: tuple[str, float, Scope], **settings) -> Arbitration:
    found = (ContextWeight(when=b.rules(when)[0], weight=weight, scope=scope) for when, weight, scope in weights)
    return Arbitration(context_weights=tuple(found), **settings)


# --- The four factors ---


@pytest.mark.parametrize(
    ("lever", "factor"), [(0, 1.0), (55, 1.55), (-25, 0.75), (-100, 0.0), (-250, 0.0), (900, 10.0)]
)
def test_levers_are_percent_and_never_turn_a_priority_round(lever, factor):
    """+55 % is 1.55; -100 % and below is 0."""
    [scored], _ = _rank(Builder().action("a", lever=float(lever), value=8.0).build())
    assert (scored.lever, scored.priority) == (factor, 4.0 * factor)


def test_context_weights_add_up_before_they_multiply():
    """Intent cancel is worth +100 % to retention, i.e. 2.0; weights of what does not hold or cover count nothing."""
    b = Builder().action("a", issue="retention").action("b", issue="sales")
    retention = Scope(issues=frozenset({"retention"}))
    cancel = "signal.properties.intent == 'cancel'"
    settings = _weighted(
        b, (cancel, 60.0, retention), (cancel, 40.0, retention), ("signal.properties.x > 1", 500.0, ANYTHING)
    )
    ranked, _ = _rank(b.build(), settings)
    assert [(each.candidate.action.id, each.context_weight) for each in ranked] == [("a", 2.0), ("b", 1.0)]


@pytest.mark.parametrize(("weights", "factor"), [((30.0, 25.0), 1.55), ((-60.0, -60.0), 0.0), ((50.0, -50.0), 1.0)])
def test_context_never_falls_below_nothing(weights, factor):
    """Weights beyond -100 % are 0, not a change of sign."""
    b = Builder().action("a")
    settings = _weighted(b, *(("true", weight, ANYTHING) for weight in weights))
    [scored], _ = _rank(b.build(), settings)
    assert scored.context_weight == factor


@pytest.mark.parametrize("off", ["propensity", "context", "value", "lever"])
def test_a_factor_switched_off_counts_one(off):
    """And the other three are as they were."""
    b = Builder().action("a", value=7.0, lever=20.0)
    settings = _weighted(b, ("true", 30.0, ANYTHING), **{off: False})
    [scored], _ = _rank(b.build(), settings)
    factors = {"propensity": 0.5, "context": 1.3, "value": 7.0, "lever": 1.2, off: 1.0}
    found = dict(zip(factors, (scored.propensity, scored.context_weight, scored.value, scored.lever), strict=True))
    assert found == factors
    assert scored.priority == pytest.approx(math.prod(factors.values()))


FACTORS = st.floats(0, 1e6)


@given(st.lists(st.tuples(st.floats(0, 1), FACTORS, st.floats(-300, 1e4)), min_size=1, max_size=8))
def test_priority_is_the_product_and_the_ranking_its_order(rows):
    """Highest first; all four factors are kept with each candidate."""
    b = Builder()
    for n, (_, value, lever) in enumerate(rows):
        b.action(f"a{n}", value=value, lever=lever)
    ranked, _ = _rank(b.build(), propensity=[p for p, _, _ in rows])
    assert len(ranked) == len(rows)
    for scored in ranked:
        p, value, lever = rows[int(scored.candidate.action.id[1:])]
        assert (scored.propensity, scored.value) == (p, value)
        assert scored.priority == pytest.approx(p * value * max(0.0, 1 + lever / 100))
    priorities = [each.priority for each in ranked]
    assert priorities == sorted(priorities, reverse=True)


# --- Values and formulas ---


def test_a_value_may_be_computed():
    """From the customer, the signal and the action itself; whole numbers are numbers."""
    formula = "profile.tier_value + signal.properties.total / 10 if action.id == 'a' else 1"
    b = Builder().action("a", value=compile_expression(formula)).action("b", value=compile_expression(formula))
    ranked, _ = _rank(b.build(), profile=a_profile(traits={"tier_value": 6}))
    assert [(each.candidate.action.id, each.value) for each in ranked] == [("a", 10.0), ("b", 1.0)]
    [scored], _ = _rank(Builder().action("a", value=3).build())
    assert scored.value == 3


@pytest.mark.parametrize("formula", ["profile.nothing", "profile.name", "profile.vip", "1 / 0", "null"])
def test_what_has_no_value_is_left_out_with_a_reason(formula):
    """Missing, a text, true or false, a division by zero; with the factor switched off it does not matter."""
    b = Builder().action("a", value=compile_expression(formula)).action("b")
    profile = a_profile(traits={"name": "Ana", "vip": True})
    ranked, rejections = _rank(b.build(), profile=profile)
    assert _ids(ranked) == ["b"]
    assert rejections == [Rejection("a", "suitability", "a-email: its value cannot be computed")]
    assert len(_rank(b.build(), Arbitration(value=False), profile)[0]) == 2


def test_a_formula_replaces_the_product():
    """It sees the four factors after their switches, the action, and all that rules see."""
    formula = "propensity * 100 + lever if action.group == 'offers' else context_weight * value"
    b = Builder().action("a", lever=50.0).action("b", group="x", value=200.0, lever=9.0)
    ranked, _ = _rank(b.build(), Arbitration(formula=compile_expression(formula), lever=False))
    assert [(each.candidate.action.id, each.priority) for each in ranked] == [("b", 200.0), ("a", 51.0)]


@pytest.mark.parametrize("formula", ["propensity / 0", "profile.nothing", "lever > 0"])
def test_what_has_no_priority_is_left_out_with_a_reason(formula):
    """As when its value cannot be computed."""
    ranked, rejections = _rank(Builder().action("a").build(), Arbitration(formula=compile_expression(formula)))
    assert ranked == []
    assert rejections == [Rejection("a", "suitability", "a-email: its priority cannot be computed")]


@pytest.mark.parametrize("propensity", [math.nan, math.inf, -math.inf])
def test_a_scorer_gone_wrong_chooses_nothing(propensity):
    """A priority that is no number never wins."""
    ranked, rejections = _rank(Builder().action("a").action("b").build(), propensity=[propensity, 0.1])
    assert _ids(ranked) == ["b"]
    assert len(rejections) == 1


# --- Ties and classes ---


@given(st.permutations(["a", "b", "c", "ab", "B", "z1", "z10", "z9"]))
def test_ties_are_broken_by_id(order):
    """Whatever order actions were configured in."""
    b = Builder()
    for id_ in order:
        b.action(id_)
    assert _ids(_rank(b.build())[0]) == sorted(order)


def test_the_best_treatment_of_an_action_comes_first():
    """Treatments of one action are ranked like everything else; at a tie by their ids."""
    b = Builder()
    b.action("a", b.treatment("t2"), b.treatment("t1"), b.treatment("t3"))
    ranked, _ = _rank(b.build(), propensity=[0.1, 0.1, 0.2])
    assert [each.candidate.treatment.id for each in ranked] == ["t3", "t1", "t2"]


def test_mandatory_actions_come_before_arbitration():
    """Whatever their priority; among themselves by priority."""
    b = Builder().action("best", value=1e9)
    b.action("law", action_class="mandatory", value=0.0).action("rule", action_class="mandatory", value=1.0)
    b.action("receipt", action_class="transactional", value=2e9)
    assert _ids(_rank(b.build())[0]) == ["rule", "law", "receipt", "best"]


# --- Influencers ---


def _influencer(**changes) -> Influencer:
    settings = {"id": "i", "outcome": "dismiss", "source": ANYTHING, "target": ANYTHING}
    return Influencer(
        **{**settings, "start": 0.0, "end": 100.0, "steps": 5, "period_ms": 10 * DAY_MS, **changes},
    )


def _lever(influencer: Influencer, after_ms: int, *, tags: frozenset[str] = frozenset(), **answer) -> float:
    """The lever of an action so long after an outcome of it."""
    b = Builder().action("a", lever=10.0, tags=tags)
    said = {"type": "dismiss", "issue": "sales", "group": "offers", "action": "a", "channel": "email", **answer}
    profile = a_profile(now_ms=START_MS + after_ms, answers=[Answer(at_ms=START_MS, **said)])
    [scored], _ = _rank(b.build(), Arbitration(influencers=(influencer,)), profile)
    return scored.lever


@pytest.mark.parametrize(
    ("days", "percent"), [(0, 0), (1.9, 0), (2, 25), (4, 50), (6, 75), (8, 100), (9.99, 100), (10, 0), (99, 0)]
)
def test_an_influencer_goes_from_start_to_end_in_steps_and_then_is_over(days, percent):
    """Five steps over ten days: each lasts two, the first has the start's weight and the last the end's."""
    assert _lever(_influencer(), round(days * DAY_MS)) == pytest.approx(1.1 + percent / 100)


def test_weights_may_fall_and_be_negative():
    """Downweighting after an outcome that recovers; never below 0."""
    down = _influencer(start=-200.0, end=-50.0, steps=2)
    assert _lever(down, HOUR_MS) == 0.0
    assert _lever(down, 5 * DAY_MS) == pytest.approx(0.6)
    assert _lever(_influencer(start=40.0, end=0.0, steps=1), 9 * DAY_MS) == pytest.approx(1.5)


def test_the_latest_outcome_counts_and_influencers_add_up():
    """A second outcome starts the period over; weights of several influencers add to the lever's."""
    b = Builder().action("a")
    answers = [Answer("dismiss", START_MS + day * DAY_MS, "sales", "offers", "a", "email") for day in (3, 0, 1)]
    profile = a_profile(now_ms=START_MS + 5 * DAY_MS, answers=answers)
    repertoire = b.build()
    assert influences([_influencer(id="i"), _influencer(id="j", start=100.0)], profile, repertoire) == [
        (ANYTHING, 25.0),
        (ANYTHING, 100.0),
    ]
    both = Arbitration(influencers=(_influencer(), _influencer(id="j", start=100.0)))
    [scored], _ = _rank(repertoire, both, profile)
    assert scored.lever == pytest.approx(2.25)


def test_source_and_target_say_which_outcomes_and_which_actions():
    """Issue, group, action, channel, and tags as they are in the configuration of the day."""
    at_once = {"start": 100.0, "steps": 1}
    for field, name in (("issues", "sales"), ("groups", "offers"), ("actions", "a"), ("channels", "email")):
        assert _lever(_influencer(source=Scope(**{field: frozenset({name})}), **at_once), 0) == pytest.approx(2.1)
        assert _lever(_influencer(source=Scope(**{field: frozenset({"x"})}), **at_once), 0) == pytest.approx(1.1)
        assert _lever(_influencer(target=Scope(**{field: frozenset({name})}), **at_once), 0) == pytest.approx(2.1)
        assert _lever(_influencer(target=Scope(**{field: frozenset({"x"})}), **at_once), 0) == pytest.approx(1.1)
    tagged = _influencer(source=Scope(tags=frozenset({"promo"})), **at_once)
    assert _lever(tagged, 0, tags=frozenset({"promo"})) == pytest.approx(2.1)
    assert _lever(tagged, 0) == pytest.approx(1.1)
    assert _lever(_influencer(outcome="reject", **at_once), 0) == pytest.approx(1.1)
