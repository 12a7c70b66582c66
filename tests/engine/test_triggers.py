"""Triggers and requests: which moments start a decision, at once or after a while."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.calendar import QuietHours
from engine.context import context_of
from engine.expression import compile_expression
from engine.profile import Profile, Timer
from engine.repertoire import Channel, Limits, ProfileRules, Repertoire, Segment, Trigger
from engine.replay import Replay
from engine.signal import Signal
from engine.triggers import (
    MAX_LIMIT,
    MAX_TEXT,
    MAX_TIMER_SIGNAL,
    SegmentChanges,
    arm,
    disarm,
    due_triggers,
    request_of,
    take_due,
    update_segments,
)
from tests.repertoires import DAY_MS, HOUR_MS, START_MS, Builder, a_profile, a_replay, a_signal, channels, decisions_of

NOTHING = SegmentChanges()


def _signal(event: str | None = "Go", type_: str = "track", **properties) -> Signal:
    return Signal("m1", type_, START_MS, event=event, properties=properties)


def _repertoire(*triggers: Trigger, **changes) -> Repertoire:
    return Builder().action("a").build(triggers=triggers, **changes)


def _due(trigger: Trigger, signal: Signal, changes: SegmentChanges = NOTHING, **traits) -> bool:
    repertoire = _repertoire(trigger)
    context = context_of(a_profile(traits=traits), signal, repertoire)
    return due_triggers(signal, changes, context, repertoire) == [trigger]


# --- What sets a trigger off ---


def test_by_the_name_of_a_signal():
    """The event of a `track`, or else what the signal is."""
    trigger = Trigger(id="t", events=frozenset({"Go", "identify"}))
    assert _due(trigger, _signal("Go"))
    assert _due(trigger, _signal(None, "identify"))
    assert not _due(trigger, _signal("Stop"))
    assert not _due(trigger, _signal(None, "page"))


def test_by_a_condition():
    """Alone, or on top of the signal's name; what cannot be evaluated is not true."""
    big = compile_expression("signal.properties.total > 100")
    alone, named = Trigger(id="t", when=big), Trigger(id="t", when=big, events=frozenset({"Order Completed"}))
    assert _due(alone, _signal("Anything", total=101))
    assert not _due(alone, _signal("Anything", total="101"))
    assert _due(named, _signal("Order Completed", total=101))
    assert not _due(named, _signal("Order Completed", total=100))
    assert not _due(named, _signal("Anything", total=101))


def test_by_a_segment_entered_or_left():
    """And by nothing else of the segment; together with a name both must be so."""
    entered, left = Trigger(id="t", entered="s"), Trigger(id="t", left="s", events=frozenset({"Go"}))
    into, out = SegmentChanges(entered=frozenset({"s", "x"})), SegmentChanges(left=frozenset({"s"}))
    assert _due(entered, _signal("Any"), into)
    assert not _due(entered, _signal("Any"), out)
    assert not _due(entered, _signal("Any"))
    assert _due(left, _signal("Go"), out)
    assert not _due(left, _signal("Any"), out)
    assert not _due(left, _signal("Go"), into)


# --- Segments ---


def test_segments_are_entered_and_left_with_the_signal_that_changes_them():
    """The profile remembers since when, rules see the segments as they are afterwards, and only changes are told."""
    rules = ProfileRules(
        segments=(
            Segment(id="adult", when=compile_expression("profile.age >= 18")),
            Segment(id="going", when=compile_expression("signal.event == 'Go'")),
        )
    )
    repertoire = Builder().action("a").build(profile=rules)
    profile = a_profile(traits={"age": 18}, segments={"gone": 1})

    def update(event: str, now_ms: int) -> tuple[SegmentChanges, frozenset[str]]:
        profile.now_ms = now_ms
        context = context_of(profile, _signal(event), repertoire)
        return update_segments(profile, context, rules), context["segments"]

    assert update("Go", 5) == (SegmentChanges(entered=frozenset({"adult", "going"})), {"adult", "going"})
    assert profile.segments == {"adult": 5, "going": 5}
    assert update("Go", 6) == (NOTHING, {"adult", "going"})
    assert update("Stop", 7) == (SegmentChanges(left=frozenset({"going"})), {"adult"})
    profile.traits["age"] = "old"
    assert update("Stop", 8) == (SegmentChanges(left=frozenset({"adult"})), frozenset())
    assert profile.segments == {}


def test_entering_a_segment_decides_in_the_very_signal():
    """And not again while the customer stays in it, but on coming back."""
    rules = ProfileRules(segments=(Segment(id="s", when=compile_expression("signal.properties.n > 1")),))
    triggers = (Trigger(id="in", entered="s"), Trigger(id="out", left="s"))
    replay = a_replay(_repertoire(*triggers, profile=rules))
    found = []
    for n, amount in enumerate((1, 2, 3, 0, 2)):
        outputs = replay.signal(a_signal("Set", properties={"n": amount}), START_MS + n)
        found.append([each["trigger"] for each in decisions_of(outputs)])
    assert found == [[], ["in"], [], ["out"], ["in"]]


# --- Waiting ---


ABANDONED = Trigger(
    id="abandoned",
    events=frozenset({"Added"}),
    after_ms=HOUR_MS,
    unless=compile_expression("signal.event == 'Bought'"),
)


def _story(*events: tuple[str, int], trigger: Trigger = ABANDONED, **changes) -> list[tuple[str, str]]:
    """Play events so many minutes after the start, then wait two days; returns what was decided when."""
    replay = a_replay(_repertoire(trigger, **changes))
    outputs = []
    for event, minute in events:
        outputs += replay.signal(a_signal(event, messageId=f"m{minute}"), START_MS + minute * 60_000)
    outputs += replay.advance(START_MS + 2 * DAY_MS)
    return [(each["signalId"], each["decidedAt"][11:16]) for each in decisions_of(outputs)]


def test_a_trigger_that_waits_decides_when_its_time_has_come():
    """As of the very minute, though nothing happens then."""
    assert _story(("Added", 0)) == [("m0", "09:00")]


def test_unless_something_happens_meanwhile():
    """The signal that makes `unless` true calls the decision off; what comes later is too late."""
    assert _story(("Added", 0), ("Bought", 59)) == []
    assert _story(("Added", 0), ("Seen", 30), ("Bought", 60)) == [("m0", "09:00")]
    assert _story(("Added", 0), ("Bought", 10), ("Added", 20)) == [("m20", "09:20")]


def test_the_same_signal_again_starts_the_wait_over():
    """One decision, an hour after the last one, with the last one as its signal."""
    assert _story(("Added", 0), ("Added", 40), ("Added", 80)) == [("m80", "10:20")]
    assert _story(("Added", 0), ("Added", 61)) == [("m0", "09:00"), ("m61", "10:01")]


def test_what_fell_due_is_decided_before_the_signal_that_comes_late():
    """Nobody woke the customer's timer: the next signal does, and the decision is as of its own time."""
    replay = a_replay(_repertoire(ABANDONED, Trigger(id="go", events=frozenset({"Go"}))))
    replay.signal(a_signal("Added", messageId="m0"), START_MS)
    replay._timers.clear()
    found = decisions_of(replay.signal(a_signal("Go", messageId="m1"), START_MS + 3 * HOUR_MS))
    assert [(each["trigger"], each["decidedAt"][11:16]) for each in found] == [("abandoned", "09:00"), ("go", "11:00")]


def test_a_trigger_the_configuration_no_longer_has_never_fires():
    """Its timers are dropped with the next signal, and one that fires before is ignored."""
    profile = a_profile()
    arm(profile, ABANDONED, _signal("Added"), START_MS + HOUR_MS)
    repertoire = _repertoire()
    disarm(profile, context_of(profile, _signal(), repertoire), repertoire)
    assert profile.timers == []
    replay = a_replay(_repertoire(ABANDONED))
    replay.signal(a_signal("Added"), START_MS)
    replay._repertoire = repertoire
    assert decisions_of(replay.advance(START_MS + DAY_MS)) == []


def test_timers_are_bounded():
    """The ones due first stay, and those dropped are counted."""
    triggers = [
        Trigger(id=f"t{n}", events=frozenset({"Go"}), after_ms=HOUR_MS + n, answer_always=True) for n in range(9)
    ]
    rules = ProfileRules(limits=Limits(timers=4))
    replay = a_replay(_repertoire(*triggers, profile=rules))
    replay.signal(a_signal(), START_MS)
    [profile] = [each for state in replay.partitions for each in state.profiles.values()]
    assert (len(profile.timers), profile.dropped["timers"]) == (4, 5)
    found = decisions_of(replay.advance(START_MS + DAY_MS))
    assert [each["trigger"] for each in found] == ["t0", "t1", "t2", "t3"]


def test_a_timer_keeps_a_bounded_signal():
    """A large one without its properties, which is counted; who and what it was stays."""
    profile = a_profile()
    small, large = _signal(text="x" * 100), _signal(text="x" * MAX_TIMER_SIGNAL)
    arm(profile, ABANDONED, small, START_MS)
    assert profile.timers[0].signal == small
    arm(profile, ABANDONED, large, START_MS)
    kept = profile.timers[0].signal
    assert (kept.message_id, kept.event, kept.properties) == ("m1", "Go", {})
    assert profile.dropped == {"timer_signal": 1}
    assert len(profile.timers) == 1


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 20)), max_size=8), st.integers(0, 20))
def test_what_is_due_is_taken_in_order_and_once(armed, now):
    """Earliest first, ties by trigger; the others stay."""
    timers = [Timer(trigger, at_ms, _signal()) for trigger, at_ms in armed]
    profile = Profile(customer_id="u1", timers=list(timers))
    due = take_due(profile, now)
    assert [(each.at_ms, each.trigger) for each in due] == sorted((at, id_) for id_, at in armed if at <= now)
    assert profile.timers == [each for each in timers if each.at_ms > now]
    assert take_due(profile, now) == []


# --- Requests ---


def _request(**properties):
    return request_of(_signal("Decision Requested", **properties))


def test_only_a_request_asks():
    """Any other event does not."""
    assert request_of(_signal("Go", requestId="r1", placement="hero")) is None
    assert request_of(_signal(None, "identify")) is None


def test_a_request_says_what_it_wants():
    """Id, one slot or several, channel, limit."""
    found = _request(requestId="r1", placement="hero", channel="web", limit=2)
    assert msgspec.structs.astuple(found) == ("r1", ("hero",), "web", 2)
    assert _request(placement=["hero", "footer", "hero"]).placements == ("hero", "footer")
    assert msgspec.structs.astuple(_request()) == (None, (), None, None)


@pytest.mark.parametrize(
    ("limit", "taken"),
    [(1, 1), (20, 20), (21, 20), (10**18, 20), (0, 1), (-5, 1), ("3", None), (2.5, None), (True, None), (None, None)],
)
def test_a_limit_is_bounded(limit, taken):
    """1 to 20; what is no whole number is taken as absent."""
    assert _request(limit=limit).limit == taken


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=40,
)


PROPERTIES = st.dictionaries(st.sampled_from(["requestId", "placement", "channel", "limit"]), JSON)
ON_THE_WEB = Builder()
ON_THE_WEB.action("a", ON_THE_WEB.treatment("a-web", "web"))
SHOWS = ON_THE_WEB.build()


@given(PROPERTIES)
def test_any_properties_make_a_bounded_request(properties):
    """Wrong types and long texts are absent, never an error; there are at most 20 slots and 20 decisions for each."""
    found = _request(**properties)
    assert found.id is None or len(found.id) <= MAX_TEXT
    assert found.channel is None or len(found.channel) <= MAX_TEXT
    assert len(found.placements) == len(set(found.placements)) <= MAX_LIMIT
    assert all(len(each) <= MAX_TEXT for each in found.placements)
    assert found.limit is None or 1 <= found.limit <= MAX_LIMIT


@given(PROPERTIES)
def test_every_request_gets_an_answer(properties):
    """One for each slot it names that is a text, or one; nothing chosen always comes with a reason."""
    outputs = a_replay(SHOWS).signal(a_signal("Decision Requested", properties=properties), START_MS)
    answers = decisions_of(outputs)
    asked = _request(**properties)
    assert [each["placement"] for each in answers] == list(asked.placements or (None,))
    for each in answers:
        assert each["requestId"] == asked.id
        assert each["action"] == "a" or each["explanation"]["rejected"]


QUIET = {**channels(), "push": Channel(id="push", quiet_hours=(QuietHours(start_minute=22 * 60, end_minute=8 * 60),))}
AT_NIGHT_MS = START_MS + 15 * HOUR_MS
"""23:00 UTC."""


def _night_replay(trigger: Trigger) -> Replay:
    builder = Builder()
    builder.action("push-it", builder.treatment("push-it-push", "push"))
    return a_replay(builder.build(triggers=(trigger,), channels=QUIET))


@pytest.mark.parametrize("answer_always", [False, True])
def test_what_quiet_hours_prevent_is_decided_when_they_end(answer_always: bool):
    """Not lost and not sent at night: decided afresh at eight, under an id of its own."""
    replay = _night_replay(Trigger(id="go", events=frozenset({"Go"}), answer_always=answer_always))
    at_night = decisions_of(replay.signal(a_signal(), AT_NIGHT_MS))
    assert [each["action"] for each in at_night] == [None] * answer_always
    assert decisions_of(replay.advance(AT_NIGHT_MS + 9 * HOUR_MS - 1)) == []
    [in_the_morning] = decisions_of(replay.advance(AT_NIGHT_MS + 9 * HOUR_MS))
    assert (in_the_morning["action"], in_the_morning["decidedAt"][11:16]) == ("push-it", "08:00")
    assert in_the_morning["decisionId"] not in {each["decisionId"] for each in at_night}


def test_held_back_is_no_longer_decided_once_unless_comes_true():
    """Bought in the night: nothing to remind of in the morning."""
    bought = compile_expression("signal.event == 'Bought'")
    replay = _night_replay(Trigger(id="go", events=frozenset({"Go"}), unless=bought))
    replay.signal(a_signal(), AT_NIGHT_MS)
    replay.signal(a_signal("Bought"), AT_NIGHT_MS + HOUR_MS)
    assert decisions_of(replay.advance(AT_NIGHT_MS + DAY_MS)) == []


def test_a_trigger_may_let_quiet_hours_pass():
    """`quiet_hours: skip`: what is not right at once is not sent at all."""
    replay = _night_replay(Trigger(id="go", events=frozenset({"Go"}), hold=False))
    assert decisions_of(replay.signal(a_signal(), AT_NIGHT_MS)) == []
    assert decisions_of(replay.advance(AT_NIGHT_MS + DAY_MS)) == []
