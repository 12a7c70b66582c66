"""Arbitrate: priority = P · C · V · L for every candidate, and the ranking that follows.

Propensity, context weight, value and lever (Pega, "Arbitration strategy"); weights are percentages that add up
before they multiply, and C and L never fall below 0. A factor switched off counts 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from engine.candidates import Pool, Rejections, Rows, Selection, named, tags_of
from engine.context import Context
from engine.exploration import Draws
from engine.expression import MISSING, Expression, Memo
from engine.lazy import Lazy
from engine.profile import Answer, Profile
from engine.repertoire import Action, Arbitration, Candidate, Influencer, Repertoire, Scope

Weights = Sequence[tuple[Scope, float]]
"""What is covered, and the percentage that it gains."""
Column = npt.NDArray[np.float64]


class Scored(msgspec.Struct, frozen=True, gc=False):
    """A candidate with its four factors and its priority."""

    candidate: Candidate
    propensity: float
    context_weight: float
    value: float
    lever: float
    priority: float


class Factors(NamedTuple):
    """The factors of some candidates and their priorities; a factor that is the same for all is one number."""

    propensity: Column | float
    context_weight: Column | float
    value: Column | float
    lever: Column | float
    priority: Column


class Ranked(Lazy[Scored]):
    """Candidates from best to worst.

    `order`: their places in `candidates`, which `factors` and the rows of `draws` follow; `draws`: what their
    propensities could be, None when they are taken for certain.
    """

    __slots__ = ("candidates", "draws", "factors", "order")

    def __init__(self, candidates: Selection, factors: Factors, order: Rows, draws: Draws | None = None) -> None:
        self.candidates, self.factors, self.order, self.draws = candidates, factors, order, draws

    def __len__(self) -> int:
        return len(self.order)

    def at(self, place: int) -> Scored:
        """The candidate at a place, with its factors."""
        at = self.order.item(place)
        propensity, weight, value, lever, priority = self.factors
        return Scored(
            self.candidates.at(at),
            propensity if isinstance(propensity, float) else propensity.item(at),
            weight if isinstance(weight, float) else weight.item(at),
            value if isinstance(value, float) else value.item(at),
            lever if isinstance(lever, float) else lever.item(at),
            priority.item(at),
        )

    def candidate(self, place: int) -> Candidate:
        """The candidate at a place."""
        return self.candidates.at(self.order.item(place))

    @property
    def rows(self) -> Rows:
        """The rows of their pool."""
        return self.candidates.rows[self.order]

    def take(self, places: npt.NDArray[np.bool_] | Rows | Sequence[int] | slice) -> Ranked:
        """Those at some places, in the order of these, or where a mask is true."""
        return Ranked(self.candidates, self.factors, self.order[places], self.draws)


def rank(
    candidates: Selection,
    propensities: Column,
    context: Context,
    profile: Profile,
    settings: Arbitration,
    truths: Memo,
    rejections: Rejections,
    draws: Draws | None = None,
) -> Ranked:
    """Candidates from best to worst: mandatory ones first, then by priority, ties by action and treatment id.

    One whose value or priority cannot be computed goes to `rejections`. `truths`: of the predicates in this context.
    """
    worth, repertoire = candidates.pool.part(worth_of), candidates.pool.repertoire
    weights = _context_weights(settings, truths)
    influencing = influences(settings.influencers, profile, repertoire) if settings.lever else ()
    unordered = Factors(
        propensity=propensities if settings.propensity else 1.0,
        context_weight=_factor(candidates, None, weights),
        value=_values(candidates, worth, context) if settings.value else 1.0,
        lever=_factor(candidates, worth, influencing) if settings.lever else 1.0,
        priority=propensities,
    )
    priority = _priorities(candidates, unordered, settings, context)
    factors = Factors(*unordered[:-1], priority)
    # Rows are in the order of ids, and sorting keeps it where priorities are equal.
    if worth.mandatory is None:
        order = (-priority).argsort(kind="stable")
    else:
        order = np.lexsort((-priority, ~worth.mandatory[candidates.rows]))
    if not math.isfinite(np.add.reduce(priority)):
        known = np.isfinite(priority)
        _tell_unknown(candidates, factors, known, rejections)
        order = order[known[order]]
    return Ranked(candidates, factors, order, draws)


def ranked_alone(candidates: Selection) -> Ranked:
    """The first of some candidates, if there is one, without arbitration."""
    first = candidates.keep(slice(1))
    return Ranked(first, Factors(0.0, 1.0, 0.0, 1.0, np.zeros(len(first))), np.arange(len(first)))


FORMULA_DRAWS = 16
"""Draws of each candidate that a formula is evaluated for."""


def priorities(ranked: Ranked, draws: Draws, settings: Arbitration, context: Context) -> Draws:
    """Each candidate's priority in each draw of its propensity; rows as in the ranking, in `draws` too.

    With a formula only `FORMULA_DRAWS` of the draws, and where it has no value a draw is lost.
    """
    factors = ranked.factors
    if settings.formula is None:
        weights: Column | float = factors.context_weight * factors.value * factors.lever
        if isinstance(weights, float):
            return draws * np.float32(weights)
        return draws * weights[ranked.order].astype(np.float32)[:, None]
    rows = []
    for each, drawn in zip(ranked, draws[:, :FORMULA_DRAWS].tolist(), strict=True):
        action = _action_root(each.candidate.action)
        others = {"context_weight": each.context_weight, "value": each.value, "lever": each.lever}
        scope = {**context, **action, **others}
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


def _priorities(candidates: Selection, factors: Factors, settings: Arbitration, context: Context) -> Column:
    """The product of the factors, or what the formula makes of them; no number where there is none."""
    if settings.formula is None:
        product = factors.propensity
        for factor in (factors.context_weight, factors.value, factors.lever):
            if not isinstance(factor, float):  # it is 1
                product = product * factor
        return np.full(len(candidates), product) if isinstance(product, float) else product
    found = []
    for each in Ranked(candidates, factors, np.arange(len(candidates))):
        others = {"context_weight": each.context_weight, "value": each.value, "lever": each.lever}
        scope = {**context, **_action_root(each.candidate.action), "propensity": each.propensity, **others}
        found.append(math.nan if math.isnan(each.value) else _computed(settings.formula, scope))
    return np.array(found)


def _tell_unknown(
    candidates: Selection, factors: Factors, known: npt.NDArray[np.bool_], rejections: Rejections
) -> None:
    for at in (~known).nonzero()[0].tolist():
        candidate, value = candidates[at], factors.value
        computed = isinstance(candidate.action.value, Expression)
        unknown = "value" if computed and not isinstance(value, float) and math.isnan(value[at]) else "priority"
        reason = f"{candidate.treatment.id}: its {unknown} cannot be computed"
        rejections.add(candidate.action.id, "suitability", reason)


def _factor(candidates: Selection, worth: Worth | None, weights: Weights) -> Column | float:
    """Percentages of everything that covers a candidate, with its own lever where `worth` says, as a factor.

    It is not negative.
    """
    if not weights:
        return 1.0 if worth is None or worth.levers is None else worth.levers[candidates.rows]
    covered = candidates.pool.part(_coverage)
    percent = np.zeros(len(candidates))
    for scope, weight in weights:
        mask = covered.get(scope)
        if mask is None:
            mask = covered[scope] = np.array([scope.covers(*named(each)) for each in candidates.pool], dtype=np.bool_)
        percent[mask[candidates.rows]] += weight
    if worth is not None:
        percent = worth.percents[candidates.rows] + percent
    factor: Column = np.maximum(0.0, 1.0 + percent / 100)
    return factor


# --- What a pool is worth, compiled ---


class Worth(NamedTuple):
    """Values and levers by row. `formulas`: the values that are computed, each with its rows.

    `percents`: levers as configured; `levers`: as factors, None when all are 1. `mandatory`: None when no candidate is.
    """

    values: Column
    formulas: Sequence[Formula]
    percents: Column
    levers: Column | None
    mandatory: npt.NDArray[np.bool_] | None


class Formula(NamedTuple):
    """A value that is computed, for these rows; `by_action`: for each of them by itself."""

    expression: Expression
    by_action: bool
    rows: Rows


def worth_of(pool: Pool) -> Worth:
    """Values and levers of the candidates of a pool."""
    values = np.zeros(len(pool))
    computed: dict[str, tuple[Expression, list[int]]] = {}
    for row, each in enumerate(pool):
        value = each.action.value
        if isinstance(value, Expression):
            computed.setdefault(value.key, (value, []))[1].append(row)
        else:
            values[row] = value
    percents = np.array([float(each.action.lever) for each in pool])
    mandatory = np.array([each.action.action_class == "mandatory" for each in pool], dtype=np.bool_)
    return Worth(
        values=values,
        formulas=[
            Formula(expression, any(path[0] == "action" for path in expression.paths), np.array(rows))
            for expression, rows in computed.values()
        ],
        percents=percents,
        levers=np.maximum(0.0, 1.0 + percents / 100) if percents.any() else None,
        mandatory=mandatory if mandatory.any() else None,
    )


def _coverage(pool: Pool) -> dict[Scope, npt.NDArray[np.bool_]]:  # noqa: ARG001 - filled as scopes are asked for
    """Which rows a scope covers."""
    return {}


def _values(candidates: Selection, worth: Worth, context: Context) -> Column:
    """The value of each candidate; no number where it cannot be computed."""
    if not worth.formulas:
        return worth.values.take(candidates.rows)
    values, asked = worth.values.copy(), None
    for expression, by_action, rows in worth.formulas:
        if not by_action and len(worth.formulas) <= _FEW:
            values[rows] = _computed(expression, context)
            continue
        asked = frozenset(candidates.rows.tolist()) if asked is None else asked
        needed = asked.intersection(rows.tolist())
        if by_action:
            for row in needed:
                scope = {**context, **_action_root(candidates.pool.at(row).action)}
                values[row] = _computed(expression, scope)
        elif needed:
            values[rows] = _computed(expression, context)
    return values.take(candidates.rows)


def _computed(expression: Expression, scope: Context) -> float:
    value = _number(expression.value(scope))
    return math.nan if value is None else value


_FEW = 8
"""Formulas that are computed without looking who is left to need them."""


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
