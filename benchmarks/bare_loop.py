"""The reference: the worker's work by aiokafka alone, in one screenful.

JSON signal → the engine's decision core → JSON decision, state kept in a dict and changelogged to a compacted topic, at
least once: idempotent producer, all replicas acknowledge, offsets committed by hand once decisions and changelog are
safe. The client settings are the worker's. It never restores its state and sends decisions before the state that
remembers them is safe, so it is the floor of an asyncio client, not an equal.

    python -m benchmarks.bare_loop HOST:PORT PREFIX CANDIDATES PARTITIONS
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from agents.settings import Settings
from agents.topics import MAX_RECORD_BYTES
from benchmarks.deciding import ROLE, Deciding
from engine.record import Record

_POLL_MS = 100


class Loop:
    """Handles what was fetched, while what came of the fetch before is on its way."""

    def __init__(self, settings: Settings, deciding: Deciding) -> None:
        self._settings = settings
        self._deciding = deciding
        self._pending: list[asyncio.Future[Any]] = []
        self._covered: dict[Any, int] = {}
        self._done: dict[Any, int] = {}
        self._committed_at = 0.0

    async def run(self, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, stop: asyncio.Event) -> None:
        """Work until told to stop."""
        while not stop.is_set():
            fetched = await consumer.getmany(timeout_ms=_POLL_MS)
            sent = [await producer.send(*each) for each in self._written(fetched)]
            await self._settle(consumer)
            self._pending = sent
            self._covered = {at: records[-1].offset + 1 for at, records in fetched.items()}
        await self._settle(consumer, at_once=True)

    def _written(self, fetched: Mapping[Any, Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
        prefix = self._settings.prefix
        for at, records in fetched.items():
            for each in records:
                record = Record(
                    ROLE, at.partition, each.offset, each.timestamp, each.key, each.value, tuple(each.headers)
                )
                for output in self._deciding.decide(record):
                    yield prefix + output.topic, output.value, output.key, at.partition, None, list(output.headers)
            for key, value in self._deciding.changes(at.partition):
                yield f"{prefix}profiles", value, key, at.partition

    async def _settle(self, consumer: AIOKafkaConsumer, *, at_once: bool = False) -> None:
        """Wait for what came of the fetch before; commit its offsets, as often as the worker does."""
        for future in self._pending:
            await future
        self._done |= self._covered
        due = monotonic() - self._committed_at > self._settings.commit_interval_seconds
        if self._done and (due or at_once):
            await consumer.commit(self._done)
            for at, offset in self._done.items():
                self._deciding.committed(at.partition, offset)
            self._done, self._committed_at = {}, monotonic()


async def main(bootstrap: str, prefix: str, candidates: int, partitions: int) -> None:
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
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        max_batch_size=131_072,
        max_request_size=MAX_RECORD_BYTES,
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with consumer, producer:
        await Loop(settings, Deciding(candidates, partitions)).run(consumer, producer, stop)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
