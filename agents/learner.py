"""What one partition of `batuta.learning` teaches, and when its models are published. No I/O: see `learner_process`.

Each example is learned once, because a model's state and the offset up to which it has learned are one record: a
learner that takes over goes back to the smallest such offset among its models and skips, model by model, what their
states include. What upstream wrote twice, the model knows by the example's id.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from math import inf
from time import perf_counter
from typing import Any, NamedTuple

import msgspec

from agents.model_topic import (
    Found,
    Report,
    Standing,
    TrainingState,
    decode_state,
    encode_state,
    report_key,
    state_key,
)
from agents.settings import Settings
from agents.topics import MAX_RECORD_BYTES
from engine.learning import Example, decode_example
from engine.record import Output, Record
from engine.rejects import Reject, reject_output
from engine.repertoire import ModelRule, Repertoire
from models.health import Health
from models.model import Model
from models.registry import new
from models.snapshot import Refusal, encode

log = logging.getLogger("batuta")

STATE_LIMIT_BYTES = MAX_RECORD_BYTES - 65_536
STATE_BYTES_PER_SECOND = 100_000
"""Large states are kept less often: every worker's network sees them go by."""
IDLE_STATE_SECONDS = 60.0
"""Time after which the mere offset of a model is kept anew, so that its successor need not read far back."""
OTHER = "other"
"""Label of what is for no model of this configuration."""


class Pupil:
    """One model being taught, with what is published of it.

    `standing`: of what is published next, but for its offset. `start`: offset up to which its state went.
    `served`: offset up to which workers have it; nothing older is published.
    """

    def __init__(self, model: Model, standing: Standing, served: int) -> None:
        self.model = model
        self.standing = standing
        self.start = standing.offset
        self.served = served
        self.learned = False
        """Whether there is something its last state lacks."""
        self.kept = standing.offset
        self.snapshot_due = -inf
        self.state_due = -inf

    def includes(self, position: int) -> int:
        """Offset below which everything is learned when the partition is read up to `position`."""
        return max(self.start, position)


class Share:
    """The models of one partition, and their lessons.

    `position`: offset to read from. `results`: (model, result) → how often, since it was taken.
    """

    def __init__(
        self, partition: int, pupils: Mapping[str, Pupil], position: int, settings: Settings, *, now: float = 0.0
    ) -> None:
        self.partition = partition
        self.pupils = dict(pupils)
        self.position = position
        self.results: dict[tuple[str, str], int] = {}
        self._settings = settings
        self._topic = f"{settings.prefix}learning"
        self._key = settings.model_key.encode() or None
        self._rejects: list[Output] = []
        self._said: set[tuple[str, str]] = set()
        self._reported: dict[tuple[str, str], int] = {}
        self._report_due = now
        for pupil in self.pupils.values():
            pupil.state_due = now + settings.state_interval_seconds

    # --- Learning ---

    def learn(self, records: deque[Any], seconds: float = inf) -> None:
        """Learn from records, taking them off the left, for about so many seconds."""
        end = perf_counter() + seconds
        while records:
            self._learn(records.popleft())
            if perf_counter() > end:
                return

    def _learn(self, record: Any) -> None:
        if record.offset < self.position:
            return
        self.position = record.offset + 1
        example = _example_in(record)
        if isinstance(example, str):
            self._reject(record, example)
            return
        pupil = self.pupils.get(example.model)
        if pupil is None:
            self._note(OTHER, "unknown-model", f"{example.model!r} at offset {record.offset}")
        elif record.offset >= pupil.start:
            result = pupil.model.learn(example)
            pupil.learned = pupil.learned or result == "learned"
            self._note(example.model, result, f"{example.example_id!r} at offset {record.offset}")
            _tell(pupil.model)

    def _note(self, model: str, result: str, where: str) -> None:
        """Count a result; the first of each kind that is not the usual one is logged."""
        self.results[model, result] = self.results.get((model, result), 0) + 1
        if result not in {"learned", "repeated"} and (model, result) not in self._said:
            self._said.add((model, result))
            log.warning("Learning, model %s: %s: %s; more of the same is only counted", model, result, where)

    def _reject(self, record: Any, sentence: str) -> None:
        self._note(OTHER, "malformed", f"{self._topic}[{self.partition}] at offset {record.offset}: {sentence}")
        received = Record("learning", self.partition, record.offset, record.timestamp, record.key, record.value)
        self._rejects.append(reject_output(received, Reject("malformed", sentence), self._topic))

    # --- Publishing ---

    def wait_seconds(self, now: float) -> float:
        """How long nothing more becomes due than is due already; infinite when there is nothing to publish."""
        dues = [pupil.snapshot_due for pupil in self.pupils.values() if pupil.model.changed]
        dues += [pupil.state_due for pupil in self.pupils.values() if pupil.learned]
        return max(0.0, min(dues, default=inf) - now)

    def due(self, now: float, now_ms: int, *, final: bool = False) -> list[Output]:
        """What is to be published at this moment (monotonic, and epoch ms), and counts as published from here on.

        `final`: whatever there is, since the partition is being given up.
        """
        outputs, self._rejects = self._rejects, []
        for name, pupil in self.pupils.items():
            if pupil.model.changed and (final or now >= pupil.snapshot_due):
                outputs += self._snapshot(name, pupil, now, now_ms)
            if self._is_to_keep(pupil, now, final=final):
                outputs += self._state(name, pupil, now)
        if self.results != self._reported and (final or now >= self._report_due):
            self._report_due = now + self._settings.state_interval_seconds
            outputs.append(self._report(now_ms))
        return outputs

    def _snapshot(self, name: str, pupil: Pupil, now: float, now_ms: int) -> list[Output]:
        """The model for the workers, unless it is still catching up with what they have."""
        pupil.snapshot_due = now + self._settings.snapshot_interval_ms / 1000
        standing = pupil.standing._replace(offset=pupil.includes(self.position))
        if standing.offset < pupil.served:
            return []
        snapshot = msgspec.structs.replace(pupil.model.snapshot(now_ms), health=_numbers(pupil.model.health))
        value = encode(snapshot, self._key)
        if self._is_too_large(name, "snapshot", value, self._settings.snapshot_bytes):
            return []
        return [Output("models", name.encode(), value, standing.headers())]

    def _is_to_keep(self, pupil: Pupil, now: float, *, final: bool) -> bool:
        moved = pupil.includes(self.position) > pupil.kept
        if final:
            return pupil.learned or moved
        return (pupil.learned and now >= pupil.state_due) or (moved and now >= pupil.state_due + IDLE_STATE_SECONDS)

    def _state(self, name: str, pupil: Pupil, now: float) -> list[Output]:
        standing = pupil.standing._replace(offset=pupil.includes(self.position))
        pupil.learned, pupil.kept = False, standing.offset
        value = encode_state(TrainingState(name, self.partition, standing.offset, pupil.model.dump()), self._key)
        pupil.state_due = now + max(self._settings.state_interval_seconds, len(value) / STATE_BYTES_PER_SECOND)
        if self._is_too_large(name, "state", value, STATE_LIMIT_BYTES):
            return []
        return [Output("models", state_key(name), value, standing.headers())]

    def _is_too_large(self, name: str, what: str, value: bytes, limit: int) -> bool:
        if len(value) <= limit:
            return False
        self._note(name, f"{what}-too-large", f"{len(value)} bytes, at most {limit} are published")
        return True

    def _report(self, now_ms: int) -> Output:
        self._reported = dict(self.results)
        results: dict[str, dict[str, int]] = {}
        for (model, result), count in self.results.items():
            results.setdefault(model, {})[result] = count
        report = Report(self.partition, now_ms, results)
        return Output("models", report_key(self.partition), msgspec.json.encode(report))


def _example_in(record: Any) -> Example | str:
    """The example in a record, or why there is none."""
    try:
        example = decode_example(record.value or b"")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return f"not an example: {error}"
    if record.key != example.model.encode():
        return f"the key is not the example's model, {example.model!r}"
    return example


def _numbers(health: Health) -> dict[str, float]:
    """The health of a model, as it travels with its snapshots: what is known of it, by the names of the metrics."""
    numbers = health.numbers
    known = {
        "logloss": numbers.logloss,
        "base_logloss": numbers.base_logloss,
        "auc": numbers.auc,
        "calibration_error": numbers.calibration_error,
        "drift": float(health.drift),
    }
    return {name: value for name, value in known.items() if value is not None}


def _tell(model: Model) -> None:
    """Log what happened to a model: drift, the breaker, promotions with their evidence."""
    for event in model.events():
        log.warning("Learning: %s", event)


# --- Taking over ---


class Extent(NamedTuple):
    """Where a partition of the log begins, and where it ends."""

    first: int
    end: int


def take_up(
    rule: ModelRule,
    repertoire: Repertoire,
    found: Found,
    partition: int,
    extent: Extent,
    generation: int,
    key: bytes | None,
) -> Pupil:
    """A model as its last learner left it, or as it was made when there is nothing to go on from.

    What cannot be used is logged; its examples are then learned again, as far back as the log goes.
    """
    model = Model(rule, repertoire.features, repertoire.action_features, repertoire.seed)
    start = extent.first
    if found.state is not None:
        went = _load(model, found.state, partition, extent, key)
        if isinstance(went, str):
            log.warning("Model %s: its state is not used (%s); it learns what the log still has", rule.id, went)
        elif went < start:
            log.warning(
                "Model %s missed up to %d examples: they were deleted before they were learned", rule.id, start - went
            )
        else:
            start = went
    _tell(model)
    return Pupil(model, Standing(found.epoch + 1, generation, start), min(found.snapshot_standing.offset, extent.end))


def _load(model: Model, sealed: bytes, partition: int, extent: Extent, key: bytes | None) -> int | str:
    """Load a state; the offset up to which it went, or why it is not used and nothing is done."""
    name, limit = model.rule.id, MAX_RECORD_BYTES
    state = decode_state(sealed, key, name, partition, pickled=model.pickled, limit_bytes=limit)
    if isinstance(state, Refusal):
        return f"{state.code}: {state.reason}"
    if state.offset > extent.end:
        return f"it goes to offset {state.offset} and the log ends at {extent.end}: the topic was created anew"
    try:
        model.load(state.dump)
    except ValueError as error:
        return str(error)
    return state.offset


def unusable(repertoire: Repertoire, key: bytes | None) -> list[str]:
    """What keeps the configured learners from being run, one sentence each; empty when nothing does."""
    slots, action_slots = repertoire.features.slots, repertoire.action_features.slots
    faults, pickled = [], set()
    for rule in repertoire.models:
        for name, each in rule.learners.items():
            try:
                if new(each.kind, slots, action_slots, repertoire.seed, each.parameters).pickled:
                    pickled.add(each.kind)
            except (ValueError, TypeError) as error:
                faults.append(f"model {rule.id}: learner {name}: {error}")
    if pickled and key is None:
        named = ", ".join(sorted(pickled))
        faults.append(f"learners {named} are published as pickles: set BATUTA_MODEL_KEY, the same for all processes")
    return faults
