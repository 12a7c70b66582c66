"""JSON Schemas of the messages: what upstream may send, and what channels and people can rely on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from engine import outcomes, signal
from engine.candidates import STAGES
from engine.decision import Decision
from engine.rejects import CODES, RejectMessage

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXT_OR_NULL = ["string", "null"]


def message_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a message; `kind` is one of `MESSAGES`, else KeyError."""
    return {"$schema": _DIALECT, "$id": f"urn:batuta:message:{kind}", **_BUILDERS[kind]()}


def _signal() -> dict[str, Any]:
    identifier = {"type": _TEXT_OR_NULL, "maxLength": signal.MAX_IDENTIFIER}
    name = {"type": _TEXT_OR_NULL, "maxLength": signal.MAX_NAME}
    free = {"type": ["object", "null"]}
    external = {
        "type": "object",
        "properties": {
            "type": {"type": "string", "minLength": 1, "maxLength": signal.MAX_KIND},
            "id": {"type": "string", "minLength": 1, "maxLength": signal.MAX_IDENTIFIER},
        },
        "required": ["type", "id"],
    }
    return {
        "title": "Batuta signal",
        "description": "Value of batuta.signals: the Segment spec's shape. Further fields are ignored.",
        "type": "object",
        "properties": {
            "messageId": {"type": _TEXT_OR_NULL, "maxLength": signal.MAX_MESSAGE_ID},
            "type": {"enum": list(signal.SIGNAL_TYPES)},
            "event": name,
            "userId": identifier,
            "anonymousId": identifier,
            "externalIds": {"type": ["array", "null"], "maxItems": signal.MAX_EXTERNAL_IDS, "items": external},
            "previousId": identifier,
            "timestamp": {"type": _TEXT_OR_NULL, "format": "date-time"},
            "channel": name,
            "properties": free,
            "traits": free,
            "context": free,
        },
        "required": ["type"],
        "allOf": [
            _needs("track", "event"),
            _needs("alias", "previousId"),
            {"anyOf": [_present("userId"), _present("anonymousId"), _present("externalIds", "array", "minItems")]},
        ],
    }


def _needs(kind: str, field: str) -> dict[str, Any]:
    return {"if": {"properties": {"type": {"const": kind}}, "required": ["type"]}, "then": _present(field)}


def _present(field: str, kind: str = "string", least: str = "minLength") -> dict[str, Any]:
    return {"properties": {field: {"type": kind, least: 1}}, "required": [field]}


def _outcome() -> dict[str, Any]:
    identifier = {"type": "string", "minLength": 1, "maxLength": outcomes.MAX_ID}
    return {
        "title": "Batuta outcome",
        "description": "Value of batuta.outcomes: what a channel reports about a decision.",
        "type": "object",
        "properties": {
            "outcomeId": {**identifier, "type": _TEXT_OR_NULL},
            "decisionId": identifier,
            "customerId": identifier,
            "type": {"enum": list(outcomes.OUTCOME_TYPES)},
            "value": {"type": ["number", "null"]},
            "timestamp": {"type": _TEXT_OR_NULL, "format": "date-time"},
        },
        "required": ["decisionId", "customerId", "type"],
    }


def _decision() -> dict[str, Any]:
    schema = _closed(Decision, "Batuta decision", "Value of batuta.decisions and batuta.decisions.<channel>.")
    schema["$defs"]["Rejection"]["properties"]["stage"] = {"enum": list(STAGES)}
    for field in ("decidedAt", "expiresAt"):
        schema["properties"][field]["format"] = "date-time"
    return schema


def _reject() -> dict[str, Any]:
    schema = _closed(RejectMessage, "Batuta reject", "Value of batuta.rejects: what was not accepted, and why.")
    schema["properties"]["code"] = {"enum": list(CODES)}
    schema["properties"]["encoding"] = {"enum": ["utf-8", "base64"]}
    return schema


def _closed(type_: type, title: str, description: str) -> dict[str, Any]:
    """The schema of one of our own messages: what is not in it is never sent."""
    schema = msgspec.json.schema(type_)
    definitions = schema["$defs"]
    for definition in definitions.values():
        definition.pop("title", None)
        definition.pop("description", None)
        definition["additionalProperties"] = False
    root = definitions.pop(type_.__name__)
    return {"title": title, "description": description, **root, "$defs": definitions}


_BUILDERS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "signal": _signal,
    "decision": _decision,
    "outcome": _outcome,
    "reject": _reject,
}
MESSAGES: tuple[str, ...] = tuple(_BUILDERS)
"""The messages that have a schema."""
