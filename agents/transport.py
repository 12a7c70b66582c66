"""Faust's Kafka transport, bent for batches: scheme `batuta://`.

What differs from the driver it builds on, and why:

* A fetched batch of one topic partition is *one* item of the stream, so the framework costs per batch, not per
  record. Faust makes four tasks per record, which costs more than a decision.
* Everything runs on one loop. Faust's consumer has a thread and a loop of its own.
* A fetch is sent when everything fetched before is delivered, and names every partition. aiokafka leaves out those
  it still has records of when they wait long enough, and they then wait for the end of that fetch, too.
* Fetches are incremental, see `agents.fetching`.
* Offsets are committed from `agents.ownership`, never from Faust's book of acknowledgements, which commits past
  records that failed and forgets what is done when partitions are revoked.
* Before partitions are revoked, what is at work is finished and committed.
* Positions are our own: a batch dropped because of a rebalance is fetched again, never skipped.
* Two idempotent producers of our own (`agents.producing`), so that changelogs and decisions do not wait for each
  other; or aiokafka's transactional one per partition, see `agents.transactions`.
* Only committed records are read: what an upstream application took back was never said.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, ClassVar, cast

import aiokafka
import faust.transport.drivers
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalStateError,
    KafkaConnectionError,
    KafkaError,
)
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP, ConsumerMessage
from mode.services import Service
from mode.utils.futures import maybe_async

from agents import producing
from agents.fetching import Overview, Sessions
from agents.journal import Sender
from agents.lineage import lineages
from agents.offsets import Positions, TopicPartition
from agents.ownership import Ownership
from agents.partitions import Batch
from agents.settings import Settings
from agents.store import Lineage
from agents.topics import ISOLATION_LEVEL
from agents.transactions import Transactions

SCHEME = "batuta"
_POLL_SECONDS = 0.5
_UNDELIVERED_SECONDS = 60.0
"""How long fetched records may wait for their delivery before the next fetch leaves their partitions out."""
_NOTHING_ASSIGNED_SECONDS = 0.05
_RETRY_MS = 20
"""Until a request of a transaction is tried again: a coordinator that is not done with the last one needs no longer."""


class Member(driver.AIOKafkaConsumerThread):
    """Fetches, and keeps up membership in the group; on the worker's own loop.

    Faust puts its consumer into a thread, which shares the interpreter with the engine all the same: every fetch and
    every commit then crosses from one loop to the other and back. Here it is a service like any other.
    """

    # A service without a thread of its own again.
    wait_for_shutdown = False
    start = Service.start
    maybe_start = Service.maybe_start
    stop = Service.stop
    crash = Service.crash  # type: ignore[assignment]
    set_shutdown = Service.set_shutdown
    _stopped_set = Service._stopped_set  # noqa: SLF001
    _stop_children = Service._stop_children  # noqa: SLF001
    _stop_futures = Service._stop_futures  # noqa: SLF001
    _stop_exit_stacks = Service._stop_exit_stacks  # noqa: SLF001

    settings: Settings
    _sessions: Sessions
    heard: float = 0.0
    """When (monotonic) the last request was sent that the group's coordinator answered with success."""

    def _create_worker_consumer(self, transport: driver.Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = self.settings.fetch_wait_ms  # noqa: SLF001 - Faust fixes the argument at 1500
        consumer._isolation_level = ISOLATION_LEVEL  # noqa: SLF001 - Faust decides by a guarantee that is not ours
        client = consumer._client  # noqa: SLF001 - what aiokafka's fetcher sends its requests by
        self._sessions = Sessions(client.send)
        client.send = self._sessions.send
        return consumer

    async def on_start(self) -> None:
        """Start the consumer and listen to its heartbeats."""
        await super().on_start()
        consumer = self._ensure_consumer()
        fetcher = consumer._fetcher  # noqa: SLF001 - whose ways are no arguments of aiokafka's
        fetcher._prefetch_backoff = _UNDELIVERED_SECONDS  # noqa: SLF001 - as above
        fetcher._get_actions_per_node = Overview(fetcher).actions  # noqa: SLF001 - as above
        coordinator = consumer._coordinator  # noqa: SLF001 - aiokafka tells nobody of its heartbeats
        beat = coordinator._do_heartbeat  # noqa: SLF001 - as above

        async def heartbeat() -> bool:
            sent = monotonic()
            answered = bool(await beat())
            if answered:
                self.heard = sent
            return answered

        coordinator._do_heartbeat = heartbeat  # noqa: SLF001 - as above

    async def on_stop(self) -> None:
        """Stop the consumer."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def call_thread(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call what Faust would have called in the thread."""
        return await maybe_async(fun(*args, **kwargs))

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Tell Faust's consumer."""
        await self.consumer.on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Tell Faust's consumer; being assigned partitions is an answer of the coordinator, too."""
        self.heard = monotonic()
        self._sessions.ask_anew()
        await self.consumer.on_partitions_assigned(assigned, generation_id)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit; False when the partitions have meanwhile gone. Raises what else Kafka raises."""
        try:
            await self._ensure_consumer().commit({driver.ensure_aiokafka_TP(at): end for at, end in offsets.items()})
        except (CommitFailedError, IllegalStateError):
            return False
        return True

    def fetched_to(self, at: TopicPartition) -> int:
        """Where the next fetch of a partition begins; 0 while that is not settled."""
        state = self._ensure_consumer()._subscription.subscription.assignment.state_value(at)  # noqa: SLF001 - at once
        return state.position if state.has_valid_position else 0

    def last_stable_offset(self, at: TopicPartition) -> int | None:
        """Up to where records may be read; None while no fetch has told."""
        consumer = self._ensure_consumer()
        stable = consumer.last_stable_offset(at)
        # Brokers without transactions do not tell.
        end: int | None = stable if stable is not None and stable >= 0 else consumer.highwater(at)
        return end

    async def starting_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Where to read on: the committed offset of each partition, or its beginning.

        Raises ValueError when an offset was committed that the topic does not have any more.
        """
        if not partitions:
            return {}
        consumer = self._ensure_consumer()
        first = await consumer.beginning_offsets(list(partitions))
        ends = await consumer.end_offsets(list(partitions))
        coordinator = consumer._coordinator  # noqa: SLF001 - the consumer itself asks partition by partition
        committed = await coordinator.fetch_committed_offsets(list(partitions))
        start = {at: committed[at].offset if at in committed else first[at] for at in partitions}
        for at, offset in start.items():
            if offset > ends[at]:
                raise ValueError(
                    f"{at.topic}[{at.partition}] ends at offset {ends[at]}, but offset {offset} was committed: the "
                    "topic was created anew; use another group name, or reset the offsets of this group"
                )
        return {at: max(offset, first[at]) for at, offset in start.items()}


class Consumer(driver.Consumer):
    """Hands fetched batches to the agents of the topics keyed by customer."""

    _thread: Member

    def __post_init__(self) -> None:
        transport = cast("Transport", self.transport)
        self.ownership: Ownership = transport.ownership
        self.roles: Mapping[str, str] = transport.roles
        self._positions = Positions()
        self._delivering = False
        """Whether fetched records are at hand."""

    def _new_consumer_thread(self) -> Member:
        member = Member(self, loop=self.loop, thread_loop=self.loop, beacon=self.beacon)
        member.settings = cast("Transport", self.transport).settings
        return member

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: Faust's check knows neither our positions nor our commits; `Ownership` watches progress."""

    async def on_start(self) -> None:
        """Start, with the work that does not wait for records."""
        await super().on_start()
        self.ownership.start(self)

    # --- Reading ---

    async def _drain_messages(self, fetcher: Any) -> None:
        """Deliver fetched batches until the consumer or the fetcher is stopped."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self._drain_once()
        except (ConsumerStoppedError, asyncio.CancelledError):
            if not self.app.should_stop:
                raise

    async def _drain_once(self) -> None:
        if not self.flow_active:
            await self.wait(self.can_resume_flow.wait())
            return
        await self._seek_back()
        active, opening = self._get_active_partitions(), self._positions.opening
        if not active:
            await asyncio.sleep(_NOTHING_ASSIGNED_SECONDS)
            return
        fetched = await self._getmany(active, _POLL_SECONDS)
        self._delivering = True
        for at, records in fetched.items():
            await self._deliver(TopicPartition(*at), records, opening)
        self._delivering = False

    async def _deliver(self, at: TopicPartition, records: Sequence[Any], opening: int) -> None:
        """Put one batch into the stream of its topic. What cannot be delivered will be fetched again."""
        await self.ownership.room()
        if not self.flow_active:
            self._positions.refuse(at)
        elif admitted := self._positions.admit(at, records, opening):
            start = self._positions.advance(at, admitted[-1].offset + 1)
            batch = Batch(self.roles[at.topic], at, start, admitted, self.ownership.incarnation)
            self.ownership.deliver()
            await self.callback(self._message(TP(*at), batch))

    async def _seek_back(self) -> None:
        """Have fetched again what was fetched and not delivered."""
        behind = self._positions.to_seek()
        try:
            if behind:
                await self.seek_wait({TP(*at): offset for at, offset in behind.items()})
        except IllegalStateError:
            # Revoked this moment: whoever gets them reads on from what is committed.
            for at in behind:
                self._positions.refuse(at)

    def _message(self, at: TP, batch: Batch) -> ConsumerMessage:
        last = batch.records[-1]
        return ConsumerMessage(
            at.topic,
            at.partition,
            last.offset,
            last.timestamp / 1000,
            last.timestamp_type,
            {},
            None,
            cast("Any", batch),
            None,
            0,
            0,
            at,
            generation_id=self.app.consumer_generation_id,
        )

    # --- Rebalancing ---

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Count it, then let Faust go on."""
        self.ownership.assignments += 1
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish and commit what is at work, then let Faust go on."""
        self.stop_flow()
        self._positions.close()
        try:
            await self.ownership.hand_over()
        except Exception as error:
            self.ownership.fail("handing partitions over", error)
            raise
        await super().on_partitions_revoked(revoked)

    async def perform_seek(self) -> None:
        """Go to the committed offsets; Faust calls it when recovery is over, before records flow again."""
        # When partitions were revoked twice in a row, records may flow already; what is put into the streams
        # before Faust resumes them, it would throw away.
        self.stop_flow()
        incarnation = self.ownership.incarnation
        start = {TP(*at): offset for at, offset in self.ownership.start_offsets.items()}
        try:
            await self.seek_wait(start)
        except Exception as error:  # noqa: BLE001 - what goes wrong when the partitions are gone is nobody's business
            if incarnation == self.ownership.incarnation:
                self.ownership.fail("going to the committed offsets", error)
            return
        if self.ownership.open(incarnation):
            self._positions.open(self.ownership.start_offsets)

    # --- What `Ownership` needs of Kafka ---

    @property
    def changelog_sender(self) -> Sender:
        """Producer for the changelogs."""
        return cast("Sender", cast("Producer", self.app.producer).changelog_sender)

    @property
    def output_sender(self) -> Sender:
        """Producer for everything else."""
        return cast("Sender", cast("Producer", self.app.producer).output_sender)

    @contextlib.asynccontextmanager
    async def reader(self) -> AsyncIterator[Any]:
        """A started consumer that belongs to no group."""
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=cast("Transport", self.transport).settings.bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=ISOLATION_LEVEL,
        )
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()

    async def open_transactions(self, number: int) -> Transactions:
        """The transactions of a partition number; those of whoever had it before are over, and it is fenced off."""
        settings = cast("Transport", self.transport).settings
        producer = await cast("Producer", self.app.producer).transactional(f"{settings.group}-{number}")
        return Transactions(producer, settings.group)

    async def starting_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Where to read on: the committed offset of each partition, or its beginning."""
        offsets = await self._thread.call_thread(self._thread.starting_offsets, partitions)
        return cast("Mapping[TopicPartition, int]", offsets)

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Offset after the last record of each partition."""
        # The group's consumer does not know these topics: asked for one, it waits for its next look at the cluster.
        async with self.reader() as consumer:
            consumer.assign(list(partitions))
            return cast("Mapping[TopicPartition, int]", await consumer.end_offsets(list(partitions)))

    async def lineages(self, topics: Sequence[str]) -> Mapping[str, Lineage]:
        """The lineage of each topic by its full name, as far as the broker tells it."""
        return await lineages(cast("Transport", self.transport).settings.bootstrap, topics)

    async def commit_offsets(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Commit offsets; False when the group has rebalanced meanwhile."""
        return await self._commit({TP(*at): offset for at, offset in offsets.items()})

    def behind(self, at: TopicPartition, begun: int) -> int | None:
        """Offsets from `begun` to the end, as far as fetches have told; 0 when only records that nobody reads follow.

        Those are the ends of transactions, and what was taken back. None while nobody knows.
        """
        end = self._thread.last_stable_offset(at)
        if end is None:
            return None
        if not self._delivering and begun == self._positions.delivered(at):
            begun = max(begun, self._thread.fetched_to(at))
        return max(0, end - begun)

    def silence(self) -> float:
        """Seconds since the group's coordinator last answered this worker."""
        return monotonic() - self._thread.heard


class Producer(driver.Producer):
    """Faust's producer, idempotent when the broker allows it, and a second one for the changelogs."""

    changelog_sender: Any = None

    @property
    def output_sender(self) -> Any:
        """Producer for everything but the changelogs."""
        return self._ensure_producer()

    @property
    def _producer_type(self) -> Any:
        return producing.Producer

    def _settings_extra(self) -> Mapping[str, Any]:
        settings = cast("Transport", self.transport).settings
        timeout_ms = int(settings.session_timeout_seconds * 1000)
        return {"acks": "all", "enable_idempotence": settings.idempotent, "transaction_timeout_ms": timeout_ms}

    async def on_start(self) -> None:
        """Start both producers. RuntimeError when the broker refuses idempotent ones."""
        try:
            await super().on_start()
            self.changelog_sender = self._new_producer()
            await self.changelog_sender.start()
        except KafkaConnectionError:
            raise
        except KafkaError as error:
            raise RuntimeError(
                f"the broker refused a producer ({error!r}); if it has no idempotent ones, set BATUTA_IDEMPOTENT=false"
            ) from error

    async def transactional(self, transactional_id: str) -> Any:
        """A started producer of transactions, which fences off all before it with this id."""
        settings = {**self._settings_default(), **self._settings_auth(), **self._settings_extra()}
        producer = aiokafka.AIOKafkaProducer(**settings, transactional_id=transactional_id, retry_backoff_ms=_RETRY_MS)
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def on_stop(self) -> None:
        """Stop both producers."""
        if self.changelog_sender is not None:
            await self.changelog_sender.stop()
        await super().on_stop()


class Transport(driver.Transport):
    """The driver behind `batuta://`; the app it belongs to carries what it needs."""

    Consumer: ClassVar[Any] = Consumer
    Producer: ClassVar[Any] = Producer

    @property
    def settings(self) -> Settings:
        """Settings of the worker."""
        return cast("Settings", cast("Any", self.app).settings)

    @property
    def ownership(self) -> Ownership:
        """What becomes of the batches."""
        return cast("Ownership", cast("Any", self.app).ownership)

    @property
    def roles(self) -> Mapping[str, str]:
        """Full name → role of the topics that are read in batches."""
        return cast("Mapping[str, str]", cast("Any", self.app).roles)


def register() -> None:
    """Make Faust know the scheme; harmless when repeated."""
    faust.transport.drivers.TRANSPORTS.aliases[SCHEME] = f"{__name__}:Transport"


def broker_urls(bootstrap: str) -> Iterable[str]:
    """Broker addresses in the form Faust wants, one URL per server."""
    return [f"{SCHEME}://{server.strip()}" for server in bootstrap.split(",")]
