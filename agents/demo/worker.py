"""The demo's worker: the one users run, living on a fast clock.

A journey that waits an hour, or a cap of two e-mails a week, cannot be watched in two minutes. So in the demo a
second lasts as long as `FastClock.speed` seconds of the shop. Time is an argument of the engine, and this is where it
is given another: `fast_engine` translates the broker's timestamps on the way in, and on the way out due times and the
times of examples. All else (Kafka, the worker, its timers, its metrics, the learner) keeps real time, and latencies
are measured in it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from agents import topics
from agents.decisioning import engine_of
from agents.learner_process import run_learner
from agents.partitions import Engine
from agents.settings import Settings
from agents.tables import TableSpec
from agents.worker import Learning, run_worker
from config import load_directory
from engine import learning
from engine.record import Effects, Output, Record
from engine.repertoire import Repertoire
from models.scorer import ModelScorer

LEARNER = "learner"
"""The second argument of a process that is to learn; without it, it decides and has a learner beside it."""


class FastClock(msgspec.Struct, frozen=True):
    """The shop's time, `speed` times as fast as real time: at `real_ms` it was `shop_ms` (epoch milliseconds)."""

    real_ms: int
    shop_ms: int
    speed: int

    def shop(self, real_ms: float) -> int:
        """The shop's time at a real time."""
        return self.shop_ms + int((real_ms - self.real_ms) * self.speed)

    def real(self, shop_ms: int) -> int:
        """The first real millisecond at which the shop's time is reached."""
        return self.real_ms - (self.shop_ms - shop_ms) // self.speed


class Assignment(msgspec.Struct, frozen=True):
    """All that a demo's worker and its learner are told, as JSON in their first argument."""

    settings: Settings
    config_dir: str
    clock: FastClock


def fast_engine(engine: Engine, clock: FastClock) -> Engine:
    """The same engine, living on a fast clock while whoever calls it keeps real time."""

    def handle(record: Record, state: object) -> Effects:
        effects = engine.handle(_dated(record, clock.shop(record.timestamp_ms)), state)
        effects.timers = [(customer, clock.real(due_ms)) for customer, due_ms in effects.timers]
        effects.outputs = [_real(output, clock) for output in effects.outputs]
        return effects

    return engine._replace(handle=handle, tables=[_real_due(each, clock) for each in engine.tables])


def _dated(record: Record, timestamp_ms: int) -> Record:
    return Record(record.topic, record.partition, record.offset, timestamp_ms, record.key, record.value, record.headers)


def _real(output: Output, clock: FastClock) -> Output:
    if output.topic == learning.TOPIC:
        return _real_example(output, clock)
    if output.timestamp_ms is None:
        return output
    return msgspec.structs.replace(output, timestamp_ms=clock.real(output.timestamp_ms))


def _real_example(output: Output, clock: FastClock) -> Output:
    """An example in real time, which its learner lives in; a window of hours is one of seconds there."""
    example = learning.decode_example(output.value)
    decided_ms = clock.real(example.decided_ms)
    closes_ms = clock.real(example.decided_ms + example.window_ms)
    at_ms, window_ms = clock.real(example.at_ms), closes_ms - decided_ms
    dated = msgspec.structs.replace(example, decided_ms=decided_ms, at_ms=at_ms, window_ms=window_ms)
    return learning.outputs_of([dated])[0]


def _real_due(table: TableSpec, clock: FastClock) -> TableSpec:
    due = table.due
    if due is None:
        return table

    def real_due(value: bytes) -> int | None:
        due_ms = due(value)
        return None if due_ms is None else clock.real(due_ms)

    return table._replace(due=real_due)


def topics_of(repertoire: Repertoire) -> tuple[topics.Topic, ...]:
    """The topics a configuration needs."""
    return topics.needed(channel.id for channel in repertoire.channels.values() if channel.topic)


def main(argument: str, role: str = "") -> int:
    """Run the worker of an `Assignment`, or its learner; returns its exit code."""
    assignment = msgspec.json.decode(argument, type=Assignment)
    settings = assignment.settings
    repertoire = load_directory(Path(assignment.config_dir))
    repertoire = msgspec.structs.replace(repertoire, prefix=settings.prefix)
    if role == LEARNER:
        return run_learner(settings, repertoire, topics_of(repertoire), lifeline=True)
    scorer = ModelScorer(repertoire)
    engine = fast_engine(engine_of(repertoire, scorer), assignment.clock)
    command = [sys.executable, "-P", "-m", "agents.demo.worker", argument, LEARNER]
    lessons = Learning(repertoire, scorer, command if repertoire.models else ())
    return run_worker(settings, engine, topics_of(repertoire), create_topics=True, learning=lessons)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
