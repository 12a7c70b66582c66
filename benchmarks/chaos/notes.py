"""What the processes of a scenario note down for the verdict. Moments are monotonic seconds, in all of them alike."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

import msgspec

Kind = Literal["signal", "duplicate", "poison"]


class Sent(msgspec.Struct, frozen=True, array_like=True):
    """A message the broker accepted. `at`: when it was due; `key`: by what its customer was known then.

    `joins`: the anonymous key that a login says belongs to `key`. `topic`, `partition` and `offset`: where it is.
    """

    kind: Kind
    message_id: str
    number: int
    key: str
    joins: str
    at: float
    topic: str
    partition: int
    offset: int


class Decided(msgspec.Struct, frozen=True, array_like=True):
    """A decision as it was read. `seen`: the counter of its customer when it was made, as its content says.

    `at`: when it was read; `decided_ms`: when it was made, by its own words; `digest`: of all its bytes.
    """

    partition: int
    at: float
    decision_id: str
    signal_id: str
    customer_id: str
    trigger: str
    action: str | None
    seen: str
    decided_ms: int
    digest: bytes


class Rejected(msgspec.Struct, frozen=True, array_like=True):
    """A reject as it was read, with the place of the message it is about."""

    topic: str
    partition: int
    offset: int
    digest: bytes


class Counted(msgspec.Struct, frozen=True, array_like=True):
    """What a final profile says was applied: how many signals, the sum of their numbers, and whom it took over."""

    signals: int
    total: int
    merged: list[str]


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """How far the group is with one partition it reads."""

    topic: str
    partition: int
    committed: int
    end: int


class Evidence(msgspec.Struct, frozen=True):
    """All that came out. `profiles`: by canonical customer id; `redirects`: identifier → whom it leads to.

    `overruled`: records of changelogs that do not count, because a later owner had written before them.
    """

    decisions: list[Decided]
    rejects: list[Rejected]
    profiles: dict[str, Counted]
    redirects: dict[str, str]
    progress: list[Progress]
    overruled: int = 0


class Injection(msgspec.Struct, frozen=True):
    """One fault. `until`: when it was over; `partitions`: whose work it interrupted."""

    fault: str
    at: float
    until: float
    partitions: list[int]


_Noted = TypeVar("_Noted")


def write(path: Path, noted: object) -> None:
    """Write what was noted; whoever finds the file finds it whole."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(msgspec.msgpack.encode(noted))
    unfinished.rename(path)


def read(path: Path, kind: type[_Noted]) -> _Noted:
    """Read what another process noted."""
    return msgspec.msgpack.decode(path.read_bytes(), type=kind)
