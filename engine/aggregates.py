"""Behavioural aggregates: what a customer did, folded from signals by the time of each event.

An aggregate is a function (count, sum, ...) over a window, kept per customer in a small bounded state of the
profile. Every function is a commutative combination of cells, one cell per time bucket, so events may come in
any order, and two states merge into what one would have been. Time never runs behind the newest folded event:
a window ends at `now` or at that event, whichever is later. Read `fold` first, then `value`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, reduce
from hashlib import blake2b
from typing import Any

from msgspec import Struct

from engine.algebra import Algebra, Function, Scalar, WindowKind, algebra_of
from engine.calendar import DAY_MS

MAX_TEXT_CHARS = 256  # longer texts are no keys and no values of `last`
MAX_NUMBER = 1e300  # beyond it a number is no value: sums stay finite
MOST = 2**53  # larger integers are kept as floats, so that every state can be encoded

_ADDING = frozenset({"count", "sum", "mean", "rate"})
_ZERO_WHEN_EMPTY = frozenset({"count", "sum", "distinct", "rate"})
_NEEDS_OF = frozenset({"sum", "mean", "min", "max", "last", "distinct"})


class Window(Struct, frozen=True, dict=True):
    """Which events an aggregate covers.

    `tumbling`: the present one of the windows of `window_ms` laid end to end from the epoch plus `offset_ms`.
    `sliding`: the last `window_ms`, in `buckets` time buckets. An event counts for the whole window and
    leaves with its bucket, less than `window_ms / buckets` later.
    `decayed`: every event, weighing half as much after each `window_ms`. `lifetime`: every event.
    Raises ValueError for a window that cannot be.
    """

    kind: WindowKind
    window_ms: int = 0
    buckets: int = 30
    offset_ms: int = 0

    def __post_init__(self) -> None:
        if (self.window_ms > 0) is (self.kind == "lifetime"):
            raise ValueError(f"{self.kind} window of {self.window_ms} ms: expected {self._expected_length()}")
        if self.kind == "sliding" and not 1 <= self.buckets <= min(366, self.window_ms):
            raise ValueError(f"sliding window of {self.buckets} buckets: expected 1 to 366, each at least 1 ms")
        if self.offset_ms and self.kind != "tumbling":
            raise ValueError(f"{self.kind} window with an offset of {self.offset_ms} ms: only tumbling has one")

    def _expected_length(self) -> str:
        return "no length" if self.kind == "lifetime" else "a length above 0"

    @cached_property
    def bucket_ms(self) -> int:
        """The granularity: how long a bucket is; 0 when all events share one."""
        if self.kind == "sliding":
            return -(-self.window_ms // self.buckets)
        return self.window_ms if self.kind == "tumbling" else 0

    @cached_property
    def bucket(self) -> Callable[[int], int]:
        """Of a moment: the number of the bucket an event at that time belongs to."""
        return self._numbered_from(self.offset_ms)

    @cached_property
    def first_bucket(self) -> Callable[[int], int]:
        """Of a moment: the oldest bucket that is still in the window then."""
        return self._numbered_from(self.offset_ms + (self.window_ms - 1 if self.kind == "sliding" else 0))

    def _numbered_from(self, start_ms: int) -> Callable[[int], int]:
        bucket_ms = self.bucket_ms
        return (lambda at_ms: (at_ms - start_ms) // bucket_ms) if bucket_ms else (lambda _: 0)


class Aggregate(Struct, frozen=True, kw_only=True, dict=True):
    """One declared aggregate. Its three callables see the scope of a signal and are handed in compiled.

    `where`: only events for which it returns True; `events`: the names of those it may return True for, if they are
    known (empty: any). `of`: the value; an event whose value is missing or of the
    wrong type is skipped. `by`: the key of a breakdown, a text, number or bool, else the event is skipped.
    `max_keys`, `max_distinct`: bounds of one state; keys and values not seen for longest are dropped first.
    `rate` is the count (with `of` the sum) per `per_ms` over the whole window; for `lifetime` over the time
    since the first event, at least `per_ms`; for `decayed` the rate that would keep the decayed sum level.
    `source`: `where`, `of` and `by` as written, so that a state of another wording is started anew.
    Raises ValueError for combinations without meaning.
    """

    name: str
    function: Function
    window: Window
    where: Callable[[Any], bool] | None = None
    events: frozenset[str] = frozenset()
    of: Callable[[Any], Any] | None = None
    by: Callable[[Any], Any] | None = None
    max_keys: int = 32
    max_distinct: int = 256
    per_ms: int = DAY_MS
    source: str = ""

    def __post_init__(self) -> None:
        if self.function in _NEEDS_OF and self.of is None:
            raise ValueError(f"aggregate {self.name!r}: {self.function} needs `of`, the value to aggregate")
        if self.window.kind == "decayed" and self.function not in _ADDING:
            adding = ", ".join(sorted(_ADDING))
            raise ValueError(f"aggregate {self.name!r}: {self.function} cannot decay; expected {adding}")
        for bound in ("max_keys", "max_distinct", "per_ms"):
            if getattr(self, bound) < 1:
                raise ValueError(f"aggregate {self.name!r}: {bound} {getattr(self, bound)}; expected at least 1")

    @cached_property
    def tag(self) -> int:
        """32 bits that differ when a state of this aggregate would mean something else."""
        meaning = (self.function, self.of is None, self.by is None, self.source)
        return int.from_bytes(blake2b(repr((meaning, self.window)).encode(), digest_size=4).digest())

    @cached_property
    def empty(self) -> int | None:
        """What it is of nothing."""
        return 0 if self.function in _ZERO_WHEN_EMPTY else None

    @cached_property
    def algebra(self) -> Algebra:
        """How its cells are made, combined and read."""
        window = self.window
        return algebra_of(self.function, window.kind, window.window_ms, self.per_ms, self.of is not None)


class AggregateState(Struct, array_like=True, gc=False):
    """What one customer's profile keeps of one aggregate.

    `cells`: key -> bucket -> cell (for `distinct`: key -> hash -> newest bucket); the key is "" without `by`.
    `floor`: no bucket below it is kept. `late`: how many events came after their bucket had left; the only
    part that depends on the order of arrival. `lost`: the newest bucket of what was dropped for lack of room.
    `seen_ms`: the newest event per key, with `by` only.
    """

    tag: int
    newest_ms: int
    floor: int
    late: int = 0
    lost: int | None = None
    cells: dict[str, dict[int, Any]] = {}
    seen_ms: dict[str, int] = {}


def fold(definition: Aggregate, state: AggregateState | None, scope: Any, event_time_ms: int) -> AggregateState | None:
    """Put one event where its event time says; the given state is changed and returned.

    Any order of the same events gives the same state, up to float rounding and `late`, while no key had to be
    dropped for lack of room. None when there is nothing to keep yet. A state of another definition is started
    anew. The same event twice counts twice: recognising it is the caller's part.
    """
    where = definition.where
    if where is not None and where(scope) is not True:
        return state
    value = _value_of(definition, scope)
    key = "" if definition.by is None else _key(definition.by(scope))
    if value is None or key is None:
        return state
    if state is None or state.tag != definition.tag:
        state = AggregateState(definition.tag, event_time_ms, definition.window.first_bucket(event_time_ms))
    elif event_time_ms > state.newest_ms:
        state.newest_ms = event_time_ms
        first = definition.window.first_bucket(event_time_ms)
        if first > state.floor:
            _drop_below(definition, state, first)
    _put(definition, state, key, value, event_time_ms)
    return state


def value(definition: Aggregate, state: AggregateState | None, now_ms: int, key: str | None = None) -> Scalar | None:
    """The aggregate at `now_ms`, of one key or over all keys kept; None when there is no data.

    Count, sum, distinct and rate of nothing are 0; but a key that may have been dropped for lack of room is
    None. When `truncated`, `distinct` is a lower bound and the value over all keys covers those kept.
    """
    if state is None or state.tag != definition.tag:
        return definition.empty
    chosen = list(state.cells.values()) if key is None else [state.cells.get(key, {})]
    found = _read(definition, state, chosen, now_ms)
    if found is None and key is not None and truncated(definition, state, now_ms):
        return None
    return definition.empty if found is None else found


def breakdown(definition: Aggregate, state: AggregateState | None, now_ms: int) -> dict[str, Scalar]:
    """The value of every key that has data in the window, keys in order."""
    if state is None or state.tag != definition.tag:
        return {}
    read = {key: _read(definition, state, [cells], now_ms) for key, cells in sorted(state.cells.items())}
    return {key: found for key, found in read.items() if found is not None}


def truncated(definition: Aggregate, state: AggregateState | None, now_ms: int) -> bool:
    """Whether something that would still be in the window was dropped for lack of room."""
    if state is None or state.tag != definition.tag or state.lost is None:
        return False
    return state.lost >= definition.window.first_bucket(max(now_ms, state.newest_ms))


def age_ms(definition: Aggregate, state: AggregateState | None, now_ms: int) -> int | None:
    """How long ago the newest folded event happened, 0 if ahead of `now_ms`; None without any."""
    if state is None or state.tag != definition.tag:
        return None
    return max(0, now_ms - state.newest_ms)


def merge(definition: Aggregate, a: AggregateState, b: AggregateState) -> AggregateState:
    """What one state would be had it folded the events of both; neither is changed.

    A state of another definition counts for nothing; with two of them `a` is returned as it is.
    """
    known = [state for state in (a, b) if state.tag == definition.tag]
    if not known:
        return a
    merged = AggregateState(
        definition.tag,
        newest_ms=max(state.newest_ms for state in known),
        floor=max(state.floor for state in known),
        late=sum(state.late for state in known),
        lost=max((state.lost for state in known if state.lost is not None), default=None),
    )
    for state in known:
        for key, cells in state.cells.items():
            for slot, cell in cells.items():
                _place(definition, merged.cells.setdefault(key, {}), slot, cell)
        for key, seen_ms in state.seen_ms.items():
            merged.seen_ms[key] = max(seen_ms, merged.seen_ms.get(key, seen_ms))
    _drop_left(definition, merged)
    _make_room(definition, merged)
    return merged


def is_of(definition: Aggregate, state: AggregateState) -> bool:
    """Whether a decoded state is one `fold` can have made; of another definition's, which counts for nothing, True."""
    if state.tag != definition.tag:
        return True
    text = definition.function == "last"
    example = definition.algebra.cell("" if text else 1, 0)
    cells = [cell for kept in state.cells.values() for cell in kept.values()]
    return 0 <= state.late <= MOST and all(_is_like(cell, example) for cell in cells)


def _is_like(cell: Any, example: Any) -> bool:
    """Whether a cell has the form of another; a text stands for any scalar."""
    if isinstance(example, tuple):
        return isinstance(cell, (list, tuple)) and len(cell) == len(example) and all(map(_is_like, cell, example))
    if isinstance(cell, str):
        return isinstance(example, str)
    return isinstance(cell, (int, float)) and (isinstance(cell, float) or -MOST <= cell <= MOST)


def trim(definition: Aggregate, state: AggregateState, now_ms: int) -> None:
    """Drop what has left the window at `now_ms`, before writing. No value at `now_ms` or later changes."""
    if state.tag == definition.tag:
        first = definition.window.first_bucket(max(state.newest_ms, now_ms))
        if first > state.floor:
            _drop_below(definition, state, first)


class Values(dict[str, Any]):
    """The aggregates of one customer by name, computed on first access: `aggregates` in the scope of rules.

    `values["orders_30d"]` is a value, `values["views_by_category"]["shoes"]` one of a breakdown. KeyError for
    unknown names and missing values. What was not accessed is not there to iterate or to test with `in`.
    """

    __slots__ = ("_definitions", "_now_ms", "_states")

    def __init__(self, definitions: Mapping[str, Aggregate], states: Mapping[str, AggregateState], now_ms: int) -> None:
        self._definitions, self._states, self._now_ms = definitions, states, now_ms

    def __missing__(self, name: str) -> Any:
        definition, state, now_ms = self._definitions[name], self._states.get(name), self._now_ms
        keyed = definition.by is not None
        found = _KeyValues(definition, state, now_ms) if keyed else value(definition, state, now_ms)
        if found is None:
            raise KeyError(name)
        self[name] = found
        return found


class _KeyValues(dict[str, Scalar]):
    """One breakdown by key, computed on first access."""

    __slots__ = ("_asked",)

    def __init__(self, definition: Aggregate, state: AggregateState | None, now_ms: int) -> None:
        super().__init__()
        self._asked = (definition, state, now_ms)

    def __missing__(self, key: str) -> Scalar:
        found = value(*self._asked, key)
        if found is None:
            raise KeyError(key)
        self[key] = found
        return found


def _value_of(definition: Aggregate, scope: Any) -> Scalar | None:
    of = definition.of
    return 1 if of is None else _VALUES.get(definition.function, _number)(of(scope))


def _present(raw: Any) -> int | None:
    return 1 if isinstance(raw, (str, int, float)) else None


def _number(raw: Any) -> float | int | None:
    """The number if it is finite and no bool; integers beyond a float's 53 bits become floats."""
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not -MAX_NUMBER <= raw <= MAX_NUMBER:
        return None
    return raw if isinstance(raw, float) or -MOST <= raw <= MOST else float(raw)


def _scalar(raw: Any) -> Scalar | None:
    if isinstance(raw, str):
        return raw if len(raw) <= MAX_TEXT_CHARS else None
    return raw if isinstance(raw, bool) else _number(raw)


def _key(raw: Any) -> str | None:
    """The key of a breakdown: numbers and bools as text, 1.0 as `1`."""
    scalar = _scalar(raw)
    if isinstance(scalar, float) and scalar.is_integer() and abs(scalar) <= MOST:
        scalar = int(scalar)
    return None if scalar is None else str(scalar)


def _hash(raw: Any) -> int | None:
    """64 bits of a text, number or bool; 1 and 1.0 are one value, "1" and true are others."""
    text = "s" + raw if isinstance(raw, str) else _key(raw)
    if text is None:
        return None
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


_VALUES: dict[str, Callable[[Any], Scalar | None]] = {"count": _present, "last": _scalar, "distinct": _hash}


def _put(definition: Aggregate, state: AggregateState, key: str, value: Scalar, event_time_ms: int) -> None:
    bucket, distinct = definition.window.bucket(event_time_ms), definition.function == "distinct"
    if bucket < state.floor:
        state.late += 1
        return
    cells = state.cells.get(key)
    if cells is None:
        cells = state.cells[key] = {}
    slot, cell = (int(value), bucket) if distinct else (bucket, definition.algebra.cell(value, event_time_ms))
    _place(definition, cells, slot, cell)
    if definition.by is not None:
        state.seen_ms[key] = max(event_time_ms, state.seen_ms.get(key, event_time_ms))
    if distinct or len(state.cells) > definition.max_keys:
        _make_room(definition, state)


def _place(definition: Aggregate, cells: dict[int, Any], slot: int, cell: Any) -> None:
    """Combine a cell into its slot; of `last` only the newest bucket is worth keeping."""
    if slot in cells:
        cells[slot] = definition.algebra.combine(cells[slot], cell)
        return
    if definition.function == "last" and cells:
        if slot < next(iter(cells)):
            return
        cells.clear()
    cells[slot] = cell


def _inside(definition: Aggregate, cells: dict[int, Any], first: int) -> dict[int, Any]:
    """The cells of the first and later buckets."""
    if definition.function == "distinct":
        return {slot: bucket for slot, bucket in cells.items() if bucket >= first}
    return {bucket: cell for bucket, cell in cells.items() if bucket >= first}


def _drop_below(definition: Aggregate, state: AggregateState, floor: int) -> None:
    state.floor = floor
    _drop_left(definition, state)


def _drop_left(definition: Aggregate, state: AggregateState) -> None:
    """Drop the cells below the floor, and the keys that have none left."""
    kept = {key: _inside(definition, cells, state.floor) for key, cells in state.cells.items()}
    state.cells = {key: cells for key, cells in kept.items() if cells}
    state.seen_ms = {key: seen_ms for key, seen_ms in state.seen_ms.items() if key in state.cells}
    if state.lost is not None and state.lost < state.floor:
        state.lost = None


def _make_room(definition: Aggregate, state: AggregateState) -> None:
    """Keep the bounds: drop the keys, then the distinct values, that were not seen for longest."""
    while len(state.cells) > definition.max_keys:
        seen_ms, key = min((seen_ms, key) for key, seen_ms in state.seen_ms.items())
        del state.cells[key], state.seen_ms[key]
        _note_lost(state, definition.window.bucket(seen_ms))
    if definition.function == "distinct":
        _forget_values(state, sum(map(len, state.cells.values())) - definition.max_distinct)


def _forget_values(state: AggregateState, count: int) -> None:
    for _ in range(count):
        bucket, slot, key = min((b, slot, key) for key, cells in state.cells.items() for slot, b in cells.items())
        del state.cells[key][slot]
        if not state.cells[key]:
            del state.cells[key], state.seen_ms[key]
        _note_lost(state, bucket)


def _note_lost(state: AggregateState, bucket: int) -> None:
    state.lost = bucket if state.lost is None else max(state.lost, bucket)


def _read(definition: Aggregate, state: AggregateState, chosen: Sequence[dict[int, Any]], now_ms: int) -> Scalar | None:
    """The value over some keys' cells that are in the window; None when there are none."""
    as_of_ms = max(state.newest_ms, now_ms)
    first = definition.window.first_bucket(as_of_ms)
    if definition.function == "distinct":
        inside = [_inside(definition, cells, first) for cells in chosen]
        return len(set().union(*inside)) if any(inside) else None
    if first > state.floor:
        found = [cell for cells in chosen for bucket, cell in cells.items() if bucket >= first]
    else:
        found = [cell for cells in chosen for cell in cells.values()]
    if not found:
        return None
    _, combine, read = definition.algebra
    return read(reduce(combine, found), as_of_ms)
