"""Tally: every signal's decision, counted by id from the topic alone."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

import msgspec


class Tally(msgspec.Struct, frozen=True):
    """How the decisions on a topic answer the signals that ask for exactly one each.

    `lost`: signals without a decision. `repeated`: decisions that came again as they were, which at least once
    allows. `changed`: ids that came again with other content. `conflicting`: signals answered under several ids.
    `unasked`: decisions on signals that asked for none.
    """

    signals: int
    lost: int
    repeated: int
    changed: int
    conflicting: int
    unasked: int

    @property
    def faults(self) -> str | None:
        """What is wrong, in words; None when every signal has one decision of one content."""
        wrong = {name: getattr(self, name) for name in ("lost", "changed", "conflicting", "unasked")}
        named = [f"{count} {name}" for name, count in wrong.items() if count]
        return f"of {self.signals} signals' decisions: {', '.join(named)}" if named else None


class _Head(msgspec.Struct, rename="camel"):
    """What identifies a decision."""

    decision_id: str
    signal_id: str


_head = msgspec.json.Decoder(_Head)


def signal_of(decision: bytes) -> str:
    """The id of the signal that a decision answers."""
    return _head.decode(decision).signal_id


def tally(signals: Collection[str], decisions: Iterable[bytes]) -> Tally:
    """Compare the ids of signals that ask for a decision with the values read from the topic of decisions."""
    contents: dict[str, dict[str, set[bytes]]] = {}
    repeated = 0
    for value in decisions:
        head = _head.decode(value)
        seen = contents.setdefault(head.signal_id, {}).setdefault(head.decision_id, set())
        content = hashlib.blake2b(value, digest_size=16).digest()
        repeated += content in seen
        seen.add(content)
    asked = frozenset(signals)
    answered = contents.keys()
    return Tally(
        signals=len(asked),
        lost=len(asked - answered),
        repeated=repeated,
        changed=sum(len(each) > 1 for ids in contents.values() for each in ids.values()),
        conflicting=sum(len(ids) > 1 for ids in contents.values()),
        unasked=len(answered - asked),
    )
