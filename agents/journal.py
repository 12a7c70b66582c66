"""Writing a partition's changelogs under one owner, and reading them back when the owner changes.

Every record carries its owner's epoch. Who takes a partition over reads its changelogs to the end, claims them
with a record of the next epoch, and reads on to that claim; from there on, records of a lower epoch (of a
worker that was paused, and does not know yet that it lost the partition) count for nothing. A changelog
partition has one writer at a time, so the offsets of its acknowledgements are consecutive: a gap means somebody
else wrote. The records in the gap tell who is the rightful owner, before anything is published.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from agents.offsets import TopicPartition
from agents.tables import Change, Changelog
from engine.arrival import KIND

OWNER_KEY = b""
"""Key of the records that claim a partition; no customer and no identifier is empty."""
EPOCH_HEADER = "batuta-epoch"
_POLL_MS = 200
_POLL_RECORDS = 5_000


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


class Claim(msgspec.Struct, frozen=True, rename="camel"):
    """Value of the record that claims a changelog partition. `owner`: the worker's name; `process`: one life of it."""

    owner: str
    epoch: int
    process: str = ""


class Claimant(msgspec.Struct):
    """Who claims: a worker's name, a word no other process has, and the epochs this process claimed so far."""

    owner: str
    process: str
    held: dict[int, int] = {}

    def is_twin(self, number: int, claim: Claim | None) -> bool:
        """Whether a process of the same name, started later, claimed a partition after this one had."""
        return (
            claim is not None
            and claim.owner == self.owner
            and claim.process != self.process
            and claim.epoch > self.held.get(number, claim.epoch)
        )


class Reader:
    """Applies the records of one changelog partition, in order, to its tables."""

    def __init__(self, changelog: Changelog) -> None:
        self.changelog = changelog
        self.epoch = 0
        self.claim: Claim | None = None
        self.claims = 0
        """Claims seen of the present epoch; two mean that two workers took the same one."""
        self.overruled: set[bytes] = set()
        """Keys that a lower epoch wrote after a higher one, and nobody since: to be written again."""

    def apply(self, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> None:
        """Apply one record, unless its epoch is lower than one seen before. Without an epoch it counts."""
        epoch = epoch_of(headers)
        if key is None:
            return
        if epoch is not None and epoch < self.epoch:
            self.overruled.add(key)
            return
        if epoch is not None and epoch > self.epoch:
            self.epoch, self.claims = epoch, 0
        self.overruled.discard(key)
        if key == OWNER_KEY:
            self.claims += 1
            self.claim = _claim_of(value)
        else:
            self.changelog.load(key, value)


def _claim_of(value: bytes | None) -> Claim | None:
    """What a claim says; one that cannot be read still raised the epoch."""
    try:
        return msgspec.json.decode(value or b"", type=Claim)
    except msgspec.DecodeError:
        return None


class Journal:
    """Appends one partition's changes to its changelogs, and notices when somebody else does.

    `names`: changelog role → full topic name. `positions`: role → offset of the next record expected there.
    `read`: reads the records of a changelog partition from one offset to below another.
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
    ) -> None:
        self.partition = partition
        self.epoch = epoch
        self.positions = dict(positions)
        self._sender = sender
        self._changelogs = {changelog.topic: changelog for changelog in changelogs}
        self._names = names
        self._headers = [(EPOCH_HEADER, str(epoch).encode())]
        self._read = read

    def ends(self) -> dict[TopicPartition, int]:
        """Where the changelog partitions end, as far as this worker wrote and read."""
        return {TopicPartition(self._names[role], self.partition): end for role, end in self.positions.items()}

    def changes(self) -> list[Change]:
        """What changed in the tables since the last time."""
        return [change for changelog in self._changelogs.values() for change in changelog.flush()]

    async def append(self, changes: Iterable[Change]) -> list[tuple[str, asyncio.Future[Any]]]:
        """Send changes, in order; returns the role and the future acknowledgement of each."""
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
        for role, future in acknowledgements:
            offset: int = (await future).offset
            if offset != self.positions[role]:
                await self._look_back(role, offset)
            self.positions[role] = offset + 1

    async def _look_back(self, role: str, offset: int) -> None:
        """Somebody wrote between two records of ours: a worker that lost the partition, or one that took it."""
        at = TopicPartition(self._names[role], self.partition)
        for record in await self._read(at, self.positions[role], offset):
            epoch = epoch_of(record.headers) or 0
            if epoch > self.epoch or (epoch == self.epoch and record.key == OWNER_KEY):
                raise Ousted(f"{at.topic}[{at.partition}] was taken over: epoch {epoch} follows {self.epoch}")
            if epoch < self.epoch and record.key:
                self._changelogs[role].touch(record.key)


def epoch_of(headers: Iterable[tuple[str, bytes]]) -> int | None:
    """The epoch of a record's writer; None when it carries none."""
    for name, value in headers:
        if name == EPOCH_HEADER:
            return int(value)
    return None


# --- Taking a partition over ---


class Restored(msgspec.Struct, frozen=True):
    """What taking a partition over gives: the epoch of the owner, and where its changelogs end, by role."""

    epoch: int
    positions: Mapping[str, int]


async def take_over(
    consumer: Any,
    sender: Sender,
    claimant: Claimant,
    partitions: Mapping[int, Sequence[Changelog]],
    names: Mapping[str, str],
) -> dict[int, Restored]:
    """Read the changelogs of partitions into their empty tables and claim them.

    `consumer`: a started AIOKafkaConsumer without a group. Keys a paused worker overwrote are left marked as
    changed, so that the first batch writes them again: compaction knows nothing of epochs. Raises `Ousted`, without
    claiming anything, when a process of the same name was started later: the two would take turns for ever.
    """
    readers = {
        TopicPartition(names[changelog.topic], number): Reader(changelog)
        for number, changelogs in partitions.items()
        for changelog in changelogs
    }
    consumer.assign(list(readers))
    await consumer.seek_to_beginning(*readers)
    await _read_to(consumer, readers, await consumer.end_offsets(list(readers)))
    for at, reader in readers.items():
        if claimant.is_twin(at.partition, reader.claim):
            raise Ousted(
                f"another worker named {claimant.owner} took {at.topic}[{at.partition}] over; one must be left"
            )
    epochs: dict[int, int] = {}
    unsettled = set(partitions)
    while unsettled:
        epochs |= {n: 1 + max(reader.epoch for at, reader in readers.items() if at.partition == n) for n in unsettled}
        claims = await _claim(sender, claimant, [at for at in readers if at.partition in unsettled], epochs)
        await _read_to(consumer, readers, {at: offset + 1 for at, offset in claims.items()})
        unsettled = {at.partition for at, reader in readers.items() if _contested(reader, epochs[at.partition])}
    for reader in readers.values():
        for key in reader.overruled - {OWNER_KEY}:
            reader.changelog.touch(key)
    claimant.held.update(epochs)
    ends = {(at.topic, at.partition): await consumer.position(at) for at in readers}
    return {
        number: Restored(epochs[number], {log.topic: ends[names[log.topic], number] for log in changelogs})
        for number, changelogs in partitions.items()
    }


def _contested(reader: Reader, epoch: int) -> bool:
    """Whether another claim of this epoch or a higher one slipped in before ours: then go above it."""
    return reader.epoch > epoch or reader.claims > 1


async def _claim(
    sender: Sender, claimant: Claimant, partitions: Sequence[TopicPartition], epochs: Mapping[int, int]
) -> dict[TopicPartition, int]:
    """Claim changelog partitions; returns the offset of each claim."""
    sent = {}
    for at in partitions:
        epoch = epochs[at.partition]
        headers = [(EPOCH_HEADER, str(epoch).encode()), (KIND, b"owner")]
        value = msgspec.json.encode(Claim(claimant.owner, epoch, claimant.process))
        sent[at] = await sender.send(at.topic, value, OWNER_KEY, at.partition, None, headers)
    return {at: (await future).offset for at, future in sent.items()}


async def _read_to(consumer: Any, readers: Mapping[TopicPartition, Reader], ends: Mapping[TopicPartition, int]) -> None:
    """Apply what stands below `ends`, and whatever arrives with it."""
    waiting = {at: end for at, end in ends.items() if await consumer.position(at) < end}
    while waiting:
        fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        for at, records in fetched.items():
            reader = readers[at]
            for record in records:
                reader.apply(record.key, record.value, record.headers)
        waiting = {at: end for at, end in waiting.items() if await consumer.position(at) < end}


async def read_range(consumer: Any, at: TopicPartition, start: int, end: int) -> list[Any]:
    """The records of one partition from offset `start` to below `end`; the consumer has no group."""
    consumer.assign([at])
    consumer.seek(at, start)
    records: list[Any] = []
    while await consumer.position(at) < end:
        fetched = await consumer.getmany(at, timeout_ms=_POLL_MS)
        records += [record for record in fetched.get(at, ()) if record.offset < end]
    return records
