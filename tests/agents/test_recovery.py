"""State on a real broker: killed workers go on from their copies, standbys from theirs; topics have ids."""

from __future__ import annotations

import asyncio
import re
import signal

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from agents.broker import BrokerKind
from agents.lineage import lineages
from tests.agents.worker_process import PARTITIONS, Group, Worker, until

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


@pytest.mark.parametrize(("store", "guarantee"), [("memory", "idempotent"), ("rocksdb", "exactly_once")])
def test_a_standby_takes_over_by_the_tail(kafka, unique_prefix, unique_group, tmp_path, store, guarantee):
    """One of two workers is killed: the other has its state, reads what is missing only, and nothing is lost."""
    where = {"store": store, "guarantee": guarantee, "standby_replicas": 1}
    group = Group(kafka.bootstrap, unique_prefix, unique_group, tmp_path)
    try:
        killed, left = (group.start(**where, state_dir=tmp_path / f"state-{number}") for number in range(2))
        until(lambda: len(killed.serves()) == len(left.serves()) == PARTITIONS // 2, "sharing")
        gone = killed.serves()
        for start in range(0, 3_000, 100):
            group.publish(signals(start, start + 100))
        until(lambda: len(group.read("decisions")) >= 3_000, "deciding together")
        until(lambda: lags(left) == dict.fromkeys(gone, 0), "following")
        group.publish(signals(3_000, 3_100))
        assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: left.serves() == list(range(PARTITIONS)), "taking over")
        group.publish(signals(3_100, 3_500))
        until(lambda: len(group.decisions()) >= 3_500, "deciding alone")
        read = int(re.findall(r"restored in .* s, (\d+) records read", left.said())[-1])
        there = sum(record.partition() in gone for record in group.read("profiles"))
        assert read < there / 5, f"{read} of {there}"
        assert "not used" not in left.said()
        assert left.stop() == 0
        assert len(group.decisions()) == 3_500, "one content per decision"
        assert sum(counter.count for counter in group.state().values()) == 3_500
    finally:
        group.close()


def lags(worker: Worker) -> dict[int, int]:
    """How far its standbys are behind, by partition."""
    lines = re.findall(r'batuta_standby_lag\{partition="(\d+)",topic="\S+profiles"\} (\S+)', worker.page("/metrics"))
    return {int(number): int(float(lag)) for number, lag in lines}


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
