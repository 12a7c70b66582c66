"""Change review: what another configuration would change, decision by decision, before it goes live.

Two configurations are played with the same signals, or two logs of decisions (of a live engine and its apprentice,
say) are laid side by side. Decisions of one cause have one id in both, so they can be paired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from agents.policy_log import Log, Progress, in_order, play
from engine.decision import Decision
from engine.repertoire import Repertoire
from engine.replay import Replay
from models.rehearsal import Rehearsal
from models.scorer import ModelScorer

NOTHING = "(nothing)"
_decision = msgspec.json.Decoder(Decision)


class Side(msgspec.Struct, frozen=True):
    """One side of a comparison. `segments`: of customers at the end, where they are known."""

    decisions: Mapping[str, Decision]
    segments: Mapping[str, frozenset[str]] = {}


class Totals(msgspec.Struct, frozen=True):
    """One side added up. `value`: propensity times value over all decisions. `unserved`: customers who get nothing."""

    decisions: int
    actions: int
    value: float
    unserved: int
    rejected: dict[str, int]


class Comparison(msgspec.Struct, frozen=True):
    """What B changes against A. `moves`: action in A, action in B → decisions. `by_*`: changed, and of how many."""

    a: Totals
    b: Totals
    paired: int
    changed: int
    customers: int
    customers_changed: int
    newly_unserved: int
    moves: list[tuple[str, str, int]]
    by_trigger: dict[str, tuple[int, int]]
    by_segment: dict[str, tuple[int, int]]

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def as_text(self) -> str:
        """For people."""
        lines = [
            f"{self.changed} of {self.paired} decisions change ({_share(self.changed, self.paired)})",
            f"customers whose decisions change: {self.customers_changed} of {self.customers}",
            f"expected value: {self.a.value:.2f} → {self.b.value:.2f} ({self.b.value - self.a.value:+.2f})",
            f"decisions with an action: {self.a.actions} → {self.b.actions}",
            f"customers left with no action: {self.a.unserved} → {self.b.unserved}; {self.newly_unserved} lose theirs",
        ]
        lines += ["", "what becomes what"] + [f"  {count:>6}  {one} → {other}" for one, other, count in self.moves]
        for name, parts in (("by trigger", self.by_trigger), ("by segment", self.by_segment)):
            if parts:
                lines += ["", f"{name}, changed of all"]
                lines += [f"  {changed:>6} of {all_:<6} {part}" for part, (changed, all_) in parts.items()]
        stages = sorted(self.a.rejected.keys() | self.b.rejected.keys())
        if stages:
            lines += ["", "left out, by stage"]
            lines += [f"  {self.a.rejected.get(s, 0):>6} → {self.b.rejected.get(s, 0):<6} {s}" for s in stages]
        return "\n".join(lines)


MOVES = 20
"""Most kinds of change that are listed."""


def side_of(repertoire: Repertoire, log: Log, on_line: Progress = lambda _: None) -> Side:
    """Play signals and outcomes through a configuration; its models learn as it goes."""
    scorer = ModelScorer(repertoire)
    replay = Replay(repertoire, scorer)
    decisions: dict[str, Decision] = {}
    for output in play(replay, Rehearsal(repertoire, scorer), in_order(log), on_line):
        if output.topic == "decisions":
            made = _decision.decode(output.value)
            decisions.setdefault(made.decision_id, made)
    profiles = (each for state in replay.partitions for each in state.profiles.values())
    return Side(decisions, {each.known_as: frozenset(each.segments) for each in profiles})


def compare(a: Side, b: Side) -> Comparison:
    """Pair the decisions of two sides by their ids; one that only one side made counts as nothing on the other."""
    ids = sorted(a.decisions.keys() | b.decisions.keys())
    pairs = [(a.decisions.get(each), b.decisions.get(each)) for each in ids]
    pairs = [pair for pair in pairs if _action(pair[0]) != NOTHING or _action(pair[1]) != NOTHING]
    changed = [pair for pair in pairs if _choice(pair[0]) != _choice(pair[1])]
    moves = Counter((_action(one), _action(other)) for one, other in changed)
    served_a, served_b = (_served(side.decisions.values()) for side in (a, b))
    everybody = {_known(pair).customer_id for pair in pairs}
    segments = {**a.segments, **b.segments}
    return Comparison(
        a=_totals(a, everybody - served_a),
        b=_totals(b, everybody - served_b),
        paired=len(pairs),
        changed=len(changed),
        customers=len(everybody),
        customers_changed=len({_known(pair).customer_id for pair in changed}),
        newly_unserved=len(served_a - served_b),
        moves=[(one, other, count) for (one, other), count in moves.most_common(MOVES)],
        by_trigger=_parts(pairs, lambda each: [each.trigger]),
        by_segment=_parts(pairs, lambda each: sorted(segments.get(each.customer_id, ()))),
    )


_Pair = tuple[Decision | None, Decision | None]


def _parts(pairs: Iterable[_Pair], parts_of: Any) -> dict[str, tuple[int, int]]:
    """Changed, and of how many, in each part a decision belongs to; where most changes first."""
    changed, everything = Counter[str](), Counter[str]()
    for pair in pairs:
        for part in parts_of(_known(pair)):
            everything[part] += 1
            changed[part] += _choice(pair[0]) != _choice(pair[1])
    return {part: (changed[part], everything[part]) for part, _ in changed.most_common()}


def _totals(side: Side, unserved: set[str]) -> Totals:
    acting = [each for each in side.decisions.values() if _action(each) != NOTHING]
    rejected = Counter(each.stage for made in side.decisions.values() for each in made.explanation.rejected)
    return Totals(
        decisions=len(side.decisions),
        actions=len(acting),
        value=sum(each.score.propensity * each.score.value for each in acting if each.score is not None),
        unserved=len(unserved),
        rejected=dict(rejected),
    )


def _served(decisions: Iterable[Decision]) -> set[str]:
    return {each.customer_id for each in decisions if _action(each) != NOTHING}


def _known(pair: _Pair) -> Decision:
    found = pair[0] or pair[1]
    assert found is not None
    return found


def _action(decision: Decision | None) -> str:
    """The action that is acted on."""
    return NOTHING if decision is None or decision.action is None or decision.control else decision.action


def _choice(decision: Decision | None) -> tuple[str, str | None]:
    return _action(decision), None if decision is None or decision.control else decision.treatment


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "0 %"
