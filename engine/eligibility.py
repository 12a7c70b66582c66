"""Who may be offered what: eligibility, applicability, suitability (Pega, "engagement policies"), then the treatment.

Each candidate meets the layers in that order and leaves at the first rule that is not true; a rule that cannot
be evaluated is not true.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.calendar import format_rfc3339
from engine.candidates import Rejection
from engine.context import Context
from engine.expression import Memo
from engine.repertoire import Action, Candidate, Repertoire, Rule

LAYERS = ("eligibility", "applicability", "suitability")


def qualify(
    candidates: Sequence[Candidate], context: Context, repertoire: Repertoire, rejections: list[Rejection]
) -> list[Candidate]:
    """The candidates whose every rule is true; why each other one is not goes to `rejections`."""
    memo = repertoire.predicates.evaluate(context)
    verdicts: dict[str, Rejection | None] = {}
    qualified = []
    for candidate in candidates:
        action = candidate.action
        if action.id not in verdicts:
            verdicts[action.id] = _unqualified(action, memo, context)
        rejection = verdicts[action.id] or _unfit(candidate, memo, context, repertoire)
        if rejection is None:
            qualified.append(candidate)
        else:
            rejections.append(rejection)
    return qualified


def _unqualified(action: Action, memo: Memo, context: Context) -> Rejection | None:
    now_ms = context["now_ms"]
    if action.starts_ms is not None and now_ms < action.starts_ms:
        return Rejection(action.id, "eligibility", f"starts on {format_rfc3339(action.starts_ms)}")
    if action.ends_ms is not None and now_ms >= action.ends_ms:
        return Rejection(action.id, "eligibility", f"ended on {format_rfc3339(action.ends_ms)}")
    engagement = action.engagement
    layers = (engagement.eligibility, engagement.applicability, engagement.suitability)
    for stage, rules in zip(LAYERS, layers, strict=True):
        for rule in rules:
            failed = memo.first_false(rule.predicates)
            if failed is not None:
                return Rejection(action.id, stage, f"{rule.where}: not true: {memo.source(failed)}")
    return None


def _unfit(candidate: Candidate, memo: Memo, context: Context, repertoire: Repertoire) -> Rejection | None:
    treatment = candidate.treatment
    failed = _failed(treatment.when, memo)
    if failed is not None:
        return Rejection(candidate.action.id, "eligibility", f"{treatment.id}: not true: {failed}")
    reachable = repertoire.channels[treatment.channel].reachable
    failed = _failed(reachable, memo)
    if failed is not None:
        return Rejection(
            candidate.action.id,
            "eligibility",
            f"{treatment.id}: {treatment.channel} does not reach: {failed}",
        )
    for name, template in treatment.content.items():
        missing = template.render(context).missing
        if missing is not None:
            return Rejection(candidate.action.id, "eligibility", f"{treatment.id}: content {name} needs {missing}")
    return None


def _failed(rule: Rule | None, memo: Memo) -> str | None:
    failed = None if rule is None else memo.first_false(rule.predicates)
    return None if failed is None else memo.source(failed)
