"""Arbitrate: priority = P · C · V · L for every candidate, and the ranking that follows.

Propensity, context weight, value and lever (Pega, "Arbitration strategy"); weights are percentages that add up
before they multiply, and C and L never fall below 0. A factor switched off counts 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from engine.candidates import Rejection, named, tags_of
from engine.context import Context
from engine.exploration import Draws
from engine.expression import MISSING, Expression, Memo
from engine.profile import Answer, Profile
from engine.repertoire import Action, Arbitration, Candidate, Influencer, Repertoire, Scope

Weights = Sequence[tuple[Scope, float]]
"""What is covered, and the percentage that it gains."""


class Scored(msgspec.Struct, frozen=True):
    """A candidate with its four factors and its priority."""

    candidate: Candidate
    propensity: float
    context_weight: float
    value: float
    lever: float
    priority: float


class Weighing(msgspec.Struct, frozen=True):
    """What arbitration consults besides the candidate. `contexts` add to C, `influences` to L."""

    settings: Arbitration
    context: Context
    contexts: Weights
    influences: Weights


def rank(
    propensities: Iterable[tuple[Candidate, float]],
    context: Context,
    profile: Profile,
    settings: Arbitration,
    repertoire: Repertoire,
    truths: Memo,
    rejections: list[Rejection],
) -> list[Scored]:
    """Candidates from best to worst: mandatory ones first, then by priority, ties by action and treatment id.

    One whose value or priority cannot be computed goes to `rejections`. `truths`: of the predicates in this context.
    """
    weighing = Weighing(
        settings,
        context,
        contexts=_context_weights(settings, truths),
        influences=influences(settings.influencers, profile, repertoire),
    )
    ranked: list[tuple[bool, float, int, Scored]] = []
    for candidate, propensity in propensities:
        scored = _scored(candidate, propensity, weighing)
        if isinstance(scored, Scored):
            # Candidates are numbered in the order of their ids.
            last = candidate.action.action_class != "mandatory"
            ranked.append((last, -scored.priority, candidate.index, scored))
        else:
            rejections.append(Rejection(candidate.action.id, "suitability", f"{candidate.treatment.id}: {scored}"))
    ranked.sort()
    return [each[3] for each in ranked]


FORMULA_DRAWS = 16
"""Draws of each candidate that a formula is evaluated for."""


def priorities(scored: Sequence[Scored], draws: Draws, settings: Arbitration, context: Context) -> Draws:
    """Each candidate's priority in each draw of its propensity; rows as in `draws`.

    With a formula only `FORMULA_DRAWS` of the draws, and where it has no value a draw is lost.
    """
    if settings.formula is None:
        weights = np.array([each.context_weight * each.value * each.lever for each in scored], dtype=np.float32)
        return draws * weights[:, None]
    rows = []
    for each, drawn in zip(scored, draws[:, :FORMULA_DRAWS].tolist(), strict=True):
        action = _action_root(each.candidate.action)
        factors = {"context_weight": each.context_weight, "value": each.value, "lever": each.lever}
        scope = {**context, **action, **factors}
        values = [_number(settings.formula.value({**scope, "propensity": p})) for p in drawn]
        rows.append([-math.inf if value is None else value for value in values])
    return np.array(rows, dtype=np.float32)


def _context_weights(settings: Arbitration, truths: Memo) -> Weights:
    if not settings.context:
        return ()
    return [
        (each.scope, each.weight)
        for each in settings.context_weights
        if truths.first_false(each.when.predicates) is None
    ]


def _scored(candidate: Candidate, propensity: float, weighing: Weighing) -> Scored | str:
    """The candidate with its priority, or what cannot be computed."""
    settings, action = weighing.settings, candidate.action
    value = _value(action, weighing.context) if settings.value else 1.0
    if value is None:
        return "its value cannot be computed"
    p = propensity if settings.propensity else 1.0
    c = _factor(candidate, 0.0, weighing.contexts)
    lever = _factor(candidate, action.lever, weighing.influences) if settings.lever else 1.0
    priority: float | None = p * c * value * lever
    if settings.formula is not None:
        factors = {"propensity": p, "context_weight": c, "value": value, "lever": lever}
        priority = _number(settings.formula.value({**weighing.context, **_action_root(action), **factors}))
    if priority is None or not math.isfinite(priority):
        return "its priority cannot be computed"
    return Scored(candidate, p, c, value, lever, priority)


def _factor(candidate: Candidate, percent: float, weights: Weights) -> float:
    """Percentages of everything that covers a candidate, added up, as a factor that is not negative."""
    if weights:
        names = named(candidate)
        percent += sum(weight for scope, weight in weights if scope.covers(*names))
    return max(0.0, 1.0 + percent / 100)


def _value(action: Action, context: Context) -> float | None:
    if isinstance(action.value, Expression):
        return _number(action.value.value({**context, **_action_root(action)}))
    return action.value


def _action_root(action: Action) -> Context:
    return {"action": {"id": action.id, "issue": action.issue, "group": action.group, "tags": action.tags}}


def _number(value: object) -> float | None:
    if value is MISSING or isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


# --- Influencers ---


def influences(influencers: Iterable[Influencer], profile: Profile, repertoire: Repertoire) -> Weights:
    """What earlier outcomes add to levers, in percent (Pega, "Using Arbitration Influencers")."""
    if not profile.answers:
        return ()
    weights = [(each.target, _weight_at(each, profile, repertoire)) for each in influencers]
    return [each for each in weights if each[1]]


def _weight_at(influencer: Influencer, profile: Profile, repertoire: Repertoire) -> float:
    """The weight since the latest matching outcome: from `start` to `end` in equal steps, then none."""
    times = [each.at_ms for each in profile.answers if _matches(each, influencer, repertoire)]
    if not times:
        return 0.0
    elapsed_ms = max(0, profile.now_ms - max(times))
    if elapsed_ms >= influencer.period_ms:
        return 0.0
    step = elapsed_ms * influencer.steps // influencer.period_ms
    progress = step / (influencer.steps - 1) if influencer.steps > 1 else 0.0
    return influencer.start + (influencer.end - influencer.start) * progress


def _matches(answer: Answer, influencer: Influencer, repertoire: Repertoire) -> bool:
    return answer.type == influencer.outcome and influencer.source.covers(
        answer.issue, answer.group, answer.action, tags_of(answer.action, repertoire), answer.channel
    )
