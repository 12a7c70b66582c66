"""Growth beyond one table: up to a million customers, and a second worker.

Customers are in the tables of as many partitions as a worker has, all with profiles alike, so that nothing differs but
how many there are. Signals are of customers drawn evenly: of a million hardly any was touched before. All sizes take
turns, and the slope is that of the straight line through the medians over the logarithm of the size.

Workers share the partitions of one topic on Apache Kafka, and the same signals: first as many as they can take, then a
rate that one alone bears. What counts is the CPU time of all of them together, per signal: more workers must not make
a signal dearer.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import NamedTuple

import numpy as np

from agents.broker import MEASURED_JVM, KafkaBroker, kafka_version
from agents.children import Children
from agents.decisioning import TABLES, engine_of
from agents.tables import changelogs
from benchmarks import load, probe, recovery, stream, subjects, workload
from benchmarks.core import START_MS, Costs, Sizes, over, take_turns
from benchmarks.load import STALLED_SECONDS, LoadFailed, Reader
from benchmarks.results import Findings, Row, cores, row
from benchmarks.stream import CUSTOMERS, PARTITIONS, WARM_UP, Bench
from benchmarks.tally import tally
from benchmarks.workload import Message
from engine.murmur import partition_of
from engine.record import Record
from models.baseline import PriorScorer

LEAST, MOST = 1_000, 1_000_000
BATCH = 100
"""Signals between two changelog writes of a partition, and until they are committed."""
PACE = 0.4
"""The common rate over what one worker manages."""
_READY_SECONDS = 120.0
_POLL_SECONDS = 0.02
_SETTLE_SECONDS, _IDLE_SECONDS = 1.0, 4.0
_CUSTOMERS_BOUND, _WORKERS_BOUND = "<= 1.25", "<= 1.25"


class Form(NamedTuple):
    """How much is measured. `crowds`: numbers of customers; `turns`, `waiting`, `seconds`: of workers."""

    crowds: Sequence[int]
    sizes: Sizes
    turns: int
    waiting: int
    seconds: int


FULL = Form((LEAST, 10_000, 100_000, MOST), Sizes(0, 9, 300), 3, 30_000, 20)
QUICK = Form((LEAST, 20_000), Sizes(0, 5, 200), 1, 8_000, 6)


def measure(*, quick: bool) -> Findings:
    """Rows of both; a fault for every life of workers that lost, changed or doubled a decision.

    Raises `LoadFailed` when nothing can be measured, `BrokerUnavailable` without Apache Kafka.
    """
    form = QUICK if quick else FULL
    customers = [*measure_customers(form)]
    workers = measure_workers(form)
    return Findings((*customers, *workers.rows), workers.faults)


# --- Customers ---


class Crowd:
    """The partitions of one worker, full of customers, without the broker."""

    def __init__(self, customers: int, alike: Sequence[bytes]) -> None:
        repertoire = workload.load(subjects.CANDIDATES, partitions=PARTITIONS)
        self._engine = engine_of(repertoire, PriorScorer(repertoire))
        made = [changelogs(TABLES) for _ in range(PARTITIONS)]
        self._logs = [log for _, logs in made for log in logs]
        self._committed: list[dict[str, int]] = [{} for _ in made]
        pairs = zip(made, self._committed, strict=True)
        self._states = [self._engine.state(**tables, committed=committed) for (tables, _), committed in pairs]
        self._offset = 0
        gc.disable()
        for customer, value in recovery.profiles(customers, alike):
            # The workload gives numbers six digits.
            name = f"customer-{int(customer.removeprefix('customer-')):06d}"
            made[partition_of(name, PARTITIONS)][0]["profiles"].load(name, value)
        gc.enable()

    def feed(self, messages: Sequence[Message]) -> list[bytes]:
        """Handle signals as a worker does, but for the broker; returns the decisions they caused."""
        decisions: list[bytes] = []
        for at in range(0, len(messages), BATCH):
            for message in messages[at : at + BATCH]:
                number = partition_of(message.key.decode(), PARTITIONS)
                record = Record("signals", number, self._offset, _LATER_MS + self._offset, message.key, message.value)
                effects = self._engine.handle(record, self._states[number])
                decisions += [each.value for each in effects.outputs if each.topic == "decisions"]
                self._offset += 1
            for log in self._logs:
                log.flush()
            for committed in self._committed:
                committed["signals"] = self._offset
        return decisions


_LATER_MS = START_MS + 7 * 86_400_000
"""After everything the profiles have seen."""


def measure_customers(form: Form) -> Iterator[Row]:
    """Cost per signal by the number of customers."""
    alike = recovery.alone(recovery.patterns)
    crowds = {count: Crowd(count, alike) for count in form.crowds}
    turns = take_turns({str(each): crowds[each] for each in crowds}, form.sizes, {str(each): each for each in crowds})
    costs = {count: turns[str(count)] for count in crowds}
    medians = ", ".join(f"{count:,}: {median(each):.0f}" for count, each in costs.items())
    detail = (
        f"µs of CPU per signal by customers, in the tables of {PARTITIONS} partitions, drawn evenly: {medians}; "
        f"profiles of {workload.mean_size(alike)} bytes, read, changed and encoded again; {form.sizes.batches} batches "
        f"of {form.sizes.batch} signals for each"
    )
    most, least = form.crowds[-1], form.crowds[0]
    target = _CUSTOMERS_BOUND if (most, least) == (MOST, LEAST) else ""
    yield row(f"growth.{most}-over-{least}-customers", over(costs, most, least), "ratio", target=target, detail=detail)
    yield row("growth.customers.slope", [slope_per_tenfold(costs)], "µs per tenfold", detail=detail)


def slope_per_tenfold(costs: Costs) -> float:
    """Rise of the straight line through the medians, each time the size is ten times as large."""
    sizes = [math.log10(each) for each in costs]
    return float(np.polyfit(sizes, [median(each) for each in costs.values()], 1)[0])


# --- Workers ---


class Spent(NamedTuple):
    """What some workers did: signals per second while more waited, and µs of CPU per signal, waiting and paced.

    `idle`: ms of CPU a second, of each of them, with nothing to do.
    """

    per_second: float
    waiting: float
    idle: float
    paced: float
    faults: str | None


def measure_workers(form: Form) -> Findings:
    """CPU per signal of two workers together over that of one."""
    turns: list[Mapping[int, Spent]] = []
    with (
        tempfile.TemporaryDirectory() as directory,
        KafkaBroker(jvm=MEASURED_JVM) as broker,
        closing(Children()) as children,
        ProcessPoolExecutor(1, get_context("spawn")) as publisher,
    ):
        bench = Bench(broker.bootstrap, children, publisher)
        rate = PACE * work("warming", 1, form._replace(seconds=2), bench, Path(directory), 100.0).per_second
        for turn in range(form.turns):
            order = (1, 2) if turn % 2 == 0 else (2, 1)
            turns.append({count: work(f"{turn}-{count}", count, form, bench, Path(directory), rate) for count in order})
    faults = [
        f"growth, {count} workers: {each.faults}" for turn in turns for count, each in turn.items() if each.faults
    ]
    return Findings((*_workers_rows(turns, rate, form),), tuple(faults))


def work(name: str, count: int, form: Form, bench: Bench, directory: Path, rate: float) -> Spent:
    """So many workers on topics of their own, from the first signal to the last."""
    prefix, config = f"growth-{name}.", directory / name
    config.mkdir()
    workload.write_config(config, subjects.CANDIDATES, prefix=prefix, partitions=PARTITIONS)
    asyncio.run(stream.create_topics(bench.bootstrap, prefix))
    load.publish(bench.bootstrap, f"{prefix}signals", workload.introductions(CUSTOMERS))
    workers = {f"{prefix}worker-{number}": probe.free_port() for number in range(count)}
    for worker, port in workers.items():
        settings = [f"BATUTA_GROUP={prefix}engine"]
        bench.children.start(worker, subjects.worker(config, bench.bootstrap, settings, port))
    reader = Reader(bench.bootstrap, f"{prefix}decisions", PARTITIONS)
    try:
        team = _Team(workers, reader, bench)
        team.wait(team.is_whole, _READY_SECONDS)
        per_second, waiting = _work_off(team, f"{prefix}signals", form.waiting)
        idle = _rest(team) / count
        paced = _keep_pace(team, f"{prefix}signals", rate, form)
        for worker in workers:
            stream.stop(worker, bench)
        there = reader.read(reader.count(), monotonic() + STALLED_SECONDS)
    finally:
        reader.close()
    asked = [f"{part}-{at}" for part, signals in (("waiting", form.waiting), ("paced", int(rate * form.seconds)))
             for at in range(signals)]  # fmt: skip
    return Spent(per_second, waiting, idle, paced, tally(asked, [each.value for each in there]).faults)


class _Team:
    """Workers of one group by name, with their web ports."""

    def __init__(self, ports: Mapping[str, int], reader: Reader, bench: Bench) -> None:
        self._ports, self._reader, self.bench = ports, reader, bench

    def is_whole(self) -> bool:
        """Whether every worker serves as many partitions as the others."""
        pages = [probe.page(port, "/readyz") for port in self._ports.values()]
        served = [len(json.loads(page)["partitions"]) for page in pages if page is not None]
        return served == [PARTITIONS // len(self._ports)] * len(self._ports)

    def cpu_seconds(self) -> float:
        """CPU time all of them have used."""
        return sum(stream.cpu_seconds(self.bench.children.pid(worker)) for worker in self._ports)

    def decided(self) -> int:
        """Decisions on the topic."""
        return self._reader.count()

    def wait(self, promise: Callable[[], bool], seconds: float) -> None:
        """Wait until a promise comes true. LoadFailed when it does not in time, or a worker ends."""
        deadline = monotonic() + seconds
        while not promise():
            if monotonic() > deadline or not all(map(self.bench.children.alive, self._ports)):
                said = "; ".join(map(self.bench.children.last_words, self._ports))
                raise LoadFailed(f"{', '.join(self._ports)}: {promise.__name__} is not so. They said: {said}")
            sleep(_POLL_SECONDS)

    def wait_decided(self, count: int) -> None:
        """Wait for so many decisions on the topic."""

        def enough_is_decided() -> bool:
            return self.decided() >= count

        self.wait(enough_is_decided, STALLED_SECONDS + count / 100)


def _work_off(team: _Team, topic: str, count: int) -> tuple[float, float]:
    """Signals per second while there is always more to do, and µs of CPU per signal."""
    before, messages = team.decided(), workload.signals(count, CUSTOMERS, "waiting")
    published = team.bench.publisher.submit(load.publish, team.bench.bootstrap, topic, messages)
    team.wait_decided(before + int(WARM_UP * count))
    begun, started, cpu = team.decided(), monotonic(), team.cpu_seconds()
    team.wait_decided(before + count)
    signals, seconds, used = team.decided() - begun, monotonic() - started, team.cpu_seconds() - cpu
    published.result()
    if not signals:
        raise LoadFailed(f"{count} signals were decided before their CPU time could be read; let there be more")
    return signals / seconds, used / signals * 1e6


def _rest(team: _Team) -> float:
    """ms of CPU a second while nothing comes."""
    sleep(_SETTLE_SECONDS)
    cpu, started = team.cpu_seconds(), monotonic()
    sleep(_IDLE_SECONDS)
    return (team.cpu_seconds() - cpu) / (monotonic() - started) * 1e3


def _keep_pace(team: _Team, topic: str, rate: float, form: Form) -> float:
    """µs of CPU per signal at a fixed rate."""
    before, count = team.decided(), int(rate * form.seconds)
    messages = workload.signals(count, CUSTOMERS, "paced")
    cpu = team.cpu_seconds()
    on_schedule = load.publish_on_schedule
    team.bench.publisher.submit(on_schedule, team.bench.bootstrap, topic, messages, monotonic() + 0.5, rate).result()
    team.wait_decided(before + count)
    return (team.cpu_seconds() - cpu) / count * 1e6


def _workers_rows(turns: Sequence[Mapping[int, Spent]], rate: float, form: Form) -> Iterator[Row]:
    shared = (
        f"{subjects.CANDIDATES} candidates, {CUSTOMERS} customers, {PARTITIONS} partitions; Kafka {kafka_version()}, "
        f"one node, publisher and workers on the same {cores()} cores; {len(turns)} turns; CPU of all workers together"
    )
    kinds: Mapping[str, tuple[str, Callable[[Spent], float]]] = {
        "waiting": (f"{form.waiting} signals at once", lambda spent: spent.waiting),
        "paced": (f"{rate:.0f} signals/s for {form.seconds} s", lambda spent: spent.paced),
    }
    for name, (what, read) in kinds.items():
        one, two = ([read(turn[count]) for turn in turns] for count in (1, 2))
        detail = f"{shared}; {what}; µs per signal: {median(one):.0f} of one worker, {median(two):.0f} of two"
        ratios = [each / alone for alone, each in zip(one, two, strict=True)]
        yield row(f"growth.2-over-1-workers.{name}", ratios, "ratio", target=_WORKERS_BOUND, detail=detail)
        yield row(f"growth.workers.slope.{name}", [median(two) - median(one)], "µs per worker", detail=detail)
    idle = [each.idle for turn in turns for each in turn.values()]
    yield row("growth.idle-worker", idle, "ms of CPU per s", detail=f"{shared}; of each worker, with nothing to do")
    more = [turn[2].per_second / turn[1].per_second for turn in turns]
    yield row("growth.2-over-1-workers.throughput", more, "ratio", detail=f"{shared}; signals per second")
