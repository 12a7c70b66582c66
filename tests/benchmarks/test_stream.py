from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context

import pytest

from agents.broker import BrokerKind
from agents.children import Children
from benchmarks import subjects
from benchmarks.load import CommittedReader, LoadFailed
from benchmarks.stream import Bench, Sizes, Subject, cpu_seconds, run_trial

SIZES = Sizes(2_000, 1)


@pytest.fixture
def bench(broker):
    """What trials share, on the session's broker."""
    if broker.kind is not BrokerKind.KAFKA:
        pytest.skip("the embedded broker refuses idempotent producers")
    with closing(Children()) as children, ProcessPoolExecutor(1, get_context("spawn")) as publisher:
        yield Bench(broker.bootstrap, children, publisher)


def subject(name, bench, directory):
    """A subject by its name."""
    started = {
        subjects.BATUTA: lambda: subjects.batuta(bench.bootstrap, directory),
        subjects.AIOKAFKA: lambda: subjects.aiokafka_loop(bench.bootstrap),
        subjects.CONFLUENT: lambda: subjects.confluent_loop(bench.bootstrap),
        subjects.FAUST: lambda: subjects.faust(bench.bootstrap),
        subjects.QUIXSTREAMS: lambda: subjects.quixstreams(bench.bootstrap, directory),
        subjects.ECHO: lambda: subjects.echo(bench.bootstrap, 1_000),
    }
    return started[name]()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        subjects.BATUTA,
        subjects.AIOKAFKA,
        subjects.CONFLUENT,
        subjects.FAUST,
        subjects.ECHO,
        pytest.param(
            subjects.QUIXSTREAMS,
            marks=pytest.mark.skipif(not subjects.PEERS.exists(), reason="only `make bench` installs quixstreams"),
        ),
    ],
)
def test_a_trial_of_every_subject_is_complete(name, bench, unique_prefix, tmp_path):
    """Every signal is answered once, throughput, CPU and latencies come out, and the subject stops in order."""
    # An echo is done with two thousand before anybody looks.
    sizes = SIZES._replace(waiting=30_000) if name == subjects.ECHO else SIZES
    trial = run_trial(subject(name, bench, tmp_path), unique_prefix, sizes, bench, lambda _: {"50": 50.0, "100": 100.0})
    assert trial.tally.signals == sizes.waiting + 150
    assert trial.tally.faults is None
    assert trial.caught_up.per_second > 0
    assert trial.caught_up.cpu_seconds > 0
    assert [len(paced.latencies) for paced in trial.paced.values()] == [45, 90]
    assert all(0 < paced.latencies.ms(0.5) <= paced.latencies.ms(0.99) for paced in trial.paced.values())


@pytest.mark.slow
def test_with_transactions_every_decision_is_there_once(bench, unique_prefix, tmp_path):
    """The engine with `exactly_once`, counted by reading what is committed; and it tells of its stages."""
    subject = subjects.batuta(bench.bootstrap, tmp_path, ["BATUTA_GUARANTEE=exactly_once"])
    trial = run_trial(subject, unique_prefix, SIZES, bench, lambda _: {"100": 100.0}, CommittedReader)
    assert (trial.tally.faults, trial.tally.repeated) == (None, 0)
    assert trial.paced["100"].stages_ms.keys() >= {"decided", "handle", "publish"}


def test_a_subject_that_ends_voids_the_trial(bench, unique_prefix):
    """Its last words are in the message."""
    broken = Subject("broken", lambda prefix: [sys.executable, "-c", f"raise SystemExit('no such topic: {prefix}x')"])
    with pytest.raises(LoadFailed, match=f"0 of 200 decisions.*no such topic: {unique_prefix}x"):
        run_trial(broken, unique_prefix, SIZES, bench, lambda _: {})


def test_cpu_time_of_a_process_grows_with_its_work():
    """The number read is the process's own."""
    before = cpu_seconds(os.getpid())
    sum(range(3_000_000))
    assert cpu_seconds(os.getpid()) > before
