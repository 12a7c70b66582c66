"""What a configuration may say of a learner is what its constructor takes: reading one needs no learner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest

from config.documents.learners import Learner
from config.schema import schema_of
from models.registry import LEARNERS, new, parameters_of
from tests.builders import a_repertoire

DOCUMENTS: dict[str, type[msgspec.Struct]] = {str(each.__struct_config__.tag): each for each in get_args(Learner)}
SLOTS, ACTION_SLOTS = ("age", "age?"), ("promo", "promo?")


def fits(documented: Any, taken: Any) -> bool:
    """Whether every value of one type is one of the other."""
    if get_origin(documented) is Literal and taken is str:
        return all(isinstance(each, str) for each in get_args(documented))
    if get_origin(documented) is tuple and get_origin(taken) is Sequence:
        return get_args(documented) == (*get_args(taken), ...)
    return bool(documented == taken)


def test_every_registered_learner_can_be_configured() -> None:
    """And none that is not there."""
    assert DOCUMENTS.keys() == LEARNERS.keys()


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_parameters_are_those_of_the_constructor(kind: str) -> None:
    """The same names, types and defaults."""
    taken, documented = parameters_of(kind), DOCUMENTS[kind]
    types = get_type_hints(documented)
    defaults = msgspec.structs.asdict(documented())
    assert defaults == {name: each.default for name, each in taken.items()}
    assert [name for name in defaults if not fits(types[name], taken[name].type)] == []


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_what_is_written_becomes_a_learner(kind: str) -> None:
    """From the file to the constructor, with nothing left out."""
    (model,) = a_repertoire(models={"models": {"m": {"learners": {"a": {"kind": kind}}}}}).models
    rule = model.learners["a"]
    assert rule.kind == new(rule.kind, SLOTS, ACTION_SLOTS, 0, rule.parameters).kind
    assert rule.parameters.keys() == parameters_of(kind).keys()


def extremes(field: dict[str, Any]) -> Iterator[Any]:
    """The least and the greatest values a schema accepts, and every one of a few."""
    yield from field.get("enum", ())
    if "minimum" in field:
        yield field["minimum"]
    if "exclusiveMinimum" in field:
        yield field["exclusiveMinimum"] + 1e-6
    if "maximum" in field:
        yield field["maximum"]
    if "exclusiveMaximum" in field:
        yield field["exclusiveMaximum"] - 1e-6
    if "items" in field:
        yield from ([each] * field.get("minItems", 1) for each in extremes(field["items"]))


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_no_accepted_value_is_refused_later(kind: str) -> None:
    """What `batuta check` lets through, the constructor takes."""
    fields = schema_of("models")["$defs"][DOCUMENTS[kind].__name__]["properties"]
    tried = [(name, value) for name, field in fields.items() if name != "kind" for value in extremes(field)]
    assert tried
    for name, value in tried:
        beside = {"warm_up": 1} if name == "window" else {"window": value} if name == "warm_up" else {}
        new(kind, SLOTS, ACTION_SLOTS, 0, {**beside, name: value})
