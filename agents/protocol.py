"""Kafka's protocol, encoded and decoded in runs of fields.

aiokafka packs and reads the fields of its structures one by one, each with several calls: for a record that comes
alone, that is more than half of what its requests cost. From the same schemas, `compile_structures` makes functions
that take a run of numbers at once. The bytes are the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from itertools import groupby
from typing import Any

from aiokafka.protocol.api import RequestHeader_v1
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.types import Array, Bytes, Int8, Int16, Int32, Int64, Schema, String

_CODES = {Int8: "b", Int16: "h", Int32: "i", Int64: "q"}
_INT16, _INT32 = struct.Struct(">h"), struct.Struct(">i")

Write = Callable[[Any, list[bytes]], None]
"""Appends what encodes a value."""
Read = Callable[[Any, int], tuple[Any, int]]
"""The value that begins at a place of a buffer, and where the next one begins."""


def compile_structures() -> None:
    """Have aiokafka encode and decode fetches and produce requests by compiled functions; harmless when repeated."""
    header: Any = RequestHeader_v1
    header.SCHEMA = _compiled(header.SCHEMA)
    for request in (FetchRequest, ProduceRequest):
        for made in request._CLASSES:  # noqa: SLF001 - the versions there are
            made.SCHEMA = _compiled(made.SCHEMA)
            made.RESPONSE_TYPE.SCHEMA = _compiled(made.RESPONSE_TYPE.SCHEMA)
            made.RESPONSE_TYPE.decode = classmethod(_decode)


def _compiled(schema: Schema) -> Compiled:
    return schema if isinstance(schema, Compiled) else Compiled(schema)


class Compiled(Schema):  # type: ignore[misc]
    """A schema with compiled functions."""

    def __init__(self, schema: Schema) -> None:
        super().__init__(*zip(schema.names, schema.fields, strict=True))
        self._write = _writer_of_all(self.fields)
        self._read = _reader_of_all(self.fields)

    def encode(self, item: Sequence[Any]) -> bytes:
        """The bytes of a structure's fields. Raises struct.error when one is out of range."""
        out: list[bytes] = []
        self._write(item, out)
        return b"".join(out)

    def decode(self, data: BytesIO) -> tuple[Any, ...]:
        """The fields from here on. Raises ValueError when the data ends within them."""
        with data.getbuffer() as buffer:
            try:
                values, end = self._read(buffer, data.tell())
            except struct.error as error:
                raise ValueError(f"{len(buffer)} bytes end within a field: {error}") from error
        data.seek(end)
        return tuple(values)


def _decode(cls: Any, data: BytesIO | bytes) -> Any:
    return cls(*cls.SCHEMA.decode(BytesIO(data) if isinstance(data, bytes) else data))


# --- Writing ---


def _writer(kind: Any) -> Write:
    if kind in _CODES:
        pack = struct.Struct(f">{_CODES[kind]}").pack
        return lambda value, out: out.append(pack(value))
    if kind is Bytes:
        return _write_bytes
    if isinstance(kind, String):
        return _write_string
    if isinstance(kind, Array):
        return _writer_of_array(_writer(kind.array_of))
    return _writer_of_all(kind.fields)


def _write_bytes(value: bytes | None, out: list[bytes]) -> None:
    out += (_INT32.pack(-1),) if value is None else (_INT32.pack(len(value)), value)


def _write_string(value: str | None, out: list[bytes]) -> None:
    if value is None:
        out.append(_INT16.pack(-1))
    else:
        encoded = value.encode()
        out += _INT16.pack(len(encoded)), encoded


def _writer_of_array(write: Write) -> Write:
    def write_array(items: Sequence[Any] | None, out: list[bytes]) -> None:
        out.append(_INT32.pack(-1 if items is None else len(items)))
        for item in items or ():
            write(item, out)

    return write_array


def _writer_of_all(kinds: Iterable[Any]) -> Write:
    steps = [
        _writer_of_run(run) if fixed else _writer_of_one(*run[0])
        for fixed, run in _runs(kinds)
    ]  # fmt: skip

    def write_all(item: Sequence[Any], out: list[bytes]) -> None:
        for step in steps:
            step(item, out)

    return steps[0] if len(steps) == 1 else write_all


def _writer_of_run(run: Sequence[tuple[int, Any]]) -> Write:
    pack, begin, end = _struct_of(run).pack, run[0][0], run[-1][0] + 1
    return lambda item, out: out.append(pack(*item[begin:end]))


def _writer_of_one(place: int, kind: Any) -> Write:
    write = _writer(kind)
    return lambda item, out: write(item[place], out)


# --- Reading ---


def _reader(kind: Any) -> Read:
    if kind in _CODES:
        unpacker = struct.Struct(f">{_CODES[kind]}")
        return lambda buffer, at: (unpacker.unpack_from(buffer, at)[0], at + unpacker.size)
    if kind is Bytes:
        return _read_bytes
    if isinstance(kind, String):
        return _read_string
    if isinstance(kind, Array):
        return _reader_of_array(_reader(kind.array_of))
    return _reader_of_all(kind.fields)


def _read_bytes(buffer: Any, at: int) -> tuple[bytes | None, int]:
    (length,) = _INT32.unpack_from(buffer, at)
    return _cut(buffer, at + _INT32.size, length)


def _read_string(buffer: Any, at: int) -> tuple[str | None, int]:
    (length,) = _INT16.unpack_from(buffer, at)
    encoded, end = _cut(buffer, at + _INT16.size, length)
    return None if encoded is None else encoded.decode(), end


def _cut(buffer: Any, at: int, length: int) -> tuple[bytes | None, int]:
    if length < 0:
        return None, at
    end = at + length
    if end > len(buffer):
        raise ValueError(f"{len(buffer)} bytes end within {length} that begin at {at}")
    return bytes(buffer[at:end]), end


def _reader_of_array(read: Read) -> Read:
    def read_array(buffer: Any, at: int) -> tuple[list[Any] | None, int]:
        (length,) = _INT32.unpack_from(buffer, at)
        at += _INT32.size
        if length == -1:
            return None, at
        items = []
        for _ in range(length):
            item, at = read(buffer, at)
            items.append(item)
        return items, at

    return read_array


def _reader_of_all(kinds: Iterable[Any]) -> Read:
    steps: list[tuple[bool, Any]] = [
        (fixed, _struct_of(run) if fixed else _reader(run[0][1])) for fixed, run in _runs(kinds)
    ]

    def read_all(buffer: Any, at: int) -> tuple[tuple[Any, ...], int]:
        values: list[Any] = []
        for fixed, step in steps:
            if fixed:
                values += step.unpack_from(buffer, at)
                at += step.size
            else:
                value, at = step(buffer, at)
                values.append(value)
        return tuple(values), at

    return read_all


def _runs(kinds: Iterable[Any]) -> list[tuple[bool, list[tuple[int, Any]]]]:
    """Fields with their places, in runs: those of fixed size that follow each other together, others alone."""
    found: list[tuple[bool, list[tuple[int, Any]]]] = []
    for fixed, group in groupby(enumerate(kinds), lambda each: each[1] in _CODES):
        run = list(group)
        found += [(True, run)] if fixed else [(False, [each]) for each in run]
    return found


def _struct_of(run: Sequence[tuple[int, Any]]) -> struct.Struct:
    return struct.Struct(">" + "".join(_CODES[kind] for _, kind in run))
