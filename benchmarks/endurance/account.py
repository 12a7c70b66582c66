"""The account: every numbered signal and what came of it, from the topics alone. Pure, and as large as the customers.

Nobody is killed here, so nothing may come twice: of each customer the decisions must carry the numbers 1, 2, 3 … in
the order of their partition, and the final profile must have counted each once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from benchmarks.chaos.notes import Counted, Progress
from benchmarks.endurance.numbered import named_in, signal_id

_RECENT = 100_000
"""Decisions whose content is remembered. What comes again later than that counts as conflicting."""
_SHOWN = 3


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the signals.

    `undecided`: signals without a decision. `repeated`: decisions that came again as they were. `conflicting`:
    decisions under another id or with other content for the same signal. `disordered`: decisions of a customer after
    one of a later signal. `unasked`: decisions that no numbered signal asked for. `unapplied`, `reapplied`: signals
    that final profiles miss, or count too often. `uncommitted`: records not committed; `rejected`: among the rejects.
    """

    signals: int
    undecided: int
    repeated: int
    conflicting: int
    disordered: int
    unasked: int
    unapplied: int
    reapplied: int
    uncommitted: int
    rejected: int
    samples: tuple[str, ...] = ()

    @property
    def lost(self) -> int:
        """Signals without the effect they should have had."""
        return self.undecided + self.unapplied + self.uncommitted + self.rejected

    @property
    def twice(self) -> int:
        """Effects that there were more than once."""
        return self.repeated + self.reapplied

    @property
    def contradicted(self) -> int:
        """Decisions that should not be there as they are."""
        return self.conflicting + self.unasked

    @property
    def faults(self) -> str | None:
        """What is wrong, in words; None when nothing is."""
        names = [name for name in self.__struct_fields__ if name not in ("signals", "samples")]
        wrong = [f"{count} {name}" for name in names if (count := getattr(self, name))]
        if not wrong:
            return None
        return f"of {self.signals} signals: {', '.join(wrong)} ({'; '.join(self.samples)})"


class _Head(msgspec.Struct, rename="camel"):
    """What identifies a decision."""

    decision_id: str
    signal_id: str
    customer_id: str


_head = msgspec.json.Decoder(_Head)


class Account:
    """Takes decisions as they are read, those of a customer in their order, and says at the end what is wrong.

    `decisions`: how many it took. Which of them are missing is all it remembers, so it may run for days.
    """

    def __init__(self) -> None:
        self.decisions = 0
        self._last: dict[str, int] = {}
        self._missing: dict[str, set[int]] = {}
        self._recent: dict[str, bytes] = {}
        self._counts = dict.fromkeys(("repeated", "conflicting", "disordered", "unasked"), 0)
        self._samples: list[str] = []

    def take(self, value: bytes) -> None:
        """Take a decision of the topic, in the order of its partition."""
        head = _head.decode(value)
        customer, number = named_in(head.signal_id)
        self.decisions += 1
        if not number or customer != head.customer_id:
            self._note("unasked", head.signal_id)
            return
        last = self._last.get(customer, 0)
        if number > last:
            self._last[customer] = number
            if number > last + 1:
                self._missing.setdefault(customer, set()).update(range(last + 1, number))
        elif number in self._missing.get(customer, ()):
            self._missing[customer].discard(number)
            self._note("disordered", head.signal_id)
        else:
            same = self._recent.get(head.signal_id) == _digest(value)
            self._note("repeated" if same else "conflicting", head.signal_id)
            return
        self._recent[head.signal_id] = _digest(value)
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]

    def close(
        self,
        said: Mapping[str, int],
        profiles: Mapping[str, Counted],
        progress: Iterable[Progress],
        rejected: int,
    ) -> Verdict:
        """The verdict. `said`: how many signals each customer gave; `profiles`: the final ones."""
        unapplied = reapplied = undecided = 0
        for customer in {*said, *profiles, *self._last}:
            given = said.get(customer, 0)
            undecided += self._undecided(customer, given)
            less, more = _difference(profiles.get(customer, Counted(0, 0, [])), given)
            unapplied, reapplied = unapplied + less, reapplied + more
            if less or more:
                self._show(f"{customer} counts other signals than its {given}")
        uncommitted = sum(max(0, each.end - each.committed) for each in progress)
        return Verdict(
            signals=sum(said.values()),
            undecided=undecided,
            **self._counts,
            unapplied=unapplied,
            reapplied=reapplied,
            uncommitted=uncommitted,
            rejected=rejected,
            samples=tuple(self._samples),
        )

    def _undecided(self, customer: str, given: int) -> int:
        missing = self._missing.get(customer, set()) | {*range(self._last.get(customer, 0) + 1, given + 1)}
        if missing:
            self._show(f"no decision on {signal_id(customer, min(missing))}")
        return len(missing)

    def _note(self, what: str, signal: str) -> None:
        self._counts[what] += 1
        self._show(f"{what}: {signal}")

    def _show(self, sentence: str) -> None:
        if len(self._samples) < _SHOWN:
            self._samples.append(sentence)


def _difference(found: Counted, given: int) -> tuple[int, int]:
    """Signals missed and counted too often, at the least; as many with another sum are one of each."""
    if found.signals == given:
        wrong = int(found.total != given * (given + 1) // 2)
        return wrong, wrong
    return max(0, given - found.signals), max(0, found.signals - given)


def _digest(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=16).digest()
