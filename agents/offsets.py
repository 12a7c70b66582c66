"""Which offsets may be committed: everything below the first batch that is not done, per topic and partition."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:

    class TopicPartition(NamedTuple):
        """One partition of one topic, by its full name: aiokafka's type, which comes without annotations."""

        topic: str
        partition: int
else:
    from aiokafka import TopicPartition


class Span:
    """One batch on its way: offsets below `end` are covered once it and all batches before it are done."""

    __slots__ = ("done", "end")

    def __init__(self, end: int) -> None:
        self.end = end
        self.done = False


class Offsets:
    """Committable offsets of the partitions owned. An offset is always that of the next record to read."""

    def __init__(self) -> None:
        self._spans: dict[TopicPartition, deque[Span]] = {}
        self._next: dict[TopicPartition, int] = {}
        self._done: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}

    def open(self, start: Mapping[TopicPartition, int]) -> None:
        """Begin to track partitions that are read from these offsets on; forgets what was known about them."""
        for at, offset in start.items():
            self._spans[at] = deque()
            self._next[at] = self._done[at] = self._committed[at] = offset

    def close(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget partitions; batches of theirs that finish later change nothing."""
        for at in partitions:
            self._spans.pop(at, None)
            for offsets in (self._next, self._done, self._committed):
                offsets.pop(at, None)

    def next_offset(self, at: TopicPartition) -> int:
        """Offset of the first record not yet begun. KeyError when the partition is not open."""
        return self._next[at]

    def begin(self, at: TopicPartition, end: int) -> Span:
        """Note that all records below `end` are begun. ValueError when some of them were begun before."""
        if end <= self._next[at]:
            raise ValueError(f"{at.topic}[{at.partition}]: offset {end} follows {self._next[at]}; expected later")
        span = Span(end)
        self._spans[at].append(span)
        self._next[at] = end
        return span

    def finish(self, at: TopicPartition, span: Span) -> None:
        """Note that a batch is done; what is committable advances only when all batches before it are too."""
        span.done = True
        spans = self._spans.get(at)
        while spans and spans[0].done:
            self._done[at] = spans.popleft().end

    def opened(self) -> list[TopicPartition]:
        """The partitions tracked."""
        return list(self._next)

    def pending(self) -> int:
        """Batches begun and not covered yet."""
        return sum(map(len, self._spans.values()))

    def committable(self) -> dict[TopicPartition, int]:
        """What to commit: partitions where something is done that was not committed yet."""
        return {at: done for at, done in self._done.items() if done > self._committed[at]}

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Note what the broker has confirmed as committed."""
        for at, offset in offsets.items():
            if at in self._committed:
                self._committed[at] = max(offset, self._committed[at])

    def committed(self, at: TopicPartition) -> int:
        """The offset committed last. KeyError when the partition is not open."""
        return self._committed[at]
