"""The reference: the same kind of work by aiokafka alone, in one screenful.

JSON signal → state by customer → JSON decision of the engine's size, at least once: idempotent producer, all
replicas acknowledge, offsets committed by hand once the decisions are. The client settings are the worker's. It
keeps its state in memory only and decides nothing, so it is the floor of an asyncio client, not an equal.

    python -m benchmarks.bare_loop HOST:PORT PREFIX DECISION_BYTES
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import Any

import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from agents.settings import Settings
from benchmarks.workload import EVENTS

_POLL_MS = 100


class Signal(msgspec.Struct, rename="camel"):
    """What the loop reads of a signal."""

    message_id: str
    user_id: str
    event: str = ""
    properties: dict[str, Any] = {}


class Customer(msgspec.Struct):
    """What it keeps of a customer."""

    signals: int = 0
    spent: float = 0.0
    last: dict[str, Any] = {}


class Decision(msgspec.Struct, rename="camel"):
    """What it answers; `content` makes up the size."""

    decision_id: str
    signal_id: str
    customer_id: str
    signals: int
    spent: float
    content: str


class Loop:
    """Handles what was fetched, while the decisions of the fetch before are on their way."""

    def __init__(self, settings: Settings, decision_bytes: int) -> None:
        self._settings = settings
        self._content = "x" * decision_bytes
        self._customers: dict[str, Customer] = {}
        self._pending: list[asyncio.Future[Any]] = []
        self._covered: dict[Any, int] = {}
        self._done: dict[Any, int] = {}
        self._committed_at = 0.0
        self._decode = msgspec.json.Decoder(Signal).decode
        self._encode = msgspec.json.Encoder().encode

    async def run(self, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, stop: asyncio.Event) -> None:
        """Work until told to stop."""
        while not stop.is_set():
            fetched = await consumer.getmany(timeout_ms=_POLL_MS)
            sent = [await producer.send(*answer) for answer in self._answers(fetched)]
            await self._settle(consumer)
            self._pending = sent
            self._covered = {at: records[-1].offset + 1 for at, records in fetched.items()}
        await self._settle(consumer, at_once=True)

    def _answers(self, fetched: Mapping[Any, Sequence[Any]]) -> Iterator[tuple[str, bytes, bytes, int]]:
        topic = f"{self._settings.prefix}decisions"
        for at, records in fetched.items():
            for record in records:
                answer = self._answer(record.value)
                if answer is not None:
                    yield topic, answer, record.key, at.partition

    def _answer(self, value: bytes) -> bytes | None:
        signal = self._decode(value)
        customer = self._customers.setdefault(signal.user_id, Customer())
        customer.signals += 1
        customer.spent += signal.properties.get("total", 0.0)
        customer.last = signal.properties
        if signal.event not in EVENTS:
            return None
        told = signal.message_id, signal.message_id, signal.user_id
        return self._encode(Decision(*told, customer.signals, customer.spent, self._content))

    async def _settle(self, consumer: AIOKafkaConsumer, *, at_once: bool = False) -> None:
        """Wait for the decisions of the fetch before; commit what they came from, as often as the worker does."""
        for future in self._pending:
            await future
        self._done |= self._covered
        due = monotonic() - self._committed_at > self._settings.commit_interval_seconds
        if self._done and (due or at_once):
            await consumer.commit(self._done)
            self._done, self._committed_at = {}, monotonic()


async def main(bootstrap: str, prefix: str, decision_bytes: int) -> None:
    """Run until SIGTERM."""
    settings = Settings(bootstrap=bootstrap, prefix=prefix)
    consumer = AIOKafkaConsumer(
        f"{prefix}signals",
        bootstrap_servers=bootstrap,
        group_id=f"{prefix}bare-loop",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=settings.fetch_wait_ms,
        max_partition_fetch_bytes=settings.fetch_bytes,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=0, max_batch_size=131_072
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with consumer, producer:
        await Loop(settings, decision_bytes).run(consumer, producer, stop)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
