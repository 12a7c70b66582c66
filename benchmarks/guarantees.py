"""What a guarantee costs: the engine with `idempotent` and with `exactly_once`, in turns, on one broker, in one run.

Both are read alike, by a consumer of committed records. Only the second one promises it that no decision is there
twice, which is counted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

from agents.broker import MEASURED_JVM, KafkaBroker, kafka_version
from agents.children import Children
from benchmarks import subjects
from benchmarks.load import CommittedReader
from benchmarks.results import Findings, Row, cores, row
from benchmarks.stream import CUSTOMERS, PARTITIONS, Bench, Paced, Rates, Sizes, Trial, run_trial

IDEMPOTENT, EXACTLY_ONCE = "idempotent", "exactly_once"
SHARES = {"10%": 0.1, "30%": 0.3, "50%": 0.5}
"""Rates as shares of what the engine manages with `exactly_once`."""
PERCENTILES = {"p50": 0.5, "p99": 0.99}
TURNS, SIZES = 3, Sizes(12_000, 10)
QUICK_TURNS, QUICK_SIZES = 1, Sizes(6_000, 5)
WARMING = Sizes(6_000, 1)

Turn = Mapping[str, Trial]


def measure(*, quick: bool) -> Findings:
    """Rows of both guarantees and of one over the other; a fault when a decision is lost, changed, or twice where
    that must not be.

    Raises `LoadFailed` when nothing can be measured, `BrokerUnavailable` without Apache Kafka.
    """
    count, sizes = (QUICK_TURNS, QUICK_SIZES) if quick else (TURNS, SIZES)
    with (
        tempfile.TemporaryDirectory() as directory,
        KafkaBroker(jvm=MEASURED_JVM) as broker,
        closing(Children()) as children,
        ProcessPoolExecutor(1, get_context("spawn")) as publisher,
    ):
        bench = Bench(broker.bootstrap, children, publisher, broker.directory / "node-1")
        warm = _run(EXACTLY_ONCE, "warming", WARMING, bench, Path(directory), lambda _: {})
        rates = {part: share * warm.caught_up.per_second for part, share in SHARES.items()}
        turns = [
            {
                guarantee: _run(guarantee, str(number), sizes, bench, Path(directory), lambda _: rates)
                for guarantee in (IDEMPOTENT, EXACTLY_ONCE)[:: -1 if number % 2 else 1]
            }
            for number in range(count)
        ]
    return Findings(tuple(_rows(turns, sizes)), tuple(_faults(turns)))


def _run(guarantee: str, turn: str, sizes: Sizes, bench: Bench, directory: Path, rates: Rates) -> Trial:
    subject = subjects.batuta(bench.bootstrap, directory, [f"BATUTA_GUARANTEE={guarantee}"])
    return run_trial(subject, f"{guarantee}-{turn}.", sizes, bench, rates, CommittedReader)


def _faults(turns: Sequence[Turn]) -> Iterator[str]:
    for number, turn in enumerate(turns, 1):
        for guarantee, trial in turn.items():
            if (found := trial.tally.faults) is not None:
                yield f"guarantees, {guarantee}, turn {number}: {found}"
        if repeated := turn[EXACTLY_ONCE].tally.repeated:
            yield f"guarantees, turn {number}: {repeated} decisions are there more than once"


def _rows(turns: Sequence[Turn], sizes: Sizes) -> Iterator[Row]:
    loads = [trial.load for turn in turns for trial in turn.values()]
    shared = (
        f"{subjects.CANDIDATES} candidates, {CUSTOMERS} customers, {PARTITIONS} partitions; Kafka {kafka_version()}, "
        f"one node; {len(turns)} turns on {cores()} cores, load average {min(loads):.1f} to {max(loads):.1f}"
    )
    waiting = f"{shared}; {sizes.waiting} signals waiting; beside it broker and reader"
    yield from _compared("saturation", "signals/s", turns, lambda trial: trial.caught_up.per_second, waiting)
    cpu = f"{waiting}; CPU of the worker per 100,000 signals"
    yield from _compared("cpu", "CPU s", turns, lambda trial: trial.caught_up.cpu_seconds, cpu)
    yield from _compared("written", "MB", turns, lambda trial: trial.caught_up.megabytes, waiting)
    for part in SHARES:
        rate = turns[0][EXACTLY_ONCE].paced[part].rate
        detail = f"{shared}; both at {rate:.0f} signals/s for {sizes.seconds} s; from scheduled to read"
        for name, share in PERCENTILES.items():
            yield from _compared(f"latency-{name}-at-{part}", "ms", turns, _at(part, share), detail)
        yield from _compared(f"cpu-at-{part}", "CPU s", turns, _of(part, lambda paced: paced.cpu_seconds), detail)
    for guarantee in (IDEMPOTENT, EXACTLY_ONCE):
        target = "== 0" if guarantee == EXACTLY_ONCE else ""
        repeated = [sum(turn[guarantee].tally.repeated for turn in turns)]
        yield row(f"guarantees.repeated.{guarantee}", repeated, "decisions", target=target, detail=shared)


def _of(part: str, read: Callable[[Paced], float]) -> Callable[[Trial], float]:
    return lambda trial: read(trial.paced[part])


def _at(part: str, share: float) -> Callable[[Trial], float]:
    return lambda trial: trial.paced[part].latencies.ms(share)


def _compared(
    metric: str, unit: str, turns: Sequence[Turn], read: Callable[[Trial], float], detail: str
) -> Iterator[Row]:
    for guarantee in (IDEMPOTENT, EXACTLY_ONCE):
        yield row(f"guarantees.{metric}.{guarantee}", [read(turn[guarantee]) for turn in turns], unit, detail=detail)
    ratios = [read(turn[EXACTLY_ONCE]) / read(turn[IDEMPOTENT]) for turn in turns]
    yield row(f"guarantees.{metric}.exactly-once-over-idempotent", ratios, "ratio", detail=detail)
