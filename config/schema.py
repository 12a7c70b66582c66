"""JSON Schema 2020-12 of every kind of file: what editors complete with and what files are held against."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from config.documents import DOCUMENTS

KINDS: tuple[str, ...] = tuple(DOCUMENTS)
"""The kinds of files, in the order they are best read."""


@cache
def _schema_of(kind: str) -> dict[str, Any]:
    schema = msgspec.json.schema(DOCUMENTS[kind])
    definitions = schema["$defs"]
    root = definitions.pop(DOCUMENTS[kind].__name__)
    for definition in (root, *definitions.values()):
        definition.pop("title", None)  # the name of a class; titles here say what is expected of a value
        for field in definition.get("properties", {}).values():
            if len(field.get("enum", ())) == 1:  # what tells the members of a union apart
                field.setdefault("description", "Which one it is.")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:batuta:config:{kind}",
        "title": f"Batuta configuration: {kind}",
        **root,
        "$defs": definitions,
    }


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON Schema of files with `kind: <kind>`; raises KeyError for a kind that is not in `KINDS`."""
    return msgspec.json.decode(msgspec.json.encode(_schema_of(kind)))  # type: ignore[no-any-return]  # a copy
