"""What stands on `batuta.models`: serving snapshots, training states and the learners' reports, and which one counts.

| key | value | for |
|---|---|---|
| `<model>` | a sealed `models.snapshot.Snapshot` | every worker |
| `<model>#state` | a sealed `TrainingState` | the next learner of the model |
| `#report/<partition>` | a `Report`, JSON | the metrics of every worker |

Records of a model carry their `Standing` in their headers: who wrote them, and how much of `batuta.learning` they
include. Readers keep the highest one. A learner that lost its partition and does not know it yet has a lower one than
its successor, which took an epoch above all it found there, or, when it found the same, has a later generation of
the group. That is enough, and nothing has to be claimed or locked:

* A model is a function of the examples it learned, in the order of the log, so a state that such a learner leaves is
  valid, only older. Should compaction keep it in place of a newer one, whoever loads it learns the rest again.
* Workers that are running never go back; one that starts then serves the older snapshot until the next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer

from agents.journal import EPOCH_HEADER
from agents.offsets import TopicPartition
from models.snapshot import Refusal, seal, unseal

STATE = "#state"
REPORT = "#report/"
GENERATION_HEADER = "batuta-generation"
OFFSET_HEADER = "batuta-offset"
_POLL_MS = 200
_POLL_RECORDS = 5_000


class Standing(NamedTuple):
    """Which of two records of a model counts: the higher one. `offset`: all below it is learned."""

    epoch: int = 0
    generation: int = 0
    offset: int = 0

    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """As record headers."""
        names = (EPOCH_HEADER, GENERATION_HEADER, OFFSET_HEADER)
        return tuple((name, b"%d" % value) for name, value in zip(names, self, strict=True))


def standing_of(headers: Iterable[tuple[str, bytes]]) -> Standing:
    """The standing of a record; what it does not say, or not as a number, counts as 0."""
    said = dict(headers)
    return Standing(*(_number(said.get(name)) for name in (EPOCH_HEADER, GENERATION_HEADER, OFFSET_HEADER)))


def _number(text: bytes | None) -> int:
    return int(text) if text is not None and len(text) < 20 and text.isdigit() else 0


class TrainingState(msgspec.Struct, frozen=True):
    """All a learner has to know to go on. `offset`: of `batuta.learning`; all below it is in `dump` (`Model.dump`)."""

    model: str
    partition: int
    offset: int
    dump: bytes


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """What a learner did with one partition since it took it: model → result → how often."""

    partition: int
    at_ms: int
    results: Mapping[str, Mapping[str, int]]


_states = msgspec.msgpack.Decoder(TrainingState)
_reports = msgspec.json.Decoder(Report)


def state_key(model: str) -> bytes:
    """Key of a model's training state."""
    return f"{model}{STATE}".encode()


def encode_state(state: TrainingState, key: bytes | None) -> bytes:
    """The value of a `#state` record, sealed with the deployment's key."""
    return seal(msgspec.msgpack.encode(state), key)


def decode_state(
    sealed: bytes, key: bytes | None, model: str, partition: int, *, pickled: bool, limit_bytes: int
) -> TrainingState | Refusal:
    """The state in a `#state` record of this model, or why it is not used; never an exception.

    `pickled`: a learner of the model keeps pickles in it, which need a signature.
    """
    body = unseal(sealed, key, pickled=pickled, limit_bytes=limit_bytes)
    if isinstance(body, Refusal):
        return body
    try:
        state = _states.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return Refusal("malformed", f"not a training state: {error}")
    if (state.model, state.partition) != (model, partition):
        found, expected = f"{state.model}, partition {state.partition}", f"{model}, partition {partition}"
        return Refusal("malformed", f"the state of {found}, expected of {expected}")
    return state


def report_key(partition: int) -> bytes:
    """Key of the report on one partition of `batuta.learning`."""
    return f"{REPORT}{partition}".encode()


def decode_report(value: bytes | None) -> Report | None:
    """A report; None for what is none."""
    try:
        return _reports.decode(value or b"")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


# --- Reading it back ---


class Found(NamedTuple):
    """What the topic holds of a model: its state that counts most, and the highest standing of either kind."""

    state: bytes | None = None
    state_standing: Standing = Standing()
    snapshot_standing: Standing = Standing()

    @property
    def epoch(self) -> int:
        """The highest epoch anybody wrote under."""
        return max(self.state_standing.epoch, self.snapshot_standing.epoch)


class Shelf:
    """The states of some models, kept up by reading on to the end of the topic whenever asked."""

    def __init__(self, models: Collection[str]) -> None:
        self._found = dict.fromkeys(models, Found())
        self._states = {state_key(model): model for model in models}
        self._snapshots = {model.encode(): model for model in models}

    def __getitem__(self, model: str) -> Found:
        return self._found[model]

    def put(self, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> None:
        """Note one record, in the order of the log; the later of two with equal standing counts."""
        if key in self._snapshots:
            model, standing = self._snapshots[key], standing_of(headers)
            if standing > self._found[model].snapshot_standing:
                self._found[model] = self._found[model]._replace(snapshot_standing=standing)
        elif key in self._states and value is not None:
            model, standing = self._states[key], standing_of(headers)
            if standing >= self._found[model].state_standing:
                self._found[model] = self._found[model]._replace(state=value, state_standing=standing)

    async def read_on(self, consumer: Any) -> None:
        """Read to the end there is by now. `consumer`: started, without a group, assigned to the topic."""
        async for records in batches_to_end(consumer):
            for record in records:
                self.put(record.key, record.value, record.headers)


async def open_topic(bootstrap: str, name: str) -> Any:
    """A started consumer without a group at the beginning of the topic, which has one partition. KafkaError."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([TopicPartition(name, 0)])
    return consumer


async def batches_to_end(consumer: Any) -> AsyncIterator[Sequence[Any]]:
    """The records from where a consumer stands to the end there is by now, and what arrives with them."""
    (at,) = consumer.assignment()
    end = (await consumer.end_offsets([at]))[at]
    while await consumer.position(at) < end:
        yield (await consumer.getmany(at, timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)).get(at, ())
