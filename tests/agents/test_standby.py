"""Standbys: kept up beside what is served, gone on from when their owner goes, and never in anybody's way."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterable
from time import perf_counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import standby
from agents.journal import EPOCH_HEADER, OWNER_KEY, Recovery
from agents.metrics import exposition
from agents.offsets import TopicPartition
from agents.settings import Settings
from agents.store import Claim, Lineage, Mark, MemoryCopy
from agents.tables import TableSpec, changelogs
from tests.agents.desk import ASSIGNED, PROFILES, ROLES, Desk
from tests.agents.kafka_in_memory import Kafka, Reader, Stored

NAMES = {"profiles": "batuta.profiles"}
DUE = {b"%d" % number: number for number in range(5)}
"""When somebody is to be woken; nobody by other values."""
SPEC = TableSpec("profiles", "profiles", lambda value: value, lambda value: value, due=DUE.get)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Rounds and pauses that tests can wait for."""
    monkeypatch.setattr(standby, "ROUND_SECONDS", 0.01)
    monkeypatch.setattr(standby, "_LEAST_PAUSE_SECONDS", 0.01)


@pytest.fixture(params=["memory", "rocksdb"])
def where(request, tmp_path):
    """Settings of each kind of store, a directory for every worker."""

    def settings(name: str) -> dict[str, Any]:
        local = {"store": "rocksdb", "state_dir": str(tmp_path / name)} if request.param == "rocksdb" else {}
        return {"standby_replicas": 1, "instance": name, **local}

    return settings


async def a_desk(kafka: Kafka, **given: Any) -> Desk:
    """A worker that is not assigned anything yet."""
    desk = Desk(kafka, **given)
    desk.ownership.start(kafka)
    return desk


async def assign(desk: Desk, partitions: Iterable[TopicPartition], standbys: Iterable[int] = ()) -> None:
    """Go through a whole assignment."""
    await desk.ownership.hand_over()
    assert await desk.ownership.take_over(list(partitions), ROLES, list(standbys))
    assert desk.ownership.open(desk.ownership.incarnation)


async def caught_up(desk: Desk, kafka: Kafka) -> None:
    """Wait until the standby has read all there is."""
    end = len(kafka.logs[PROFILES])
    async with asyncio.timeout(5):
        while True:
            recovery = desk.ownership._standbys._recovery
            if recovery is not None and recovery.readers[PROFILES].mark.position == end:
                break
            await asyncio.sleep(0.005)


async def until(condition) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - conditions of all kinds
            await asyncio.sleep(0.005)


def records_read(desk: Desk) -> float:
    """By the last take-over."""
    return desk.ownership.gauges()["recovery_records"][()]


# --- What it is for ---


async def test_taking_over_reads_only_what_the_standby_has_not(where):
    """The owner goes; its standby has the state at once, timers too, and counts on."""
    kafka = Kafka()
    owner, other = await a_desk(kafka, **where("owner")), await a_desk(kafka, **where("other"))
    await assign(owner, ASSIGNED)
    await assign(other, [], [0])
    assert other.ownership.serving, "ready without any partition, as ever"
    for number in range(40):
        await owner.signals([b"%d" % number], b"customer-%d" % (number % 8))
    await owner.signals([b"wake:99999999999999"])
    await until(lambda: not owner.ownership._offsets.pending())
    await caught_up(other, kafka)
    await owner.signals([b"unseen"])
    await owner.ownership.stop()
    await assign(other, ASSIGNED)
    assert len(kafka.logs[PROFILES]) > 40
    assert records_read(other) <= 2, "the last signal, and its own claim"
    assert [other.count(f"customer-{number}") for number in range(8)] == [5] * 8
    assert other.count("ana") == 2
    assert other.ownership.gauges()["timers_pending"] == {("0",): 1}
    await other.signals([b"more"])
    assert (other.count("ana"), owner.failures, other.failures) == (3, [], [])
    await other.ownership.stop()


async def test_a_partition_given_away_is_followed_from_what_is_there(where):
    """Its tables were here already: nothing is read again, neither at once nor when it comes back."""
    kafka = Kafka()
    first, second = await a_desk(kafka, **where("first")), await a_desk(kafka, **where("second"))
    await assign(first, ASSIGNED)
    for number in range(40):
        await first.signals([b"%d" % number], b"customer-%d" % number)
    await until(lambda: not first.ownership._offsets.pending())
    await first.ownership.hand_over()
    await assign(second, ASSIGNED)
    before = kafka.fetched
    await assign(first, [], [0])
    await caught_up(first, kafka)
    assert kafka.fetched - before == 1, "the claim of the new owner"
    await second.signals([b"a"], b"customer-7")
    await caught_up(first, kafka)
    await second.ownership.stop()
    await assign(first, ASSIGNED)
    assert records_read(first) == 1, "its own claim"
    assert [first.count(f"customer-{number}") for number in (6, 7)] == [1, 2]
    await first.ownership.stop()


async def test_a_partition_that_comes_back_changed_is_gone_on_from(where):
    """Somebody else had it for a moment: what was written meanwhile is read, and not what was here."""
    kafka = Kafka()
    first, second = await a_desk(kafka, **where("first")), await a_desk(kafka, **where("second"))
    await assign(first, ASSIGNED)
    for number in range(40):
        await first.signals([b"%d" % number], b"customer-%d" % number)
    await first.ownership.hand_over()
    await assign(second, ASSIGNED)
    await second.signals([b"a"], b"customer-7")
    await second.ownership.stop()
    await assign(first, ASSIGNED)
    assert records_read(first) == 3, "two claims and a signal"
    assert [first.count(f"customer-{number}") for number in (6, 7)] == [1, 2]
    await first.ownership.stop()


async def test_a_standby_that_is_somebody_elses_is_dropped():
    """In memory nothing of it is left."""
    kafka = Kafka()
    owner = await a_desk(kafka, instance="owner")
    await assign(owner, ASSIGNED)
    await owner.signals([b"a"])
    other = await a_desk(kafka, standby_replicas=1)
    await assign(other, [], [0])
    await caught_up(other, kafka)
    assert other.ownership._standbys._memory.keys() == {0}
    await assign(other, [])
    assert (other.ownership._standbys._memory, other.ownership._standbys._task) == ({}, None)
    assert other.ownership.gauges()["standby_lag"] == {}
    await other.ownership.stop()
    await owner.ownership.stop()


async def test_a_take_over_that_was_interrupted_is_gone_on_with():
    """Rebalances come in groups: what was read before the second is not read again after it."""
    kafka = Kafka()
    owner = await a_desk(kafka, instance="owner")
    await assign(owner, ASSIGNED)
    for number in range(20):
        await owner.signals([b"a"], b"customer-%d" % number)
    other = await a_desk(kafka, standby_replicas=1)
    await assign(other, [], [0])
    await caught_up(other, kafka)
    await owner.ownership.stop()
    kafka.changelog_sender.held = True
    taking = asyncio.create_task(other.ownership.take_over(ASSIGNED, ROLES))
    await until(lambda: kafka.changelog_sender.waiting)
    await other.ownership.hand_over()
    assert await taking is False
    for sent in kafka.changelog_sender.waiting:
        kafka.store(sent.at, sent.record)
    kafka.changelog_sender.waiting.clear()
    kafka.changelog_sender.held = False
    await assign(other, ASSIGNED)
    assert records_read(other) == 2, "two claims"
    assert (other.count("customer-19"), other.failures) == (1, [])
    await other.ownership.stop()


# --- What must not happen ---


async def test_what_goes_wrong_with_a_standby_ends_nothing(where, caplog):
    """A reader that fails is tried again; meanwhile the worker is as ready as before, and says nothing of a lag."""
    kafka, broken = Kafka(), [True]
    working = kafka.reader

    @contextlib.asynccontextmanager
    async def reader():
        if broken:
            raise OSError("no route to host")
        async with working() as consumer:
            yield consumer

    owner = await a_desk(kafka, **where("owner"))
    await assign(owner, ASSIGNED)
    await owner.signals([b"a"])
    other = await a_desk(kafka, **where("other"))
    kafka.reader = reader
    await assign(other, [], [0])
    await until(lambda: "no route to host" in caplog.text)
    assert (other.ownership.serving, other.failures, other.ownership.gauges()["standby_lag"]) == (True, [], {})
    broken.clear()
    await caught_up(other, kafka)
    await owner.ownership.stop()
    await assign(other, ASSIGNED)
    assert (records_read(other), other.count()) == (1, 1)
    await other.ownership.stop()


async def test_a_record_that_cannot_be_read_stops_the_standby_only(caplog):
    """Whoever takes the partition over will have to say so; the standby says it, and tries again."""
    kafka = Kafka()
    kafka.store(PROFILES, Stored(-1, 1, b"\xff", b"", ()))
    other = await a_desk(kafka, standby_replicas=1)
    await assign(other, [], [0])
    await until(lambda: caplog.text.count("Standby of partitions 0: UnicodeDecodeError") >= 2)
    assert (other.ownership.serving, other.failures) == (True, [])
    await other.ownership.stop()


async def test_pauses_grow():
    """What goes wrong again and again is tried less and less often."""
    kafka = Kafka()
    other = await a_desk(kafka, standby_replicas=1)

    def reader():
        raise OSError("away")

    kafka.reader = reader
    await assign(other, [], [0])
    await until(lambda: other.ownership._standbys._pause >= 16 * standby._LEAST_PAUSE_SECONDS)
    await other.ownership.stop()


async def test_without_ids_of_topics_there_is_no_standby(caplog):
    """Nobody could tell whether it is of the same topic; said once, and the worker serves."""
    kafka = Kafka()
    kafka.tells_ids = False
    other = await a_desk(kafka, standby_replicas=1)
    await assign(other, [], [0])
    await until(lambda: "does not tell the id of batuta.profiles" in caplog.text)
    await until(other.ownership._standbys._task.done)
    assert (other.ownership.serving, other.failures, other.ownership._standbys._memory) == (True, [], {})
    await other.ownership.stop()


async def test_none_is_kept_unless_asked_for():
    """Without the setting a partition that is given away is let go."""
    kafka = Kafka()
    desk = await a_desk(kafka)
    await assign(desk, ASSIGNED)
    await desk.signals([b"a"])
    await assign(desk, [])
    assert (desk.ownership._standbys._memory, Settings().standby_replicas) == ({}, 0)
    await desk.ownership.stop()


async def test_a_standby_leaves_the_loop_to_others(monkeypatch):
    """It asks for a bounded number of records at a time, and rests longer than it worked."""
    kafka, asked, worked = Kafka(), set(), []
    for number in range(60):
        kafka.store(PROFILES, Stored(-1, 1, b"customer-%d" % number, b"\x80", ()))
    getmany, save_all = Reader.getmany, MemoryCopy.save_all

    async def counted(self, *only, timeout_ms, max_records):
        asked.add(max_records)
        return await getmany(self, *only, timeout_ms=timeout_ms, max_records=max_records)

    def slow(self, marks):
        begun = perf_counter()
        while perf_counter() < begun + 0.002:
            pass
        save_all(self, marks)
        worked.append(perf_counter() - begun)

    monkeypatch.setattr(Reader, "getmany", counted)
    monkeypatch.setattr(MemoryCopy, "save_all", slow)
    other = await a_desk(kafka, standby_replicas=1)
    begun = perf_counter()
    await assign(other, [], [0])
    await caught_up(other, kafka)
    assert perf_counter() - begun >= (1 + standby.REST) * sum(worked[:15])
    assert (asked, len(worked) >= 20, standby.REST >= 1) == ({standby.RECORDS_AT_ONCE}, True, True)
    await other.ownership.stop()


# --- When it cannot be gone on from ---


async def test_a_standby_behind_the_beginning_starts_anew(where, caplog):
    """What was deleted below may have been deletions: everything is read again, and nothing deleted is left."""
    kafka = Kafka()
    owner = await a_desk(kafka, **where("owner"))
    await assign(owner, ASSIGNED)
    await owner.signals([b"a"], b"gone")
    await until(lambda: not owner.ownership._offsets.pending())
    other = await a_desk(kafka, **where("other"))
    await assign(other, [], [0])
    await caught_up(other, kafka)
    await other.ownership._standbys.halt()
    await owner.signals([b"a"], b"unread")
    await owner.signals([b"a"], b"here")
    await owner.ownership.stop()
    kafka.first[PROFILES] = len(kafka.logs[PROFILES]) - 1
    await assign(other, [], [0])
    await caught_up(other, kafka)
    assert "in batuta.profiles, which " in caplog.text
    await assign(other, ASSIGNED)
    assert other.ownership.gauges()["profiles"] == {("0",): 1}
    assert other.count("here") == 1
    await other.ownership.stop()


async def test_a_beginning_that_moves_past_a_standby_is_noticed(caplog):
    """The consumer goes on from the new beginning by itself, and does not say so."""
    kafka = Kafka()
    owner = await a_desk(kafka, instance="owner")
    await assign(owner, ASSIGNED)
    await owner.signals([b"a"], b"gone")
    await until(lambda: not owner.ownership._offsets.pending())
    other = await a_desk(kafka, standby_replicas=1)
    await assign(other, [], [0])
    await caught_up(other, kafka)
    await owner.signals([b"a"], b"unread")
    kafka.store(PROFILES, Stored(-1, 1, b"here", msgspec.msgpack.encode({"count": 4}), ()))
    kafka.first[PROFILES] = len(kafka.logs[PROFILES]) - 1
    await until(lambda: "which begins at" in caplog.text)
    await caught_up(other, kafka)
    await until(lambda: other.ownership._standbys._memory[0].tables["profiles"].keys() == {"here"})
    await other.ownership.stop()


LINEAGE = {"profiles": Lineage("id", 1_000_000)}


@pytest.mark.parametrize(
    ("lineages", "now_ms", "said"),
    [
        (LINEAGE, 900_001 + 5, "deletions since may have left the changelog"),
        ({"profiles": Lineage("another", 1_000_000)}, 10, "created anew"),
    ],
)
def test_what_cannot_be_trusted_is_forgotten(lineages, now_ms, said, caplog):
    """As a copy on disk: too old, or of another topic."""
    copy = MemoryCopy(3, {"profiles": {"a": b"1"}}, {"profiles": Mark(7, 5)})
    copy.open(LINEAGE, 900_000)
    assert copy.marks
    copy.open(lineages, now_ms)
    assert (copy.marks, copy.tables) == ({}, {"profiles": {}})
    assert f"The standby of partition 3 is not used: it is {'0 hours old' if 'since' in said else 'of'}" in caplog.text
    assert said in caplog.text


# --- The same state, wherever reading was interrupted ---


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 9)),
        st.tuples(st.just("delete"), st.sampled_from([b"a", b"b", b"c"]), st.just(0)),
        st.tuples(st.just("stale"), st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 9)),
        st.tuples(st.just("claim"), st.just(OWNER_KEY), st.just(0)),
        st.tuples(st.just("look"), st.just(b""), st.integers(1, 3)),
    ),
    max_size=40,
)


@given(OPERATIONS)
def test_a_standby_is_what_reading_from_the_beginning_gives(operations):
    """Owners change and paused ones write on; read piece by piece by one recovery after the other, it is the same."""
    asyncio.run(_play(operations))


async def _play(operations: list[tuple[str, bytes, int]]) -> None:
    kafka, epoch = Kafka(), 1
    copy = MemoryCopy(0, {"profiles": {}}, {})
    copy.dues["profiles"] = {}
    for what, key, number in operations:
        if what == "look":
            await _read(kafka, copy)
            continue
        epoch += what == "claim"
        value = {"delete": None, "claim": msgspec.json.encode(Claim("w", epoch, uuid.uuid4().hex))}.get(
            what, b"%d" % number
        )
        header = epoch - 1 if what == "stale" else epoch
        kafka.store(PROFILES, Stored(-1, 1, key, value, ((EPOCH_HEADER, b"%d" % header),)))
    read = await _read(kafka, copy)
    whole = MemoryCopy(0, {"profiles": {}}, {})
    assert await _read(kafka, whole) == len(kafka.logs[PROFILES]) >= read
    assert copy.tables == whole.tables
    (tables, _), (others, _) = changelogs([SPEC], copy.tables, copy.dues), changelogs([SPEC], whole.tables)
    assert sorted(tables["profiles"].dues()) == sorted(others["profiles"].dues())
    for marks in (copy.marks, whole.marks):
        marks["profiles"].at_ms = 0
    assert copy.marks == whole.marks


async def _read(kafka: Kafka, copy: MemoryCopy) -> int:
    """Read to the end; returns how many records were read."""
    _, logs = changelogs([SPEC], copy.tables, copy.dues)
    async with kafka.reader() as consumer:
        recovery = Recovery(consumer, {0: logs}, NAMES, {0: copy})
        await recovery.start()
        await recovery.read_to(await consumer.end_offsets([PROFILES]))
        return recovery.records[0]


async def test_the_metrics_tell_how_far_behind():
    """By changelog and partition, from the moment there is a standby."""
    kafka = Kafka()
    owner = await a_desk(kafka, instance="owner")
    await assign(owner, ASSIGNED)
    other = await a_desk(kafka, standby_replicas=1)
    await assign(other, [], [0])
    await caught_up(other, kafka)
    assert b'batuta_standby_lag{partition="0",topic="batuta.profiles"} 0.0' in exposition(other.ownership.metrics)
    await other.ownership.stop()
    await owner.ownership.stop()
