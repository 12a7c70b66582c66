"""Repertoires built in code, for tests of the engine that need no files. Defaults decide something sensible."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from engine import candidates
from engine.arbitration import Factors, Ranked
from engine.budgets import Budgets, Share
from engine.calendar import Zones
from engine.candidates import Rejection, Rejections, select
from engine.constraints import permit, surroundings
from engine.context import Request, context_of, with_request
from engine.expression import Predicates, compile_expression
from engine.funnel import REQUEST, Ask, Funnel
from engine.history import retention_of
from engine.profile import Contact, Profile
from engine.record import Output
from engine.repertoire import (
    Action,
    Arbitration,
    Candidate,
    Channel,
    Constraints,
    Engagement,
    Experiment,
    Holdout,
    IdentifierKind,
    IdentityRules,
    Placement,
    ProfileRules,
    Repertoire,
    Rule,
    Treatment,
    Trigger,
)
from engine.replay import Replay
from engine.signal import Signal
from engine.template import compile_template
from models.baseline import PriorScorer

START_MS = 1_767_600_000_000
"""Monday 2026-01-05, 08:00 UTC."""
DAY_MS = 86_400_000
HOUR_MS = 3_600_000

_ZONES = ("UTC", "Europe/Madrid", "America/New_York", "America/Los_Angeles", "Asia/Tokyo")


def zones(default: tuple[str, ...] = ("UTC",)) -> Zones:
    """A few real zones; Spain and the United States as countries."""
    by_country = {"ES": ("Europe/Madrid",), "US": ("America/New_York", "America/Los_Angeles")}
    return Zones({name: ZoneInfo(name) for name in _ZONES}, by_country, default)


def a_rule(source: str, predicates: Predicates, where: str = "action") -> Rule:
    """A compiled rule whose predicates are entered into a table."""
    return Rule(predicates=predicates.add(compile_expression(source)), where=where)


class Builder:
    """Collects actions and settings and compiles them into a repertoire; every part has a default."""

    def __init__(self) -> None:
        self.predicates = Predicates()
        self.actions: list[Action] = []

    def rules(self, *sources: str) -> tuple[Rule, ...]:
        """Rules over this repertoire's predicates."""
        return tuple(a_rule(source, self.predicates) for source in sources)

    def treatment(self, id_: str, channel: str = "email", **changes: Any) -> Treatment:
        """A treatment; `content` may be plain text templates."""
        content = changes.pop("content", {"body": "Hello {profile.first_name|there}"})
        compiled = {name: compile_template(text) for name, text in content.items()}
        return Treatment(
            id=id_, channel=channel, content=compiled, **{"purpose": "marketing", "propensity": 0.1, **changes}
        )

    def action(self, id_: str, *treatments: Treatment, **changes: Any) -> Builder:
        """Add an action; one e-mail treatment unless others are given. `eligibility` etc. may be lists of sources."""
        layers = {
            layer: self.rules(*changes.pop(layer, ())) for layer in ("eligibility", "applicability", "suitability")
        }
        settings: dict[str, Any] = {
            "issue": "sales",
            "group": "offers",
            "value": 10.0,
            "expires_after_ms": DAY_MS,
            "answerable_ms": 7 * DAY_MS,
            "engagement": Engagement(**layers),
            "treatments": treatments or (self.treatment(f"{id_}-email"),),
        }
        self.actions.append(Action(id=id_, **{**settings, **changes}))
        return self

    def build(self, **changes: Any) -> Repertoire:
        """The repertoire; keyword arguments replace its fields."""
        arbitration = changes.get("arbitration", Arbitration())
        constraints = changes.get("constraints", Constraints(purposes={"marketing": "implied"}))
        actions = sorted(self.actions, key=lambda each: each.id)
        pairs = [(action, each) for action in actions for each in sorted(action.treatments, key=lambda each: each.id)]
        settings: dict[str, Any] = {
            "name": "test",
            "version": "v1",
            "prefix": "batuta.",
            "partitions": 4,
            "source": "/test",
            "max_future_ms": 600_000,
            "zones": zones(),
            "identity": identity_rules(),
            "profile": ProfileRules(),
            "channels": channels(),
            "placements": {"hero": Placement(id="hero", channel="web", limit=3)},
            "actions": {each.id: each for each in actions},
            "candidates": tuple(
                Candidate(index=index, action=action, treatment=each) for index, (action, each) in enumerate(pairs)
            ),
            "predicates": self.predicates,
            "constraints": constraints,
            "retention": retention_of(constraints, (arbitration,), tuple(actions)),
            "arbitration": arbitration,
            "experiments": (),
            "holdout": None,
            "triggers": (Trigger(id="go", events=frozenset({"Go"})),),
        }
        return Repertoire(**{**settings, **changes})


def identity_rules(**limits: int) -> IdentityRules:
    """userId 1, email 5, anonymousId 5 ever, unless other limits are given; the usual blocked values."""
    kinds = {"userId": 1, "email": 5, "anonymousId": 5, **limits}
    return IdentityRules(
        kinds=tuple(IdentifierKind(kind=kind, limit=limit) for kind, limit in kinds.items()),
        blocked=(re.compile("^[0-]*$"), re.compile("^(-1|null|anonymous)$")),
    )


def channels() -> dict[str, Channel]:
    """E-mail, push (with a topic of its own) and SMS to write to; web to be visited."""
    each = (
        Channel(id="email"),
        Channel(id="push", topic=True),
        Channel(id="sms"),
        Channel(id="web", inbound=True),
    )
    return {channel.id: channel for channel in each}


def a_signal(event: str | None = "Go", user: str | None = "u1", **fields: Any) -> bytes:
    """The JSON of a signal: a `track` of `event`, or whatever `fields` make of it."""
    body: dict[str, Any] = {"type": "track", "event": event, "userId": user, **fields}
    return json.dumps({name: value for name, value in body.items() if value is not None}).encode()


def a_replay(repertoire: Repertoire) -> Replay:
    """A whole engine in memory, scoring by priors."""
    return Replay(repertoire, PriorScorer(repertoire))


def a_profile(**fields: Any) -> Profile:
    """Customer u1 at START_MS, of whom nothing else is known."""
    return Profile(**{"customer_id": "u1", "now_ms": START_MS, **fields})


def a_contact(at_ms: int = START_MS, action: str = "a", channel: str = "email", **changes: Any) -> Contact:
    """A contact that counts and was sent, its offer open for a day and answerable for a week."""
    named = {"decision_id": f"{action}{at_ms}", "issue": "sales", "group": "offers", "treatment": f"{action}-{channel}"}
    ends = {"expires_ms": at_ms + DAY_MS, "answerable_until_ms": at_ms + 7 * DAY_MS}
    settings = {**named, **ends, "at_ms": at_ms, "action": action, "channel": channel}
    return Contact(**{**settings, "counts": True, "outbound": True, **changes})


def a_funnel(repertoire: Repertoire, profile: Profile | None = None, *, trigger: str = "go", **changes: Any) -> Funnel:
    """One run of the funnel for a trigger, or for the slot of a request when `placement` is given.

    Other keyword arguments replace fields of the question, or of the funnel.
    """
    profile = a_profile() if profile is None else profile
    signal = Signal("m1", "track", profile.now_ms, event="Go", properties=changes.pop("properties", {}))
    context = context_of(profile, signal, repertoire)
    settings: dict[str, Any] = {"budgets": {}, "share": Share(0, 1), "scorer": PriorScorer(repertoire)}
    settings |= {name: changes.pop(name) for name in tuple(changes) if name in settings}
    request, placement = changes.get("request"), changes.get("placement")
    if request is None and placement is None:
        asked = next(each for each in repertoire.triggers if each.id == trigger)
        pool = candidates.for_trigger(repertoire, asked)
        asks: dict[str, Any] = {"trigger": trigger, "pool": pool, "limit": asked.limit, "fallback": asked.fallback}
    else:
        request = Request("r1", (), None, None) if request is None else request
        pool, limit, fallback = candidates.for_request(repertoire, request, placement)
        context = with_request(context, request, placement)
        asks = {"trigger": REQUEST, "pool": pool, "limit": limit, "fallback": fallback, "request": request}
    ask = Ask(**{"cause": "m1", "signal": signal, **asks, **changes})
    return Funnel(ask=ask, profile=profile, context=context, repertoire=repertoire, **settings)


def let_through(
    repertoire: Repertoire, profile: Profile, *, in_slot: bool = False, budgets: Budgets | None = None
) -> tuple[list[str], list[Rejection]]:
    """The treatments that no constraint holds back, and why the others are held."""
    rejections = Rejections()
    spent = {} if budgets is None else budgets
    around = surroundings(profile, spent, Share(0, 1), repertoire, in_slot=in_slot)
    found = permit(select(repertoire.candidates, repertoire), around, rejections)
    return [each.treatment.id for each in found], list(rejections)


def in_order(repertoire: Repertoire) -> Ranked:
    """All candidates, ranked as they come, all factors 1 but for a propensity of 0.5."""
    every = select(repertoire.candidates, repertoire)
    halves = np.full(len(every), 0.5)
    return Ranked(every, Factors(halves, 1.0, 1.0, 1.0, halves), np.arange(len(every)))


def decisions_of(outputs: Iterable[Output]) -> list[dict[str, Any]]:
    """The decoded values of `decisions`."""
    return [json.loads(each.value) for each in outputs if each.topic == "decisions"]


__all__ = [
    "DAY_MS",
    "HOUR_MS",
    "START_MS",
    "Builder",
    "Experiment",
    "Holdout",
    "a_contact",
    "a_funnel",
    "a_profile",
    "a_replay",
    "a_rule",
    "a_signal",
    "channels",
    "decisions_of",
    "identity_rules",
    "in_order",
    "let_through",
    "zones",
]
