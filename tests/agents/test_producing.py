"""What is sent is there, once and in order, whatever happens to connections and answers on the way."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import (
    KafkaConnectionError,
    LeaderNotAvailableError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    TopicAuthorizationFailedError,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.structs import BrokerMetadata

from agents.broker import BrokerKind, RunningBroker
from agents.producing import Producer

PARTITIONS = 3
NOON_MS = 1_767_614_400_000


PRODUCE = ProduceRequest.API_KEY
ANSWERS = {made.API_VERSION: made.RESPONSE_TYPE for made in ProduceRequest._CLASSES}


class Broken(Exception):
    """The connection is cut here."""


class Wire:
    """Passes everything on between a producer and the broker; records and answers as a test has it.

    `going` is told of every request with records, `coming` of every answer to one and gives what arrives of it. Both
    may raise Broken with the part of the message that still gets through. An answer of None never arrives.
    """

    def __init__(self, bootstrap: str) -> None:
        self._host, port = bootstrap.split(",", maxsplit=1)[0].rsplit(":", 1)
        self._port = int(port)
        self._connections: set[asyncio.Task[None]] = set()
        self.connected = 0
        self.going: Callable[[bytes], Any] = lambda _: None
        self.coming: Callable[[Any], Any] = lambda answer: answer
        self.answered: list[list[TopicPartition]] = []
        """Of each answer that the broker gave: the partitions it is about."""

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1")
        self.own_port = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.own_port}"

    async def close(self) -> None:
        """Cut everything."""
        self._server.close()
        await asyncio.gather(*self._connections)
        await self._server.wait_closed()

    def lead(self, producer: Any) -> None:
        """Have it find the broker here, wherever the broker says it is."""
        producer.client.cluster.broker_metadata = lambda node: BrokerMetadata(node, "127.0.0.1", self.own_port, None)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        self._connections.add(asyncio.current_task())
        beyond, onward = await asyncio.open_connection(self._host, self._port)
        asked: deque[tuple[int, int]] = deque()
        directions = [
            asyncio.ensure_future(self._requests(reader, onward, asked)),
            asyncio.ensure_future(self._answers(beyond, writer, asked)),
        ]
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for direction in directions:
            direction.cancel()
        await asyncio.gather(*directions, return_exceptions=True)
        for each in (writer, onward):
            each.close()
            with contextlib.suppress(OSError):
                await each.wait_closed()

    async def _requests(self, reader: Any, writer: Any, asked: deque[tuple[int, int]]) -> None:
        while True:
            size = await reader.readexactly(4)
            message = await reader.readexactly(int.from_bytes(size))
            key, version = struct.unpack_from(">hh", message)
            asked.append((key, version))
            try:
                if key == PRODUCE:
                    self.going(message)
            except Broken as cut:
                writer.write(size + message[: cut.args[0]])
                raise
            writer.write(size + message)

    async def _answers(self, reader: Any, writer: Any, asked: deque[tuple[int, int]]) -> None:
        while True:
            message = await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
            key, version = asked.popleft()
            if key == PRODUCE:
                message = self._records_answered(message, version, writer)
            if message is not None:
                writer.write(len(message).to_bytes(4) + message)

    def _records_answered(self, message: bytes, version: int, writer: Any) -> bytes | None:
        answer = ANSWERS[version].decode(message[4:])
        self.answered.append([TopicPartition(topic, part[0]) for topic, parts in answer.topics for part in parts])
        try:
            answer = self.coming(answer)
        except Broken as cut:
            writer.write((len(message).to_bytes(4) + message)[: cut.args[0]])
            raise
        return answer and message[:4] + answer.encode()


class Hall:
    """Topics of one test: who writes to them, and what is read."""

    def __init__(self, broker: RunningBroker, prefix: str) -> None:
        self.bootstrap = broker.bootstrap
        self.is_kafka = broker.kind is BrokerKind.KAFKA
        self.prefix = prefix
        self._producers: list[AIOKafkaProducer] = []

    async def topic(self, role: str, partitions: int = PARTITIONS, **settings: str) -> str:
        """Create a topic; its full name."""
        name, config = f"{self.prefix}{role}", {key.replace("_", "."): value for key, value in settings.items()}
        async with self.admin() as admin:
            await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config)])
        return name

    @contextlib.asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        """A started client for topics."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    async def producer(self, kind: Any, *, idempotent: bool, wire: Wire | None = None, **settings: Any) -> Any:
        """A started producer, whose connections lead over the wire, if there is one."""
        if idempotent and not self.is_kafka:
            pytest.skip("the embedded broker has no idempotent producers")
        producer = kind(
            bootstrap_servers=wire.address if wire else self.bootstrap,
            enable_idempotence=idempotent,
            acks="all",
            **{"retry_backoff_ms": 20} | settings,
        )
        self._producers.append(producer)
        if wire:
            wire.lead(producer)
        await producer.start()
        return producer

    async def read(self, *topics: str) -> dict[TopicPartition, list[Any]]:
        """All records there are, by partition."""
        async with AIOKafkaConsumer(bootstrap_servers=self.bootstrap) as consumer:
            partitions = [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
            consumer.assign(partitions)
            await consumer.seek_to_beginning()
            ends = await consumer.end_offsets(partitions)
            found: dict[TopicPartition, list[Any]] = {at: [] for at in partitions}
            while any([await consumer.position(at) < end for at, end in ends.items()]):
                for at, records in (await consumer.getmany(timeout_ms=100)).items():
                    found[at] += records
            return found

    async def close(self) -> None:
        """Stop all producers; one that cannot send what it has does not hold up the rest."""
        for producer in self._producers:
            async with asyncio.timeout(20):
                await producer.stop()


class Sent:
    """What a producer was given, by partition, with the futures it gave back."""

    def __init__(self, producer: Any) -> None:
        self.producer = producer
        self.values: defaultdict[TopicPartition, list[bytes]] = defaultdict(list)
        self.futures: defaultdict[TopicPartition, list[asyncio.Future[Any]]] = defaultdict(list)

    async def add(self, at: TopicPartition, value: bytes) -> asyncio.Future[Any]:
        """Send a record."""
        self.values[at].append(value)
        future: asyncio.Future[Any] = await self.producer.send(at.topic, value, b"ana", at.partition)
        self.futures[at].append(future)
        return future

    async def is_there(self, hall: Hall) -> None:
        """Every record is acknowledged, and read once, in order, where the acknowledgement says."""
        told = {at: [(await future).offset for future in futures] for at, futures in self.futures.items()}
        read = await hall.read(*{at.topic for at in self.values})
        assert {at: [record.value for record in records] for at, records in read.items() if records} == self.values
        assert {at: [record.offset for record in records] for at, records in read.items() if records} == told


@pytest.fixture
async def hall(broker: RunningBroker, unique_prefix: str) -> AsyncIterator[Hall]:
    """Nothing was written yet."""
    hall = Hall(broker, unique_prefix)
    yield hall
    await hall.close()


# --- What aiokafka's producer promises, too ---


@pytest.fixture(params=[AIOKafkaProducer, Producer], ids=["aiokafka", "lean"])
def kind(request: pytest.FixtureRequest) -> Any:
    """The original, and what takes its place."""
    return request.param


@pytest.fixture(params=[False, True], ids=["plain", "idempotent"])
def idempotent(request: pytest.FixtureRequest) -> bool:
    """Whether the broker leaves out what it has seen."""
    return bool(request.param)


async def test_a_record_is_read_as_it_was_sent(hall: Hall, kind, idempotent):
    """Key, value, headers and timestamp, present or not; the acknowledgement says where it is and from when."""
    topic = await hall.topic("signals")
    producer = await hall.producer(kind, idempotent=idempotent)
    chance = random.Random("records")
    sent = defaultdict(list)
    for number in range(40):
        partition, made = chance.randrange(PARTITIONS), chance.choice([None, NOON_MS + chance.randrange(-5_000, 5_000)])
        key, value = chance.choice([(b"ana", None), (None, b"%d" % number), (b"", b""), (b"eva", b"x" * number * 900)])
        headers = [(chance.choice(["a", "ñ"]), chance.randbytes(3)) for _ in range(chance.randrange(3))]
        told = await producer.send_and_wait(topic, value, key, partition, made, headers or None)
        assert (told.topic, told.partition, told.topic_partition) == (topic, partition, (topic, partition))
        assert made in {None, told.timestamp}
        sent[told.topic_partition].append((told.offset, told.timestamp, told.timestamp_type, key, value, headers))
    for at, records in (await hall.read(topic)).items():
        read = [(r.offset, r.timestamp, r.timestamp_type, r.key, r.value, list(r.headers)) for r in records]
        assert read == sent[at]


async def test_thousands_arrive_in_order(hall: Hall, kind, idempotent):
    """Sent without waiting, to several partitions of several topics, in many batches each."""
    topics = [await hall.topic(role) for role in ("signals", "links")]
    producer = await hall.producer(kind, idempotent=idempotent, max_batch_size=4_096)
    chance, sent = random.Random("thousands"), Sent(producer)
    for number in range(6_000):
        await sent.add(TopicPartition(chance.choice(topics), chance.randrange(PARTITIONS)), b"%06d" % number)
    await sent.is_there(hall)


async def test_a_record_that_is_too_large_is_refused_alone(hall: Hall, kind, idempotent):
    """Before it is put into a batch; others are sent."""
    topic = await hall.topic("signals")
    producer = await hall.producer(kind, idempotent=idempotent, max_request_size=10_000)
    before = await producer.send(topic, b"before", partition=0)
    with pytest.raises(MessageSizeTooLargeError, match="larger than the maximum"):
        await producer.send(topic, b"x" * 10_000, partition=0)
    after = await producer.send(topic, b"after", partition=0)
    assert [(await future).offset for future in (before, after)] == [0, 1]


async def test_what_the_topic_finds_too_large_is_refused_by_the_broker(hall: Hall, kind, idempotent):
    """Plain, the next record takes its place; idempotent, nothing is written behind the gap, and the sender knows."""
    if not hall.is_kafka:
        pytest.skip("the embedded broker knows no limit for a topic")
    topic = await hall.topic("signals", max_message_bytes="1000")
    producer = await hall.producer(kind, idempotent=idempotent)
    assert (await producer.send_and_wait(topic, b"one", partition=0)).offset == 0
    with pytest.raises(MessageSizeTooLargeError):
        await producer.send_and_wait(topic, b"x" * 2_000, partition=0)
    if idempotent:
        with pytest.raises(OutOfOrderSequenceNumber):
            await producer.send_and_wait(topic, b"two", partition=0)
    else:
        assert (await producer.send_and_wait(topic, b"two", partition=0)).offset == 1
    assert (await producer.send_and_wait(topic, b"elsewhere", partition=1)).offset == 0


async def test_a_partition_is_chosen_by_key(hall: Hall, kind, idempotent):
    """As aiokafka chooses it, from the key as it is written; without a key it may be any."""
    topic = await hall.topic("signals")
    producer = await hall.producer(kind, idempotent=idempotent, key_serializer=lambda key: key and key.encode())
    everywhere = list(range(PARTITIONS))
    for number in range(30):
        key = f"customer-{number}"
        told = await producer.send_and_wait(topic, b"value", key)
        assert told.partition == DefaultPartitioner()(key.encode(), everywhere, everywhere)
    keyless = [await producer.send(topic, b"value") for _ in range(60)]
    assert {(await future).partition for future in keyless} == set(everywhere)


async def test_flush_waits_for_everything_sent(hall: Hall, kind, idempotent):
    """Also when there is nothing, and when nobody waits for a record any more."""
    topic = await hall.topic("signals")
    producer = await hall.producer(kind, idempotent=idempotent)
    await producer.flush()
    futures = [await producer.send(topic, b"%d" % number, partition=number % PARTITIONS) for number in range(300)]
    for future in futures[-PARTITIONS:]:
        future.cancel()
    await producer.flush()
    assert all(future.done() for future in futures)
    assert sum(map(len, (await hall.read(topic)).values())) == len(futures)


async def test_stop_sends_everything_there_is(hall: Hall, kind, idempotent):
    """Even what nobody waits for; afterwards nothing is taken."""
    topic = await hall.topic("signals")
    producer = await hall.producer(kind, idempotent=idempotent)
    futures = [await producer.send(topic, b"%d" % number, partition=0) for number in range(2_000)]
    alone = await producer.send(topic, b"alone", partition=1)
    alone.cancel()
    await producer.stop()
    assert [(await future).offset for future in futures] == list(range(2_000))
    read = await hall.read(topic)
    assert [record.value for record in read[TopicPartition(topic, 0)]] == [b"%d" % number for number in range(2_000)]
    assert [record.value for record in read[TopicPartition(topic, 1)]] == [b"alone"]
    with pytest.raises(ProducerClosed):
        await producer.send(topic, b"late", partition=0)
    await producer.stop()


async def test_the_broker_may_say_when(hall: Hall, kind, idempotent):
    """Where a topic has the broker's time, the acknowledgement has it as well."""
    if not hall.is_kafka:
        pytest.skip("the embedded broker keeps the time of the producer")
    topic = await hall.topic("signals", message_timestamp_type="LogAppendTime")
    producer = await hall.producer(kind, idempotent=idempotent)
    futures = [await producer.send(topic, b"value", partition=0, timestamp_ms=NOON_MS) for _ in range(5)]
    told = [((await future).timestamp, (await future).timestamp_type) for future in futures]
    records = (await hall.read(topic))[TopicPartition(topic, 0)]
    assert told == [(record.timestamp, record.timestamp_type) for record in records]
    assert NOON_MS not in dict(told)


# --- What the lean one does when things go wrong ---


@pytest.fixture
async def wire(broker: RunningBroker) -> AsyncIterator[Wire]:
    """A wire that holds."""
    wire = Wire(broker.bootstrap)
    await wire.open()
    yield wire
    await wire.close()


@pytest.fixture
async def way(hall: Hall, wire: Wire) -> AsyncIterator[Way]:
    """A topic, and how a producer gets there."""
    topic = await hall.topic("signals")
    assert not any((await hall.read(topic)).values()), "by now, the partitions have the leaders that metadata tell"
    way = Way(hall, wire, topic)
    yield way
    wire.going, wire.coming = lambda _: None, lambda answer: answer
    await hall.close()


class Way:
    """Producers whose records go over a wire to one topic."""

    def __init__(self, hall: Hall, wire: Wire, topic: str) -> None:
        self.hall = hall
        self.wire = wire
        self.partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]

    async def sent(self, *, idempotent: bool = True, **settings: Any) -> Sent:
        """Nothing yet, by a producer that has started."""
        return Sent(await self.hall.producer(Producer, idempotent=idempotent, wire=self.wire, **settings))


def with_codes(answer: Any, codes: Mapping[TopicPartition, int]) -> Any:
    """The answer, had the broker this to say of some partitions."""
    topics = [
        (topic, [(at, codes.get(TopicPartition(topic, at), code), *rest) for at, code, *rest in parts])
        for topic, parts in answer.topics
    ]
    return type(answer)(topics, answer.throttle_time_ms)


@pytest.mark.parametrize("seed", range(4))
async def test_everything_is_there_once_whenever_connections_are_cut(way: Way, seed):
    """On the way there or back, before, within or after a message: the broker has seen the batch or has not."""
    chance, cuts = random.Random(seed), Counter[str]()

    def going(message: bytes) -> None:
        if chance.random() < 0.2:
            cuts["there"] += 1
            raise Broken(chance.choice([0, chance.randrange(len(message)), len(message)]))

    def coming(answer: Any) -> Any:
        if chance.random() < 0.2:
            cuts["back"] += 1
            raise Broken(chance.choice([0, chance.randrange(1, 20)]))
        return answer

    way.wire.going, way.wire.coming = going, coming
    sent = await way.sent(max_batch_size=1_000, retry_backoff_ms=5)
    for number in range(1_500):
        await sent.add(chance.choice(way.partitions), b"%06d" % number)
        if chance.random() < 0.05:
            await asyncio.sleep(0.01 * chance.random())
    await sent.is_there(way.hall)
    assert min(cuts["there"], cuts["back"]) > 3
    assert way.wire.connected > sum(cuts.values())


async def test_only_the_batch_that_was_refused_is_sent_again(way: Way):
    """What may be tried again goes to the front of its partition; the others are done and go on."""
    unlucky, lucky, other = way.partitions
    refusals = iter([NotLeaderForPartitionError.errno] * 2)
    way.wire.coming = lambda answer: with_codes(answer, {unlucky: next(refusals, 0)})
    sent = await way.sent()
    first = {at: await sent.add(at, b"first") for at in way.partitions}
    await asyncio.wait([first[lucky], first[other]])
    assert not first[unlucky].done()
    for at in way.partitions:
        await sent.add(at, b"second")
    await sent.is_there(way.hall)
    assert Counter(at for each in way.wire.answered for at in each) == {unlucky: 4, lucky: 2, other: 2}


async def test_an_error_for_good_fails_its_batch_alone(way: Way):
    """Everybody who waits for a record of it is told; other batches are acknowledged, and later ones sent."""
    unlucky, lucky, _ = way.partitions
    refusals = iter([TopicAuthorizationFailedError.errno])
    way.wire.coming = lambda answer: with_codes(answer, {unlucky: next(refusals, 0)})
    sent = await way.sent()
    refused = [await sent.add(unlucky, b"refused") for _ in range(3)]
    taken = await sent.add(lucky, b"taken")
    for future in refused:
        with pytest.raises(TopicAuthorizationFailedError):
            await future
    assert (await taken).offset == 0
    assert [len(each) for each in way.wire.answered] == [2]
    assert (await (await sent.add(lucky, b"later"))).offset == 1


async def test_an_answer_about_something_else_is_no_answer(way: Way):
    """A partition that nobody asked about is passed over; one that is left out is sent again."""
    at, other, _ = way.partitions
    odd = iter([other])

    def coming(answer: Any) -> Any:
        named = next(odd, at)
        return type(answer)([(named.topic, [(named.partition, *answer.topics[0][1][0][1:])])], answer.throttle_time_ms)

    way.wire.coming = coming
    sent = await way.sent()
    await asyncio.wait_for(await sent.add(at, b"value"), 10)
    await sent.is_there(way.hall)
    assert way.wire.answered == [[at], [at]]


async def test_an_answer_that_never_comes_costs_its_connection(way: Way):
    """After the request timeout the batch goes over another one; the broker has seen it, and says where."""
    swallowed = iter([None])
    way.wire.coming = lambda answer: next(swallowed, answer)
    sent = await way.sent(request_timeout_ms=1_000)
    before = way.wire.connected
    await asyncio.gather(*[await sent.add(at, b"value") for at in way.partitions])
    assert way.wire.connected == before + 1
    assert len(way.wire.answered) == 2
    await sent.is_there(way.hall)


async def test_without_idempotence_a_batch_is_not_tried_for_ever(way: Way):
    """Longer than the request timeout: each time it could come once more."""
    way.wire.coming = lambda _: None
    sent = await way.sent(idempotent=False, request_timeout_ms=500)
    future = await sent.add(way.partitions[0], b"value")
    with pytest.raises(KafkaConnectionError):
        await asyncio.wait_for(future, 20)
    assert len(way.wire.answered) == 1


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_partition_without_a_leader_waits_for_one(hall: Hall, idempotent):
    """Until there is one; others go on meanwhile."""
    topic = await hall.topic("signals", partitions=1)
    producer = await hall.producer(Producer, idempotent=idempotent)
    waiting = [await producer.send(topic, b"%d" % number, partition=1) for number in range(3)]
    assert (await producer.send_and_wait(topic, b"value", partition=0)).offset == 0
    assert not waiting[0].done()
    async with hall.admin() as admin:
        await admin.create_partitions({topic: NewPartitions(PARTITIONS)})
    assert [(await asyncio.wait_for(future, 20)).offset for future in waiting] == [0, 1, 2]


async def test_a_partition_without_a_leader_is_given_up(hall: Hall):
    """After the request timeout, record by record, and nothing else with it."""
    topic = await hall.topic("signals", partitions=1)
    producer = await hall.producer(Producer, idempotent=True, request_timeout_ms=1_000)
    waiting = [await producer.send(topic, b"value", partition=7) for _ in range(3)]
    for future in waiting:
        with pytest.raises(LeaderNotAvailableError):
            await asyncio.wait_for(future, 20)
    assert (await producer.send_and_wait(topic, b"value", partition=0)).offset == 0


async def test_a_record_that_is_none_leaves_no_trace(hall: Hall):
    """A timestamp that is no number is the caller's error; what is sent elsewhere after it arrives."""
    topic = await hall.topic("signals")
    producer = await hall.producer(Producer, idempotent=True)
    with pytest.raises(TypeError):
        await producer.send(topic, b"value", partition=0, timestamp_ms="noon")
    sent = Sent(producer)
    await asyncio.wait_for(await sent.add(TopicPartition(topic, 1), b"value"), 20)
    await sent.is_there(hall)


async def test_each_record_of_a_batch_has_its_time(hall: Hall):
    """aiokafka tells the first one's of all."""
    topic = await hall.topic("signals")
    producer = await hall.producer(Producer, idempotent=True)
    times = [NOON_MS, NOON_MS - 7, NOON_MS + 5_000]
    futures = [await producer.send(topic, b"value", partition=0, timestamp_ms=each) for each in times]
    assert [(await future).timestamp for future in futures] == times
    assert [record.timestamp for record in (await hall.read(topic))[TopicPartition(topic, 0)]] == times


async def test_after_the_last_sequence_number_comes_the_first(hall: Hall):
    """Also within a batch."""
    topic = await hall.topic("signals")
    producer = await hall.producer(Producer, idempotent=True)
    at = TopicPartition(topic, 0)
    producer._numbers[at] = 2**31 - 4
    sent = Sent(producer)
    for batch in range(3):
        for number in range(3):
            await sent.add(at, b"%d/%d" % (batch, number))
        await producer.flush()
    await sent.is_there(hall)
    assert producer._numbers[at] == 5


async def test_who_stops_takes_nothing_any_more(hall: Hall):
    """Not even what was waiting to know its topic when the producer was stopped."""
    topic = await hall.topic("signals")
    producer = await hall.producer(Producer, idempotent=True)
    late = asyncio.create_task(producer.send(topic, b"late", partition=0))
    await asyncio.sleep(0)
    assert not late.done()
    producer._closed = True
    with pytest.raises(ProducerClosed):
        await late
    producer._closed = False
