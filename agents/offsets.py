"""Where partitions are read on, and which of their offsets may be committed. Nothing is skipped by either.

An offset is always that of the next record to read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

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
    """Committable offsets of the partitions owned: everything below the first batch that is not done."""

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

    def begin(self, at: TopicPartition, start: int, end: int) -> Span:
        """Note that all records from `start` to below `end` are begun.

        ValueError when that is not where the batch before ended: a batch was lost or repeated on its way here.
        """
        if start != self._next[at] or end <= start:
            raise ValueError(f"records {start} to {end} were to be begun, expected them to start at {self._next[at]}")
        span = Span(end)
        self._spans[at].append(span)
        self._next[at] = end
        return span

    def shorten(self, at: TopicPartition, span: Span, end: int) -> None:
        """Note that of the batch begun last only the records below `end` are begun after all."""
        if at in self._next and self._next[at] == span.end:
            span.end = self._next[at] = end

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


class Positions:
    """Where each partition is to be read on. A fetched batch that may not be delivered is fetched again."""

    def __init__(self) -> None:
        self.opening = 0
        """Counts the times reading began; what was fetched under an earlier count is not delivered."""
        self._next: dict[TopicPartition, int] = {}
        self._behind: set[TopicPartition] = set()

    def open(self, start: Mapping[TopicPartition, int]) -> None:
        """Read these partitions, from these offsets on; the fetches stand there."""
        self.opening += 1
        self._next = dict(start)
        self._behind = set()

    def close(self) -> None:
        """Deliver nothing until reading begins again."""
        self._next = {}

    def admit(self, at: TopicPartition, records: Sequence[Any], opening: int) -> Sequence[Any]:
        """What of a fetched batch is to be delivered: what was not before. `opening`: as the fetch began.

        Call `advance` once it is.
        """
        if opening != self.opening or at not in self._next:
            self._behind.add(at)
            return ()
        if records[0].offset < self._next[at]:
            records = [record for record in records if record.offset >= self._next[at]]
        return records

    def advance(self, at: TopicPartition, end: int) -> int:
        """Note that everything below `end` is delivered; returns from where on."""
        start, self._next[at] = self._next[at], end
        return start

    def delivered(self, at: TopicPartition) -> int | None:
        """Below which offset everything is delivered; None when something fetched was not and is fetched again."""
        return None if at in self._behind else self._next.get(at)

    def refuse(self, at: TopicPartition) -> None:
        """Note that a fetched batch is not delivered."""
        self._behind.add(at)

    def to_seek(self) -> dict[TopicPartition, int]:
        """Partitions whose fetches ran ahead of what was delivered, and where they must go back to; once."""
        behind, self._behind = self._behind, set()
        return {at: self._next[at] for at in behind if at in self._next}
