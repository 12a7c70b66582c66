"""Incremental fetches (KIP-227): each names the partitions that changed since the one before, answers those with news.

aiokafka names all partitions in every fetch, and is told of all in every answer, in Python: for the four topics a
worker reads, that is much of what a record costs which comes alone. `Sessions` stands between its fetcher and its
client. The fetcher goes on asking for everything; what the broker has not been told yet goes over the wire.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiokafka.errors import FetchSessionIdNotFound, NoError
from aiokafka.protocol.fetch import FetchRequest

_OLDEST_VERSION = 7
"""The first version of the request that knows sessions."""
_NONE, _FIRST = 0, 0
_MOST_EPOCHS = 2**31 - 1

Partition = tuple[str, int]
Wanted = tuple[int, int]
"""The offset to read from, and the most bytes."""


class Session:
    """What one broker knows of what is wanted of it. With epoch 0 it is asked for a new session, in place of `id`."""

    def __init__(self) -> None:
        self.id = _NONE
        self.epoch = _FIRST
        self.stale = False
        """Whether the next fetch is to be answered for every partition, with or without news."""
        self._known: dict[Partition, Wanted] = {}

    def next(self, wanted: Mapping[Partition, Wanted]) -> tuple[dict[Partition, Wanted], list[Partition]]:
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
        try:
            response = await self._send(node, _IncrementalFetch(request, session), **options)
        except BaseException:
            session.begin_anew()
            raise
        if response.API_VERSION >= _OLDEST_VERSION:
            session.answered(response)
        return response


class _IncrementalFetch(FetchRequest):  # type: ignore[misc]
    """A fetch as the session of its broker has it."""

    def __init__(self, full: FetchRequest, session: Session) -> None:
        self.__dict__.update(full.__dict__)
        self._session = session
        self._topics: list[tuple[str, list[Any]]]

    def build(self, request_struct_class: Any) -> Any:
        """The request in the version that the broker and aiokafka agreed upon."""
        if request_struct_class.API_VERSION < _OLDEST_VERSION:
            return super().build(request_struct_class)
        news, gone = self._session.next(
            {(topic, at): (offset, most) for topic, parts in self._topics for at, offset, most in parts}
        )
        self._topics = _by_topic((topic, (at, *each)) for (topic, at), each in news.items())
        struct = super().build(request_struct_class)
        struct.session_id, struct.session_epoch = self._session.id, self._session.epoch
        struct.forgotten_topics_data = _by_topic(gone)
        return struct


def _by_topic(pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, list[Any]]]:
    grouped: dict[str, list[Any]] = {}
    for topic, each in pairs:
        grouped.setdefault(topic, []).append(each)
    return list(grouped.items())
