"""Context: what rules, formulas and templates may see of a moment, as the roots of the expression language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from engine import aggregates
from engine.aggregates import Values
from engine.identity import USER_ID, kind_of
from engine.profile import Profile
from engine.repertoire import Repertoire
from engine.signal import Signal

ROOTS = (
    "profile",
    "aggregates",
    "segments",
    "last",
    "age_ms",
    "signal",
    "request",
    "customer",
    "parameters",
    "now_ms",
)
"""Every name an expression may begin with; `action` and the factors join in formulas (`engine.arbitration`)."""

Context = dict[str, Any]


class Request(msgspec.Struct, frozen=True, gc=False):
    """What a `Decision Requested` asks for."""

    id: str | None
    placements: tuple[str, ...]
    channel: str | None
    limit: int | None


class _Lazy(dict[str, Any]):
    """A mapping that looks a name up when it is first asked for; KeyError where there is nothing."""

    __slots__ = ("_look_up",)

    def __init__(self, look_up: Callable[[str], Any]) -> None:
        self._look_up = look_up

    def __missing__(self, name: str) -> Any:
        found = self._look_up(name)
        if found is None:
            raise KeyError(name)
        self[name] = found
        return found


def folded_scope(signal: Signal, repertoire: Repertoire) -> Context:
    """What the parts of aggregates see: the signal alone, so that the order of signals does not matter."""
    return {"signal": _signal_root(signal), "parameters": repertoire.parameters}


def context_of(profile: Profile, signal: Signal, repertoire: Repertoire, folded: Context | None = None) -> Context:
    """The roots for one customer and one signal; aggregates, ages and last signals are computed when read.

    `folded`: the signal's `folded_scope`, where it is at hand.
    """
    now_ms = profile.now_ms
    return {
        "profile": profile.traits,
        "aggregates": Values(repertoire.profile.by_name, profile.aggregates, now_ms),
        "segments": frozenset(profile.segments),
        "last": _Lazy(lambda name: _last(profile, name)),
        "age_ms": _Lazy(lambda name: _age_ms(profile, repertoire, name)),
        "request": {},
        "customer": _Lazy(lambda name: _customer(profile, repertoire, name)),
        "now_ms": now_ms,
        **(folded_scope(signal, repertoire) if folded is None else folded),
    }


def with_request(context: Context, request: Request, placement: str | None) -> Context:
    """The same moment, seen by one slot of a request."""
    asked = {"id": request.id, "placement": placement, "channel": request.channel, "limit": request.limit}
    properties = context["signal"]["properties"]
    return {
        **context,
        "request": {**{k: v for k, v in asked.items() if v is not None}, "properties": properties},
    }


def _last(profile: Profile, name: str) -> Mapping[str, Any] | None:
    signal = profile.last.get(name)
    return None if signal is None else {"properties": signal.properties, "at_ms": signal.at_ms}


def _age_ms(profile: Profile, repertoire: Repertoire, name: str) -> int | None:
    """How old the latest contribution to a trait or an aggregate is."""
    at_ms = profile.trait_times.get(name)
    if at_ms is not None:
        return max(0, profile.now_ms - at_ms)
    definition = repertoire.profile.by_name.get(name)
    return None if definition is None else aggregates.age_ms(definition, profile.aggregates.get(name), profile.now_ms)


def _signal_root(signal: Signal) -> dict[str, Any]:
    root = {
        "type": signal.type,
        "name": signal.name,
        "message_id": signal.message_id,
        "time_ms": signal.time_ms,
        "properties": signal.properties,
        "traits": signal.traits,
        "context": signal.context,
    }
    if signal.event is not None:
        root["event"] = signal.event
    if signal.channel is not None:
        root["channel"] = signal.channel
    if signal.user_id is not None:
        root["user_id"] = signal.user_id
    if signal.anonymous_id is not None:
        root["anonymous_id"] = signal.anonymous_id
    return root


def _customer(profile: Profile, repertoire: Repertoire, name: str) -> str | int | bool | None:
    """What expressions may know of who it is."""
    match name:
        case "id":
            return profile.known_as
        case "known":
            return kind_of(profile.customer_id, repertoire.identity) == USER_ID
        case "first_seen_ms":
            return profile.now_ms if profile.created_ms is None else profile.created_ms
        case "last_seen_ms":
            return profile.now_ms if profile.seen_ms is None else profile.seen_ms
    return None
