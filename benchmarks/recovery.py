"""`python -m benchmarks.recovery`: how long a worker takes until it is ready, and what its state costs it.

    python -m benchmarks.recovery

Profiles of usual size stand on the changelog; a worker is started as users start it, with its state in memory, with
an empty local copy, and with the copy of the life before. In the same run a bare aiokafka loop reads the same
changelog and keeps nothing: no client in Python takes less. Then one of two workers is killed, and the other takes its
half over: without a standby, and with one in memory and on disk. Then, in process, the longest time the event loop is
not free, with few profiles and with many. `QUICK=1`: fewer profiles. Writes `benchmarks/results/recovery.json` and
`.md`. Exit code 1 when a profile is missing, 3 when Kafka cannot be started.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from time import monotonic, sleep, thread_time
from typing import Any, NamedTuple, TypeVar

import aiokafka
import msgspec
import uvloop
from confluent_kafka import Producer

from agents.broker import MEASURED_JVM, BrokerUnavailable, KafkaBroker, kafka_version
from agents.children import Children
from agents.decisioning import TABLES, PartitionState, engine_of
from agents.journal import EPOCH_HEADER
from agents.partitions import Engine
from agents.tables import Changelog, changelogs
from benchmarks import subjects, workload
from benchmarks.load import LoadFailed
from benchmarks.probe import free_port, is_ready, page, resident, total
from benchmarks.results import Findings, Row, begin, complete, cores, figure, row, write
from benchmarks.stream import PARTITIONS, create_topics
from engine.murmur import partition_of
from engine.profile import decode_profile, encode_profile
from engine.record import Record
from models.baseline import PriorScorer

CANDIDATES = 100
PROFILES, QUICK_PROFILES = (10_000, 100_000, 1_000_000), (10_000, 100_000)
PATTERNS = 400
"""Different profiles; the others are like one of them under another name."""
SIGNALS_EACH = 8
"""Signals a customer has given, on average."""
REPETITIONS = 3
ONCE = 1_000_000
"""So many profiles are restored once in each way: one turn takes minutes."""
FEW, MANY = 1_000, 200_000
STALL_SIGNALS = 6_000
BATCH = 100
SLICE_SECONDS = 0.004
START_MS = 1_790_000_000_000
_READY_SECONDS = 300.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.02
_KEPT_RECORDS = 5_000
HEIRS = {
    "no-standby": (),
    "standby": ("BATUTA_STANDBY_REPLICAS=1",),
    "standby-rocksdb": ("BATUTA_STANDBY_REPLICAS=1", "BATUTA_STORE=rocksdb"),
}
"""Settings of two workers of which one is killed."""
_QUICK_TO_NOTICE = ("BATUTA_SESSION_TIMEOUT_SECONDS=4", "BATUTA_HEARTBEAT_SECONDS=0.5")
DONE, WRONG, NO_BROKER = 0, 1, 3

T = TypeVar("T")


class Life(NamedTuple):
    """One start of a worker. `ready`: seconds until it served; `restoring`: of these, until it had its state.

    `memory`: bytes resident once it was ready. `profiles`: how many it had.
    """

    ready: float
    restoring: float
    memory: int
    profiles: int


class Kind(NamedTuple):
    """Where a worker keeps its state."""

    name: str
    environment: tuple[str, ...]


# --- The state ---


def patterns() -> list[bytes]:
    """Encoded profiles of customers who have given some signals and were decided for, with nothing left to send."""
    repertoire = workload.load(CANDIDATES)
    engine = engine_of(repertoire, PriorScorer(repertoire))
    tables, _ = changelogs(TABLES)
    state = engine.state(**tables, committed={})
    messages = [
        *workload.introductions(PATTERNS),
        *workload.signals(PATTERNS * SIGNALS_EACH, PATTERNS, "pattern"),
    ]
    for at, message in enumerate(messages):
        engine.handle(Record("signals", 0, at, START_MS + at * 60_000, message.key, message.value), state)
    return [encode_profile(msgspec.structs.replace(each, outbox=[])) for each in tables["profiles"].values()]


def profiles(count: int, alike: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """Customers and their encoded profiles."""
    decoded = [decode_profile(each) for each in alike]
    for number in range(count):
        profile = decoded[number % len(decoded)]
        profile.customer_id = f"customer-{number:07d}"
        yield profile.customer_id, encode_profile(profile)


def publish(bootstrap: str, prefix: str, count: int, alike: Sequence[bytes]) -> int:
    """Put profiles on the changelog, as a worker would have; returns the bytes of their values."""
    asyncio.run(create_topics(bootstrap, prefix))
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 20,
            "queue.buffering.max.messages": 200_000,
            "queue.buffering.max.kbytes": 524_288,
            "enable.idempotence": True,
        }
    )
    topic, total = f"{prefix}profiles", 0
    headers: list[tuple[str, str | bytes | None]] = [(EPOCH_HEADER, b"1")]
    for customer, value in profiles(count, alike):
        total += len(value)
        while True:
            try:
                at = partition_of(customer, PARTITIONS)
                producer.produce(topic, value, customer.encode(), partition=at, headers=headers)
            except BufferError:
                producer.poll(0.1)
            else:
                break
        producer.poll(0)
    if left := producer.flush(_READY_SECONDS):
        raise LoadFailed(f"{left} profiles were not acknowledged")
    return total


# --- A bare read ---


def bare_read(bootstrap: str, topic: str) -> float:
    """Seconds in which aiokafka reads a topic from its beginning to its end, keeping nothing."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_bare_read(bootstrap, topic))


async def _bare_read(bootstrap: str, topic: str) -> float:
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [aiokafka.TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        left = sum((await consumer.end_offsets(partitions)).values())
        begun = monotonic()
        while left > 0:
            fetched = await consumer.getmany(timeout_ms=200, max_records=_KEPT_RECORDS)
            left -= sum(map(len, fetched.values()))
        return monotonic() - begun
    finally:
        await consumer.stop()


# --- A worker ---


def live(name: str, command: Sequence[str], port: int, children: Children) -> Life:
    """Start a worker, wait until it is ready, look at it, and stop it in order."""
    begun = monotonic()
    children.start(name, command)
    while not is_ready(port):
        if not children.alive(name) or monotonic() - begun > _READY_SECONDS:
            raise LoadFailed(f"{name} does not get ready. It said: {children.last_words(name)}")
        sleep(_POLL_SECONDS)
    ready = monotonic() - begun
    memory = resident(children.pid(name))
    text = page(port, "/metrics") or ""
    there, restoring = total(text, "batuta_profiles"), total(text, "batuta_recovery_seconds")
    os.kill(children.pid(name), signal.SIGTERM)
    if status := children.wait(name, _STOP_SECONDS):
        raise LoadFailed(f"{name} ended with status {status}. It said: {children.last_words(name)}")
    return Life(ready, restoring, memory, int(there))


class Bench(NamedTuple):
    """What trials share."""

    bootstrap: str
    directory: Path
    children: Children


class Heir(NamedTuple):
    """What became of the worker that was left of two. `ready`: seconds it was seen not to serve.

    `restoring`: until it had the state of the other half, as it tells, which begins some milliseconds earlier;
    `records`: read for that. `profiles`: it has.
    """

    ready: float
    restoring: float
    records: int
    profiles: int


class Trial(NamedTuple):
    """One turn with so many profiles. `bare`: seconds of the bare read. `heirs`: by name, in some turns."""

    bare: float
    memory: Life
    cold: Life
    warm: Life
    heirs: Mapping[str, Heir]


def run_trial(prefix: str, turn: int, bench: Bench, heirs: Collection[str]) -> Trial:
    """A bare read, a worker's life with each kind of state, and what becomes of these `HEIRS`."""
    bare = alone(bare_read, bench.bootstrap, f"{prefix}profiles")
    state = bench.directory / f"{prefix}{turn}"
    rocksdb = ("BATUTA_STORE=rocksdb", f"BATUTA_STATE_DIR={state}")
    kinds = [("memory", ()), ("cold", rocksdb), ("warm", rocksdb)]
    lives = [
        live(f"{prefix}{turn}-{name}", *_worker(prefix, environment, bench), bench.children)
        for name, environment in kinds
    ]
    memory, cold, warm = lives
    left = {name: inherit(f"{prefix}{turn}-{name}", prefix, HEIRS[name], bench) for name in heirs}
    return Trial(bare, memory, cold, warm, left)


def inherit(name: str, prefix: str, settings: Sequence[str], bench: Bench) -> Heir:
    """Have two workers share the partitions, kill one, and look at the other until it serves them all."""
    ports = {}
    for half in (f"{name}-killed", f"{name}-left"):
        environment = (*_QUICK_TO_NOTICE, *settings, f"BATUTA_STATE_DIR={bench.directory / half}")
        command, ports[half] = _worker(prefix, environment, bench)
        bench.children.start(half, command)
    (killed, _), (left, port) = ports.items()
    _wait(lambda: all(_serves(each) == PARTITIONS // 2 for each in ports.values()), left, bench)
    if "BATUTA_STANDBY_REPLICAS=1" in settings:
        _wait(lambda: _is_followed(port), left, bench)
    bench.children.stop(killed, signal.SIGKILL, _STOP_SECONDS)
    _wait(lambda: not is_ready(port), left, bench)
    begun = monotonic()
    _wait(lambda: _serves(port) == PARTITIONS, left, bench)
    ready, text = monotonic() - begun, page(port, "/metrics") or ""
    bench.children.stop(left, signal.SIGTERM, _STOP_SECONDS)
    restoring, records = total(text, "batuta_recovery_seconds"), total(text, "batuta_recovery_records")
    return Heir(ready, restoring, int(records), int(total(text, "batuta_profiles")))


def _is_followed(port: int) -> bool:
    """Whether a worker has read all there is of the half that it is the standby of."""
    lags = re.findall(r"^batuta_standby_lag\{.*\} (\S+)$", page(port, "/metrics") or "", re.MULTILINE)
    return lags == ["0.0"] * (PARTITIONS // 2 * len({spec.changelog for spec in TABLES}))


def _serves(port: int) -> int:
    """How many partitions a worker serves."""
    return len(msgspec.json.decode(page(port, "/readyz") or '{"partitions":[]}')["partitions"])


def _wait(condition: Callable[[], bool], name: str, bench: Bench) -> None:
    deadline = monotonic() + _READY_SECONDS
    while not condition():
        if not bench.children.alive(name) or monotonic() > deadline:
            raise LoadFailed(f"{name} does not get on. It said: {bench.children.last_words(name)}")
        sleep(_POLL_SECONDS)


def _worker(prefix: str, environment: Sequence[str], bench: Bench) -> tuple[list[str], int]:
    config, port = bench.directory / f"{prefix}config", free_port()
    if not config.exists():
        config.mkdir()
        workload.write_config(config, CANDIDATES, prefix=prefix, partitions=PARTITIONS)
    return subjects.worker(config, bench.bootstrap, [f"BATUTA_GROUP={prefix}engine", *environment], port), port


def alone(work: Callable[..., T], *arguments: Any) -> T:
    """The result of a call in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


# --- The loop ---


def stalls(count: int) -> tuple[float, float]:
    """With so many profiles: the longest CPU time between two turns of the event loop, and the longest time; in ms.

    Signals of all customers are handled and their profiles encoded as in a worker, in slices; the collector runs.
    """
    return asyncio.run(_stalls(count))


async def _stalls(count: int) -> tuple[float, float]:
    repertoire = workload.load(CANDIDATES)
    engine = engine_of(repertoire, PriorScorer(repertoire))
    tables, logs = changelogs(TABLES)
    gc.disable()
    for customer, value in profiles(count, patterns()):
        tables["profiles"].load(customer.replace("customer-0", "customer-"), value)
    gc.enable()
    gc.collect()
    gc.freeze()
    state = engine.state(**tables, committed={})
    signals = workload.signals(STALL_SIGNALS, count, "stall")
    working = asyncio.create_task(_work(engine, state, signals, logs))
    longest_cpu = longest = 0.0
    while not working.done():
        cpu, now = thread_time(), monotonic()
        await asyncio.sleep(0)
        longest_cpu, longest = max(longest_cpu, thread_time() - cpu), max(longest, monotonic() - now)
    await working
    return 1000 * longest_cpu, 1000 * longest


async def _work(
    engine: Engine,
    state: PartitionState,
    signals: Sequence[workload.Message],
    logs: Sequence[Changelog],
) -> None:
    """What `agents.partitions` does with a batch, but for the broker."""
    slice_end = monotonic() + SLICE_SECONDS
    for at, message in enumerate(signals):
        engine.handle(Record("signals", 0, at, START_MS + at, message.key, message.value), state)
        if at % BATCH == BATCH - 1:
            for log in logs:
                log.flush()
        if monotonic() > slice_end:
            await asyncio.sleep(0)
            slice_end = monotonic() + SLICE_SECONDS


# --- What it comes to ---


def measure(*, quick: bool) -> Findings:
    """All rows; a fault for every life in which profiles were missing. Raises `LoadFailed`, `BrokerUnavailable`."""
    if not Path("/proc/self/statm").exists():
        raise LoadFailed("memory is read from /proc, which this system does not have; use Linux")
    rows: list[Row] = []
    faults: list[str] = []
    alike = alone(patterns)
    with (
        KafkaBroker(jvm=MEASURED_JVM) as broker,
        tempfile.TemporaryDirectory() as directory,
        closing(Children()) as children,
    ):
        bench = Bench(broker.bootstrap, Path(directory), children)
        idle = _empty(bench)
        for count in QUICK_PROFILES if quick else PROFILES:
            prefix = f"recovery-{count}."
            size = publish(broker.bootstrap, prefix, count, alike)
            turns = 1 if count >= ONCE else REPETITIONS
            trials = [run_trial(prefix, turn, bench, () if quick and turn else HEIRS) for turn in range(turns)]
            faults += _missing(count, trials)
            rows += _rows(count, size, trials, idle)
    rows += _stall_rows()
    return Findings(tuple(rows), tuple(faults))


def _empty(bench: Bench) -> Life:
    """A worker without any profile: what every start costs, and what its program takes."""
    asyncio.run(create_topics(bench.bootstrap, "recovery-0."))
    return live("empty", *_worker("recovery-0.", (), bench), bench.children)


def _missing(count: int, trials: Sequence[Trial]) -> Iterator[str]:
    for turn, trial in enumerate(trials):
        for name, each in (("memory", trial.memory), ("cold", trial.cold), ("warm", trial.warm)):
            if each.profiles != count:
                yield f"{each.profiles} of {count} profiles were there, turn {turn}, {name}"
        for name, heir in trial.heirs.items():
            if heir.profiles != count:
                yield f"{heir.profiles} of {count} profiles were there, turn {turn}, {name}"


def _rows(count: int, size: int, trials: Sequence[Trial], idle: Life) -> Iterator[Row]:
    gigabytes = size / 1e9
    shared = (
        f"{count:,} profiles of {size // count} bytes on {PARTITIONS} partitions; Kafka {kafka_version()}, one node, "
        f"on the same {cores()} cores; a worker without any profile is ready in {idle.ready:.1f} s"
    )
    name = f"recovery.{count}-profiles"
    bare = [each.bare for each in trials]
    yield row(f"{name}.bare-read", [each / gigabytes for each in bare], "s/GB", detail=shared)
    for kind in ("memory", "cold", "warm"):
        lives: list[Life] = [getattr(each, kind) for each in trials]
        warm = kind == "warm"
        target = "<= 5" if warm and count == max(PROFILES) else ""
        yield row(f"{name}.{kind}.restored", [each.restoring for each in lives], "s", target=target, detail=shared)
        yield row(f"{name}.{kind}.ready", [each.ready for each in lives], "s", detail=shared)
        over = [each.restoring / floor for each, floor in zip(lives, bare, strict=True)]
        # With few profiles it is joining the group and claiming the partitions that takes the time.
        target = "<= 2" if kind == "memory" and count >= QUICK_PROFILES[-1] else ""
        detail = f"{shared}; seconds to restore over those of a bare aiokafka read of the same changelog, turn by turn"
        yield row(f"{name}.{kind}.over-bare-read", over, "ratio", target=target, detail=detail)
        resident = [(each.memory - idle.memory) / size for each in lives]
        target = "<= 2" if kind == "memory" and count >= QUICK_PROFILES[-1] else ""
        detail = f"{shared}; resident bytes over those of a worker without any profile, per byte of serialised profile"
        yield row(f"{name}.{kind}.memory", resident, "ratio", target=target, detail=detail)
    yield from _heir_rows(name, [each for each in trials if each.heirs], shared)


def _heir_rows(name: str, trials: Sequence[Trial], shared: str) -> Iterator[Row]:
    for kind in HEIRS:
        heirs = [each.heirs[kind] for each in trials]
        without = [each.heirs["no-standby"] for each in trials]
        read = max(each.records for each in heirs)
        detail = f"{shared}; one of two workers is killed, the other takes its half over by reading {read:,} records"
        yield row(f"{name}.{kind}.restored", [each.restoring for each in heirs], "s", detail=detail)
        detail += "; from the start of its rebalance until it serves"
        yield row(f"{name}.{kind}.ready", [each.ready for each in heirs], "s", detail=detail)
        if kind != "no-standby":
            ratios = [each.restoring / other.restoring for each, other in zip(heirs, without, strict=True)]
            detail = f"{shared}; seconds to restore over those without a standby, turn by turn"
            yield row(f"{name}.{kind}.over-no-standby", ratios, "ratio", detail=detail)


def _stall_rows() -> Iterator[Row]:
    pairs = [(alone(stalls, FEW), alone(stalls, MANY)) for _ in range(REPETITIONS)]
    wall = max(many for _, (_, many) in pairs)
    detail = (
        f"{STALL_SIGNALS} signals handled in slices of {SLICE_SECONDS * 1000:.0f} ms; CPU time between two turns of "
        f"the event loop, so that neighbours on the machine do not count; with them it was up to {wall:.0f} ms with "
        f"{MANY:,} profiles"
    )
    few, many = [each for (each, _), _ in pairs], [each for _, (each, _) in pairs]
    yield row(f"stall.{FEW}-profiles", few, "ms", detail=detail)
    yield row(f"stall.{MANY}-profiles", many, "ms", target="<= 20", detail=detail)
    ratio = [large / small for small, large in zip(few, many, strict=True)]
    yield row("stall.ratio", ratio, "ratio", target="<= 2", detail=detail)


def main() -> int:
    """Run all of it; returns the exit code."""
    report = begin()
    try:
        found = measure(quick=os.environ.get("QUICK", "0") not in ("", "0"))
    except BrokerUnavailable as error:
        return _complain(NO_BROKER, str(error))
    except LoadFailed as error:
        return _complain(WRONG, str(error))
    for each in found.rows:
        met = "" if not each.target else "  met" if each.met else f"  NOT MET: {each.target}"
        print(f"{each.metric:44} {figure(each.value):>9} {each.unit}{met}")
    write(complete(report, found.rows), "recovery")
    return _complain(WRONG, "; ".join(found.faults)) if found.faults else DONE


def _complain(code: int, sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
