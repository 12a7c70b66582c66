"""The files that say who a customer is and what is known: engine, profile, segments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from config.documents.values import Case, Condition, Count, Document, Duration, Id, Label, Name, ValueType
from engine.algebra import Function
from engine.repertoire import MergeStrategy

# --- engine ---


class EngineFile(Document, frozen=True, tag_field="kind", tag="engine"):
    """The engine itself: exactly one per directory."""

    name: Annotated[Id, Meta(description="Name of the engine; part of its consumer groups.")]
    source: Annotated[Label, Meta(description="The `ce_source` of its decisions, a URI reference.")]
    prefix: Annotated[
        str,
        Meta(
            description="What all topic names begin with.",
            title="at most 60 letters, digits and . _ -",
            pattern="^[A-Za-z0-9._-]{0,60}$",
        ),
    ] = "batuta."
    partitions: Annotated[int, Meta(description="Partitions of customer-keyed topics.", ge=1, le=10_000)] = 8
    timezones: Annotated[
        tuple[str, ...],
        Meta(
            description="IANA zones the engine operates in: used where a customer's zone is unknown; the first one "
            "also dates budgets, starts and ends.",
            min_length=1,
        ),
    ] = ("UTC",)
    max_future: Annotated[Duration, Meta(description="How far ahead of the broker a signal's time may be.")] = "10m"
    seed: Annotated[int, Meta(description="Salt of every random draw.", ge=0)] = 0
    parameters: Annotated[
        Mapping[Name, Any], Meta(description="Named constants: `parameters.<name>` in expressions.")
    ] = {}


# --- profile ---


class Trait(Document, frozen=True):
    """A trait of the profile."""

    type: Annotated[ValueType, Meta(description="What its values are.")] = "any"
    description: Annotated[str, Meta(description="What it means.")] = ""
    merge: Annotated[MergeStrategy, Meta(description="Which value stays when two profiles become one.")] = "most-recent"


class Signal(Document, frozen=True):
    """A declared event."""

    description: Annotated[str, Meta(description="When it is sent.")] = ""
    properties: Annotated[
        Mapping[str, ValueType] | None, Meta(description="Its properties and their types; left out: any.")
    ] = None


class Window(Document, frozen=True):
    """How far an aggregate looks back: exactly one of `tumbling`, `sliding` and `decayed`."""

    tumbling: Annotated[Duration | None, Meta(description="Windows side by side, each this long.")] = None
    sliding: Annotated[Duration | None, Meta(description="Always the last so much, in steps of a bucket.")] = None
    decayed: Annotated[Duration | None, Meta(description="Older signals weigh half as much after each so much.")] = None
    buckets: Annotated[
        Annotated[int, Meta(ge=1, le=366)] | None, Meta(description="Steps of a sliding window; left out: 30.")
    ] = None
    offset: Annotated[
        Duration | None,
        Meta(description="Start of tumbling windows after Thursday 1970-01-01 UTC; 4d: weeks from Monday."),
    ] = None


class Aggregate(Document, frozen=True):
    """A number kept up to date from signals: `aggregates.<name>` in expressions."""

    function: Annotated[Function, Meta(description="What is calculated.")]
    window: Annotated[
        Literal["lifetime"] | Window,
        Meta(description="How far it looks back.", title="lifetime or a map such as {sliding: 30d}"),
    ] = "lifetime"
    events: Annotated[frozenset[Label], Meta(description="Names of the signals it looks at; left out: all.")] = (
        frozenset()
    )
    where: Annotated[Condition | None, Meta(description="Only signals for which this holds.")] = None
    of: Annotated[Condition | None, Meta(description="What is summed, averaged, counted distinct …, per signal.")] = (
        None
    )
    by: Annotated[Condition | None, Meta(description="Keeps one value per key: what the key is.")] = None
    max_keys: Annotated[
        Annotated[int, Meta(ge=1, le=1_000)],
        Meta(description="How many keys are kept; the ones not seen for longest make room."),
    ] = 32
    max_distinct: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)], Meta(description="How many distinct values are told apart.")
    ] = 256
    per: Annotated[Duration, Meta(description="The time a rate is given for.")] = "1d"
    description: Annotated[str, Meta(description="What it means.")] = ""


class Identifier(Document, frozen=True):
    """A kind of identifier, in a list from strong to weak."""

    kind: Annotated[Label, Meta(description="userId, anonymousId or a type of externalIds.")]
    limit: Annotated[Count, Meta(description="How many a customer may have within the window.")] = 5
    window: Annotated[Duration | None, Meta(description="The window; left out: ever.")] = None


class Identifiers(Document, frozen=True):
    """How identifiers make one customer, and what protects from wrong merges."""

    priority: Annotated[
        tuple[Identifier, ...],
        Meta(
            description="Kinds from strong to weak, userId first. Others follow by name, at most 5 of each.",
            min_length=1,
        ),
    ] = (
        Identifier(kind="userId", limit=1),
        Identifier(kind="email"),
        Identifier(kind="anonymousId"),
    )
    blocked: Annotated[
        frozenset[Label],
        Meta(
            description="Values that identify nobody, exact or as /regular expression/, besides those always blocked "
            "(zeros and dashes, -1, null, anonymous, undefined, unknown, none).",
        ),
    ] = frozenset()


class Limits(Document, frozen=True):
    """Bounds of one profile; the oldest entry makes room and is counted."""

    traits: Annotated[Count, Meta(description="Traits.")] = 200
    trait_bytes: Annotated[Count, Meta(description="Bytes of one trait's value.")] = 4096
    last_signals: Annotated[Count, Meta(description="Events of which the latest signal is kept.")] = 50
    last_signal_bytes: Annotated[Count, Meta(description="Bytes of properties of such a signal.")] = 2048
    contacts: Annotated[Count, Meta(description="Contacts in the history that caps count.")] = 200
    recent_messages: Annotated[Count, Meta(description="Message ids remembered against duplicates.")] = 32
    identifiers: Annotated[Count, Meta(description="Identifiers.")] = 50
    timers: Annotated[Count, Meta(description="Triggers waiting for their time.")] = 50
    merges: Annotated[Count, Meta(description="Merged profiles remembered.")] = 50
    watermarks: Annotated[Count, Meta(description="Partitions whose progress is remembered.")] = 64


class ProfileFile(Document, frozen=True, tag_field="kind", tag="profile"):
    """What is known about a customer, and who is one customer."""

    traits: Annotated[
        Mapping[Label, Trait], Meta(description="Traits that rules may use; none declared: any name.")
    ] = {}
    signals: Annotated[
        Mapping[Label, Signal], Meta(description="Events that rules may use; none declared: any name.")
    ] = {}
    aggregates: Annotated[Mapping[Name, Aggregate], Meta(description="Numbers kept from signals.")] = {}
    identifiers: Annotated[Identifiers, Meta(description="Who is one customer.")] = Identifiers()
    limits: Annotated[Limits, Meta(description="Bounds of one profile.")] = Limits()
    timezone_trait: Annotated[Label, Meta(description="The trait with the customer's IANA zone.")] = "timezone"
    country_trait: Annotated[Label, Meta(description="The trait with the ISO 3166-1 alpha-2 country.")] = "country"
    cases: Annotated[tuple[Case, ...], Meta(description="Examples that must hold.")] = ()


# --- segments ---


class Segment(Document, frozen=True):
    """A dynamic segment."""

    when: Annotated[Condition, Meta(description="Who is in it.")]
    description: Annotated[str, Meta(description="What it means.")] = ""


class SegmentsFile(Document, frozen=True, tag_field="kind", tag="segments"):
    """Groups of customers, kept up to date with every signal."""

    segments: Annotated[Mapping[Id, Segment], Meta(description="Segments by id.")] = {}
    cases: Annotated[tuple[Case, ...], Meta(description="Examples that must hold.")] = ()
