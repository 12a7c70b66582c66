"""Recorded decisions, outcomes and signals: what `batuta evaluate` and `batuta compare` read."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from agents.replay_files import Line, line_ms
from engine.arbitration import Scored
from engine.choice import Options
from engine.decision import Decision
from engine.funnel import Funnel
from engine.outcomes import POSITIVE
from engine.record import Output
from engine.repertoire import Repertoire
from engine.replay import Replay
from models.rehearsal import Rehearsal
from models.scorer import ModelScorer

Reward = Literal["taken", "value"]
Progress = Callable[[int], None]
"""Told of the bytes of each line that was played."""


class Log(NamedTuple):
    """What was recorded. `decisions`: by id. `unreadable`: lines that are none of the three."""

    decisions: Mapping[str, Decision]
    signals: Sequence[Line]
    outcomes: Sequence[Line]
    unreadable: int


class _Shape(msgspec.Struct, rename="camel"):
    decision_id: Any = None
    decided_at: Any = None
    type: Any = None
    message_id: Any = None


class _Answer(msgspec.Struct, rename="camel"):
    decision_id: str
    type: str
    value: float | None = None


_shape = msgspec.json.Decoder(_Shape)
_decision = msgspec.json.Decoder(Decision)
_answer = msgspec.json.Decoder(_Answer)


def read_log(paths: Iterable[Path]) -> Log:
    """Read JSONL files of decisions, outcomes and signals, in any mixture; each line is told by its fields.

    What is none of them is counted, and among signals played as one all the same: those without a `messageId` are
    named by their position.
    """
    decisions: dict[str, Decision] = {}
    lines: dict[str, list[Line]] = {"signals": [], "outcomes": []}
    unreadable = 0
    for path in paths:
        previous: str | None = None
        with path.open("rb") as file:
            for number, line in enumerate(file):
                value = line.strip()
                if not value:
                    continue
                topic = _topic_of(value)
                unreadable += topic is None
                previous = topic = previous if topic is None and previous == "signals" else topic
                if topic == "decisions":
                    decision = _decision.decode(value)
                    decisions.setdefault(decision.decision_id, decision)
                elif topic is not None:
                    known = lines[topic]
                    known.append(Line(line_ms(value, known[-1].timestamp_ms if known else 0), topic, number, value))
    return Log(decisions, lines["signals"], lines["outcomes"], unreadable)


def _topic_of(value: bytes) -> str | None:
    try:
        shape = _shape.decode(value)
        if shape.decided_at is not None:
            _decision.decode(value)
            return "decisions"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if shape.decision_id is not None:
        return "outcomes"
    return "signals" if shape.type is not None else None


def rewards_of(log: Log, reward: Reward) -> dict[str, float]:
    """What each decision brought: 1 for any positive outcome, or the sum of the positive outcomes' values."""
    rewards: dict[str, float] = {}
    for line in log.outcomes:
        try:
            answer = _answer.decode(line.value)
        except msgspec.DecodeError:
            continue
        if answer.type in POSITIVE:
            earned = 1.0 if reward == "taken" else (answer.value or 0.0)
            known = rewards.get(answer.decision_id, 0.0)
            rewards[answer.decision_id] = 1.0 if reward == "taken" else known + earned
    return rewards


def play(replay: Replay, rehearsal: Rehearsal, lines: Iterable[Line], on_line: Progress) -> Iterator[Output]:
    """Play recorded lines in the order of their time; the models learn as it goes."""
    for line in lines:
        if line.topic == "signals":
            outputs = replay.signal(line.value, line.timestamp_ms)
        else:
            outputs = replay.publish("outcomes", None, line.value, line.timestamp_ms)
        rehearsal.take(outputs)
        on_line(len(line.value) + 1)
        yield from outputs


def in_order(log: Log) -> Iterator[Line]:
    """Signals and outcomes by their time."""
    return heapq.merge(
        sorted(log.signals, key=lambda each: each.timestamp_ms),
        sorted(log.outcomes, key=lambda each: each.timestamp_ms),
        key=lambda each: (each.timestamp_ms, each.topic == "outcomes"),
    )


class Met(NamedTuple):
    """What a configuration says to a logged decision. `targets`: its chance of each treatment, `features`: if read."""

    targets: Mapping[str, float]
    features: tuple[float, ...] | None


class Follower:
    """Plays a log through a configuration: it is asked what it would do, and what the log says is what happens."""

    def __init__(self, decisions: Mapping[str, Decision]) -> None:
        self._decisions = decisions
        self.met: dict[str, Met] = {}
        self.unlogged = 0
        """Decisions it would have made where the log has none."""

    def choose(self, decision: str, options: Options, funnel: Funnel) -> Scored | None:
        """What the log says, also where the configuration would not have it."""
        logged = self._decisions.get(decision)
        if logged is None:
            self.unlogged += bool(options.scored)
            return None
        if logged.treatment is None or logged.control:
            return None
        pairs = zip(options.scored, options.overall, strict=True)
        targets = {each.candidate.treatment.id: chance for each, chance in pairs}
        self.met[decision] = Met(targets, _features(funnel))
        return next(
            (each for each in options.scored if each.candidate.treatment.id == logged.treatment),
            _as_logged(logged, funnel.repertoire),
        )

    def follow(self, repertoire: Repertoire, log: Log, on_line: Progress = lambda _: None) -> dict[str, float]:
        """The configuration's chance of what was chosen, by decision id, over all arms of its experiments."""
        scorer = ModelScorer(repertoire)
        replay = Replay(repertoire, scorer, chooser=self.choose)
        followed: dict[str, float] = {}
        for output in play(replay, Rehearsal(repertoire, scorer), in_order(log), on_line):
            if output.topic == "decisions":
                made = _decision.decode(output.value)
                if made.treatment is not None:
                    followed[made.decision_id] = made.probability
        return followed


def _as_logged(logged: Decision, repertoire: Repertoire) -> Scored | None:
    found = (each for each in repertoire.candidates if each.treatment.id == logged.treatment)
    candidate = next(found, None)
    return None if candidate is None else Scored(candidate, 0.0, 1.0, 0.0, 1.0, 0.0)


def _features(funnel: Funnel) -> tuple[float, ...] | None:
    schema, values = funnel.repertoire.features, funnel.scores.features
    return tuple(schema.vector(values).tolist()) if values and schema.features else None
