"""Who may be offered what: eligibility, applicability, suitability (Pega, "engagement policies"), then the treatment.

Each action meets the layers in that order and leaves at the first rule that is not true; a rule that cannot be
evaluated is not true. Its dates come before them; after them the treatment's own rule, the reach of its channel, and
content with nothing to show.

A whole pool is asked at once: conditions are rows of an array and candidates its columns, and what is said of who
leaves at a condition was written when the pool was compiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.calendar import format_rfc3339
from engine.candidates import STAGES, Pool, Rejections, Rows, Selection, select, text_of
from engine.context import Context
from engine.expression import Memo, Panel
from engine.repertoire import Candidate, Repertoire, Treatment

MAX_SHOWN = 200
"""Characters of a rule that a reason shows."""
_ELIGIBILITY = STAGES.index("eligibility")
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
    rows = candidates.rows
    met, reasons = conditions.met(context, truths), conditions.reasons
    if len(rows) != len(candidates.pool):
        met, reasons = met[:, rows], reasons[:, rows]
    holds = met[0].copy()
    # How many conditions are met before the first that is not.
    depth = holds.astype(np.int16)
    for each in met[1:]:
        holds &= each
        depth += holds
    failed = (~holds).nonzero()[0]
    left = candidates.keep(holds) if len(failed) else candidates
    told = reasons[depth[failed], failed]
    lacking = _lacking(left, conditions.contents, context) if conditions.contents.alike else {}
    if not lacking:
        conditions.tell(told, rejections)
        return left
    conditions.tell_in_order(dict(zip(rows[failed].tolist(), told.tolist(), strict=True)), lacking, rejections)
    return left.keep(np.array([row not in lacking for row in left.rows.tolist()], dtype=np.bool_))


# --- Conditions, compiled ---


class Conditions(NamedTuple):
    """What the candidates of a pool have to meet, a row per condition and a column per candidate.

    `asks`: the place of its predicate among the answers of `panel`. `reasons`: the place of its rejection among
    `texts`, -1 where another treatment of the action tells it; `stages`: the stage of each, by number. `dates`: the
    conditions about dates, by row, column, what they are and the moment. `shared`: whether any treatment leaves it to
    another one to tell.
    """

    panel: Panel
    asks: Rows
    reasons: Rows
    texts: npt.NDArray[np.object_]
    stages: Rows
    dates: Sequence[tuple[int, int, int, int]]
    shared: bool
    contents: Contents

    def met(self, context: Context, truths: Memo) -> npt.NDArray[np.bool_]:
        """Which conditions are met by whom."""
        met = truths.answer(self.panel).take(self.asks)
        for row, column, kind, at_ms in self.dates:
            met[row, column] = (context["now_ms"] >= at_ms) is (kind == _STARTS)
        return met

    def tell(self, told: Rows, rejections: Rejections) -> None:
        """Note rejections by their places."""
        if self.shared:
            told = told[told >= 0]
        counts = np.bincount(self.stages.take(told), minlength=len(STAGES))
        rejections.add_counted(self.texts.take(told).tolist(), counts.tolist())

    def tell_in_order(self, told: Mapping[int, int], lacking: Mapping[int, bytes], rejections: Rejections) -> None:
        """Note rejections by their places, among them those for lack of content, in the order of the rows."""
        for row in sorted([*told, *lacking]):
            place = told.get(row, -1)
            if row in lacking:
                rejections.add_texts(_ELIGIBILITY, [lacking[row]])
            elif place >= 0:
                rejections.add_texts(int(self.stages[place]), [self.texts[place]])


def conditions_of(pool: Pool) -> Conditions:
    """Everything the candidates of a pool have to meet."""
    return _compile(pool, engagement=True)


def _conditions_of_offering(pool: Pool) -> Conditions:
    return _compile(pool, engagement=False)


class _Condition(NamedTuple):
    predicate: int
    stage: int
    reason: str
    at_ms: int = 0
    of_action: bool = False


def _compile(pool: Pool, *, engagement: bool) -> Conditions:
    repertoire = pool.repertoire
    columns = [_conditions(each, repertoire, engagement=engagement) for each in pool]
    asked = dict.fromkeys(each.predicate for column in columns for each in column if each.predicate >= 0)
    panel = repertoire.predicates.panel(asked)
    shape = max([1, *map(len, columns)]), len(columns)
    asks = np.full(shape, len(panel.places), dtype=np.intp)
    reasons = np.full(shape, -1, dtype=np.intp)
    texts: list[bytes] = []
    stages: list[int] = []
    dates: list[tuple[int, int, int, int]] = []
    told = None
    for at, (candidate, column) in enumerate(zip(pool, columns, strict=True)):
        # Treatments of an action stand side by side: the first tells why the action leaves.
        first, told = candidate.action is not told, candidate.action
        for row, each in enumerate(column):
            if each.predicate >= 0:
                asks[row, at] = panel.places[each.predicate]
            else:
                dates.append((row, at, each.predicate, each.at_ms))
            if first or not each.of_action or not engagement:
                reasons[row, at] = len(texts)
                texts.append(text_of(candidate.action.id, STAGES[each.stage], each.reason))
                stages.append(each.stage)
    shared = len(texts) < sum(map(len, columns))
    held = np.empty(len(texts), dtype=object)
    held[:] = texts
    return Conditions(panel, asks, reasons, held, np.array(stages, dtype=np.intp), dates, shared, _contents(pool))


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
        found.append(of_action(predicate, STAGES.index(layer), reason))
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
                found[row] = text_of(each.action.id, STAGES[_ELIGIBILITY], f"{each.treatment.id}: {reason}")
    return found


def _lack(treatment: Treatment, context: Context) -> str | None:
    for name, template in treatment.content.items():
        missing = template.missing(context)
        if missing is not None:
            return f"content {name} needs {shown(missing)}"
    return None
