"""The timer wheel of one partition: which customers are to be woken, and when.

The timers of record live in the profiles; this is only their index, rebuilt from the table when the partition
is taken over. It keeps the earliest moment per customer, so it never holds more entries than there are
customers: whoever handles the tick finds all that is due, and reports the next moment.
"""

from __future__ import annotations

import heapq


class Timers:
    """Earliest due moment per customer, epoch milliseconds."""

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._due)

    def schedule(self, customer: str, due_ms: int) -> None:
        """Wake a customer at `due_ms`, unless it is to be woken earlier anyway."""
        known = self._due.get(customer)
        if known is None or due_ms < known:
            self._due[customer] = due_ms
            heapq.heappush(self._heap, (due_ms, customer))

    def next_due(self) -> int | None:
        """When the next customer is to be woken; None when nobody is."""
        self._skip_superseded()
        return self._heap[0][0] if self._heap else None

    def is_due(self, now_ms: float) -> bool:
        """Whether anybody is to be woken by now."""
        due_ms = self.next_due()
        return due_ms is not None and due_ms <= now_ms

    def pop_due(self, now_ms: float, limit: int) -> list[tuple[str, int]]:
        """Take up to `limit` customers that are due, earliest first, each with its moment; they are forgotten here."""
        woken: list[tuple[str, int]] = []
        while len(woken) < limit and self.is_due(now_ms):
            due_ms, customer = heapq.heappop(self._heap)
            del self._due[customer]
            woken.append((customer, due_ms))
        return woken

    def _skip_superseded(self) -> None:
        """Drop heap entries that an earlier moment has replaced."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
