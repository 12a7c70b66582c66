"""The funnel of one decision: candidates → eligibility → constraints → score → arbitrate → decide.

Each stage only takes candidates away and records why; the order is that of Pega's Next-Best-Action framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from engine import budgets, constraints, eligibility, experiments, history
from engine import decision as decisions
from engine.arbitration import Scored, rank
from engine.budgets import Budgets, Share
from engine.candidates import Rejection, action_count
from engine.constraints import Surroundings
from engine.context import Context, Request
from engine.decision import ArmRef, Decision, Explanation, decision_id
from engine.profile import Contact, Profile
from engine.repertoire import Arbitration, Arm, Candidate, Experiment, Repertoire
from engine.scoring import Scorer
from engine.signal import Signal

Lap = Callable[[str], None]
"""Called with the name of each stage as it ends, when somebody measures."""
REQUEST = "request"
"""What stands for the trigger in the decisions of a request."""


class Ask(msgspec.Struct, frozen=True):
    """One question: which of `pool` is best for this customer at this moment?

    `cause`: what the decisions' ids are made of, with trigger and placement. `limit`: most decisions to make.
    `taken`: actions other slots of the same request already show. `answer_always`: say so when there is nothing.
    """

    cause: str
    signal: Signal
    trigger: str
    pool: tuple[Candidate, ...]
    limit: int
    fallback: str | None = None
    request: Request | None = None
    placement: str | None = None
    taken: frozenset[str] = frozenset()
    answer_always: bool = False


class Funnel(msgspec.Struct):
    """What one run of the funnel works with and has found so far."""

    ask: Ask
    profile: Profile
    context: Context
    budgets: Budgets
    share: Share
    repertoire: Repertoire
    scorer: Scorer
    lap: Lap | None = None
    rejections: list[Rejection] = []
    models: Mapping[str, str] = {}
    experiment: Experiment | None = None
    arm: Arm | None = None


def decide(funnel: Funnel) -> list[Decision]:
    """The decisions of one question, best first, each entered into the contact history and the budgets.

    Empty when nothing qualified and the question needs no answer. Deterministic: chance is drawn from the
    decision's id. For a held-out customer what would have been chosen is returned as control, without effect.
    """
    ask, repertoire = funnel.ask, funnel.repertoire
    pool = [each for each in ask.pool if each.action.id not in ask.taken] if ask.taken else ask.pool
    if not ask.pool:
        funnel.rejections.append(_nothing_to_choose(ask))
    qualified = eligibility.qualify(pool, funnel.context, repertoire, funnel.rejections)
    _lap(funnel, "eligibility")
    permitted = constraints.permit(qualified, _surroundings(funnel), repertoire, funnel.rejections)
    permitted, withheld = _hold_out(permitted, funnel)
    _lap(funnel, "constraints")
    scores = funnel.scorer.score(permitted or withheld, funnel.context, funnel.profile)
    funnel.models = scores.models
    _lap(funnel, "score")
    scored = list(zip(permitted or withheld, scores.propensities, strict=True))
    if withheld and not permitted:
        return [_control(scored, funnel)]
    arms = _rank_arms(scored, funnel)
    _lap(funnel, "arbitrate")
    chosen = _choose(arms, funnel)
    if not chosen and ask.fallback is not None:
        chosen = _fall_back(funnel)
    if not chosen and ask.answer_always:
        chosen = [_decision(funnel, None, [], 1, 1.0)]
    _lap(funnel, "decide")
    return chosen


def _nothing_to_choose(ask: Ask) -> Rejection:
    """Why there was nothing to begin with, as when a request names a slot nobody configured."""
    where = f"placement {ask.placement[:64]!r}" if ask.placement is not None else f"trigger {ask.trigger!r}"
    return Rejection("*", "eligibility", f"no treatment is configured for {where}")


def _lap(funnel: Funnel, stage: str) -> None:
    if funnel.lap is not None:
        funnel.lap(stage)


def _surroundings(funnel: Funnel) -> Surroundings:
    outbound = funnel.ask.request is None
    return Surroundings(funnel.profile, funnel.profile.now_ms, funnel.budgets, funnel.share, outbound, {})


def _hold_out(candidates: list[Candidate], funnel: Funnel) -> tuple[list[Candidate], list[Candidate]]:
    """What a customer may be offered, and what the global holdout withholds from it."""
    holdout = funnel.repertoire.holdout
    if holdout is None or not experiments.is_held_out(holdout, funnel.profile.customer_id):
        return candidates, []
    exempt, withheld = experiments.split_holdout(holdout, candidates)
    reason = f"held out by {holdout.id}"
    funnel.rejections += [
        Rejection(each, "experiment", reason) for each in dict.fromkeys(c.action.id for c in withheld)
    ]
    return exempt, withheld


# --- Ranking, in every arm that could have been ---


class Ranking(msgspec.Struct, frozen=True):
    """What one arm would rank: `share` of customers see it. `settings`: its arbitration."""

    share: float
    settings: Arbitration
    ranked: list[Scored]


def _rank_arms(scored: Sequence[tuple[Candidate, float]], funnel: Funnel) -> list[Ranking]:
    """The customer's own ranking first, then those of the experiment's other arms, which probability needs."""
    repertoire, ask = funnel.repertoire, funnel.ask
    funnel.experiment = experiments.experiment_for(repertoire, ask.trigger, funnel.context)
    if funnel.experiment is None:
        return [Ranking(1.0, repertoire.arbitration, _rank(scored, repertoire.arbitration, funnel, funnel.rejections))]
    funnel.arm = experiments.arm_of(funnel.experiment, funnel.profile.customer_id)
    arms = zip(funnel.experiment.arms, experiments.shares(funnel.experiment), strict=True)
    rankings = [_arm_ranking(arm, share, scored, funnel) for arm, share in arms]
    own = funnel.experiment.arms.index(funnel.arm)
    return [rankings.pop(own), *rankings]


def _arm_ranking(arm: Arm, share: float, scored: Sequence[tuple[Candidate, float]], funnel: Funnel) -> Ranking:
    assert funnel.experiment is not None
    rejections = funnel.rejections if arm is funnel.arm else []
    left = experiments.left_by(arm, funnel.experiment, [each for each, _ in scored], rejections)
    kept = {each.index for each in left}
    settings = arm.arbitration or funnel.repertoire.arbitration
    ranked = _rank([pair for pair in scored if pair[0].index in kept], settings, funnel, rejections)
    return Ranking(share, settings, ranked)


def _rank(
    scored: Sequence[tuple[Candidate, float]],
    settings: Arbitration,
    funnel: Funnel,
    rejections: list[Rejection],
) -> list[Scored]:
    return rank(scored, funnel.context, funnel.profile, settings, funnel.repertoire, rejections)


# --- Choosing ---


def _choose(arms: list[Ranking], funnel: Funnel) -> list[Decision]:
    """Up to `limit` decisions from the customer's own arm; each one counts before the next is chosen."""
    own = arms[0]
    remaining, made = own.ranked, list[Decision]()
    while remaining and len(made) < funnel.ask.limit:
        rank_number = len(made) + 1
        contenders = _promised_first(decisions.best_treatments(remaining), funnel)
        chances = _chances(contenders, own.settings, funnel)
        identifier = decision_id(
            funnel.ask.cause,
            funnel.profile.customer_id,
            funnel.ask.trigger,
            funnel.ask.placement,
            rank_number,
        )
        at = decisions.pick(chances, decisions.draw(identifier, funnel.repertoire.seed))
        chosen = contenders[at]
        probability = _probability(chosen, chances[at], arms if rank_number == 1 else arms[:1], funnel)
        made.append(_decision(funnel, chosen, contenders, rank_number, probability))
        _commit(chosen, made[-1], funnel)
        if rank_number < funnel.ask.limit:
            remaining = _still_permitted(remaining, chosen, funnel)
    return made


def _promised_first(contenders: list[Scored], funnel: Funnel) -> list[Scored]:
    """What an unanswered message of ours promised comes first when the customer turns up: latest promise on top."""
    if funnel.ask.request is None:
        return contenders
    now_ms = funnel.profile.now_ms
    promised = {
        each.action: -at
        for at, each in enumerate(funnel.profile.contacts)
        if each.outbound and history.is_open(each, now_ms)
    }
    return sorted(contenders, key=lambda each: promised.get(each.candidate.action.id, 1)) if promised else contenders


def _is_promised(scored: Scored, funnel: Funnel) -> bool:
    return funnel.ask.request is not None and any(
        each.outbound and each.action == scored.candidate.action.id and history.is_open(each, funnel.profile.now_ms)
        for each in funnel.profile.contacts
    )


def _chances(contenders: list[Scored], settings: Arbitration, funnel: Funnel) -> list[float]:
    """Chance of each contender; a promise is kept, never left to chance."""
    if contenders and _is_promised(contenders[0], funnel):
        return decisions.probabilities(contenders, 0.0)
    return decisions.probabilities(contenders, settings.epsilon)


def _probability(chosen: Scored, own: float, arms: list[Ranking], funnel: Funnel) -> float:
    """The chance of the final choice over all arms a customer could have been in.

    For ranks after the first: given the choices before, in the customer's own arm.
    """
    if len(arms) == 1:
        return own
    total = arms[0].share * own
    for arm in arms[1:]:
        contenders = _promised_first(decisions.best_treatments(arm.ranked), funnel)
        for each, chance in zip(contenders, _chances(contenders, arm.settings, funnel), strict=True):
            if each.candidate.index == chosen.candidate.index:
                total += arm.share * chance
    return total


def _still_permitted(remaining: list[Scored], chosen: Scored, funnel: Funnel) -> list[Scored]:
    """What may still be chosen, now that one more contact counts and budgets are smaller."""
    around, left = _surroundings(funnel), []
    for scored in remaining:
        if scored.candidate.action is not chosen.candidate.action:
            rejection = constraints.held_back(scored.candidate, around, funnel.repertoire)
            if rejection is None:
                left.append(scored)
            else:
                funnel.rejections.append(rejection)
    return left


def _fall_back(funnel: Funnel) -> list[Decision]:
    """The named fallback, which skips engagement rules and arbitration and obeys every constraint."""
    around = _surroundings(funnel)
    for candidate in funnel.repertoire.candidates:
        if candidate.action.id == funnel.ask.fallback and _fits_ask(candidate, funnel):
            fits = not any(each.render(funnel.context).missing for each in candidate.treatment.content.values())
            if fits and constraints.held_back(candidate, around, funnel.repertoire) is None:
                chosen = Scored(candidate, 0.0, 1.0, 0.0, 1.0, 0.0)
                made = _decision(funnel, chosen, [], 1, 1.0)
                _commit(chosen, made, funnel)
                return [made]
    return []


def _fits_ask(candidate: Candidate, funnel: Funnel) -> bool:
    slot = funnel.repertoire.placements.get(funnel.ask.placement or "")
    return slot is None or candidate.treatment.channel == slot.channel


# --- What was decided ---


def _commit(chosen: Scored, made: Decision, funnel: Funnel) -> None:
    """Enter a decision into the contact history and reserve its budgets, before anything else is chosen."""
    action, treatment = chosen.candidate.action, chosen.candidate.treatment
    now_ms, repertoire = funnel.profile.now_ms, funnel.repertoire
    contact = Contact(
        decision_id=made.decision_id,
        at_ms=now_ms,
        issue=action.issue,
        group=action.group,
        action=action.id,
        treatment=treatment.id,
        channel=treatment.channel,
        expires_ms=now_ms + action.expires_after_ms,
        answerable_until_ms=now_ms + action.answerable_ms,
        counts=action.counts_toward_caps,
        outbound=funnel.ask.request is None,
        cost=treatment.cost,
    )
    history.add_contact(funnel.profile, contact, repertoire.retention, repertoire.profile.limits.contacts)
    for budget in repertoire.constraints.budgets:
        if budgets.covers(budget, chosen.candidate):
            amount = budgets.amount_of(budget, chosen.candidate)
            budgets.reserve(budget, funnel.budgets, amount, now_ms, repertoire.zones)


def _control(scored: Sequence[tuple[Candidate, float]], funnel: Funnel) -> Decision:
    """What a held-out customer would have been given: logged, without content and without effect."""
    settings = funnel.repertoire.arbitration
    ranked = decisions.best_treatments(_rank(scored, settings, funnel, []))
    return _decision(funnel, ranked[0] if ranked else None, ranked, 1, 1.0, control=True)


def _decision(
    funnel: Funnel,
    chosen: Scored | None,
    contenders: Sequence[Scored],
    rank_number: int,
    probability: float,
    *,
    control: bool = False,
) -> Decision:
    ask, repertoire, now_ms = funnel.ask, funnel.repertoire, funnel.profile.now_ms
    action = None if chosen is None else chosen.candidate.action
    treatment = None if chosen is None else chosen.candidate.treatment
    return Decision(
        decision_id=decision_id(ask.cause, funnel.profile.customer_id, ask.trigger, ask.placement, rank_number),
        customer_id=funnel.profile.customer_id,
        signal_id=ask.signal.message_id,
        request_id=None if ask.request is None else ask.request.id,
        trigger=ask.trigger,
        journey=None,
        action=None if action is None else action.id,
        treatment=None if treatment is None else treatment.id,
        channel=None if treatment is None else treatment.channel,
        placement=ask.placement,
        content=None if treatment is None or control else _content(funnel, chosen),
        rank=rank_number,
        score=None if chosen is None else decisions.score_of(chosen),
        probability=probability,
        control=control,
        experiment=_arm_ref(funnel),
        explanation=Explanation(
            considered=action_count(ask.pool),
            rejected=list(dict.fromkeys(funnel.rejections)),
            contenders=decisions.contenders_of(contenders, chosen, repertoire.arbitration.contenders),
        ),
        models=funnel.models,
        config=repertoire.version,
        decided_at=decisions.moment(now_ms) or "",
        expires_at=None if action is None else decisions.moment(now_ms + action.expires_after_ms),
    )


def _content(funnel: Funnel, chosen: Scored | None) -> dict[str, str] | None:
    if chosen is None:
        return None
    content = chosen.candidate.treatment.content
    return {name: template.render(funnel.context).text or "" for name, template in content.items()}


def _arm_ref(funnel: Funnel) -> ArmRef | None:
    if funnel.experiment is None or funnel.arm is None:
        return None
    return ArmRef(funnel.experiment.id, funnel.arm.id)
