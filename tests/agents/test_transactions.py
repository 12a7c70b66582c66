"""Transactions of a partition on a real broker: all of one counts or nothing, and a successor fences its forerunner."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import IllegalOperation, KafkaError

from agents.broker import BrokerKind, RunningBroker
from agents.offsets import TopicPartition
from agents.topics import ISOLATION_LEVEL
from agents.transactions import Transactions


class Hall:
    """Topics of one test, and whoever writes to them in transactions."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.bootstrap = bootstrap
        self.state, self.decisions, self.signals = (
            TopicPartition(f"{prefix}{role}", 0) for role in ("profiles", "decisions", "signals")
        )
        self.group = f"{prefix}group"
        self._producers: list[AIOKafkaProducer] = []

    async def build(self) -> None:
        """Create the topics."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(at.topic, 1, 1) for at in (self.state, self.decisions, self.signals)])
        await admin.close()

    async def transactions(self) -> Transactions:
        """Those of whoever takes the partition over next."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, transactional_id=f"{self.group}-0", acks="all")
        self._producers.append(producer)
        await producer.start()
        return Transactions(producer, self.group)

    async def write(self, transactions: Transactions, word: bytes) -> None:
        """Begin a transaction and put state and a decision into it."""
        await transactions.begin()
        for at in (self.state, self.decisions):
            await transactions.send(at.topic, word, b"ana", at.partition)

    async def seen(self) -> tuple[list[bytes], list[bytes], int | None]:
        """State, decisions and committed offset, as a consumer of committed records sees them; and where they end."""
        async with AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            group_id=self.group,
            enable_auto_commit=False,
            isolation_level=ISOLATION_LEVEL,
        ) as consumer:
            consumer.assign([self.state, self.decisions, self.signals])
            found = [await self._values(consumer, at) for at in (self.state, self.decisions)]
            return found[0], found[1], await consumer.committed(self.signals)

    async def _values(self, consumer: AIOKafkaConsumer, at: TopicPartition) -> list[bytes]:
        await consumer.seek_to_beginning(at)
        end = (await consumer.end_offsets([at]))[at]
        values: list[bytes] = []
        while await consumer.position(at) < end:
            fetched = await consumer.getmany(at, timeout_ms=100)
            values += [record.value for record in fetched.get(at, ())]
        return values

    async def close(self) -> None:
        """Let go of all producers."""
        for producer in self._producers:
            with contextlib.suppress(KafkaError):
                await producer.stop()


@pytest.fixture
async def hall(broker: RunningBroker, unique_prefix: str) -> AsyncIterator[Hall]:
    """Topics nobody has written to."""
    if broker.kind is not BrokerKind.KAFKA:
        pytest.skip("the embedded broker has no transactions")
    hall = Hall(broker.bootstrap, unique_prefix)
    await hall.build()
    yield hall
    await hall.close()


async def test_all_of_a_transaction_counts_or_nothing(hall: Hall):
    """State, outputs and offsets are there together once it is committed, and none of them before."""
    transactions = await hall.transactions()
    assert not transactions.under_way
    await hall.write(transactions, b"one")
    assert transactions.under_way
    assert await hall.seen() == ([], [], None)
    await transactions.commit({hall.signals: 7})
    assert not transactions.under_way
    assert await hall.seen() == ([b"one"], [b"one"], 7)
    await transactions.begin()
    await transactions.commit({hall.signals: 9})
    assert await hall.seen() == ([b"one"], [b"one"], 9)
    await transactions.close()


async def test_a_successor_undoes_what_was_begun_and_fences_who_began_it(hall: Hall):
    """Whatever the forerunner tries afterwards is refused; its offsets and records never count."""
    forerunner = await hall.transactions()
    await hall.write(forerunner, b"safe")
    await forerunner.commit({hall.signals: 1})
    await hall.write(forerunner, b"torn")
    successor = await hall.transactions()
    assert await hall.seen() == ([b"safe"], [b"safe"], 1)
    await hall.write(successor, b"next")
    await successor.commit({hall.signals: 2})
    # It is told by the broker, or knows already that its transaction is over.
    with pytest.raises((KafkaError, IllegalOperation)):
        await forerunner.commit({hall.signals: 5})
    assert await hall.seen() == ([b"safe", b"next"], [b"safe", b"next"], 2)


async def test_the_end_of_a_transaction_takes_one_offset(hall: Hall):
    """What a journal expects between what it wrote in one transaction and in the next."""
    transactions = await hall.transactions()
    offsets = []
    for word in (b"one", b"two", b"three"):
        await transactions.begin()
        sent = await transactions.send(hall.state.topic, word, b"ana", 0)
        await transactions.commit({})
        offsets.append((await sent).offset)
    step = 1 + Transactions.MARKERS
    assert offsets == [0, step, 2 * step]
