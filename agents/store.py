"""Local copies of changelogs on the worker's disk: what a restart need not read again.

A copy has, for one partition number, the last value of every key of its changelogs up to a position in each, and
knows under whose epoch that position was reached. The changelog remains the truth. Only what it has acknowledged goes
into the copy, and the position goes with the rows in one atomic write; so a copy may be behind, never ahead. One that
cannot be trusted (of a topic that was created anew, too old, damaged) is thrown away, and the changelog is read from
its beginning.

RocksDB holds the copies of a worker, in a bounded share of memory. Writes are not synced to the disk: a killed
process loses nothing; a machine that loses power, the last seconds of its copies, which are then read again.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import msgspec
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DbClosedError,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteBufferManager,
)

log = logging.getLogger("batuta")

FORMAT = 1
"""Version of what is written; copies of another one are thrown away."""
SLOTS = 64
"""Most workers that keep copies in one directory."""
KEPT_SHARE = 0.9
"""A copy serves for this share of the time that a changelog keeps tombstones: later, deletions may have left it."""
_MARK, _ROW, _INDEX = b"m", b"r", b"x"
_NOTHING_DUE = b""
_BLOCK_BYTES = 4_096
_OPEN_FILES = 256
_OWN_LOGS = 2
_DELETED_AT_ONCE = 10_000
_HELD_UP = ("rocksdb.is-write-stopped", "rocksdb.actual-delayed-write-rate")

Due = Callable[[bytes], int | None]


class CopyDamaged(Exception):
    """The local copies cannot be used any more. They are deleted; who starts anew reads the changelogs instead."""


class Lineage(msgspec.Struct, frozen=True):
    """Which topic it really is: the id it was given when it was created, and how long it keeps tombstones, at least."""

    topic_id: str
    tombstones_ms: int


class Claim(msgspec.Struct, frozen=True, rename="camel"):
    """Value of the record that claims a changelog partition. `owner`: the worker's name; `process`: one life of it."""

    owner: str
    epoch: int
    process: str = ""


class Mark(msgspec.Struct, array_like=True):
    """How far a changelog partition is read, and under whom.

    `position`: offset of the next record; `at_ms`: up to when there was none. `epoch`: the highest seen. `claims`: how
    many of that epoch; two mean that two workers took the same one. `claim`: the latest. `overruled`: keys that a
    lower epoch wrote after a higher one, and nobody since: to be written again.
    """

    position: int = 0
    at_ms: int = 0
    epoch: int = 0
    claims: int = 0
    claim: Claim | None = None
    overruled: set[bytes] = msgspec.field(default_factory=set)


class _Held(msgspec.Struct, array_like=True):
    """What stands in the database about a copy, beside its rows."""

    format: int
    topic_ids: dict[str, str]
    marks: dict[str, Mark]


_encode_held = msgspec.msgpack.Encoder().encode
_decode_held = msgspec.msgpack.Decoder(_Held).decode


# --- Copies ---


class Rows(MutableMapping[str, bytes]):
    """One table of a copy. What is put here is in memory only until the copy saves it.

    `due`: when the customer of a value is to be woken. With it an index of keys and these moments is kept, so that
    both can be listed without reading the values.
    """

    def __init__(self, database: Database, number: int, table: str, due: Due | None) -> None:
        self.unsaved: dict[str, bytes | None] = {}
        self._database = database
        self._prefix = _prefix(_ROW, number, table)
        self._index = None if due is None else _prefix(_INDEX, number, table)
        self._due = due
        self._count: int | None = None
        self._looked_up: tuple[str, bool] = "", False

    def __getitem__(self, key: str) -> bytes:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value  # type: ignore[no-any-return]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or `default`."""
        value = self.unsaved[key] if key in self.unsaved else self._database.get(self._prefix + key.encode())
        self._looked_up = key, value is not None
        return default if value is None else value

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        if key in self.unsaved:
            return self.unsaved[key] is not None
        return self._database.has(self._prefix + key.encode())

    def __setitem__(self, key: str, value: bytes) -> None:
        self._put(key, value)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._put(key, None)

    def _put(self, key: str, value: bytes | None) -> None:
        if self._count is not None:
            looked_up, known = self._looked_up
            self._count += (value is not None) - (known if looked_up == key else key in self)
        self._looked_up = key, value is not None
        self.unsaved[key] = value

    def __iter__(self) -> Iterator[str]:
        prefix, unsaved = self._index or self._prefix, dict(self.unsaved)
        for stored, _ in self._database.items(prefix):
            key = stored[len(prefix) :].decode()
            if key not in unsaved:
                yield key
        yield from (key for key, value in unsaved.items() if value is not None)

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(1 for _ in self)
        return self._count

    def dues(self) -> Iterator[tuple[str, int]]:
        """Who is to be woken, and when, in epoch milliseconds. Without `due`: nobody."""
        if self._index is None or self._due is None:
            return
        unsaved, cut = dict(self.unsaved), len(self._index)
        for stored, due in self._database.items(self._index):
            if due != _NOTHING_DUE and (key := stored[cut:].decode()) not in unsaved:
                yield key, int.from_bytes(due, "big", signed=True)
        for key, value in unsaved.items():
            if value is not None and (due_ms := self._due(value)) is not None:
                yield key, due_ms

    def write(self, batch: WriteBatch, key: str, value: bytes | None) -> None:
        """Put a change into a write batch."""
        encoded = key.encode()
        if value is None:
            batch.delete(self._prefix + encoded)
        else:
            batch.put(self._prefix + encoded, value)
        if self._index is None or self._due is None:
            return
        if value is None:
            batch.delete(self._index + encoded)
        else:
            due_ms = self._due(value)
            due = _NOTHING_DUE if due_ms is None else due_ms.to_bytes(8, "big", signed=True)
            batch.put(self._index + encoded, due)

    def forget(self) -> None:
        """Note that the table was deleted."""
        self.unsaved.clear()
        self._count = None

    def saved(self, key: str, value: bytes | None) -> None:
        """Note that a change is in the database. A later one of the same key stays in memory."""
        if key in self.unsaved and self.unsaved[key] == value:
            del self.unsaved[key]


class Copy:
    """The copy of one partition number. `marks`: how far it goes, by role; empty when it has to be made anew."""

    def __init__(
        self, database: Database, number: int, tables: Mapping[str, Due | None], lineages: Mapping[str, Lineage]
    ) -> None:
        self.marks: dict[str, Mark] = {}
        self.number = number
        self._database = database
        self._lineages = lineages
        self._key = _MARK + _numbered(number)
        self.tables = {name: Rows(database, number, name, due) for name, due in tables.items()}
        self.dues: Mapping[str, dict[str, int]] = {}
        """Nothing beside the index that its rows have."""

    def open(self, now_ms: int) -> None:
        """Go on from what is there, when it can be trusted; else throw it away and say why."""
        stored = self._database.get(self._key)
        try:
            held = None if stored is None else _decode_held(stored)
            reason = None if held is None else self._distrust(held, now_ms)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            held, reason = None, f"its mark cannot be read: {error}"
        if held is not None and reason is None:
            self.marks = held.marks
        else:
            self.reset(reason)

    def _distrust(self, held: _Held, now_ms: int) -> str | None:
        """Why a copy is not to be used; None when it is."""
        if held.format != FORMAT:
            return f"it has format {held.format}, this version reads {FORMAT}"
        if held.topic_ids != _topic_ids(self._lineages) or held.marks.keys() != self._lineages.keys():
            return _OTHER_TOPIC
        return outdated(held.marks, self._lineages, now_ms)

    def reset(self, reason: str | None = None) -> None:
        """Throw away what is there. With a reason it says so, and it counts."""
        if reason is not None:
            log.warning("The local copy of partition %d is not used: %s; reading its changelogs", self.number, reason)
            self._database.count("discarded")
        self.marks = {}
        self._database.clear(self.number)
        for rows in self.tables.values():
            rows.forget()

    @property
    def busy(self) -> bool:
        """Whether saving would hold everything up; then save later."""
        return self._database.busy

    def save(self, changes: Iterable[tuple[str, str, bytes | None]], marks: Mapping[str, Mark]) -> None:
        """Write changes (table, key, value or None), and how far the copy goes with them, at once.

        When that fails they stay in memory, as does everything after them; the copy stays where it was.
        """
        changes = list(changes)
        batch = WriteBatch(raw_mode=True)
        for table, key, value in changes:
            self.tables[table].write(batch, key, value)
        batch.put(self._key, _encode_held(_Held(FORMAT, _topic_ids(self._lineages), dict(marks))))
        if self._database.write(batch):
            for table, key, value in changes:
                self.tables[table].saved(key, value)

    def save_all(self, marks: Mapping[str, Mark]) -> None:
        """Write everything that is in memory only, and how far the copy goes with it."""
        self.save([(name, *item) for name, rows in self.tables.items() for item in rows.unsaved.items()], marks)


class MemoryCopy:
    """As `Copy`, and in memory only: what a standby without a local store goes on from. It ends with its process.

    `dues`: by table, who is to be woken and when, as far as it is known.
    """

    busy = False

    def __init__(self, number: int, tables: Mapping[str, dict[str, bytes]], marks: Mapping[str, Mark]) -> None:
        self.number = number
        self.tables = tables
        self.marks = dict(marks)
        self.dues: dict[str, dict[str, int]] = {}
        self._lineages: Mapping[str, Lineage] | None = None

    def open(self, lineages: Mapping[str, Lineage], now_ms: int) -> None:
        """Go on from what is there, when it can still be trusted; else forget it and say why."""
        known, self._lineages = self._lineages, lineages
        if self.marks:
            other = known is not None and _topic_ids(known) != _topic_ids(lineages)
            reason = _OTHER_TOPIC if other else outdated(self.marks, lineages, now_ms)
            if reason is not None:
                self.reset(reason)

    def reset(self, reason: str | None = None) -> None:
        """Forget what is there. With a reason it says so."""
        if reason is not None:
            log.warning("The standby of partition %d is not used: %s; reading its changelogs", self.number, reason)
        self.marks = {}
        for rows in self.tables.values():
            rows.clear()
        for dues in self.dues.values():
            dues.clear()

    def save_all(self, marks: Mapping[str, Mark]) -> None:
        """Note how far the rows go."""
        self.marks = dict(marks)


_OTHER_TOPIC = "it is of another topic, or the topic was created anew"


def _topic_ids(lineages: Mapping[str, Lineage]) -> dict[str, str]:
    return {role: lineage.topic_id for role, lineage in lineages.items()}


def outdated(marks: Mapping[str, Mark], lineages: Mapping[str, Lineage], now_ms: int) -> str | None:
    """Why what goes to these marks is too old to be gone on from; None when it is not."""
    for role, lineage in lineages.items():
        age_ms = now_ms - marks[role].at_ms
        if age_ms > KEPT_SHARE * lineage.tombstones_ms:
            return f"it is {age_ms / 3_600_000:.0f} hours old, and deletions since may have left the changelog"
    return None


def _numbered(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _prefix(kind: bytes, number: int, table: str) -> bytes:
    return kind + _numbered(number) + table.encode() + b"\0"


# --- The database ---


class Database:
    """One RocksDB of raw keys and values.

    `count`: told what became of copies. After a write has failed, none is tried any more: what is there stays true.
    """

    def __init__(self, path: Path, memory_bytes: int, count: Callable[[str], None]) -> None:
        self.path = path
        self.count = count
        self.failed = False
        self._rdict = Rdict(str(path), _options(memory_bytes))

    def get(self, key: bytes) -> bytes | None:
        """The value of a key. Raises `CopyDamaged` when it cannot be read."""
        try:
            return cast("bytes | None", self._rdict.get(key))
        except Exception as error:
            raise self._damaged(error) from error

    def has(self, key: bytes) -> bool:
        """Whether there is a key. Raises `CopyDamaged`."""
        try:
            return key in self._rdict
        except Exception as error:
            raise self._damaged(error) from error

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All keys with a prefix and their values, in order, as of now. Raises `CopyDamaged`."""
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(_after(prefix))
        try:
            last = prefix
            for key, value in cast(
                "Iterable[tuple[bytes, bytes]]", self._rdict.items(from_key=prefix, read_opt=bounds)
            ):
                yield key, value
                last = key
            self._check_end(last, bounds)
        except Exception as error:
            raise self._damaged(error) from error

    def _check_end(self, last: bytes, bounds: ReadOptions) -> None:
        """Raise what reading after a key raises: `Rdict.items` ends at a damaged block as if that were all."""
        found = self._rdict.iter(bounds)
        found.seek(last)
        if found.valid() and found.key() == last:
            found.next()
        found.status()
        if found.valid():
            raise OSError(f"reading ended before {found.key()!r}")

    def _damaged(self, error: Exception) -> CopyDamaged:
        """Delete the files, so that nobody trusts them again. One that was closed is a mistake, and no damage."""
        if isinstance(error, DbClosedError):
            raise error
        self.failed = True
        self.count("discarded")
        shutil.rmtree(self.path, ignore_errors=True)
        return CopyDamaged(f"{self.path} cannot be used: {error}; it is deleted, and made anew from the changelogs")

    @property
    def busy(self) -> bool:
        """Whether a write would have to wait for the disk. The library waits with all of Python held up: do not."""
        return any(self._rdict.property_int_value(name) for name in _HELD_UP) and not self.failed

    def write(self, batch: WriteBatch) -> bool:
        """Write a batch whole, or not at all: then False, now and from now on."""
        if self.failed:
            return False
        try:
            self._rdict.write(batch)
        except Exception as error:  # noqa: BLE001 - the library raises no other
            self.failed = True
            log.warning("The local copies in %s cannot be written: %s; new state is kept in memory", self.path, error)
            self.count("failed")
            return False
        return True

    def clear(self, number: int) -> None:
        """Delete everything about a partition number, the mark first. Raises `CopyDamaged` when it cannot.

        Key by key: a deleted range slows every look-up in its files down.
        """
        keys = (key for kind in (_MARK, _INDEX, _ROW) for key, _ in self.items(kind + _numbered(number)))
        while some := list(islice(keys, _DELETED_AT_ONCE)):
            batch = WriteBatch(raw_mode=True)
            for key in some:
                batch.delete(key)
            if not self.write(batch):
                raise self._damaged(OSError("what is out of date cannot be deleted"))

    def close(self) -> None:
        """Close it; nothing can be read any more. What could not be written stays unwritten."""
        try:
            self._rdict.close()
        except Exception as error:  # noqa: BLE001 - the library raises no other
            log.warning("The local copies in %s could not be closed in order: %s", self.path, error)


def _after(prefix: bytes) -> bytes:
    """The first key after all keys with a prefix."""
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix[-1] < 255 else _after(prefix[:-1])


def _options(memory_bytes: int) -> Options:
    """What is read is cached, and what is written is gathered, in one share of memory.

    Indexes and filters of the tables on disk come on top, about a hundredth of their size: from a cache they would be
    read again and again.
    """
    cache = Cache(memory_bytes)
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_block_size(_BLOCK_BYTES)
    table.set_bloom_filter(10, False)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    buffers = memory_bytes // 2
    options.set_write_buffer_manager(WriteBufferManager.new_write_buffer_manager_with_cache(buffers, False, cache))
    options.set_write_buffer_size(buffers // 2)
    options.set_max_total_wal_size(2 * buffers)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_max_open_files(_OPEN_FILES)
    options.set_keep_log_file_num(_OWN_LOGS)
    options.set_stats_dump_period_sec(0)
    return options


class LocalStore:
    """The copies of one worker; open it with `open_store`."""

    def __init__(self, database: Database, lock: IO[bytes]) -> None:
        self._database = database
        self._lock = lock

    def copy(
        self, number: int, tables: Mapping[str, Due | None], lineages: Mapping[str, Lineage], now_ms: int
    ) -> Copy | None:
        """The copy of a partition number, to go on from or to make anew; None when nothing can be written any more.

        `tables`: by name, with when a value's customer is to be woken. `lineages`: of the changelogs, by role.
        """
        if self._database.failed:
            return None
        copy = Copy(self._database, number, tables, lineages)
        copy.open(now_ms)
        return copy

    def close(self) -> None:
        """Close the database, and let another worker have it."""
        self._database.close()
        self._lock.close()


def open_store(directory: Path, memory_bytes: int, count: Callable[[str], None]) -> LocalStore | None:
    """Open the copies in the first subdirectory that no other worker uses; None, and a warning, when there is none.

    One that cannot be opened is deleted and made anew. `count`: told `discarded` and `failed`.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock, slot = _free_slot(directory)
        return LocalStore(_open_database(slot, memory_bytes, count), lock)
    except Exception as error:  # noqa: BLE001 - RocksDB raises no other
        log.warning("No local copies in %s: %s; state is kept in memory", directory, error)
        count("failed")
        return None


def _free_slot(directory: Path) -> tuple[IO[bytes], Path]:
    """The first subdirectory nobody has locked, and its lock. OSError when all are taken or none can be made."""
    for slot in range(SLOTS):
        lock = (directory / f"{slot}.lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return lock, directory / str(slot)
    raise OSError(f"{SLOTS} other workers keep their copies there; give this one another directory")


def _open_database(path: Path, memory_bytes: int, count: Callable[[str], None]) -> Database:
    try:
        return Database(path, memory_bytes, count)
    except Exception as error:  # noqa: BLE001 - RocksDB raises no other
        log.warning("The local copies in %s cannot be opened: %s; they are deleted, and made anew", path, error)
        count("discarded")
        shutil.rmtree(path, ignore_errors=True)
        return Database(path, memory_bytes, count)
