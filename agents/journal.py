"""Writing a partition's changelogs under one owner, and reading them back when the owner changes.

Every record carries its owner's epoch. Who takes a partition over reads its changelogs to the end, claims them
with a record of the next epoch, and reads on to that claim; from there on, records of a lower epoch (of a
worker that was paused, and does not know yet that it lost the partition) count for nothing. A changelog
partition has one writer at a time, so the offsets of its acknowledgements are consecutive: a gap means somebody
else wrote. The records in the gap tell who is the rightful owner, before anything is published.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from time import thread_time, time
from typing import Any, Protocol

import msgspec

from agents.offsets import TopicPartition
from agents.store import Claim, Copy, Mark, MemoryCopy
from agents.tables import Change, Changelog
from engine.arrival import KIND

OWNER_KEY = b""
"""Key of the records that claim a partition; no customer and no identifier is empty."""
EPOCH_HEADER = "batuta-epoch"
_MOST_DIGITS = 18
_NO_EPOCH = -1
_POLL_MS = 200
_POLL_RECORDS = 5_000
_BUSY_SECONDS = 0.01


class Ousted(Exception):
    """Another worker owns the partition; this one must not publish anything any more."""


class Sender(Protocol):
    """What is needed of a Kafka producer."""

    async def send(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> asyncio.Future[Any]:
        """Put a record into the next request; the future is done when it is acknowledged."""
        ...


class Claimant(msgspec.Struct):
    """Who claims: a worker's name, a word no other process has, and the epochs this process claimed so far."""

    owner: str
    process: str
    held: dict[int, int] = {}

    def claim(self, epoch: int) -> Claim:
        """What to claim a partition with."""
        return Claim(self.owner, epoch, self.process)

    def is_twin(self, number: int, claim: Claim | None) -> bool:
        """Whether a process of the same name, started later, claimed a partition after this one had."""
        return (
            claim is not None
            and claim.owner == self.owner
            and claim.process != self.process
            and claim.epoch > self.held.get(number, claim.epoch)
        )


class Reader:
    """Applies the records of one changelog partition, in order, to its tables. `mark`: how far, and under whom."""

    def __init__(self, changelog: Changelog, mark: Mark | None = None) -> None:
        self.changelog = changelog
        self.mark = Mark() if mark is None else mark

    def apply(self, records: Iterable[Any]) -> None:
        """Apply records, except those whose epoch is lower than one seen before. Without an epoch they count."""
        mark, load = self.mark, self.changelog.load
        headers, epoch = (), None
        for record in records:
            if record.headers != headers:
                headers, epoch = record.headers, epoch_of(record.headers)
            key = record.key
            if key is None:
                continue
            if epoch is not None and epoch != mark.epoch:
                if epoch < mark.epoch:
                    mark.overruled.add(key)
                    continue
                mark.epoch, mark.claims = epoch, 0
            mark.overruled.discard(key)
            if key == OWNER_KEY:
                mark.claims += 1
                mark.claim = _claim_of(record.value)
            else:
                load(key, record.value)


def _claim_of(value: bytes | None) -> Claim | None:
    """What a claim says; one that cannot be read still raised the epoch."""
    try:
        return msgspec.json.decode(value or b"", type=Claim)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


class Journal:
    """Appends one partition's changes to its changelogs, and notices when somebody else does.

    `names`: changelog role → full topic name. `positions`: role → offset of the next record expected there.
    `read`: reads the records of a changelog partition from one offset to below another. `copy`: kept up with what is
    acknowledged; `claim`: what this owner claimed the partition with. `markers`: offsets that the end of a transaction
    takes after what is confirmed at once.
    """

    def __init__(
        self,
        sender: Sender,
        partition: int,
        epoch: int,
        changelogs: Sequence[Changelog],
        names: Mapping[str, str],
        positions: Mapping[str, int],
        read: Callable[[TopicPartition, int, int], Awaitable[list[Any]]],
        copy: Copy | None = None,
        claim: Claim | None = None,
        markers: int = 0,
    ) -> None:
        self.partition = partition
        self.epoch = epoch
        self.positions = dict(positions)
        self._sender = sender
        self._changelogs = {changelog.topic: changelog for changelog in changelogs}
        self._names = names
        self._headers = [(EPOCH_HEADER, str(epoch).encode())]
        self._read = read
        self._copy = copy
        self._claim = claim
        self._markers = markers
        self._sent: deque[Change] = deque()
        self._safe: list[tuple[str, str, bytes | None]] = []
        # Keys that somebody else wrote and this worker has not written over yet: until then the copy waits.
        self._foreign: set[tuple[str, bytes]] = set()

    def ends(self) -> dict[TopicPartition, int]:
        """Where the changelog partitions end, as far as this worker wrote and read."""
        return {TopicPartition(self._names[role], self.partition): end for role, end in self.positions.items()}

    def changes(self) -> list[Change]:
        """What changed in the tables since the last time."""
        return [change for changelog in self._changelogs.values() for change in changelog.flush()]

    async def append(self, changes: Iterable[Change]) -> list[tuple[str, asyncio.Future[Any]]]:
        """Send changes, in order; returns the role and the future acknowledgement of each."""
        if self._copy is not None:
            changes = list(changes)
            self._sent.extend(changes)
        return [
            (
                change.topic,
                await self._sender.send(
                    self._names[change.topic], change.value, change.key, self.partition, None, self._headers
                ),
            )
            for change in changes
        ]

    async def confirm(self, acknowledgements: Iterable[tuple[str, asyncio.Future[Any]]]) -> None:
        """Return when everything appended is safe and this worker is still the owner.

        Raises `Ousted` when another one took the partition over, and what Kafka raised when it refused.
        """
        written = set()
        for role, future in acknowledgements:
            offset: int = (await future).offset
            if offset != self.positions[role]:
                await self._look_back(role, offset)
            self.positions[role] = offset + 1
            written.add(role)
            if self._copy is not None:
                self._note_safe(role, self._sent.popleft())
        for role in written:
            self.positions[role] += self._markers
        if self._safe:
            self.keep()

    def _note_safe(self, role: str, change: Change) -> None:
        table, key = self._changelogs[role].locate(change.key)
        self._safe.append((table.spec.name, key, change.value))
        self._foreign.discard((role, change.key))

    def keep(self) -> None:
        """Bring the local copy, where there is one, up to what is acknowledged."""
        if self._copy is None or self._foreign or self._copy.busy:
            return
        self._copy.save(self._safe, self.marks())
        self._safe.clear()

    def marks(self) -> dict[str, Mark]:
        """How far what is acknowledged goes, as of now."""
        now_ms = int(time() * 1000)
        return {role: Mark(end, now_ms, self.epoch, 1, self._claim) for role, end in self.positions.items()}

    async def _look_back(self, role: str, offset: int) -> None:
        """Somebody wrote between two records of ours: a worker that lost the partition, or one that took it."""
        at = TopicPartition(self._names[role], self.partition)
        for record in await self._read(at, self.positions[role], offset):
            epoch = epoch_of(record.headers) or 0
            if epoch > self.epoch or (epoch == self.epoch and record.key == OWNER_KEY):
                raise Ousted(f"{at.topic}[{at.partition}] was taken over: epoch {epoch} follows {self.epoch}")
            if epoch < self.epoch and record.key:
                self._changelogs[role].touch(record.key)
                self._foreign.add((role, record.key))


def epoch_of(headers: Iterable[tuple[str, bytes]]) -> int | None:
    """The epoch of a record's writer; None when it carries none, and one below all others when it cannot be read."""
    for name, value in headers:
        if name == EPOCH_HEADER:
            return int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else _NO_EPOCH
    return None


# --- Taking a partition over ---


class Restored(msgspec.Struct, frozen=True):
    """What taking a partition over gives: what it was claimed with, and where its changelogs end, by role.

    `records`: how many had to be read for it.
    """

    claim: Claim
    positions: Mapping[str, int]
    records: int

    @property
    def epoch(self) -> int:
        """Of the owner."""
        return self.claim.epoch


class Recovery:
    """Reads the changelogs of partitions into their tables: what the copies have not, or all there is.

    `copies`: of the partitions that have one, whose rows are in it. A copy that does not fit its changelog is
    thrown away. `consumer`: a started AIOKafkaConsumer without a group. `at_once`: most records applied before others
    get their turn on the event loop; `rest`: seconds left to them per second that the loop was busy meanwhile.
    """

    def __init__(
        self,
        consumer: Any,
        partitions: Mapping[int, Sequence[Changelog]],
        names: Mapping[str, str],
        copies: Mapping[int, Copy | MemoryCopy],
        *,
        at_once: int = _POLL_RECORDS,
        rest: float = 0.0,
    ) -> None:
        self.records = dict.fromkeys(partitions, 0)
        """How many were read, by partition."""
        self.readers = {
            TopicPartition(names[changelog.topic], number): Reader(changelog)
            for number, changelogs in partitions.items()
            for changelog in changelogs
        }
        self._consumer = consumer
        self._copies = copies
        self._at_once = at_once
        self._rest = rest

    async def start(self) -> None:
        """Go to where reading begins."""
        self._consumer.assign(list(self.readers))
        first = await self._consumer.beginning_offsets(list(self.readers))
        ends = await self._consumer.end_offsets(list(self.readers))
        for number, copy in self._copies.items():
            marks = {at: copy.marks[reader.changelog.topic] for at, reader in self._of(number) if copy.marks}
            outside = [at for at, mark in marks.items() if not first[at] <= mark.position <= ends[at]]
            for at in outside[:1]:
                copy.reset(f"it goes to {marks[at].position} in {at.topic}, which has {first[at]} to {ends[at]}")
            for _, reader in self._of(number):
                reader.mark = copy.marks.get(reader.changelog.topic, reader.mark)
        now_ms = int(time() * 1000)
        for at, reader in self.readers.items():
            if not reader.mark.at_ms:
                reader.mark = Mark(first[at], now_ms)
            self._consumer.seek(at, reader.mark.position)
        for number, copy in self._copies.items():
            # The same marks: wherever reading ends, a copy in memory knows how far it goes.
            copy.marks = self._marks(number)

    def _of(self, number: int) -> list[tuple[TopicPartition, Reader]]:
        return [(at, reader) for at, reader in self.readers.items() if at.partition == number]

    async def read_to(self, ends: Mapping[TopicPartition, int]) -> None:
        """Apply what stands below `ends`, and whatever arrives with it."""
        waiting = {at: end for at, end in ends.items() if await self._consumer.position(at) < end}
        while waiting:
            begun = thread_time()
            fetched = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=self._at_once)
            for at, records in fetched.items():
                position, reader = await self._consumer.position(at), self.readers[at]
                reader.apply(records)
                reader.mark.position = position
                reader.mark.at_ms = max(reader.mark.at_ms, records[-1].timestamp)
                self.records[at.partition] += len(records)
            await self.keep({at.partition for at in fetched})
            if self._rest:
                await asyncio.sleep(self._rest * (thread_time() - begun))
            waiting = {at: end for at, end in waiting.items() if await self._consumer.position(at) < end}

    async def keep(self, numbers: Collection[int]) -> None:
        """Have the copies of partitions go as far as their tables."""
        for number in self._copies.keys() & numbers:
            while self._copies[number].busy:  # noqa: ASYNC110 - RocksDB has no event for it
                await asyncio.sleep(_BUSY_SECONDS)
            self._copies[number].save_all(self._marks(number))

    def _marks(self, number: int) -> dict[str, Mark]:
        return {reader.changelog.topic: reader.mark for _, reader in self._of(number)}

    def note_complete(self, at_ms: int) -> None:
        """Note that nothing is missing up to a moment."""
        for reader in self.readers.values():
            reader.mark.at_ms = max(reader.mark.at_ms, at_ms)

    async def finish(self) -> None:
        """Note in the copies that nothing is missing by now, and have what was overruled written again."""
        self.note_complete(int(time() * 1000))
        await self.keep(self.records)
        for reader in self.readers.values():
            for key in reader.mark.overruled - {OWNER_KEY}:
                reader.changelog.touch(key)


async def take_over(
    consumer: Any,
    sender: Sender,
    claimant: Claimant,
    partitions: Mapping[int, Sequence[Changelog]],
    names: Mapping[str, str],
    copies: Mapping[int, Copy | MemoryCopy] | None = None,
    fence: Callable[[], Awaitable[None]] | None = None,
) -> dict[int, Restored]:
    """Read the changelogs of partitions into their tables and claim them; see `Recovery`.

    `fence`: called before claiming; what the last owner had begun is committed or undone when it returns, and nothing
    of it can follow.

    Keys a paused worker overwrote are left marked as changed, so that the first batch writes them again: compaction
    knows nothing of epochs. Raises `Ousted`, without claiming anything, when a process of the same name was started
    later: the two would take turns for ever.
    """
    recovery = Recovery(consumer, partitions, names, copies or {})
    readers = recovery.readers
    await recovery.start()
    await recovery.read_to(await consumer.end_offsets(list(readers)))
    for at, reader in readers.items():
        if claimant.is_twin(at.partition, reader.mark.claim):
            raise Ousted(
                f"another worker named {claimant.owner} took {at.topic}[{at.partition}] over; one must be left"
            )
    if fence is not None:
        await fence()
    epochs: dict[int, int] = {}
    unsettled = set(partitions)
    while unsettled:
        epochs |= {
            n: 1 + max(reader.mark.epoch for at, reader in readers.items() if at.partition == n) for n in unsettled
        }
        claims = await _claim(sender, claimant, [at for at in readers if at.partition in unsettled], epochs)
        await recovery.read_to({at: offset + 1 for at, offset in claims.items()})
        unsettled = {at.partition for at, reader in readers.items() if _contested(reader.mark, epochs[at.partition])}
    await recovery.finish()
    claimant.held.update(epochs)
    return {
        number: Restored(
            claimant.claim(epochs[number]),
            {log.topic: readers[TopicPartition(names[log.topic], number)].mark.position for log in changelogs},
            recovery.records[number],
        )
        for number, changelogs in partitions.items()
    }


def _contested(mark: Mark, epoch: int) -> bool:
    """Whether another claim of this epoch or a higher one slipped in before ours: then go above it."""
    return mark.epoch > epoch or mark.claims > 1


async def _claim(
    sender: Sender, claimant: Claimant, partitions: Sequence[TopicPartition], epochs: Mapping[int, int]
) -> dict[TopicPartition, int]:
    """Claim changelog partitions; returns the offset of each claim."""
    sent = {}
    for at in partitions:
        epoch = epochs[at.partition]
        headers = [(EPOCH_HEADER, str(epoch).encode()), (KIND, b"owner")]
        value = msgspec.json.encode(claimant.claim(epoch))
        sent[at] = await sender.send(at.topic, value, OWNER_KEY, at.partition, None, headers)
    return {at: (await future).offset for at, future in sent.items()}


async def read_range(consumer: Any, at: TopicPartition, start: int, end: int) -> list[Any]:
    """The records of one partition from offset `start` to below `end`; the consumer has no group."""
    consumer.assign([at])
    consumer.seek(at, start)
    records: list[Any] = []
    while await consumer.position(at) < end:
        fetched = await consumer.getmany(at, timeout_ms=_POLL_MS)
        records += [record for record in fetched.get(at, ()) if record.offset < end]
    return records
