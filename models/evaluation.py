"""Off-policy evaluation: what a changed policy would have earned, from decisions that were logged with their chance.

Start at `evaluate` (rows of a decision log) or `estimate` (arrays). Both answer with a `Report`: estimates with
intervals, what they rest on, and in plain sentences why not to trust them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from models import estimators
from models.estimators import Terms
from models.evaluation_report import Estimate, Report
from models.intervals import Interval, Numbers, clustered, guaranteed
from models.learner import Vector
from models.overlap import effective_sample_size, overlap_of, warnings_of
from models.reward_model import fit_reward_model

LEAST_REWARDS = 20.0
FOLDS = 5


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """A decision of the log beside what the target policy would have done in the same circumstances.

    `cluster`: the customer; decisions of one are dependent. `logged`: the chance of the choice when it was made, in
    (0, 1]; None where it was not logged. `target`: the target policy's chance of that same action, in [0, 1]; None
    where it cannot be told. `features`: of the customer, one length for all rows. `targets`: the target policy's
    chance of every action it could take; with it and `features` on every row a reward model can be fitted.
    """

    decision_id: str
    cluster: str
    reward: float
    logged: float | None
    target: float | None
    action: str
    features: tuple[float, ...] | None = None
    targets: Mapping[str, float] | None = None


class _Data(NamedTuple):
    """Arrays of one entry per decision."""

    rewards: Vector
    weights: Vector
    clusters: Numbers
    confidence: float
    bounds: Interval | None


# --- From a decision log ---


def evaluate(
    rows: Iterable[Logged],
    *,
    confidence: float = 0.95,
    reward_range: tuple[float, float] | None = None,
    seed: int = 0,
) -> Report:
    """Evaluate a target policy on logged decisions; a row that cannot be used is left out, and the report says so.

    `reward_range`: what a reward can be by its definition; by default [0, 1] when all rewards are in it. `seed`: of
    the folds of the reward model. Raises ValueError when no row is usable, or a value is outside its range.
    """
    usable, warnings = _usable(list(rows))
    names, clusters = np.unique([row.cluster for row in usable], return_inverse=True)
    model: tuple[Vector, Vector] | None = None
    if all(row.features is not None and row.targets is not None for row in usable) and len(names) >= FOLDS:
        model = _modelled(usable, clusters, seed)
    report = estimate(
        np.array([row.reward for row in usable], dtype=float),
        np.array([row.logged for row in usable], dtype=float),
        np.array([_target(row) for row in usable], dtype=float),
        clusters,
        *(model or (None, None)),
        confidence=confidence,
        reward_range=reward_range,
    )
    share, unseen = _never_logged(usable)
    overlap = msgspec.structs.replace(report.overlap, never_logged_share=share)
    return msgspec.structs.replace(report, overlap=overlap, warnings=(*warnings, *unseen, *report.warnings))


def _target(row: Logged) -> float | None:
    if row.target is None and row.targets is not None:
        return row.targets.get(row.action, 0.0)
    return row.target


def _why_not(row: Logged, seen: set[str]) -> str | None:
    """Why a row cannot be used; None when it can."""
    if row.decision_id in seen:
        return "the same decision a second time"
    if row.logged is None:
        return "no probability was logged"
    if row.logged == 0:
        return "the logged probability of what was chosen is 0, which cannot be"
    if _target(row) is None:
        return "what the target policy would do there is not known"
    return None


def _usable(rows: Sequence[Logged]) -> tuple[list[Logged], list[str]]:
    seen: set[str] = set()
    usable, refused = [], Counter[str]()
    for row in rows:
        reason = _why_not(row, seen)
        seen.add(row.decision_id)
        if reason is None:
            usable.append(row)
        else:
            refused[reason] += 1
    if not usable:
        found = "; ".join(f"{count} times: {reason}" for reason, count in refused.items())
        raise ValueError(f"none of {len(rows)} decisions can be used ({found or 'the log is empty'})")
    left_out = "{} of {} decisions are left out, the values are for the others only: {}."
    return usable, [left_out.format(count, len(rows), reason) for reason, count in refused.items()]


def _modelled(rows: Sequence[Logged], clusters: Numbers, seed: int) -> tuple[Vector, Vector]:
    """q of the logged action and v of the target policy, by decision."""
    targets = [row.targets or {} for row in rows]
    actions = sorted({row.action for row in rows}.union(*targets))
    number = {action: index for index, action in enumerate(actions)}
    chosen = np.array([number[row.action] for row in rows])
    features = np.array([row.features for row in rows], dtype=float).reshape(len(rows), -1)
    rewards = np.array([row.reward for row in rows], dtype=float)
    predicted = fit_reward_model(features, chosen, rewards, clusters, len(actions), FOLDS, seed=seed)
    v_target = np.zeros(len(rows))
    for index, target in enumerate(targets):
        v_target[index] = sum(chance * predicted[index, number[action]] for action, chance in target.items())
    return predicted[np.arange(len(rows)), chosen], v_target


def _never_logged(rows: Sequence[Logged]) -> tuple[float | None, list[str]]:
    """The share of the target's choices for actions the log never took, and a sentence when there are any."""
    if any(row.targets is None for row in rows):
        return None, []
    taken = {row.action for row in rows}
    missing: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        for action, chance in (row.targets or {}).items():
            if chance > 0 and action not in taken:
                missing[action] += chance
    share = sum(missing.values()) / len(rows)
    if not missing:
        return 0.0, []
    names = ", ".join(repr(name) for name in sorted(missing, key=lambda name: -missing[name])[:5])
    text = f"{share:.1%} of the policy's choices go to actions that no logged decision took ({names}): "
    return share, [text + "the log says nothing about them."]


# --- From arrays ---


def estimate(
    rewards: Vector,
    logged: Vector,
    target: Vector,
    clusters: Numbers | None = None,
    q_chosen: Vector | None = None,
    v_target: Vector | None = None,
    *,
    confidence: float = 0.95,
    reward_range: tuple[float, float] | None = None,
) -> Report:
    """Evaluate a target policy from arrays of one entry per decision.

    `logged`: the chance of the action taken, in (0, 1]. `target`: the target policy's chance of it, in [0, 1].
    `clusters`: labels of customers; None: every decision is its own. `q_chosen`, `v_target`: a reward model's
    reward of the action taken, and of the target policy's choice on average; both or neither. `reward_range`: as
    in `evaluate`. Raises ValueError for what is outside its range.
    """
    data = _checked(rewards, logged, target, clusters, confidence, reward_range)
    made: dict[str, tuple[Terms, tuple[str, ...]]] = _unmodelled(data)
    if q_chosen is not None and v_target is not None:
        made |= _with_model(data, q_chosen, v_target)
    recommended = "dr" if "dr" in made else "snips"
    estimates = [_estimate(name, terms, data, warnings) for name, (terms, warnings) in made.items()]
    if data.bounds is not None:
        ess = effective_sample_size(data.weights)
        middle = made["clipped-ips"][0].value
        estimates.append(
            Estimate(estimator="bernstein", value=middle, n=len(rewards), ess=ess, **data.bounds._asdict())
        )
    on_policy, chosen = estimators.mean(data.rewards), made[recommended][0]
    overlap = overlap_of(logged, target, data.clusters)
    return Report(
        confidence=confidence,
        logged=_estimate("logged", on_policy, data),
        estimates=tuple(estimates),
        recommended=recommended,
        change=_change(chosen, on_policy, data),
        overlap=overlap,
        warnings=tuple(warnings_of(overlap)),
    )


def _checked(
    rewards: Vector,
    logged: Vector,
    target: Vector,
    clusters: Numbers | None,
    confidence: float,
    reward_range: tuple[float, float] | None,
) -> _Data:
    if not (len(rewards) == len(logged) == len(target) > 0):
        raise ValueError(f"{len(rewards)} rewards, {len(logged)} logged and {len(target)} target probabilities")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: expected a number between 0 and 1, such as 0.95")
    _within(rewards, "reward", -np.inf, np.inf)
    _within(logged, "logged probability", np.nextafter(0, 1), 1.0)
    _within(target, "target probability", 0.0, 1.0)
    labels = np.arange(len(rewards)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    if reward_range is None and rewards.min() >= 0 and rewards.max() <= 1:
        reward_range = (0.0, 1.0)
    weights = target / logged
    bounds = None
    if reward_range is not None:
        _within(rewards, "reward", *reward_range)
        bounds = guaranteed(rewards, weights, labels, reward_range, confidence)
    return _Data(rewards, weights, labels, confidence, bounds)


def _within(values: Vector, name: str, low: float, high: float) -> None:
    wrong = ~(np.isfinite(values) & (values >= low) & (values <= high + 1e-9))
    if wrong.any():
        where = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"{name} {values[where]} of decision {where}: expected a number from {low:g} to {high:g}")


def _unmodelled(data: _Data) -> dict[str, tuple[Terms, tuple[str, ...]]]:
    clip = float(np.sqrt(len(data.weights)))
    clipped = estimators.clipped_ips(data.rewards, data.weights, clip)
    share = float(np.mean(data.weights > clip))
    said = (f"{share:.2%} of the weights are clipped to {clip:.0f}: biased towards 0.",) if share else ()
    return {
        "ips": (estimators.ips(data.rewards, data.weights), ()),
        "clipped-ips": (clipped, said),
        "snips": (estimators.snips(data.rewards, data.weights), ()),
    }


def _with_model(data: _Data, q_chosen: Vector, v_target: Vector) -> dict[str, tuple[Terms, tuple[str, ...]]]:
    arguments = (data.rewards, data.weights, q_chosen, v_target)
    robust = estimators.doubly_robust(*arguments)
    made: dict[str, tuple[Terms, tuple[str, ...]]] = {
        "dm": (estimators.direct(v_target), ("as right as the reward model; the interval leaves its error out.",)),
        "dr": (robust, ()),
    }
    for name, terms in {
        "dr-shrunk": estimators.shrunk_doubly_robust(*arguments),
        "switch-dr": estimators.switch(*arguments),
    }.items():
        bias = terms.value - robust.value
        said = (
            f"gives up some of the weights for less variance; a bias of about {bias:.2g} is left out of the interval."
        )
        made[name] = (terms, (said,) if bias else ())
    return made


def _estimate(name: str, terms: Terms, data: _Data, warnings: tuple[str, ...] = ()) -> Estimate:
    count = len(data.rewards)
    ess = float(count) if terms.weights is None else effective_sample_size(terms.weights)
    if np.isnan(terms.value):
        said = "the policy never takes a logged action."
        return Estimate(estimator=name, value=np.nan, low=-np.inf, high=np.inf, n=count, ess=ess, warnings=(said,))
    interval = clustered(terms.value, terms.influence, data.clusters, data.confidence)
    if interval.low == interval.high:
        # Nothing varied, so nothing can be told from the sample's own spread.
        interval = data.bounds or Interval(-np.inf, np.inf)
    rests_on = effective_sample_size(np.abs(data.rewards if terms.weights is None else data.rewards * terms.weights))
    if name != "dm" and rests_on < LEAST_REWARDS:
        warnings = (*warnings, f"rests on about {rests_on:.0f} rewards; at least {LEAST_REWARDS:.0f} are wanted.")
    return Estimate(estimator=name, value=terms.value, n=count, ess=ess, warnings=warnings, **interval._asdict())


def _change(chosen: Terms, on_policy: Terms, data: _Data) -> Estimate:
    """How much more the target earns; on the same decisions, so less uncertain than two intervals side by side."""
    value, n = chosen.value - on_policy.value, len(data.rewards)
    ess = effective_sample_size(data.weights)
    if np.isnan(value):
        return Estimate(estimator="change", value=value, low=-np.inf, high=np.inf, n=n, ess=ess)
    influence = chosen.influence - on_policy.influence
    interval = clustered(value, influence, data.clusters, data.confidence)
    return Estimate(estimator="change", value=value, n=n, ess=ess, **interval._asdict())
