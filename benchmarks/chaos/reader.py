"""The reader, a process of its own: every output by librdkafka, until SIGTERM; then it reads to the end and notes it.

    python -m benchmarks.chaos.reader PLAN.json

Decisions and rejects are read as they come, so that the moment they are there is known. The changelogs are read once
everything stands still, from the beginning, as whoever takes a partition over reads them.
"""

from __future__ import annotations

import hashlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import cast

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from agents import topics
from agents.journal import EPOCH_HEADER
from benchmarks.chaos import notes
from benchmarks.chaos.crowd import SEEN, TOTAL
from benchmarks.chaos.notes import Counted, Decided, Evidence, Progress, Rejected
from benchmarks.chaos.verdict import Latest
from config import load_directory
from engine import aggregates
from engine.calendar import parse_rfc3339_ms
from engine.identity import BUDGET, Identity
from engine.profile import decode_profile
from engine.repertoire import Repertoire

_BATCH, _WAIT_SECONDS = 1_000, 0.05
_ASK_SECONDS = 10.0
_END_SECONDS = 120.0
_FINAL = (KafkaError._AUTO_OFFSET_RESET, KafkaError._FATAL, KafkaError.UNKNOWN_TOPIC_OR_PART)  # noqa: SLF001 - their names
"""What no patience helps against; everything else librdkafka tries again by itself."""


class Plan(msgspec.Struct, frozen=True):
    """What is read: the topics of the configuration in `config`, and the offsets of its `group`."""

    bootstrap: str
    config: str
    group: str
    notes: str


class _Decision(msgspec.Struct, rename="camel"):
    """What of a decision the verdict looks at."""

    decision_id: str
    customer_id: str
    signal_id: str
    trigger: str
    action: str | None
    content: dict[str, str] | None
    decided_at: str


class _Reject(msgspec.Struct):
    """Where the message was that a reject is about."""

    topic: str
    partition: int
    offset: int


_decision = msgspec.json.Decoder(_Decision)
_reject = msgspec.json.Decoder(_Reject)
_identity = msgspec.msgpack.Decoder(Identity)


class Reader:
    """Reads the outputs of one engine."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._repertoire: Repertoire = load_directory(Path(plan.config))
        self._decisions: list[Decided] = []
        self._rejects: list[Rejected] = []
        self._overruled = 0

    def run(self, stop: threading.Event) -> None:
        """Read until told to stop and everything there is by then is read; note it."""
        with closing(self._consumer()) as consumer:
            at = self._places(consumer, ("decisions", "rejects"))
            consumer.assign([TopicPartition(each.topic, each.partition, OFFSET_BEGINNING) for each in at])
            while not stop.is_set():
                self._take(consumer)
            self._read_to_end(consumer, at, self._take)
            profiles = self._last_values(consumer, "profiles")
            redirects = self._last_values(consumer, "identities")
            evidence = Evidence(
                self._decisions,
                self._rejects,
                {
                    key.decode(): counted(value, self._repertoire)
                    for key, value in profiles.items()
                    if key not in redirects
                },
                {
                    key.decode(): _identity.decode(value).canonical
                    for key, value in redirects.items()
                    if not key.startswith(f"{BUDGET}:".encode())
                },
                progress(consumer, [f"{self._repertoire.prefix}{role}" for role in topics.READ_IN_BATCHES]),
                self._overruled,
            )
        notes.write(Path(self._plan.notes), evidence)

    def _consumer(self) -> Consumer:
        """In the group, to be told its offsets, but never a member: it assigns itself."""
        return Consumer(
            {
                "bootstrap.servers": self._plan.bootstrap,
                "group.id": self._plan.group,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "reconnect.backoff.max.ms": 500,
                "fetch.wait.max.ms": 50,
                "log_level": 2,
            }
        )

    def _places(self, consumer: Consumer, roles: Sequence[str]) -> list[TopicPartition]:
        return _places(consumer, [f"{self._repertoire.prefix}{role}" for role in roles])

    # --- As they come ---

    def _take(self, consumer: Consumer) -> None:
        for message in self._messages(consumer):
            value = message.value() or b""
            if message.topic() == f"{self._repertoire.prefix}decisions":
                self._decisions.append(decided(message.partition() or 0, monotonic(), value))
            else:
                self._rejects.append(rejected(value))

    def _messages(self, consumer: Consumer) -> Iterator[Message]:
        for message in consumer.consume(_BATCH, _WAIT_SECONDS):
            error = message.error()
            if error is None:
                yield message
            elif error.code() in _FINAL:
                raise KafkaException(error)

    # --- At the end ---

    def _read_to_end(self, consumer: Consumer, at: Sequence[TopicPartition], take: Callable[[Consumer], None]) -> None:
        """Read until the positions are where the partitions end. TimeoutError when they do not get there."""
        ends = {(each.topic, each.partition): _end(consumer, each) for each in at}
        deadline = monotonic() + _END_SECONDS
        while any(max(each.offset, 0) < ends[each.topic, each.partition] for each in consumer.position(list(at))):
            take(consumer)
            if monotonic() > deadline:
                raise TimeoutError(f"what there is could not be read within {_END_SECONDS:.0f} s")

    def _last_values(self, consumer: Consumer, role: str) -> dict[bytes, bytes]:
        """The last value of each key of a changelog."""
        at = self._places(consumer, [role])
        consumer.assign([TopicPartition(each.topic, each.partition, OFFSET_BEGINNING) for each in at])
        latest = {each.partition: Latest() for each in at}

        def take(consumer: Consumer) -> None:
            for message in self._messages(consumer):
                latest[message.partition() or 0].apply(message.key(), message.value(), _epoch(message))

        self._read_to_end(consumer, at, take)
        self._overruled += sum(each.overruled for each in latest.values())
        return {key: value for each in latest.values() for key, value in each.values.items()}


def progress(consumer: Consumer, names: Sequence[str]) -> list[Progress]:
    """How far the consumer's group is with some topics. Raises KafkaException or TimeoutError when nobody tells."""
    committed = consumer.committed(_places(consumer, names), _ASK_SECONDS)
    return [Progress(each.topic, each.partition, max(each.offset, 0), _end(consumer, each)) for each in committed]


def _places(consumer: Consumer, names: Sequence[str]) -> list[TopicPartition]:
    return [
        TopicPartition(name, number)
        for name in names
        for number in consumer.list_topics(name, _ASK_SECONDS).topics[name].partitions
    ]


def _end(consumer: Consumer, at: TopicPartition) -> int:
    watermarks = consumer.get_watermark_offsets(TopicPartition(at.topic, at.partition), _ASK_SECONDS)
    if watermarks is None:
        raise TimeoutError(f"the broker did not say where {at.topic}[{at.partition}] ends")
    return watermarks[1]


def _epoch(message: Message) -> int | None:
    """The epoch of the owner that wrote a record of a changelog."""
    headers = cast("list[tuple[str, bytes]]", message.headers() or [])
    return next((int(value) for name, value in headers if name == EPOCH_HEADER), None)


# --- What a record says ---


def decided(partition: int, at: float, value: bytes) -> Decided:
    """What the verdict looks at of a decision, read at a moment."""
    decision = _decision.decode(value)
    return Decided(
        partition,
        at,
        decision.decision_id,
        decision.signal_id,
        decision.customer_id,
        decision.trigger,
        decision.action,
        (decision.content or {}).get(SEEN, ""),
        parse_rfc3339_ms(decision.decided_at),
        _digest(value),
    )


def rejected(value: bytes) -> Rejected:
    """What the verdict looks at of a reject."""
    said = _reject.decode(value)
    return Rejected(said.topic, said.partition, said.offset, _digest(value))


def counted(value: bytes, repertoire: Repertoire) -> Counted:
    """What the verdict looks at of an encoded profile."""
    profile = decode_profile(value)
    found = {
        each.name: aggregates.value(each, profile.aggregates.get(each.name), profile.now_ms)
        for each in repertoire.profile.aggregates
    }
    return Counted(_whole(found[SEEN]), _whole(found[TOTAL]), profile.merged)


def _whole(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) else 0


def _digest(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=16).digest()


def main(plan: Path) -> None:
    """Read as the plan of a file says."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    Reader(msgspec.json.decode(plan.read_bytes(), type=Plan)).run(stop)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
