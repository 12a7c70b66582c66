"""Recorded signals and outcomes in files, played through the engine in process: what `batuta replay` does."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import msgspec

from engine.calendar import parse_rfc3339_ms
from engine.record import Output
from engine.repertoire import Repertoire
from engine.replay import Replay
from models.rehearsal import Rehearsal
from models.scorer import ModelScorer


class Line(NamedTuple):
    """One recorded message. `timestamp_ms`: when it is played, never before the one above it."""

    timestamp_ms: int
    topic: str
    number: int
    value: bytes


class Totals(NamedTuple):
    """What a replay read and wrote."""

    signals: int
    outcomes: int
    decisions: int
    rejects: int


def lines_of(source: BinaryIO, topic: str) -> Iterator[Line]:
    """The messages of a JSONL file in their order, each at its own `timestamp` or that of the one before."""
    clock_ms = 0
    for number, line in enumerate(source):
        value = line.rstrip(b"\r\n")
        if value:
            clock_ms = line_ms(value, clock_ms)
            yield Line(clock_ms, topic, number, value)


def line_ms(value: bytes, before_ms: int) -> int:
    """When a line is played: at its `timestamp`, but not before the one above it."""
    return max(before_ms, _timestamp_ms(value) or before_ms)


class _Timed(msgspec.Struct):
    timestamp: Any = None


_timed = msgspec.json.Decoder(_Timed)


def _timestamp_ms(value: bytes) -> int | None:
    try:
        return parse_rfc3339_ms(_timed.decode(value).timestamp)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, ValueError, RecursionError):
        return None


def replay(
    repertoire: Repertoire,
    signals: BinaryIO,
    outcomes: BinaryIO | None,
    decisions: BinaryIO | None,
    rejects: BinaryIO | None,
    on_line: Callable[[Line], None] = lambda _: None,
) -> Totals:
    """Play signals and outcomes in the order of their time and write decisions and rejects as they come.

    The same input, configuration and seed give the same bytes. Models begin untrained and learn as it goes.
    `on_line` is called after each line played.
    """
    scorer = ModelScorer(repertoire, repertoire.seed)
    engine, rehearsal = Replay(repertoire, scorer), Rehearsal(repertoire, scorer, repertoire.seed)
    files = {"decisions": decisions, "rejects": rejects}
    read = {"signals": 0, "outcomes": 0}
    written = {"decisions": 0, "rejects": 0}
    sources = [lines_of(signals, "signals"), lines_of(outcomes, "outcomes") if outcomes is not None else iter(())]
    for line in heapq.merge(*sources, key=lambda line: (line.timestamp_ms, line.topic == "outcomes", line.number)):
        read[line.topic] += 1
        outputs = _play(engine, line)
        rehearsal.take(outputs)
        for output in outputs:
            if output.topic in written:
                written[output.topic] += 1
                _write(files[output.topic], output)
        on_line(line)
    return Totals(read["signals"], read["outcomes"], written["decisions"], written["rejects"])


def _play(engine: Replay, line: Line) -> list[Output]:
    if line.topic == "signals":
        return engine.signal(line.value, line.timestamp_ms)
    return engine.publish("outcomes", None, line.value, line.timestamp_ms)


def _write(file: BinaryIO | None, output: Output) -> None:
    if file is not None:
        file.write(output.value + b"\n")
