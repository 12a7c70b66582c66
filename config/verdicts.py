"""What each kind of rule says of one moment, by the rule's id."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from engine.candidates import Rejections
from engine.context import Context
from engine.eligibility import qualify
from engine.repertoire import Candidate, Repertoire, Rule
from engine.signal import Signal
from engine.triggers import SegmentChanges, due_triggers


class Moment(msgspec.Struct):
    """A customer and a moment, as the engine's stages take them."""

    signal: Signal
    context: Context
    changes: SegmentChanges
    repertoire: Repertoire


class Verdict(msgspec.Struct, frozen=True):
    """What a rule says. `why`: of one that does not hold, as far as known."""

    value: Any
    why: str = ""


def rule_ids(kind: str, repertoire: Repertoire) -> frozenset[str]:
    """The ids that cases in a file of this kind may name."""
    return frozenset(_IDS[kind](repertoire)) if kind in _IDS else frozenset()


def judge(kind: str, id_: str, moment: Moment) -> Verdict:
    """Whether a rule holds at a moment; `id_` is one of `rule_ids`."""
    return _JUDGES[kind](id_, moment)


def eligible(moment: Moment, expected: Collection[str]) -> Verdict:
    """The ids of the actions of which some treatment qualifies, sorted; why not those that are missing."""
    rejections = Rejections()
    qualified = qualify(moment.repertoire.candidates, moment.context, moment.repertoire, rejections)
    actions = sorted({each.action.id for each in qualified})
    missing = {each.action: each for each in rejections if each.action in expected and each.action not in actions}
    return Verdict(actions, "; ".join(f"{id_}: {each.stage}: {each.reason}" for id_, each in sorted(missing.items())))


def _offer(id_: str, moment: Moment) -> Verdict:
    """Of an action whether any treatment of it qualifies, of a treatment whether it does."""
    chosen: Sequence[Candidate] = [
        each for each in moment.repertoire.candidates if id_ in (each.action.id, each.treatment.id)
    ]
    rejections = Rejections()
    if qualify(chosen, moment.context, moment.repertoire, rejections):
        return Verdict(True)
    reasons = dict.fromkeys(f"{each.stage}: {each.reason}" for each in rejections)
    return Verdict(False, "; ".join(reasons))


def _trigger(id_: str, moment: Moment) -> Verdict:
    due = due_triggers(moment.signal, moment.changes, moment.context, moment.repertoire)
    return Verdict(id_ in {each.id for each in due})


def _aggregate(id_: str, moment: Moment) -> Verdict:
    """Whether the signal counts."""
    where = next(each.where for each in moment.repertoire.profile.aggregates if each.name == id_)
    return Verdict(where is None or where(moment.context))


def _segment(id_: str, moment: Moment) -> Verdict:
    return Verdict(
        next(each for each in moment.repertoire.profile.segments if each.id == id_).when.test(moment.context)
    )


def _channel(id_: str, moment: Moment) -> Verdict:
    return _rule(moment.repertoire.channels[id_].reachable, moment)


def _context_weight(id_: str, moment: Moment) -> Verdict:
    weights = moment.repertoire.arbitration.context_weights
    return _rule(next(each.when for each in weights if _id_of(each.when) == id_), moment)


def _experiment(id_: str, moment: Moment) -> Verdict:
    when = next(each.when for each in moment.repertoire.experiments if each.id == id_)
    return Verdict(when is None or when.test(moment.context))


def _rule(rule: Rule | None, moment: Moment) -> Verdict:
    truths = moment.repertoire.predicates.evaluate(moment.context)
    failed = None if rule is None else truths.first_false(rule.predicates)
    return Verdict(True) if failed is None else Verdict(False, f"not true: {truths.source(failed)}")


def _id_of(rule: Rule) -> str:
    """The id in `context weight <id>`."""
    return rule.where.rpartition(" ")[2]


def _offer_ids(repertoire: Repertoire) -> Iterable[str]:
    return (id_ for each in repertoire.candidates for id_ in (each.action.id, each.treatment.id))


_IDS: Mapping[str, Callable[[Repertoire], Iterable[str]]] = {
    "profile": lambda repertoire: (each.name for each in repertoire.profile.aggregates),
    "segments": lambda repertoire: (each.id for each in repertoire.profile.segments),
    "channels": lambda repertoire: repertoire.channels,
    "actions": _offer_ids,
    "triggers": lambda repertoire: (each.id for each in repertoire.triggers),
    "arbitration": lambda repertoire: (_id_of(each.when) for each in repertoire.arbitration.context_weights),
    "experiments": lambda repertoire: (each.id for each in repertoire.experiments),
}
_JUDGES: Mapping[str, Callable[[str, Moment], Verdict]] = {
    "profile": _aggregate,
    "segments": _segment,
    "channels": _channel,
    "actions": _offer,
    "triggers": _trigger,
    "arbitration": _context_weight,
    "experiments": _experiment,
}
