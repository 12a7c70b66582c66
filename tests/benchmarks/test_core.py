from __future__ import annotations

import msgspec
import pytest

from benchmarks import workload
from benchmarks.core import CANDIDATES, Core, Reference, Sizes, measure_candidates, over, slope
from benchmarks.tally import tally
from engine.expression import compile_expression


def test_every_signal_of_the_workload_gets_one_decision_over_all_candidates():
    """What is measured is what is meant: each signal decides, over so many candidates, of which some qualify."""
    candidates = CANDIDATES[0]
    decisions = Core(workload.load(candidates), customers=20).feed(workload.signals(60, 20, "test"))
    assert tally([f"test-{at}" for at in range(60)], decisions).faults is None
    read = [msgspec.json.decode(each) for each in decisions]
    assert {each["explanation"]["considered"] for each in read} == {candidates}
    assert any(each["action"] for each in read)
    assert any(each["explanation"]["rejected"] for each in read)


def test_the_workload_is_the_same_every_time():
    """Two runs are fed with the same bytes."""
    assert workload.signals(20, 5, "a") == workload.signals(20, 5, "a") != workload.signals(20, 5, "b")
    assert workload.introductions(5) == workload.introductions(5)


SMALL = Sizes(customers=20, batches=2, batch=40)


def test_the_core_costs_more_than_its_codec():
    """Costs and ratios come out, positive and in order; stages are named, and growth has a slope."""
    rows = {each.metric: each for each in measure_candidates((10, 20), SMALL)}
    cost, ratio = rows["core.10-candidates.signal"], rows["core.10-candidates.over-codec"]
    assert 0 < cost.low <= cost.value <= cost.high
    assert ratio.low > 1
    assert "eligibility" in cost.detail
    assert rows["core.candidates.slope"].unit == "ns per candidate"


def test_what_is_bounded_is_compared_turn_by_turn():
    """The ratio of two sizes is that of the same turn, and the slope that of the medians."""
    costs = {10: [1.0, 2.0, 3.0], 30: [2.0, 6.0, 3.0]}
    assert over(costs, 30, 10) == [2.0, 3.0, 1.0]
    assert slope(costs) == pytest.approx(1.0 / 20)


def test_rules_are_all_different_and_nearly_all_hold():
    """So that more of them are more work, and what qualifies stays the same."""
    repertoire = workload.load(20, rules=300)
    assert len(repertoire.predicates) == 300
    decisions = Core(repertoire, customers=20).feed(workload.signals(60, 20, "rules"))
    left_out = [len(msgspec.json.decode(each)["explanation"]["rejected"]) for each in decisions]
    assert sum(left_out) / len(left_out) < 20 * 0.8


# --- The reference ---


def test_the_reference_decides_sensibly():
    """For every signal something; among the best it knows; nothing without consent, nothing that rules forbid."""
    repertoire, messages = workload.load(100), workload.signals(400, 50, "reference")
    reference = Reference(repertoire, 50)
    decisions = [msgspec.json.decode(each) for each in reference.feed(messages)]
    assert [each["decisionId"] for each in decisions] == [f"reference-{at}/1" for at in range(len(messages))]
    made = [each for each in decisions if each["action"] is not None]
    assert len(made) > 300
    assert len({each["action"] for each in made}) > 10
    for each in made:
        profile, action = reference.profiles[each["customerId"]], repertoire.actions[each["action"]]
        assert profile.consent[each["channel"]]
        scope = {"profile": profile.traits}
        for predicate in action.engagement.predicates:
            source = repertoire.predicates.source(predicate)
            if source.startswith("profile."):
                assert compile_expression(source).test(scope), source


def test_the_reference_lets_about_as_many_through_as_the_engine():
    """It asks the same of the same customers, so about as many actions lose to eligibility; it only counts simpler."""
    repertoire, messages = workload.load(100), workload.signals(300, 50, "both")
    engine = [msgspec.json.decode(each) for each in Core(repertoire, 50).feed(messages)]
    reference = [msgspec.json.decode(each) for each in Reference(repertoire, 50).feed(messages)]
    nothing = [sum(each["action"] is None for each in found) for found in (engine, reference)]
    assert abs(nothing[0] - nothing[1]) < 30
    contenders = [sum(len(each["contenders"]) for each in reference), 0]
    contenders[1] = sum(min(2, len(each["explanation"]["contenders"])) for each in engine)
    assert contenders[0] == pytest.approx(contenders[1], rel=0.1)
