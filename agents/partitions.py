"""One partition at work: its records in order, and the order in which their effects become safe.

    handle all records of a batch  →  changelog records, acknowledged  →  outputs, acknowledged  →  batch done

A decision goes out only when the state that remembers it is safe: after a crash in between, the redelivered
signal finds its decision in the profile and sends the same bytes again, instead of deciding anew with a newer
model. The price is one more broker round trip before a decision leaves. Batches overlap: while one waits for
the broker, the next is handled; each of the two waits is passed in order.

With transactions (`exactly_once`) there is one wait instead: changelog records, outputs and offsets of all batches
handled while the last transaction was on its way are the next.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter, time
from typing import Any, NamedTuple, TypeVar

from agents.journal import Journal, Sender
from agents.metrics import Metrics
from agents.offsets import Offsets, Span, TopicPartition
from agents.tables import Change, Table, TableSpec
from agents.timers import Timers
from agents.transactions import Transactions
from engine.murmur import partition_of
from engine.record import Effects, Output, Record

State = TypeVar("State")

SLICE_SECONDS = 0.004
"""How long records are handled before others get their turn on the event loop."""
MOST_KEPT_BYTES = 4 * 1024 * 1024
"""Outputs that a partition keeps before it waits for their records to be committed. A profile keeps its own until then,
all of them may be of one customer, and the profile must fit into a record (`agents.topics.MAX_RECORD_BYTES`)."""
PART_BYTES = MOST_KEPT_BYTES // 4
"""Outputs after which a part of a batch goes on its way by itself."""
_COMMIT_POLL_SECONDS = 0.02


def _nothing_left(_: object) -> Sequence[Output]:
    return ()


class Engine(NamedTuple):
    """What the worker runs. `handle(record, state)` is pure and synchronous; `state(**tables, committed=…)` makes
    the state of one partition from its tables by name and the offsets committed per topic role.

    `resume(state)`: what the last owner of a restored partition may have left unsent; sent before anything is
    handled.
    """

    handle: Callable[[Record, Any], Effects]
    state: Callable[..., Any]
    tables: Sequence[TableSpec]
    resume: Callable[[Any], Sequence[Output]] = _nothing_left


class Batch(NamedTuple):
    """What one fetch brought of one partition of a topic: one item of the stream of that topic's agent.

    `start`: offset at which the batch before it ended; the first record may come later. `incarnation`: of the
    `Ownership` when it was fetched.
    """

    role: str
    at: TopicPartition
    start: int
    records: Sequence[Any]
    incarnation: int


class Work:
    """A batch on its way through the stages."""

    __slots__ = (
        "acknowledgements",
        "at",
        "changes",
        "decided",
        "last",
        "offset",
        "output_bytes",
        "outputs",
        "role",
        "sent",
        "span",
        "started",
    )

    span: Span

    def __init__(self, role: str, at: TopicPartition, started: float) -> None:
        self.role = role
        self.at = at
        self.started = started
        self.offset = -1
        """Of the record being handled."""
        self.outputs: list[Output] = []
        self.output_bytes = 0
        self.last = True
        """Whether the fetched batch ends with it."""
        self.decided: list[int] = []
        """Broker timestamps (ms) of the records that caused decisions."""
        self.changes: Sequence[Change] = ()
        self.acknowledgements: list[tuple[str, asyncio.Future[Any]]] = []
        self.sent: list[asyncio.Future[Any]] = []


class Routes(NamedTuple):
    """Where outputs go. `partitions`: of the topics of roles `by_key`; other roles are left to the producer."""

    prefix: str
    partitions: int
    by_key: frozenset[str]

    def topic(self, role: str) -> str:
        """Full name of a topic by its role."""
        return f"{self.prefix}{role}"

    def partition(self, output: Output) -> int | None:
        """The partition that owns the output's key; None: any."""
        role = output.topic
        keyed = role in self.by_key or role.startswith("decisions.")
        return partition_of(output.key.decode(), self.partitions) if keyed and output.key is not None else None


class Surroundings(NamedTuple):
    """What all partitions of a worker share.

    `check` raises when this worker may no longer publish; `on_done` is told of every batch that is done; `commit`
    commits what is done before its time; `fail` ends the process.
    """

    engine: Engine
    sender: Sender
    routes: Routes
    offsets: Offsets
    metrics: Metrics
    check: Callable[[], None]
    on_done: Callable[[], None]
    commit: Callable[[], Awaitable[None]]
    fail: Callable[[str, BaseException], None]


class Partition:
    """State and work of one partition number, across all topics that are keyed by customer.

    Neither `process` nor the stages behind it let an exception out: whatever is unexpected ends the worker, and
    the restart replays.
    """

    def __init__(
        self,
        number: int,
        tables: Mapping[str, Table[Any]],
        journal: Journal,
        around: Surroundings,
        transactions: Transactions | None = None,
    ) -> None:
        self.number = number
        self.tables = tables
        self.journal = journal
        self.transactions = transactions
        """Through which everything is sent; None: each record counts when it is acknowledged."""
        self.timers = Timers()
        self.committed: dict[str, int] = {}
        """Offset committed last, per role of the topics read."""
        self.heard_ms: dict[str, int] = {}
        """Role of a topic → broker timestamp of the latest record handled."""
        self.resumed = False
        """Whether everything its last owner may have left unsent is sent."""
        self._around = around
        self._sender: Sender = around.sender if transactions is None else transactions
        self._settled = self.committed if transactions is None else {}
        """Offsets below which nothing is sent again, as the engine is told: with transactions all, once resumed."""
        self._state = around.engine.state(**tables, committed=self._settled)
        self._accepting = False
        self._opened = 0
        """Counts the times work began; a batch of before is left alone."""
        self._kept: deque[tuple[str, int, int]] = deque()
        """Works with outputs: role, offset at which the work ends, bytes; until all before it are committed."""
        self._turn = asyncio.Lock()
        self._remembered: asyncio.Queue[Work] = asyncio.Queue()
        self._published: asyncio.Queue[Work] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_torn(self) -> bool:
        """Whether a transaction was begun and not ended: its producer is of no use any more."""
        return self.transactions is not None and self.transactions.under_way

    async def resume(self) -> None:
        """Send what the last owner may have left unsent; done once."""
        if self.resumed:
            return
        self._settled.update(self.committed)
        left, changes = self._around.engine.resume(self._state), self.journal.changes()
        if self.transactions is None:
            await self.journal.confirm(await self.journal.append(changes))
            self._around.check()
            for future in [await self._send(output) for output in left]:
                await future
        else:
            await self._transact(changes, left, {})
            # What a record does and its offset count together: none is handled again that did anything.
            self._settled.update(dict.fromkeys(self.committed, sys.maxsize))
        self.resumed = True

    def rows(self) -> dict[str, dict[str, bytes]] | None:
        """The encoded tables by name, when they are in memory and what the changelogs say; for when it is done with."""
        if not self.resumed or self.is_torn:
            return None
        rows = {name: table.rows() for name, table in self.tables.items()}
        kept = {name: each for name, each in rows.items() if isinstance(each, dict)}
        return kept if len(kept) == len(rows) else None

    def start(self) -> None:
        """Begin to pass batches through the stages."""
        self._accepting = True
        self._opened += 1
        stages = (self._publish, self._conclude) if self.transactions is None else (self._publish_together,)
        for stage in stages:
            task = asyncio.get_running_loop().create_task(stage(), name=f"{stage.__name__}[{self.number}]")
            task.add_done_callback(self._on_stage_end)
            self._tasks.append(task)

    def close(self) -> None:
        """Begin no further batch; those begun go on."""
        self._accepting = False

    def stop(self) -> None:
        """Stop the stages; what is on its way is abandoned."""
        self.close()
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        self._kept.clear()
        self._remembered, self._published = asyncio.Queue(), asyncio.Queue()

    def schedule_stored(self) -> None:
        """Fill the timer wheel from the tables."""
        for table in self.tables.values():
            for key, due_ms in table.dues():
                self.timers.schedule(key, due_ms)

    async def process(self, batch: Batch) -> None:
        """Handle a batch and send it on its way, in parts if it asks for much; returns before its effects are safe."""
        opened = self._opened
        async with self._turn:
            while batch.records and await self._has_room() and opened == self._opened:
                work = Work(batch.role, batch.at, perf_counter())
                try:
                    work.span = self._around.offsets.begin(batch.at, batch.start, batch.records[-1].offset + 1)
                    rest = await self._handle_some(batch, work)
                    work.changes = self.journal.changes()
                    if self.transactions is None:
                        work.acknowledgements = await self.journal.append(work.changes)
                except Exception as error:  # noqa: BLE001 - an agent must not raise: Faust would acknowledge the batch
                    self._around.fail(f"handling {batch.at.topic}[{self.number}] at offset {work.offset}", error)
                    return
                self._remembered.put_nowait(work)
                batch = rest

    async def _has_room(self) -> bool:
        """Wait until what is kept for records not committed leaves room; False when no more may be begun."""
        while self._accepting and self._kept_bytes() >= MOST_KEPT_BYTES:
            try:
                await self._around.commit()
            except Exception as error:  # noqa: BLE001 - an agent must not raise: Faust would acknowledge the batch
                self._around.fail("committing", error)
                return False
            if self._kept_bytes() >= MOST_KEPT_BYTES:
                await asyncio.sleep(_COMMIT_POLL_SECONDS)
        return self._accepting

    def _kept_bytes(self) -> int:
        while self._kept and self._kept[0][1] <= self.committed.get(self._kept[0][0], 0):
            self._kept.popleft()
        return sum(size for _, _, size in self._kept)

    async def _handle_some(self, batch: Batch, work: Work) -> Batch:
        """Handle the records of a batch as far as there is room for what they ask for; returns the rest of it."""
        handled = await self._handle(batch, work)
        end = batch.records[handled - 1].offset + 1
        rest = batch._replace(start=end, records=batch.records[handled:])
        if rest.records:
            work.last = False
            self._around.offsets.shorten(batch.at, work.span, end)
        if work.output_bytes:
            self._kept.append((batch.role, end, work.output_bytes))
        self.heard_ms[batch.role] = batch.records[handled - 1].timestamp
        self._around.metrics.observe_stage("handle", (perf_counter() - work.started) / handled)
        return rest

    async def _handle(self, batch: Batch, work: Work) -> int:
        """Handle records in order, in slices, and gather what they ask for; returns how many."""
        handle = self._around.engine.handle
        slice_end = work.started + SLICE_SECONDS
        for count, raw in enumerate(batch.records, 1):
            work.offset = raw.offset
            record = Record(batch.role, self.number, raw.offset, raw.timestamp, raw.key, raw.value, tuple(raw.headers))
            effects = handle(record, self._state)
            self._around.metrics.add(effects.counts)
            for stage, seconds in effects.laps:
                self._around.metrics.observe_stage(stage, seconds)
            for customer, due_ms in effects.timers:
                self.timers.schedule(customer, due_ms)
            if effects.outputs:
                work.outputs += effects.outputs
                work.output_bytes += sum(len(output.value) for output in effects.outputs)
                if any(output.topic.startswith("decisions") for output in effects.outputs):
                    work.decided.append(record.timestamp_ms)
                if work.output_bytes >= PART_BYTES:
                    return count
            if perf_counter() > slice_end:
                await asyncio.sleep(0)
                slice_end = perf_counter() + SLICE_SECONDS
        return len(batch.records)

    async def _publish(self) -> None:
        """Batch by batch: once its state is safe, send its outputs."""
        while True:
            work = await self._remembered.get()
            await self.journal.confirm(work.acknowledgements)
            remembered = perf_counter()
            self._around.metrics.observe_stage("remember", remembered - work.started)
            if work.outputs:
                self._around.check()
                work.sent = [await self._send(output) for output in work.outputs]
            work.started = remembered
            self._published.put_nowait(work)

    async def _send(self, output: Output) -> asyncio.Future[Any]:
        topic, partition = self._around.routes.topic(output.topic), self._around.routes.partition(output)
        return await self._sender.send(
            topic, output.value, output.key, partition, output.timestamp_ms, list(output.headers)
        )

    async def _conclude(self) -> None:
        """Batch by batch: once its outputs are safe, its offsets may be committed."""
        while True:
            work = await self._published.get()
            for future in work.sent:
                await future
            self._end(work)

    async def _publish_together(self) -> None:
        """All batches there are at a time: their state, their outputs and their offsets in one transaction."""
        while True:
            works = [await self._remembered.get()]
            while not self._remembered.empty():
                works.append(self._remembered.get_nowait())
            begun = perf_counter()
            ends = {work.at: work.span.end for work in works}
            changes = [change for work in works for change in work.changes]
            await self._transact(changes, [output for work in works for output in work.outputs], ends)
            for work in works:
                work.started = begun
                self._end(work)
                self.committed[work.role] = work.span.end
            self._around.offsets.commit(ends)

    async def _transact(
        self, changes: Sequence[Change], outputs: Sequence[Output], offsets: Mapping[TopicPartition, int]
    ) -> None:
        transactions = self.transactions
        if transactions is None or not (changes or outputs or offsets):
            return
        self._around.check()
        await transactions.begin()
        acknowledgements = await self.journal.append(changes)
        sent = [await self._send(output) for output in outputs]
        await transactions.commit(offsets)
        for future in sent:
            await future
        await self.journal.confirm(acknowledgements)

    def _end(self, work: Work) -> None:
        """A batch whose effects are safe is done."""
        self._around.metrics.observe_stage("publish", perf_counter() - work.started)
        now = time()
        for timestamp_ms in work.decided:
            self._around.metrics.observe_decision(now - timestamp_ms / 1000)
        self._around.offsets.finish(work.at, work.span)
        if work.last or not self._accepting:
            self._around.on_done()

    def _on_stage_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._around.fail(f"partition {self.number}: {task.get_name()}", error)
