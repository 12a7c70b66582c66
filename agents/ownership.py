"""Which partitions this worker owns: taking them over, working on them, handing them over.

The group's life, seen from here:

    assigned → `take_over`: restore the tables (or keep them, when nobody wrote to their changelogs since, or go on
               from a standby) and send what their last owner may have left unsent
             → `open`: read on from the committed offsets
             → `process`, commits and timers, and standbys of what others serve, until
    revoked  → `hand_over`: finish what is at work, commit, keep the tables for the case that they come back

Whatever goes wrong ends the process through `fail`; the restart replays from the committed offsets.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import Any, Protocol
from urllib.parse import quote
from uuid import uuid4

from agents import journal
from agents.journal import Claimant, Journal, Ousted, Restored, Sender
from agents.metrics import Gauges, Metrics
from agents.offsets import Offsets, TopicPartition
from agents.partitions import Batch, Engine, Partition, Routes, Surroundings
from agents.settings import Settings
from agents.standby import Standbys
from agents.store import Copy, CopyDamaged, Lineage, LocalStore, MemoryCopy, open_store
from agents.tables import Changelog, Table, changelogs
from agents.transactions import Transactions
from engine.arrival import KIND

log = logging.getLogger("batuta")

TICK_SECONDS = 0.05
TICKS_AT_ONCE = 500
WATCH_SECONDS = 0.5

Fail = Callable[[str, BaseException], None]


class Cluster(Protocol):
    """What is needed of Kafka."""

    @property
    def changelog_sender(self) -> Sender:
        """Producer for the changelogs."""
        ...

    @property
    def output_sender(self) -> Sender:
        """Producer for everything else."""
        ...

    def reader(self) -> AbstractAsyncContextManager[Any]:
        """A started AIOKafkaConsumer that belongs to no group."""
        ...

    async def open_transactions(self, number: int) -> Transactions:
        """The transactions of a partition number; those of whoever had it before are over, and it is fenced off."""
        ...

    async def starting_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Where to read on: the committed offset of each partition, or its beginning."""
        ...

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Offset after the last record of each partition."""
        ...

    async def lineages(self, topics: Sequence[str]) -> Mapping[str, Lineage]:
        """The lineage of each topic by its full name, as far as the broker tells it."""
        ...

    async def commit_offsets(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Commit offsets; False when the group has rebalanced meanwhile."""
        ...

    def behind(self, at: TopicPartition, begun: int) -> int | None:
        """Offsets from `begun` to the end, as far as fetches have told; 0 when only records that nobody reads follow.

        None while nobody knows.
        """
        ...

    def silence(self) -> float:
        """Seconds since the group's coordinator last answered this worker."""
        ...


class Ownership:
    """The partitions of one worker. All methods belong to one event loop."""

    def __init__(self, settings: Settings, engine: Engine, routes: Routes, metrics: Metrics, fail: Fail) -> None:
        self.settings = settings
        self.metrics = metrics
        self.stage = "joining the group"
        """What the worker is doing, for people; `serving` when it works."""
        self.incarnation = 0
        """Counts the times partitions were taken away; tells work of before from work of after."""
        self.assignments = 0
        """Counts the times the group assigned partitions."""
        self.start_offsets: Mapping[TopicPartition, int] = {}
        """Where the partitions taken over are to be read from."""
        self._engine = engine
        self._routes = routes
        self._claimant = Claimant(settings.name, uuid4().hex)
        self.fail = fail
        self._offsets = Offsets()
        self._roles: dict[str, str] = {}
        self._partitions: dict[int, Partition] = {}
        self._transactions: dict[int, Transactions] = {}
        self._in_flight = 0
        self._moved = asyncio.Event()
        self._moved_at = monotonic()
        self._takeover: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._commit_lock = asyncio.Lock()
        self._hand_over_lock = asyncio.Lock()
        self._stopping = False
        self._recovery_seconds: float | None = None
        self._recovery_records = 0
        self._store: LocalStore | None = None
        self._standbys = Standbys(
            engine.tables,
            self._names(),
            lambda: self._cluster.reader(),  # noqa: PLW0108 - there is no cluster yet
            self._lineages,
            None if settings.store == "memory" else self._local_copies,
        )
        self._standby_numbers: set[int] = set()
        metrics.gauges = self.gauges

    @property
    def serving(self) -> bool:
        """Whether batches are accepted."""
        return self.stage == "serving"

    def start(self, cluster: Cluster) -> None:
        """Begin the work that does not wait for records: commits, timers, and the watch over progress."""
        self._cluster = cluster
        self._store = self._open_store()
        self._around = Surroundings(
            self._engine,
            cluster.output_sender,
            self._routes,
            self._offsets,
            self.metrics,
            self.check,
            self._on_done,
            self.commit,
            self.fail,
        )
        loop = asyncio.get_running_loop()
        for work in (self._commit_regularly, self._tick, self._watch):
            task = loop.create_task(work(), name=work.__name__)
            task.add_done_callback(self._on_task_end)
            self._tasks.append(task)

    async def stop(self) -> None:
        """Hand everything over for good, and stop the work in the background."""
        self._stopping = True
        await self.hand_over()
        await self._standbys.halt()
        self.stage = "stopped"
        for task in self._tasks:
            task.cancel()
        await self._end_transactions(list(self._transactions))
        self._close_store()

    def _close_store(self) -> None:
        """Close the local store, and forget the partitions whose rows are there."""
        if self._store is not None:
            self._partitions = {}
            self._store.close()

    def _open_store(self) -> LocalStore | None:
        settings = self.settings
        if settings.store == "memory":
            return None
        directory = Path(settings.state_dir) / quote(settings.group, safe="")
        return open_store(directory, settings.state_memory_bytes, self._count_copy)

    def _count_copy(self, result: str) -> None:
        self.metrics.add({("state_copies", result): 1})

    # --- Taking over ---

    async def take_over(
        self, assigned: Collection[TopicPartition], roles: Mapping[str, str], standbys: Collection[int] = ()
    ) -> bool:
        """Make the tables of assigned partitions ready; False when they were revoked meanwhile.

        `roles`: full topic name → role, of all topics that must be assigned together. `standbys`: the partitions to
        follow while this worker serves the others.
        """
        if self._stopping:
            return False
        started, incarnation = monotonic(), self.incarnation
        self.stage = "restoring state"
        self._roles = dict(roles)
        numbers = copartitioned(assigned, roles)
        self._standby_numbers = set(standbys) - numbers
        self._takeover = asyncio.get_running_loop().create_task(self._prepare(numbers, assigned))
        try:
            await self._takeover
        except (Exception, asyncio.CancelledError):
            if incarnation == self.incarnation:
                raise
            return False
        finally:
            self._takeover = None
        self._recovery_seconds = monotonic() - started
        self.stage = "seeking committed offsets"
        return True

    async def _prepare(self, numbers: Collection[int], assigned: Collection[TopicPartition]) -> None:
        await self._restore(numbers)
        self.start_offsets = await self._cluster.starting_offsets(assigned)
        for at, offset in self.start_offsets.items():
            self._partitions[at.partition].committed[self._roles[at.topic]] = offset
        for partition in self._partitions.values():
            await partition.resume()
            await asyncio.sleep(0)

    async def _restore(self, numbers: Collection[int]) -> None:
        """Have the tables of these partitions as their changelogs say. Values are bytes: nothing for the collector."""
        await self._standbys.halt()
        self._recovery_records = 0
        gc.disable()
        try:
            await self._restore_changed(numbers)
        except CopyDamaged as error:
            log.warning("%s", error)
            self._close_store()
            self._store = self._open_store()
            await self._restore_changed(numbers)
        finally:
            gc.enable()
        gc.collect()
        gc.freeze()

    async def _restore_changed(self, numbers: Collection[int]) -> None:
        kept = await self._unchanged(numbers)
        self._leave_behind(self._partitions.keys() - kept)
        self._partitions = {number: self._partitions[number] for number in kept}
        fresh = [number for number in numbers if number not in kept]
        await self._end_transactions(self._transactions.keys() - kept)
        if not fresh:
            return
        copies = await self._copies(fresh)
        known: dict[int, Copy | MemoryCopy] = {**copies, **await self._standbys.copies(fresh)}
        specs = self._engine.tables
        made = {number: changelogs(specs) for number in fresh if number not in known}
        made |= {number: changelogs(specs, copy.tables, copy.dues) for number, copy in known.items()}
        restored = await self._read_changelogs({number: logs for number, (_, logs) in made.items()}, known)
        self._recovery_records = sum(each.records for each in restored.values())
        for number, (tables, logs) in made.items():
            self._partitions[number] = self._partition(number, tables, logs, restored[number], copies.get(number))
            self._standbys.forget(number)
            await asyncio.sleep(0)

    def _leave_behind(self, numbers: Collection[int]) -> None:
        """Have what is in memory of partitions that are gone for a standby, or for when they come back changed."""
        if not self.settings.standby_replicas or self.settings.store != "memory":
            return
        for number in numbers:
            rows = self._partitions[number].rows()
            if rows is not None:
                self._standbys.put(number, MemoryCopy(number, rows, self._partitions[number].journal.marks()))

    async def _start_transactions(self, numbers: Collection[int]) -> None:
        started = await asyncio.gather(*map(self._cluster.open_transactions, numbers))
        self._transactions |= zip(numbers, started, strict=True)

    async def _end_transactions(self, numbers: Collection[int]) -> None:
        for number in list(numbers):
            await self._transactions.pop(number).close()

    async def _copies(self, numbers: Collection[int]) -> dict[int, Copy]:
        """The local copies of partitions, each to go on from or to make anew; none without a local store."""
        lineages = None if self._store is None else await self._lineages()
        return {} if lineages is None else await self._local_copies(numbers, lineages)

    async def _lineages(self) -> dict[str, Lineage] | None:
        """The lineages of the changelogs, by role; None when the broker does not tell."""
        names = self._names()
        found = await self._cluster.lineages(list(names.values()))
        if missing := [name for name in names.values() if name not in found]:
            said = ", ".join(missing)
            log.warning("The broker does not tell the id of %s; state is kept in memory, and nowhere else", said)
            return None
        return {role: found[name] for role, name in names.items()}

    async def _local_copies(self, numbers: Collection[int], lineages: Mapping[str, Lineage]) -> dict[int, Copy]:
        due = {spec.name: spec.due for spec in self._engine.tables}
        copies: dict[int, Copy] = {}
        for number in numbers:
            copy = None if self._store is None else self._store.copy(number, due, lineages, int(time() * 1000))
            if copy is not None:
                copies[number] = copy
            await asyncio.sleep(0)
        return copies

    async def _unchanged(self, numbers: Collection[int]) -> set[int]:
        """Those of the partitions owned last whose changelogs end where this worker left them."""
        left = {
            number: partition.journal.ends()
            for number, partition in self._partitions.items()
            if number in numbers and not partition.is_torn
        }
        known = [at for ends in left.values() for at in ends]
        found = await self._cluster.end_offsets(known) if known else {}
        return {number for number, ends in left.items() if all(found[at] == end for at, end in ends.items())}

    async def _read_changelogs(
        self, partitions: Mapping[int, Sequence[Changelog]], copies: Mapping[int, Copy | MemoryCopy]
    ) -> dict[int, Restored]:
        fence = partial(self._start_transactions, partitions) if self.settings.guarantee == "exactly_once" else None
        async with self._cluster.reader() as consumer:
            return await journal.take_over(
                consumer, self._cluster.changelog_sender, self._claimant, partitions, self._names(), copies, fence
            )

    def _names(self) -> dict[str, str]:
        roles = dict.fromkeys(spec.changelog for spec in self._engine.tables)
        return {role: self._routes.topic(role) for role in roles}

    def _partition(
        self,
        number: int,
        tables: Mapping[str, Table[Any]],
        logs: Sequence[Changelog],
        restored: Restored,
        copy: Copy | None,
    ) -> Partition:
        transactions = self._transactions.get(number)
        writer = Journal(
            transactions or self._cluster.changelog_sender,
            number,
            restored.epoch,
            logs,
            self._names(),
            restored.positions,
            self._read_range,
            copy=copy,
            claim=restored.claim,
            markers=Transactions.MARKERS if transactions else 0,
        )
        partition = Partition(number, tables, writer, self._around, transactions)
        partition.schedule_stored()
        return partition

    async def _read_range(self, at: TopicPartition, start: int, end: int) -> list[Any]:
        async with self._cluster.reader() as consumer:
            return await journal.read_range(consumer, at, start, end)

    def open(self, incarnation: int) -> bool:
        """Begin to work from the offsets in `start`; False when the partitions were revoked meanwhile."""
        if incarnation != self.incarnation or self.stage != "seeking committed offsets":
            return False
        self._offsets.open(self.start_offsets)
        for partition in self._partitions.values():
            partition.start()
        self._moved_at = monotonic()
        self.stage = "serving"
        numbers = ", ".join(map(str, sorted(self._partitions))) or "none"
        seconds, records = self._recovery_seconds or 0.0, self._recovery_records
        log.info("Serving partitions %s; restored in %.1f s, %d records read", numbers, seconds, records)
        self._standbys.follow(self._standby_numbers)
        return True

    # --- Working ---

    async def room(self) -> None:
        """Wait until another batch may be begun, or the partitions are gone."""
        incarnation = self.incarnation
        while self._in_flight >= self.settings.batches_in_flight and incarnation == self.incarnation:
            self._moved.clear()
            await self._moved.wait()

    def deliver(self) -> None:
        """Note that a batch is on its way to `process`."""
        if not self._in_flight:
            self._moved_at = monotonic()
        self._in_flight += 1

    async def process(self, batch: Batch) -> None:
        """Handle one batch. One of an earlier assignment is left to whoever owns the partition."""
        partition = self._partitions.get(batch.at.partition)
        if partition is not None and batch.incarnation == self.incarnation and self.serving:
            await partition.process(batch)

    def check(self) -> None:
        """Raise `Ousted` when the group may have given this worker up."""
        silence = self._cluster.silence()
        if silence > self.settings.session_timeout_seconds:
            raise Ousted(f"no heartbeat was answered for {silence:.1f} s; another worker may own the partitions")

    def _on_done(self) -> None:
        self._in_flight -= 1
        self._moved_at = monotonic()
        self._moved.set()

    async def _commit_regularly(self) -> None:
        while True:
            await asyncio.sleep(self.settings.commit_interval_seconds)
            if self.serving:
                await self.commit()

    async def commit(self) -> None:
        """Commit what is done and not committed."""
        async with self._commit_lock:
            offsets = self._offsets.committable()
            if offsets and await self._cluster.commit_offsets(offsets):
                self._offsets.commit(offsets)
                for at, offset in offsets.items():
                    if at.partition in self._partitions:
                        self._partitions[at.partition].committed[self._roles[at.topic]] = offset

    async def _tick(self) -> None:
        """Wake the customers that are due, by a message to their partition, dated when they were due."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now_ms = int(time() * 1000)
            for partition in [each for each in self._partitions.values() if each.timers.is_due(now_ms)]:
                until_ms = min(now_ms, self._heard_until(partition))
                if self.serving and (woken := partition.timers.pop_due(until_ms, TICKS_AT_ONCE)):
                    await self._wake(partition.number, woken)

    def _heard_until(self, partition: Partition) -> float:
        """Up to when everything that was said is handled: nobody is woken before what was said before that is heard.

        After a pause of the worker, a purchase still unread must not be overtaken by the reminder it would stop.
        """
        heard = [
            float("inf") if self._lag(at) == 0 else partition.heard_ms.get(self._roles[at.topic], 0)
            for at in self._offsets.opened()
            if at.partition == partition.number
        ]
        return min(heard, default=0)

    def _lag(self, at: TopicPartition) -> int | None:
        """Records not yet begun; None while nobody knows."""
        return self._cluster.behind(at, self._offsets.next_offset(at))

    async def _wake(self, number: int, customers: Sequence[tuple[str, int]]) -> None:
        self.check()
        topic, sender = self._routes.topic("customers"), self._cluster.output_sender
        headers = [(KIND, b"tick")]
        sent = [await sender.send(topic, b"", key.encode(), number, due_ms, headers) for key, due_ms in customers]
        for future in sent:
            await future

    async def _watch(self) -> None:
        """End the worker when the group has given it up, or when what it works on does not get done."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self.serving:
                self.check()
            if (reason := self.stalled()) is not None:
                raise TimeoutError(reason)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(task.get_name(), error)

    # --- Handing over ---

    async def hand_over(self) -> None:
        """Finish what is at work, commit it, and stop; the tables are kept in case the partitions come back."""
        async with self._hand_over_lock:
            was_serving, self.stage = self.serving, "rebalancing"
            self.incarnation += 1
            self._moved.set()
            if self._takeover is not None:
                self._takeover.cancel()
            for partition in self._partitions.values():
                partition.close()
            if was_serving:
                await self._finish()
            for partition in self._partitions.values():
                partition.stop()
                partition.journal.keep()
            self._offsets.close(self._offsets.opened())
            self._in_flight = 0

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(self.settings.drain_seconds):
                while self._offsets.pending():
                    self._moved.clear()
                    await self._moved.wait()
                await self.commit()
        except TimeoutError as error:
            waited = f"{self.settings.drain_seconds:g} s"
            self.fail(f"{self._offsets.pending()} batches could not be finished and committed in {waited}", error)

    # --- Looking in ---

    def numbers(self) -> list[int]:
        """The partitions being served."""
        return sorted(self._partitions) if self.serving else []

    def stalled(self) -> str | None:
        """Why this worker makes no progress; None when it does, or has nothing to do."""
        idle = monotonic() - self._moved_at
        if self.serving and self._in_flight and idle > self.settings.stall_seconds:
            return f"{self._in_flight} batches at work, none done for {idle:.1f} s"
        return None

    def partition(self, number: int) -> Partition | None:
        """A partition being served; None when it is not served here."""
        return self._partitions.get(number) if self.serving else None

    def gauges(self) -> Gauges:
        """What is current, for the metrics."""
        lag: dict[tuple[str, ...], float] = {}
        for at in self._offsets.opened():
            behind = self._lag(at)
            if behind is not None:
                lag[at.topic, str(at.partition)] = behind
        owned = {(str(number),): partition for number, partition in self._partitions.items()}
        return {
            "profiles": {key: len(each.tables["profiles"]) for key, each in owned.items() if "profiles" in each.tables},
            "timers_pending": {key: len(each.timers) for key, each in owned.items()},
            "consumer_lag": lag,
            "recovery_seconds": {} if self._recovery_seconds is None else {(): self._recovery_seconds},
            "recovery_records": {} if self._recovery_seconds is None else {(): self._recovery_records},
            "standby_lag": {(at.topic, str(at.partition)): lag for at, lag in self._standbys.lag().items()},
            "batches_in_flight": {(): self._in_flight},
            "tasks": {(): len(asyncio.all_tasks())},
            "memory_blocks": {(): sys.getallocatedblocks()},
        }


def copartitioned(assigned: Collection[TopicPartition], roles: Mapping[str, str]) -> set[int]:
    """The numbers of assigned partitions. ValueError when one number is assigned for some topics only."""
    by_number: dict[int, set[str]] = {}
    for at in assigned:
        if at.topic in roles:
            by_number.setdefault(at.partition, set()).add(at.topic)
    torn = {number: sorted(roles.keys() - topics) for number, topics in by_number.items() if topics != set(roles)}
    if torn:
        number, missing = min(torn.items())
        raise ValueError(
            f"partition {number} was assigned without {', '.join(missing)}; all topics keyed by customer need the same "
            "number of partitions, and all workers of a group must run the same version: stop them all, then start them"
        )
    return set(by_number)
