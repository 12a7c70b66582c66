"""A small engine for the worker's tests: counts what each key sent, once, and answers every record with its id.

It keeps the promises the worker asks of an engine: what was counted is remembered in the table, a record that is
read again changes nothing and is answered with the same bytes. Run as a script, it is a worker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import msgspec

from agents.partitions import Engine
from agents.tables import TableSpec
from engine.record import Effects, Output, Record

FATAL = b"fatal"
"""Value of a record that the handler cannot survive."""


class Counter(msgspec.Struct):
    """What one key sent. `seen`: offset per topic partition, so that nothing counts twice. `due_ms`: see `wake`."""

    count: int = 0
    ticks: int = 0
    seen: dict[str, int] = {}
    due_ms: int | None = None


class CountingState(msgspec.Struct):
    """State of one partition."""

    profiles: MutableMapping[str, Counter]
    committed: Mapping[str, int]


def handle(record: Record, state: CountingState) -> Effects:
    """Count a record. A value `wake:<ms>` has its key woken then; one without key or text is rejected."""
    effects = Effects()
    try:
        key, value = (record.key or b"").decode(), (record.value or b"").decode()
    except UnicodeDecodeError:
        key, value = "", ""
    if not key:
        effects.outputs.append(Output("rejects", record.key, record.value or b""))
        effects.count("rejects", record.topic, "malformed")
        return effects
    if record.value == FATAL:
        raise RuntimeError("the handler cannot survive this")
    counter = state.profiles.get(key) or Counter()
    source = f"{record.topic}/{record.partition}"
    if record.offset > counter.seen.get(source, -1):
        counter.seen[source] = record.offset
        _count(counter, record, value)
        state.profiles[key] = counter
    if counter.due_ms is not None:
        effects.timers.append((key, counter.due_ms))
    effects.count("signals", "track", "applied")
    decision = f"{source}@{record.offset}:{value}".encode()
    effects.outputs.append(Output("decisions", record.key, decision))
    return effects


def _count(counter: Counter, record: Record, value: str) -> None:
    if record.topic == "customers":
        counter.ticks += 1
        counter.due_ms = None
        return
    counter.count += 1
    if value.startswith("wake:"):
        counter.due_ms = int(value.removeprefix("wake:"))


def due_of(stored: bytes) -> int | None:
    """When an encoded counter's key is to be woken."""
    return decode(stored).due_ms


decode = msgspec.msgpack.Decoder(Counter).decode
TABLES = (TableSpec("profiles", "profiles", msgspec.msgpack.Encoder().encode, decode, due=due_of),)


def counting_engine(**changes: Any) -> Engine:
    """The engine, with parts exchanged where a test needs others."""
    return Engine(handle, CountingState, TABLES)._replace(**changes)


if __name__ == "__main__":
    from agents.settings import read_settings
    from agents.worker import run_worker

    create = "--only-existing-topics" not in sys.argv
    sys.exit(run_worker(read_settings(os.environ), counting_engine(), create_topics=create))
