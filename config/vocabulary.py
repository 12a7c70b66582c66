"""Vocabulary: the names a configuration declares, and so what its expressions may speak of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import msgspec

from engine.consent import CONSENT_EVENT
from engine.expression import ANY, BOOLEAN, LIST, MAP, NUMBER, STRING, Schema, Spec, Type
from engine.signal import SIGNAL_TYPES
from engine.triggers import REQUEST_EVENT

_TYPES = {"string": STRING, "number": NUMBER, "boolean": BOOLEAN, "map": MAP, "list": LIST, "any": ANY}
_ANY_KEY = "*"
BUILT_IN_EVENTS = frozenset({*SIGNAL_TYPES, CONSENT_EVENT, REQUEST_EVENT}) - {"track"}
"""Names of signals that need no declaration."""


class Names(msgspec.Struct, frozen=True):
    """Every id that is written somewhere, so that a faulty entry is not also an unknown one."""

    traits: frozenset[str]
    events: frozenset[str]
    aggregates: frozenset[str]
    segments: frozenset[str]
    channels: frozenset[str]
    placements: frozenset[str]
    issues: frozenset[str]
    groups: frozenset[str]
    actions: frozenset[str]
    treatments: frozenset[str]
    tags: frozenset[str]
    triggers: frozenset[str]
    models: frozenset[str]


def names_of(written: Mapping[str, Mapping[str, Any]]) -> Names:
    """The names in a configuration as written, whatever else is wrong with it."""
    actions = _bodies(written, "actions", "actions")
    issues = _bodies(written, "actions", "issues")
    return Names(
        traits=frozenset(_bodies(written, "profile", "traits")),
        events=frozenset(_bodies(written, "profile", "signals")),
        aggregates=frozenset(_bodies(written, "profile", "aggregates")),
        segments=frozenset(_bodies(written, "segments", "segments")),
        channels=frozenset(_bodies(written, "channels", "channels")),
        placements=frozenset(_bodies(written, "channels", "placements")),
        issues=frozenset(issues),
        groups=frozenset(group for issue in issues.values() for group in _map(issue.get("groups"))),
        actions=frozenset(actions),
        treatments=frozenset(each for action in actions.values() for each in _map(action.get("treatments"))),
        tags=frozenset(tag for action in actions.values() for tag in _texts(action.get("tags"))),
        triggers=frozenset(_bodies(written, "triggers", "triggers")),
        models=frozenset(_bodies(written, "models", "models")),
    )


def _bodies(written: Mapping[str, Mapping[str, Any]], kind: str, section: str) -> dict[str, dict[str, Any]]:
    return {key: _map(body) for key, body in _map(written.get(kind, {}).get(section)).items()}


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


class Vocabulary:
    """The schemas expressions are compiled against, by where they stand. Nothing declared means any name goes."""

    def __init__(self, written: Mapping[str, Mapping[str, Any]], names: Names) -> None:
        self._names = names
        self._traits = _bodies(written, "profile", "traits")
        self._signals = _bodies(written, "profile", "signals")
        self._aggregates = _bodies(written, "profile", "aggregates")
        self._parameters = _map(written["engine"].get("parameters")) if "engine" in written else None
        self._implicit_traits = {
            written.get("profile", {}).get(f"{what}_trait", what) for what in ("timezone", "country")
        }

    @cached_property
    def rules(self) -> Schema:
        """Rules of actions, channels, experiments, context weights; content."""
        return Schema(self._roots(()))

    @cached_property
    def segments(self) -> Schema:
        """Rules of segments, which cannot speak of segments."""
        roots = self._roots(())
        return Schema({name: spec for name, spec in roots.items() if name != "segments"})

    @cached_property
    def values(self) -> Schema:
        """Values of actions."""
        return Schema({**self._roots(()), "action": self._action()})

    @cached_property
    def formulas(self) -> Schema:
        """Formulas of arbitration."""
        factors = dict.fromkeys(("propensity", "context_weight", "value", "lever"), NUMBER)
        return Schema({**self.values.roots, **factors})

    @cached_property
    def action_features(self) -> Schema:
        """Features of actions, which are the same for every customer."""
        treatment: Spec = {"id": STRING, "channel": STRING, "cost": NUMBER}
        return Schema({"action": self._action(), "treatment": treatment})

    def on(self, events: Iterable[str]) -> Schema:
        """Rules that only see these signals (any, when there are none)."""
        return Schema(self._roots(events))

    def folded(self, events: Iterable[str]) -> Schema:
        """Parts of aggregates, which see the signal alone, so that the order of signals does not matter."""
        roots = self._roots(events)
        return Schema({name: roots[name] for name in ("signal", "parameters")})

    def _roots(self, events: Iterable[str]) -> dict[str, Spec]:
        return {
            "profile": self._profile(),
            "aggregates": {name: self._aggregate(name) for name in self._names.aggregates},
            "segments": self._names.segments,
            "last": self._last(),
            "age_ms": self._ages(),
            "signal": self._signal(events),
            "request": {"id": STRING, "placement": STRING, "channel": STRING, "limit": NUMBER, "properties": MAP},
            "customer": {"id": STRING, "known": BOOLEAN, "first_seen_ms": NUMBER, "last_seen_ms": NUMBER},
            "parameters": MAP if self._parameters is None else _spec_of(self._parameters),
            "now_ms": NUMBER,
        }

    def _action(self) -> Spec:
        return {"id": STRING, "issue": STRING, "group": STRING, "tags": self._names.tags}

    def _profile(self) -> Spec:
        if not self._traits:
            return MAP
        declared: dict[str, Spec] = dict.fromkeys(self._implicit_traits, STRING)
        return declared | {name: _type_of(trait.get("type")) for name, trait in self._traits.items()}

    def _aggregate(self, name: str) -> Spec:
        aggregate = self._aggregates[name]
        value: Type = ANY if aggregate.get("function") == "last" else NUMBER
        return {_ANY_KEY: value} if aggregate.get("by") is not None else value

    def _ages(self) -> Spec:
        if not self._traits:
            return {_ANY_KEY: NUMBER}
        return dict.fromkeys((*self._traits, *self._implicit_traits, *self._names.aggregates), NUMBER)

    def _last(self) -> Spec:
        names = (*self._signals, *BUILT_IN_EVENTS) if self._signals else (_ANY_KEY,)
        return {name: {"properties": self._properties((name,)), "at_ms": NUMBER} for name in names}

    def _signal(self, events: Iterable[str]) -> Spec:
        texts = ("type", "name", "event", "channel", "message_id", "user_id", "anonymous_id")
        properties = self._properties(tuple(events))
        return {
            **dict.fromkeys(texts, STRING),
            "time_ms": NUMBER,
            "properties": properties,
            "traits": MAP,
            "context": MAP,
        }

    def _properties(self, events: tuple[str, ...]) -> Spec:
        """The properties of whichever of these signals it is; any, when one of them leaves them open."""
        declared = [self._signals.get(event, {}).get("properties") for event in events]
        if not declared or not all(isinstance(each, dict) for each in declared):
            return MAP
        found: dict[str, Spec] = {}
        for name, type_ in (item for each in declared for item in _map(each).items()):
            spec = _type_of(type_)
            found[name] = spec if found.get(name, spec) is spec else ANY
        return found


def _type_of(written: Any) -> Type:
    return _TYPES.get(written, ANY) if isinstance(written, str) else ANY


def _spec_of(value: Any) -> Spec:
    """The spec of a constant."""
    match value:
        case bool():
            return BOOLEAN
        case int() | float():
            return NUMBER
        case str():
            return STRING
        case dict():
            return {str(key): _spec_of(each) for key, each in value.items()}
        case list() if value and all(isinstance(each, str) for each in value):
            return frozenset(value)
        case list():
            return LIST
    return ANY
