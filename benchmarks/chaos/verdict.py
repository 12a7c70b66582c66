"""The verdict: what was accepted against what came out. Pure; everything it knows stands in its arguments.

What must hold, whatever was done to workers and brokers:

* each signal is counted once in the final profile of its customer, duplicates of it are not;
* each signal has one decision, under one id, with one content; the same bytes again are allowed and counted;
* no customer's counter was ever set back: two decisions at once never say the same number;
* each message nobody can use is among the rejects, with one content;
* no customer got more offers than the limits allow; each login joined its device to its customer;
* everything read is committed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from benchmarks.chaos.notes import Counted, Decided, Evidence, Injection, Rejected, Sent

_SHOWN = 3
_Output = TypeVar("_Output", Decided, Rejected)


class Caps(msgspec.Struct, frozen=True):
    """The limits that hold: at most `burst` decisions of `actions` within `burst_ms`, at most `most` in all.

    `counter`: the trigger whose decisions each say another number.
    """

    actions: tuple[str, ...]
    burst: int
    burst_ms: int
    most: int
    counter: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a scenario's messages.

    `unapplied`, `reapplied`: signals that final profiles miss, or count too often. `undecided`: signals without a
    decision. `rejected`: messages found among the rejects. `redelivered`: decisions and rejects that came again as
    they were. `conflicting`: ids with several contents, signals with several ids, decisions nobody asked for, numbers
    said twice. `unrejected`: messages nobody can use that are not among the rejects. `over_cap`: offers beyond a limit.
    `unjoined`: logins without effect, or merged twice. `uncommitted`: records whose offsets are not committed.
    `doubled`: what was redelivered where everything must come exactly once; else 0.
    `capped`, `joined`: how often a limit held something back, and how many devices were joined: at 0, nothing was
    tested. `overruled`: late writes of workers that had lost their partition, which do not count. `samples`: some of
    what is wrong, in words.
    """

    signals: int
    duplicates: int
    poison: int
    applied: int
    unapplied: int
    reapplied: int
    undecided: int
    rejected: int
    unrejected: int
    redelivered: int
    conflicting: int
    over_cap: int
    unjoined: int
    uncommitted: int
    capped: int
    joined: int
    overruled: int
    doubled: int
    samples: tuple[str, ...]

    @property
    def lost(self) -> int:
        """What was accepted and has not the effect it should have."""
        return self.unapplied + self.undecided + self.unrejected + self.unjoined + self.uncommitted

    @property
    def repeated(self) -> int:
        """What had its effect more than once."""
        return self.reapplied + self.doubled

    @property
    def faults(self) -> str | None:
        """What is wrong, in words; None when nothing is."""
        names = (
            "unapplied", "reapplied", "undecided", "unrejected", "conflicting", "over_cap", "unjoined", "uncommitted",
            "doubled",
        )  # fmt: skip
        wrong = [f"{count} {name}" for name in names if (count := getattr(self, name))]
        return f"{', '.join(wrong)} ({'; '.join(self.samples)})" if wrong else None


def judge(sent: Iterable[Sent], evidence: Evidence, caps: Caps, *, exactly_once: bool = False) -> Verdict:
    """Compare what was accepted with all that came out. `exactly_once`: not even the same bytes may come again."""
    by_kind: dict[str, list[Sent]] = defaultdict(list)
    for each in sent:
        by_kind[each.kind].append(each)
    signals = by_kind["signal"]
    leads_to = {each.joins: each.key for each in signals if each.joins}
    samples: list[str] = []
    applied, unapplied, reapplied = _applied(signals, leads_to, evidence.profiles, samples)
    undecided, conflicting = _decided(signals, evidence.decisions, caps, samples)
    contents = _contents(evidence.rejects, lambda each: (each.topic, each.partition, each.offset))
    asked = {(each.topic, each.partition, each.offset) for each in by_kind["poison"]}
    unrejected, unasked = asked - contents.keys(), contents.keys() - asked
    changed = [place for place, digests in contents.items() if len(set(digests)) > 1]
    _show(samples, "not rejected", unrejected)
    _show(samples, "rejected though nothing was wrong", unasked)
    _show(samples, "rejected with several contents", changed)
    decisions = _contents(evidence.decisions, lambda each: each.decision_id)
    again = _again(contents) + _again(decisions)
    if exactly_once:
        _show(samples, "came again", [each for each, digests in {**contents, **decisions}.items() if len(digests) > 1])
    return Verdict(
        signals=len(signals),
        duplicates=len(by_kind["duplicate"]),
        poison=len(by_kind["poison"]),
        applied=applied,
        unapplied=unapplied,
        reapplied=reapplied,
        undecided=undecided,
        rejected=len(contents.keys() & asked),
        unrejected=len(unrejected),
        redelivered=again,
        conflicting=conflicting + len(unasked) + len(changed),
        over_cap=_over_cap(evidence.decisions, caps, samples),
        unjoined=_unjoined(leads_to, evidence, samples),
        uncommitted=_uncommitted(evidence, samples),
        capped=sum(each.trigger == caps.counter and each.action not in caps.actions for each in evidence.decisions),
        joined=sum(len(each.merged) for each in evidence.profiles.values()),
        overruled=evidence.overruled,
        doubled=again if exactly_once else 0,
        samples=tuple(samples),
    )


# --- Applied once ---


def _applied(
    signals: Iterable[Sent], leads_to: Mapping[str, str], profiles: Mapping[str, Counted], samples: list[str]
) -> tuple[int, int, int]:
    """How many signals the final profiles count, how many they miss, and how many they count too often."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for each in signals:
        numbers[leads_to.get(each.key, each.key)].append(each.number)
    nothing = Counted(0, 0, [])
    applied = missing = excess = 0
    for customer in numbers.keys() | profiles.keys():
        found, expected = profiles.get(customer, nothing), numbers[customer]
        applied += found.signals
        less, more = _difference(found, expected)
        missing, excess = missing + less, excess + more
        if less or more:
            _show(samples, "not as sent", [f"{customer} counts {found.signals} of {len(expected)}"])
    return applied, missing, excess


def _difference(found: Counted, expected: Sequence[int]) -> tuple[int, int]:
    """Signals missed and counted too often, at the least; equally many with another sum are one of each."""
    if found.signals == len(expected):
        wrong = int(found.total != sum(expected))
        return wrong, wrong
    return max(0, len(expected) - found.signals), max(0, found.signals - len(expected))


# --- Decided once ---


def _decided(signals: Iterable[Sent], decisions: Sequence[Decided], caps: Caps, samples: list[str]) -> tuple[int, int]:
    """Signals without a decision, and contradictions among the decisions."""
    asked = {each.message_id for each in signals}
    contents = _contents(decisions, lambda each: each.decision_id)
    ids: dict[str, set[str]] = defaultdict(set)
    said: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in decisions:
        ids[each.signal_id].add(each.decision_id)
        if each.trigger == caps.counter and each.seen:
            said[each.customer_id, each.seen].add(each.decision_id)
    found: dict[str, Collection[object]] = {
        "with several contents": [each for each, digests in contents.items() if len(set(digests)) > 1],
        "answered under several ids": [each for each, several in ids.items() if len(several) > 1],
        "answered though nobody asked": ids.keys() - asked,
        "numbers said twice": [each for each, several in said.items() if len(several) > 1],
    }
    undecided = asked - ids.keys()
    _show(samples, "without a decision", undecided)
    for what, where in found.items():
        _show(samples, what, where)
    return len(undecided), sum(map(len, found.values()))


def _contents(came: Iterable[_Output], identity: Callable[[_Output], Hashable]) -> dict[Hashable, list[bytes]]:
    """The digests that came under each identity."""
    contents: dict[Hashable, list[bytes]] = defaultdict(list)
    for each in came:
        contents[identity(each)].append(each.digest)
    return contents


def _again(contents: Mapping[Hashable, Sequence[bytes]]) -> int:
    """How many came again as they were."""
    return sum(len(each) - len(set(each)) for each in contents.values())


def _over_cap(decisions: Iterable[Decided], caps: Caps, samples: list[str]) -> int:
    """Offers that one of the limits should have held back."""
    times: dict[str, dict[str, int]] = defaultdict(dict)
    for each in decisions:
        if each.action in caps.actions:
            times[each.customer_id][each.decision_id] = each.decided_ms
    beyond = 0
    for customer, by_id in times.items():
        made = sorted(by_id.values())
        pairs = zip(made, made[caps.burst :], strict=False)
        excess = max(sum(late - early <= caps.burst_ms for early, late in pairs), len(made) - caps.most, 0)
        beyond += excess
        if excess:
            _show(samples, "beyond a limit", [f"{customer} at {made}"])
    return beyond


# --- Joined, committed ---


def _unjoined(leads_to: Mapping[str, str], evidence: Evidence, samples: list[str]) -> int:
    """Logins whose device does not lead to its customer, and devices that a profile took over wrongly or twice."""
    astray = [device for device, customer in leads_to.items() if evidence.redirects.get(device) != customer]
    wrong = [
        device
        for customer, profile in evidence.profiles.items()
        for device, times in Counter(profile.merged).items()
        if times > 1 or leads_to.get(device) != customer
    ]
    _show(samples, "not joined as the login says", [*astray, *wrong])
    return len(astray) + len(wrong)


def _uncommitted(evidence: Evidence, samples: list[str]) -> int:
    behind = [each for each in evidence.progress if each.committed < each.end]
    _show(
        samples,
        "not committed",
        [f"{each.topic}[{each.partition}] at {each.committed} of {each.end}" for each in behind],
    )
    return sum(each.end - each.committed for each in behind)


def _show(samples: list[str], what: str, found: Iterable[object]) -> None:
    """Put some of what is wrong into words."""
    already = sum(each.startswith(f"{what}: ") for each in samples)
    samples += [f"{what}: {each}" for each in [*found][: _SHOWN - already]]


# --- Recovered ---


def recoveries(injection: Injection, decisions: Iterable[Decided], due: Mapping[str, float]) -> dict[int, float]:
    """Per partition whose work a fault interrupted, seconds until it decided on a signal that came after the fault.

    `due`: when each signal was to be published, by its id. A partition that never did is left out.
    """
    found: dict[int, float] = {}
    for each in decisions:
        if each.partition in injection.partitions and due.get(each.signal_id, 0.0) > injection.at:
            seconds = each.at - injection.at
            found[each.partition] = min(seconds, found.get(each.partition, seconds))
    return found


# --- Last values ---


class Latest:
    """The last value per key of one changelog partition, as its owners' epochs order it.

    A record of a lower epoch than one before it is of a worker that had lost the partition: it does not count.
    Records with the empty key are the owners' claims.
    """

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.overruled = 0
        self._epoch = 0

    def apply(self, key: bytes | None, value: bytes | None, epoch: int | None) -> None:
        """Apply one record, in the order of offsets."""
        if epoch is not None and epoch < self._epoch:
            self.overruled += 1
            return
        self._epoch = max(self._epoch, epoch or 0)
        if key and value is not None:
            self.values[key] = value
        elif key:
            self.values.pop(key, None)
