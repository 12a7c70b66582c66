from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context

import pytest

from agents.broker import BrokerKind
from agents.children import Children
from benchmarks.stream import Bench, Sizes, bare_loop, cpu_seconds, run_trial


def test_a_trial_of_the_bare_loop_is_complete(broker, unique_prefix):
    """Every signal is answered once, throughput, CPU and latencies come out, and the loop stops in order."""
    if broker.kind is not BrokerKind.KAFKA:
        pytest.skip("the embedded broker refuses idempotent producers")
    with closing(Children()) as children, ProcessPoolExecutor(1, get_context("spawn")) as publisher:
        bench = Bench(broker.bootstrap, children, publisher)
        trial = run_trial(bare_loop(broker.bootstrap), unique_prefix, Sizes(1, 4_000, 1), bench, rate=100)
    assert trial.tally.signals == 4_100
    assert trial.tally.faults is None
    assert trial.tally.repeated == 0
    assert trial.caught_up.per_second > 0
    assert len(trial.paced.latencies_ms) == 90
    assert 0 < trial.paced.latencies_ms[0] <= trial.paced.latencies_ms[-1]


def test_cpu_time_of_a_process_grows_with_its_work():
    """The number read is the process's own."""
    before = cpu_seconds(os.getpid())
    sum(range(3_000_000))
    assert cpu_seconds(os.getpid()) > before
