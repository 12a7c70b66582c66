"""Aggregates: any order, any split, any moment give what the events say; and the state stays small."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.aggregates import (
    MAX_TEXT_CHARS,
    Aggregate,
    AggregateState,
    Values,
    Window,
    age_ms,
    breakdown,
    fold,
    is_of,
    merge,
    trim,
    truncated,
    value,
)
from engine.calendar import DAY_MS, HOUR_MS

KEYS = ["boots", "hats", "shoes"]
FUNCTIONS = ["count", "sum", "mean", "min", "max", "last", "distinct", "rate"]
ADDING = ["count", "sum", "mean", "rate"]


class Event(NamedTuple):
    at_ms: int
    amount: Any = 1
    key: Any = "shoes"
    wanted: bool = True


def an_aggregate(
    function: str = "count", window: Window | None = None, keyed: bool = False, **options: Any
) -> Aggregate:
    """An aggregate over events, of their amount where the function needs one."""
    defaults: dict[str, Any] = {
        "name": "amounts",
        "where": lambda event: event.wanted,
        "of": None if function == "count" else lambda event: event.amount,
        "by": (lambda event: event.key) if keyed else None,
    }
    return Aggregate(function=function, window=window or Window("lifetime"), **(defaults | options))


def folded(definition: Aggregate, events: list[Event], state: AggregateState | None = None) -> AggregateState | None:
    """The state after the events, in the order given."""
    for event in events:
        state = fold(definition, state, event, event.at_ms)
    return state


def decoded(state: AggregateState) -> AggregateState:
    """The state as it comes back from storage."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=AggregateState)


def facts(state: AggregateState | None) -> Any:
    """Everything of a state but `late`, floats rounded, tuples as lists."""
    if state is None:
        return None
    tag, newest_ms, floor, _late, *rest = msgspec.to_builtins(decoded(state))
    return [tag, newest_ms, floor, *rounded(rest)]


def rounded(part: Any) -> Any:
    """Floats to nine digits, all the way down."""
    if isinstance(part, dict):
        return {key: rounded(inner) for key, inner in part.items()}
    if isinstance(part, (list, tuple)):
        return [rounded(inner) for inner in part]
    return float(f"{part:.9g}") if isinstance(part, float) else part


# Times and windows are small, so that events often fall on the edges.
TIMES = st.integers(0, 200)
windows = st.one_of(
    st.just(Window("lifetime")),
    st.builds(Window, st.just("decayed"), st.integers(10, 100)),
    st.builds(Window, st.just("tumbling"), st.integers(1, 100), offset_ms=st.integers(-100, 100)),
    st.integers(1, 100).flatmap(
        lambda ms: st.builds(Window, st.just("sliding"), st.just(ms), st.integers(1, min(ms, 40)))
    ),
)


@st.composite
def definitions(draw: st.DrawFn, functions: list[str] = FUNCTIONS) -> Aggregate:
    """Every function with every window it can have."""
    function = draw(st.sampled_from(functions))
    window = draw(windows if function in ADDING else windows.filter(lambda window: window.kind != "decayed"))
    return an_aggregate(function, window, keyed=draw(st.booleans()), per_ms=draw(st.integers(1, 200)))


events_of_a_customer = st.lists(
    st.builds(
        Event,
        TIMES,
        st.integers(0, 50) | st.floats(0, 50).map(lambda x: round(x, 3)),
        st.sampled_from(KEYS),
        st.booleans() | st.just(True),
    ),
    max_size=20,
)


def expected(definition: Aggregate, events: list[Event], now_ms: int, key: str | None = None) -> Any:  # noqa: C901  one line per function
    """The value by its definition, from all the events at once."""
    events = [event for event in events if event.wanted]
    as_of_ms = max([now_ms, *(event.at_ms for event in events)])
    window, length_ms, function = definition.window, definition.window.window_ms, definition.function
    if window.kind == "tumbling":
        number = (as_of_ms - window.offset_ms) // length_ms
        events = [event for event in events if (event.at_ms - window.offset_ms) // length_ms == number]
    elif window.kind == "sliding":
        bucket_ms = math.ceil(length_ms / window.buckets)
        events = [event for event in events if (event.at_ms // bucket_ms + 1) * bucket_ms > as_of_ms - length_ms + 1]
    if key is not None:
        events = [event for event in events if event.key == key]
    weights = [1.0] * len(events)
    if window.kind == "decayed":
        weights = [0.5 ** ((as_of_ms - event.at_ms) / length_ms) for event in events]
    amounts = [event.amount for event in events]
    total = sum(weight * amount for weight, amount in zip(weights, amounts, strict=True))
    match function:
        case "count":
            return sum(weights)
        case "sum":
            return total
        case "distinct":
            return len(set(amounts))
        case "rate":
            if not events:
                return 0
            span_ms = {
                "lifetime": max(as_of_ms - min(event.at_ms for event in events), definition.per_ms),
                "decayed": length_ms / math.log(2),
            }.get(window.kind, length_ms)
            return total * definition.per_ms / span_ms
    if not events:
        return None
    match function:
        case "mean":
            return total / sum(weights)
        case "last":
            newest_ms = max(event.at_ms for event in events)
            newest = [event.amount for event in events if event.at_ms == newest_ms]
            return max(newest, key=lambda amount: (type(amount).__name__, amount))
    return min(amounts) if function == "min" else max(amounts)


class TestAgainstTheEvents:
    @pytest.mark.parametrize("function", FUNCTIONS)
    @given(st.data(), events_of_a_customer, st.integers(0, 300))
    def test_values_are_what_the_definition_says(self, function, data, events, now_ms):
        """In every window, per key and over all, the value equals that computed from the list of events."""
        definition = data.draw(definitions([function]))
        state = folded(definition, events)
        assert value(definition, state, now_ms) == pytest.approx(expected(definition, events, now_ms))
        if state is not None:
            longest = definition.max_distinct if function == "distinct" else definition.window.buckets + 1
            assert all(len(cells) <= longest for cells in state.cells.values())
        if definition.by is not None:
            read = {key: value(definition, state, now_ms, key) for key in KEYS}
            assert read == pytest.approx({key: expected(definition, events, now_ms, key) for key in KEYS})
            shown = breakdown(definition, state, now_ms)
            assert list(shown) == sorted(shown)
            assert shown == {key: read[key] for key in shown}
            assert all(read[key] in (0, None) for key in read.keys() - shown.keys())

    @given(st.integers(1, 100), st.integers(1, 40), events_of_a_customer, st.integers(0, 300))
    def test_a_sliding_window_is_exact_up_to_one_bucket(self, window_ms, buckets, events, now_ms):
        """Nothing within the window is missed, nothing older than the window and a bucket is counted."""
        definition = an_aggregate("count", Window("sliding", window_ms, min(buckets, window_ms)))
        times = [event.at_ms for event in events if event.wanted]
        as_of_ms = max([now_ms, *times])

        def within(length_ms):
            return sum(at_ms > as_of_ms - length_ms for at_ms in times)

        counted = value(definition, folded(definition, events), now_ms)
        assert within(window_ms) <= counted <= within(window_ms + definition.window.bucket_ms - 1)

    @given(definitions(), st.data(), events_of_a_customer)
    def test_order_does_not_matter(self, definition, data, events):
        """Any order of the same events gives the same state, also with storage in between."""
        shuffled = data.draw(st.permutations(events))
        half = folded(definition, shuffled[: len(events) // 2])
        state = folded(definition, shuffled[len(events) // 2 :], half and decoded(half))
        assert facts(state) == facts(folded(definition, events))

    @given(definitions(), events_of_a_customer, events_of_a_customer)
    def test_merging_is_folding_the_union(self, definition, some, others):
        """Two states merge into what one would have been, whichever comes first, and stay as they were."""
        a, b = folded(definition, some), folded(definition, others)
        if a is None or b is None:
            return
        before = msgspec.msgpack.encode((a, b))
        merged = merge(definition, a, b)
        assert facts(merged) == facts(folded(definition, some + others))
        assert merge(definition, b, a) == merged
        assert msgspec.msgpack.encode((a, b)) == before

    @given(definitions(), events_of_a_customer, st.sampled_from([None, [], {}, [1, 2, 3, 4], 2**60]))
    def test_a_state_nobody_folded_is_told_from_one(self, definition, events, forged):
        """What was folded is believed when it comes back; a cell of another form is noticed, unless it is of others."""
        state = folded(definition, events)
        if state is None:
            return
        assert is_of(definition, decoded(state))
        found = decoded(state)
        key, cells = next(iter(found.cells.items()))
        found.cells[key] = {**cells, next(iter(cells)): forged}
        assert not is_of(definition, found)
        found.tag += 1
        assert is_of(definition, found)

    @given(
        definitions(),
        events_of_a_customer,
        events_of_a_customer,
        st.integers(0, 300),
        st.integers(0, 100),
    )
    def test_trimming_changes_no_later_value(self, definition, events, more, now_ms, later_ms):
        """What has left may go: no value from then on changes, nor after further events."""
        kept, trimmed = folded(definition, events), folded(definition, events)
        if trimmed is None:
            return
        trim(definition, trimmed, now_ms)
        for after in (now_ms, now_ms + later_ms):
            assert value(definition, trimmed, after) == value(definition, kept, after)
            assert breakdown(definition, trimmed, after) == breakdown(definition, kept, after)
        kept, trimmed = folded(definition, more, kept), folded(definition, more, trimmed)
        after = now_ms + later_ms
        assert value(definition, trimmed, after) == pytest.approx(value(definition, kept, after))

    @given(definitions(), events_of_a_customer, st.integers(0, 300))
    def test_age_is_since_the_newest_event(self, definition, events, now_ms):
        """Age counts from the newest wanted event, whatever has left the window; none is no age."""
        times = [event.at_ms for event in events if event.wanted]
        age = max(0, now_ms - max(times)) if times else None
        assert age_ms(definition, folded(definition, events), now_ms) == age


class TestWhatIsSkipped:
    def test_an_unwanted_event_leaves_no_trace(self):
        """The filter must be exactly true: an error value or a text is not."""
        for answer in (False, None, "yes", object()):
            definition = an_aggregate(where=lambda _event, answer=answer: answer)
            assert fold(definition, None, Event(0), 0) is None

    @pytest.mark.parametrize("function", ["sum", "mean", "min", "max", "rate"])
    @pytest.mark.parametrize("raw", [None, True, "7", [1], {}, object(), math.nan, math.inf, -math.inf, 10**400])
    def test_what_is_no_number_is_skipped(self, function, raw):
        """Bools, texts, NaN and what is too large do not count as numbers."""
        assert fold(an_aggregate(function), None, Event(0, raw), 0) is None

    @pytest.mark.parametrize("raw", [None, [1], {}, object(), math.nan, "x" * (MAX_TEXT_CHARS + 1)])
    def test_what_cannot_be_kept_is_skipped(self, raw):
        """`last` and the keys take texts of bounded length, numbers and bools."""
        assert fold(an_aggregate("last"), None, Event(0, raw), 0) is None
        assert fold(an_aggregate("count", keyed=True), None, Event(0, 1, raw), 0) is None

    def test_counting_a_value_counts_where_it_is(self):
        """With `of`, count takes every event that has a text, number or bool there, however long."""
        definition = an_aggregate("count", of=lambda event: event.amount)
        events = [Event(n, amount) for n, amount in enumerate(["x" * 10_000, 0, False, None, [], object()])]
        assert value(definition, folded(definition, events), 0) == 3

    @given(st.lists(st.integers() | st.floats() | st.text() | st.booleans() | st.none(), max_size=20))
    def test_any_json_value_can_be_kept(self, amounts):
        """Whatever is folded can be encoded, and reads the same afterwards."""
        for function in FUNCTIONS:
            definition = an_aggregate(function)
            state = folded(definition, [Event(n, amount) for n, amount in enumerate(amounts)])
            if state is not None:
                assert value(definition, decoded(state), 99) == value(definition, state, 99)

    def test_keys_are_texts(self):
        """Numbers and bools become the text a person would write; a whole float is an integer."""
        definition = an_aggregate("count", keyed=True)
        state = folded(definition, [Event(0, 1, key) for key in ("1", 1, 1.0, 2.5, True, -0.0, 1e300)])
        assert breakdown(definition, state, 0) == {"0": 1, "1": 3, "1e+300": 1, "2.5": 1, "True": 1}

    def test_distinct_tells_types_apart(self):
        """1 and 1.0 are one value; the texts "1" and "True", and true, are others."""
        definition = an_aggregate("distinct")
        amounts = [1, 1.0, "1", True, "True", "n1", "", None, "x" * 1000]
        assert value(definition, folded(definition, [Event(0, amount) for amount in amounts]), 0) == 7


class TestTime:
    def test_late_events_go_where_they_belong_or_are_counted(self):
        """Within the window a late event counts; before it, only `late` does."""
        definition = an_aggregate("count", Window("sliding", 30 * DAY_MS))
        state = folded(definition, [Event(100 * DAY_MS), Event(80 * DAY_MS), Event(60 * DAY_MS)])
        assert (value(definition, state, 100 * DAY_MS), state.late) == (2, 1)
        trim(definition, state, 120 * DAY_MS)
        state = folded(definition, [Event(80 * DAY_MS)], state)
        assert (value(definition, state, 120 * DAY_MS), state.late) == (1, 2)

    def test_an_event_ahead_of_now_is_in_the_window(self):
        """A clock slightly ahead does not hide the event that just came."""
        definition = an_aggregate("count", Window("tumbling", HOUR_MS))
        state = folded(definition, [Event(HOUR_MS + 5)])
        assert value(definition, state, HOUR_MS - 5) == 1
        assert age_ms(definition, state, HOUR_MS - 5) == 0

    def test_a_tumbling_window_begins_at_its_offset(self):
        """Weeks laid from Monday: Sunday's event has left on Monday."""
        monday_ms = 4 * DAY_MS  # 1970-01-05
        definition = an_aggregate("count", Window("tumbling", 7 * DAY_MS, offset_ms=monday_ms))
        state = folded(definition, [Event(monday_ms - 1)])
        assert [value(definition, state, now_ms) for now_ms in (monday_ms - 1, monday_ms)] == [1, 0]

    def test_a_decayed_count_halves(self):
        """After one half-life half is left, and a steady stream has its own rate."""
        definition = an_aggregate("count", Window("decayed", DAY_MS))
        state = folded(definition, [Event(0), Event(0)])
        assert [value(definition, state, n * DAY_MS) for n in (0, 1, 2, 5_000)] == pytest.approx([2, 1, 0.5, 0])
        rate = an_aggregate("rate", Window("decayed", DAY_MS))
        steady = folded(rate, [Event(n * HOUR_MS) for n in range(24 * 30)])
        assert value(rate, steady, 24 * 30 * HOUR_MS) == pytest.approx(24, rel=0.02)


class TestBounds:
    @given(
        st.lists(st.builds(Event, st.integers(0, 99), st.just(1), st.integers(0, 20), st.just(True)), max_size=60),
        st.integers(1, 5),
    )
    def test_keys_are_bounded_and_it_shows(self, events, max_keys):
        """The keys seen last stay; a key that may have been dropped is missing, not zero."""
        definition = an_aggregate("count", keyed=True, max_keys=max_keys)
        state = folded(definition, events)
        wanted = {str(event.key) for event in events}
        shown = breakdown(definition, state, 99)
        assert len(shown) == min(max_keys, len(wanted))
        assert truncated(definition, state, 99) == (len(wanted) > max_keys)
        assert value(definition, state, 99, "never seen") == (None if len(wanted) > max_keys else 0)
        newest = sorted(((max(e.at_ms for e in events if str(e.key) == key), key) for key in wanted), reverse=True)
        assert set(shown) == {key for _, key in newest[:max_keys]}

    @given(
        st.lists(st.builds(Event, st.integers(0, 99), st.integers(0, 30), st.just(0), st.just(True)), max_size=60),
        st.data(),
    )
    def test_distinct_is_exact_up_to_its_bound_then_saturates(self, events, data):
        """It counts up to the bound, says when there were more, and the order still does not matter."""
        definition = an_aggregate("distinct", max_distinct=8)
        state, there = folded(definition, events), len({event.amount for event in events})
        assert value(definition, state, 99) == min(there, 8)
        assert truncated(definition, state, 99) == (there > 8)
        assert facts(folded(definition, data.draw(st.permutations(events)))) == facts(state)

    def test_what_was_dropped_is_forgiven_when_it_would_have_left(self):
        """Once the dropped keys are older than the window the values are whole again."""
        definition = an_aggregate("count", Window("sliding", 10, 10), keyed=True, max_keys=1)
        state = folded(definition, [Event(0, 1, "hats"), Event(5, 1, "shoes")])
        assert [truncated(definition, state, now_ms) for now_ms in (5, 9, 10)] == [True, True, False]
        assert [value(definition, state, now_ms, "hats") for now_ms in (9, 10)] == [None, 0]
        trim(definition, state, 10)
        assert state.lost is None

    def test_a_merge_keeps_the_bounds(self):
        """Two full states merge into one full state, the same from either side."""
        for definition in (
            an_aggregate("count", keyed=True, max_keys=4),
            an_aggregate("distinct", Window("sliding", 100, 100), keyed=True, max_distinct=4),
        ):
            a = folded(definition, [Event(2 * n, n, n) for n in range(4)])
            b = folded(definition, [Event(2 * n + 1, n + 10, n + 10) for n in range(4)])
            merged = merge(definition, a, b)
            assert list(breakdown(definition, merged, 9)) == ["12", "13", "2", "3"]
            assert merged == merge(definition, b, a)
            assert truncated(definition, merged, 9)
            assert merged.cells.keys() == merged.seen_ms.keys()
            more = folded(definition, [Event(20, 1, "hats"), Event(20, 2, "hats")], merged)
            assert all(more.cells.values())

    @pytest.mark.parametrize("function", FUNCTIONS)
    def test_a_state_is_small(self, function):
        """A month of hourly events in 30 buckets, or 256 distinct values, stay below a few kilobytes."""
        definition = an_aggregate(function, Window("sliding", 30 * DAY_MS))
        start_ms = 20_000 * DAY_MS
        state = folded(definition, [Event(start_ms + n * HOUR_MS, n * 1.5) for n in range(24 * 60)])
        limits = {"count": 300, "last": 60, "distinct": 3_500}
        assert len(msgspec.msgpack.encode(state)) < limits.get(function, 600)

    def test_a_quiet_customer_costs_little(self):
        """One event of one aggregate: some thirty bytes, and nothing is left of what has left."""
        definition = an_aggregate("count", Window("sliding", 30 * DAY_MS))
        state = folded(definition, [Event(20_000 * DAY_MS)])
        assert len(msgspec.msgpack.encode(state)) < 35
        trim(definition, state, 20_100 * DAY_MS)
        assert state.cells == {}


class TestDefinitions:
    CHANGES = (
        {"window": Window("sliding", 7 * DAY_MS)},
        {"window": Window("sliding", 30 * DAY_MS, buckets=10)},
        {"window": Window("tumbling", 30 * DAY_MS)},
        {"function": "max"},
        {"keyed": True},
        {"source": "signal.event == 'Order Completed'"},
    )

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_state_of_another_definition_is_started_anew(self, change):
        """It reads as no data, merges as nothing, and the next event begins a state of its own."""
        before = {"function": "sum", "window": Window("sliding", 30 * DAY_MS)}
        old, changed = an_aggregate(**before), an_aggregate(**(before | change))
        state = folded(old, [Event(0, 5), Event(1, 6)])
        assert value(changed, state, 1) == value(changed, None, 1)
        assert breakdown(changed, state, 1) == {}
        assert age_ms(changed, state, 1) is None
        assert not truncated(changed, state, 1)
        assert fold(changed, state, Event(2, wanted=False), 2) is state
        trim(changed, state, 400 * DAY_MS)
        assert value(old, state, 1) == 11
        fresh = folded(changed, [Event(2, 9)], state)
        assert facts(fresh) == facts(folded(changed, [Event(2, 9)]))
        assert facts(merge(changed, state, fresh)) == facts(merge(changed, fresh, state)) == facts(fresh)
        assert merge(changed, state, state) is state

    def test_another_name_or_bound_means_the_same(self):
        """Renaming and other bounds keep the state."""
        assert an_aggregate(name="a", max_keys=5).tag == an_aggregate(name="b", per_ms=HOUR_MS).tag

    @pytest.mark.parametrize(
        ("build", "text"),
        [
            (lambda: Window("sliding", 0), "above 0"),
            (lambda: Window("tumbling", -1), "above 0"),
            (lambda: Window("decayed"), "above 0"),
            (lambda: Window("lifetime", 5), "no length"),
            (lambda: Window("sliding", 10, 11), "1 to 366"),
            (lambda: Window("sliding", DAY_MS, 0), "1 to 366"),
            (lambda: Window("sliding", DAY_MS, offset_ms=1), "only tumbling"),
            (lambda: an_aggregate("sum", of=None), "needs `of`"),
            (lambda: an_aggregate("max", Window("decayed", 5)), "cannot decay; expected count, mean"),
            (lambda: an_aggregate(max_keys=0), "max_keys 0"),
            (lambda: an_aggregate(max_distinct=0), "max_distinct 0"),
            (lambda: an_aggregate(per_ms=0), "per_ms 0"),
        ],
    )
    def test_impossible_definitions_are_refused(self, build, text):
        """Each refusal says what is expected."""
        with pytest.raises(ValueError, match=text):
            build()


class TestValues:
    ORDERS = an_aggregate("count", name="orders", where=lambda event: event.key == "order")
    SPENT = an_aggregate("mean", name="spent", where=lambda event: event.key == "order")
    VIEWS = an_aggregate("count", name="views", keyed=True)
    RATED = an_aggregate("mean", name="rated", keyed=True)
    ALL = (ORDERS, SPENT, VIEWS, RATED)

    def values(self, *events: Event) -> Values:
        """The four aggregates after the events."""
        states = {definition.name: folded(definition, list(events)) for definition in self.ALL}
        return Values(
            {each.name: each for each in self.ALL},
            {name: state for name, state in states.items() if state is not None},
            10,
        )

    def test_a_name_gives_its_value_and_a_key_its_part(self):
        """As rules see them: by name, and by key where there is a breakdown."""
        values = self.values(Event(1, 30, "order"), Event(2, 50, "order"), Event(3, 4, "shoes"))
        assert (values["orders"], values["spent"]) == (2, 40)
        assert (values["views"]["shoes"], values["views"]["order"], values["views"]["hats"]) == (1, 2, 0)
        assert (values["rated"]["shoes"], values["rated"]["order"]) == (4, 40)

    def test_missing_is_a_key_error(self):
        """Unknown names, means of nothing and keys without data are missing, not none."""
        values = self.values()
        assert values["orders"] == 0
        for look_up in (lambda: values["nope"], lambda: values["spent"], lambda: values["rated"]["shoes"]):
            with pytest.raises(KeyError):
                look_up()

    def test_each_is_computed_once_and_only_when_asked(self):
        """Nothing is there before the first access, and the first access keeps it."""
        values = self.values(Event(1, 30, "order"))
        assert dict(values) == {}
        first = values["views"]
        assert first["order"] == 1
        assert list(chain(values, first)) == ["views", "order"]
        assert values["views"] is first
