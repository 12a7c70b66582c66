"""The verdict on learning: what channels reported against what was told to models, and what they have learned. Pure.

What must hold, whatever was done to workers, learners and brokers:

* each offer was told to its model as shown once and as closed once, and each purchase reported of it once, each with
  one content;
* what an offer brought is the sum of its purchases: one applied twice, or not at all, would show;
* each example was learned once, in the order of the log: a model keeps the digest of all ids it learned, in order.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from benchmarks.chaos.notes import Decided, Evidence, Injection, Learned, Reported, Reports, Taught

_SHOWN = 3
_ALIKE = 1e-9


class Lessons(msgspec.Struct, frozen=True, kw_only=True):
    """What became of outcomes and examples.

    `outcomes`: reported, without `duplicates`. `examples`: there must be. `untold`: examples that are missing.
    `wrong`: examples with several contents, or that nothing asked for, and offers that brought something else than
    reported. `redelivered`: examples that are on the topic again as they were. `learned`: by all models. `unlearned`,
    `relearned`: examples that states of models miss, or count too often; another order is one of each. `samples`: some
    of what is wrong, in words.
    """

    outcomes: int
    duplicates: int
    examples: int
    untold: int
    wrong: int
    redelivered: int
    learned: int
    unlearned: int
    relearned: int
    samples: tuple[str, ...]

    @property
    def faults(self) -> str | None:
        """What is wrong, in words; None when nothing is."""
        names = ("untold", "wrong", "unlearned", "relearned")
        wrong = [f"{count} {name}" for name in names if (count := getattr(self, name))]
        return f"learning: {', '.join(wrong)} ({'; '.join(self.samples)})" if wrong else None


def judge_lessons(reports: Reports, evidence: Evidence, offers: Collection[str], most: float) -> Lessons:
    """Compare what was reported of `offers` with what was told of them and learned. `most`: what counts as 1."""
    expected = _expected(reports.outcomes, evidence.decisions, offers)
    contents: dict[str, set[bytes]] = defaultdict(set)
    for each in evidence.taught:
        contents[each.example_id].add(each.digest)
    wrong: dict[str, Collection[object]] = {
        "example with several contents": [each for each, digests in contents.items() if len(digests) > 1],
        "example nothing asked for": contents.keys() - expected,
        "brought something else": _misvalued(reports.outcomes, evidence.taught, most),
    }
    untold = expected - contents.keys()
    learned, unlearned, relearned, misled = _learned(evidence.taught, evidence.learned)
    found = {"example missing": untold, **wrong, "not learned as told": misled}
    return Lessons(
        outcomes=len(reports.outcomes),
        duplicates=reports.duplicates,
        examples=len(expected),
        untold=len(untold),
        wrong=sum(map(len, wrong.values())),
        redelivered=len(evidence.taught) - sum(map(len, contents.values())),
        learned=learned,
        unlearned=unlearned,
        relearned=relearned,
        samples=tuple(f"{what}: {each}" for what, those in found.items() for each in [*those][:_SHOWN]),
    )


def _expected(outcomes: Iterable[Reported], decisions: Iterable[Decided], offers: Collection[str]) -> set[str]:
    """Ids of the examples there must be."""
    ids = {
        f"{each.decision_id}:{stage}" for each in decisions if each.action in offers for stage in ("exposed", "closed")
    }
    for each in outcomes:
        if each.value:
            cause = hashlib.blake2b(each.outcome_id.encode(), digest_size=8).hexdigest()
            ids.add(f"{each.decision_id}:answered:{cause}")
    return ids


def _misvalued(outcomes: Iterable[Reported], taught: Iterable[Taught], most: float) -> list[str]:
    """Offers whose reward is not what they brought, once everything was reported."""
    brought: Counter[str] = Counter()
    told: dict[str, float] = defaultdict(float)
    for outcome in outcomes:
        brought[outcome.decision_id] += int(outcome.value)
    for each in taught:
        told[each.decision_id] = max(each.reward, told[each.decision_id])
    return [
        f"{offer}: {told[offer] * most:g} instead of {brought[offer]}"
        for offer in sorted(brought.keys() | told.keys())
        if abs(told[offer] - brought[offer] / most) > _ALIKE
    ]


def _learned(taught: Sequence[Taught], learned: Mapping[str, Learned]) -> tuple[int, int, int, list[str]]:
    """Examples learned, missed and learned again, and how models differ from what they were told."""
    logs: dict[str, dict[str, None]] = {model: {} for model in learned}
    for each in sorted(taught, key=lambda each: each.offset):
        logs.setdefault(each.model, {})[each.example_id] = None
    missed = again = 0
    misled = []
    for model, log in sorted(logs.items()):
        found = learned.get(model, Learned(0, b""))
        history = b""
        for example_id in log:
            history = hashlib.blake2b(history + example_id.encode(), digest_size=16).digest()
        reordered = int(found.examples == len(log) and found.history != history)
        missed += max(0, len(log) - found.examples) + reordered
        again += max(0, found.examples - len(log)) + reordered
        if found != Learned(len(log), history):
            misled.append(f"{model}: {found.examples} of {len(log)}{' in another order' if reordered else ''}")
    return sum(each.examples for each in learned.values()), missed, again, misled


def relearned_after(injection: Injection, evidence: Evidence) -> float | None:
    """Seconds from a fault until each model with an example that was told after it is published with that example.

    None when nothing was told after it, or was never published.
    """
    first: dict[str, int] = {}
    for each in sorted(evidence.taught, key=lambda each: each.offset):
        if each.at > injection.at:
            first.setdefault(each.model, each.offset)
    seconds = []
    for model, offset in first.items():
        at = [each.at for each in evidence.versions if each.model == model and each.offset > offset]
        if not at:
            return None
        seconds.append(min(at) - injection.at)
    return max(seconds, default=None)
