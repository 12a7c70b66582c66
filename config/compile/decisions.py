"""Compiling how to choose: triggers, constraints, arbitration, experiments."""

from __future__ import annotations

from collections.abc import Mapping

from config.compile.compilation import Compilation
from config.documents.decisions import Arm as ArmDocument
from config.documents.decisions import (
    Budget,
    ConstraintsFile,
    ExperimentsFile,
    Prioritisation,
    Suppression,
    TriggersFile,
)
from config.documents.decisions import ContactLimit as ContactLimitDocument
from config.documents.decisions import Experiment as ExperimentDocument
from config.documents.decisions import Exploration as ExplorationDocument
from config.documents.decisions import Holdout as HoldoutDocument
from config.documents.decisions import Influencer as InfluencerDocument
from config.documents.decisions import Ramp as RampDocument
from config.documents.decisions import Trigger as TriggerDocument
from config.faults import Path, show
from engine.candidates import for_trigger
from engine.expression import NUMBER
from engine.funnel import REQUEST
from engine.repertoire import (
    Arbitration,
    Arm,
    BudgetRule,
    Candidate,
    ConsentRule,
    Constraints,
    ContactLimit,
    ContextWeight,
    Experiment,
    Exploration,
    Holdout,
    Influencer,
    Limits,
    Repertoire,
    SuppressionPolicy,
    Trigger,
)

PURPOSES: Mapping[str, ConsentRule] = {"marketing": "required", "transactional": "none"}
"""Purposes every configuration has; its own come on top."""
FLOOR, CONTROL = 0.005, 0.02
"""Least chance of a contender, and share of customers in model control, where there are models."""
_AT_ONCE = RampDocument(positives=0)
_CLASSES = frozenset({"default", "mandatory", "transactional"})


# --- Triggers ---


def compile_triggers(file: TriggersFile, c: Compilation) -> tuple[Trigger, ...]:
    """Triggers by id."""
    return tuple(_trigger(id_, each, c) for id_, each in sorted(file.triggers.items()))


def _trigger(id_: str, written: TriggerDocument, c: Compilation) -> Trigger:
    path: Path = ("triggers", "triggers", id_)
    events = frozenset({written.on}) if isinstance(written.on, str) else written.on
    c.events((*path, "on"), events)
    c.refer((*path, "entered"), written.entered, c.names.segments, "segment")
    c.refer((*path, "left"), written.left, c.names.segments, "segment")
    after_ms = c.span_ms((*path, "after"), written.after, or_none=True)
    if id_ == REQUEST:
        c.fault(path, "this id stands for requests", found=show(id_), expected="another id")
    if not (events or written.when or written.entered or written.left):
        c.fault(path, "nothing sets it off", expected="at least one of on, when, entered and left")
    if written.unless is not None and after_ms == 0:
        c.fault((*path, "unless"), "it does not wait", expected="after: how long it waits", given=(*path, "after"))
    c.refer((*path, "fallback"), written.fallback, c.names.actions, "action")
    return Trigger(
        id=id_,
        events=events,
        when=c.optional((*path, "when"), written.when, c.vocabulary.on(events)),
        entered=written.entered,
        left=written.left,
        after_ms=after_ms,
        unless=c.optional((*path, "unless"), written.unless, c.vocabulary.rules),
        hold=written.quiet_hours == "hold",
        scope=c.scope((*path, "consider"), written.consider),
        limit=written.limit,
        fallback=written.fallback,
        answer_always=written.answer == "always",
    )


def check_pools(repertoire: Repertoire, c: Compilation) -> None:
    """Every trigger has something it may choose, and its fallback is something that can be sent."""
    sendable = {each.action.id for each in repertoire.candidates if _is_sendable(each, repertoire)}
    for trigger in repertoire.triggers:
        path: Path = ("triggers", "triggers", trigger.id)
        if not for_trigger(repertoire, trigger):
            c.fault(
                path, "no treatment can be sent", expected="one in its scope, on no inbound channel, for no placement"
            )
        if trigger.fallback is not None and trigger.fallback not in sendable:
            expected = "an action with a treatment on no inbound channel, for no placement"
            c.fault((*path, "fallback"), "cannot be sent", found=show(trigger.fallback), expected=expected)


def _is_sendable(candidate: Candidate, repertoire: Repertoire) -> bool:
    """Whether the engine may send a treatment without being asked."""
    return not candidate.treatment.placements and not repertoire.channels[candidate.treatment.channel].inbound


# --- Constraints ---


def purposes_of(file: ConstraintsFile) -> dict[str, ConsentRule]:
    """The consent each purpose needs."""
    return {**PURPOSES, **file.purposes}


def compile_constraints(file: ConstraintsFile, limits: Limits, c: Compilation) -> Constraints:
    """What holds back. `limits`: of the profile, whose history limits count in."""
    return Constraints(
        purposes=dict(sorted(purposes_of(file).items())),
        suppressions=tuple(_suppression(id_, each, limits, c) for id_, each in sorted(file.suppressions.items())),
        contact_limits=tuple(_contact_limit(id_, each, limits, c) for id_, each in sorted(file.contact_limits.items())),
        budgets=tuple(_budget(id_, each, c) for id_, each in sorted(file.budgets.items())),
    )


def _suppression(id_: str, written: Suppression, limits: Limits, c: Compilation) -> SuppressionPolicy:
    path: Path = ("constraints", "suppressions", id_)
    _check_countable((*path, "threshold"), written.threshold, limits, c)
    return SuppressionPolicy(
        id=id_,
        outcome=written.outcome,
        level=written.level,
        across_channels=written.across_channels,
        threshold=written.threshold,
        window_ms=c.span_ms((*path, "within"), written.within),
        pause_ms=c.span_ms((*path, "pause"), written.pause),
        scope=c.scope((*path, "scope"), written.scope),
    )


def _contact_limit(id_: str, written: ContactLimitDocument, limits: Limits, c: Compilation) -> ContactLimit:
    path: Path = ("constraints", "contact_limits", id_)
    _check_countable((*path, "limit"), written.limit, limits, c)
    window = c.window(path, written.per, written.rolling)
    return ContactLimit(id=id_, limit=written.limit, window=window, scope=c.scope((*path, "scope"), written.scope))


def _check_countable(path: Path, count: int, limits: Limits, c: Compilation) -> None:
    if count >= limits.contacts:
        expected = f"less than profile.limits.contacts, {limits.contacts}"
        c.fault(path, "more than the contact history holds", found=str(count), expected=expected)


def _budget(id_: str, written: Budget, c: Compilation) -> BudgetRule:
    path: Path = ("constraints", "budgets", id_)
    window = c.window(path, written.per, written.rolling)
    if written.unit == "decisions" and written.limit != int(written.limit):
        c.fault((*path, "limit"), "decisions are whole", found=f"{written.limit:g}", expected="a whole number")
    if written.unit == "decisions" and written.limit < c.partitions:
        expected = f"at least {c.partitions}, one for each of the engine's partitions"
        c.fault((*path, "limit"), "some partitions would have nothing", found=f"{written.limit:g}", expected=expected)
    if written.pacing == "even" and written.rolling is not None:
        c.fault((*path, "pacing"), "a rolling window has no beginning to pace from", expected="per, or pacing: none")
    return BudgetRule(
        id=id_,
        unit=written.unit,
        limit=written.limit,
        window=window,
        pacing=written.pacing,
        scope=c.scope((*path, "scope"), written.scope),
    )


# --- Arbitration ---


def compile_arbitration(path: Path, written: Prioritisation, c: Compilation) -> Arbitration:
    """How what remains is ranked, of the engine or of an arm."""
    formula = None
    if written.formula is not None:
        formula = c.expression((*path, "formula"), written.formula, c.vocabulary.formulas, NUMBER)
    return Arbitration(
        propensity=written.factors.propensity,
        context=written.factors.context,
        value=written.factors.value,
        lever=written.factors.lever,
        formula=formula,
        context_weights=tuple(
            ContextWeight(
                when=c.rule((*path, "context_weights", id_, "when"), each.when, f"context weight {id_}"),
                weight=each.weight,
                scope=c.scope((*path, "context_weights", id_, "scope"), each.scope),
            )
            for id_, each in sorted(written.context_weights.items())
        ),
        influencers=tuple(
            _influencer((*path, "influencers", id_), id_, each, c) for id_, each in sorted(written.influencers.items())
        ),
        exploration=_exploration(written.exploration, c),
        contenders=written.contenders,
    )


def _exploration(written: ExplorationDocument, c: Compilation) -> Exploration:
    """How much is left to chance; what is left out depends on whether anything is learned."""
    floor, control = (FLOOR, CONTROL) if c.names.models else (0.0, 0.0)
    ramp = written.ramp or _AT_ONCE
    return Exploration(
        thompson=written.thompson,
        epsilon=written.epsilon,
        floor=floor if written.floor is None else written.floor,
        control=control if written.control is None else written.control,
        ramp_positives=ramp.positives,
        ramp_start=ramp.start,
    )


def _influencer(path: Path, id_: str, written: InfluencerDocument, c: Compilation) -> Influencer:
    if written.steps == 1 and written.end != 0:
        c.fault((*path, "end"), "never reached in one step", found=f"{written.end:g}", expected="steps: 2 or more")
    source = c.scope((*path, "source"), written.source)
    target = source if written.target is None else c.scope((*path, "target"), written.target)
    return Influencer(
        id=id_,
        outcome=written.outcome,
        source=source,
        target=target,
        start=written.start,
        end=written.end,
        steps=written.steps,
        period_ms=c.span_ms((*path, "period"), written.period),
    )


# --- Experiments ---


def compile_experiments(file: ExperimentsFile, c: Compilation) -> tuple[Experiment, ...]:
    """Experiments by id."""
    return tuple(_experiment(id_, each, c) for id_, each in sorted(file.experiments.items()))


def _experiment(id_: str, written: ExperimentDocument, c: Compilation) -> Experiment:
    path: Path = ("experiments", "experiments", id_)
    c.refer_all((*path, "triggers"), written.triggers, c.names.triggers | {REQUEST}, "trigger")
    return Experiment(
        id=id_,
        salt=written.salt or id_,
        when=c.optional((*path, "when"), written.when, c.vocabulary.rules),
        triggers=written.triggers,
        arms=tuple(_arm((*path, "arms", key), key, each, c) for key, each in sorted(written.arms.items())),
    )


def _arm(path: Path, id_: str, written: ArmDocument, c: Compilation) -> Arm:
    offers = c.names.actions | c.names.treatments
    c.refer_all((*path, "only"), written.only, offers, "action or treatment")
    c.refer_all((*path, "exclude"), written.exclude, offers, "action or treatment")
    for both in sorted(written.only & written.exclude):
        at = c.draft.item((*path, "exclude"), both)
        c.fault(at, "also in only", found=show(both), expected="either in only or in exclude")
    ranking = written.arbitration
    return Arm(
        id=id_,
        weight=written.weight,
        only=written.only,
        exclude=written.exclude,
        arbitration=None if ranking is None else compile_arbitration((*path, "arbitration"), ranking, c),
    )


def compile_holdout(written: HoldoutDocument | None, c: Compilation) -> Holdout | None:
    """The global holdout, its buckets as parts of 1."""
    if written is None:
        return None
    path: Path = ("experiments", "holdout")
    if written.low >= written.high:
        expected = f"more than from, {written.low:g}"
        c.fault((*path, "to"), "an empty range", found=f"{written.high:g}", expected=expected)
    c.refer_all((*path, "exempt"), written.exempt, c.names.tags | _CLASSES, "class or tag")
    return Holdout(
        id="holdout", salt=written.salt, low=written.low / 100, high=written.high / 100, exempt=written.exempt
    )
