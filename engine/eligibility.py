"""Who may be offered what: eligibility, applicability, suitability (Pega, "engagement policies"), then the treatment.

Each action meets the layers in that order and leaves at the first rule that is not true; a rule that cannot be
evaluated is not true. Its dates come before them; after them the treatment's own rule, the reach of its channel, and
content with nothing to show.

A whole pool is asked at once. Each candidate has a few neighbouring bits of one long number, a bit per condition in
the order they are asked, which is 1 when the condition is not met. What is said of who leaves at a condition was
written when the pool was compiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.calendar import format_rfc3339
from engine.candidates import Pool, Rejections, Rows, Selection, select, text_of
from engine.context import Context
from engine.expression import Memo, Panel
from engine.repertoire import Candidate, Repertoire, Treatment

MAX_SHOWN = 200
"""Characters of a rule that a reason shows."""
_ELIGIBILITY = "eligibility"
_Bits = npt.NDArray[np.bool_]
_STARTS, _ENDS = -1, -2
"""Stand for predicates: the moment is not before, or is before, one of the action's dates."""


def qualify(
    candidates: Iterable[Candidate],
    context: Context,
    repertoire: Repertoire,
    rejections: Rejections,
    truths: Memo | None = None,
) -> Selection:
    """The candidates whose every rule is true; why each other action or treatment is not goes to `rejections`.

    `truths`: of the predicates in this context, as far as they are known.
    """
    selected = select(candidates, repertoire)
    memo = repertoire.predicates.evaluate(context) if truths is None else truths
    return _meeting(selected, selected.pool.part(conditions_of), context, memo, rejections)


def available(candidates: Selection, context: Context, rejections: Rejections, truths: Memo) -> Selection:
    """The candidates that can be offered even where engagement rules do not hold, as for a fallback."""
    return _meeting(candidates, candidates.pool.part(_conditions_of_offering), context, truths, rejections)


def _meeting(
    candidates: Selection, conditions: Conditions, context: Context, truths: Memo, rejections: Rejections
) -> Selection:
    """The candidates that meet all conditions; each other one leaves with the first that it does not meet."""
    first = conditions.first_unmet(candidates, context, truths)
    bits = conditions.bits_of(first)
    met = conditions.met(bits)
    left = candidates if len(met) == len(candidates) else Selection(candidates.pool, met)
    lacking = _lacking(left, conditions.contents, context) if conditions.contents.alike else {}
    if not lacking:
        conditions.tell(first, bits, rejections)
        return left
    conditions.tell_in_order(bits, lacking, rejections)
    return left.keep(np.array([row not in lacking for row in left.rows.tolist()], dtype=np.bool_))


# --- Conditions, compiled ---


class Conditions(NamedTuple):
    """What the candidates of a pool have to meet, as bits of a number: `width` for each candidate, the lowest for the
    condition asked first. The last is always 1: this is where one leaves who meets them all.

    `panel`: marks the conditions that predicates leave unmet. `dates`: the bits of those about dates, what they are
    and the moment. `first`, `last`: the first and the last bit of every candidate. `texts`: what is told, by condition.
    `told`: the conditions whose rejection is told, as a mask; another treatment of the action tells the others.
    `stages`: the told conditions of each stage.
    """

    panel: Panel
    width: int
    dates: Sequence[tuple[int, int, int]]
    first: int
    last: int
    texts: npt.NDArray[np.object_]
    told: _Bits
    stages: Mapping[str, int]
    contents: Contents

    def first_unmet(self, candidates: Selection, context: Context, truths: Memo) -> int:
        """One bit for each of these candidates: where it leaves."""
        unmet = truths.answer(self.panel).marked | self.last
        for condition, kind, at_ms in self.dates:
            if (context["now_ms"] >= at_ms) is not (kind == _STARTS):
                unmet |= condition
        # Taking 1 from each candidate's bits changes none above the lowest that is set: no candidate's are all 0.
        lowest = unmet & ~(unmet - self.first)
        if len(candidates) == len(candidates.pool):
            return lowest
        chosen = np.zeros(len(candidates.pool), dtype=np.bool_)
        chosen[candidates.rows] = True
        return lowest & _number_of(np.repeat(chosen, self.width))

    def bits_of(self, number: int) -> _Bits:
        """The bits of all candidates, lowest first, as a mask."""
        count = len(self.texts)
        octets = np.frombuffer(number.to_bytes((count + 7) // 8, "little"), dtype=np.uint8)
        return np.unpackbits(octets, count=count, bitorder="little").view(np.bool_)

    def met(self, bits: _Bits) -> Rows:
        """The rows of those who meet all, by where each leaves."""
        return bits[self.width - 1 :: self.width].nonzero()[0]

    def tell(self, first: int, bits: _Bits, rejections: Rejections) -> None:
        """Note who leaves where; `bits`: of `first`, which is quicker to count in."""
        counts = {stage: (first & conditions).bit_count() for stage, conditions in self.stages.items()}
        rejections.add_texts(self.texts[bits & self.told].tolist(), counts)

    def tell_in_order(self, bits: _Bits, lacking: Mapping[int, bytes], rejections: Rejections) -> None:
        """Note who leaves where, and among them those for lack of content, in the order of the rows."""
        told = {each // self.width: each for each in (bits & self.told).nonzero()[0].tolist()}
        for row in sorted([*told, *lacking]):
            if row in lacking:
                rejections.add_texts([lacking[row]], {_ELIGIBILITY: 1})
            else:
                stage = next(stage for stage, conditions in self.stages.items() if conditions >> told[row] & 1)
                rejections.add_texts([self.texts[told[row]]], {stage: 1})


def _number_of(bits: _Bits) -> int:
    return int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")


def conditions_of(pool: Pool) -> Conditions:
    """Everything the candidates of a pool have to meet."""
    return _compile(pool, engagement=True)


def _conditions_of_offering(pool: Pool) -> Conditions:
    return _compile(pool, engagement=False)


class _Condition(NamedTuple):
    predicate: int
    stage: str
    reason: str
    at_ms: int = 0
    of_action: bool = False


def _compile(pool: Pool, *, engagement: bool) -> Conditions:
    repertoire = pool.repertoire
    columns = [_conditions(each, repertoire, engagement=engagement) for each in pool]
    width = max(map(len, columns), default=0) + 1
    texts = np.empty(len(columns) * width, dtype=object)
    marks: dict[int, int] = {}
    stages: dict[str, int] = {}
    dates: list[tuple[int, int, int]] = []
    teller = None
    for row, (candidate, column) in enumerate(zip(pool, columns, strict=True)):
        # Treatments of an action stand side by side: the first tells why the action leaves.
        tells, teller = candidate.action is not teller, candidate.action
        for place, each in enumerate(column, row * width):
            if each.predicate >= 0:
                marks[each.predicate] = marks.get(each.predicate, 0) | 1 << place
            else:
                dates.append((1 << place, each.predicate, each.at_ms))
            if tells or not each.of_action or not engagement:
                texts[place] = text_of(candidate.action.id, each.stage, each.reason)
                stages[each.stage] = stages.get(each.stage, 0) | 1 << place
    every = sum(1 << row * width for row in range(len(columns)))
    return Conditions(
        panel=repertoire.predicates.panel(marks, marks),
        width=width,
        dates=dates,
        first=every,
        last=every << (width - 1),
        texts=texts,
        told=np.array([text is not None for text in texts.tolist()], dtype=np.bool_),
        stages=stages,
        contents=_contents(pool),
    )


def _conditions(candidate: Candidate, repertoire: Repertoire, *, engagement: bool) -> list[_Condition]:
    """What a candidate has to meet, in the order it is asked."""
    action, treatment, predicates = candidate.action, candidate.treatment, repertoire.predicates
    of_action = partial(_Condition, of_action=True)
    found: list[_Condition] = []
    if action.starts_ms is not None:
        reason = f"starts on {format_rfc3339(action.starts_ms)}"
        found.append(of_action(_STARTS, _ELIGIBILITY, reason, action.starts_ms))
    if action.ends_ms is not None:
        found.append(of_action(_ENDS, _ELIGIBILITY, f"ended on {format_rfc3339(action.ends_ms)}", action.ends_ms))
    for predicate, (layer, where) in action.engagement.origins.items() if engagement else ():
        reason = f"{where}: not true: {shown(predicates.source(predicate))}"
        found.append(of_action(predicate, layer, reason))
    reachable = repertoire.channels[treatment.channel].reachable
    said = f"{treatment.id}: "
    for rule, what in ((treatment.when, "not true"), (reachable, f"{treatment.channel} does not reach")):
        for predicate in () if rule is None else rule.predicates:
            reason = f"{said}{what}: {shown(predicates.source(predicate))}"
            found.append(_Condition(predicate, _ELIGIBILITY, reason))
    return found


def shown(source: str) -> str:
    """A rule as reasons show it, so that a decision's size does not depend on how long rules are."""
    return source if len(source) <= MAX_SHOWN else source[:MAX_SHOWN] + "…"


# --- Content with nothing to show ---


class Contents(NamedTuple):
    """Which candidates may have nothing to show. `groups`: a number per row, from 1 on the same for those that lack the
    same, 0 for those that never lack; `alike`: what is alike, by number."""

    groups: Rows
    alike: Mapping[tuple[object, ...], int]


def _contents(pool: Pool) -> Contents:
    alike: dict[tuple[object, ...], int] = {}
    groups = [0] * len(pool)
    for row, each in enumerate(pool):
        content = each.treatment.content
        if any(template.may_miss for template in content.values()):
            likeness = tuple((name, template.likeness) for name, template in content.items())
            groups[row] = alike.setdefault(likeness, len(alike) + 1)
    return Contents(np.array(groups, dtype=np.intp), alike)


def _lacking(candidates: Selection, contents: Contents, context: Context) -> dict[int, bytes]:
    """The rows of those with nothing to show, and their rejections.

    What is short fits in everywhere, so that one candidate speaks for all that are alike.
    """
    found: dict[int, bytes] = {}
    groups = contents.groups[candidates.rows]
    for group in np.unique(groups[groups > 0]).tolist():
        members = candidates.keep(groups == group)
        reason, short = None, False
        for row, each in zip(members.rows.tolist(), members, strict=True):
            if not short:
                reason = _lack(each.treatment, context)
                short = all(template.is_short(context) for template in each.treatment.content.values())
                if short and reason is None:
                    break
            if reason is not None:
                found[row] = text_of(each.action.id, _ELIGIBILITY, f"{each.treatment.id}: {reason}")
    return found


def _lack(treatment: Treatment, context: Context) -> str | None:
    for name, template in treatment.content.items():
        missing = template.missing(context)
        if missing is not None:
            return f"content {name} needs {shown(missing)}"
    return None
