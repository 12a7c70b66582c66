"""The scorer a worker decides with: models as they were published, over the candidates of its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from engine.candidates import indices_of
from engine.context import Context
from engine.exploration import DRAWS, Draws, posterior_draws
from engine.learning import action_scope, model_of
from engine.profile import Profile
from engine.repertoire import Candidate, Exploration, ModelRule, Repertoire
from engine.scoring import Scores
from models.baseline import PriorScorer
from models.learner import Arm, Posterior
from models.registry import LEARNERS, new
from models.snapshot import Snapshot

Means = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
UNTRAINED = "untrained"
"""Version of a model of which nothing was published yet: it answers with the stated propensities."""


class Bound(msgspec.Struct, frozen=True):
    """One version of a model over the candidates it scores, by their place among these.

    `posterior`: None while the model is tripped. `maturity`: what to divide each candidate's reward by, as some of it
    is still to come; 1 for all unless the model is `young`.
    `reach`: the share of customers each may be sent to; None: all may.
    """

    model: str
    version: str
    posterior: Posterior | None
    maturity: npt.NDArray[np.float32]
    young: bool
    reach: list[float] | None


class _Covered(msgspec.Struct, frozen=True):
    """The candidates a model scores."""

    rule: ModelRule
    arms: list[Arm]
    action_x: npt.NDArray[np.float64]
    priors: npt.NDArray[np.float64]


class ModelScorer:
    """Scores by posteriors; what no model covers, and what a tripped one covers, by its stated propensity.

    `install` replaces a whole version of a model; a decision sees one version of each.
    """

    def __init__(self, repertoire: Repertoire, seed: int = 0) -> None:
        self._repertoire = repertoire
        self._prior = PriorScorer(repertoire)
        self._covered = {rule.id: _covered(rule, repertoire) for rule in repertoire.models}
        self._owner = np.full(len(repertoire.candidates), -1, dtype=np.intp)
        self._row = np.zeros(len(repertoire.candidates), dtype=np.intp)
        self._ids = [rule.id for rule in repertoire.models]
        places = dict.fromkeys(self._ids, 0)
        for each in repertoire.candidates:
            rule = model_of(each, repertoire)
            if rule is not None:
                self._owner[each.index], self._row[each.index] = self._ids.index(rule.id), places[rule.id]
                places[rule.id] += 1
        self._bound = {rule.id: self._untrained(rule, seed) for rule in repertoire.models}

    @property
    def versions(self) -> Mapping[str, str]:
        """Model → the version it scores with."""
        return {model: bound.version for model, bound in self._bound.items()}

    def bind(self, snapshot: Snapshot) -> Bound:
        """Lay a snapshot over the candidates. ValueError when it cannot be used; KeyError: no such model here."""
        covered = self._covered[snapshot.model]
        learner = LEARNERS.get(snapshot.learner)
        if learner is None:
            raise ValueError(f"learner {snapshot.learner!r} is none of {', '.join(sorted(LEARNERS))}")
        posterior = None
        if snapshot.status == "serving":
            slots = self._repertoire.features.slots
            posterior = learner.posterior(snapshot.exported, slots, covered.arms, covered.action_x, covered.priors)
        maturity = np.array([snapshot.maturity.get(arm, 1.0) for arm in covered.arms], dtype=np.float32)
        young, reach = bool((maturity != 1.0).any()), self._reach(snapshot, covered.arms)
        return Bound(snapshot.model, snapshot.version, posterior, maturity, young, reach)

    def swap(self, bound: Bound) -> None:
        """Score with this version from the next decision on."""
        self._bound[bound.model] = bound

    def install(self, snapshot: Snapshot) -> None:
        """Bind and swap. Raises as `bind`."""
        self.swap(self.bind(snapshot))

    def score(self, candidates: Sequence[Candidate], context: Context, profile: Profile, draw: int = 0) -> Scores:
        """Propensities and draws of each candidate, in [0, 1]."""
        if not self._ids or not candidates:
            return self._prior.score(candidates, context, profile, draw)
        index = indices_of(candidates)
        owners, rows, columns = self._owner[index], self._row[index], index + draw
        schema = self._repertoire.features
        values = schema.read(context)
        x = schema.vector(values)
        bound = self._bound[self._ids[owners[0]]]
        if bound.posterior is not None and owners[0] >= 0 and (owners == owners[0]).all():
            # The usual case: one model, and no copies.
            means, draws = _posterior(bound, bound.posterior, x, rows, columns)
            models = {bound.model: bound.version}
        else:
            means, draws, models = self._mixed(candidates, context, profile, x, columns)
        if models.keys() == self._prior.models.keys():
            return self._prior.score(candidates, context, profile, draw)
        return Scores(means, models, draws, self._reaches(owners, rows), values)

    def _mixed(
        self,
        candidates: Sequence[Candidate],
        context: Context,
        profile: Profile,
        x: Means,
        columns: Rows,
    ) -> tuple[Means, Draws, dict[str, str]]:
        """Means and draws of candidates of several models, of none, or of one that is tripped; and what said so."""
        index = indices_of(candidates)
        owners, rows = self._owner[index], self._row[index]
        means = np.array(self._prior.score(candidates, context, profile).propensities)
        draws = np.repeat(means.astype(np.float32)[:, None], DRAWS, axis=1)
        models: dict[str, str] = {}
        for owner in np.unique(owners).tolist():
            bound = self._bound[self._ids[owner]] if owner >= 0 else None
            if bound is not None:
                models[bound.model] = bound.version
            if bound is None or bound.posterior is None:
                models.update(self._prior.models)
            else:
                mine = owners == owner
                means[mine], draws[mine] = _posterior(bound, bound.posterior, x, rows[mine], columns[mine])
        return means, draws, models

    def _reaches(self, owners: Rows, rows: Rows) -> list[float] | None:
        if all(bound.reach is None for bound in self._bound.values()):
            return None
        reaches = [self._bound[model].reach for model in self._ids]
        pairs = zip(owners.tolist(), rows.tolist(), strict=True)
        return [1.0 if owner < 0 or (reach := reaches[owner]) is None else reach[row] for owner, row in pairs]

    def _reach(self, snapshot: Snapshot, arms: Sequence[Arm]) -> list[float] | None:
        settings = self._repertoire.arbitration.exploration
        if settings.ramp_positives == 0:
            return None
        positives: dict[str, int] = {}
        for arm, evidence in snapshot.evidence.items():
            positives[arm.action] = positives.get(arm.action, 0) + evidence.positives
        return [reach_of(positives.get(arm.action, 0), settings) for arm in arms]

    def _untrained(self, rule: ModelRule, seed: int) -> Bound:
        """The champion before it has learned anything."""
        covered, champion, repertoire = self._covered[rule.id], rule.learners[rule.champion], self._repertoire
        features, action_features = repertoire.features.slots, repertoire.action_features.slots
        learner = new(champion.kind, features, action_features, seed, champion.parameters)
        posterior = learner.posterior(learner.export(), features, covered.arms, covered.action_x, covered.priors)
        settings = repertoire.arbitration.exploration
        reach = [reach_of(0, settings)] * len(covered.arms) if settings.ramp_positives else None
        return Bound(rule.id, UNTRAINED, posterior, np.ones(len(covered.arms), dtype=np.float32), False, reach)


class Together:
    """One feed of models for the scorers of a configuration and of its apprentice, which gets what it can use."""

    def __init__(self, live: ModelScorer, apprentice: ModelScorer) -> None:
        self._live, self._apprentice = live, apprentice

    def bind(self, snapshot: Snapshot) -> tuple[Bound, Bound | None]:
        """Bind for both. Raises as the live scorer's `bind`."""
        bound = self._live.bind(snapshot)
        try:
            return bound, self._apprentice.bind(snapshot)
        except (KeyError, ValueError):
            return bound, None

    def swap(self, bound: tuple[Bound, Bound | None]) -> None:
        """Score with these versions from the next decision on."""
        self._live.swap(bound[0])
        if bound[1] is not None:
            self._apprentice.swap(bound[1])


def reach_of(positives: int, settings: Exploration) -> float:
    """The share of customers a young action may be sent to (Pega, "maturity"; mission D3)."""
    if positives >= settings.ramp_positives:
        return 1.0
    return settings.ramp_start + (1.0 - settings.ramp_start) * positives / settings.ramp_positives


def _covered(rule: ModelRule, repertoire: Repertoire) -> _Covered:
    candidates = [each for each in repertoire.candidates if model_of(each, repertoire) is rule]
    schema = repertoire.action_features
    action_x = [schema.vector(schema.read(action_scope(each.action, each.treatment))) for each in candidates]
    return _Covered(
        rule=rule,
        arms=[Arm(each.action.group, each.action.id, each.treatment.id) for each in candidates],
        action_x=np.array(action_x).reshape(len(candidates), len(schema.slots)),
        priors=np.array([each.treatment.propensity for each in candidates]),
    )


def _posterior(bound: Bound, posterior: Posterior, x: Means, rows: Rows, columns: Rows) -> tuple[Means, Draws]:
    """Expected rewards and draws of the candidates in `rows`; what is still to come of rewards counts as come."""
    mean, deviation = posterior.score(x, rows)
    means = posterior.propensities(mean, deviation, rows)
    draws = posterior_draws(mean, deviation, posterior.link, columns)
    if bound.young:
        maturity = bound.maturity[rows]
        draws /= maturity[:, None]
        np.minimum(draws, 1.0, out=draws)
        means = np.minimum(means / maturity, 1.0)
    return means, draws
