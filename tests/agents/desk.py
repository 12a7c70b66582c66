"""A worker's `Ownership` of one partition, on a Kafka in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agents import topics
from agents.metrics import Metrics
from agents.offsets import TopicPartition
from agents.ownership import Ownership
from agents.partitions import Batch, Routes
from agents.settings import Settings
from tests.agents.counting import counting_engine
from tests.agents.kafka_in_memory import Kafka, Stored

ROLES = {"batuta.signals": "signals", "batuta.customers": "customers"}
SIGNALS, CUSTOMERS = (TopicPartition(topic, 0) for topic in ROLES)
PROFILES = TopicPartition("batuta.profiles", 0)
ASSIGNED = [SIGNALS, CUSTOMERS]


class Desk:
    """An `Ownership` on a Kafka in memory; `failures` gathers what would have ended the process."""

    def __init__(self, kafka: Kafka, **given: Any) -> None:
        self.kafka = kafka
        self.failures: list[str] = []
        quick = {"partitions": 1, "drain_seconds": 0.2, "commit_interval_seconds": 0.01, "stall_seconds": 0.3}
        settings = Settings(**{**quick, **given})
        routes = Routes("batuta.", settings.partitions, topics.BY_KEY)
        self.ownership = Ownership(settings, counting_engine(), routes, Metrics(), self._fail)

    def _fail(self, what: str, error: BaseException) -> None:
        self.failures.append(f"{what}: {error}")

    async def serve(self) -> None:
        """Go through a whole assignment."""
        assert await self.ownership.take_over(ASSIGNED, ROLES)
        assert self.ownership.open(self.ownership.incarnation)

    async def signals(self, values: Iterable[bytes], key: bytes = b"ana") -> None:
        """Have a batch of signals processed."""
        log = self.kafka.logs[SIGNALS]
        records = [self.kafka.store(SIGNALS, Stored(-1, 1, key, value, ())) for value in values]
        assert records[-1].offset == len(log) - 1
        self.ownership.deliver()
        start = records[0].offset
        await self.ownership.process(Batch("signals", SIGNALS, start, records, self.ownership.incarnation))

    def count(self, key: str = "ana") -> int:
        """What the state says was counted."""
        partition = self.ownership.partition(0)
        assert partition is not None
        return partition.tables["profiles"][key].count
