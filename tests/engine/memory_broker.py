"""A broker and its workers in memory: partitions, batches in flight, changelogs that lag, commits, crashes.

Everything a seed can choose is chosen by it: which partition works next, how records of different topics of a
partition interleave, how far changelogs have got, when offsets are committed, and when a worker dies. Per topic
partition, records stay in order; per partition number, outputs leave in the order of the records that caused them.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

import msgspec

from engine.arrival import KIND
from engine.budgets import Spending
from engine.context import Context
from engine.delivery import resume
from engine.identity import Identity
from engine.murmur import partition_of
from engine.pipeline import handle
from engine.profile import Profile, decode_profile, encode_profile
from engine.record import Headers, Output, Record
from engine.repertoire import Candidate, Repertoire
from engine.scoring import Scores

READ = ("signals", "outcomes", "customers", "links")
CHANGELOGS = {"profiles": "profiles", "identities": "identities", "budgets": "identities"}
"""Table → its changelog. Each changelog becomes durable at its own pace."""

_encode = msgspec.msgpack.encode
_CODECS: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    "profiles": (encode_profile, decode_profile),
    "identities": (_encode, msgspec.msgpack.Decoder(Identity).decode),
    "budgets": (_encode, msgspec.msgpack.Decoder(Spending).decode),
}
MAX_IN_FLIGHT = 3
Change = tuple[str, str, bytes | None]


class Stored(MutableMapping[str, Any]):
    """A table of encoded values, decoded on first touch. What was changed in place and not put back is a bug."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.encoded: dict[str, bytes] = {}
        self._decoded: dict[str, Any] = {}
        self._changed: dict[str, None] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._decoded:
            self._decoded[key] = _CODECS[self.name][1](self.encoded[key])
        return self._decoded[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._decoded[key] = value
        self._changed[key] = None
        self.encoded.setdefault(key, b"")

    def __delitem__(self, key: str) -> None:
        del self.encoded[key]
        self._decoded.pop(key, None)
        self._changed[key] = None

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.encoded))

    def __len__(self) -> int:
        return len(self.encoded)

    def flush(self) -> list[Change]:
        """The changes since the last time; forgets what is decoded, so that every batch begins with bytes."""
        encode, _ = _CODECS[self.name]
        changes: list[Change] = []
        for key, value in self._decoded.items():
            if key not in self._changed:
                assert encode(value) == self.encoded[key], f"{self.name} {key} was changed and not put back"
        for key in self._changed:
            value = encode(self._decoded[key]) if key in self._decoded else None
            changes.append((self.name, key, value))
            if value is not None:
                self.encoded[key] = value
        self._changed.clear()
        self._decoded.clear()
        return changes


class Work(msgspec.Struct):
    """A batch on its way. `needs`: changelog → length at which its state is durable."""

    needs: dict[str, int]
    outputs: list[Output]
    positions: dict[str, int]


class Worker:
    """Who works on one partition number. `state` is what a crash takes away."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.changelogs: dict[str, list[Change]] = {"profiles": [], "identities": []}
        self.durable = dict.fromkeys(self.changelogs, 0)
        self.committed = dict.fromkeys(READ, 0)
        self.restore()

    def restore(self) -> list[Output]:
        """Rebuild everything from the changelogs and the committed offsets; returns what has to be sent first."""
        self.tables = {name: Stored(name) for name in CHANGELOGS}
        for table, key, value in (change for log in self.changelogs.values() for change in log):
            if value is None:
                self.tables[table].encoded.pop(key, None)
            else:
                self.tables[table].encoded[key] = value
        self.profiles: MutableMapping[str, Profile] = self.tables["profiles"]
        self.identities: MutableMapping[str, Identity] = self.tables["identities"]
        self.budgets: MutableMapping[str, Spending] = self.tables["budgets"]
        self.moved: deque[tuple[int, str]] = deque()
        self.positions = dict(self.committed)
        self.in_flight: deque[Work] = deque()
        self.released = dict(self.committed)
        self.timers = {key: min(t.at_ms for t in each.timers) for key, each in self.profiles.items() if each.timers}
        return resume(self)

    def due(self, now_ms: int) -> list[str]:
        """Customers to be woken."""
        return [key for key, due_ms in self.timers.items() if due_ms <= now_ms]


class Versions:
    """A scorer that says which version it is: after each crash it is a newer one, as a restarted worker's may be."""

    def __init__(self) -> None:
        self.version = 0

    def score(self, candidates: Sequence[Candidate], context: Context, profile: Profile, draw: int = 0) -> Scores:  # noqa: ARG002 - the port's signature
        """The same for everything."""
        return Scores([0.5] * len(candidates), {"versions": str(self.version)})


class Broker:
    """Topics, and one worker per partition. `crashes`: how many of its steps end in one; `answers`: click on decisions.

    `outputs`: everything that left the engine for the outside, in order, repetitions included.
    """

    def __init__(self, repertoire: Repertoire, seed: int, crashes: float = 0.0, *, answers: bool = False) -> None:
        self.repertoire = repertoire
        self._scorer = Versions()
        self._random = random.Random(seed)
        self._crashes = crashes
        self._answers = answers
        self._seen: set[str] = set()
        self.crashed = 0
        self.now_ms = 0
        self.logs: dict[tuple[str, int], list[Output]] = defaultdict(list)
        self.outputs: list[Output] = []
        self.counts: dict[tuple[str, ...], int] = defaultdict(int)
        self.workers = [Worker(number) for number in range(repertoire.partitions)]

    def publish(
        self,
        topic: str,
        key: str | None,
        value: bytes,
        timestamp_ms: int,
        headers: Headers = (),
        partition: int | None = None,
    ) -> None:
        """Append a record; without a partition, to the one that owns its key."""
        self.now_ms = max(self.now_ms, timestamp_ms)
        encoded = None if key is None else key.encode()
        self._append(Output(topic, encoded, value, headers, self.now_ms), partition)

    def _append(self, output: Output, partition: int | None = None) -> None:
        if output.topic not in READ:
            self.outputs.append(output)
            if output.topic == "decisions" and self._answers:
                self._answer(json.loads(output.value))
            return
        if partition is None:
            assert output.key is not None
            partition = partition_of(output.key.decode(), self.repertoire.partitions)
        at_ms = self.now_ms if output.timestamp_ms is None else output.timestamp_ms
        self.logs[output.topic, partition].append(msgspec.structs.replace(output, timestamp_ms=at_ms))

    def _answer(self, decision: dict[str, Any]) -> None:
        """A channel reports a click on every decision it gets; it drops the ids it has seen."""
        decision_id, customer = decision["decisionId"], decision["customerId"]
        if decision_id not in self._seen:
            self._seen.add(decision_id)
            click = json.dumps({"decisionId": decision_id, "customerId": customer, "type": "click"})
            self.publish("outcomes", customer, click.encode(), self.now_ms)

    # --- Working ---

    def run(self, steps: int | None = None) -> None:
        """Take so many steps, or as many as it takes until nothing is left to do."""
        while steps is None or steps > 0:
            busy = [each for each in self.workers if each.in_flight or self._pending(each)]
            if not busy:
                return
            self._step(self._random.choice(busy))
            steps = None if steps is None else steps - 1

    def _pending(self, worker: Worker) -> list[str]:
        return [topic for topic in READ if worker.positions[topic] < len(self.logs[topic, worker.number])]

    def _step(self, worker: Worker) -> None:
        if self._random.random() < self._crashes:
            self._crash(worker)
            return
        if self._pending(worker) and len(worker.in_flight) < MAX_IN_FLIGHT and self._random.random() < 0.5:
            self._handle_batch(worker)
        for log, changes in worker.changelogs.items():
            worker.durable[log] = self._random.randint(worker.durable[log], len(changes))
        if worker.in_flight and self._random.random() < 0.5:
            self._release(worker)
        if self._random.random() < 0.3:
            worker.committed = dict(worker.released)

    def _handle_batch(self, worker: Worker) -> None:
        outputs: list[Output] = []
        topic = self._random.choice(self._pending(worker))
        log = self.logs[topic, worker.number]
        for _ in range(min(self._random.randint(1, 4), len(log) - worker.positions[topic])):
            offset = worker.positions[topic]
            worker.positions[topic] += 1
            each = log[offset]
            assert each.timestamp_ms is not None
            record = Record(topic, worker.number, offset, each.timestamp_ms, each.key, each.value, each.headers)
            effects = handle(record, worker, self.repertoire, self._scorer)
            outputs += effects.outputs
            for customer, due_ms in effects.timers:
                worker.timers[customer] = min(due_ms, worker.timers.get(customer, due_ms))
            for count, times in effects.counts.items():
                self.counts[count] += times
        for table in worker.tables.values():
            worker.changelogs[CHANGELOGS[table.name]] += table.flush()
        needs = {name: len(changes) for name, changes in worker.changelogs.items()}
        worker.in_flight.append(Work(needs, outputs, dict(worker.positions)))

    def _release(self, worker: Worker) -> None:
        """Send the oldest batch's outputs, if what it changed is durable."""
        work = worker.in_flight[0]
        if all(worker.durable[log] >= needed for log, needed in work.needs.items()):
            worker.in_flight.popleft()
            for output in work.outputs:
                self._append(output)
            worker.released = work.positions

    def _crash(self, worker: Worker) -> None:
        """Lose what is only in memory. Some of what was on its way arrived all the same."""
        self.crashed += 1
        self._scorer.version += 1
        if worker.in_flight and all(worker.durable[log] >= n for log, n in worker.in_flight[0].needs.items()):
            outputs = worker.in_flight[0].outputs
            for output in outputs[: self._random.randint(0, len(outputs))]:
                self._append(output)
        for log, changes in worker.changelogs.items():
            worker.durable[log] = self._random.randint(worker.durable[log], len(changes))
            del changes[worker.durable[log] :]
        for output in worker.restore():
            self._append(output)

    def advance(self, now_ms: int) -> None:
        """Let time pass, wake whoever is due, and work until nothing is left."""
        self.run()
        self.now_ms = max(self.now_ms, now_ms)
        while woken := [
            (worker, key) for worker in self.workers for key, due in worker.timers.items() if due <= now_ms
        ]:
            for worker, key in woken:
                del worker.timers[key]
                self._append(Output("customers", key.encode(), b"", ((KIND, b"tick"),), now_ms), worker.number)
            self.run()

    # --- Looking at the result ---

    def resolve(self, key: str) -> str:
        """The canonical customer id a key leads to."""
        passed: list[str] = []
        while True:
            assert key not in passed, f"redirects form a circle: {passed}"
            passed.append(key)
            redirect = self.workers[partition_of(key, self.repertoire.partitions)].identities.get(key)
            if redirect is None:
                return key
            key = redirect.canonical

    def customers(self) -> dict[str, Profile]:
        """Every canonical customer's profile."""
        return {
            key: profile
            for worker in self.workers
            for key, profile in worker.profiles.items()
            if key not in worker.identities
        }
