"""Compiled structures write and read exactly the bytes that aiokafka does, and refuse what it refuses."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from aiokafka.protocol.api import RequestHeader_v1
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.struct import Struct
from aiokafka.protocol.types import Array, Bytes, Int8, Int16, Int32, Int64, Schema, String
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.protocol import Compiled, compile_structures

REQUESTS = [made for request in (FetchRequest, ProduceRequest) for made in request._CLASSES]
RESPONSES = [made.RESPONSE_TYPE for made in REQUESTS]
STRUCTURES = [*REQUESTS, *RESPONSES, RequestHeader_v1]


def as_shipped(structure: Any) -> Schema:
    """The schema as aiokafka has it, whoever compiled it before."""
    return Schema(*zip(structure.SCHEMA.names, structure.SCHEMA.fields, strict=True))


# Versions of one layout share their fields.
LAYOUTS = list({structure.SCHEMA.fields: structure for structure in STRUCTURES}.values())
each_layout = pytest.mark.parametrize("structure", LAYOUTS, ids=lambda structure: structure.__name__)


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> Iterator[None]:
    """Structures that were compiled from aiokafka's own; other tests find what they left."""
    with pytest.MonkeyPatch.context() as patch:
        for structure in STRUCTURES:
            patch.setattr(structure, "SCHEMA", as_shipped(structure))
        for response in RESPONSES:
            patch.setattr(response, "decode", classmethod(Struct.decode.__func__))
        compile_structures()
        yield


SIZES = {Int8: 8, Int16: 16, Int32: 32, Int64: 64}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Everything that a field may hold."""
    if kind in SIZES:
        half = 1 << SIZES[kind] - 1
        return st.integers(-half, half - 1)
    if kind is Bytes:
        return st.none() | st.binary(max_size=20)
    if isinstance(kind, String):
        return st.none() | st.text(max_size=10)
    if isinstance(kind, Array):
        return st.none() | st.lists(values(kind.array_of), max_size=3)
    return st.tuples(*map(values, kind.fields))


def outcome(schema: Schema, data: bytes) -> Any:
    """What comes of these bytes: values and where they end, or the refusal."""
    stream = BytesIO(data)
    try:
        return schema.decode(stream), stream.tell()
    except ValueError:
        return ValueError


@each_layout
def test_the_bytes_are_those_of_aiokafka(structure):
    """Whatever the fields hold; and the bytes give back what they held, wherever they lie, but only whole."""
    plain = as_shipped(structure)

    @settings(max_examples=40)
    @given(values(plain), st.binary(max_size=5), st.binary(max_size=5))
    def holds(item, before, behind):
        data = structure.SCHEMA.encode(item)
        assert data == plain.encode(item)
        stream = BytesIO(before + data + behind)
        stream.seek(len(before))
        assert structure.SCHEMA.decode(stream) == item
        assert stream.tell() == len(before) + len(data)
        for size in range(len(data)):
            with pytest.raises(ValueError, match="end within"):
                structure.SCHEMA.decode(BytesIO(data[:size]))

    holds()


@each_layout
def test_any_bytes_end_as_with_aiokafka(structure):
    """Damaged or random: lengths beyond the end and below -1, text that is none; nothing but ValueError is raised."""
    plain = as_shipped(structure)
    numbers = st.integers(-(2**31), 2**31 - 1) | st.integers(-3, 3)
    damages = st.lists(st.tuples(st.integers(0, 200), numbers, st.sampled_from([">i", ">h", ">b"])), max_size=3)

    @settings(max_examples=40)
    @given(values(plain).map(plain.encode), damages, st.binary(max_size=40))
    def holds(data, damages, random):
        damaged = bytearray(data)
        for place, number, form in damages:
            written = struct.pack(">i", number)[-struct.calcsize(form) :]
            if place + len(written) <= len(damaged):
                damaged[place : place + len(written)] = written
        for each in (bytes(damaged), random):
            assert outcome(structure.SCHEMA, each) == outcome(plain, each)

    holds()


@each_layout
@pytest.mark.parametrize("length", [2**31 - 1, -1, -2, -(2**31)])
def test_a_length_is_no_reason_to_wait(structure, length):
    """The longest array that can be announced ends with the bytes there are, not with what was announced."""
    data = struct.pack(">i", length) * 4_000
    assert outcome(structure.SCHEMA, data) == outcome(as_shipped(structure), data)


def test_all_versions_are_compiled():
    """Each from its own fields."""
    for structure in STRUCTURES:
        assert isinstance(structure.SCHEMA, Compiled), structure
        assert len(structure.SCHEMA) == len(structure.SCHEMA.names)


@pytest.mark.parametrize("response", dict.fromkeys(RESPONSES), ids=lambda response: response.__name__)
def test_a_response_is_the_one_aiokafka_reads(response):
    """From bytes and from a stream, as a structure of the same class with the same fields."""
    plain = as_shipped(response)
    original = type("Original", (response,), {"SCHEMA": plain, "decode": classmethod(Struct.decode.__func__)})

    @settings(max_examples=5)
    @given(values(plain).map(plain.encode))
    def holds(data):
        expected = original.decode(data)
        for source in (data, BytesIO(data)):
            found = response.decode(source)
            assert type(found) is response
            assert vars(found) == vars(expected)
        assert found == response.decode(data)

    holds()


def test_a_request_leaves_with_its_header_as_ever():
    """What aiokafka's connection writes: header and request, each encoded by itself."""
    request = ProduceRequest(None, -1, 1000, [("signals", [(0, b"batch"), (1, None)])]).prepare({0: (0, 7)})
    header = request.build_request_header(7, "worker")
    for found, names in ((request, request.SCHEMA.names), (header, header.SCHEMA.names)):
        assert found.encode() == as_shipped(found).encode([getattr(found, name) for name in names])
    assert type(request).decode(request.encode()) == request


def test_compiling_twice_does_no_harm():
    """A worker and whoever starts it in the same process both do it."""
    before = [structure.SCHEMA for structure in STRUCTURES]
    compile_structures()
    assert [structure.SCHEMA for structure in STRUCTURES] == before


@pytest.mark.parametrize(("field", "value"), [(0, 2**15), (2, -(2**31) - 1), (3, "x" * 2**15)])
def test_what_does_not_fit_is_refused(field, value):
    """A number beyond its field, a text beyond its length."""
    item: list[Any] = [0, 0, 0, ""]
    RequestHeader_v1.SCHEMA.encode(item)
    item[field] = value
    with pytest.raises(struct.error):
        RequestHeader_v1.SCHEMA.encode(item)
