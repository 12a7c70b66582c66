"""A producer for records that come alone as well as in thousands: what aiokafka's does, with a few calls per request.

aiokafka's keeps a task that waits for room, for new records and for the time everything may take, and makes another
one for each request: for a record that comes alone that is more than the request itself. Here nothing waits. What is
sent since the last request leaves with the next turn of the loop, and an answer is a callback. The rest is aiokafka's:
connections, metadata, the producer's id, the batches' format.

Order and idempotence (KIP-98): a partition has one batch on its way at a time, numbered when it first leaves; one that
may be tried again goes to the front of its partition, as it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from time import monotonic
from typing import Any

import aiokafka
from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import (
    DuplicateSequenceNumber,
    InvalidProducerEpoch,
    KafkaConnectionError,
    KafkaError,
    LeaderNotAvailableError,
    NoError,
    ProducerClosed,
    ProducerFenced,
    for_code,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.structs import RecordMetadata

log = logging.getLogger("batuta")

_NO_TIMESTAMP = -1
_NUMBERS = 2**31
"""After the last sequence number comes 0 again."""
_CREATE_TIME, _LOG_APPEND_TIME = 0, 1


class Batch:
    """Records of one partition that leave together."""

    __slots__ = ("at", "builder", "data", "expires", "futures", "over")

    def __init__(self, at: TopicPartition, builder: BatchBuilder, expires: float) -> None:
        self.at = at
        self.builder = builder
        self.expires = expires
        """When (monotonic) it has waited for a leader for too long."""
        self.futures: list[tuple[asyncio.Future[RecordMetadata], int]] = []
        """Of each record: its acknowledgement and its timestamp."""
        self.data: bytes | None = None
        """As it leaves; None while records may be added."""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """For whoever waits for all of it: a record's own future may be cancelled before."""

    def done(self, offset: int, timestamp: int) -> None:
        """Acknowledge the records; the first one has this offset, and all this timestamp, if the broker gave one."""
        kind = _CREATE_TIME if timestamp == _NO_TIMESTAMP else _LOG_APPEND_TIME
        for place, (future, made) in enumerate(self.futures):
            if not future.done():
                at = made if kind == _CREATE_TIME else timestamp
                future.set_result(RecordMetadata(*self.at, self.at, offset + place, at, kind, None))
        self.over.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Tell everybody who waits."""
        for future, _ in self.futures:
            if not future.done():
                future.set_exception(error)
        self.over.set_result(None)


class Producer(aiokafka.AIOKafkaProducer):  # type: ignore[misc]
    """A producer without transactions, linger and `send_batch`, with any `acks` but 0. It belongs to one event loop."""

    _closed: bool

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._topics: set[str] = set()
        """Those whose partitions are known."""
        self._queues: defaultdict[TopicPartition, deque[Batch]] = defaultdict(deque)
        """What is to be sent, in order; only the last batch takes records."""
        self._away: dict[int, Sequence[Batch]] = {}
        """Broker → what is on its way there, or waits to be tried again."""
        self._muted: set[TopicPartition] = set()
        self._numbers: defaultdict[TopicPartition, int] = defaultdict(int)
        """The sequence number of the next record of each partition."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._pump_is_due = False
        self._looking: asyncio.Task[None] | None = None
        """Looks for leaders, while there are partitions without one."""
        self._pause = self._sender._retry_backoff  # noqa: SLF001 - seconds

    async def start(self) -> None:
        """Connect, and have a producer id when idempotent. Raises KafkaError when the broker refuses."""
        await self.client.bootstrap()
        await self._sender._maybe_wait_for_pid()  # noqa: SLF001 - all that is needed of aiokafka's sender

    async def stop(self) -> None:
        """Send everything there is, then disconnect."""
        if self._closed:
            return
        self._closed = True
        await self.flush()
        for task in list(self._tasks):
            task.cancel()
        await self.client.close()

    async def flush(self) -> None:
        """Wait until everything sent so far is acknowledged or refused."""
        batches = [*(batch for queue in self._queues.values() for batch in queue)]
        batches += (batch for away in self._away.values() for batch in away)
        if batches:
            await asyncio.wait([batch.over for batch in batches])

    async def send(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Sequence[tuple[str, bytes]] | None = None,
    ) -> asyncio.Future[RecordMetadata]:
        """Put a record into the next request; the future is done when it is acknowledged.

        Raises MessageSizeTooLargeError when it alone is larger than a request may be, and ProducerClosed.
        """
        if self._closed:
            raise ProducerClosed
        if topic not in self._topics:
            await self.client._wait_on_metadata(topic)  # noqa: SLF001 - as aiokafka's own
            self._topics.add(topic)
            if self._closed:
                raise ProducerClosed
        headers = headers or []
        written = self._serialize(key, value, headers)
        if partition is None:
            partition = self._partition(topic, None, key, value, *written)
        at = TopicPartition(topic, partition)
        queue = self._queues.get(at)
        future: asyncio.Future[RecordMetadata] = self._loop.create_future()
        batch = queue[-1] if queue and queue[-1].data is None else None
        added = batch.builder.append(timestamp=timestamp_ms, key=key, value=value, headers=headers) if batch else None
        if batch is None or added is None:
            batch = Batch(at, self.create_batch(), monotonic() + self._request_timeout_ms / 1000)
            added = batch.builder.append(timestamp=timestamp_ms, key=key, value=value, headers=headers)
            self._queues[at].append(batch)
        batch.futures.append((future, added.timestamp))
        self._have_pumped()
        return future

    # --- Requests ---

    def _have_pumped(self) -> None:
        if not self._pump_is_due:
            self._pump_is_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Send each broker that has nothing on its way what there is for it."""
        self._pump_is_due = False
        due: dict[int, list[Batch]] = {}
        for at, queue in list(self._queues.items()):
            if at in self._muted:
                continue
            node = self._metadata.leader_for_partition(at)
            if node is None or node < 0:
                self._wait_for_leader(queue)
            elif node not in self._away:
                due.setdefault(node, []).append(queue.popleft())
            if not queue:
                del self._queues[at]
        for node, batches in due.items():
            self._send_to(node, batches)

    def _wait_for_leader(self, queue: deque[Batch]) -> None:
        if queue[0].expires < monotonic():
            queue.popleft().fail(LeaderNotAvailableError())
        if self._looking is None:
            self._looking = self._begin(self._look_for_leaders())

    async def _look_for_leaders(self) -> None:
        await self.client.force_metadata_update()
        await asyncio.sleep(self._pause)
        self._looking = None
        self._have_pumped()

    def _send_to(self, node: int, batches: Sequence[Batch]) -> None:
        self._away[node] = batches
        self._muted.update(batch.at for batch in batches)
        for batch in batches:
            if batch.data is None:
                batch.data = self._sealed(batch)
        request = self._request(batches)
        connection = self.client._conns.get((node, ConnectionGroup.DEFAULT))  # noqa: SLF001 - without a wait
        try:
            answer = post(connection, request)
        except KafkaError:
            self._begin(self._send_with_patience(node, batches, request))
        else:
            answer.add_done_callback(partial(self._on_answer, node, batches))

    def _sealed(self, batch: Batch) -> bytes:
        """The batch as it leaves, now and whenever it is tried again."""
        identity, builder = self._txn_manager, batch.builder
        if identity is not None:
            number = self._numbers[batch.at]
            self._numbers[batch.at] = (number + len(batch.futures)) % _NUMBERS
            builder._set_producer_state(identity.producer_id, identity.producer_epoch, number)  # noqa: SLF001
        sealed: bytes = builder._build()  # noqa: SLF001 - as above, for whoever sends it
        return sealed

    def _request(self, batches: Iterable[Batch]) -> ProduceRequest:
        topics: dict[str, list[tuple[int, bytes | None]]] = {}
        for batch in batches:
            topics.setdefault(batch.at.topic, []).append((batch.at.partition, batch.data))
        acks = self._sender._acks  # noqa: SLF001 - as a number
        return ProduceRequest(
            transactional_id=None, required_acks=acks, timeout=self._request_timeout_ms, topics=list(topics.items())
        )

    async def _send_with_patience(self, node: int, batches: Sequence[Batch], request: ProduceRequest) -> None:
        """Send when there has to be a connection first."""
        try:
            answer = await self.client.send(node, request)
        except KafkaError as error:
            await self._try_again(node, batches, [(batch, error) for batch in batches])
        else:
            self._take(node, batches, answer)

    # --- Answers ---

    def _on_answer(self, node: int, batches: Sequence[Batch], answer: asyncio.Future[Any]) -> None:
        error = answer.exception()
        if error is None:
            self._take(node, batches, answer.result())
        else:
            self._begin(self._try_again(node, batches, [(batch, error) for batch in batches]))

    def _take(self, node: int, batches: Sequence[Batch], answer: Any) -> None:
        """What the broker says of each batch."""
        waiting = {batch.at: batch for batch in batches}
        refused: list[tuple[Batch, BaseException]] = []
        for topic, partitions in answer.topics:
            for partition, code, offset, *more in partitions:
                batch = waiting.pop(TopicPartition(topic, partition), None)
                if batch is None:
                    continue
                # A number from before those the broker remembers was written; only where is forgotten.
                if code in {NoError.errno, DuplicateSequenceNumber.errno}:
                    batch.done(offset, more[0] if more else _NO_TIMESTAMP)
                else:
                    refused.append((batch, for_code(code)()))
        refused += [(batch, KafkaConnectionError("the broker's answer leaves it out")) for batch in waiting.values()]
        if refused:
            self._begin(self._try_again(node, batches, refused))
        else:
            self._settle(node, batches)

    async def _try_again(
        self, node: int, batches: Sequence[Batch], refused: Iterable[tuple[Batch, BaseException]]
    ) -> None:
        """After a pause, put what may be tried again back to where it was; until then the broker is left alone."""
        again = []
        for batch, error in refused:
            if getattr(error, "invalid_metadata", False):
                self.client.force_metadata_update()
            if self._may_be_tried_again(batch, error):
                log.warning("%s[%d] is sent again after %r", *batch.at, error)
                again.append(batch)
            else:
                batch.fail(ProducerFenced() if isinstance(error, InvalidProducerEpoch) else error)
        await asyncio.sleep(self._pause)
        await self.client._maybe_wait_metadata()  # noqa: SLF001 - as aiokafka's own
        for batch in again:
            self._queues[batch.at].appendleft(batch)
        self._settle(node, batches)

    def _may_be_tried_again(self, batch: Batch, error: BaseException) -> bool:
        # Nothing comes twice of an idempotent producer's batch, however long it is tried.
        endless = self._txn_manager is not None or monotonic() < batch.expires
        return endless and isinstance(error, KafkaError) and error.retriable

    def _settle(self, node: int, batches: Iterable[Batch]) -> None:
        del self._away[node]
        self._muted.difference_update(batch.at for batch in batches)
        self._have_pumped()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def post(connection: Any, request: Any) -> asyncio.Future[Any]:
    """Send a request over an open connection; the future is its answer.

    Without an answer in time the connection is closed, as aiokafka does. Raises KafkaConnectionError when it is not
    open.
    """
    if connection is None or not connection.connected():
        raise KafkaConnectionError("there is no connection")
    # What `send` returns would wait for the answer with a context of its own for the time.
    connection.send(request).close()
    answer: asyncio.Future[Any] = connection._requests[-1][-1]  # noqa: SLF001 - known to the connection only
    limit = connection._request_timeout  # noqa: SLF001 - as above
    timer = asyncio.get_running_loop().call_later(limit, connection.close, CloseReason.CONNECTION_TIMEOUT)
    answer.add_done_callback(lambda _: timer.cancel())
    return answer
