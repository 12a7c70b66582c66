"""The reference pages, written from the same declarations that files and settings are held against.

`python -m config.reference` prints the page of the configuration; a test holds the committed one against it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from config.schema import KINDS, schema_of
from engine import expression

_HEAD = """# Configuration reference

One directory per engine, with any number of YAML files; each has a `kind:` that says what it holds. Entries are
maps from id to body, and several files of one kind add up. `batuta check DIR` names every fault with file, line,
column, the value found and what is expected; `batuta schema KIND` prints the JSON Schema for editors. This page
is written from the same schemas.
"""


def configuration_page() -> str:
    """Markdown: every kind of file with its fields, then the language of rules."""
    told: dict[str, Any] = {}
    return "\n".join([_HEAD, *(line for kind in KINDS for line in _kind(kind, told)), *_language()])


def _kind(kind: str, told: dict[str, Any]) -> Iterator[str]:
    """A kind of file and the parts it is made of, each part where it first occurs."""
    schema = schema_of(kind)
    definitions: Mapping[str, Any] = schema["$defs"]
    yield f"## `kind: {kind}`\n\n{schema['description']}\n"
    yield from _table(schema, definitions)
    for name, definition in definitions.items():
        if definition.get("properties") and told.get(name) != definition:
            told[name] = definition
            yield f"### {_words(name)}\n\n{definition['description']}\n"
            yield from _table(definition, definitions)


def _table(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    yield "| field | value | default | meaning |\n|---|---|---|---|"
    required = set(schema.get("required", ()))
    for name, field in schema["properties"].items():
        if not ("$schema" in schema and name == "kind"):
            default = "required" if name in required else _default(field)
            yield f"| `{name}` | {_value(field, definitions)} | {default} | {_cell(field.get('description', ''))} |"
    yield ""


def _default(field: Mapping[str, Any]) -> str:
    """A default that can be read at a glance; a map's are told where its fields are."""
    value = field.get("default")
    if value in (None, "", []) or isinstance(value, dict):
        return ""
    shown = sorted(value) if isinstance(value, list) and field.get("uniqueItems") else value
    return f"`{_cell(json.dumps(shown, ensure_ascii=False))}`"


def _value(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What belongs there, in a few words."""
    if "title" in field:
        return _cell(field["title"])
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        definition = definitions[name]
        return f"[{_words(name)}](#{_words(name).replace(' ', '-')})" if definition.get("properties") else "map"
    if "enum" in field:
        return ", ".join(f"`{each}`" for each in field["enum"] if each is not None)
    if "anyOf" in field:
        return " or ".join(_value(each, definitions) for each in field["anyOf"] if each.get("type") != "null")
    if field.get("type") == "array":
        return f"list of: {_value(field['items'], definitions)}"
    if isinstance(field.get("additionalProperties"), dict):
        return f"map of id → {_value(field['additionalProperties'], definitions)}"
    plain = {"object": "map", "boolean": "true or false", "": "anything"}
    return plain.get(field.get("type", ""), str(field.get("type", "")))


def _words(name: str) -> str:
    """`ContextWeight` → `context weight`."""
    return "".join(f" {each.lower()}" if each.isupper() else each for each in name).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _language() -> list[str]:
    text = (expression.__doc__ or "").partition("\n\n")[2]
    return ["## The language of rules\n", text.rstrip() + "\n"]


if __name__ == "__main__":
    print(configuration_page(), end="")  # noqa: T201 - a page for standard output
