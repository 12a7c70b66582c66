"""What an operator's configuration compiles to: everything a decision consults besides the customer.

Built by `config.load`; immutable and shared by all partitions of a worker. Expressions are
compiled, names resolved, candidates flattened and sorted by id, so that no order in a file matters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import msgspec

from engine.aggregates import Aggregate
from engine.calendar import QuietHours, Zones
from engine.expression import Expression, Predicates
from engine.features import FeatureSchema
from engine.lazy import once
from engine.template import Template

ConsentRule = Literal["required", "implied", "none"]
"""`required`: a grant must be on record. `implied`: anything but a denial will do. `none`: not asked."""
ActionClass = Literal["default", "mandatory", "transactional"]
MergeStrategy = Literal["most-recent", "oldest", "adding", "non-empty", "keep"]


# --- Who the customer is ---


class IdentifierKind(msgspec.Struct, frozen=True, kw_only=True):
    """`limit`: how many values of this kind one customer may have within `window_ms` (None: ever)."""

    kind: str
    limit: int = 5
    window_ms: int | None = None


class IdentityRules(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """`kinds`: in order of priority, first is strongest; kinds not listed follow in alphabetical order."""

    kinds: tuple[IdentifierKind, ...]
    blocked: tuple[re.Pattern[str], ...]

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Kind → its place in the order of priority, 0 is strongest."""
        return {each.kind: place for place, each in enumerate(self.kinds)}


# --- What is known about the customer ---


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one profile; reaching one drops the oldest entry and is counted."""

    traits: int = 200
    trait_bytes: int = 4096
    last_signals: int = 50
    last_signal_bytes: int = 2048
    contacts: int = 200
    recent_messages: int = 32
    identifiers: int = 50
    timers: int = 50
    merges: int = 50
    watermarks: int = 64


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A dynamic segment: who makes `when` true is in it."""

    id: str
    when: Expression


class ProfileRules(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What of a signal is kept. `merge`: strategy per trait when two profiles become one; default `most-recent`."""

    limits: Limits = Limits()
    merge: Mapping[str, MergeStrategy] = {}
    aggregates: tuple[Aggregate, ...] = ()
    segments: tuple[Segment, ...] = ()
    timezone_trait: str = "timezone"
    country_trait: str = "country"

    @once
    def by_name(self) -> Mapping[str, Aggregate]:
        """Aggregates by name."""
        return {each.name: each for each in self.aggregates}

    @once
    def windowed(self) -> tuple[Aggregate, ...]:
        """The aggregates whose events leave their window."""
        return tuple(each for each in self.aggregates if each.window.bucket_ms)

    def folding(self, name: str) -> tuple[Aggregate, ...]:
        """The aggregates that may count signals of a name."""
        return self._by_event.get(name, self._of_any)

    @once
    def _of_any(self) -> tuple[Aggregate, ...]:
        return tuple(each for each in self.aggregates if not each.events)

    @once
    def _by_event(self) -> Mapping[str, tuple[Aggregate, ...]]:
        events = {event for each in self.aggregates for event in each.events}
        return {
            event: tuple(each for each in self.aggregates if not each.events or event in each.events)
            for event in events
        }


# --- What can be done ---


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of a stage. `predicates`: indices of its conjuncts; `where`: the level that set it."""

    predicates: tuple[int, ...]
    where: str


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A touchpoint a treatment goes to.

    `impressions`: it reports what was shown, so nothing is learned from what it does not report.
    `inbound`: the customer comes to it, so only requests choose it. `topic`: also publish to `decisions.<id>`.
    `reachable`: whom it reaches (None: everybody). `answers`: the expected share of answered contacts, the prior
    of a person's own rate.
    """

    id: str
    inbound: bool = False
    topic: bool = False
    reachable: Rule | None = None
    answers: float = 0.1
    impressions: bool = False
    quiet_hours: tuple[QuietHours, ...] = ()


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """A slot that requests ask for. `fallback`: the action to give when nothing qualifies."""

    id: str
    channel: str
    limit: int = 1
    fallback: str | None = None


class Engagement(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The three layers of who may be offered an action (Pega, "engagement policies"), each a list of rules."""

    eligibility: tuple[Rule, ...] = ()
    applicability: tuple[Rule, ...] = ()
    suitability: tuple[Rule, ...] = ()

    @cached_property
    def origins(self) -> Mapping[int, tuple[str, str]]:
        """Every predicate, in the order they are asked, with the layer and the level of the rule that asks first."""
        origins: dict[int, tuple[str, str]] = {}
        for layer in ("eligibility", "applicability", "suitability"):
            for rule in getattr(self, layer):
                for predicate in rule.predicates:
                    origins.setdefault(predicate, (layer, rule.where))
        return origins

    @cached_property
    def predicates(self) -> tuple[int, ...]:
        """The predicates that must all hold."""
        return tuple(self.origins)


class Treatment(msgspec.Struct, frozen=True, kw_only=True):
    """How an action is put on one channel. `purpose`: what consent it needs."""

    id: str
    channel: str
    purpose: str
    placements: frozenset[str] = frozenset()
    content: Mapping[str, Template] = {}
    propensity: float = 0.5
    cost: float = 0.0
    when: Rule | None = None


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """Something that can be offered. `value`: in the operator's unit of value; `lever`: summed weights, percent."""

    id: str
    issue: str
    group: str
    tags: frozenset[str] = frozenset()
    action_class: ActionClass = "default"
    obeys_caps: bool = True
    counts_toward_caps: bool = True
    ignores_quiet_hours: bool = False
    starts_ms: int | None = None
    ends_ms: int | None = None
    expires_after_ms: int
    """How long an offer of it stays open: the decision's `expiresAt`."""
    answerable_ms: int
    """How long after the decision an outcome still counts; at least `expires_after_ms`."""
    engagement: Engagement = Engagement()
    value: Expression | float = 1.0
    lever: float = 0.0
    treatments: tuple[Treatment, ...]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One action in one treatment. `index`: its place in `Repertoire.candidates`, sorted by action and treatment."""

    index: int
    action: Action
    treatment: Treatment


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Which candidates a rule speaks of; an empty set means any."""

    issues: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()

    def covers(self, issue: str, group: str, action: str, tags: frozenset[str], channel: str) -> bool:
        """Whether every named set contains the candidate's own."""
        return (
            (not self.issues or issue in self.issues)
            and (not self.groups or group in self.groups)
            and (not self.actions or action in self.actions)
            and (not self.tags or not self.tags.isdisjoint(tags))
            and (not self.channels or channel in self.channels)
        )


# --- What holds back ---


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A span that limits count in: rolling (`unit` None, `span_ms`) or calendar (`count` times `unit`)."""

    unit: Literal["hour", "day", "week", "month"] | None = None
    count: int = 1
    span_ms: int = 0


class SuppressionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Pause after `threshold` outcomes within `window_ms` (Pega contact policies; mission D5)."""

    id: str
    outcome: str
    level: Literal["action", "group"]
    across_channels: bool = False
    threshold: int
    window_ms: int
    pause_ms: int
    scope: Scope = Scope()


class ContactLimit(msgspec.Struct, frozen=True, kw_only=True):
    """At most `limit` contacts per customer and window, over what `scope` covers together."""

    id: str
    limit: int
    window: Window
    scope: Scope = Scope()


class BudgetRule(msgspec.Struct, frozen=True, kw_only=True):
    """At most `limit` decisions or money for all customers together, in a window of the engine's time zone.

    `pacing`: with `even` no more than the elapsed share of the window may have been used. Each partition owns an
    equal share of the limit.
    """

    id: str
    unit: Literal["decisions", "money"]
    limit: float
    window: Window
    pacing: Literal["none", "even"] = "none"
    scope: Scope = Scope()


class CoveringRules(msgspec.Struct, frozen=True, kw_only=True):
    """What constraints need to know of a candidate besides its action, and those whose scope covers it.

    `sent`: it goes to the customer, see `candidates.is_sent`; `ignores_quiet_hours`, `cost`: of action and treatment.
    """

    channel: str
    purpose: str
    cost: float
    sent: bool
    ignores_quiet_hours: bool
    suppressions: tuple[SuppressionPolicy, ...]
    contact_limits: tuple[ContactLimit, ...]
    budgets: tuple[BudgetRule, ...]


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How much contact history decisions need; see `engine.history.retention_of`.

    `contacts_ms`, `answers_ms`: how far back anything looks. `depth`: how many of the same action and channel
    suffice for every limit and threshold.
    """

    contacts_ms: int
    answers_ms: int
    depth: int


class Constraints(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that may hold a candidate back after it qualified."""

    purposes: Mapping[str, ConsentRule] = {}
    suppressions: tuple[SuppressionPolicy, ...] = ()
    contact_limits: tuple[ContactLimit, ...] = ()
    budgets: tuple[BudgetRule, ...] = ()


# --- What wins ---


class ContextWeight(msgspec.Struct, frozen=True, kw_only=True):
    """Adds `weight` percent to C of the covered actions while `when` holds."""

    when: Rule
    weight: float
    scope: Scope


class Influencer(msgspec.Struct, frozen=True, kw_only=True):
    """An outcome on `source` adds a weight to `target`, from `start` to `end` percent in `steps` over a period."""

    id: str
    outcome: str
    source: Scope
    target: Scope
    start: float
    end: float
    steps: int
    period_ms: int


class Exploration(msgspec.Struct, frozen=True, kw_only=True):
    """How the choice is left to chance, so that there is something to learn from.

    `thompson`: an action is chosen as often as it is the best one as far as its model knows (Thompson 1933).
    `epsilon`: share of decisions chosen at random among the contenders. `floor`: least chance of each contender.
    `control`: share of customers whose propensities are random, anew each month, to measure what models are worth.
    `ramp_positives`: positives at which a model's action has its full reach (0: at once); before, `ramp_start` of
    the customers it is sent to, rising in proportion.
    """

    thompson: bool = True
    epsilon: float = 0.0
    floor: float = 0.0
    control: float = 0.0
    ramp_positives: int = 0
    ramp_start: float = 0.02


class Arbitration(msgspec.Struct, frozen=True, kw_only=True):
    """Priority = P · C · V · L, each factor switchable, or a `formula` over them."""

    propensity: bool = True
    context: bool = True
    value: bool = True
    lever: bool = True
    formula: Expression | None = None
    context_weights: tuple[ContextWeight, ...] = ()
    influencers: tuple[Influencer, ...] = ()
    exploration: Exploration = Exploration()
    contenders: int = 3


# --- What is learned ---


class RewardRule(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision brought, as a number in [0, 1].

    `binary`: 1 for one of the `positive` outcomes. `money`: the sum of the values of the positive ones over `most`.
    `survey`: the score of a `Survey Answered` with this `metric`, from `least` to `most`.
    """

    kind: Literal["binary", "money", "survey"] = "binary"
    positive: frozenset[str] = frozenset({"click", "accept", "convert"})
    least: float = 0.0
    most: float = 1.0
    metric: str = ""


class LearnerRule(msgspec.Struct, frozen=True, kw_only=True):
    """A learner by its name in the registry, and its parameters."""

    kind: str
    parameters: Mapping[str, Any] = {}


class ModelRule(msgspec.Struct, frozen=True, kw_only=True):
    """One model: whose candidates it scores, by what reward, and who learns it.

    The `champion` is served; the other learners are its challengers, on the same examples. `window_ms`: when a
    decision without a reward counts as not taken up; None: when the offer expires.
    """

    id: str
    scope: Scope = Scope()
    reward: RewardRule = RewardRule()
    window_ms: int | None = None
    learners: Mapping[str, LearnerRule]
    champion: str


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One arm. `weight`: share of customers; `only`/`exclude`: ids of actions or treatments."""

    id: str
    weight: float
    only: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()
    arbitration: Arbitration | None = None


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """A/B/n over treatments, actions or arbitration. `when`: who takes part; `triggers`: for what (empty: all)."""

    id: str
    salt: str
    when: Expression | None = None
    triggers: frozenset[str] = frozenset()
    arms: tuple[Arm, ...]


class Holdout(msgspec.Struct, frozen=True, kw_only=True):
    """Customers whose bucket lies in [`low`, `high`) are never contacted, except with what `exempt` covers."""

    id: str
    salt: str
    low: float
    high: float
    exempt: frozenset[str] = frozenset()
    """Action classes and tags the holdout leaves alone."""


# --- When to decide ---


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """A moment that starts a decision.

    By a signal that makes `when` true, or by a segment entered or left. With `after_ms` it waits that long,
    `unless` a later signal makes that true meanwhile. `scope`: the candidates considered. `hold`: what only quiet
    hours prevent is decided afresh when they end.
    """

    id: str
    events: frozenset[str] = frozenset()
    when: Expression | None = None
    entered: str | None = None
    left: str | None = None
    after_ms: int = 0
    unless: Expression | None = None
    hold: bool = True
    scope: Scope = Scope()
    limit: int = 1
    fallback: str | None = None
    answer_always: bool = False


class Repertoire(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration of an engine, compiled. `version`: digest of its content."""

    name: str
    version: str
    prefix: str
    partitions: int
    source: str
    max_future_ms: int
    zones: Zones
    identity: IdentityRules
    profile: ProfileRules
    channels: Mapping[str, Channel]
    placements: Mapping[str, Placement]
    actions: Mapping[str, Action]
    candidates: tuple[Candidate, ...]
    predicates: Predicates
    constraints: Constraints
    retention: Retention
    arbitration: Arbitration
    experiments: tuple[Experiment, ...]
    holdout: Holdout | None
    triggers: tuple[Trigger, ...]
    features: FeatureSchema = FeatureSchema()
    """What models know of a customer, read in the scope of a decision."""
    action_features: FeatureSchema = FeatureSchema()
    """What models know of a candidate, read in a scope of `action` and `treatment` alone."""
    models: tuple[ModelRule, ...] = ()
    """In the order in which they are asked: the first whose scope covers a candidate scores it."""
    parameters: Mapping[str, Any] = {}
    """Named constants of the operator, the root `parameters` of expressions."""
    seed: int = 0
    """Salt of every random draw; a replay may choose another."""
    pools: dict[str, Any] = {}
    """What triggers, slots and channels may choose from, compiled when first asked for; see `engine.candidates`."""

    def __post_init__(self) -> None:
        # A copy with other rules must not go by what was compiled of these.
        msgspec.structs.force_setattr(self, "pools", {})
