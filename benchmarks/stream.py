"""The engine on Kafka, beside the bare loop: throughput, CPU and open-loop latency, and a count of every decision.

A trial is one life of a subject: signals wait on the topic, the subject starts and catches up (throughput, CPU),
then signals keep coming at a fixed rate (latency). Subjects take turns on one broker; every number of the engine is
also given over the bare loop's of the same turn.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient

from agents import topics
from agents.broker import MEASURED_JVM, KafkaBroker, kafka_version
from agents.children import Children
from benchmarks import workload
from benchmarks.core import Core
from benchmarks.load import STALLED_SECONDS, LoadFailed, Reader, publish, publish_on_schedule
from benchmarks.results import Findings, Row, cores, percentile, row
from benchmarks.tally import Tally, signal_of, tally

CANDIDATES, CUSTOMERS, PARTITIONS = 100, 2_000, 8
LOAD = 0.3
"""The fixed rate of the latency part, as a share of the engine's throughput in the first trial."""
WARM_UP = 0.1
"""This share of a part's signals, the first ones, counts for nothing but the tally."""
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
_WATCH_SECONDS = 0.05
_LEAD_SECONDS = 2.0
_STOP_SECONDS = 30.0


class Sizes(NamedTuple):
    """How much is measured: signals waiting on the topic, and seconds at the fixed rate, per trial."""

    repetitions: int
    waiting: int
    seconds: int


FULL, QUICK, WARMING = Sizes(3, 20_000, 30), Sizes(2, 8_000, 10), Sizes(1, 4_000, 2)


class Subject(NamedTuple):
    """What is measured. `command`: from the prefix of its topics to what is run."""

    name: str
    command: Callable[[str], list[str]]


class Bench(NamedTuple):
    """What trials share. `publisher`: one more process."""

    bootstrap: str
    children: Children
    publisher: Executor


class CaughtUp(NamedTuple):
    """Signals per second of a subject that always had more to do, and its CPU seconds per 100,000 signals."""

    per_second: float
    cpu_seconds: float


class Paced(NamedTuple):
    """At a fixed rate: milliseconds from scheduled to read, ordered; CPU seconds per 100,000 signals.

    `generator_ms`: how late the generator itself was, p99.
    """

    latencies_ms: list[float]
    cpu_seconds: float
    generator_ms: float


class Trial(NamedTuple):
    """What one life of a subject gave."""

    caught_up: CaughtUp
    rate: float
    paced: Paced
    decision_bytes: int
    tally: Tally


def measure(*, quick: bool) -> Findings:
    """Rows of engine and bare loop; a fault for every trial in which a decision was lost, changed or doubled.

    Raises `LoadFailed` when nothing can be measured, `BrokerUnavailable` without Apache Kafka.
    """
    sizes = QUICK if quick else FULL
    if not Path("/proc/self/stat").exists():
        raise LoadFailed("CPU time of the subjects is read from /proc, which this system does not have; use Linux")
    with (
        KafkaBroker(jvm=MEASURED_JVM) as broker,
        tempfile.TemporaryDirectory() as directory,
        closing(Children()) as children,
        ProcessPoolExecutor(1, get_context("spawn")) as publisher,
    ):
        bench = Bench(broker.bootstrap, children, publisher)
        engine, loop = engine_worker(broker.bootstrap, Path(directory)), bare_loop(broker.bootstrap)
        run_trial(loop, "warming.", WARMING, bench, rate=500)
        pairs: list[tuple[Trial, Trial]] = []
        for number in range(sizes.repetitions):
            rate = pairs[0][0].rate if pairs else None
            first = run_trial(engine, f"engine-{number}.", sizes, bench, rate)
            pairs.append((first, run_trial(loop, f"loop-{number}.", sizes, bench, first.rate)))
    return Findings(tuple(_rows(pairs, sizes)), tuple(_faults(pairs)))


# --- Subjects ---


def engine_worker(bootstrap: str, directory: Path) -> Subject:
    """A worker as users start it."""

    def command(prefix: str) -> list[str]:
        config = directory / prefix
        config.mkdir()
        workload.write_config(config, CANDIDATES, prefix=prefix, partitions=PARTITIONS)
        worker = ["-m", "agents", "up", str(config), "--bootstrap", bootstrap, "--web-port", "0"]
        return ["env", f"BATUTA_GROUP={prefix}engine", sys.executable, *worker]

    return Subject("engine", command)


def bare_loop(bootstrap: str) -> Subject:
    """The reference, told to answer with as many bytes as the engine."""
    decisions = Core(CANDIDATES, CUSTOMERS).feed(workload.signals(500, CUSTOMERS, "size"))
    size = str(workload.mean_size(decisions))
    return Subject("bare-loop", lambda prefix: [sys.executable, "-m", "benchmarks.bare_loop", bootstrap, prefix, size])


# --- A trial ---


def run_trial(subject: Subject, prefix: str, sizes: Sizes, bench: Bench, rate: float | None) -> Trial:
    """One life of a subject on topics of its own; without `rate`, `LOAD` of the throughput found.

    Raises `LoadFailed` when the subject ends, stalls or does not stop when told to.
    """
    asyncio.run(_create_topics(bench.bootstrap, prefix))
    waiting = workload.signals(sizes.waiting, CUSTOMERS, "waiting")
    publish(bench.bootstrap, f"{prefix}signals", [*workload.introductions(CUSTOMERS), *waiting])
    reader = Reader(bench.bootstrap, f"{prefix}decisions", PARTITIONS)
    name = f"{prefix}{subject.name}"
    bench.children.start(name, subject.command(prefix))
    with closing(reader):
        caught_up, values = _catch_up(name, reader, sizes.waiting, bench)
        rate = rate or round(LOAD * caught_up.per_second, -1)
        paced, more = _keep_pace(name, prefix, reader, sizes.seconds, rate, bench)
        _stop(name, bench)
        values += more + [each.value for each in reader.read(reader.count() - len(values) - len(more), monotonic() + 5)]
    asked = [f"waiting-{at}" for at in range(sizes.waiting)]
    asked += [f"paced-{at}" for at in range(int(rate * sizes.seconds))]
    return Trial(caught_up, rate, paced, workload.mean_size(values), tally(asked, values))


async def _create_topics(bootstrap: str, prefix: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await topics.ensure(admin, topics.TOPICS, prefix, PARTITIONS, apply=True)
    finally:
        await admin.close()


def _catch_up(name: str, reader: Reader, count: int, bench: Bench) -> tuple[CaughtUp, list[bytes]]:
    """Let the subject work off what waits. Nobody reads meanwhile: only the broker is asked how far it is."""
    warm, pid = int(WARM_UP * count), bench.children.pid(name)
    begun = _wait_for(warm, name, reader, bench)
    cpu = cpu_seconds(pid)
    ended = _wait_for(count, name, reader, bench)
    cpu = cpu_seconds(pid) - cpu
    if ended == begun:
        raise LoadFailed(f"{name} was done with {count} signals before its CPU time could be read; let more wait")
    answers = reader.read(ended, monotonic() + STALLED_SECONDS)
    sent_ms = sorted(each.sent_ms for each in answers)
    per_second = (len(sent_ms) - 1 - warm) / (sent_ms[-1] - sent_ms[warm]) * 1000
    return CaughtUp(per_second, cpu / (ended - begun) * 100_000), [each.value for each in answers]


def _wait_for(count: int, name: str, reader: Reader, bench: Bench) -> int:
    """Wait until so many decisions are there; returns how many there are by then."""
    seen, since = -1, monotonic()
    while (there := reader.count()) < count:
        if there > seen:
            seen, since = there, monotonic()
        if not bench.children.alive(name) or monotonic() - since > STALLED_SECONDS:
            raise LoadFailed(f"{name} gave {there} of {count} decisions. It said: {bench.children.last_words(name)}")
        sleep(_WATCH_SECONDS)
    return there


def _keep_pace(
    name: str, prefix: str, reader: Reader, seconds: int, rate: float, bench: Bench
) -> tuple[Paced, list[bytes]]:
    """Let signals come at a fixed rate, and read each decision as it comes out."""
    count = int(rate * seconds)
    messages = workload.signals(count, CUSTOMERS, "paced")
    start = monotonic() + _LEAD_SECONDS
    late = bench.publisher.submit(publish_on_schedule, bench.bootstrap, f"{prefix}signals", messages, start, rate)
    sleep(start - monotonic())
    cpu = cpu_seconds(bench.children.pid(name))
    answers = reader.read(count, start + seconds + STALLED_SECONDS)
    cpu = cpu_seconds(bench.children.pid(name)) - cpu
    warm = int(WARM_UP * count)
    taken = {at: each.seen - start - at / rate for each in answers if (at := _number(each.value)) >= warm}
    if not taken:
        raise LoadFailed(f"{name} answered no signal. It said: {bench.children.last_words(name)}")
    latencies_ms = sorted(1000 * each for each in taken.values())
    generator_ms = 1000 * percentile(sorted(late.result()[warm:]), 0.99)
    return Paced(latencies_ms, cpu / len(answers) * 100_000, generator_ms), [each.value for each in answers]


def _number(decision: bytes) -> int:
    """The number of the signal that a decision answers."""
    return int(signal_of(decision).rpartition("-")[2])


def _stop(name: str, bench: Bench) -> None:
    """Stop the subject as an operator would; it has to end in order."""
    os.kill(bench.children.pid(name), signal.SIGTERM)
    status = bench.children.wait(name, _STOP_SECONDS)
    if status != 0:
        raise LoadFailed(f"{name} ended with status {status}. It said: {bench.children.last_words(name)}")


def cpu_seconds(pid: int) -> float:
    """CPU time a process and its threads have used so far, as Linux tells it (proc(5), `/proc/pid/stat`)."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- What it comes to ---


def _faults(pairs: Sequence[tuple[Trial, Trial]]) -> Iterator[str]:
    for number, pair in enumerate(pairs, 1):
        for name, trial in zip(("engine", "bare loop"), pair, strict=True):
            if trial.tally.faults is not None:
                yield f"stream, {name}, trial {number}: {trial.tally.faults}"


def _rows(pairs: Sequence[tuple[Trial, Trial]], sizes: Sizes) -> Iterator[Row]:
    engine, loop = pairs[0]
    shared = (
        f"{CANDIDATES} candidates, {CUSTOMERS} customers, {PARTITIONS} partitions; a decision has "
        f"{engine.decision_bytes} bytes, of the bare loop, whose state is in memory only, {loop.decision_bytes}; Kafka "
        f"{kafka_version()}, one node, java {' '.join(MEASURED_JVM)}; {len(pairs)} turns, ratio: engine over bare loop"
    )
    waiting = f"{shared}; {sizes.waiting} signals waiting; on {cores()} cores: broker and subject, nothing else"
    yield from _compared("stream.throughput", "signals/s", pairs, lambda trial: trial.caught_up.per_second, waiting)
    cpu = f"{waiting}; CPU of the subject's process alone"
    yield from _compared("stream.cpu-per-100k", "CPU s", pairs, lambda trial: trial.caught_up.cpu_seconds, cpu)
    late = max(trial.paced.generator_ms for pair in pairs for trial in pair)
    paced = (
        f"{shared}; {pairs[0][0].rate:.0f} signals/s for {sizes.seconds} s; on {cores()} cores: broker, subject, "
        f"publisher and reader"
    )
    cpu = f"{paced}; CPU of the subject's process alone"
    yield from _compared("stream.cpu-per-100k-paced", "CPU s", pairs, lambda trial: trial.paced.cpu_seconds, cpu)
    read = f"{paced}; from scheduled to read; the publisher itself was {late:.2f} ms late (p99, its worst trial)"
    for name, share in PERCENTILES.items():
        yield from _compared(f"stream.latency-{name}", "ms", pairs, _at(share), read)
    yield from _counted(pairs)


def _at(share: float) -> Callable[[Trial], float]:
    return lambda trial: percentile(trial.paced.latencies_ms, share)


def _compared(
    metric: str, unit: str, pairs: Sequence[tuple[Trial, Trial]], read: Callable[[Trial], float], detail: str
) -> Iterator[Row]:
    """The engine's number, the bare loop's, and the one over the other, turn by turn."""
    yield row(f"{metric}.engine", [read(engine) for engine, _ in pairs], unit, detail=detail)
    yield row(f"{metric}.bare-loop", [read(loop) for _, loop in pairs], unit, detail=detail)
    yield row(f"{metric}.ratio", [read(engine) / read(loop) for engine, loop in pairs], "ratio", detail=detail)


def _counted(pairs: Sequence[tuple[Trial, Trial]]) -> Iterator[Row]:
    """What the engine did to its signals in all trials together; a median would hide the one that went wrong."""
    tallies = [engine.tally for engine, _ in pairs]
    detail = f"of {sum(each.signals for each in tallies)} signals, each of which must have one decision, counted by id"
    for name in ("lost", "changed", "conflicting", "unasked"):
        total = sum(getattr(each, name) for each in tallies)
        yield row(f"stream.{name}", [total], "decisions", target="== 0", detail=detail)
    repeated = sum(each.repeated for each in tallies)
    yield row("stream.repeated", [repeated], "decisions", detail=f"{detail}; came again with the same id and content")
