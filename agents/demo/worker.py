"""The demo's worker: the one users run, living on a fast clock.

A journey that waits an hour, or a cap of two e-mails a week, cannot be watched in two minutes. So in the demo a
second lasts as long as `FastClock.speed` seconds of the shop. Time is an argument of the engine, and this is where
it is given another: `fast_engine` translates the broker's timestamps on the way in and due times on the way out.
All else (Kafka, the worker, its timers, its metrics) keeps real time, and latencies are measured in it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from agents import topics
from agents.decisioning import engine_of
from agents.partitions import Engine
from agents.settings import Settings
from agents.tables import TableSpec
from agents.worker import run_worker
from config import load_directory
from engine.record import Effects, Output, Record
from engine.repertoire import Repertoire
from models.baseline import PriorScorer


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
    """All that a demo's worker is told, as JSON in its one argument."""

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
    if output.timestamp_ms is None:
        return output
    return msgspec.structs.replace(output, timestamp_ms=clock.real(output.timestamp_ms))


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


def main(argument: str) -> int:
    """Run the worker of an `Assignment`; returns its exit code."""
    assignment = msgspec.json.decode(argument, type=Assignment)
    repertoire = load_directory(Path(assignment.config_dir))
    repertoire = msgspec.structs.replace(repertoire, prefix=assignment.settings.prefix)
    engine = fast_engine(engine_of(repertoire, PriorScorer(repertoire)), assignment.clock)
    return run_worker(assignment.settings, engine, topics_of(repertoire), create_topics=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
