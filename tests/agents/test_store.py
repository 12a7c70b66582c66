"""A local copy gives what its changelog gives, from wherever it goes on; and when in doubt it is thrown away."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agents.journal import EPOCH_HEADER, Claimant, Journal, Reader, read_range, take_over
from agents.offsets import TopicPartition
from agents.store import KEPT_SHARE, Copy, CopyDamaged, Lineage, LocalStore, Mark, open_store
from agents.tables import TableSpec, changelogs
from tests.agents.kafka_in_memory import Kafka, Stored
from tests.agents.store_process import row

MEMORY = 8 << 20
DAY_MS = 86_400_000


def encode(value: int) -> bytes:
    """A number in digits."""
    return b"%d" % value


def due(value: bytes) -> int | None:
    """Even numbers are due then; odd ones never."""
    return int(value) if int(value) % 2 == 0 else None


SPECS = (
    TableSpec("profiles", "profiles", encode, int, due=due),
    TableSpec("identities", "identities", encode, int),
    TableSpec("budgets", "identities", encode, int, prefix="budget:"),
)
ROLES = {"profiles": "batuta.profiles", "identities": "batuta.identities"}
PROFILES = TopicPartition("batuta.profiles", 0)
LINEAGES = {role: Lineage(topic, DAY_MS) for role, topic in ROLES.items()}
KEYS = st.sampled_from(["ana", "bea", "budget:x", "\\", "budget:"])
TABLES = st.sampled_from([spec.name for spec in SPECS])


# --- The same through crashes, whatever is kept ---


class Owner:
    """A worker that owns partition 0, with a local copy of its state or without."""

    def __init__(self, kafka: Kafka, claimant: Claimant, store: LocalStore | None) -> None:
        self.kafka = kafka
        self.claimant = claimant
        self.store = store
        self.copy: Copy | None = None

    async def take_over(self) -> None:
        """Restore the tables, from the copy as far as it goes, and claim the partition."""
        if self.store is not None:
            found = await self.kafka.lineages(list(ROLES.values()))
            lineages = {role: found[topic] for role, topic in ROLES.items()}
            self.copy = self.store.copy(0, {spec.name: spec.due for spec in SPECS}, lineages, 1)
        self.tables, logs = changelogs(SPECS, None if self.copy is None else self.copy.tables)
        copies = {} if self.copy is None else {0: self.copy}
        sender = self.kafka.changelog_sender
        async with self.kafka.reader() as consumer:
            restored = (await take_over(consumer, sender, self.claimant, {0: logs}, ROLES, copies))[0]
        self.journal = Journal(
            sender, 0, restored.epoch, logs, ROLES, restored.positions, self._read, self.copy, restored.claim
        )

    async def _read(self, at: TopicPartition, start: int, end: int) -> list:
        async with self.kafka.reader() as consumer:
            return await read_range(consumer, at, start, end)

    async def append(self) -> list:
        """Send what changed; returns what to confirm."""
        return await self.journal.append(self.journal.changes())

    def content(self) -> dict[str, dict[str, int]]:
        """All tables as dicts."""
        return {name: dict(table) for name, table in self.tables.items()}


def from_the_beginning(kafka: Kafka) -> dict[str, dict[str, int]]:
    """What the changelogs say, read without any copy."""
    tables, logs = changelogs(SPECS)
    for log in logs:
        Reader(log).apply(kafka.logs[TopicPartition(ROLES[log.topic], 0)])
    return {name: dict(table) for name, table in tables.items()}


def compacted(kafka: Kafka) -> dict[str, dict[str, int]]:
    """What compaction leaves of the changelogs, whoever wrote it."""
    tables, logs = changelogs(SPECS)
    for log in logs:
        for record in kafka.logs[TopicPartition(ROLES[log.topic], 0)]:
            if record.key:
                log.load(record.key, record.value)
    return {name: dict(table) for name, table in tables.items()}


def snapshot(here: Path, there: Path) -> None:
    """The files as a killed process would leave them: nothing is closed. RocksDB may be tidying up meanwhile."""
    for _ in range(50):
        try:
            shutil.copytree(here, there)
        except shutil.Error:
            shutil.rmtree(there)
        else:
            return
    raise AssertionError(f"{here} did not come to rest")


class Owners(RuleBasedStateMachine):
    """Owners come, write and crash at any point; the next one has what the changelog says from its beginning."""

    warm = False

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp(prefix="batuta-test-"))
        self.lives = 0
        self.kafka = Kafka()
        self.past: list[Owner] = []
        self.in_flight: list[list] = []
        self.counted = Counter()

    def teardown(self) -> None:
        """Close everything."""
        if self.owner.store is not None:
            self.owner.store.close()
        self.loop.close()
        shutil.rmtree(self.directory)

    def run(self, work):
        """Wait for a coroutine."""
        return self.loop.run_until_complete(work)

    def open(self) -> LocalStore | None:
        """The store of the present life; none where state is in memory."""
        if not self.warm:
            return None
        return open_store(self.directory / str(self.lives), MEMORY, lambda what: self.counted.update([what]))

    @initialize()
    def first(self):
        """The first owner finds nothing."""
        self.owner = Owner(self.kafka, Claimant("me", uuid.uuid4().hex), self.open())
        self.run(self.owner.take_over())
        self.model = self.owner.content()

    @rule(table=TABLES, key=KEYS, value=st.integers(0, 9))
    def put(self, table, key, value):
        """A value is put under a key."""
        self.owner.tables[table][key] = value
        self.model[table][key] = value

    @rule(table=TABLES, key=KEYS)
    def remove(self, table, key):
        """A key is deleted, whether or not it is there."""
        self.owner.tables[table].pop(key, None)
        self.model[table].pop(key, None)

    @rule()
    def append(self):
        """Changes are sent to the changelog; their acknowledgements are not looked at yet."""
        self.in_flight.append(self.run(self.owner.append()))

    @rule()
    def confirm(self):
        """The oldest batch on its way is acknowledged, and goes into the copy."""
        if self.in_flight:
            self.run(self.owner.journal.confirm(self.in_flight.pop(0)))

    def foreign(self, table: str, key: str, value: bytes | None, *headers: tuple[str, bytes]) -> None:
        """Somebody else than the owner writes to a changelog."""
        changed = self.owner.tables[table]
        log = self.owner.journal._changelogs[changed.spec.changelog]
        at = TopicPartition(ROLES[log.topic], 0)
        self.kafka.store(at, Stored(-1, 1, log._outside(changed, key), value, headers))

    @rule(table=TABLES, key=KEYS, value=st.integers(0, 9))
    def stale(self, table, key, value):
        """A past owner that does not know of its end yet writes, and is overruled."""
        if self.past:
            self.foreign(table, key, encode(value), (EPOCH_HEADER, b"%d" % self.past[-1].journal.epoch))

    @rule(table=TABLES, key=KEYS)
    def erase(self, table, key):
        """Somebody deletes a key in the changelog by hand; the owner does not know, and writes it again."""
        self.foreign(table, key, None)

    @rule(crash=st.sampled_from(["killed", "stopped", "fresh disk"]))
    def next_owner(self, crash):
        """The owner ends, here and now, and the next one takes over with what is on the disk."""
        store, here = self.owner.store, self.directory / str(self.lives)
        self.lives += 1
        if crash == "stopped":
            while self.in_flight:
                self.confirm()
            self.owner.journal.keep()
        if store is not None and crash == "killed":
            snapshot(here, self.directory / str(self.lives))
        if store is not None:
            store.close()
        if store is not None and crash == "stopped":
            here.rename(self.directory / str(self.lives))
        self.in_flight.clear()
        self.past.append(self.owner)
        self.owner = Owner(self.kafka, Claimant("me", uuid.uuid4().hex), self.open())
        self.run(self.owner.take_over())
        assert self.owner.content() == from_the_beginning(self.kafka)
        self.model = self.owner.content()
        self.run(self.owner.journal.confirm(self.run(self.owner.append())))
        assert compacted(self.kafka) == self.model, "compaction keeps what is right"

    @rule()
    def created_anew(self):
        """Somebody deletes the topics and creates them again."""
        self.kafka.logs.clear()
        self.kafka.topic_ids = dict.fromkeys(ROLES.values(), uuid.uuid4().hex)
        self.next_owner("killed")
        self.past.clear()
        assert self.model == {spec.name: {} for spec in SPECS}

    @invariant()
    def equal(self):
        """The tables are what was put into them; who is due follows from that once it is taken up."""
        assert self.owner.content() == self.model
        assert {name: len(table) for name, table in self.owner.tables.items()} == {
            name: len(values) for name, values in self.model.items()
        }
        profiles = self.owner.tables["profiles"]
        stored = {key: value for key in self.model["profiles"] if (value := profiles.encoded(key)) is not None}
        dues = dict(profiles.dues())
        assert {key: dues.get(key) for key in stored} == {key: due(value) for key, value in stored.items()}
        assert self.counted["failed"] == 0


class WarmOwners(Owners):
    warm = True


TestMemory = Owners.TestCase
TestMemory.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestRocksDB = WarmOwners.TestCase
TestRocksDB.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)


# --- What is gone on from, and what is not ---


@pytest.fixture
def counted() -> Counter:
    """What the store told of its copies."""
    return Counter()


@pytest.fixture
def opened(tmp_path, counted):
    """Opens the copies in one directory, again and again; what was open before is closed."""
    stores: list[LocalStore] = []

    def open_again(directory: Path = tmp_path) -> LocalStore:
        for store in stores:
            store.close()
        store = open_store(directory, MEMORY, lambda what: counted.update([what]))
        assert store is not None
        stores[:] = [store]
        return store

    yield open_again
    for store in stores:
        store.close()


async def own(kafka: Kafka, store: LocalStore | None, name: str = "me") -> Owner:
    """A new process takes the partition over."""
    owner = Owner(kafka, Claimant(name, uuid.uuid4().hex), store)
    await owner.take_over()
    return owner


async def write(owner: Owner, **values: int | None) -> None:
    """Change profiles, and return when that is safe."""
    for key, value in values.items():
        if value is None:
            owner.tables["profiles"].pop(key, None)
        else:
            owner.tables["profiles"][key] = value
    await owner.journal.confirm(await owner.append())


async def test_only_the_rest_is_read(opened, counted):
    """A copy goes on where it ends: what is read is what came after it, however much came before."""
    kafka = Kafka()
    owner = await own(kafka, opened())
    for number in range(50):
        await write(owner, **{f"customer-{number}": number})
    await (await own(kafka, None, "another")).append()
    before = kafka.fetched
    owner = await own(kafka, opened())
    read, claims = kafka.fetched - before, 2 * len(ROLES)
    assert read == claims, "the claims of the other worker and of this one"
    assert dict(owner.tables["profiles"]) == {f"customer-{number}": number for number in range(50)}
    assert not counted


async def test_what_was_not_acknowledged_is_read_again(opened):
    """A copy holds only what the changelog acknowledged: what was on its way, and arrived, is found there."""
    kafka = Kafka()
    owner = await own(kafka, opened())
    await write(owner, ana=1, bea=2)
    owner.tables["profiles"]["ana"] = 8
    del owner.tables["profiles"]["bea"]
    await owner.append()
    owner.tables["profiles"]["carl"] = 3
    owner.journal.changes()
    assert dict((await own(kafka, opened())).tables["profiles"]) == {"ana": 8}


async def test_a_copy_waits_until_a_foreign_record_is_written_over(opened):
    """Erased by hand and not written again yet: who goes on from the copy finds it erased, as from the beginning."""
    kafka = Kafka()
    owner = await own(kafka, opened())
    await write(owner, ana=1)
    kafka.store(PROFILES, Stored(-1, 1, b"ana", None, ()))
    await write(owner, bea=2)
    owner = await own(kafka, opened())
    assert owner.content() == from_the_beginning(kafka)
    assert dict(owner.tables["profiles"]) == {"bea": 2}


async def test_what_is_saved_is_not_taken_for_what_came_after_it(opened):
    """While an older value of a key goes into the copy, the one that follows it stays what is read."""
    owner = await own(Kafka(), opened())
    owner.tables["profiles"]["ana"] = 2
    first = await owner.append()
    owner.tables["profiles"]["ana"] = 4
    second = await owner.append()
    await owner.journal.confirm(first)
    assert owner.tables["profiles"].encoded("ana") == b"4"
    assert dict(owner.tables["profiles"].dues()) == {"ana": 4}
    await owner.journal.confirm(second)
    assert owner.copy is not None
    assert (owner.copy.tables["profiles"].unsaved, owner.tables["profiles"].encoded("ana")) == ({}, b"4")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=3), st.booleans()), max_size=30))
def test_rows_are_a_mapping(changes):
    """Counted at every step: as a dict, whether or not what was put is saved."""
    with tempfile.TemporaryDirectory() as directory:
        store = open_store(Path(directory), MEMORY, print)
        assert store is not None
        copy = save(store)
        rows, expected = copy.tables["profiles"], {}
        for key, value, saved in changes:
            if value is None:
                assert rows.pop(key, None) == expected.pop(key, None)
            else:
                rows[key] = expected[key] = value
            assert len(rows) == len(expected)
            if saved:
                copy.save_all({"profiles": Mark()})
            assert dict(rows) == expected
        store.close()


async def test_a_copy_ahead_of_its_changelog_is_thrown_away(opened, counted, caplog):
    """When the cluster has lost records the copy knows of, what the cluster has counts."""
    kafka = Kafka()
    owner = await own(kafka, opened())
    await write(owner, ana=1)
    await write(owner, ana=2, bea=2)
    del kafka.logs[PROFILES][2:]
    owner = await own(kafka, opened())
    assert dict(owner.tables["profiles"]) == {"ana": 1}
    assert counted == {"discarded": 1}
    assert "partition 0 is not used: it goes to 4 in batuta.profiles, which has 0 to 2" in caplog.text


async def test_a_copy_of_another_topic_is_thrown_away(opened, counted, caplog):
    """A topic created anew under the same name has another id, however many records it has by now."""
    kafka = Kafka()
    await write(await own(kafka, opened()), ana=1)
    anew = Kafka()
    anew.topic_ids["batuta.profiles"] = "another"
    for _ in range(9):
        anew.store(PROFILES, Stored(-1, 1, b"bea", b"7", ()))
    assert dict((await own(anew, opened())).tables["profiles"]) == {"bea": 7}
    assert counted == {"discarded": 1}
    assert "created anew" in caplog.text


@pytest.mark.parametrize(("age", "discarded"), [(KEPT_SHARE * DAY_MS, 0), (KEPT_SHARE * DAY_MS + 1, 1)])
def test_a_copy_older_than_the_tombstones_it_may_have_missed_is_thrown_away(opened, counted, age, discarded):
    """Compaction drops tombstones after a while: a key deleted since would come back to life."""
    save(opened(), ana=b"1")
    copy = opened().copy(0, {"profiles": None}, {"profiles": Lineage("topic", DAY_MS)}, 1_000 + int(age))
    assert counted["discarded"] == discarded
    assert dict(copy.tables["profiles"]) == ({} if discarded else {"ana": b"1"})


def save(store: LocalStore, **values: bytes) -> Copy:
    """Write values to the copy of partition 0, as of 1 s after the epoch."""
    copy = store.copy(0, {"profiles": None}, {"profiles": Lineage("topic", DAY_MS)}, 1_000)
    assert copy is not None
    copy.save([("profiles", key, value) for key, value in values.items()], {"profiles": Mark(len(values), 1_000)})
    return copy


def test_partitions_do_not_mix(opened):
    """Each partition has rows and marks of its own; throwing one away leaves the others."""
    store = opened()
    lineages = {"profiles": Lineage("topic", DAY_MS)}
    numbers = (0, 1, 255, 256, 511)
    for number in numbers:
        copy = store.copy(number, {"profiles": len}, lineages, 1_000)
        copy.save([("profiles", "ana", b"%d" % number)], {"profiles": Mark(number, 1_000)})
    store.copy(255, {"profiles": len}, lineages, 1_000).reset()
    store = opened()
    copies = {number: store.copy(number, {"profiles": len}, lineages, 1_000) for number in numbers}
    kept = {number: dict(copy.tables["profiles"]) for number, copy in copies.items()}
    assert kept == {number: {} if number == 255 else {"ana": b"%d" % number} for number in numbers}
    assert [number for number in numbers if copies[number].marks] == [0, 1, 256, 511]


async def test_a_busy_disk_holds_nobody_up(opened, monkeypatch):
    """While a write would have to wait, what is acknowledged waits in memory; the next batch takes it along."""
    kafka = Kafka()
    owner = await own(kafka, opened())
    assert owner.copy is not None
    monkeypatch.setattr("agents.store._HELD_UP", ("rocksdb.block-cache-capacity",))
    assert owner.copy.busy
    await write(owner, ana=1)
    assert owner.copy.tables["profiles"].unsaved == {"ana": b"1"}
    monkeypatch.undo()
    assert not owner.copy.busy
    await write(owner, bea=2)
    assert owner.copy.tables["profiles"].unsaved == {}
    assert dict((await own(kafka, opened())).tables["profiles"]) == {"ana": 1, "bea": 2}


# --- Damage, and no room ---


def test_a_database_that_cannot_be_opened_is_made_anew(opened, counted, tmp_path, caplog):
    """Whatever is wrong with the files, the worker starts, with nothing in the copy and one line about it."""
    save(opened(), ana=b"1")
    opened(tmp_path / "elsewhere")
    for manifest in (tmp_path / "0").glob("MANIFEST-*"):
        manifest.write_bytes(b"no manifest")
    copy = save(opened(), bea=b"2")
    assert dict(copy.tables["profiles"]) == {"bea": b"2"}
    assert counted == {"discarded": 1}
    assert sum("cannot be opened" in record.message for record in caplog.records) == 1


def test_damage_found_later_ends_in_a_copy_made_anew(opened, counted, tmp_path):
    """A block with a wrong checksum is never believed: the files are deleted, and the next start begins anew."""
    copy = save(opened(), **{f"customer-{number}": os.urandom(500) for number in range(2_000)})
    copy._database._rdict.flush()
    opened(tmp_path / "elsewhere")
    for table in (tmp_path / "0").glob("*.sst"):
        content = bytearray(table.read_bytes())
        content[10_000:20_000] = os.urandom(10_000)
        table.write_bytes(content)
    copy = opened().copy(0, {"profiles": None}, {"profiles": Lineage("topic", DAY_MS)}, 1_000)
    with pytest.raises(CopyDamaged, match="made anew"):
        dict(copy.tables["profiles"])
    assert not (tmp_path / "0").exists()
    assert not save(opened(), bea=b"2").tables["profiles"].keys() - {"bea"}
    assert counted == {"discarded": 1}


def test_workers_that_share_a_directory_keep_to_themselves(opened, tmp_path):
    """Each takes the first place that is free; what the one before left there is used."""
    save(opened(), ana=b"1")
    second = open_store(tmp_path, MEMORY, print)
    assert second is not None
    assert dict(save(second, bea=b"2").tables["profiles"]) == {"bea": b"2"}
    third = opened()
    assert dict(save(third, carl=b"3").tables["profiles"]) == {"ana": b"1", "carl": b"3"}
    second.close()


def test_a_directory_that_cannot_be_written_means_memory(tmp_path, caplog):
    """The worker works all the same, and says why it keeps no copies."""
    (tmp_path / "file").write_text("")
    failed = Counter()
    assert open_store(tmp_path / "file" / "state", MEMORY, lambda what: failed.update([what])) is None
    assert failed == {"failed": 1}
    assert "state is kept in memory" in caplog.text


async def test_no_room_on_the_disk(opened, counted, caplog):
    """When writing fails, state goes on in memory, is all there, and the copy does not claim what it has not."""
    kafka = Kafka()
    owner = await own(kafka, opened())
    await write(owner, ana=1, bea=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        await write(owner, ana=3, carl=4)
        await write(owner, bea=None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await write(owner, dora=6)
    expected = {"ana": 3, "carl": 4, "dora": 6}
    assert (dict(owner.tables["profiles"]), len(owner.tables["profiles"])) == (expected, 3)
    assert dict(owner.tables["profiles"].dues()) == {"carl": 4, "dora": 6}
    assert counted == {"failed": 1}
    assert sum("new state is kept in memory" in record.message for record in caplog.records) == 1
    assert dict((await own(kafka, opened())).tables["profiles"]) == expected, "read from the changelog"


async def test_no_room_to_throw_a_copy_away(opened, counted, tmp_path):
    """Rows that are out of date and cannot be deleted must not be taken for state: all files go."""
    kafka = Kafka()
    await write(await own(kafka, opened()), ana=1)
    kafka.topic_ids["batuta.profiles"] = "another"
    store = opened()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        with pytest.raises(CopyDamaged, match="what is out of date cannot be deleted"):
            await own(kafka, store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "0").exists()
    del kafka.logs[PROFILES][:]
    assert dict((await own(kafka, opened())).tables["profiles"]) == {}


@pytest.mark.slow
def test_a_killed_process_leaves_rows_and_position_that_belong_together(opened, tmp_path):
    """Killed at any moment: every row is the last one below the position the copy claims."""
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-m", "tests.agents.store_process", str(tmp_path)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"going\n"
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        copy = opened().copy(0, {"profiles": None}, {"profiles": Lineage("topic", DAY_MS)}, 1)
        position = copy.marks["profiles"].position
        assert position > 5_000
        assert dict(copy.tables["profiles"]) == dict(row(at) for at in range(1, position + 1))
        copy.reset()
        opened(tmp_path / "elsewhere")
