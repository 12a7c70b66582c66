"""The floor of latency: every signal sent back by aiokafka as so many bytes, with nothing decided and nothing kept.

Reading, writing and committing are as in `benchmarks.bare_loop`; an answer has the size of a decision.

    python -m benchmarks.echo HOST:PORT PREFIX DECISION_BYTES
"""

from __future__ import annotations

import asyncio
import signal
import sys
from time import monotonic
from typing import Any

import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from agents.settings import Settings
from benchmarks.workload import EVENTS

_POLL_MS = 100


class _Signal(msgspec.Struct, rename="camel"):
    message_id: str
    event: str = ""


class _Answer(msgspec.Struct, rename="camel"):
    decision_id: str
    signal_id: str
    content: str


async def run(consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, settings: Settings, size: int) -> None:
    """Echo until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    decode, encode = msgspec.json.Decoder(_Signal).decode, msgspec.json.Encoder().encode
    topic, content = f"{settings.prefix}decisions", "x" * size
    pending: list[asyncio.Future[Any]] = []
    committed_at = 0.0
    while not stop.is_set():
        fetched = await consumer.getmany(timeout_ms=_POLL_MS)
        for at, records in fetched.items():
            for record in records:
                read = decode(record.value)
                if read.event in EVENTS:
                    answer = encode(_Answer(read.message_id, read.message_id, content))
                    pending.append(await producer.send(topic, answer, record.key, at.partition))
        if pending and monotonic() - committed_at > settings.commit_interval_seconds:
            await asyncio.gather(*pending)
            await consumer.commit()
            pending, committed_at = [], monotonic()
    await asyncio.gather(*pending)
    await consumer.commit()


async def main(bootstrap: str, prefix: str, size: int) -> None:
    """Run until SIGTERM."""
    settings = Settings(bootstrap=bootstrap, prefix=prefix)
    consumer = AIOKafkaConsumer(
        f"{prefix}signals",
        bootstrap_servers=bootstrap,
        group_id=f"{prefix}echo",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=settings.fetch_wait_ms,
        max_partition_fetch_bytes=settings.fetch_bytes,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=0, max_batch_size=131_072
    )
    async with consumer, producer:
        await run(consumer, producer, settings, size)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
