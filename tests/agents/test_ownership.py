"""Partitions change hands without loss: restored before work, finished and committed before they go."""

from __future__ import annotations

import asyncio

import pytest

from agents.journal import OWNER_KEY, Ousted
from agents.metrics import exposition
from agents.offsets import TopicPartition
from agents.ownership import copartitioned
from agents.partitions import Batch
from engine.arrival import KIND
from engine.murmur import partition_of
from tests.agents.desk import ASSIGNED, CUSTOMERS, PROFILES, ROLES, SIGNALS, Desk
from tests.agents.kafka_in_memory import Kafka, Stored


@pytest.fixture
async def desk():
    """A desk that serves partition 0."""
    desk = Desk(Kafka())
    desk.ownership.start(desk.kafka)
    await desk.serve()
    yield desk
    for task in desk.ownership._tasks:
        task.cancel()


async def until(condition) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110 - conditions of all kinds
            await asyncio.sleep(0.005)


async def test_work_is_committed_and_the_engine_hears_of_it(desk):
    """What is done is committed by the timer, and the state knows which offsets are."""
    await desk.signals([b"a", b"b"])
    await until(lambda: desk.kafka.committed.get(SIGNALS) == 2)
    partition = desk.ownership.partition(0)
    assert partition is not None
    assert partition.committed == {"signals": 2, "customers": 0}


async def test_handing_over_finishes_and_commits_first():
    """Partitions are let go only when everything begun is done and committed."""
    desk = Desk(Kafka(held=True), commit_interval_seconds=60)
    desk.ownership.start(desk.kafka)
    taking = asyncio.create_task(desk.serve())
    await until(lambda: desk.kafka.changelog_sender.waiting)
    desk.kafka.changelog_sender.release()
    await taking
    await desk.signals([b"a"])
    leaving = asyncio.create_task(desk.ownership.hand_over())
    await asyncio.sleep(0.02)
    assert not leaving.done()
    desk.kafka.changelog_sender.release()
    await until(lambda: desk.kafka.output_sender.waiting)
    desk.kafka.output_sender.release()
    await leaving
    assert desk.kafka.committed == {SIGNALS: 1}
    assert (desk.ownership.stage, desk.ownership.numbers(), desk.failures) == ("rebalancing", [], [])
    await desk.ownership.stop()


async def test_partitions_that_come_back_untouched_are_kept(desk):
    """After a rebalance that gave a partition back, nothing is read again and the epoch stays."""
    await desk.signals([b"a"])
    await desk.ownership.hand_over()
    before = desk.ownership._partitions[0]
    claims = sum(record.key == OWNER_KEY for record in desk.kafka.logs[PROFILES])
    await desk.serve()
    assert desk.ownership.partition(0) is before
    assert sum(record.key == OWNER_KEY for record in desk.kafka.logs[PROFILES]) == claims
    await desk.signals([b"b"])
    assert (desk.count(), desk.failures) == (2, [])


async def test_partitions_somebody_else_served_are_restored(desk):
    """When another worker had the partition in between, its state counts, under a higher epoch."""
    await desk.signals([b"a"])
    await desk.ownership.hand_over()
    other = Desk(desk.kafka, instance="other")
    other.ownership.start(other.kafka)
    await other.serve()
    await other.signals([b"b"])
    await other.ownership.stop()
    await desk.serve()
    partition = desk.ownership.partition(0)
    assert partition is not None
    assert (desk.count(), partition.journal.epoch) == (2, 3)


async def test_a_worker_goes_on_from_its_local_copy(tmp_path):
    """After a restart only the claims are read, and what was counted is there, with who is to be woken."""
    kafka, where = Kafka(), {"store": "rocksdb", "state_dir": str(tmp_path)}
    desk = Desk(kafka, **where)
    desk.ownership.start(kafka)
    await desk.serve()
    await desk.signals([b"a", b"b", b"wake:99999999999999"])
    await until(lambda: not desk.ownership._offsets.pending())
    await desk.ownership.stop()
    before = kafka.fetched
    desk = Desk(kafka, **where)
    desk.ownership.start(kafka)
    await desk.serve()
    assert kafka.fetched - before == 1, "its own claim"
    assert (desk.count(), desk.failures) == (3, [])
    assert desk.ownership.gauges()["timers_pending"] == {("0",): 1}
    assert desk.ownership.gauges()["profiles"] == {("0",): 1}
    await desk.signals([b"c"])
    assert desk.count() == 4
    await desk.ownership.stop()


async def test_a_damaged_copy_is_made_anew_while_restoring(tmp_path, caplog):
    """Damage found on the way costs a read of the changelog and one line, not the worker."""
    kafka, where = Kafka(), {"store": "rocksdb", "state_dir": str(tmp_path)}
    desk = Desk(kafka, **where)
    desk.ownership.start(kafka)
    await desk.serve()
    for number in range(50):
        await desk.signals([b"x" * 400], b"customer-%d" % number)
    await until(lambda: not desk.ownership._offsets.pending())
    desk.ownership._store._database._rdict.flush()
    await desk.ownership.stop()
    tables = list(tmp_path.glob("batuta/0/*.sst"))
    for table in tables:
        content = bytearray(table.read_bytes())
        content[: len(content) // 2] = b"?" * (len(content) // 2)
        table.write_bytes(content)
    desk = Desk(kafka, **where)
    desk.ownership.start(kafka)
    await desk.serve()
    assert tables
    assert desk.ownership.gauges()["profiles"] == {("0",): 50}
    assert desk.failures == []
    assert sum("made anew" in record.message for record in caplog.records) == 1
    assert {path.name for path in tmp_path.glob("batuta/*")} == {"0", "0.lock"}, "in the same place"
    assert b'batuta_state_copies_total{result="discarded"} 1.0' in exposition(desk.ownership.metrics)
    await desk.ownership.stop()


async def test_without_ids_of_topics_state_is_in_memory(tmp_path, caplog):
    """A broker that does not tell which topic it is gives no ground to trust a copy."""
    kafka = Kafka()
    kafka.tells_ids = False
    desk = Desk(kafka, store="rocksdb", state_dir=str(tmp_path))
    desk.ownership.start(kafka)
    await desk.serve()
    await desk.signals([b"a"])
    assert (desk.count(), desk.failures) == (1, [])
    assert "does not tell the id of batuta.profiles; state is kept in memory" in caplog.text
    await desk.ownership.stop()


async def test_batches_of_an_earlier_assignment_are_dropped(desk):
    """A batch that was fetched before a rebalance is not processed after it."""
    record = desk.kafka.store(SIGNALS, Stored(-1, 1, b"ana", b"a", ()))
    late = Batch("signals", SIGNALS, 0, [record], desk.ownership.incarnation)
    await desk.ownership.hand_over()
    await desk.ownership.process(late)
    await desk.serve()
    await desk.ownership.process(late)
    assert desk.ownership._offsets.pending() == 0
    assert desk.kafka.logs[PROFILES][-1].key == OWNER_KEY


async def test_revoked_while_restoring():
    """Partitions that are revoked while their state is restored are not opened."""
    desk = Desk(Kafka(held=True))
    desk.ownership.start(desk.kafka)
    taking = asyncio.create_task(desk.ownership.take_over(ASSIGNED, ROLES))
    await until(lambda: desk.kafka.changelog_sender.waiting)
    assert desk.ownership.stage == "restoring state"
    await desk.ownership.hand_over()
    assert await taking is False
    assert desk.ownership.open(desk.ownership.incarnation) is False
    assert (desk.ownership.serving, desk.failures) == (False, [])
    await desk.ownership.stop()
    late = asyncio.wait_for(desk.ownership.take_over(ASSIGNED, ROLES), 1)
    assert await late is False, "a worker that stops takes nothing over"


async def test_failure_to_restore_is_raised():
    """What goes wrong while restoring is not mistaken for a rebalance."""
    desk = Desk(Kafka())
    desk.ownership.start(desk.kafka)
    desk.kafka.store(PROFILES, Stored(-1, 1, b"\xff", b"", ()))
    with pytest.raises(UnicodeDecodeError):
        await desk.ownership.take_over(ASSIGNED, ROLES)
    await desk.ownership.stop()


async def test_work_that_does_not_finish_ends_the_worker():
    """A worker that cannot finish in time before it hands over ends, so that nothing is half done."""
    desk = Desk(Kafka())
    desk.ownership.start(desk.kafka)
    await desk.serve()
    desk.kafka.output_sender.held = True
    await desk.signals([b"a"])
    await desk.ownership.hand_over()
    assert desk.failures == ["1 batches could not be finished and committed in 0.2 s: "]
    assert desk.kafka.committed == {}
    await desk.ownership.stop()


async def test_silence_of_the_group_ends_the_worker(desk):
    """A worker whose heartbeats are not answered for a session must assume that it was replaced."""
    desk.ownership.check()
    desk.kafka.silent_seconds = 10.1
    with pytest.raises(Ousted, match=r"no heartbeat was answered for 10.1 s"):
        desk.ownership.check()
    await until(lambda: desk.failures)
    assert desk.failures[0].startswith("_watch: no heartbeat")


async def test_no_progress_ends_the_worker(desk):
    """Batches at work of which none gets done for too long are noticed, and told to the health check."""
    desk.kafka.output_sender.held = True
    assert desk.ownership.stalled() is None
    await desk.signals([b"a"])
    await until(lambda: desk.failures)
    assert desk.failures[0].startswith("_watch: 1 batches at work, none done for ")
    assert desk.ownership.stalled() is not None


async def test_refused_commit_is_not_taken_for_one(desk):
    """When the group has rebalanced, a commit is not counted, and the engine keeps what it would send again."""
    desk.kafka.commits_accepted = False
    await desk.signals([b"a"])
    await until(lambda: not desk.ownership._offsets.pending())
    await desk.ownership.commit()
    partition = desk.ownership.partition(0)
    assert partition is not None
    assert partition.committed["signals"] == 0


async def test_batches_at_work_are_bounded():
    """No more than the set number of batches is begun; the next waits for one to be done, or for a rebalance."""
    desk = Desk(Kafka(), batches_in_flight=2, stall_seconds=60)
    desk.ownership.start(desk.kafka)
    await desk.serve()
    desk.kafka.output_sender.held = True
    await desk.signals([b"a"])
    await desk.ownership.room()
    await desk.signals([b"b"])
    waiting = asyncio.create_task(desk.ownership.room())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    desk.kafka.output_sender.release()
    await asyncio.wait_for(waiting, 1)
    await desk.signals([b"c"])
    waiting = asyncio.create_task(desk.ownership.room())
    await asyncio.sleep(0)
    await desk.ownership.hand_over()
    await asyncio.wait_for(waiting, 1)
    await desk.ownership.stop()


async def test_due_customers_are_woken_by_a_message(desk):
    """When a customer is due, a tick goes to the partition that owns the customer; never before."""
    await desk.signals([b"wake:0"], b"due")
    await desk.signals([b"wake:99999999999999"], b"later")
    await until(lambda: desk.kafka.logs[CUSTOMERS])
    await asyncio.sleep(0.1)
    (tick,) = desk.kafka.logs[CUSTOMERS]
    assert (tick.key, tick.headers, partition_of("due", 1)) == (b"due", ((KIND, b"tick"),), 0)
    assert desk.ownership.gauges()["timers_pending"] == {("0",): 1}


async def test_nobody_is_woken_before_what_was_said_is_heard(desk):
    """With signals unread, a tick waits until they are handled: they may be what it should not overtake."""
    unread = desk.kafka.store(SIGNALS, Stored(-1, 1, b"ana", b"bought", ()))
    partition = desk.ownership.partition(0)
    partition.timers.schedule("ana", 5000)
    await asyncio.sleep(0.15)
    assert not desk.kafka.logs[CUSTOMERS]
    await desk.ownership.process(Batch("signals", SIGNALS, 0, [unread], desk.ownership.incarnation))
    await until(lambda: desk.kafka.logs[CUSTOMERS])
    (tick,) = desk.kafka.logs[CUSTOMERS]
    assert (tick.key, tick.timestamp) == (b"ana", 5000)


async def test_gauges_tell_what_is_current(desk):
    """Profiles, lag and the time of the last takeover are there for the metrics."""
    await desk.signals([b"a"])
    desk.kafka.store(SIGNALS, Stored(-1, 1, b"ana", b"unread", ()))
    gauges = desk.ownership.gauges()
    assert gauges["profiles"] == {("0",): 1}
    assert gauges["consumer_lag"] == {("batuta.signals", "0"): 1, ("batuta.customers", "0"): 0}
    assert gauges["recovery_seconds"][()] >= 0
    await until(lambda: desk.ownership.gauges()["batches_in_flight"] == {(): 0})
    assert gauges["tasks"] == {(): len(asyncio.all_tasks())}
    assert gauges["memory_blocks"][()] > 0


def test_torn_assignment_is_refused():
    """When topics that belong together are not assigned together, the text says what to do."""
    both = [TopicPartition(topic, number) for topic in ROLES for number in (0, 3)]
    assert copartitioned([*both, TopicPartition("batuta.models", 1)], ROLES) == {0, 3}
    with pytest.raises(ValueError, match=r"partition 3 was assigned without batuta.customers; .* stop them all"):
        copartitioned(both[:3], ROLES)
