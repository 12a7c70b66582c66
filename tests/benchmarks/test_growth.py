from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context

import pytest

from agents.broker import BrokerKind
from agents.children import Children
from benchmarks import growth, recovery, workload
from benchmarks.core import Sizes
from benchmarks.growth import Crowd, Form
from benchmarks.stream import Bench
from benchmarks.tally import tally


def test_a_slope_per_tenfold_is_that_of_the_logarithm():
    """What costs 5 µs more each time there are ten times as many has the slope 5."""
    costs = {10**power: [100.0 + 5 * power] * 3 for power in range(3, 7)}
    assert growth.slope_per_tenfold(costs) == pytest.approx(5.0)


def test_a_crowd_decides_like_a_worker(monkeypatch):
    """Every signal of a customer who is in the tables decides once, with the history that is there."""
    monkeypatch.setattr(recovery, "PATTERNS", 20)
    crowd = Crowd(60, recovery.patterns())
    decisions = crowd.feed(workload.signals(250, 60, "crowd"))
    assert tally([f"crowd-{at}" for at in range(250)], decisions).faults is None


def test_customers_are_compared_turn_by_turn(monkeypatch):
    """The ratio and the slope come out; a target is only for the sizes it is about."""
    monkeypatch.setattr(recovery, "alone", lambda work: work())
    monkeypatch.setattr(recovery, "PATTERNS", 10)
    rows = [*growth.measure_customers(Form((10, 40), Sizes(0, 2, 20), 1, 0, 0))]
    assert [each.metric for each in rows] == ["growth.40-over-10-customers", "growth.customers.slope"]
    assert rows[0].low > 0
    assert not rows[0].target


@pytest.mark.slow
def test_two_workers_share_the_work(broker, tmp_path):
    """Each serves half of the partitions; every signal is decided once; CPU time comes out, of both together."""
    if broker.kind is not BrokerKind.KAFKA:
        pytest.skip("the embedded broker refuses idempotent producers")
    with closing(Children()) as children, ProcessPoolExecutor(1, get_context("spawn")) as publisher:
        bench = Bench(broker.bootstrap, children, publisher)
        spent = growth.work(f"test-{tmp_path.name}", 2, Form((), Sizes(0, 0, 0), 1, 2_000, 1), bench, tmp_path, 100.0)
    assert spent.faults is None
    assert min(spent.per_second, spent.waiting, spent.paced, spent.idle) > 0
