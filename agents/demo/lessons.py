"""What the demo sees of learning: examples on `batuta.learning`, versions on `batuta.models`, and the time between."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any

from agents.demo.tally import Latencies, shorten
from agents.model_topic import standing_of
from engine.learning import decode_example
from models.snapshot import Refusal, Snapshot, decode


class Lessons:
    """The newest version of each model, and how long it takes from an outcome to a version that has learned from it.

    That time is what an outsider sees: from just before an outcome is handed to its producer until a version is read
    that includes its example. All in seconds of a clock that only goes forward.
    """

    def __init__(self, models: Collection[str], key: bytes | None = None) -> None:
        """`key`: the deployment's, which versions are signed with when there is one."""
        self.snapshots: dict[str, Snapshot] = {}
        self.latencies = Latencies()
        self._key = key
        self._names = {each.encode(): each for each in models}
        self._learned = dict.fromkeys(models, 0)
        self._sent: dict[str, float] = {}
        self._waiting: dict[str, deque[tuple[int, float]]] = {each: deque() for each in models}

    def send_outcome(self, decision_id: str, now: float) -> None:
        """An outcome of a decision is about to be published."""
        self._sent[decision_id] = now
        shorten(self._sent)

    def read_example(self, offset: int, value: bytes, now: float) -> None:
        """An example was read at an offset of its partition; one that answers an outcome waits for its version."""
        example = decode_example(value)
        sent = self._sent.get(example.decision_id)
        if example.stage == "answered" and sent is not None and example.model in self._waiting:
            self._waiting[example.model].append((offset, sent))
            self._observe(example.model, now)

    def read_version(self, record: Any, now: float) -> None:
        """A record of `batuta.models` was read; what is no serving version is passed over."""
        model = self._names.get(record.key)
        if model is None or record.value is None:
            return
        snapshot = decode(record.value, self._key)
        if not isinstance(snapshot, Refusal):
            self.snapshots[model] = snapshot
            self._learned[model] = standing_of(record.headers).offset
            self._observe(model, now)

    def _observe(self, model: str, now: float) -> None:
        """Everything below an offset is learned."""
        waiting = self._waiting[model]
        while waiting and waiting[0][0] < self._learned[model]:
            self.latencies.observe(now - waiting.popleft()[1])
