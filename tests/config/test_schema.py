"""The published schemas are sound, documented, and accept exactly what loading accepts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from config.documents import customers
from config.schema import KINDS, schema_of
from engine import repertoire
from tests.builders import CONFIG
from tests.config.shop_models import MODELS


def properties_of(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property of a schema and of its definitions."""
    if isinstance(schema, dict):
        for name, each in schema.get("properties", {}).items():
            yield f"{path}.{name}", each
        for name, each in schema.get("$defs", {}).items():
            yield from properties_of(each, name)


@pytest.mark.parametrize("kind", KINDS)
def test_schemas_are_valid(kind: str) -> None:
    """They are JSON Schemas of the version they name."""
    schema = schema_of(kind)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described(kind: str) -> None:
    """An editor shows one sentence for each key, and refuses others."""
    schema = schema_of(kind)
    for name, each in properties_of(schema):
        assert each["description"].endswith((".", "?")), name
    assert all(each["additionalProperties"] is False for each in (schema, *schema["$defs"].values()))


@pytest.mark.parametrize("kind", KINDS)
def test_schemas_accept_the_example(kind: str) -> None:
    """The example configuration fits, and would not under another kind."""
    validator = Draft202012Validator(schema_of(kind))
    body = {**CONFIG, "models": MODELS}[kind]
    assert list(validator.iter_errors({"kind": kind, **body})) == []
    assert list(validator.iter_errors({"kind": "other", **body})) != []


def test_a_schema_is_the_callers_own() -> None:
    """Changing one changes no other."""
    schema_of("engine")["properties"].clear()
    assert schema_of("engine")["properties"] != {}


def test_an_unknown_kind() -> None:
    """There are no other kinds."""
    with pytest.raises(KeyError):
        schema_of("engines")


def test_bounds_of_profiles_are_the_engines() -> None:
    """The bounds that can be configured, and what they are otherwise, are those the engine has."""
    assert msgspec.structs.asdict(customers.Limits()) == msgspec.structs.asdict(repertoire.Limits())
