from __future__ import annotations

import msgspec

from benchmarks import workload
from benchmarks.core import CANDIDATES, Core, Sizes, measure_candidates
from benchmarks.tally import tally


def test_every_signal_of_the_workload_gets_one_decision_over_all_candidates():
    """What is measured is what is meant: each signal decides, over so many candidates, of which some qualify."""
    candidates = CANDIDATES[0]
    decisions = Core(candidates, customers=20).feed(workload.signals(60, 20, "test"))
    assert tally([f"test-{at}" for at in range(60)], decisions).faults is None
    read = [msgspec.json.decode(each) for each in decisions]
    assert {each["explanation"]["considered"] for each in read} == {candidates}
    assert any(each["action"] for each in read)
    assert any(each["explanation"]["rejected"] for each in read)


def test_the_workload_is_the_same_every_time():
    """Two runs are fed with the same bytes."""
    assert workload.signals(20, 5, "a") == workload.signals(20, 5, "a") != workload.signals(20, 5, "b")
    assert workload.introductions(5) == workload.introductions(5)


def test_the_core_costs_more_than_its_codec():
    """Costs and ratios come out, positive and in order; stages are named."""
    cost, ratio = measure_candidates(CANDIDATES[0], Sizes(customers=20, batches=2, batch=40))
    assert 0 < cost.low <= cost.value <= cost.high
    assert ratio.low > 1
    assert "eligibility" in cost.detail
