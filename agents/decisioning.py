"""The engine as the worker runs it: one configuration, one scorer, and the tables a partition keeps."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping
from time import perf_counter

import msgspec

from agents.partitions import Engine
from agents.tables import Table, TableSpec
from engine.apprentice import Apprentice
from engine.budgets import Spending
from engine.delivery import resume
from engine.identity import BUDGET, Identity
from engine.pipeline import handle
from engine.profile import Profile, Timer, decode_profile, encode_profile
from engine.record import Effects, Record
from engine.repertoire import Repertoire
from engine.scoring import Scorer


class PartitionState(msgspec.Struct):
    """What one partition remembers, in its tables; see `engine.pipeline.State`."""

    profiles: Table[Profile]
    identities: Table[Identity]
    budgets: Table[Spending]
    committed: Mapping[str, int]
    moved: deque[tuple[int, str]] = msgspec.field(default_factory=deque)


class _Waiting(msgspec.Struct):
    """The parts of a stored profile that say when its customer is to be woken."""

    timers: list[Timer] = []
    closes_ms: int | None = None


_stored = msgspec.msgpack.Decoder(tuple[int, _Waiting])


def due_ms(profile: bytes) -> int | None:
    """When the customer of an encoded profile is to be woken, epoch milliseconds; None when nothing waits."""
    waiting = _stored.decode(profile)[1]
    due = [each.at_ms for each in waiting.timers]
    return min(due if waiting.closes_ms is None else [*due, waiting.closes_ms], default=None)


TABLES = (
    TableSpec("profiles", "profiles", encode_profile, decode_profile, due=due_ms),
    TableSpec("identities", "identities", msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Identity).decode),
    TableSpec(
        "budgets",
        "identities",
        msgspec.msgpack.Encoder().encode,
        msgspec.msgpack.Decoder(Spending).decode,
        prefix=f"{BUDGET}:",
    ),
)


MEASURED = 64
"""One record in so many has the stages of its handling measured."""


def engine_of(repertoire: Repertoire, scorer: Scorer, apprentice: Apprentice | None = None) -> Engine:
    """What a worker runs for a configuration, with another one beside it that is only asked."""
    countdown = itertools.cycle(range(MEASURED))

    def handle_record(record: Record, state: PartitionState) -> Effects:
        if next(countdown):
            return handle(record, state, repertoire, scorer, apprentice=apprentice)
        laps: list[tuple[str, float]] = []
        effects = handle(record, state, repertoire, scorer, stopwatch(laps), apprentice=apprentice)
        effects.laps = laps
        return effects

    return Engine(handle_record, PartitionState, TABLES, resume)


def stopwatch(laps: list[tuple[str, float]]) -> Callable[[str], None]:
    """Notes for each stage, when told that it ends, the seconds since the one before it ended."""
    started = perf_counter()

    def lap(stage: str) -> None:
        nonlocal started
        ended = perf_counter()
        laps.append((stage, ended - started))
        started = ended

    return lap
