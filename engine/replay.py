"""Replay: the whole engine in one process, with queues for topics and stream time for the clock.

What Kafka and the worker do between records, without them: partitions, offsets, redelivery to the owner of a
key, timers. Same input, configuration and seed → the same outputs, byte for byte.
"""

from __future__ import annotations

import heapq
from collections import deque

from engine.apprentice import Apprentice
from engine.arrival import KIND
from engine.delivery import forget_moved
from engine.funnel import Chooser
from engine.identity import identifiers_of
from engine.murmur import partition_of
from engine.pipeline import handle
from engine.record import Effects, Headers, Output, Record
from engine.rejects import Reject
from engine.repertoire import Repertoire
from engine.scoring import Scorer
from engine.signal import decode_signal
from engine.state import MemoryState

_INTERNAL = frozenset({"customers", "links"})


class Replay:
    """An engine with all its partitions. Feed it in the order of time; it answers with what it would publish."""

    def __init__(
        self,
        repertoire: Repertoire,
        scorer: Scorer,
        *,
        chooser: Chooser | None = None,
        apprentice: Apprentice | None = None,
    ) -> None:
        self._repertoire = repertoire
        self._scorer = scorer
        self._chooser, self._apprentice = chooser, apprentice
        self.partitions = [MemoryState() for _ in range(repertoire.partitions)]
        self._offsets: dict[tuple[str, int], int] = {}
        self._timers: list[tuple[int, str]] = []
        self.now_ms = 0
        self.counts: dict[tuple[str, ...], int] = {}

    def signal(self, value: bytes, timestamp_ms: int, headers: Headers = ()) -> list[Output]:
        """Publish one signal, keyed by its strongest identifier; returns what follows from it."""
        probe = Record("signals", 0, 0, timestamp_ms, None, value, headers)
        decoded = decode_signal(probe, "", self._repertoire.max_future_ms)
        named = [] if isinstance(decoded, Reject) else identifiers_of(decoded, self._repertoire.identity)
        return self.publish("signals", named[0].key if named else None, value, timestamp_ms, headers)

    def publish(
        self, topic: str, key: str | None, value: bytes, timestamp_ms: int, headers: Headers = ()
    ) -> list[Output]:
        """Publish a record of `signals` or `outcomes`; time, and with it every timer due, comes first."""
        outputs = self.advance(timestamp_ms)
        outputs += self._run(Output(topic, None if key is None else key.encode(), value, headers, self.now_ms))
        return outputs

    def advance(self, now_ms: int) -> list[Output]:
        """Let time pass; returns what the timers that fell due made the engine publish."""
        self.now_ms = max(self.now_ms, now_ms)
        outputs: list[Output] = []
        while self._timers and self._timers[0][0] <= self.now_ms:
            due_ms, customer = heapq.heappop(self._timers)
            tick = Output("customers", customer.encode(), b"", ((KIND, b"tick"),), due_ms)
            outputs += self._run(tick)
        return outputs

    def _run(self, first: Output) -> list[Output]:
        """Handle a record and everything it sends to the engine itself; returns what goes outside."""
        outside: list[Output] = []
        queue = deque([first])
        while queue:
            effects = self._handle(queue.popleft())
            for customer, due_ms in effects.timers:
                heapq.heappush(self._timers, (due_ms, customer))
            for output in effects.outputs:
                (queue if output.topic in _INTERNAL else outside).append(output)
        return outside

    def _handle(self, written: Output) -> Effects:
        key = None if written.key is None else written.key.decode()
        partition = 0 if key is None else partition_of(key, self._repertoire.partitions)
        offset = self._offsets.get((written.topic, partition), 0)
        self._offsets[written.topic, partition] = offset + 1
        at_ms = self.now_ms if written.timestamp_ms is None else written.timestamp_ms
        record = Record(written.topic, partition, offset, at_ms, written.key, written.value, written.headers)
        state = self.partitions[partition]
        effects = handle(
            record, state, self._repertoire, self._scorer, chooser=self._chooser, apprentice=self._apprentice
        )
        state.committed[written.topic] = offset + 1
        forget_moved(state)
        for count, times in effects.counts.items():
            self.counts[count] = self.counts.get(count, 0) + times
        return effects
