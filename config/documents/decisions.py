"""The files that say how to choose: triggers, constraints, arbitration and experiments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, field

from config.documents.values import (
    Answer,
    CalendarSpan,
    Case,
    Condition,
    Count,
    Counted,
    Document,
    Duration,
    Id,
    Label,
    Percent,
    Places,
    Positive,
    Scope,
    Share,
    Weight,
)
from engine.repertoire import ConsentRule

# --- triggers ---


class Trigger(Document, frozen=True):
    """A moment that starts a decision: a signal, or a segment entered or left."""

    on: Annotated[
        Label | frozenset[Label],
        Meta(
            description="Names of signals: an event, or identify, page ….",
            title="an event or a list of events",
        ),
    ] = frozenset()
    when: Annotated[Condition | None, Meta(description="What must be true then.")] = None
    entered: Annotated[Id | None, Meta(description="The segment whose entering it is.")] = None
    left: Annotated[Id | None, Meta(description="The segment whose leaving it is.")] = None
    after: Annotated[Duration, Meta(description="How long to wait before deciding.")] = "0s"
    unless: Annotated[
        Condition | None, Meta(description="Tried on each signal while waiting: once true, no decision.")
    ] = None
    quiet_hours: Annotated[
        Literal["hold", "skip"],
        Meta(description="hold: what only quiet hours prevent is decided afresh when they end; skip: it is lost."),
    ] = "hold"
    consider: Annotated[Scope, Meta(description="What may be chosen; left out: everything.")] = Scope()
    limit: Annotated[Places, Meta(description="How many decisions at most.")] = 1
    fallback: Annotated[Id | None, Meta(description="The action to give when nothing qualifies.")] = None
    answer: Annotated[
        Literal["when-chosen", "always"], Meta(description="Whether to say so when nothing was chosen.")
    ] = "when-chosen"
    description: Annotated[str, Meta(description="What it means.")] = ""


class TriggersFile(Document, frozen=True, tag_field="kind", tag="triggers"):
    """When to decide without being asked."""

    triggers: Annotated[Mapping[Id, Trigger], Meta(description="Triggers by id.")] = {}
    cases: Annotated[tuple[Case, ...], Meta(description="Examples that must hold.")] = ()


# --- constraints ---


class Suppression(Document, frozen=True):
    """A pause after so many outcomes."""

    outcome: Annotated[Counted, Meta(description="What is counted; contact: a decision made.")]
    threshold: Annotated[Count, Meta(description="How many start the pause.")]
    within: Annotated[Duration, Meta(description="The span they are counted in.")]
    pause: Annotated[Duration, Meta(description="How long the pause is.")]
    level: Annotated[Literal["action", "group"], Meta(description="What is counted together and paused.")] = "action"
    across_channels: Annotated[bool, Meta(description="Count and pause all channels together.")] = False
    scope: Annotated[Scope, Meta(description="Where it holds; left out: everywhere.")] = Scope()


class ContactLimit(Document, frozen=True):
    """A cap per customer, with exactly one of `per` and `rolling`."""

    limit: Annotated[Annotated[int, Meta(ge=0)], Meta(description="How many contacts at most.")]
    per: Annotated[CalendarSpan | None, Meta(description="Calendar days, weeks … of the recipient's zone.")] = None
    rolling: Annotated[Duration | None, Meta(description="Always the last so much.")] = None
    scope: Annotated[Scope, Meta(description="What is counted together; left out: everything.")] = Scope()


class Budget(Document, frozen=True):
    """A budget over all customers, with exactly one of `per` and `rolling`."""

    limit: Annotated[Positive, Meta(description="How much at most.")]
    unit: Annotated[Literal["decisions", "money"], Meta(description="money: the cost of treatments.")] = "decisions"
    per: Annotated[CalendarSpan | None, Meta(description="Calendar days, weeks … of the engine's first zone.")] = None
    rolling: Annotated[Duration | None, Meta(description="Always the last so much.")] = None
    pacing: Annotated[
        Literal["none", "even"], Meta(description="even: never more than the elapsed share of the window.")
    ] = "none"
    scope: Annotated[Scope, Meta(description="What uses it; left out: everything.")] = Scope()


class ConstraintsFile(Document, frozen=True, tag_field="kind", tag="constraints"):
    """What holds back an action that qualified."""

    purposes: Annotated[
        Mapping[Id, ConsentRule],
        Meta(
            description="Consent each purpose needs, besides marketing: required and transactional: none. "
            "implied: anything but a denial will do."
        ),
    ] = {}
    suppressions: Annotated[Mapping[Id, Suppression], Meta(description="Pauses by id.")] = {}
    contact_limits: Annotated[Mapping[Id, ContactLimit], Meta(description="Caps by id.")] = {}
    budgets: Annotated[Mapping[Id, Budget], Meta(description="Budgets by id.")] = {}


# --- arbitration ---


class Factors(Document, frozen=True):
    """The factors of priority; one that is false counts as 1."""

    propensity: Annotated[bool, Meta(description="Expected chance of success.")] = True
    context: Annotated[bool, Meta(description="Context weights.")] = True
    value: Annotated[bool, Meta(description="Worth of a success.")] = True
    lever: Annotated[bool, Meta(description="Levers of issue, group and action, and influencers.")] = True


class ContextWeight(Document, frozen=True):
    """More or less weight while something holds."""

    when: Annotated[Condition, Meta(description="While this holds.")]
    weight: Annotated[Weight, Meta(description="Percent added to the context factor.")]
    scope: Annotated[Scope, Meta(description="Of what; left out: everything.")] = Scope()


class Influencer(Document, frozen=True, kw_only=True):
    """An earlier outcome that makes something more or less likely for a while."""

    outcome: Annotated[Answer, Meta(description="The outcome.")]
    source: Annotated[Scope, Meta(description="Of what; left out: of anything.")] = Scope()
    target: Annotated[Scope | None, Meta(description="What it influences; left out: the source.")] = None
    start: Annotated[Weight, Meta(description="Percent right after the outcome.")]
    end: Annotated[Weight, Meta(description="Percent at the end of the period.")] = 0.0
    steps: Annotated[Annotated[int, Meta(ge=1, le=1_000)], Meta(description="Steps from start to end.")] = 1
    period: Annotated[Duration, Meta(description="How long it lasts.")]


class Ramp(Document, frozen=True):
    """Caution with an action its model knows little of: sent to few customers first, to more with every success."""

    positives: Annotated[Count, Meta(description="Successes at which it may be sent to everybody.")] = 200
    start: Annotated[Share, Meta(description="Share of customers it may be sent to before the first.")] = 0.02


class Exploration(Document, frozen=True):
    """How much of the choice is left to chance, so that there is something to learn from."""

    thompson: Annotated[
        bool,
        Meta(
            description="Choose each action as often as it is the best by all its model knows; false: always the best."
        ),
    ] = True
    epsilon: Annotated[Share, Meta(description="Share of decisions chosen at random among what qualifies.")] = 0.0
    floor: Annotated[
        Annotated[float, Meta(title="a share from 0 to 0.5", ge=0, le=0.5)] | None,
        Meta(description="Least chance of everything that qualifies; left out: 0.005 where there are models, else 0."),
    ] = None
    control: Annotated[
        Share | None,
        Meta(
            description="Share of customers, others each month, who get what chance says, to measure what models are "
            "worth; left out: 0.02 where there are models, else 0."
        ),
    ] = None
    ramp: Annotated[
        Ramp | None, Meta(description="Caution with actions little is known of; left out: none is taken.")
    ] = None


class Prioritisation(Document, frozen=True):
    """How what remains is ranked."""

    factors: Annotated[Factors, Meta(description="Which factors count.")] = Factors()
    formula: Annotated[
        Condition | None,
        Meta(description="Priority, of propensity, context_weight, value and lever; left out: their product."),
    ] = None
    context_weights: Annotated[Mapping[Id, ContextWeight], Meta(description="Weights by id.")] = {}
    influencers: Annotated[Mapping[Id, Influencer], Meta(description="Influencers by id.")] = {}
    exploration: Annotated[Exploration, Meta(description="Chance in the choice.")] = Exploration()
    contenders: Annotated[
        Annotated[int, Meta(ge=0, le=100)], Meta(description="How many runners-up the explanation names.")
    ] = 3


class ArbitrationFile(Prioritisation, frozen=True, tag_field="kind", tag="arbitration"):
    """Which of the remaining actions wins."""

    cases: Annotated[tuple[Case, ...], Meta(description="Examples that must hold.")] = ()


# --- experiments ---


class Arm(Document, frozen=True):
    """One arm of an experiment."""

    weight: Annotated[Positive, Meta(description="Its share of customers, in proportion to the other arms.")] = 1.0
    only: Annotated[frozenset[Id], Meta(description="Only these actions or treatments.")] = frozenset()
    exclude: Annotated[frozenset[Id], Meta(description="None of these actions or treatments.")] = frozenset()
    arbitration: Annotated[Prioritisation | None, Meta(description="Ranking of this arm; left out: the engine's.")] = (
        None
    )


class Experiment(Document, frozen=True):
    """Customers split at random, each staying in its arm."""

    arms: Annotated[Mapping[Id, Arm], Meta(description="Its arms by id.", title="at least two arms", min_length=2)]
    when: Annotated[Condition | None, Meta(description="Who is in it; left out: everybody.")] = None
    triggers: Annotated[frozenset[Id], Meta(description="For which triggers; left out: all, and requests.")] = (
        frozenset()
    )
    salt: Annotated[Label | None, Meta(description="Changes who is in which arm; left out: the id.")] = None
    description: Annotated[str, Meta(description="What is to be found out.")] = ""


class Holdout(Document, frozen=True, kw_only=True):
    """Customers who are never contacted, to measure what contacting is worth."""

    low: Annotated[Percent, Meta(description="The first customer bucket, in percent.")] = field(
        name="from", default=0.0
    )
    high: Annotated[Percent, Meta(description="The end of the buckets, in percent.")] = field(name="to")
    salt: Annotated[Label, Meta(description="Changes who is in it.")] = "holdout"
    exempt: Annotated[frozenset[Id], Meta(description="Action classes and tags that reach them all the same.")] = (
        frozenset({"mandatory", "transactional"})
    )


class ExperimentsFile(Document, frozen=True, tag_field="kind", tag="experiments"):
    """What is tried out, and on whom."""

    experiments: Annotated[Mapping[Id, Experiment], Meta(description="Experiments by id.")] = {}
    holdout: Annotated[Holdout | None, Meta(description="The global holdout.")] = None
    cases: Annotated[tuple[Case, ...], Meta(description="Examples that must hold.")] = ()
