"""The files that say what can be done, and where: channels and actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, field

from config.documents.values import (
    Case,
    Condition,
    Day,
    Document,
    Duration,
    EndOfDay,
    Id,
    Moment,
    NotNegative,
    Places,
    Share,
    TimeOfDay,
    Weight,
)
from engine.repertoire import ActionClass

# --- channels ---


class QuietHours(Document, frozen=True):
    """A span of the recipient's day in which nothing is sent."""

    start: Annotated[TimeOfDay, Meta(description="When it begins.")] = field(name="from")
    end: Annotated[EndOfDay, Meta(description="When it ends; before `from`: the next day.")] = field(name="to")
    days: Annotated[frozenset[Day] | None, Meta(description="Days on which it begins; left out: all.")] = None


class Channel(Document, frozen=True):
    """A touchpoint that treatments go to."""

    inbound: Annotated[
        bool, Meta(description="The customer comes to it: only requests choose it, never a trigger.")
    ] = False
    topic: Annotated[bool, Meta(description="Also publish its decisions to `decisions.<channel>`.")] = False
    reachable: Annotated[Condition | None, Meta(description="Whom it reaches; left out: everybody.")] = None
    answers: Annotated[Share, Meta(description="Expected share of answered contacts.")] = 0.1
    impressions: Annotated[
        bool, Meta(description="It reports what was shown: nothing is learned from what it does not report.")
    ] = False
    quiet_hours: Annotated[tuple[QuietHours, ...], Meta(description="When nothing is sent.")] = ()
    description: Annotated[str, Meta(description="What it is.")] = ""


class Placement(Document, frozen=True):
    """A slot that requests ask for."""

    channel: Annotated[Id, Meta(description="The channel it is on.")]
    limit: Annotated[Places, Meta(description="How many decisions fit, unless the request says less.")] = 1
    fallback: Annotated[Id | None, Meta(description="The action to give when nothing qualifies.")] = None
    description: Annotated[str, Meta(description="What it is.")] = ""


class ChannelsFile(Document, frozen=True, tag_field="kind", tag="channels"):
    """Where customers are reached."""

    channels: Annotated[Mapping[Id, Channel], Meta(description="Channels by id.")] = {}
    placements: Annotated[Mapping[Id, Placement], Meta(description="Placements by id.")] = {}
    cases: Annotated[tuple[Case, ...], Meta(description="Examples that must hold.")] = ()


# --- actions ---


class Engagement(Document, frozen=True):
    """Who may be offered something; every condition of every level must hold."""

    eligibility: Annotated[tuple[Condition, ...], Meta(description="Hard rules: may they have it at all?")] = ()
    applicability: Annotated[tuple[Condition, ...], Meta(description="Is it relevant to them at the moment?")] = ()
    suitability: Annotated[tuple[Condition, ...], Meta(description="Is it right to offer it to them?")] = ()


class Group(Engagement, frozen=True):
    """Actions that belong together."""

    title: Annotated[str, Meta(description="For people.")] = ""
    lever: Annotated[Weight, Meta(description="Percent added to the priority of its actions.")] = 0.0


class Issue(Engagement, frozen=True):
    """A business issue, the top of the hierarchy."""

    title: Annotated[str, Meta(description="For people.")] = ""
    lever: Annotated[Weight, Meta(description="Percent added to the priority of its actions.")] = 0.0
    groups: Annotated[Mapping[Id, Group], Meta(description="Its groups by id.")] = {}


class Treatment(Document, frozen=True):
    """How an action is put on one channel."""

    channel: Annotated[Id, Meta(description="The channel it goes to.")]
    placements: Annotated[
        frozenset[Id],
        Meta(description="The placements it is made for; left out: it is sent, or fits any slot."),
    ] = frozenset()
    purpose: Annotated[
        Id | None,
        Meta(
            description="What consent it needs; left out: marketing for actions of class default, else transactional."
        ),
    ] = None
    when: Annotated[Condition | None, Meta(description="A further condition of this treatment.")] = None
    propensity: Annotated[
        Share | None,
        Meta(description="Expected chance of success before anything is learned; left out: the action's."),
    ] = None
    cost: Annotated[NotNegative, Meta(description="What one contact costs; counted by money budgets.")] = 0.0
    content: Annotated[
        Mapping[Id, str],
        Meta(description="Parts of the message. {profile.first_name|there} inserts a value or a default."),
    ] = {}


class Action(Engagement, frozen=True, kw_only=True):
    """Something that can be offered to a customer."""

    group: Annotated[Id, Meta(description="The group it belongs to; its issue follows.")]
    title: Annotated[str, Meta(description="For people.")] = ""
    description: Annotated[str, Meta(description="What it means.")] = ""
    action_class: Annotated[
        ActionClass,
        Meta(
            description="default; mandatory: skips limits and arbitration; transactional: the customer expects it, "
            "skips limits. Suppression holds for all."
        ),
    ] = field(name="class", default="default")
    obeys_caps: Annotated[
        bool | None,
        Meta(description="Whether contact limits hold it back; left out: for the class default only."),
    ] = None
    counts_toward_caps: Annotated[
        bool | None, Meta(description="Whether its contacts use up limits; left out: as obeys_caps.")
    ] = None
    ignores_quiet_hours: Annotated[
        bool | None, Meta(description="Whether it goes out in quiet hours; left out: for transactional only.")
    ] = None
    opt_out_of_group_rules: Annotated[
        bool, Meta(description="Leave the conditions of its group aside; those of its issue and of all stay.")
    ] = False
    starts: Annotated[Moment | None, Meta(description="From when; a date: its beginning.")] = None
    ends: Annotated[Moment | None, Meta(description="Until when; a date: its end.")] = None
    expires_after: Annotated[Duration, Meta(description="How long an offer of it stays open.")] = "7d"
    answerable: Annotated[
        Duration | None, Meta(description="How long an outcome still counts; left out: as long as the offer.")
    ] = None
    tags: Annotated[frozenset[Id], Meta(description="Words that limits, budgets and scopes refer to.")] = frozenset()
    value: Annotated[
        float | Condition,
        Meta(description="What a success is worth, the same unit for all.", title="a number or an expression"),
    ] = 1.0
    lever: Annotated[Weight, Meta(description="Percent added to its priority.")] = 0.0
    propensity: Annotated[Share, Meta(description="Expected chance of success of treatments that name none.")] = 0.5
    treatments: Annotated[
        Mapping[Id, Treatment],
        Meta(description="Its treatments by id.", title="at least one treatment", min_length=1),
    ]


class ActionsFile(Document, frozen=True, tag_field="kind", tag="actions"):
    """What can be offered: issues, their groups, and actions with their treatments."""

    all_actions: Annotated[Engagement, Meta(description="Conditions of every action.")] = Engagement()
    issues: Annotated[Mapping[Id, Issue], Meta(description="Issues by id.")] = {}
    actions: Annotated[Mapping[Id, Action], Meta(description="Actions by id.")] = {}
    cases: Annotated[tuple[Case, ...], Meta(description="Examples that must hold.")] = ()
