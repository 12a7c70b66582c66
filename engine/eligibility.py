"""Who may be offered what: eligibility, applicability, suitability (Pega, "engagement policies"), then the treatment.

Each action meets the layers in that order and leaves at the first rule that is not true; a rule that cannot be
evaluated is not true.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from engine.calendar import format_rfc3339
from engine.candidates import Rejection
from engine.context import Context
from engine.expression import Memo
from engine.repertoire import Action, Candidate, Repertoire, Treatment

MAX_SHOWN = 200
"""Characters of a rule that a reason shows."""


def qualify(
    candidates: Iterable[Candidate],
    context: Context,
    repertoire: Repertoire,
    rejections: list[Rejection],
    truths: Memo | None = None,
) -> list[Candidate]:
    """The candidates whose every rule is true; why each other action or treatment is not goes to `rejections`.

    `truths`: of the predicates in this context, as far as they are known.
    """
    memo = repertoire.predicates.evaluate(context) if truths is None else truths
    qualified: list[Candidate] = []
    action, rejection = None, None
    for candidate in candidates:
        if candidate.action is not action:  # its treatments stand side by side
            action = candidate.action
            rejection = _unqualified(action, memo, context)
            if rejection is not None:
                rejections.append(rejection)
        if rejection is None:
            unfit = _unfit(candidate, memo, context, repertoire)
            if unfit is None:
                qualified.append(candidate)
            else:
                rejections.append(unfit)
    return qualified


def unavailable(candidate: Candidate, context: Context, repertoire: Repertoire, truths: Memo) -> Rejection | None:
    """Why a candidate cannot be offered even where engagement rules do not hold, as for a fallback."""
    return _outdated(candidate.action, context) or _unfit(candidate, truths, context, repertoire)


def _unqualified(action: Action, memo: Memo, context: Context) -> Rejection | None:
    if (outdated := _outdated(action, context)) is not None:
        return outdated
    failed = memo.first_false(action.engagement.predicates)
    if failed is None:
        return None
    return _not_true(action.id, *action.engagement.origins[failed], memo.source(failed))


@lru_cache(maxsize=65_536)
def _not_true(action: str, stage: str, where: str, source: str) -> Rejection:
    """The rejection a rule makes, the same for every customer."""
    return Rejection(action, stage, f"{where}: not true: {_shown(source)}")


def _outdated(action: Action, context: Context) -> Rejection | None:
    starts_ms, ends_ms = action.starts_ms, action.ends_ms
    if starts_ms is not None and context["now_ms"] < starts_ms:
        return Rejection(action.id, "eligibility", f"starts on {format_rfc3339(starts_ms)}")
    if ends_ms is not None and context["now_ms"] >= ends_ms:
        return Rejection(action.id, "eligibility", f"ended on {format_rfc3339(ends_ms)}")
    return None


def _unfit(candidate: Candidate, memo: Memo, context: Context, repertoire: Repertoire) -> Rejection | None:
    """Why the treatment cannot be offered: its own rule, the reach of its channel, content with nothing to show."""
    treatment = candidate.treatment
    reachable = repertoire.channels[treatment.channel].reachable
    if treatment.when is not None and (failed := memo.first_false(treatment.when.predicates)) is not None:
        reason: str | None = f"not true: {_shown(memo.source(failed))}"
    elif reachable is not None and (failed := memo.first_false(reachable.predicates)) is not None:
        reason = f"{treatment.channel} does not reach: {_shown(memo.source(failed))}"
    else:
        reason = _lacking(treatment, context)
    return None if reason is None else Rejection(candidate.action.id, "eligibility", f"{treatment.id}: {reason}")


def _lacking(treatment: Treatment, context: Context) -> str | None:
    for name, template in treatment.content.items():
        missing = template.missing(context)
        if missing is not None:
            return f"content {name} needs {_shown(missing)}"
    return None


def _shown(source: str) -> str:
    """A rule as reasons show it, so that a decision's size does not depend on how long rules are."""
    return source if len(source) <= MAX_SHOWN else source[:MAX_SHOWN] + "…"
