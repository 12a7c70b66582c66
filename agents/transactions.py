"""Transactions of one partition: its changelog records, its outputs and its offsets count together, or none does.

Every partition has a transactional id of its own, so that starting its transactions ends those of whoever had the
partition before, and fences it off: the broker refuses what a paused worker still sends. See ADR 17.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from agents.offsets import TopicPartition


class Transactions:
    """The transactions of one partition, one after another; a `Sender` while one is open.

    `producer`: a started, transactional AIOKafkaProducer. `group`: whose offsets are committed. Whatever is raised is
    for good: a transaction that cannot be committed is ended by the broker, or by whoever starts the next.
    """

    MARKERS = 1
    """Offsets that the end of a transaction takes in each partition written."""

    def __init__(self, producer: Any, group: str) -> None:
        self._producer = producer
        self._group = group
        self.under_way = False
        """Whether one was begun and is not committed."""

    async def begin(self) -> None:
        """Begin one; the one before is committed."""
        self.under_way = True
        await self._producer.begin_transaction()

    async def send(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> asyncio.Future[Any]:
        """Put a record into the transaction; the future is done when it is acknowledged."""
        future: asyncio.Future[Any] = await self._producer.send(topic, value, key, partition, timestamp_ms, headers)
        return future

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit what was sent, with these offsets of the group; the records are acknowledged when this returns."""
        if offsets:
            await self._producer.send_offsets_to_transaction(offsets, self._group)
        await self._producer.flush()
        await self._producer.commit_transaction()
        self.under_way = False

    async def close(self) -> None:
        """Let go of the producer."""
        await self._producer.stop()
