"""Local copies on a real broker: a killed worker goes on from its own, and topics are known by their ids."""

from __future__ import annotations

import asyncio
import signal

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from agents.broker import BrokerKind
from agents.lineage import lineages
from tests.agents.worker_process import PARTITIONS, Group, until

KEYS = [b"customer-%d" % number for number in range(40)]


@pytest.fixture
def kafka(broker):
    """The broker of the session, if it is Apache Kafka."""
    if broker.kind is not BrokerKind.KAFKA:
        pytest.skip("the embedded broker neither has idempotent producers nor tells the ids of topics")
    return broker


def signals(start: int, end: int) -> list[tuple[bytes, bytes]]:
    """Numbered signals of all customers in turn."""
    return [(KEYS[number % len(KEYS)], b"%d" % number) for number in range(start, end)]


def test_a_killed_worker_goes_on_from_its_copy(kafka, unique_prefix, unique_group, tmp_path):
    """Killed at work, again and again: every record counts once, on top of what the copy has."""
    group = Group(kafka.bootstrap, unique_prefix, unique_group, tmp_path)
    where = {"store": "rocksdb", "state_dir": tmp_path / "state"}
    try:
        worker = group.start(**where)
        until(worker.serves, "serving")
        for life in range(3):
            group.publish(signals(life * 2_000, (life + 1) * 2_000))
            until(lambda: len(group.decisions()) >= life * 2_000 + 500, "deciding")  # noqa: B023 - used at once
            assert worker.stop(signal.SIGKILL) == -signal.SIGKILL
            worker = group.start(**where)
            until(lambda: worker.serves() == list(range(PARTITIONS)), "serving again")  # noqa: B023 - used at once
            assert "not used" not in worker.said()
        until(lambda: len(group.decisions()) >= 6_000, "catching up")
        assert worker.stop() == 0
        assert {counter.count for counter in group.state().values()} == {150}
    finally:
        group.close()


def test_a_topic_created_anew_has_another_id(kafka, unique_prefix):
    """What tells a topic from its successor of the same name; and how long it keeps tombstones."""
    name = f"{unique_prefix}state"

    async def create_and_look() -> str:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        try:
            settings = {"cleanup.policy": "compact", "delete.retention.ms": "7777"}
            await admin.create_topics([NewTopic(name, 1, 1, topic_configs=settings)])
            async with asyncio.timeout(20):
                while name not in (found := await lineages(kafka.bootstrap, [name, f"{unique_prefix}none"])):  # noqa: ASYNC110 - Kafka has no event for it
                    await asyncio.sleep(0.1)
            assert found.keys() == {name}
            assert found[name].tombstones_ms == 7777
            await admin.delete_topics([name])
            async with asyncio.timeout(20):
                while name in await lineages(kafka.bootstrap, [name]):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.1)
            return found[name].topic_id
        finally:
            await admin.close()

    first, second = asyncio.run(create_and_look()), asyncio.run(create_and_look())
    assert first != second
