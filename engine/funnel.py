"""The funnel of one decision: candidates → eligibility → constraints → score → arbitrate → decide.

Each stage only takes candidates away and records why; the order is that of Pega's Next-Best-Action framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import msgspec
import numpy as np

from engine import budgets, choice, constraints, eligibility, experiments, exploration, history, learning
from engine import decision as decisions
from engine.arbitration import Scored, priorities, rank
from engine.budgets import Budgets, Share
from engine.calendar import format_rfc3339
from engine.candidates import Rejection, action_count, for_fallback, is_sent
from engine.choice import Options
from engine.constraints import Surroundings
from engine.context import Context, Request
from engine.decision import ArmRef, Decision, Explanation, decision_id
from engine.expression import Memo
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


class Funnel(msgspec.Struct, dict=True):
    """What one run of the funnel works with and has found so far.

    `chooser`: who chooses instead of the draw. `rows`: index of a candidate → its place
    in `scores`. `control`: the choice is withheld.
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
    rejections: list[Rejection] = []
    scores: Scores = Scores((), {})
    rows: Mapping[int, int] = {}
    experiment: Experiment | None = None
    arm: Arm | None = None
    control: bool = False

    @cached_property
    def truths(self) -> Memo:
        """The predicates of rules and weights, each evaluated at most once in this run."""
        return self.repertoire.predicates.evaluate(self.context)

    @cached_property
    def held_out(self) -> bool:
        """Whether the global holdout has this customer."""
        return experiments.is_held_out(self.repertoire.holdout, self.profile.customer_id)

    @cached_property
    def draw(self) -> int:
        """What makes the random draws of this run its own."""
        return int(_id(self, 1)[:8], 16)

    @cached_property
    def model_control(self) -> bool:
        """Whether this month the customer's choices are made with random propensities, where models have a say."""
        share = self.repertoire.arbitration.exploration.control
        return share > 0 and experiments.in_model_control(self.profile.customer_id, self.profile.now_ms, share)

    @cached_property
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
        made = [_decision(funnel, None, choice.NOTHING, 1, sum(arm.share for arm in arms if not arm.ranked))]
    _lap(funnel, "decide")
    return made


def quiet_hours_end(funnel: Funnel) -> int | None:
    """When quiet hours that held something back end first, epoch milliseconds; None when none did."""
    if not any(each.stage == "quiet-hours" for each in funnel.rejections):
        return None
    around = _surroundings(funnel)
    ends = [constraints.quiet_until(each, around) for each in {each.treatment.channel for each in funnel.ask.pool}]
    return min((each for each in ends if each is not None), default=None)


def _lap(funnel: Funnel, stage: str) -> None:
    if funnel.lap is not None:
        funnel.lap(stage)


def _pool(funnel: Funnel) -> Sequence[Candidate]:
    """What the question may choose from, without what other slots of the same request show."""
    ask = funnel.ask
    if not ask.pool:
        funnel.rejections.append(Rejection("*", "eligibility", f"no treatment is configured for {_asked_for(ask)}"))
    if not ask.taken:
        return ask.pool
    shown = sorted({each.action.id for each in ask.pool} & ask.taken)
    reason = "shown in another slot of this request"
    funnel.rejections += [Rejection(action, "applicability", reason) for action in shown]
    return [each for each in ask.pool if each.action.id not in ask.taken]


def _asked_for(ask: Ask) -> str:
    if ask.request is None:
        return f"trigger {ask.trigger!r}"
    if ask.placement is not None:
        return f"placement {ask.placement[:64]!r}"
    return "any channel" if ask.request.channel is None else f"channel {ask.request.channel[:64]!r}"


def _surroundings(funnel: Funnel) -> Surroundings:
    in_slot = funnel.ask.placement is not None
    return constraints.surroundings(funnel.profile, funnel.budgets, funnel.share, funnel.repertoire, in_slot=in_slot)


def _hold_out(candidates: list[Candidate], funnel: Funnel) -> list[Candidate]:
    """What a customer may be offered: of a held-out one what is exempt, or else everything, but as control only."""
    holdout = funnel.repertoire.holdout
    if holdout is None or not funnel.held_out:
        return candidates
    exempt = [each for each in candidates if experiments.is_exempt(holdout, each)]
    withheld = dict.fromkeys(each.action.id for each in candidates if not experiments.is_exempt(holdout, each))
    funnel.rejections += [Rejection(each, "experiment", f"held out by {holdout.id}") for each in withheld]
    funnel.control = bool(withheld) and not exempt
    return candidates if funnel.control else exempt


# --- Scoring ---


def _score(candidates: Sequence[Candidate], funnel: Funnel) -> list[tuple[Candidate, float]]:
    """The candidates with their propensities, without those whose reach does not extend to this customer yet."""
    scores = funnel.scores = funnel.scorer.score(candidates, funnel.context, funnel.profile, funnel.draw)
    if scores.draws is not None:
        funnel.rows = {each.index: row for row, each in enumerate(candidates)}
    scored = list(zip(candidates, scores.propensities, strict=True))
    if scores.reach is None:
        return scored
    return [pair for pair, reach in zip(scored, scores.reach, strict=True) if _reaches(pair[0], reach, funnel)]


def _reaches(candidate: Candidate, reach: float, funnel: Funnel) -> bool:
    """Whether a candidate that is sent may be sent to this customer while its model knows little about it."""
    if reach >= 1.0 or not is_sent(candidate, funnel.repertoire):
        return True
    if experiments.bucket(f"ramp/{candidate.action.id}", funnel.profile.customer_id) < reach:
        return True
    reason = f"{candidate.treatment.id}: too young, so far for {reach:.0%} of customers"
    funnel.rejections.append(Rejection(candidate.action.id, "experiment", reason))
    return False


# --- Ranking, in every arm that could have been ---


class Ranking(msgspec.Struct, frozen=True):
    """What one arm would rank: `share` of customers see it. `settings`: its arbitration."""

    share: float
    settings: Arbitration
    ranked: list[Scored]


def _rank_arms(scored: Sequence[tuple[Candidate, float]], funnel: Funnel) -> list[Ranking]:
    """The customer's own ranking first, then those of the experiment's other arms, which probability needs.

    Held-out customers take no part in experiments.
    """
    repertoire, ask = funnel.repertoire, funnel.ask
    experiment = None if funnel.held_out else experiments.experiment_for(repertoire, ask.trigger, funnel.context)
    if experiment is None:
        settings = repertoire.arbitration
        ranked = _rank(scored, settings, funnel, funnel.rejections) or _fall_back(None, funnel, funnel.rejections)
        return [Ranking(1.0, settings, ranked)]
    funnel.experiment = experiment
    funnel.arm = experiments.arm_of(experiment, funnel.profile.customer_id)
    arms = zip(experiment.arms, experiments.shares(experiment), strict=True)
    rankings = [_arm_ranking(arm, share, scored, funnel) for arm, share in arms]
    own = experiment.arms.index(funnel.arm)
    return [rankings.pop(own), *rankings]


def _arm_ranking(arm: Arm, share: float, scored: Sequence[tuple[Candidate, float]], funnel: Funnel) -> Ranking:
    assert funnel.experiment is not None
    rejections = funnel.rejections if arm is funnel.arm else []
    left = experiments.left_by(arm, funnel.experiment, [each for each, _ in scored], rejections)
    kept = {each.index for each in left}
    settings = arm.arbitration or funnel.repertoire.arbitration
    ranked = _rank([pair for pair in scored if pair[0].index in kept], settings, funnel, rejections)
    return Ranking(share, settings, ranked or _fall_back(arm, funnel, rejections))


def _rank(
    scored: Sequence[tuple[Candidate, float]],
    settings: Arbitration,
    funnel: Funnel,
    rejections: list[Rejection],
) -> list[Scored]:
    return rank(scored, funnel.context, funnel.profile, settings, funnel.repertoire, funnel.truths, rejections)


def _fall_back(arm: Arm | None, funnel: Funnel, rejections: list[Rejection]) -> list[Scored]:
    """The named fallback, which skips engagement rules and arbitration and obeys every constraint."""
    action, found = funnel.ask.fallback, list[Rejection]()
    if action is None or action in funnel.ask.taken:
        return []
    left = for_fallback(funnel.repertoire, action, funnel.ask.placement)
    if arm is not None and funnel.experiment is not None:
        left = experiments.left_by(arm, funnel.experiment, left, found)
    fit = []
    for each in left:
        unavailable = eligibility.unavailable(each, funnel.context, funnel.repertoire, funnel.truths)
        if unavailable is None:
            fit.append(each)
        else:
            found.append(unavailable)
    permitted = _hold_out(constraints.permit(fit, _surroundings(funnel), found), funnel)
    rejections += [each for each in found if each not in rejections]
    return [Scored(permitted[0], 0.0, 1.0, 0.0, 1.0, 0.0)] if permitted else []


# --- Choosing ---


def _choose(arms: list[Ranking], funnel: Funnel) -> list[Decision]:
    """Up to `limit` decisions from the customer's own arm; each one counts before the next is chosen."""
    own, ask = arms[0], funnel.ask
    choose = _draw if funnel.chooser is None else funnel.chooser
    remaining, made = own.ranked, list[Decision]()
    while len(made) < ask.limit:
        decision, options = _id(funnel, len(made) + 1), _options(remaining, own.settings, funnel)
        chosen = choose(decision, options, funnel)
        if chosen is None:
            break
        chance = options.chance_of(chosen.candidate.treatment.id)
        probability = chance if made else _probability(chosen, chance, arms, funnel)
        made.append(_decision(funnel, chosen, options, len(made) + 1, probability))
        if funnel.control:
            break
        _commit(chosen, decision, probability, funnel)
        remaining = _still_permitted(remaining, chosen, funnel) if len(made) < ask.limit else []
    return made


def _draw(decision: str, options: Options, funnel: Funnel) -> Scored | None:
    """The option that the decision's own random number picks."""
    if not options.scored:
        return None
    return options.scored[choice.pick(options.own, choice.draw(decision, funnel.repertoire.seed))]


def _id(funnel: Funnel, rank_number: int) -> str:
    ask = funnel.ask
    return decision_id(ask.cause, funnel.profile.customer_id, ask.trigger, ask.placement, rank_number)


def _options(ranked: Sequence[Scored], settings: Arbitration, funnel: Funnel) -> Options:
    """What may be chosen of a ranking, with its chances: mandatory ones first, then what was promised.

    Neither is ever left to chance.
    """
    contenders, promised = choice.best_treatments(ranked), funnel.promised
    if promised:
        contenders.sort(key=lambda each: (not choice.is_mandatory(each), promised.get(each.candidate.action.id, 1)))
    if not contenders:
        return choice.NOTHING
    first = contenders[0]
    if choice.is_mandatory(first) or first.candidate.action.id in promised:
        return choice.certain(contenders)
    among = [each for each in ranked if each.candidate.index in funnel.rows]
    if not among or not settings.propensity:
        return choice.greedy(contenders, settings.exploration)
    return _explore(contenders, among, settings, funnel)


def _explore(contenders: Sequence[Scored], among: Sequence[Scored], settings: Arbitration, funnel: Funnel) -> Options:
    """Chances by how often each is the best in what the models hold possible."""
    exploration_, draws = settings.exploration, funnel.scores.draws
    assert draws is not None
    known = [1.0] + [0.0] * (len(among) - 1)
    if exploration_.thompson:
        held_possible = draws[[funnel.rows[each.candidate.index] for each in among]]
        known = exploration.shares_won(priorities(among, held_possible, settings, funnel.context))
    random = known
    if exploration_.control > 0:
        columns = np.array([each.candidate.index for each in among]) + funnel.draw
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


def _still_permitted(remaining: Sequence[Scored], chosen: Scored, funnel: Funnel) -> list[Scored]:
    """What may still be chosen, now that one more contact counts and budgets are smaller."""
    around, left = _surroundings(funnel), []
    for scored in remaining:
        if scored.candidate.action is not chosen.candidate.action:
            rejection = constraints.held_back(scored.candidate, around)
            if rejection is None:
                left.append(scored)
            else:
                funnel.rejections.append(rejection)
    return left


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
    for budget in constraints.rules_for(chosen, repertoire).budgets:
        amount = budgets.amount_of(budget, treatment.cost)
        budgets.reserve(budget, funnel.budgets, amount, now_ms, repertoire.zones)


def _decision(
    funnel: Funnel, chosen: Scored | None, options: Options, rank_number: int, probability: float
) -> Decision:
    ask, repertoire, now_ms = funnel.ask, funnel.repertoire, funnel.profile.now_ms
    action = None if chosen is None else chosen.candidate.action
    treatment = None if chosen is None else chosen.candidate.treatment
    arm = None if funnel.experiment is None or funnel.arm is None else ArmRef(funnel.experiment.id, funnel.arm.id)
    return Decision(
        decision_id=_id(funnel, rank_number),
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
            considered=action_count(ask.pool),
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
    return {name: template.render(context).text or "" for name, template in treatment.content.items()}
