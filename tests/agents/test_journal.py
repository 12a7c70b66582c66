"""State has one owner: what a worker wrote that had lost its partition counts for nothing."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.journal import (
    EPOCH_HEADER,
    OWNER_KEY,
    Claimant,
    Journal,
    Ousted,
    Reader,
    epoch_of,
    read_range,
    take_over,
)
from agents.offsets import TopicPartition
from agents.tables import Change, TableSpec, changelogs
from tests.agents.kafka_in_memory import Kafka, Stored

SPEC = TableSpec("profiles", "profiles", lambda value: value, lambda value: value)
NAMES = {"profiles": "batuta.profiles"}
AT = TopicPartition("batuta.profiles", 0)


async def own(kafka: Kafka, owner: str = "me", sender=None, claimant: Claimant | None = None, fence=None):
    """Take partition 0 over, as a process of its own unless one is given; returns its table and its journal."""
    sender = sender or kafka.changelog_sender
    claimant = claimant or Claimant(owner, uuid.uuid4().hex)
    tables, logs = changelogs([SPEC])
    async with kafka.reader() as consumer:
        restored = (await take_over(consumer, sender, claimant, {0: logs}, NAMES, fence=fence))[0]

    async def read(at: TopicPartition, start: int, end: int) -> list:
        async with kafka.reader() as consumer:
            return await read_range(consumer, at, start, end)

    return tables["profiles"], Journal(sender, 0, restored.epoch, logs, NAMES, restored.positions, read)


async def write(table, journal, **values: bytes | None) -> None:
    """Change values, and return when they are safe."""
    for key, value in values.items():
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
    await journal.confirm(await journal.append(journal.changes()))


async def test_next_owner_finds_what_the_last_one_left():
    """Every takeover raises the epoch, claims the partition and restores all values, tombstones included."""
    kafka = Kafka()
    for round_ in range(3):
        table, journal = await own(kafka)
        assert journal.epoch == round_ + 1
        assert dict(table) == ({"ana": b"%d" % round_, "carl": b"c"} if round_ else {})
        await write(table, journal, ana=b"%d" % (round_ + 1), bea=b"b", carl=b"c")
        await write(table, journal, bea=None)
    claims = [record for record in kafka.logs[AT] if record.key == OWNER_KEY]
    assert [epoch_of(record.headers) for record in claims] == [1, 2, 3]
    assert {epoch_of(record.headers) for record in kafka.logs[AT]} == {1, 2, 3}


async def test_paused_worker_is_ousted_before_it_publishes():
    """A worker that wakes up after another took over learns it from its next acknowledgement."""
    kafka = Kafka()
    table, journal = await own(kafka, "paused")
    await write(table, journal, ana=b"1")
    await own(kafka, "successor")
    with pytest.raises(Ousted, match=r"batuta.profiles\[0\] was taken over: epoch 2 follows 1"):
        await write(table, journal, ana=b"stale")


async def test_rightful_owner_overrules_and_repairs_what_a_paused_worker_wrote():
    """The rightful owner goes on, and writes the keys again that the paused one overwrote."""
    kafka = Kafka()
    old, paused = await own(kafka, "paused")
    await write(old, paused, ana=b"1", bea=b"2")
    table, journal = await own(kafka, "successor")
    with pytest.raises(Ousted):
        await write(old, paused, ana=b"stale", dora=b"stale")
    await write(table, journal, carl=b"3")
    await write(table, journal)
    compacted = {record.key: record.value for record in kafka.logs[AT]}
    assert (compacted[b"ana"], compacted[b"dora"]) == (b"1", None), "compaction keeps what is right"


async def test_owner_after_a_paused_worker_repairs_the_changelog():
    """Records of a paused worker are left out at the next restore, and marked to be written over."""
    kafka = Kafka()
    old, paused = await own(kafka, "paused")
    await write(old, paused, ana=b"1")
    await own(kafka, "successor")
    with pytest.raises(Ousted):
        await write(old, paused, ana=b"stale", bea=b"stale")
    table, journal = await own(kafka, "third")
    assert dict(table) == {"ana": b"1"}
    assert sorted(journal.changes()) == [Change("profiles", b"ana", b"1"), Change("profiles", b"bea", None)]


async def test_two_claims_of_one_epoch_do_not_stand():
    """When two workers claim the same epoch, the later one goes above it and the earlier one is ousted."""
    kafka = Kafka()
    rival = {}

    class Interrupted(type(kafka.changelog_sender)):
        async def send(self, *args, **kwargs):
            if not rival:
                rival["table"], rival["journal"] = None, None
                rival["table"], rival["journal"] = await own(kafka, "rival")
            return await super().send(*args, **kwargs)

    table, journal = await own(kafka, "me", Interrupted(kafka))
    assert (rival["journal"].epoch, journal.epoch) == (1, 2)
    with pytest.raises(Ousted):
        await write(rival["table"], rival["journal"], ana=b"rival")
    await write(table, journal, ana=b"mine")
    assert journal.ends() == {AT: len(kafka.logs[AT])}


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 9)), max_size=30))
def test_restore_follows_the_highest_epoch(records):
    """The value of a key is the last one written by a worker that nobody had overruled by then."""
    tables, (changelog,) = changelogs([SPEC])
    reader = Reader(changelog)
    expected: dict[str, bytes] = {}
    latest_writer: dict[bytes, bool] = {}
    highest = 0
    for epoch, key, value in records:
        reader.apply([Stored(0, 0, key, b"%d" % value, ((EPOCH_HEADER, b"%d" % epoch),))])
        rightful = epoch >= highest
        highest = max(highest, epoch)
        latest_writer[key] = rightful
        if rightful:
            expected[key.decode()] = b"%d" % value
    assert dict(tables["profiles"]) == expected
    assert reader.mark.overruled == {key for key, rightful in latest_writer.items() if not rightful}


def test_record_without_epoch_counts():
    """Somebody may erase a customer by hand: a tombstone without an epoch counts; a record without key does not."""
    tables, (changelog,) = changelogs([SPEC])
    reader = Reader(changelog)
    reader.apply([Stored(0, 0, b"ana", b"1", ((EPOCH_HEADER, b"7"),)), Stored(1, 0, None, b"?", ())])
    assert dict(tables["profiles"]) == {"ana": b"1"}
    reader.apply([Stored(2, 0, b"ana", None, ())])
    assert dict(tables["profiles"]) == {}


async def test_range_ends_where_it_should():
    """Reading a range leaves out what stands after it."""
    kafka = Kafka()
    for number in range(9):
        kafka.store(AT, Stored(-1, 0, b"%d" % number, None, ()))
    async with kafka.reader() as consumer:
        assert [record.offset for record in await read_range(consumer, AT, 2, 7)] == [2, 3, 4, 5, 6]


async def test_forgotten_twin_ends_instead_of_taking_turns():
    """Of two processes with one name the one started later stays; the other claims nothing and says why."""
    kafka = Kafka()
    first, second = (Claimant("worker-1", uuid.uuid4().hex) for _ in range(2))
    await own(kafka, claimant=first)
    await own(kafka, claimant=second)
    claims = len(kafka.logs[AT])
    with pytest.raises(Ousted, match="another worker named worker-1"):
        await own(kafka, claimant=first)
    assert len(kafka.logs[AT]) == claims
    table, journal = await own(kafka, claimant=second)
    await write(table, journal, ana=b"1")


async def test_only_who_may_claim_fences_others_off():
    """Fencing ends whoever is at work: it comes after a twin was noticed, and before anything is claimed."""
    kafka = Kafka()
    fenced = []

    async def fence() -> None:
        fenced.append([record.key for record in kafka.logs[AT]])

    first = Claimant("worker-1", "first")
    await own(kafka, claimant=first, fence=fence)
    await own(kafka, claimant=Claimant("worker-1", "second"), fence=fence)
    with pytest.raises(Ousted):
        await own(kafka, claimant=first, fence=fence)
    assert fenced == [[], [OWNER_KEY]]


async def test_a_partition_may_come_back_from_a_worker_of_another_name():
    """Having held a partition before is no reason to end when others held it meanwhile."""
    kafka = Kafka()
    mine = Claimant("worker-1", uuid.uuid4().hex)
    await own(kafka, claimant=mine)
    await own(kafka, "worker-2")
    _, journal = await own(kafka, claimant=mine)
    assert journal.epoch == 3


@pytest.mark.parametrize("value", [None, b"", b"{", b"[]"])
def test_a_claim_that_cannot_be_read_still_counts(value: bytes | None):
    """Its epoch is what matters; who wrote it is not known."""
    (_, (log,)) = changelogs([SPEC])
    reader = Reader(log)
    reader.apply([Stored(0, 0, OWNER_KEY, value, ((EPOCH_HEADER, b"4"),))])
    assert (reader.mark.epoch, reader.mark.claims, reader.mark.claim) == (4, 1, None)


@pytest.mark.parametrize("epoch", [b"", b"x", b"-1", b"1_0", b"9" * 5_000, "²".encode()])
def test_an_epoch_that_cannot_be_read_is_below_all(epoch: bytes):
    """No owner wrote such a record: it does not count, does not keep anybody from taking over, and is written over."""
    tables, (log,) = changelogs([SPEC])
    reader = Reader(log)
    reader.apply([Stored(0, 0, b"ana", b"forged", ((EPOCH_HEADER, epoch),))])
    assert (dict(tables["profiles"]), reader.mark.overruled) == ({}, {b"ana"})
