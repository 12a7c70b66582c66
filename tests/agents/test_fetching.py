"""However fetches end, the broker is asked for exactly what the fetcher wants, and told no more than it has to be."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import aiokafka
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import Fetcher, FetchResult, OffsetResetStrategy
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import FetchSessionIdNotFound, InvalidFetchSessionEpoch, KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest, MetadataResponse_v1
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.broker import BrokerKind
from agents.fetching import Fetch, Overview, Sessions

FETCH = FetchRequest.API_KEY
NODE = 1


class Answer(NamedTuple):
    """What is read of a response."""

    API_VERSION: int
    error_code: int
    session_id: int
    topics: Sequence[Any] = ()


class Broker:
    """Fetch sessions as KIP-227 has them. `asked`: the partitions it would have answered for, after every request."""

    def __init__(self, version: int = 11, *, keeps: bool = True) -> None:
        self.version = version
        self.keeps = keeps
        self.sessions: dict[int, tuple[int, dict[tuple[str, int], tuple[int, int]]]] = {}
        self.made = 0
        self.asked: list[dict[tuple[str, int], tuple[int, int]]] = []
        self.named: list[int] = []
        self.happens = "answers"

    async def send(self, node: int, request: Any) -> Any:
        """Take a request off the wire and answer it, unless something happens."""
        assert node == NODE
        struct = request.prepare({FETCH: (self.version, self.version)})
        struct = type(struct).decode(struct.encode())
        if self.happens == "lost":
            raise KafkaConnectionError("on the way there")
        answer = self._answer(struct)
        if self.happens == "unheard":
            raise KafkaConnectionError("on the way back")
        return answer

    def _answer(self, struct: Any) -> Answer:
        if self.version < 7:
            self._take(
                {(topic, at): (offset, most) for topic, parts in struct.topics for at, *_, offset, most in parts}
            )
            return Answer(self.version, 0, 0)
        named = {(t, at): (rest[-3], rest[-1]) for t, parts in struct.topics for at, *rest in parts}
        self.named.append(len(named))
        if struct.session_epoch == 0:
            self.sessions.pop(struct.session_id, None)
            return Answer(self.version, 0, self._begin(named))
        if struct.session_id not in self.sessions:
            return Answer(self.version, FetchSessionIdNotFound.errno, 0)
        epoch, known = self.sessions[struct.session_id]
        if struct.session_epoch != epoch:
            return Answer(self.version, InvalidFetchSessionEpoch.errno, 0)
        known |= named
        for topic, parts in struct.forgotten_topics_data:
            for at in parts:
                del known[topic, at]
        self.sessions[struct.session_id] = epoch + 1, known
        self._take(known)
        return Answer(self.version, 0, struct.session_id)

    def _begin(self, named: dict[tuple[str, int], tuple[int, int]]) -> int:
        self._take(named)
        if not self.keeps:
            return 0
        self.made += 1
        self.sessions[self.made] = 1, dict(named)
        return self.made

    def _take(self, wanted: dict[tuple[str, int], tuple[int, int]]) -> None:
        self.asked.append(dict(wanted))


def fetch(wanted: dict[tuple[str, int], int]) -> FetchRequest:
    """The request of aiokafka's fetcher for these partitions, from these offsets on."""
    topics: dict[str, list[tuple[int, int, int]]] = {}
    for (topic, at), offset in wanted.items():
        topics.setdefault(topic, []).append((at, offset, 1000))
    return FetchRequest(500, 1, 50_000_000, 0, list(topics.items()))


PARTITIONS = st.tuples(st.sampled_from(["signals", "links"]), st.integers(0, 3))
STEPS = st.lists(
    st.tuples(
        st.dictionaries(PARTITIONS, st.integers(0, 5), min_size=1),
        st.sampled_from(["answers", "answers", "answers", "lost", "unheard", "forgets"]),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(STEPS, st.booleans())
def test_the_broker_is_asked_for_what_is_wanted(steps, keeps):
    """Whatever gets lost in between, and whether or not sessions are kept, an answered fetch was for all of it."""

    async def run() -> None:
        broker = Broker(keeps=keeps)
        sessions = Sessions(broker.send)
        for wanted, happens in steps:
            broker.happens = happens
            if happens == "forgets":
                broker.sessions.clear()
            answered = len(broker.asked)
            try:
                answer = await sessions.send(NODE, fetch(wanted))
            except KafkaConnectionError:
                continue
            if answer.error_code == 0:
                assert broker.asked[-1] == {at: (offset, 1000) for at, offset in wanted.items()}
                assert len(broker.asked) == answered + 1
        broker.happens = "answers"
        last = {("signals", 0): 7}
        errors = [(await sessions.send(NODE, fetch(last))).error_code for _ in range(2)]
        assert errors[-1] == 0, "after an error, the next fetch begins a new session"
        assert broker.asked[-1] == {("signals", 0): (7, 1000)}

    asyncio.run(run())


async def test_only_news_is_named():
    """A fetch names the one partition whose offset moved, and one that is no longer wanted is forgotten."""
    broker = Broker()
    sessions = Sessions(broker.send)
    wanted = {(topic, at): 0 for topic in ("signals", "links", "customers", "outcomes") for at in range(8)}
    await sessions.send(NODE, fetch(wanted))
    await sessions.send(NODE, fetch({**wanted, ("signals", 3): 1}))
    await sessions.send(NODE, fetch({**wanted, ("signals", 3): 1}))
    del wanted["links", 2]
    await sessions.send(NODE, fetch({**wanted, ("signals", 3): 1}))
    assert broker.named == [32, 1, 0, 0]
    assert ("links", 2) not in broker.asked[-1]


async def test_whoever_forgot_what_it_knew_is_told_everything_again():
    """After `ask_anew` one fetch names every partition, even if one was on its way meanwhile; then only news again."""
    broker = Broker()
    sessions = Sessions(broker.send)
    wanted = {("outcomes", at): 0 for at in range(8)}
    await sessions.send(NODE, fetch(wanted))
    on_its_way = asyncio.create_task(sessions.send(NODE, fetch(wanted)))
    sessions.ask_anew()
    assert (await on_its_way).error_code == 0
    for _ in range(3):
        assert (await sessions.send(NODE, fetch(wanted))).error_code == 0
    assert sorted(broker.named, reverse=True) == [8, 8, 0, 0, 0]


async def test_an_older_broker_is_asked_as_ever():
    """Before version 7 there are no sessions, and every fetch names everything."""
    broker = Broker(version=4)
    sessions = Sessions(broker.send)
    for offset in (0, 1, 2):
        await sessions.send(NODE, fetch({("signals", 0): offset, ("signals", 1): 5}))
        assert broker.asked[-1] == {("signals", 0): (offset, 1000), ("signals", 1): (5, 1000)}


async def test_other_requests_pass():
    """Nothing but fetches is touched."""
    sent = []

    async def send(node: int, request: Any, **options: Any) -> str:
        sent.append((node, request, options))
        return "answer"

    request = MetadataRequest([])
    assert await Sessions(send).send(NODE, request, group=2) == "answer"
    assert sent == [(NODE, request, {"group": 2})]


async def test_a_cancelled_fetch_begins_anew():
    """When partitions are taken away aiokafka cancels the fetch; nobody knows whether the broker has seen it."""
    broker = Broker()
    sessions = Sessions(broker.send)
    await sessions.send(NODE, fetch({("signals", 0): 0}))

    async def send(*_: Any) -> None:
        await asyncio.Event().wait()

    sessions._send = send
    task = asyncio.create_task(sessions.send(NODE, fetch({("signals", 0): 1})))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    sessions._send = broker.send
    await sessions.send(NODE, fetch({("signals", 0): 2}))
    assert broker.asked[-1] == {("signals", 0): (2, 1000)}
    assert len(broker.sessions) == 1, "the old session was replaced"


# --- What an answer is about ---


def answer_about(partitions: Sequence[TopicPartition]) -> Any:
    """What a broker says of partitions without news."""
    topics: dict[str, list[Any]] = {}
    for at in partitions:
        topics.setdefault(at.topic, []).append((at.partition, 0, 9, 9, 0, None, -1, b""))
    return FetchRequest._CLASSES[-1].RESPONSE_TYPE(0, 0, 1, list(topics.items()))


@settings(max_examples=30)
@given(st.dictionaries(PARTITIONS, st.integers(0, 99), min_size=1), st.lists(PARTITIONS, unique=True))
def test_a_fetch_is_about_what_was_answered(wanted, named):
    """Before the answer it names all partitions; then those of the answer, which loses what nobody asked for."""
    request = Fetch.of(fetch(wanted))
    assert asked_of(request) == wanted
    response = answer_about([TopicPartition(*at) for at in named])
    request.take(response)
    assert asked_of(request) == {at: wanted[at] for at in named if at in wanted}
    left = [(topic, part[0]) for topic, parts in response.topics for part in parts]
    assert set(left) == set(named) & set(wanted)


def asked_of(request: Any) -> dict[tuple[str, int], int]:
    """Partition → offset."""
    return {(topic, at): offset for topic, parts in request.topics for at, offset, _ in parts}


# --- Looking at all partitions at once ---

NODES = (1, 2)
ALL = [TopicPartition(topic, at) for topic in ("signals", "links") for at in range(3)]


class Desk:
    """aiokafka's fetcher, with what it looks at, and nobody who sends its requests."""

    def __init__(self) -> None:
        self.client = AIOKafkaClient()
        self.subscriptions = SubscriptionState()
        self.fetcher = Fetcher(self.client, self.subscriptions)

    @property
    def assignment(self) -> Any:
        """The one in force."""
        return self.subscriptions.subscription.assignment

    def assign(self, partitions: set[TopicPartition]) -> None:
        """Replace the assignment by a new one."""
        self.subscriptions.assign_from_user(list(partitions))
        self.fetcher._records.clear()

    def lead(self, leaders: Mapping[TopicPartition, int]) -> None:
        """Take up metadata; without an entry a partition is unknown."""
        topics: dict[str, list[Any]] = {}
        for at, node in leaders.items():
            topics.setdefault(at.topic, []).append((0, at.partition, node, [], []))
        brokers = [(node, "broker", 9092, None) for node in NODES]
        self.client.cluster.update_metadata(
            MetadataResponse_v1(brokers, 1, [(0, topic, False, parts) for topic, parts in topics.items()])
        )

    def place(self, positions: Mapping[TopicPartition, int | None], paused: set[TopicPartition]) -> None:
        """Where each partition is read on, None when that is not known, and which ones rest."""
        for at in self.assignment.tps:
            state = self.assignment.state_value(at)
            if positions[at] is None:
                state.await_reset(OffsetResetStrategy.EARLIEST)
            else:
                state.seek(positions[at])
            (state.pause if at in paused else state.resume)()

    def hold(self, undelivered: Mapping[TopicPartition, float]) -> None:
        """Have records of partitions that nobody took yet, and may wait for so many seconds."""
        self.fetcher._records.clear()
        for at in undelivered.keys() & self.assignment.tps:
            self.fetcher._records[at] = FetchResult(
                at, assignment=self.assignment, partition_records=None, backoff=undelivered[at]
            )


EACH = st.sampled_from(ALL)
MOMENTS = st.lists(
    st.fixed_dictionaries(
        {
            "assigned": st.none() | st.none() | st.sets(EACH, min_size=1),
            "leaders": st.none() | st.fixed_dictionaries({at: st.sampled_from(NODES) for at in ALL}),
            "unled": st.dictionaries(EACH, st.sampled_from([-1, None]), max_size=1) | st.just({}),
            "positions": st.fixed_dictionaries({at: st.integers(0, 9) for at in ALL}),
            "lost": st.just(set()) | st.sets(EACH, max_size=1),
            "paused": st.just(set()) | st.sets(EACH, max_size=2),
            "undelivered": st.just({}) | st.dictionaries(EACH, st.sampled_from([0.0, 5.0, 60.0]), max_size=3),
            "flying": st.sets(st.sampled_from(NODES), max_size=1),
        }
    ),
    min_size=1,
    max_size=6,
)


@given(MOMENTS)
def test_all_at_once_is_as_one_by_one(moments):
    """Whatever becomes of partitions, brokers and assignments in between, aiokafka's own view is the same."""

    async def run() -> None:
        desk = Desk()
        await desk.fetcher.close()
        overview = Overview(desk.fetcher)
        desk.assign(set(ALL))
        desk.lead(dict.fromkeys(ALL, 1))
        for moment in moments:
            if moment["assigned"]:
                desk.assign(moment["assigned"])
            if moment["leaders"]:
                led = moment["leaders"] | moment["unled"]
                desk.lead({at: node for at, node in led.items() if node is not None})
            desk.place(moment["positions"] | dict.fromkeys(moment["lost"]), moment["paused"])
            desk.hold(moment["undelivered"])
            desk.fetcher._in_flight = set(moment["flying"])
            expected = desk.fetcher._get_actions_per_node(desk.assignment)
            compare(overview.actions(desk.assignment), expected)
        await desk.client.close()

    asyncio.run(run())


def compare(found: Any, expected: Any) -> None:
    """The same requests to the same brokers, the same resets, and the same to wait for, in any order."""
    fetches, resets, seconds, *rest = found
    theirs, their_resets, their_seconds, *their_rest = expected
    assert {node: wire(request) for node, request in fetches} == {node: wire(request) for node, request in theirs}
    assert len(fetches) == len(theirs)
    assert {node: set(each) for node, each in resets.items()} == {
        node: set(each) for node, each in their_resets.items()
    }
    # Of a broker's records, aiokafka waits for those that may wait longest; to look before that finds the same.
    assert 0 < seconds <= their_seconds + 0.1
    invalid, futures = rest
    assert (invalid, set(futures)) == (their_rest[0], set(their_rest[1]))


def wire(request: Any) -> tuple[Any, ...]:
    """What a request says, in the last version without sessions."""
    struct = request.prepare({FETCH: (4, 4)})
    named = {(topic, *part) for topic, parts in struct.topics for part in parts}
    return (struct.max_wait_time, struct.min_bytes, struct.max_bytes, struct.isolation_level, named)


async def test_partitions_that_are_well_are_not_asked_one_by_one():
    """aiokafka's method is for the rest: a pause, a position to be found, no leader, patience that ended."""
    desk = Desk()
    await desk.fetcher.close()
    overview = Overview(desk.fetcher)
    one_by_one = []
    overview._actions = one_by_one.append
    desk.assign(set(ALL))
    desk.lead({at: NODES[at.partition % 2] for at in ALL})
    desk.place(dict.fromkeys(ALL, 7), set())
    fetches, *_ = overview.actions(desk.assignment)
    assert {node for node, _ in fetches} == set(NODES)
    desk.fetcher._in_flight = {1}
    desk.hold({TopicPartition("links", 1): 30.0})
    fetches, _, seconds, *_ = overview.actions(desk.assignment)
    assert fetches == []
    assert 29 < seconds <= 30
    assert one_by_one == []
    desk.place(dict.fromkeys(ALL, 7), {ALL[0]})
    overview.actions(desk.assignment)
    assert one_by_one == [desk.assignment]
    await desk.client.close()


async def test_an_answer_to_another_question_does_not_end_the_fetcher():
    """A broker that names a partition nobody asked for is heard for the others."""
    desk = Desk()
    await desk.fetcher.close()
    at, other = ALL[:2]
    desk.assign({at})
    desk.place({at: 7}, set())

    async def send(_: int, __: Any) -> Any:
        return answer_about([other, at])

    desk.client.send = Sessions(send).send
    request = Fetch.of(fetch({at: 7}))
    assert await desk.fetcher._proc_fetch_request(desk.assignment, NODE, request) is False
    assert desk.assignment.state_value(at).highwater == 9
    await desk.client.close()


async def test_everything_is_read_from_a_real_broker(broker, unique_prefix):
    """A consumer with sessions reads every record in order, over a seek and a partition left out for a while."""
    if broker.kind is not BrokerKind.KAFKA:
        pytest.skip("the embedded broker keeps no sessions")
    partitions = [aiokafka.TopicPartition(f"{unique_prefix}topic", number) for number in range(6)]
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(partitions[0].topic, len(partitions), 1)])
    await admin.close()
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
    sessions = Sessions(consumer._client.send)
    consumer._client.send = sessions.send
    named: list[int] = []
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    async with producer, consumer:
        consumer.assign(partitions)
        for number in range(60):
            at = partitions[number % 3]
            await producer.send_and_wait(at.topic, b"%d" % number, partition=at.partition)
            record = await asyncio.wait_for(consumer.getone(), 10)
            assert (record.partition, record.value) == (at.partition, b"%d" % number)
            named.append(len(sessions._sessions[1]._known))
            if number == 30:
                consumer.pause(partitions[5])
        consumer.resume(partitions[5])
        consumer.seek(partitions[1], 0)
        again = [await asyncio.wait_for(consumer.getone(), 10) for _ in range(20)]
        assert [record.value for record in again] == [b"%d" % number for number in range(1, 60, 3)]
    session = next(iter(sessions._sessions.values()))
    assert session.id > 0
    assert session.epoch > 30, "one session served all fetches"
    assert {5, 6} >= set(named) >= {5}
