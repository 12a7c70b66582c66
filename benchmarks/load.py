"""Load: publishing and reading by a client that shares nothing with the engine, librdkafka.

The publisher keeps to a schedule fixed in advance and waits for nobody, so that a subject that stalls is charged
for every signal it kept waiting. Time is the machine's monotonic clock, the same in all its processes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as Delivered

from benchmarks.workload import Message

FLUSH_SECONDS = 60.0
STALLED_SECONDS = 60.0
_POLL_SECONDS = 0.1
_PASSING = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART)
"""What a broker answers about a topic that was just created."""


class LoadFailed(Exception):
    """The load could not be put on, or nothing came of it; the measurement is void."""


class Answer(NamedTuple):
    """A decision as it was read. `seen`: monotonic seconds."""

    seen: float
    value: bytes


# --- Publishing ---


def publish(bootstrap: str, topic: str, messages: Sequence[Message]) -> None:
    """Publish as fast as possible; returns when all is acknowledged."""
    producer, check = _producer(bootstrap, linger_ms=5)
    for message in messages:
        producer.produce(topic, message.value, message.key, on_delivery=check)
        producer.poll(0)
    _flush(producer)


def publish_on_schedule(
    bootstrap: str, topic: str, messages: Sequence[Message], start: float, rate: float
) -> list[float]:
    """Publish the n-th message at `start` (monotonic seconds) plus n / `rate`, however things go.

    Returns how late each one was handed to the client, in seconds: the generator's own share of any delay.
    """
    producer, check = _producer(bootstrap, linger_ms=0)
    producer.list_topics(topic)
    late = []
    for at, message in enumerate(messages):
        due = start + at / rate
        while (wait := due - monotonic()) > 0:
            sleep(wait)
        producer.produce(topic, message.value, message.key, on_delivery=check)
        late.append(monotonic() - due)
        producer.poll(0)
    _flush(producer)
    return late


def _producer(bootstrap: str, linger_ms: int) -> tuple[Producer, Callable[[KafkaError | None, Delivered], None]]:
    """A producer that puts keys where Java's and aiokafka's do, and a check of its acknowledgements."""
    settings = {
        "bootstrap.servers": bootstrap,
        "partitioner": "murmur2_random",
        "enable.idempotence": True,
        "linger.ms": linger_ms,
        "queue.buffering.max.messages": 1_000_000,
        "log_level": 3,
    }

    def check(error: KafkaError | None, _: Delivered) -> None:
        if error is not None:
            raise LoadFailed(f"a signal could not be published: {error}")

    return Producer(settings), check


def _flush(producer: Producer) -> None:
    left = producer.flush(FLUSH_SECONDS)
    if left:
        raise LoadFailed(f"{left} signals were not acknowledged within {FLUSH_SECONDS:.0f} s")


# --- Reading ---


class Reader:
    """Reads one topic from its beginning, outside any group, and not before it is asked to."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False})
        self._partitions = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partitions)]
        self._reads = False
        self._count = 0

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()

    def count(self) -> int:
        """How many records the topic holds, as far as the broker tells; reads none of them."""
        try:
            self._count = sum(self._consumer.get_watermark_offsets(at)[1] for at in self._partitions)
        except KafkaException as error:
            if error.args[0].code() not in _PASSING:
                raise
        return self._count

    def read(self, count: int, deadline: float) -> list[Answer]:
        """Read on, `count` records or until `deadline` (monotonic seconds), whichever comes first."""
        if not self._reads:
            self._consumer.assign(self._partitions)
            self._reads = True
        answers: list[Answer] = []
        while len(answers) < count and monotonic() < deadline:
            record = self._consumer.poll(_POLL_SECONDS)
            seen = monotonic()
            if record is None:
                continue
            if record.error() is not None:
                raise LoadFailed(f"decisions could not be read: {record.error()}")
            answers.append(Answer(seen, record.value() or b""))
        return answers


class CommittedReader(Reader):
    """Counts committed records by reading them: where transactions end, offsets are taken that are no records."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        super().__init__(bootstrap, topic, partitions)
        self._ahead: list[Answer] = []
        self._returned = 0

    def count(self) -> int:
        """How many committed records there are; keeps what was not asked for yet."""
        self._ahead += super().read(sys.maxsize, monotonic() + _POLL_SECONDS)
        return self._returned + len(self._ahead)

    def read(self, count: int, deadline: float) -> list[Answer]:
        """Read on, `count` records or until `deadline` (monotonic seconds), whichever comes first."""
        answers, self._ahead = self._ahead[:count], self._ahead[count:]
        answers += super().read(count - len(answers), deadline)
        self._returned += len(answers)
        return answers
