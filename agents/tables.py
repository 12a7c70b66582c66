"""State tables: the customers of one partition, as mappings that remember what changed.

A table reads and writes like a dict. Values are kept as encoded bytes, which the garbage collector need not
look into, and decoded on first touch; a bounded number of decoded ones is kept. `Changelog` gathers the tables
that share a changelog topic: it says what to append there, and rebuilds the tables from what is read back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, TypeVar

from agents.store import Rows

V = TypeVar("V")

CACHE_SIZE = 250
"""Decoded values kept per table between batches. The garbage collector looks into each of them: with eight times as
many, its longest pause was three times as long."""
_ESCAPE = "\\"


class TableSpec(NamedTuple):
    """One table: its name, the role of its changelog topic, and how its values become bytes.

    `prefix`: of its keys in the changelog, where several tables share one. `due`: when the customer of an
    encoded value is to be woken (epoch milliseconds), or None.
    """

    name: str
    changelog: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    prefix: str = ""
    due: Callable[[bytes], int | None] | None = None


class Change(NamedTuple):
    """One record for a changelog topic. `value` None: a tombstone."""

    topic: str
    key: bytes
    value: bytes | None


class Table(MutableMapping[str, V]):
    """One partition of one table.

    Changes are noticed by `table[key] = value` and `del table[key]` only: who changes a value in place puts it
    back. Assigning a value that encodes to the same bytes is no change. `cache_size`: decoded values kept.
    `stored`: where the bytes are; a dict unless given. `dues`: who is to be woken by what is stored, when somebody
    knows it; `load` keeps it up, `dues` uses it up.
    """

    def __init__(
        self,
        spec: TableSpec,
        cache_size: int = CACHE_SIZE,
        stored: MutableMapping[str, bytes] | None = None,
        dues: dict[str, int] | None = None,
    ) -> None:
        self.spec = spec
        self._dues = dues
        self._cache_size = cache_size
        self._stored: MutableMapping[str, bytes] = {} if stored is None else stored
        self._decoded: dict[str, V] = {}
        # In order of the first change. A key that is changed and not decoded is deleted.
        self._changed: dict[str, None] = {}
        self._touched: dict[str, None] = {}
        # Keys by which the changes since the last flush outnumber what is stored.
        self._growth = 0

    def __getitem__(self, key: str) -> V:
        if key in self._decoded:
            value = self._decoded[key] = self._decoded.pop(key)
            return value
        if key in self._changed:
            raise KeyError(key)
        value = self.spec.decode(self._stored[key])
        self._decoded[key] = value
        return value

    def __setitem__(self, key: str, value: V) -> None:
        self._growth += key not in self
        self._decoded[key] = value
        self._changed[key] = None

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._growth -= 1
        self._decoded.pop(key, None)
        self._changed[key] = None

    def __contains__(self, key: object) -> bool:
        return key in self._decoded or (key in self._stored and key not in self._changed)

    def __iter__(self) -> Iterator[str]:
        stored = [key for key in self._stored if key in self._decoded or key not in self._changed]
        yield from stored
        yield from [key for key in self._changed if key in self._decoded and key not in self._stored]

    def __len__(self) -> int:
        return len(self._stored) + self._growth

    def encoded(self, key: str) -> bytes | None:
        """The bytes of a value as last taken up by `flush` or `load`."""
        return self._stored.get(key)

    def rows(self) -> MutableMapping[str, bytes] | None:
        """All encoded values, when nothing waits for the next `flush`; else None. For when the table is done with."""
        return None if self._changed or self._touched else self._stored

    def touch(self, key: str) -> None:
        """Have the next `flush` report this key, whether or not its value changes."""
        self._touched[key] = None

    def load(self, key: str, value: bytes | None) -> None:
        """Take up what was read back from the changelog; it is no change. None deletes."""
        self._decoded.pop(key, None)
        if value is None:
            self._stored.pop(key, None)
        else:
            self._stored[key] = value
        if self._dues is not None:
            due_ms = None if value is None or self.spec.due is None else self.spec.due(value)
            if due_ms is not None:
                self._dues[key] = due_ms
            else:
                self._dues.pop(key, None)

    def dues(self) -> Iterator[tuple[str, int]]:
        """Customers that are to be woken by the values last taken up, and when, in epoch milliseconds."""
        due, known, self._dues = self.spec.due, self._dues, None
        if known is not None:
            yield from known.items()
        elif isinstance(self._stored, Rows):
            yield from self._stored.dues()
        elif due is not None:
            for key, value in self._stored.items():
                if (due_ms := due(value)) is not None:
                    yield key, due_ms

    def flush(self) -> list[tuple[str, bytes | None]]:
        """Take up all changes: each changed key once, with the bytes of its value, None when it is deleted."""
        changes: list[tuple[str, bytes | None]] = []
        for key in self._changed:
            value = self.spec.encode(self._decoded[key]) if key in self._decoded else None
            if value != self._stored.get(key):
                changes.append((key, value))
                self._touched.pop(key, None)
                if value is None:
                    del self._stored[key]
                else:
                    self._stored[key] = value
        changes += [(key, self._stored.get(key)) for key in self._touched]
        self._changed.clear()
        self._touched.clear()
        self._growth = 0
        while len(self._decoded) > self._cache_size:
            del self._decoded[next(iter(self._decoded))]
        return changes


class Changelog:
    """The tables of one partition that share a changelog topic, and their keys in it."""

    def __init__(self, topic: str, tables: Sequence[Table[Any]]) -> None:
        self.topic = topic
        self.tables = tuple(sorted(tables, key=lambda table: table.spec.prefix, reverse=True))
        self._prefixed = tuple(table for table in self.tables if table.spec.prefix)
        self._reserved = (*(table.spec.prefix for table in self._prefixed), _ESCAPE)

    def flush(self) -> list[Change]:
        """All changes of the tables since the last time, as records for the changelog."""
        return [
            Change(self.topic, self._outside(table, key), value)
            for table in self.tables
            for key, value in table.flush()
        ]

    def load(self, key: bytes, value: bytes | None) -> None:
        """Apply one record read back."""
        table, inside = self.locate(key)
        table.load(inside, value)

    def touch(self, key: bytes) -> None:
        """Have the next `flush` write this key again."""
        table, inside = self.locate(key)
        table.touch(inside)

    def _outside(self, table: Table[Any], key: str) -> bytes:
        """The key in the changelog: one without a prefix is escaped where it would read as another table's."""
        prefix = table.spec.prefix
        if not prefix and key.startswith(self._reserved):
            prefix = _ESCAPE
        return f"{prefix}{key}".encode()

    def locate(self, key: bytes) -> tuple[Table[Any], str]:
        """The table that a key in the changelog belongs to, and the key there."""
        text = key.decode()
        for table in self._prefixed:
            if text.startswith(table.spec.prefix):
                return table, text[len(table.spec.prefix) :]
        return self.tables[-1], text.removeprefix(_ESCAPE)


def changelogs(
    specs: Sequence[TableSpec],
    stored: Mapping[str, MutableMapping[str, bytes]] | None = None,
    dues: Mapping[str, dict[str, int]] | None = None,
) -> tuple[dict[str, Table[Any]], list[Changelog]]:
    """The tables of one partition by name, and their changelogs. ValueError when two tables clash.

    `stored`: where the bytes of each table are; without it the tables are empty, and in memory. `dues`: as of `Table`.
    """
    stored, dues = stored or {}, dues or {}
    tables = {spec.name: Table[Any](spec, stored=stored.get(spec.name), dues=dues.get(spec.name)) for spec in specs}
    if len(tables) < len(specs) or len({(spec.changelog, spec.prefix) for spec in specs}) < len(specs):
        raise ValueError("two tables have the same name, or the same prefix in one changelog; give each its own")
    topics = dict.fromkeys(spec.changelog for spec in specs)
    return tables, [
        Changelog(topic, [table for table in tables.values() if table.spec.changelog == topic]) for topic in topics
    ]
