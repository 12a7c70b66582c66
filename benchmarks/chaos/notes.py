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


class Reported(msgspec.Struct, frozen=True, array_like=True):
    """An outcome the broker accepted. `value`: what it brought, 0 when it says only that something was delivered."""

    outcome_id: str
    decision_id: str
    value: float


class Reports(msgspec.Struct, frozen=True):
    """All a channel said. `poison`: what nobody can use; `duplicates`: how many outcomes it said again."""

    outcomes: list[Reported]
    poison: list[Sent]
    duplicates: int


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


class Taught(msgspec.Struct, frozen=True, array_like=True):
    """An example as it was read from the learners' log, in which it stands at `offset`. `digest`: of all its bytes."""

    at: float
    offset: int
    model: str
    example_id: str
    decision_id: str
    reward: float
    digest: bytes


class Version(msgspec.Struct, frozen=True, array_like=True):
    """A version of a model as it was read. All of the learners' log below `offset` is in it."""

    at: float
    offset: int
    model: str


class Learned(msgspec.Struct, frozen=True, array_like=True):
    """What the final state of a model says it has learned: how many examples, and the digest of their ids in order."""

    examples: int
    history: bytes


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

    `overruled`: records of changelogs that do not count, because a later owner had written before them. `taught`,
    `versions` and `learned` (by model) are of scenarios with learners. `ahead`, `behind`: the most seconds by which the
    clock of whoever wrote a decision differed from the reader's; what waited to be read adds to `behind`. `early`: the
    most seconds by which a decision was dated after the moment it was read.
    """

    decisions: list[Decided]
    rejects: list[Rejected]
    profiles: dict[str, Counted]
    redirects: dict[str, str]
    progress: list[Progress]
    overruled: int = 0
    taught: list[Taught] = []
    versions: list[Version] = []
    learned: dict[str, Learned] = {}
    ahead: float = 0.0
    behind: float = 0.0
    early: float = 0.0


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
