"""Numbered signals: each customer's first is 1, and one after the other is in the order in which it was said.

A profile counts them and adds their numbers up, so that one lost and another repeated do not cancel out. Customers are
drawn evenly. Time is that of the records (ADR 6): a customer gives `SIGNALS_A_DAY`, and days pass as fast as signals
come, so that windows and histories fill and empty within minutes. It starts now and runs ahead of the machine's
clock, which wakes customers nobody sends signals of and must not wake them early.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

import msgspec
from confluent_kafka import KafkaError, Producer

from benchmarks import workload
from benchmarks.chaos.crowd import SEEN, TOTAL
from benchmarks.load import LoadFailed
from benchmarks.workload import EVENTS

CANDIDATES = 20
SIGNALS_A_DAY = 1
FULL_DAYS = 31
"""After so many days of a customer, every window and history is full: the longest of the workload has 30."""
DAY_MS = 86_400_000
_PATTERNS = 2_000
"""Different signals, but for their customer and number."""
_AT_ONCE = 32
_FLUSH_SECONDS = 120.0


def write_config(directory: Path, *, prefix: str, partitions: int) -> Path:
    """Write the workload's configuration, with profiles that count numbered signals; returns the directory."""
    workload.write_config(directory, CANDIDATES, prefix=prefix, partitions=partitions)
    path = directory / "profile.yaml"
    profile = msgspec.json.decode(path.read_bytes())
    profile["aggregates"] |= {
        SEEN: {"function": "count", "events": list(EVENTS)},
        TOTAL: {"function": "sum", "events": list(EVENTS), "of": "signal.properties.number"},
    }
    path.write_bytes(msgspec.json.encode(profile))
    return directory


def name_of(customer: int) -> str:
    """How a customer is called, as in `workload`."""
    return f"customer-{customer:06d}"


def signal_id(customer: str, number: int) -> str:
    """The id of a customer's signal of this number."""
    return f"{customer}/{number}"


def named_in(signal: str) -> tuple[str, int]:
    """Customer and number of a signal by its id; the number is 0 when the signal has none."""
    customer, _, number = signal.rpartition("/")
    return customer, int(number) if number.isascii() and number.isdigit() else 0


class Load(NamedTuple):
    """What is published: so many signals, `rate` a second, 0 as fast as they are taken.

    `said`: how many each customer has given before. `clock_ms`: when time began, as a record's timestamp.
    """

    bootstrap: str
    topic: str
    signals: int
    rate: float
    said: Sequence[int]
    clock_ms: int


class Published(NamedTuple):
    """What came of it. `said`: how many each customer has given by now.

    `begun`: when (monotonic); `seconds`: until the last was acknowledged.
    """

    said: list[int]
    begun: float
    seconds: float


def publish(load: Load) -> Published:
    """Publish a load on a schedule that waits for nobody; returns when all of it is acknowledged.

    A customer's signals go to the partition that is theirs, in order. Raises `LoadFailed` when one is not taken.
    """
    refused: list[str] = []
    producer = _producer(load.bootstrap, refused)
    producer.list_topics(load.topic)
    said, tails = list(load.said), _tails()
    published = sum(said)
    draw = random.Random(published)
    between_ms = DAY_MS / SIGNALS_A_DAY / len(said)
    start = monotonic()
    for at in range(load.signals):
        if at % _AT_ONCE == 0:
            producer.poll(0)
            while load.rate and (wait := start + at / load.rate - monotonic()) > 0:
                sleep(wait)
        customer = int(draw.random() * len(said))
        said[customer] += 1
        user = name_of(customer)
        value = _value(user, said[customer], tails[(published + at) % _PATTERNS])
        at_ms = load.clock_ms + int((published + at) * between_ms)
        _produce(producer, load.topic, value, user.encode(), at_ms)
    left = producer.flush(_FLUSH_SECONDS)
    if left or refused:
        raise LoadFailed(f"{left} signals were not acknowledged, {len(refused)} were refused: {refused[:3]}")
    return Published(said, start, monotonic() - start)


def _producer(bootstrap: str, refused: list[str]) -> Producer:
    """A producer that puts keys where the engine does, keeps their order, and only tells what went wrong."""

    def note(error: KafkaError | None, _: object) -> None:
        if error is not None:
            refused.append(str(error))

    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "delivery.report.only.error": True,
            "on_delivery": note,
            "linger.ms": 5,
            "queue.buffering.max.messages": 500_000,
            "log_level": 3,
        }
    )


def _produce(producer: Producer, topic: str, value: bytes, key: bytes, timestamp_ms: int) -> None:
    while True:
        try:
            producer.produce(topic, value, key, timestamp=timestamp_ms)
        except BufferError:
            producer.poll(0.05)
        else:
            return


def _tails() -> list[bytes]:
    """What follows the number in different signals."""
    found = []
    for message in workload.signals(_PATTERNS, 1, "pattern"):
        body = msgspec.json.decode(message.value)
        properties = msgspec.json.encode(body.pop("properties"))
        rest = msgspec.json.encode({name: each for name, each in body.items() if name not in ("messageId", "userId")})
        found.append(properties[1:] + b"," + rest[1:])
    return found


def _value(customer: str, number: int, tail: bytes) -> bytes:
    """A signal's bytes, put together: encoding it anew would take the time of several."""
    head = f'{{"messageId":"{signal_id(customer, number)}","userId":"{customer}","properties":{{"number":{number},'
    return head.encode() + tail
