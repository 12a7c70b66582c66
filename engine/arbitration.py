"""Arbitrate: priority = P · C · V · L for every candidate, and the ranking that follows.

Propensity, context weight, value and lever (Pega, "Arbitration strategy"); weights are percentages that add up
before they multiply, and C and L never fall below 0. A factor switched off counts 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import msgspec

from engine.candidates import Rejection
from engine.context import Context
from engine.expression import MISSING
from engine.profile import Answer, Profile
from engine.repertoire import Action, Arbitration, Candidate, Influencer, Repertoire, Scope


class Scored(msgspec.Struct, frozen=True):
    """A candidate with its four factors and its priority."""

    candidate: Candidate
    propensity: float
    context_weight: float
    value: float
    lever: float
    priority: float


class Weighted(Protocol):
    """Anything with a scope and a weight in percent."""

    @property
    def scope(self) -> Scope:
        """What it covers."""
        ...

    @property
    def weight(self) -> float:
        """Percent."""
        ...


def rank(
    propensities: Sequence[tuple[Candidate, float]],
    context: Context,
    profile: Profile,
    settings: Arbitration,
    repertoire: Repertoire,
    rejections: list[Rejection],
) -> list[Scored]:
    """Candidates from best to worst: mandatory ones first, then by priority, ties by action and treatment id.

    One whose value or priority cannot be computed goes to `rejections`.
    """
    memo = repertoire.predicates.evaluate(context)
    weights = [each for each in settings.context_weights if memo.first_false(each.when.predicates) is None]
    ranked = []
    for candidate, propensity in propensities:
        scored = _scored(candidate, propensity, context, profile, settings, sum_weights(candidate, weights))
        if scored is None:
            reason = f"{candidate.treatment.id}: its value or priority cannot be computed"
            rejections.append(Rejection(candidate.action.id, "suitability", reason))
        else:
            ranked.append(scored)
    ranked.sort(key=_place)
    return ranked


def _place(scored: Scored) -> tuple[bool, float, str, str]:
    action = scored.candidate.action
    return action.action_class != "mandatory", -scored.priority, action.id, scored.candidate.treatment.id


def sum_weights(candidate: Candidate, weights: Sequence[Weighted]) -> float:
    """Percentages of everything that covers a candidate, added up."""
    action, channel = candidate.action, candidate.treatment.channel
    named = (action.issue, action.group, action.id, action.tags, channel)
    return sum(each.weight for each in weights if each.scope.covers(*named))


def _scored(
    candidate: Candidate,
    propensity: float,
    context: Context,
    profile: Profile,
    settings: Arbitration,
    context_percent: float,
) -> Scored | None:
    action = candidate.action
    value = _value(action, context) if settings.value else 1.0
    if value is None:
        return None
    p = propensity if settings.propensity else 1.0
    c = max(0.0, 1 + context_percent / 100) if settings.context else 1.0
    lever_percent = action.lever + influence(candidate, profile, settings.influencers)
    lever = max(0.0, 1 + lever_percent / 100) if settings.lever else 1.0
    priority: float | None = p * c * value * lever
    if settings.formula is not None:
        factors = {"propensity": p, "context_weight": c, "value": value, "lever": lever}
        priority = _number(settings.formula.value({**context, **_action_root(action), **factors}))
    if priority is None or not math.isfinite(priority):
        return None
    return Scored(candidate, p, c, value, lever, priority)


def _value(action: Action, context: Context) -> float | None:
    if isinstance(action.value, float):
        return action.value
    return _number(action.value.value({**context, **_action_root(action)}))


def _action_root(action: Action) -> Context:
    return {"action": {"id": action.id, "issue": action.issue, "group": action.group, "tags": action.tags}}


def _number(value: object) -> float | None:
    if value is MISSING or isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


# --- Influencers ---


def influence(candidate: Candidate, profile: Profile, influencers: Sequence[Influencer]) -> float:
    """What earlier outcomes add to a candidate's lever, in percent (Pega, "Using Arbitration Influencers")."""
    if not influencers or not profile.answers:
        return 0.0
    action, channel = candidate.action, candidate.treatment.channel
    return sum(
        _weight_at(each, profile)
        for each in influencers
        if each.target.covers(action.issue, action.group, action.id, action.tags, channel)
    )


def _weight_at(influencer: Influencer, profile: Profile) -> float:
    """The weight since the latest matching outcome: from `start` to `end` in equal steps, then none."""
    times = [each.at_ms for each in profile.answers if each.type == influencer.outcome and _source(influencer, each)]
    if not times:
        return 0.0
    elapsed_ms = max(0, profile.now_ms - max(times))
    if elapsed_ms >= influencer.period_ms:
        return 0.0
    step = elapsed_ms * influencer.steps // influencer.period_ms
    progress = step / (influencer.steps - 1) if influencer.steps > 1 else 0.0
    return influencer.start + (influencer.end - influencer.start) * progress


def _source(influencer: Influencer, answer: Answer) -> bool:
    return influencer.source.covers(answer.issue, answer.group, answer.action, frozenset(), answer.channel)
