"""One life of a subject on Kafka: it catches up with what waits, then keeps pace with fixed rates, and is told to stop.

Signals wait on the topic, the subject starts and works them off (throughput, CPU, bytes); then signals keep coming on
a schedule fixed in advance, rate after rate (latency, CPU). Every decision is read back and counted by id.
`benchmarks.side_by_side` has subjects take turns.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient

from agents import topics
from agents.children import Children
from benchmarks import probe, workload
from benchmarks.latencies import Latencies
from benchmarks.load import STALLED_SECONDS, LoadFailed, Reader, publish, publish_on_schedule
from benchmarks.results import percentile
from benchmarks.tally import Tally, signal_of, tally

CUSTOMERS, PARTITIONS = 2_000, 8
WARM_UP = 0.1
"""This share of a part's signals, the first ones, counts for nothing but the tally."""
_WATCH_SECONDS = 0.02
_LEAD_SECONDS = 2.0
_STOP_SECONDS = 60.0

Rates = Callable[[float], Mapping[str, float]]
"""From the signals per second a subject managed to the rates it is to keep pace with, by the name of the part."""


class Subject(NamedTuple):
    """What is measured. `command`: from the prefix of its topics to what is run.

    `port`: where it tells of its stages; 0: nowhere.
    """

    name: str
    command: Callable[[str], list[str]]
    port: int = 0


class Bench(NamedTuple):
    """What trials share. `publisher`: one more process. `data`: where the broker keeps its logs, if that is known."""

    bootstrap: str
    children: Children
    publisher: Executor
    data: Path | None = None


class Sizes(NamedTuple):
    """How much is measured: signals waiting on the topic, and seconds at every rate."""

    waiting: int
    seconds: int


class CaughtUp(NamedTuple):
    """Of a subject that always had more to do: signals per second, and per 100,000 signals CPU seconds and megabytes.

    `megabytes`: of all its topics' logs but the one it reads; NaN when the broker's directory is not known.
    """

    per_second: float
    cpu_seconds: float
    megabytes: float


class Paced(NamedTuple):
    """At a fixed rate: latencies from scheduled to read, and CPU seconds per 100,000 signals.

    `generator_ms`: how late the generator itself was, p99. `stages_ms`: what the subject says of its own part of a
    signal's way, mean by stage.
    """

    rate: float
    latencies: Latencies
    cpu_seconds: float
    generator_ms: float
    stages_ms: Mapping[str, float]


class Trial(NamedTuple):
    """What one life of a subject gave. `load`: the machine's load average of the last minute, at its end."""

    caught_up: CaughtUp
    paced: Mapping[str, Paced]
    decision_bytes: int
    tally: Tally
    load: float


def run_trial(
    subject: Subject, prefix: str, sizes: Sizes, bench: Bench, rates: Rates, reading: type[Reader] = Reader
) -> Trial:
    """One life of a subject on topics of its own; `reading`: how its decisions are read.

    Raises `LoadFailed` when the subject ends, stalls or does not stop when told to.
    """
    asyncio.run(create_topics(bench.bootstrap, prefix))
    waiting = workload.signals(sizes.waiting, CUSTOMERS, "waiting")
    publish(bench.bootstrap, f"{prefix}signals", [*workload.introductions(CUSTOMERS), *waiting])
    reader = reading(bench.bootstrap, f"{prefix}decisions", PARTITIONS)
    name = f"{prefix}{subject.name}"
    bench.children.start(name, subject.command(prefix))
    asked = [f"waiting-{at}" for at in range(sizes.waiting)]
    try:
        caught_up, values = _catch_up(name, prefix, reader, sizes.waiting, bench)
        paced: dict[str, Paced] = {}
        for part, rate in rates(caught_up.per_second).items():
            paced[part], more = _keep_pace(name, prefix, reader, sizes.seconds, part, rate, bench, subject.port)
            values += more
            asked += [f"{part}-{at}" for at in range(int(rate * sizes.seconds))]
        stop(name, bench)
        values += [each.value for each in reader.read(reader.count() - len(values), monotonic() + 5)]
    finally:
        reader.close()
    return Trial(caught_up, paced, workload.mean_size(values), tally(asked, values), os.getloadavg()[0])


async def create_topics(bootstrap: str, prefix: str) -> None:
    """Create the engine's topics; all subjects use them, as far as they have a use for them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await topics.ensure(admin, topics.TOPICS, prefix, PARTITIONS, apply=True)
    finally:
        await admin.close()


def _catch_up(name: str, prefix: str, reader: Reader, count: int, bench: Bench) -> tuple[CaughtUp, list[bytes]]:
    """Let the subject work off what waits. Nobody reads meanwhile: only the broker is asked how far it is."""
    pid = bench.children.pid(name)
    begun = wait_for(int(WARM_UP * count), name, reader, bench)
    cpu, started = cpu_seconds(pid), monotonic()
    ended = wait_for(count, name, reader, bench)
    cpu, seconds = cpu_seconds(pid) - cpu, monotonic() - started
    if ended == begun:
        raise LoadFailed(f"{name} was done with {count} signals before its CPU time could be read; let more wait")
    # Not by the records' timestamps: some subjects pass on those of the signals.
    caught_up = CaughtUp(
        per_second=(ended - begun) / seconds,
        cpu_seconds=cpu / (ended - begun) * 100_000,
        megabytes=_written(prefix, bench) / (count + 2 * CUSTOMERS) * 100_000 / 1e6,
    )
    return caught_up, [each.value for each in reader.read(ended, monotonic() + STALLED_SECONDS)]


def wait_for(count: int, name: str, reader: Reader, bench: Bench) -> int:
    """Wait until so many decisions are there; returns how many there are by then."""
    seen, since = -1, monotonic()
    while (there := reader.count()) < count:
        if there > seen:
            seen, since = there, monotonic()
        if not bench.children.alive(name) or monotonic() - since > STALLED_SECONDS:
            raise LoadFailed(f"{name} gave {there} of {count} decisions. It said: {bench.children.last_words(name)}")
        sleep(_WATCH_SECONDS)
    return there


def _written(prefix: str, bench: Bench) -> float:
    """Bytes in the logs of a subject's topics, whatever it named them, but for the topic it reads."""
    if bench.data is None:
        return float("nan")
    logs = bench.data.glob(f"*{prefix}*/*.log")
    return sum(log.stat().st_size for log in logs if not log.parent.name.startswith(f"{prefix}signals-"))


def _keep_pace(
    name: str, prefix: str, reader: Reader, seconds: int, part: str, rate: float, bench: Bench, port: int
) -> tuple[Paced, list[bytes]]:
    """Let signals come at a fixed rate, and read each decision as it comes out."""
    count = int(rate * seconds)
    messages = workload.signals(count, CUSTOMERS, part)
    # What came before is on disk first: else it is written back meanwhile, beside whoever is measured next.
    os.sync()
    start = monotonic() + _LEAD_SECONDS
    late = bench.publisher.submit(publish_on_schedule, bench.bootstrap, f"{prefix}signals", messages, start, rate)
    told = _told(port)
    sleep(start - monotonic())
    cpu = cpu_seconds(bench.children.pid(name))
    answers = reader.read(count, start + seconds + STALLED_SECONDS)
    cpu = cpu_seconds(bench.children.pid(name)) - cpu
    warm = int(WARM_UP * count)
    taken = {at: each.seen - start - at / rate for each in answers if (at := _number(each.value, part)) >= warm}
    if not taken:
        raise LoadFailed(f"{name} answered no signal. It said: {bench.children.last_words(name)}")
    generator_ms = 1000 * percentile(sorted(late.result()[warm:]), 0.99)
    latencies, cpu = Latencies.of(taken.values()), cpu / len(answers) * 100_000
    paced = Paced(rate, latencies, cpu, generator_ms, _stages_ms(told, _told(port)))
    return paced, [each.value for each in answers]


def _told(port: int) -> dict[str, tuple[float, float]]:
    """What a worker says of its stages: seconds and how often, so far."""
    if not port:
        return {}
    decided = probe.sums(port, "batuta_decision_seconds").get("", (0.0, 0.0))
    return {**probe.sums(port, "batuta_stage_seconds"), "decided": decided}


def _stages_ms(before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Mean milliseconds of each stage between two looks."""
    means = {}
    for stage, (seconds, times) in after.items():
        seconds_before, times_before = before.get(stage, (0.0, 0.0))
        if times > times_before:
            means[stage] = 1000 * (seconds - seconds_before) / (times - times_before)
    return means


def _number(decision: bytes, part: str) -> int:
    """The number of the signal that a decision answers; -1 when it is of another part."""
    named, _, number = signal_of(decision).rpartition("-")
    return int(number) if named == part else -1


def stop(name: str, bench: Bench) -> None:
    """Stop the subject as an operator would; it has to end in order."""
    os.kill(bench.children.pid(name), signal.SIGTERM)
    status = bench.children.wait(name, _STOP_SECONDS)
    if status != 0:
        raise LoadFailed(f"{name} ended with status {status}. It said: {bench.children.last_words(name)}")


def cpu_seconds(pid: int) -> float:
    """CPU time a process and its threads have used so far, as Linux tells it (proc(5), `/proc/pid/stat`)."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
