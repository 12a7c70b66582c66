"""The reader, a process of its own: every output by librdkafka, until SIGTERM; then it reads to the end and notes it.

    python -m benchmarks.chaos.reader PLAN.json

Decisions and rejects are read as they come, so that the moment they are there is known. The changelogs are read once
everything stands still, from the beginning, as whoever takes a partition over reads them.
"""

from __future__ import annotations

import hashlib
import signal
import sys
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from time import monotonic, time
from typing import cast

import msgspec
from confluent_kafka import Message

from agents import topics
from agents.journal import EPOCH_HEADER
from agents.model_topic import Found, Shelf, TrainingState, standing_of
from benchmarks.chaos import notes
from benchmarks.chaos.crowd import SEEN, TOTAL
from benchmarks.chaos.following import Following, asker, progress
from benchmarks.chaos.notes import Counted, Decided, Evidence, Learned, Rejected, Taught, Version
from benchmarks.chaos.verdict import Latest
from config import load_directory
from engine import aggregates
from engine.calendar import parse_rfc3339_ms
from engine.identity import BUDGET, Identity
from engine.profile import decode_profile
from engine.repertoire import Repertoire
from models.snapshot import unseal


class Plan(msgspec.Struct, frozen=True):
    """What is read: the topics of the configuration in `config`, and the offsets of its `group`."""

    bootstrap: str
    config: str
    group: str
    notes: str


class _Decision(msgspec.Struct, rename="camel"):
    """What of a decision the verdict looks at."""

    decision_id: str
    customer_id: str
    signal_id: str
    trigger: str
    action: str | None
    content: dict[str, str] | None
    decided_at: str


class _Reject(msgspec.Struct):
    """Where the message was that a reject is about."""

    topic: str
    partition: int
    offset: int


class _Example(msgspec.Struct, rename="camel"):
    """What of an example the verdict looks at."""

    model: str
    example_id: str
    decision_id: str
    reward: float


class _State(msgspec.Struct):
    """What of a model's state the verdict looks at."""

    examples: int
    history: bytes


_decision = msgspec.json.Decoder(_Decision)
_example = msgspec.json.Decoder(_Example)
_training = msgspec.msgpack.Decoder(TrainingState)
_state = msgspec.msgpack.Decoder(_State)
_reject = msgspec.json.Decoder(_Reject)
_identity = msgspec.msgpack.Decoder(Identity)


class Reader:
    """Reads the outputs of one engine."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._repertoire: Repertoire = load_directory(Path(plan.config))
        self._decisions: list[Decided] = []
        self._rejects: list[Rejected] = []
        self._taught: list[Taught] = []
        self._versions: list[Version] = []
        self._overruled = 0
        self._ahead = self._behind = self._early = 0.0

    def run(self, stop: threading.Event) -> None:
        """Read until told to stop and everything there is by then is read; note it."""
        learns = [rule.id for rule in self._repertoire.models]
        with self._following("decisions", "rejects", *(("learning", "models") if learns else ())) as outputs:
            while not stop.is_set():
                self._take(outputs.come())
            self._take(outputs.rest())
        profiles, redirects = self._last_values("profiles"), self._last_values("identities")
        evidence = Evidence(
            self._decisions,
            self._rejects,
            {key.decode(): counted(value, self._repertoire) for key, value in profiles.items() if key not in redirects},
            {
                key.decode(): _identity.decode(value).canonical
                for key, value in redirects.items()
                if not key.startswith(f"{BUDGET}:".encode())
            },
            self._progress(),
            self._overruled,
            self._taught,
            self._versions,
            self._learned(learns) if learns else {},
            self._ahead,
            self._behind,
            self._early,
        )
        notes.write(Path(self._plan.notes), evidence)

    def _following(self, *roles: str) -> Following:
        names = [f"{self._repertoire.prefix}{role}" for role in roles]
        return Following(self._plan.bootstrap, self._plan.group, names)

    # --- As they come ---

    def _take(self, messages: Iterable[Message]) -> None:
        for message in messages:
            at, value = monotonic(), message.value() or b""
            role = (message.topic() or "").removeprefix(self._repertoire.prefix)
            if role == "decisions":
                decision = decided(message.partition() or 0, at, value)
                self._note_clocks(message.timestamp()[1] / 1000, decision.decided_ms / 1000)
                self._decisions.append(decision)
            elif role == "rejects":
                self._rejects.append(rejected(value))
            elif role == "learning":
                self._taught.append(taught(message.offset() or 0, at, value))
            elif b"#" not in (message.key() or b""):
                offset = standing_of(_headers(message)).offset
                self._versions.append(Version(at, offset, (message.key() or b"").decode()))

    def _note_clocks(self, published: float, decided: float) -> None:
        """Decisions are published under the clock of their worker, and dated by the clock of their customer."""
        now = time()
        self._ahead, self._behind = max(self._ahead, published - now), max(self._behind, now - published)
        self._early = max(self._early, decided - now)

    # --- At the end ---

    def _last_values(self, role: str) -> dict[bytes, bytes]:
        """The last value of each key of a changelog."""
        latest: dict[int, Latest] = {}
        with self._following(role) as changes:
            for message in changes.rest():
                of = latest.setdefault(message.partition() or 0, Latest())
                of.apply(message.key(), message.value(), _epoch(message))
        self._overruled += sum(each.overruled for each in latest.values())
        return {key: value for each in latest.values() for key, value in each.values.items()}

    def _progress(self) -> list[notes.Progress]:
        with closing(asker(self._plan.bootstrap, self._plan.group)) as consumer:
            return progress(consumer, [f"{self._repertoire.prefix}{role}" for role in topics.READ_IN_BATCHES])

    def _learned(self, models: list[str]) -> dict[str, Learned]:
        """What the states of models say, as the next learner would find them."""
        shelf = Shelf(models)
        with self._following("models") as records:
            for message in records.rest():
                shelf.put(message.key(), message.value(), _headers(message))
        return {model: learned(shelf[model]) for model in models}


def _epoch(message: Message) -> int | None:
    """The epoch of the owner that wrote a record of a changelog."""
    return next((int(value) for name, value in _headers(message) if name == EPOCH_HEADER), None)


def _headers(message: Message) -> list[tuple[str, bytes]]:
    return cast("list[tuple[str, bytes]]", message.headers() or [])


# --- What a record says ---


def decided(partition: int, at: float, value: bytes) -> Decided:
    """What the verdict looks at of a decision, read at a moment."""
    decision = _decision.decode(value)
    return Decided(
        partition,
        at,
        decision.decision_id,
        decision.signal_id,
        decision.customer_id,
        decision.trigger,
        decision.action,
        (decision.content or {}).get(SEEN, ""),
        parse_rfc3339_ms(decision.decided_at),
        _digest(value),
    )


def rejected(value: bytes) -> Rejected:
    """What the verdict looks at of a reject."""
    said = _reject.decode(value)
    return Rejected(said.topic, said.partition, said.offset, _digest(value))


def counted(value: bytes, repertoire: Repertoire) -> Counted:
    """What the verdict looks at of an encoded profile."""
    profile = decode_profile(value)
    found = {
        each.name: aggregates.value(each, profile.aggregates.get(each.name), profile.now_ms)
        for each in repertoire.profile.aggregates
    }
    return Counted(_whole(found[SEEN]), _whole(found[TOTAL]), profile.merged)


def taught(offset: int, at: float, value: bytes) -> Taught:
    """What the verdict looks at of an example, read at a moment."""
    said = _example.decode(value)
    return Taught(at, offset, said.model, said.example_id, said.decision_id, said.reward, _digest(value))


def learned(found: Found) -> Learned:
    """What the state of a model says it has learned: nothing when there is none that can be read."""
    body = b"" if found.state is None else unseal(found.state, None)
    if not isinstance(body, bytes) or not body:
        return Learned(0, b"")
    said = _state.decode(_training.decode(body).dump)
    return Learned(said.examples, said.history)


def _whole(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) else 0


def _digest(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=16).digest()


def main(plan: Path) -> None:
    """Read as the plan of a file says."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    Reader(msgspec.json.decode(plan.read_bytes(), type=Plan)).run(stop)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
