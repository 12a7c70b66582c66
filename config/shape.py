"""Shape: each file held against the JSON Schema of its kind; what does not fit is reported and left out.

Leaving it out lets all the rest be compiled and checked too, so that one look shows every fault.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeAlias

import msgspec
from jsonschema import Draft202012Validator, TypeChecker
from jsonschema.validators import extend

from config.faults import Fault, Path, closest, one_of, show
from config.schema import KINDS, schema_of
from config.sources import Place, Source

Error: TypeAlias = Any
"""A `jsonschema.ValidationError`, whose stubs let every attribute be unset."""
_TYPES = {
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "object": "a map",
    "array": "a list",
    "null": "nothing",
}


class Mismatch(msgspec.Struct, frozen=True):
    """A part of a file that does not fit. `path`: what has to go for the rest to fit."""

    path: Path
    fault: Fault


class Fitted(msgspec.Struct, frozen=True):
    """One file as far as it fits its kind. `data`: None when nothing of it does; `left_out`: paths that went."""

    source: Source
    kind: str | None
    data: dict[str, Any] | None
    left_out: tuple[Path, ...]
    faults: tuple[Fault, ...]


def fit(source: Source) -> Fitted:
    """Hold a file against the schema of its kind."""
    kind = source.data.get("kind") if isinstance(source.data, dict) else None
    if kind not in KINDS:
        return Fitted(source, None, None, (), (_no_kind(source, kind),))
    data: dict[str, Any] | None = copy.deepcopy(source.data)
    found = remaining = list(_mismatches(source, kind, data))
    while remaining and data is not None:
        data = None if any(not each.path for each in remaining) else data
        for each in remaining:
            _remove(data, each.path)
        remaining = [] if data is None else list(_mismatches(source, kind, data))
    return Fitted(source, kind, data, tuple(each.path for each in found), tuple(each.fault for each in found))


def _no_kind(source: Source, kind: Any) -> Fault:
    if not isinstance(source.data, dict):
        return source.at(()).fault((), "not a map", found=show(source.data), expected="a map with kind")
    if "kind" not in source.data:
        return source.at(()).fault(("kind",), "missing", expected=one_of(KINDS))
    meant = closest(str(kind), KINDS)
    return source.at(("kind",)).fault(
        ("kind",), "unknown kind", found=show(kind), expected=one_of(KINDS), suggestion=meant
    )


@cache
def _validator(kind: str) -> Draft202012Validator:
    # JSON Schema counts 1.0 as an integer; the structs the documents become do not.
    integers = Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
    return extend(Draft202012Validator, type_checker=integers)(schema_of(kind))  # type: ignore[no-untyped-call, no-any-return]  # so its stubs say


def _is_integer(_: TypeChecker, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _mismatches(source: Source, kind: str, data: Any) -> Iterator[Mismatch]:
    for error in _validator(kind).iter_errors(data):
        yield from _explain(source, error)


def _explain(source: Source, error: Error) -> Iterator[Mismatch]:
    path: Path = tuple(error.absolute_path)
    if "propertyNames" in error.absolute_schema_path:
        yield _mismatch(source.key_at((*path, error.instance)), (*path, error.instance), "not a valid key", error)
    elif error.validator == "additionalProperties":
        yield from _unknown_keys(source, path, error)
    elif error.validator == "required":
        yield from _missing_key(source, path, error)
    elif error.validator == "anyOf":
        yield from _alternatives(source, path, error)
    else:
        yield _mismatch(source.at(path), path, _PROBLEMS.get(str(error.validator), "out of range"), error)


_PROBLEMS = {
    "type": "wrong type",
    "enum": "unknown value",
    "pattern": "not in the right form",
    "uniqueItems": "given twice",
}


def _mismatch(place: Place, path: Path, problem: str, error: Error) -> Mismatch:
    meant = closest(error.instance, error.schema["enum"]) if _is_misspelt(error) else ""
    found, expected = show(error.instance), expected_of(error.schema)
    return Mismatch(path, place.fault(path, problem, found=found, expected=expected, suggestion=meant))


def _is_misspelt(error: Error) -> bool:
    return error.validator == "enum" and isinstance(error.instance, str)


def _unknown_keys(source: Source, path: Path, error: Error) -> Iterator[Mismatch]:
    known = error.schema["properties"]
    for key in error.instance:
        if key not in known:
            at = (*path, key)
            fault = source.key_at(at).fault(
                at, "unknown key", found=show(key), expected=one_of(known), suggestion=closest(key, known)
            )
            yield Mismatch(at, fault)


def _missing_key(source: Source, path: Path, error: Error) -> Iterator[Mismatch]:
    missing = next(key for key in error.validator_value if error.message.startswith(repr(key)))
    schema = error.schema["properties"][missing]
    fault = source.key_at(path).fault((*path, missing), "missing", expected=expected_of(schema))
    yield Mismatch(path, fault)


def _alternatives(source: Source, path: Path, error: Error) -> Iterator[Mismatch]:
    """The faults of the one alternative that is meant: the one whose type it has; else that none fits."""
    branches: dict[int, list[Error]] = {}
    for inner in error.context or ():
        branches.setdefault(int(inner.relative_schema_path[0]), []).append(inner)
    if "discriminator" in error.schema and isinstance(error.instance, dict):
        yield from _tagged(source, path, error, branches)
        return
    meant = [each for each in branches.values() if not any(_is_foreign(error, inner) for inner in each)]
    if len(meant) == 1:
        for inner in meant[0]:
            yield from _explain(source, inner)
    else:
        yield _mismatch(source.at(path), path, "wrong type", error)


def _tagged(source: Source, path: Path, error: Error, branches: Mapping[int, list[Error]]) -> Iterator[Mismatch]:
    """The faults of the alternative that a map names itself; else that it names none."""
    discriminator = error.schema["discriminator"]
    field, tags = discriminator["propertyName"], discriminator["mapping"]
    at, tag = (*path, field), error.instance.get(field)
    if field not in error.instance:
        fault = source.key_at(path).fault(at, "missing", expected=one_of(tags))
        yield Mismatch(path, fault)
    elif not isinstance(tag, str) or tag not in tags:
        meant = closest(str(tag), tags)
        fault = source.at(at).fault(at, "unknown value", found=show(tag), expected=one_of(tags), suggestion=meant)
        yield Mismatch(path, fault)
    else:
        references = [each["$ref"] for each in error.schema["anyOf"]]
        for inner in branches[references.index(tags[tag])]:
            yield from _explain(source, inner)


def _is_foreign(outer: Error, inner: Error) -> bool:
    """Whether the value itself is of another type than the alternative."""
    if inner.absolute_path != outer.absolute_path:
        return False
    return inner.validator == "type" or (inner.validator == "enum" and not isinstance(inner.instance, str))


def expected_of(schema: dict[str, Any]) -> str:
    """What a schema accepts, in words."""
    if "title" in schema:
        return str(schema["title"])
    if "enum" in schema:
        return one_of(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(expected_of(each) for each in schema["anyOf"] if each.get("type") != "null"))
    text = "a map" if "$ref" in schema else _TYPES.get(schema.get("type", ""), "another value")
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{text} from {low} to {high}"
    return text if low is None else f"{text}, {low} or more"


def _remove(data: Any, path: Path) -> None:
    """Take a value out; of a list, the whole list, so that no other entry changes its place."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    for step in path[:-1]:
        if isinstance(data, dict) and step not in data:
            return
        data = data[step]
    if isinstance(data, dict):
        data.pop(path[-1], None)
