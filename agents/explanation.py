"""A decision in words: what was chosen and by which numbers, what came next, and why the rest was left out."""

from __future__ import annotations

from itertools import groupby

import msgspec

from engine.candidates import STAGES, Rejection
from engine.decision import Decision


def explain_decision(value: bytes) -> str:
    """Several lines of plain text for one value of `batuta.decisions`.

    Raises msgspec's DecodeError for bytes that are no decision.
    """
    decision = msgspec.json.decode(value, type=Decision)
    return "\n".join([*_headline(decision), *_score(decision), *_contenders(decision), *_rejections(decision)])


def _headline(decision: Decision) -> list[str]:
    cause = f"request {decision.request_id}" if decision.request_id else f"signal {decision.signal_id}"
    lines = [
        f"Decision {decision.decision_id} for {decision.customer_id}, {decision.decided_at}",
        f"Cause: {decision.trigger}, {cause}",
    ]
    if decision.action is None:
        return [*lines, "Chosen: nothing, as nothing qualified"]
    where = f" in {decision.placement}" if decision.placement else ""
    lines.append(
        f"Chosen: {decision.action} as {decision.treatment} on {decision.channel}{where}, rank {decision.rank}"
    )
    if decision.control:
        lines.append("Held out: counted as control, not to be acted on")
    if decision.experiment is not None:
        lines.append(f"Experiment: {decision.experiment.id}, arm {decision.experiment.arm}")
    return lines


def _score(decision: Decision) -> list[str]:
    score = decision.score
    if score is None:
        return []
    factors = (
        f"propensity {score.propensity:.4g}, context {score.context_weight:.4g}, "
        f"value {score.value:.4g}, lever {score.lever:.4g}"
    )
    models = ", ".join(f"{model} {version}" for model, version in decision.models.items())
    return [
        f"Priority {score.priority:.4g} from {factors}",
        f"Chance of this choice: {decision.probability:.4g}; models: {models or 'none'}; config {decision.config}",
    ]


def _contenders(decision: Decision) -> list[str]:
    contenders = decision.explanation.contenders
    if not contenders:
        return []
    return ["Next best: " + ", ".join(f"{each.action} ({each.priority:.4g})" for each in contenders)]


def _rejections(decision: Decision) -> list[str]:
    rejected = sorted(decision.explanation.rejected, key=lambda each: (STAGES.index(each.stage), each.action))
    lines = [f"Considered {decision.explanation.considered} actions; left out:" if rejected else "Nothing was left out"]
    for stage, group in groupby(rejected, key=lambda each: each.stage):
        lines += [f"  {stage}", *(_line(each) for each in group)]
    return lines


def _line(rejection: Rejection) -> str:
    return f"    {rejection.action}: {rejection.reason}"
