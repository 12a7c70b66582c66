"""Incremental fetches (KIP-227): each names the partitions that changed since the one before, answers those with news.

aiokafka names all partitions in every fetch, and is told of all in every answer, in Python: for the four topics a
worker reads, that is much of what a record costs which comes alone. `Sessions` stands between its fetcher and its
client: the fetcher goes on asking for everything, and what the broker has not been told yet goes over the wire. It
also looks at the partitions for the fetcher, which does it anew, one by one, before and after every fetch.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import FetchSessionIdNotFound, NoError
from aiokafka.protocol.fetch import FetchRequest

log = logging.getLogger("batuta")

_OLDEST_VERSION = 7
"""The first version of the request that knows sessions."""
_NONE, _FIRST = 0, 0
_MOST_EPOCHS = 2**31 - 1

Offsets = Mapping[TopicPartition, int]
"""Where to read from."""


class Session:
    """What one broker knows of what is wanted of it. With epoch 0 it is asked for a new session, in place of `id`."""

    def __init__(self) -> None:
        self.id = _NONE
        self.epoch = _FIRST
        self.stale = False
        """Whether the next fetch is to be answered for every partition, with or without news."""
        self._known: dict[TopicPartition, int] = {}

    def next(self, wanted: Offsets) -> tuple[Offsets, list[TopicPartition]]:
        """What to name in the next fetch so that the broker knows what is wanted, and what it is to forget."""
        if self.stale:
            self.begin_anew()
        if self.epoch == _FIRST:
            self.stale = False
            self._known = dict(wanted)
            return self._known, []
        news = {at: each for at, each in wanted.items() if self._known.get(at) != each}
        gone = [at for at in self._known if at not in wanted]
        self._known = dict(wanted)
        return news, gone

    def answered(self, response: Any) -> None:
        """Take up an answer. A broker that keeps no session for us gives it the id 0, and is told everything again."""
        if response.error_code != NoError.errno:
            if response.error_code == FetchSessionIdNotFound.errno:
                self.id = _NONE
            self.begin_anew()
        elif self.epoch == _FIRST:
            self.id = response.session_id
            self.epoch = int(self.id != _NONE)
        else:
            self.epoch = self.epoch % _MOST_EPOCHS + 1

    def begin_anew(self) -> None:
        """Tell everything with the next fetch: nobody knows what became of the last one."""
        self.epoch = _FIRST


class Sessions:
    """The `send` of aiokafka's client, with one session per broker."""

    def __init__(self, send: Callable[..., Awaitable[Any]]) -> None:
        self._send = send
        self._sessions: defaultdict[int, Session] = defaultdict(Session)

    def ask_anew(self) -> None:
        """Have the next fetches answered for every partition, with news or without.

        When partitions are assigned aiokafka forgets where they end, and the broker does not say it again unasked.
        """
        for session in self._sessions.values():
            session.stale = True

    async def send(self, node: int, request: Any, **options: Any) -> Any:
        """Send a request to a broker; a fetch only has what is new to it."""
        if not isinstance(request, FetchRequest):
            return await self._send(node, request, **options)
        session = self._sessions[node]
        fetch = request if isinstance(request, Fetch) else Fetch.of(request)
        fetch.session = session
        try:
            response = await self._send(node, fetch, **options)
        except BaseException:
            session.begin_anew()
            raise
        if response.API_VERSION >= _OLDEST_VERSION:
            session.answered(response)
        fetch.take(response)
        return response


class Fetch(FetchRequest):  # type: ignore[misc]
    """A fetch as the session of its broker has it."""

    session: Session
    _answered: Offsets | None = None

    def __init__(self, like: FetchRequest, offsets: Offsets, most: int) -> None:
        self.__dict__.update(like.__dict__)
        self._offsets = offsets
        self._most = most

    @classmethod
    def of(cls, full: FetchRequest) -> Fetch:
        """What a request of aiokafka's asks for."""
        named = [
            (TopicPartition(topic, at), offset, most) for topic, parts in full.topics for at, offset, most in parts
        ]
        return cls(full, {at: offset for at, offset, _ in named}, named[0][-1])

    @property
    def topics(self) -> list[tuple[str, list[tuple[int, int, int]]]]:
        """What was asked of the partitions that the answer is about; before it has come, of all."""
        return self._named(self._offsets if self._answered is None else self._answered)

    def take(self, response: Any) -> None:
        """Take up an answer. It loses partitions that nobody asked for, which would end aiokafka's fetcher."""
        named = [TopicPartition(topic, part[0]) for topic, parts in response.topics for part in parts]
        asked = self._answered = {at: self._offsets[at] for at in named if at in self._offsets}
        if len(asked) < len(named):
            log.warning("an answer has %s, which nobody asked for", [at for at in named if at not in asked])
            response.topics = [
                (topic, [part for part in parts if (topic, part[0]) in asked]) for topic, parts in response.topics
            ]

    def build(self, request_struct_class: Any) -> Any:
        """The request in the version that the broker and aiokafka agreed upon."""
        if request_struct_class.API_VERSION < _OLDEST_VERSION:
            self._topics = self._named(self._offsets)
            return super().build(request_struct_class)
        news, gone = self.session.next(self._offsets)
        self._topics = self._named(news)
        struct = super().build(request_struct_class)
        struct.session_id, struct.session_epoch = self.session.id, self.session.epoch
        struct.forgotten_topics_data = _by_topic(gone)
        return struct

    def _named(self, offsets: Offsets) -> list[tuple[str, list[tuple[int, int, int]]]]:
        return _by_topic((at.topic, (at.partition, offset, self._most)) for at, offset in offsets.items())


def _by_topic(pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, list[Any]]]:
    grouped: dict[str, list[Any]] = {}
    for topic, each in pairs:
        grouped.setdefault(topic, []).append(each)
    return list(grouped.items())


class Overview:
    """The partitions of aiokafka's fetcher, looked at all at once. `actions` takes the place of its own method."""

    def __init__(self, fetcher: Any) -> None:
        self._fetcher = fetcher
        self._actions: Callable[[Any], Any] = fetcher._get_actions_per_node  # noqa: SLF001 - in whose place this is
        self._request = FetchRequest(
            fetcher._fetch_max_wait_ms,  # noqa: SLF001 - what aiokafka's own requests have
            fetcher._fetch_min_bytes,  # noqa: SLF001 - as above
            fetcher._fetch_max_bytes,  # noqa: SLF001 - as above
            fetcher._isolation_level,  # noqa: SLF001 - as above
            [],
        )
        self._seen: tuple[Any, Any] = (None, None)
        """The assignment and the cluster's metadata that the rest is made from."""
        self._leaders: dict[TopicPartition, int | None] = {}
        self._states: dict[int | None, list[tuple[TopicPartition, Any]]] = {}
        """Broker → the partitions it leads."""

    def actions(self, assignment: Any) -> Any:
        """Fetches to send now, partitions whose position is to be found, seconds to wait, and what to wait for.

        As aiokafka has it, which is asked when a partition has no leader, or no position, or is paused.
        """
        fetcher = self._fetcher
        metadata = fetcher._client.cluster._partitions  # noqa: SLF001 - another one after every update
        if self._seen[0] is not assignment or self._seen[1] is not metadata:
            self._look_at(assignment, metadata)
        undelivered = fetcher._records  # noqa: SLF001 - in its place
        busy = fetcher._in_flight | {self._leaders.get(at) for at in undelivered}  # noqa: SLF001 - as above
        requests, patience = [], fetcher._fetcher_timeout  # noqa: SLF001 - as above
        if undelivered:
            patience = min(result.calculate_backoff() for result in undelivered.values())
        for node, states in self._states.items():
            offsets = {at: state._position for at, state in states if not state._paused}  # noqa: SLF001 - at once
            if node is None or node < 0 or not patience or len(offsets) < len(states) or None in offsets.values():
                return self._actions(assignment)
            if node not in busy:
                most = fetcher._max_partition_fetch_bytes  # noqa: SLF001 - as above
                requests.append((node, Fetch(self._request, offsets, most)))
        return requests, {}, patience, False, []

    def _look_at(self, assignment: Any, metadata: Any) -> None:
        leader = self._fetcher._client.cluster.leader_for_partition  # noqa: SLF001 - as above
        self._seen = (assignment, metadata)
        self._leaders = {at: leader(at) for at in assignment.tps}
        self._states = {}
        for at, node in self._leaders.items():
            self._states.setdefault(node, []).append((at, assignment.state_value(at)))
