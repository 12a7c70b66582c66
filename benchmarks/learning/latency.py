"""What learning costs decisions, and how soon they know what was learned: real workers on real Apache Kafka.

A leg is one life of a worker at a fixed rate of signals, with outcomes to a share of its decisions: `on`, with its
learner beside it; `off`, the same without, scoring by the model that all legs begin with; `none`, without models. That
model, and the log it was learned from, come from one leg before all others.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from time import monotonic
from typing import Any, Literal, NamedTuple

import msgspec
from confluent_kafka import Producer

from agents.broker import MEASURED_JVM, KafkaBroker
from agents.children import Children
from agents.model_topic import TrainingState, decode_state, state_key
from agents.topics import MAX_RECORD_BYTES
from benchmarks import workload
from benchmarks.load import FLUSH_SECONDS, STALLED_SECONDS, LoadFailed, Reader, publish_on_schedule
from benchmarks.results import Row, cores, percentile, row
from benchmarks.stream import CUSTOMERS, PARTITIONS, WARM_UP, Bench, create_topics, stop, wait_for
from benchmarks.workload import Message
from engine.learning import decode_example
from engine.murmur import partition_of
from models.snapshot import Snapshot, decode

Kind = Literal["on", "off", "none"]
KINDS: tuple[Kind, ...] = ("on", "off", "none")
CANDIDATES = 80
MODEL = "offers"
ANSWERED = 5
"""Every so many-th decision gets an outcome as soon as it is read: in turns an acceptance and a dismissal."""
WAITING = 500
"""Signals a worker works off before a leg is timed."""
UNANSWERED_SECONDS = 3.0
"""No outcomes in the last part of a leg, so that decisions are left to show what was learned of all others."""
_LEAD_SECONDS = 2.0


class Sizes(NamedTuple):
    """How much is measured: turns of all kinds, seconds and signals per second of each leg."""

    turns: int
    seconds: int
    rate: int


FULL, QUICK = Sizes(5, 20, 150), Sizes(2, 8, 150)


class Taught(NamedTuple):
    """What legs begin with: examples as they stand in the log, and the snapshot and state learned from them all."""

    examples: Sequence[Message] = ()
    models: Sequence[Message] = ()


class Seen(NamedTuple):
    """A decision as it was read. `at`: monotonic seconds. `examples`: what its model had learned from; 0 without."""

    at: float
    signal: int
    examples: int


class Leg(NamedTuple):
    """`latencies_ms`: from scheduled to read; `known_seconds`: from an outcome to a decision that knows it; ordered.

    `versions`: how many of the model decided. `late_ms`: how late the generator itself was, p99.
    """

    latencies_ms: Sequence[float]
    known_seconds: Sequence[float]
    versions: int
    late_ms: float


class _Decision(msgspec.Struct, rename="camel"):
    decision_id: str
    customer_id: str
    signal_id: str
    action: str | None
    models: Mapping[str, str]


_decisions = msgspec.json.Decoder(_Decision)


def measure(*, quick: bool) -> list[Row]:
    """The rows. Raises `LoadFailed` when a leg is not what it should be, `BrokerUnavailable` without Apache Kafka."""
    sizes = QUICK if quick else FULL
    with (
        KafkaBroker(jvm=MEASURED_JVM) as broker,
        closing(Children()) as children,
        ProcessPoolExecutor(1, get_context("spawn")) as publisher,
    ):
        bench = Bench(broker.bootstrap, children, publisher)
        run_leg("on", "school.", sizes, bench, Taught())
        taught = taught_by("school.", broker.bootstrap)
        turns = []
        for turn in range(sizes.turns):
            # Every other turn goes backwards, so that whatever grows or wears off with time favours nobody.
            kinds = KINDS[:: -1 if turn % 2 else 1]
            turns.append({kind: run_leg(kind, f"{kind}-{turn}.", sizes, bench, taught) for kind in kinds})
    return list(rows(turns, sizes))


# --- A leg ---


def run_leg(kind: Kind, prefix: str, sizes: Sizes, bench: Bench, taught: Taught) -> Leg:
    """One life of a worker on topics of its own. Raises `LoadFailed` when it ends, stalls or does not learn as told."""
    asyncio.run(create_topics(bench.bootstrap, prefix))
    settings = {"bootstrap.servers": bench.bootstrap, "partitioner": "murmur2_random", "linger.ms": 0, "log_level": 2}
    producer = Producer({**settings, "message.max.bytes": MAX_RECORD_BYTES})
    # Ids of decisions follow from those of signals, and what was learned once is not learned again.
    run = "paced" if taught.examples else "school"
    begin = [*workload.introductions(CUSTOMERS), *workload.signals(WAITING, CUSTOMERS, f"{run}-waiting")]
    for topic, messages in {"learning": taught.examples, "models": taught.models, "signals": begin}.items():
        for each in messages:
            producer.produce(prefix + topic, each.value, each.key)
    _flush(producer)
    name = f"{prefix}worker"
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(Reader(bench.bootstrap, f"{prefix}decisions", PARTITIONS)) as reader,
        closing(Reader(bench.bootstrap, f"{prefix}models", 1)) as models,
    ):
        write_config(Path(directory), prefix, models=kind != "none")
        worker = [sys.executable, "-m", "agents", "up", directory, "--bootstrap", bench.bootstrap, "--web-port", "0"]
        learner = "--learner" if kind == "on" else "--no-learner"
        bench.children.start(name, ["env", f"BATUTA_GROUP={prefix}engine", *worker, learner])
        wait_for(WAITING, name, reader, bench)
        if kind == "on":
            wait_for(len(taught.models) + 1, name, models, bench)
        reader.read(WAITING, monotonic() + STALLED_SECONDS)
        leg = _keep_pace(name, prefix, run, reader, producer, sizes, bench)
        stop(name, bench)
    if leg.versions != {"off": 1, "none": 0}.get(kind, max(2, leg.versions)):
        raise LoadFailed(f"{name}: {leg.versions} versions of the model decided, which is not learning {kind}")
    return leg


def _keep_pace(name: str, prefix: str, run: str, reader: Reader, producer: Producer, sizes: Sizes, bench: Bench) -> Leg:
    count = sizes.rate * sizes.seconds
    signals, topic = workload.signals(count, CUSTOMERS, run), f"{prefix}signals"
    start = monotonic() + _LEAD_SECONDS
    late = bench.publisher.submit(publish_on_schedule, bench.bootstrap, topic, signals, start, float(sizes.rate))
    seen: list[Seen] = []
    versions: set[str] = set()
    published: dict[str, float] = {}
    while len(seen) < count and (answers := reader.read(1, monotonic() + STALLED_SECONDS)):
        decision = _decisions.decode(answers[0].value)
        signal, version = int(decision.signal_id.rpartition("-")[2]), decision.models.get(MODEL)
        versions |= {version} if version else set()
        seen.append(Seen(answers[0].seen, signal, examples_of(version or "")))
        if signal < count - UNANSWERED_SECONDS * sizes.rate and (outcome := _outcome(decision, signal)) is not None:
            published[decision.decision_id] = monotonic()
            producer.produce(f"{prefix}outcomes", outcome.value, outcome.key)
        producer.poll(0)
    if len(seen) < count:
        said = bench.children.last_words(name)
        raise LoadFailed(f"{name} gave {len(seen)} of {count} decisions. It said: {said}")
    _flush(producer)
    warm = int(WARM_UP * count)
    latencies_ms = sorted(1000 * (each.at - start - each.signal / sizes.rate) for each in seen if each.signal >= warm)
    learned = learned_at(_read(bench.bootstrap, f"{prefix}learning", PARTITIONS))
    late_ms = 1000 * percentile(sorted(late.result()[warm:]), 0.99)
    return Leg(latencies_ms, sorted(known_seconds(published, learned, seen)), len(versions), late_ms)


def _outcome(decision: _Decision, signal: int) -> Message | None:
    """What a customer says to a decision; None for the others, and when there is nothing to say it to."""
    if signal % ANSWERED or decision.action is None:
        return None
    ids = {"decisionId": decision.decision_id, "customerId": decision.customer_id}
    said = "dismiss" if signal % (2 * ANSWERED) else "accept"
    return Message(decision.customer_id.encode(), msgspec.json.encode({**ids, "type": said}))


def _flush(producer: Producer) -> None:
    left = producer.flush(FLUSH_SECONDS)
    if left:
        raise LoadFailed(f"{left} records were not acknowledged within {FLUSH_SECONDS:.0f} s")


def _read(bootstrap: str, topic: str, partitions: int) -> list[bytes]:
    """Everything in a topic; what has one key is in order."""
    with closing(Reader(bootstrap, topic, partitions)) as reader:
        return [each.value for each in reader.read(reader.count(), monotonic() + STALLED_SECONDS)]


# --- What legs begin with ---


def write_config(directory: Path, prefix: str, *, models: bool) -> None:
    """The workload's configuration, with 15 features and one model that scores all candidates if it has `models`."""
    workload.write_config(directory, CANDIDATES, prefix=prefix, partitions=PARTITIONS)
    traits = ("age", "income", "tenure", "basket", "visits", "rating", "distance", "loyalty")
    aggregates = ("views_7d", "orders_30d", "spent_30d", "interest")
    features: dict[str, dict[str, Any]] = {
        **{name: {"value": f"profile.{name} / 100"} for name in traits},
        **{name: {"value": f"log1p(aggregates.{name})"} for name in aggregates},
        "price": {"value": "log1p(signal.properties.price)"},
        "has_app": {"value": "profile.has_app"},
        "tier": {"value": "profile.tier", "type": "categorical", "buckets": 4},
    }
    rule = {
        "reward": {"type": "binary", "positive": ["accept", "convert"]},
        "window": "10s",
        "learners": {"linear": {"kind": "bayesian-linear"}},
    }
    action_features = {"promo": {"value": '"promo" in action.tags'}}
    body = {"kind": "models", "features": features, "action_features": action_features, "models": {MODEL: rule}}
    if models:
        (directory / "models.yaml").write_bytes(msgspec.json.encode(body))


def taught_by(prefix: str, bootstrap: str) -> Taught:
    """What a leg left in its topics, to begin others with. Raises `LoadFailed` when it left no model."""
    kept = _read(bootstrap, f"{prefix}models", 1)
    place, most = partition_of(MODEL, PARTITIONS), MAX_RECORD_BYTES
    snapshots = [each for each in kept if isinstance(decode(each, None), Snapshot)]
    told = [(each, decode_state(each, None, MODEL, place, pickled=False, limit_bytes=most)) for each in kept]
    states = [each for each, state in told if isinstance(state, TrainingState)]
    if not snapshots or not states:
        raise LoadFailed(f"{prefix}models has {len(snapshots)} snapshots and {len(states)} states of a model")
    key = MODEL.encode()
    examples = [Message(key, each) for each in _read(bootstrap, f"{prefix}learning", PARTITIONS)]
    return Taught(examples, (Message(key, snapshots[-1]), Message(state_key(MODEL), states[-1])))


# --- What it comes to ---


def examples_of(version: str) -> int:
    """How many examples a version of a model, `<learner>.<examples>.<digest>`, has learned from; 0 for any other."""
    _, _, examples = version.rpartition(".")[0].rpartition(".")
    return int(examples) if examples.isdecimal() else 0


def learned_at(log: Iterable[bytes]) -> dict[str, int]:
    """Answered decision → how many examples a model has learned from that includes the answer, log in order."""
    examples = enumerate((decode_example(each) for each in log), 1)
    return {each.decision_id: at for at, each in examples if each.stage == "answered"}


def known_seconds(published: Mapping[str, float], learned: Mapping[str, int], seen: Sequence[Seen]) -> list[float]:
    """Seconds from each outcome to the first decision whose model had learned from it.

    What no decision shows counts as lasting until the last one: no less than it took.
    """
    ordered = sorted(seen)
    known = list(accumulate((each.examples for each in ordered), max))
    unknown = known[-1] + 1
    places = {each: bisect_left(known, learned.get(each, unknown)) for each in published}
    return [ordered[min(at, len(ordered) - 1)].at - published[each] for each, at in places.items()]


def rows(turns: Sequence[Mapping[Kind, Leg]], sizes: Sizes) -> Iterator[Row]:
    """Latencies of every kind and one over the other turn by turn; and from an outcome to what knows it."""
    on = [turn["on"] for turn in turns]
    late = max(leg.late_ms for turn in turns for leg in turn.values())
    detail = (
        f"{CANDIDATES} candidates, 15 features, one bayesian-linear model; {sizes.rate} signals/s for {sizes.seconds} "
        f"s, every {ANSWERED}th decision answered; {len(turns)} turns on {cores()} cores: broker, worker, its learner "
        f"(on), publisher and reader"
    )
    read = (
        f"{detail}; from scheduled to read; off: as on, by a model that stays as it is; "
        f"the publisher itself was {late:.2f} ms late (p99, its worst leg)"
    )
    for name, share, target in (("p99", 0.99, "<= 1.1"), ("p50", 0.5, "")):
        ms = {kind: [percentile(turn[kind].latencies_ms, share) for turn in turns] for kind in KINDS}
        ratios = [one / other for one, other in zip(ms["on"], ms["off"], strict=True)]
        yield row(f"learning.{name}-on-over-off", ratios, "ratio", target=target, detail=read)
        for kind, values in ms.items():
            yield row(f"learning.latency-{name}.{kind}", values, "ms", detail=read)
    known = (
        f"{detail}; from an outcome published to the first decision read whose model had learned from it; "
        f"{min(len(leg.known_seconds) for leg in on)} outcomes and {min(leg.versions for leg in on)} versions per leg"
    )
    for name, share, target in (("p50", 0.5, ""), ("p95", 0.95, "<= 1")):
        values = [percentile(leg.known_seconds, share) for leg in on]
        yield row(f"learning.outcome-to-decision-{name}", values, "s", target=target, detail=known)
