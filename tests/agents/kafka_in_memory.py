"""Kafka as the worker sees it, in memory: a log per topic partition, producers, readers and a group of one.

Held to the real thing by `test_worker.py`, which runs the same worker on a broker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from agents.offsets import TopicPartition
from agents.store import Lineage


class Stored(NamedTuple):
    """One record of a log."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Sent:
    """A record on its way: `acknowledge` puts it into the log."""

    def __init__(self, kafka: Kafka, at: TopicPartition, record: Stored) -> None:
        self.at, self.record = at, record
        self._kafka = kafka
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def acknowledge(self) -> None:
        """Store the record and tell its offset."""
        self.future.set_result(self._kafka.store(self.at, self.record))


class Sender:
    """A producer. Acknowledges at once, unless `held`: then the test does, record by record, from `waiting`."""

    def __init__(self, kafka: Kafka, *, held: bool = False) -> None:
        self._kafka = kafka
        self.held = held
        self.waiting: list[Sent] = []

    async def send(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> asyncio.Future[Any]:
        """As `agents.journal.Sender.send`."""
        record = Stored(-1, timestamp_ms or 0, key, value, tuple(headers or ()))
        sent = Sent(self._kafka, TopicPartition(topic, partition or 0), record)
        self.waiting.append(sent)
        if not self.held:
            self.release()
        return sent.future

    def release(self) -> None:
        """Acknowledge everything that waits, in order."""
        for sent in self.waiting:
            sent.acknowledge()
        self.waiting.clear()


class TransactionalProducer(Sender):
    """A producer of transactions: what is sent is in the logs when one is committed, and ends with a marker each."""

    def __init__(self, kafka: Kafka) -> None:
        super().__init__(kafka, held=True)
        self._offsets: dict[TopicPartition, int] = {}

    async def begin_transaction(self) -> None:
        """Begin one."""
        assert not self.waiting

    async def send_offsets_to_transaction(self, offsets: Mapping[TopicPartition, int], group: str) -> None:  # noqa: ARG002 - as the real one
        """Have offsets committed with it."""
        self._offsets.update(offsets)

    async def flush(self) -> None:
        """Everything sent is with the broker."""

    async def commit_transaction(self) -> None:
        """Commit records and offsets."""
        written = {sent.at for sent in self.waiting}
        self.release()
        for at in written:
            self._kafka.store(at, Stored(-1, 0, None, None, ()))
        self._kafka.committed |= self._offsets
        self._offsets.clear()

    async def stop(self) -> None:
        """Nothing to let go of."""


class Reader:
    """A consumer without a group."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._logs = kafka.logs
        self._positions: dict[TopicPartition, int] = {}

    def assign(self, partitions: Collection[TopicPartition]) -> None:
        """Read these partitions."""
        self._positions = dict.fromkeys(partitions, 0)

    def seek(self, at: TopicPartition, offset: int) -> None:
        """Read on from an offset."""
        self._positions[at] = offset

    async def beginning_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Offsets of the first records."""
        return {at: self._kafka.first[at] for at in partitions}

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Offsets after the last records."""
        return {at: len(self._logs[at]) for at in partitions}

    async def position(self, at: TopicPartition) -> int:
        """Offset of the next record read."""
        return self._positions[at]

    async def getmany(self, *only: TopicPartition, timeout_ms: int, max_records: int = 3) -> dict[TopicPartition, Any]:  # noqa: ARG002 - as the real one
        """Up to `max_records` records of each partition."""
        await asyncio.sleep(0)
        fetched = {}
        for at in only or tuple(self._positions):
            start = max(self._positions[at], self._kafka.first[at])
            records = self._logs[at][start : start + min(max_records, 3)]
            self._positions[at] = start + len(records)
            if records:
                fetched[at] = records
                self._kafka.fetched += len(records)
        return fetched


class Kafka:
    """A cluster and the one worker that is connected to it; as `agents.ownership.Cluster`."""

    def __init__(self, *, held: bool = False) -> None:
        self.logs: dict[TopicPartition, list[Stored]] = defaultdict(list)
        self.first: dict[TopicPartition, int] = defaultdict(int)
        """Where the logs begin; what is below was deleted."""
        self.changelog_sender = Sender(self, held=held)
        self.output_sender = Sender(self, held=held)
        self.committed: dict[TopicPartition, int] = {}
        self.commits_accepted = True
        self.silent_seconds = 0.0
        self.tells_ids = True
        self.topic_ids: dict[str, str] = {}
        self.fetched = 0
        """Records that readers without a group have fetched."""

    def store(self, at: TopicPartition, record: Stored) -> Stored:
        """Append a record; returns it with its offset."""
        stored = record._replace(offset=len(self.logs[at]))
        self.logs[at].append(stored)
        return stored

    @contextlib.asynccontextmanager
    async def reader(self):
        """A consumer without a group."""
        yield Reader(self)

    async def starting_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Committed offsets, or 0."""
        return {at: self.committed.get(at, 0) for at in partitions}

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Offsets after the last records."""
        return {at: len(self.logs[at]) for at in partitions}

    async def lineages(self, topics: Collection[str]) -> dict[str, Lineage]:
        """Topics have the ids they are given, or their own names; tombstones stay for a day."""
        told = topics if self.tells_ids else ()
        return {topic: Lineage(self.topic_ids.get(topic, topic), 86_400_000) for topic in told}

    async def commit_offsets(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Take a commit, unless the group has rebalanced."""
        if self.commits_accepted:
            self.committed |= offsets
        return self.commits_accepted

    def behind(self, at: TopicPartition, begun: int) -> int | None:
        """Records from `begun` on."""
        return len(self.logs[at]) - begun

    def silence(self) -> float:
        """Seconds without an answer of the coordinator."""
        return self.silent_seconds
