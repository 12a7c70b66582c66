"""The worker's work by confluent-kafka alone: as `benchmarks.bare_loop`, with librdkafka's threads under it.

python -m benchmarks.confluent_loop HOST:PORT PREFIX CANDIDATES PARTITIONS
"""

from __future__ import annotations

import signal
import sys
from time import monotonic
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from agents.settings import Settings
from benchmarks.deciding import ROLE, Deciding
from engine.record import Record

_POLL_SECONDS = 0.1
_AT_ONCE = 500
_FLUSH_SECONDS = 30.0


class Loop:
    """Handles what was fetched, and flushes and commits as often as the worker does."""

    def __init__(self, settings: Settings, consumer: Consumer, producer: Producer, deciding: Deciding) -> None:
        self._settings = settings
        self._consumer = consumer
        self._producer = producer
        self._deciding = deciding
        self._covered: dict[int, int] = {}
        self._committed_at = 0.0

    def run(self) -> None:
        """Work until SIGTERM."""
        stop = False

        def end(*_: Any) -> None:
            nonlocal stop
            stop = True

        signal.signal(signal.SIGTERM, end)
        while not stop:
            # The first record there is, then what came with it: `consume` alone waits until it has all it may take.
            first = self._consumer.poll(_POLL_SECONDS)
            if first is not None:
                self._handle([first, *self._consumer.consume(_AT_ONCE, 0)])
            if self._covered and monotonic() - self._committed_at > self._settings.commit_interval_seconds:
                self._commit()
        self._commit()
        self._consumer.close()

    def _handle(self, fetched: list[Any]) -> None:
        prefix, produce = self._settings.prefix, self._producer.produce
        for each in fetched:
            if each.error() is not None:
                raise RuntimeError(f"signals could not be read: {each.error()}")
            partition, headers = each.partition(), tuple(each.headers() or ())
            record = Record(ROLE, partition, each.offset(), each.timestamp()[1], each.key(), each.value(), headers)
            for output in self._deciding.decide(record):
                produce(prefix + output.topic, output.value, output.key, partition, headers=list(output.headers))
            self._covered[partition] = each.offset() + 1
        for partition in self._covered:
            for key, value in self._deciding.changes(partition):
                produce(f"{prefix}profiles", value, key, partition)
        self._producer.poll(0)

    def _commit(self) -> None:
        if self._producer.flush(_FLUSH_SECONDS):
            raise RuntimeError(f"decisions were not acknowledged within {_FLUSH_SECONDS:.0f} s")
        topic = f"{self._settings.prefix}signals"
        if self._covered:
            self._consumer.commit(
                offsets=[TopicPartition(topic, at, end) for at, end in self._covered.items()], asynchronous=False
            )
        for partition, offset in self._covered.items():
            self._deciding.committed(partition, offset)
        self._covered, self._committed_at = {}, monotonic()


def main(bootstrap: str, prefix: str, candidates: int, partitions: int) -> None:
    """Run until SIGTERM."""
    settings = Settings(bootstrap=bootstrap, prefix=prefix)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{prefix}confluent-loop",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    # linger: the worker's; a refused record shows in what `_commit` waits for in vain, and ends the loop.
    producer = Producer(
        {"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 0, "log_level": 3}
    )
    consumer.subscribe([f"{prefix}signals"])
    Loop(settings, consumer, producer, Deciding(candidates, partitions)).run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
