"""The values that documents are made of, cases, and scopes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Id = Annotated[
    str,
    Meta(
        title="an id: letters, digits and . _ -, at most 100 characters",
        pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
    ),
]
Name = Annotated[
    str,
    Meta(
        title="a name: letters, digits and _, not starting with a digit",
        pattern="^[A-Za-z_][A-Za-z0-9_]{0,99}$",
    ),
]
Label = Annotated[str, Meta(title="text of 1 to 256 characters", min_length=1, max_length=256)]
Condition = Annotated[str, Meta(title="an expression", min_length=1, max_length=4000)]
Duration = Annotated[
    str,
    Meta(
        title="a duration such as 15m, 12h, 30d or 1d12h",
        pattern="^(?=[0-9])([0-9]{1,4}w)?([0-9]{1,5}d)?([0-9]{1,6}h)?([0-9]{1,7}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?$",
    ),
]
CalendarSpan = Annotated[
    str,
    Meta(
        title='a calendar span such as day, "1 week" or "3 months"',
        pattern="^([1-9][0-9]{0,2} )?(hour|day|week|month)s?$",
    ),
]
Moment = Annotated[
    str,
    Meta(
        title="a date such as 2026-11-30 or a time such as 2026-11-30T18:00:00Z",
        pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt].+)?$",
    ),
]
TimeOfDay = Annotated[str, Meta(title='a time of day such as "22:00"', pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")]
EndOfDay = Annotated[str, Meta(title='a time of day up to "24:00"', pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$")]
Share = Annotated[float, Meta(title="a share from 0 to 1", ge=0, le=1)]
Percent = Annotated[float, Meta(title="percent from 0 to 100", ge=0, le=100)]
NotNegative = Annotated[float, Meta(title="a number, 0 or more", ge=0)]
Positive = Annotated[float, Meta(title="a number above 0", gt=0)]
Count = Annotated[int, Meta(title="a whole number, 1 or more", ge=1, le=1_000_000_000)]
Places = Annotated[int, Meta(title="a whole number from 1 to 20", ge=1, le=20)]
Weight = Annotated[float, Meta(title="a weight in percent", ge=-1_000, le=10_000)]
ValueType = Literal["string", "number", "boolean", "map", "list", "any"]
Day = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
Answer = Literal["delivered", "impression", "click", "accept", "reject", "dismiss", "convert", "bounce", "unsubscribe"]
"""Types of outcomes, as channels send them."""
Counted = Literal[
    "contact", "delivered", "impression", "click", "accept", "reject", "dismiss", "convert", "bounce", "unsubscribe"
]
"""What policies count: outcomes, or the contact itself."""


class Document(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the configuration as it is written."""


class Case(Document, frozen=True):
    """An example that must hold: a test of the rules of this file."""

    name: Annotated[Label, Meta(description="What the example shows.")]
    given: Annotated[
        Given, Meta(description="What is known of the customer and the moment; what is left out is missing.")
    ]
    expect: Annotated[
        Mapping[str, Any],
        Meta(
            description="By id of a rule of this file, or by expression: true, false or a value; "
            "`eligible`: the ids of exactly those actions whose rules hold."
        ),
    ]


class Given(Document, frozen=True):
    """The customer and the moment of a case."""

    profile: Annotated[Mapping[str, Any], Meta(description="Traits.")] = {}
    aggregates: Annotated[Mapping[str, Any], Meta(description="Values of aggregates.")] = {}
    segments: Annotated[
        frozenset[str] | None, Meta(description="Segments the customer is in; left out: as their rules say.")
    ] = None
    entered: Annotated[frozenset[str], Meta(description="Segments just entered.")] = frozenset()
    left: Annotated[frozenset[str], Meta(description="Segments just left.")] = frozenset()
    last: Annotated[
        Mapping[str, Mapping[str, Any]], Meta(description="Properties of the latest signal of an event, by event.")
    ] = {}
    age_ms: Annotated[Mapping[str, float], Meta(description="Milliseconds since a trait or aggregate was set.")] = {}
    signal: Annotated[Mapping[str, Any], Meta(description="Fields of the signal: event, type, properties ….")] = {}
    request: Annotated[Mapping[str, Any], Meta(description="Fields of the request: placement, channel ….")] = {}
    customer: Annotated[Mapping[str, Any], Meta(description="Fields of the customer: id, known ….")] = {}
    at: Annotated[Moment, Meta(description="When it is.")] = "2026-01-01T00:00:00Z"


class Scope(Document, frozen=True):
    """Which candidates are meant: those in every list that is given."""

    issues: Annotated[frozenset[Id], Meta(description="Only of these issues.")] = frozenset()
    groups: Annotated[frozenset[Id], Meta(description="Only of these groups.")] = frozenset()
    actions: Annotated[frozenset[Id], Meta(description="Only these actions.")] = frozenset()
    tags: Annotated[frozenset[Id], Meta(description="Only with one of these tags.")] = frozenset()
    channels: Annotated[frozenset[Id], Meta(description="Only on these channels.")] = frozenset()
