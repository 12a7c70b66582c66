"""The publisher, a process of its own: what the crowd does, by librdkafka, until SIGTERM; then what was accepted.

    python -m benchmarks.chaos.publisher PLAN.json

It keeps to a schedule fixed in advance and waits for nobody: a broker that is away finds everything waiting that
became due meanwhile. Every message is tried until it is acknowledged, and only those that are count.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from time import monotonic

import msgspec
from confluent_kafka import KafkaError, Producer
from confluent_kafka import Message as Delivered

from benchmarks.chaos import notes
from benchmarks.chaos.crowd import Crowd, Message, Shares
from benchmarks.chaos.notes import Sent

_FLUSH_SECONDS = 150.0
_LONGEST_SLEEP_SECONDS = 0.05


class Plan(msgspec.Struct, frozen=True):
    """What is published. `burst`: messages that are there from the beginning; then `rate` a second follow."""

    bootstrap: str
    topic: str
    seed: str
    run: str
    customers: int
    burst: int
    rate: float
    shares: Shares
    notes: str


class Publisher:
    """Publishes a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._accepted: list[Sent] = []
        self._refused: list[str] = []
        self._crowd = Crowd(plan.seed, plan.customers, plan.run, plan.shares)
        # librdkafka's own partitioner: keys go elsewhere than where Java, and the engine, would put them.
        self._producer = Producer(
            {
                "bootstrap.servers": plan.bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": 0,
                "message.max.bytes": 8_000_000,
                "linger.ms": 2,
                "queue.buffering.max.messages": 1_000_000,
                "reconnect.backoff.max.ms": 500,
                "log_level": 2,
            }
        )

    def run(self, stop: threading.Event) -> None:
        """Publish until told to stop, wait for what is under way, and note what was accepted.

        Raises RuntimeError when something was refused or stays unacknowledged.
        """
        start, count = monotonic(), 0
        while not stop.is_set():
            due = start + max(0, count - self._plan.burst) / self._plan.rate
            while (wait := due - monotonic()) > 0 and not stop.is_set():
                self._producer.poll(min(wait, _LONGEST_SLEEP_SECONDS))
            self._publish(self._crowd.next(), due)
            count += 1
        left = self._producer.flush(_FLUSH_SECONDS)
        if left or self._refused:
            raise RuntimeError(f"{left} messages unacknowledged, {len(self._refused)} refused: {self._refused[:3]}")
        notes.write(Path(self._plan.notes), self._accepted)

    def _publish(self, message: Message, due: float) -> None:
        def note(error: KafkaError | None, delivered: Delivered) -> None:
            if error is not None:
                self._refused.append(str(error))
                return
            partition, offset = delivered.partition(), delivered.offset()
            assert partition is not None
            assert offset is not None
            sent = message.kind, message.message_id, message.number, message.key, message.joins
            self._accepted.append(Sent(*sent, due, self._plan.topic, partition, offset))

        self._producer.produce(self._plan.topic, message.value, message.routing, on_delivery=note)
        self._producer.poll(0)


def main(plan: Path) -> None:
    """Publish the plan of a file."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    Publisher(msgspec.json.decode(plan.read_bytes(), type=Plan)).run(stop)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
