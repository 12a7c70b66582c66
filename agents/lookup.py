"""Look inside a running engine through its topics: one customer's profile, one decision. What the CLI shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from agents.topics import ISOLATION_LEVEL
from engine.identity import Identity
from engine.murmur import partition_of
from engine.profile import Profile, decode_profile

CONNECT_SECONDS = 15.0
MAX_REDIRECTS = 16


async def find_profile(bootstrap: str, prefix: str, customer: str) -> Profile | None:
    """The profile of a customer or of whoever an identifier belongs to, from the changelogs; None: nobody known.

    Raises KafkaError or TimeoutError when the broker cannot be reached, LookupError when the topics are not there.
    """
    async with _Reader(bootstrap) as reader:
        key = customer
        for _ in range(MAX_REDIRECTS):
            value = await reader.last_value(f"{prefix}identities", key)
            if value is None:
                break
            key = msgspec.msgpack.decode(value, type=Identity).canonical
        value = await reader.last_value(f"{prefix}profiles", key)
        return None if value is None else decode_profile(value)


async def find_decision(bootstrap: str, prefix: str, decision_id: str) -> bytes | None:
    """The decision with an id, as JSON, from all that `decisions` still holds; None when it is not there.

    Raises as `find_profile` does.
    """
    needle = b'"decisionId":"' + decision_id.encode() + b'"'
    async with _Reader(bootstrap) as reader:
        async for record in reader.records(f"{prefix}decisions"):
            if record.value is not None and needle in record.value:
                return bytes(record.value)
    return None


class _Reader:
    """Reads topics from their beginning to where they end at this moment; in no group, so nobody is disturbed."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    async def __aenter__(self) -> Self:
        self._consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=ISOLATION_LEVEL,
        )
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._consumer.start()
        except BaseException:
            await self._consumer.stop()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._consumer.stop()

    async def last_value(self, topic: str, key: str) -> bytes | None:
        """The last value of a key, from the partition that owns it."""
        wanted, found = key.encode(), None
        async for record in self.records(topic, key):
            if record.key == wanted:
                found = record.value
        return found

    async def records(self, topic: str, key: str | None = None) -> AsyncIterator[ConsumerRecord[Any, Any]]:
        """Every record of a topic, or of the partition that owns a key."""
        count = await self._partition_count(topic)
        numbers = range(count) if key is None else [partition_of(key, count)]
        partitions = [TopicPartition(topic, number) for number in numbers]
        self._consumer.assign(partitions)
        starts = await self._consumer.beginning_offsets(partitions)
        ends = await self._consumer.end_offsets(partitions)
        await self._consumer.seek_to_beginning(*partitions)
        unread = {each for each in partitions if ends[each] > starts[each]}
        while unread:
            for batch in (await self._consumer.getmany(*unread, timeout_ms=500)).values():
                for record in batch:
                    yield record
            unread = {each for each in unread if await self._consumer.position(each) < ends[each]}

    async def _partition_count(self, topic: str) -> int:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
        await admin.start()
        try:
            (described,) = await admin.describe_topics([topic])
        finally:
            await admin.close()
        if described["error_code"]:
            raise LookupError(f"there is no topic {topic} at {self._bootstrap}; is the prefix right?")
        return len(described["partitions"])
