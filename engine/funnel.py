"""The funnel of one decision: candidates → eligibility → constraints → score → arbitrate → decide.

Each stage only takes candidates away and records why; the order is that of Pega's Next-Best-Action framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from engine import budgets, choice, constraints, eligibility, experiments, exploration, history, learning
from engine import decision as decisions
from engine.arbitration import Column, Ranked, Scored, priorities, rank, ranked_alone, worth_of
from engine.budgets import Budgets, Share
from engine.calendar import format_rfc3339
from engine.candidates import Pool, Rejections, Selection, for_fallback, indices_of, is_sent, pools_of
from engine.choice import Options
from engine.constraints import Surroundings
from engine.context import Context, Request
from engine.decision import ArmRef, Decision, Explanation, decision_id
from engine.exploration import Draws
from engine.expression import Memo
from engine.lazy import once
from engine.profile import Contact, Profile
from engine.repertoire import Arbitration, Arm, Candidate, Experiment, Repertoire, Treatment
from engine.scoring import Scorer, Scores
from engine.signal import Signal

Lap = Callable[[str], None]
"""Called with the name of each stage as it ends, when somebody measures."""
Chooser = Callable[[str, Options, "Funnel"], Scored | None]
"""Chooses for a decision id among options, or what the log of another engine says; None: nothing."""
REQUEST = "request"
"""What stands for the trigger in the decisions of a request."""


class Ask(msgspec.Struct, frozen=True, gc=False):
    """One question: which of `pool` is best for this customer at this moment?

    `cause`: what the decisions' ids are made of, with trigger and placement. `limit`: most decisions to make.
    `taken`: actions other slots of the same request already show. `answer_always`: say so when there is nothing.
    """

    cause: str
    signal: Signal
    trigger: str
    pool: Pool
    limit: int
    fallback: str | None = None
    request: Request | None = None
    placement: str | None = None
    taken: frozenset[str] = frozenset()
    answer_always: bool = False


class Funnel(msgspec.Struct, dict=True):
    """What one run of the funnel works with and has found so far.

    `chooser`: who chooses instead of the draw. `control`: the choice is withheld.
    """

    ask: Ask
    profile: Profile
    context: Context
    budgets: Budgets
    share: Share
    repertoire: Repertoire
    scorer: Scorer
    lap: Lap | None = None
    chooser: Chooser | None = None
    rejections: Rejections = msgspec.field(default_factory=Rejections)
    scores: Scores = Scores((), {})
    experiment: Experiment | None = None
    arm: Arm | None = None
    control: bool = False

    @once
    def truths(self) -> Memo:
        """The predicates of rules and weights, each evaluated at most once in this run."""
        return self.repertoire.predicates.evaluate(self.context)

    @once
    def held_out(self) -> bool:
        """Whether the global holdout has this customer."""
        return experiments.is_held_out(self.repertoire.holdout, self.profile.customer_id)

    @once
    def draw(self) -> int:
        """What makes the random draws of this run its own."""
        return int(self.first_id[:8], 16)

    @once
    def first_id(self) -> str:
        """The id of the best decision of this run."""
        return _id(self, 1)

    @once
    def model_control(self) -> bool:
        """Whether this month the customer's choices are made with random propensities, where models have a say."""
        share = self.repertoire.arbitration.exploration.control
        return share > 0 and experiments.in_model_control(self.profile.customer_id, self.profile.now_ms, share)

    @once
    def promised(self) -> Mapping[str, int]:
        """Actions that unanswered messages of ours promised a customer who turns up, the latest with the least number.

        What a message promised is what every slot shows first, until it is answered or expires.
        """
        if self.ask.request is None:
            return {}
        contacts, now_ms = self.profile.contacts, self.profile.now_ms
        return {each.action: -at for at, each in enumerate(contacts) if each.outbound and history.is_open(each, now_ms)}


def decide(funnel: Funnel) -> list[Decision]:
    """The decisions of one question, best first, each entered into the contact history and the budgets.

    Empty when nothing qualified and the question needs no answer. Deterministic: chance is drawn from the
    decision's id. For a held-out customer what would have been chosen is returned as control, without effect.
    """
    qualified = eligibility.qualify(_pool(funnel), funnel.context, funnel.repertoire, funnel.rejections, funnel.truths)
    _lap(funnel, "eligibility")
    permitted = constraints.permit(qualified, _surroundings(funnel), funnel.rejections)
    permitted = _hold_out(permitted, funnel)
    _lap(funnel, "constraints")
    scored = _score(permitted, funnel)
    _lap(funnel, "score")
    arms = _rank_arms(scored, funnel)
    _lap(funnel, "arbitrate")
    made = _choose(arms, funnel)
    if not made and funnel.ask.answer_always:
        chance = sum(arm.share for arm in arms if not arm.ranked)
        made = [_decision(funnel, funnel.first_id, None, choice.NOTHING, 1, chance)]
    _lap(funnel, "decide")
    return made


def prepare(repertoire: Repertoire) -> None:
    """Compile what triggers and slots choose from, which else the first decision of each would have to wait for."""
    for pool in pools_of(repertoire):
        for compiled in (eligibility.conditions_of, constraints.covering_of, worth_of):
            pool.part(compiled)


def quiet_hours_end(funnel: Funnel) -> int | None:
    """When quiet hours that held something back end first, epoch milliseconds; None when none did."""
    if "quiet-hours" not in funnel.rejections.counts():
        return None
    around = _surroundings(funnel)
    ends = [constraints.quiet_until(each, around) for each in {each.treatment.channel for each in funnel.ask.pool}]
    return min((each for each in ends if each is not None), default=None)


def _lap(funnel: Funnel, stage: str) -> None:
    if funnel.lap is not None:
        funnel.lap(stage)


def _pool(funnel: Funnel) -> Selection:
    """What the question may choose from, without what other slots of the same request show."""
    ask = funnel.ask
    if not ask.pool:
        funnel.rejections.add("*", "eligibility", f"no treatment is configured for {_asked_for(ask)}")
    if not ask.taken:
        return ask.pool.every
    for action in sorted({each.action.id for each in ask.pool} & ask.taken):
        funnel.rejections.add(action, "applicability", "shown in another slot of this request")
    return ask.pool.every.where(lambda each: each.action.id not in ask.taken)


def _asked_for(ask: Ask) -> str:
    if ask.request is None:
        return f"trigger {ask.trigger!r}"
    if ask.placement is not None:
        return f"placement {ask.placement[:64]!r}"
    return "any channel" if ask.request.channel is None else f"channel {ask.request.channel[:64]!r}"


def _surroundings(funnel: Funnel) -> Surroundings:
    in_slot = funnel.ask.placement is not None
    return constraints.surroundings(funnel.profile, funnel.budgets, funnel.share, funnel.repertoire, in_slot=in_slot)


def _hold_out(candidates: Selection, funnel: Funnel) -> Selection:
    """What a customer may be offered: of a held-out one what is exempt, or else everything, but as control only."""
    holdout = funnel.repertoire.holdout
    if holdout is None or not funnel.held_out:
        return candidates
    exempt = candidates.where(lambda each: experiments.is_exempt(holdout, each))
    withheld = dict.fromkeys(each.action.id for each in candidates if not experiments.is_exempt(holdout, each))
    for action in withheld:
        funnel.rejections.add(action, "experiment", f"held out by {holdout.id}")
    funnel.control = bool(withheld) and not exempt
    return candidates if funnel.control else exempt


# --- Scoring ---


class Offers(NamedTuple):
    """Candidates with their propensities and what these could be, if that is known."""

    candidates: Selection
    propensities: Column
    draws: Draws | None

    def keep(self, places: npt.NDArray[np.bool_]) -> Offers:
        """Those where a mask is true."""
        draws = None if self.draws is None else self.draws[places]
        return Offers(self.candidates.keep(places), self.propensities[places], draws)


def _score(candidates: Selection, funnel: Funnel) -> Offers:
    """The candidates with their propensities, without those whose reach does not extend to this customer yet."""
    scores = funnel.scores = funnel.scorer.score(candidates, funnel.context, funnel.profile, funnel.draw)
    offers = Offers(candidates, np.asarray(scores.propensities, dtype=np.float64), scores.draws)
    if scores.reach is None:
        return offers
    pairs = zip(candidates, scores.reach, strict=True)
    return offers.keep(np.array([_reaches(each, reach, funnel) for each, reach in pairs], dtype=np.bool_))


def _reaches(candidate: Candidate, reach: float, funnel: Funnel) -> bool:
    """Whether a candidate that is sent may be sent to this customer while its model knows little about it."""
    if reach >= 1.0 or not is_sent(candidate, funnel.repertoire):
        return True
    if experiments.bucket(f"ramp/{candidate.action.id}", funnel.profile.customer_id) < reach:
        return True
    reason = f"{candidate.treatment.id}: too young, so far for {reach:.0%} of customers"
    funnel.rejections.add(candidate.action.id, "experiment", reason)
    return False


# --- Ranking, in every arm that could have been ---


class Ranking(msgspec.Struct, frozen=True, gc=False):
    """What one arm would rank: `share` of customers see it. `settings`: its arbitration."""

    share: float
    settings: Arbitration
    ranked: Ranked


def _rank_arms(offers: Offers, funnel: Funnel) -> list[Ranking]:
    """The customer's own ranking first, then those of the experiment's other arms, which probability needs.

    Held-out customers take no part in experiments.
    """
    repertoire, ask = funnel.repertoire, funnel.ask
    experiment = None
    if repertoire.experiments and not funnel.held_out:
        experiment = experiments.experiment_for(repertoire, ask.trigger, funnel.context)
    if experiment is None:
        settings = repertoire.arbitration
        ranked = _rank(offers, settings, funnel, funnel.rejections) or _fall_back(None, funnel, funnel.rejections)
        return [Ranking(1.0, settings, ranked)]
    funnel.experiment = experiment
    funnel.arm = experiments.arm_of(experiment, funnel.profile.customer_id)
    arms = zip(experiment.arms, experiments.shares(experiment), strict=True)
    rankings = [_arm_ranking(arm, share, offers, funnel) for arm, share in arms]
    own = experiment.arms.index(funnel.arm)
    return [rankings.pop(own), *rankings]


def _arm_ranking(arm: Arm, share: float, offers: Offers, funnel: Funnel) -> Ranking:
    assert funnel.experiment is not None
    rejections = funnel.rejections if arm is funnel.arm else Rejections()
    left = experiments.left_by(arm, funnel.experiment, offers.candidates, rejections)
    settings = arm.arbitration or funnel.repertoire.arbitration
    kept = offers.keep(np.isin(offers.candidates.rows, left.rows))
    ranked = _rank(kept, settings, funnel, rejections) or _fall_back(arm, funnel, rejections)
    return Ranking(share, settings, ranked)


def _rank(offers: Offers, settings: Arbitration, funnel: Funnel, rejections: Rejections) -> Ranked:
    candidates, propensities, draws = offers
    return rank(candidates, propensities, funnel.context, funnel.profile, settings, funnel.truths, rejections, draws)


def _fall_back(arm: Arm | None, funnel: Funnel, rejections: Rejections) -> Ranked:
    """The named fallback, which skips engagement rules and arbitration and obeys every constraint."""
    action, found = funnel.ask.fallback, Rejections()
    if action is None or action in funnel.ask.taken:
        return ranked_alone(funnel.ask.pool.every.keep(slice(0)))
    left = for_fallback(funnel.repertoire, action, funnel.ask.placement).every
    if arm is not None and funnel.experiment is not None:
        left = experiments.left_by(arm, funnel.experiment, left, found)
    fit = eligibility.available(left, funnel.context, found, funnel.truths)
    permitted = _hold_out(constraints.permit(fit, _surroundings(funnel), found), funnel)
    rejections.add_missing(found)
    return ranked_alone(permitted)


# --- Choosing ---


def _choose(arms: list[Ranking], funnel: Funnel) -> list[Decision]:
    """Up to `limit` decisions from the customer's own arm; each one counts before the next is chosen."""
    own, ask = arms[0], funnel.ask
    remaining, made = own.ranked, list[Decision]()
    while len(made) < ask.limit:
        decision = _id(funnel, len(made) + 1) if made else funnel.first_id
        options = _options(remaining, own.settings, funnel)
        picked = _pick(decision, options, funnel)
        if picked is None:
            break
        chosen, chance = picked
        probability = chance if made else _probability(chosen, chance, arms, funnel)
        made.append(_decision(funnel, decision, chosen, options, len(made) + 1, probability))
        if funnel.control:
            break
        _commit(chosen, decision, probability, funnel)
        if len(made) < ask.limit:
            remaining = _still_permitted(remaining, chosen, funnel)
    return made


def _pick(decision: str, options: Options, funnel: Funnel) -> tuple[Scored, float] | None:
    """What the decision's own random number picks, or whoever chooses instead, and the chance it had."""
    if funnel.chooser is not None:
        chosen = funnel.chooser(decision, options, funnel)
        return None if chosen is None else (chosen, options.chance_of(chosen.candidate.treatment.id))
    if not options.scored:
        return None
    place = choice.pick(options.own, choice.draw(decision, funnel.repertoire.seed))
    return options.scored.at(place), options.overall[place]


def _id(funnel: Funnel, rank_number: int) -> str:
    ask = funnel.ask
    return decision_id(ask.cause, funnel.profile.customer_id, ask.trigger, ask.placement, rank_number)


def _options(ranked: Ranked, settings: Arbitration, funnel: Funnel) -> Options:
    """What may be chosen of a ranking, with its chances: mandatory ones first, then what was promised.

    Neither is ever left to chance.
    """
    contenders = choice.best_treatments(ranked)
    promised = funnel.promised
    if promised:
        every = [contenders.candidate(place) for place in range(len(contenders))]
        ranks = [(not choice.is_mandatory(each), promised.get(each.action.id, 1)) for each in every]
        contenders = contenders.take(sorted(range(len(ranks)), key=ranks.__getitem__))
    if not contenders:
        return choice.NOTHING
    first = contenders.candidate(0)
    if choice.is_mandatory(first) or first.action.id in promised:
        return choice.certain(contenders)
    if ranked.draws is None or not settings.propensity:
        return choice.greedy(contenders, settings.exploration)
    return _explore(contenders, ranked, settings, funnel)


def _explore(contenders: Ranked, among: Ranked, settings: Arbitration, funnel: Funnel) -> Options:
    """Chances by how often each is the best in what the models hold possible."""
    exploration_ = settings.exploration
    assert among.draws is not None
    known = [1.0] + [0.0] * (len(among) - 1)
    if exploration_.thompson:
        known = exploration.shares_won(priorities(among, among.draws[among.order], settings, funnel.context))
    random = known
    if exploration_.control > 0:
        columns = indices_of(among.candidates)[among.order] + funnel.draw
        random = exploration.shares_won(
            priorities(among, exploration.random_draws(columns + _APART), settings, funnel.context)
        )
    return choice.explored(contenders, among, known, random, exploration_, control=funnel.model_control)


_APART = 1_024
"""Keeps the random propensities of model control apart from the draws of models."""


def _probability(chosen: Scored, own: float, arms: Sequence[Ranking], funnel: Funnel) -> float:
    """The chance of the final choice over all arms a customer could have been in.

    For ranks after the first it is that of the customer's own arm, given the choices before.
    """
    treatment = chosen.candidate.treatment.id
    others = (arm.share * _options(arm.ranked, arm.settings, funnel).chance_of(treatment) for arm in arms[1:])
    return own if len(arms) == 1 else arms[0].share * own + sum(others)


def _still_permitted(remaining: Ranked, chosen: Scored, funnel: Funnel) -> Ranked:
    """What may still be chosen, now that one more contact counts and budgets are smaller."""
    pool, action = remaining.candidates.pool, chosen.candidate.action
    others = [place for place in range(len(remaining)) if remaining.candidate(place).action is not action]
    left = remaining.take(others)
    permitted = constraints.permit(Selection(pool, left.rows), _surroundings(funnel), funnel.rejections)
    return left.take(np.isin(left.rows, permitted.rows))


# --- What was decided ---


def _commit(scored: Scored, decision: str, probability: float, funnel: Funnel) -> None:
    """Enter a decision into the contact history and reserve its budgets, before anything else is chosen."""
    chosen, scores = scored.candidate, funnel.scores
    action, treatment = chosen.action, chosen.treatment
    now_ms, repertoire = funnel.profile.now_ms, funnel.repertoire
    contact = Contact(
        decision_id=decision,
        at_ms=now_ms,
        issue=action.issue,
        group=action.group,
        action=action.id,
        treatment=treatment.id,
        channel=treatment.channel,
        expires_ms=now_ms + action.expires_after_ms,
        answerable_until_ms=now_ms + action.answerable_ms,
        counts=action.counts_toward_caps,
        outbound=funnel.ask.placement is None and is_sent(chosen, repertoire),
        cost=treatment.cost,
        pending=learning.pending_of(
            chosen, scores.features, scores.models, scored.propensity, probability, now_ms, repertoire
        ),
    )
    history.add_contact(funnel.profile, contact, repertoire.retention, repertoire.profile.limits.contacts)
    for budget in constraints.budgets_of(chosen, repertoire):
        amount = budgets.amount_of(budget, treatment.cost)
        budgets.reserve(budget, funnel.budgets, amount, now_ms, repertoire.zones)


def _decision(
    funnel: Funnel, decision: str, chosen: Scored | None, options: Options, rank_number: int, probability: float
) -> Decision:
    ask, repertoire, now_ms = funnel.ask, funnel.repertoire, funnel.profile.now_ms
    action = None if chosen is None else chosen.candidate.action
    treatment = None if chosen is None else chosen.candidate.treatment
    arm = None if funnel.experiment is None or funnel.arm is None else ArmRef(funnel.experiment.id, funnel.arm.id)
    return Decision(
        decision_id=decision,
        customer_id=funnel.profile.known_as,
        signal_id=ask.signal.message_id,
        request_id=None if ask.request is None else ask.request.id,
        trigger=ask.trigger,
        journey=None,
        action=None if action is None else action.id,
        treatment=None if treatment is None else treatment.id,
        channel=None if treatment is None else treatment.channel,
        placement=ask.placement,
        content=None if treatment is None or funnel.control else _content(treatment, funnel.context),
        rank=rank_number,
        score=None if chosen is None else decisions.score_of(chosen),
        probability=probability,
        control=funnel.control,
        experiment=arm,
        explanation=Explanation(
            considered=ask.pool.action_count,
            rejected=decisions.listed(funnel.rejections),
            contenders=decisions.contenders_of(options, chosen, repertoire.arbitration.contenders),
        ),
        models=_models(funnel),
        config=repertoire.version,
        decided_at=format_rfc3339(now_ms),
        expires_at=None if action is None else format_rfc3339(now_ms + action.expires_after_ms),
    )


def _models(funnel: Funnel) -> Mapping[str, str]:
    """What scored the candidates; model control says so itself."""
    versions = funnel.scores.models
    if funnel.scores.draws is None or not funnel.model_control:
        return versions
    return {**versions, "model-control": "random"}


def _content(treatment: Treatment, context: Context) -> dict[str, str]:
    return {
        name: (template.render(context).text or "") if template.constant is None else template.constant
        for name, template in treatment.content.items()
    }
