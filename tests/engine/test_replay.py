"""Replay: the engine in one process, the same every time, with time that only goes forward."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.expression import compile_expression
from engine.record import Output
from engine.repertoire import Arbitration, Exploration, ProfileRules, Repertoire, Segment, Trigger
from engine.replay import Replay
from tests.engine.strategies import bodies, mutated
from tests.repertoires import DAY_MS, HOUR_MS, START_MS, Builder, a_replay, a_signal, decisions_of

MINUTE_MS = 60_000


def waiting(**changes: Any) -> Repertoire:
    """Decides at once for `Go`, and half an hour and a day after `Added`, unless `Bought` comes before."""
    bought = compile_expression("signal.event == 'Bought'")
    triggers = (
        Trigger(id="go", events=frozenset({"Go"})),
        Trigger(id="soon", events=frozenset({"Added"}), after_ms=30 * MINUTE_MS, unless=bought),
        Trigger(id="late", events=frozenset({"Added"}), after_ms=DAY_MS),
    )
    return Builder().action("a").build(**{"triggers": triggers, **changes})


def told(replay: Replay, *story: tuple[int, str]) -> list[tuple[str, int]]:
    """Publish events at minutes; returns trigger and minute of each decision."""
    outputs = [
        each for minute, event in story for each in replay.signal(a_signal(event), START_MS + minute * MINUTE_MS)
    ]
    return made(outputs)


def made(outputs: list[Output]) -> list[tuple[str, int]]:
    """Trigger and minute of each decision."""
    start = {f"2026-01-{5 + day:02}T{8 + hour:02}:{minute:02}": (day * 24 + hour) * 60 + minute
             for day in range(2) for hour in range(9) for minute in range(60)}  # fmt: skip
    return [(each["trigger"], start[each["decidedAt"][:16]]) for each in decisions_of(outputs)]


LINES = st.lists(
    st.tuples(
        bodies().map(lambda body: json.dumps(body).encode()), st.integers(0, HOUR_MS), st.booleans(), st.randoms()
    ),
    max_size=12,
)


@settings(max_examples=40)
@given(LINES)
def test_the_same_input_gives_the_same_bytes(lines: list[tuple[bytes, int, bool, Any]]) -> None:
    """Valid signals and broken ones, in any order of time: a second replay writes what the first one wrote."""
    played = [(mutated(value, chance) if broken else value, START_MS + at_ms) for value, at_ms, broken, chance in lines]
    runs = []
    for _ in range(2):
        replay = a_replay(waiting())
        outputs = [each for value, at_ms in played for each in replay.signal(value, at_ms)]
        runs.append((outputs + replay.advance(START_MS + 2 * DAY_MS), replay.counts))
    assert runs[0] == runs[1]


def test_another_seed_draws_otherwise() -> None:
    """The same seed the same way: chance is an argument."""

    def drawn(seed: int) -> list[str]:
        builder = Builder()
        for n in range(8):
            builder.action(f"a{n}")
        replay = a_replay(builder.build(seed=seed, arbitration=Arbitration(exploration=Exploration(epsilon=0.9))))
        return [
            each["action"] for n in range(30) for each in decisions_of(replay.signal(a_signal(user=f"u{n}"), START_MS))
        ]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_what_fell_due_happens_before_what_comes_after() -> None:
    """At its own time: a purchase after the half hour is too late to stop it, one before it is not."""
    assert told(a_replay(waiting()), (0, "Added"), (31, "Bought"), (32, "Go")) == [("soon", 30), ("go", 32)]
    assert told(a_replay(waiting()), (0, "Added"), (29, "Bought"), (32, "Go")) == [("go", 32)]
    assert told(a_replay(waiting()), (0, "Added"), (30, "Bought")) == [("soon", 30)]


def test_a_later_signal_starts_the_wait_over() -> None:
    """One cart is abandoned once."""
    assert told(a_replay(waiting()), (0, "Added"), (20, "Added"), (45, "Go"), (51, "Go")) == [
        ("go", 45),
        ("soon", 50),
        ("go", 51),
    ]


def test_time_wakes_customers_nobody_hears_of() -> None:
    """Every timer of theirs, also when several wait."""
    replay = a_replay(waiting())
    told(replay, (0, "Added"))
    assert made(replay.advance(START_MS + 29 * MINUTE_MS)) == []
    assert made(replay.advance(START_MS + 30 * MINUTE_MS)) == [("soon", 30)]
    assert made(replay.advance(START_MS + 3 * DAY_MS)) == [("late", 24 * 60)]
    assert replay.advance(START_MS + 9 * DAY_MS) == []


def test_timers_move_with_their_profile() -> None:
    """What an anonymous visitor left behind is asked of the user it became."""
    replay = a_replay(waiting())
    replay.signal(a_signal("Added", user=None, anonymousId="a"), START_MS)
    replay.signal(a_signal("Other", anonymousId="a"), START_MS + MINUTE_MS)
    found = decisions_of(replay.advance(START_MS + HOUR_MS))
    assert [(each["customerId"], each["trigger"]) for each in found] == [("u1", "soon")]


@given(st.lists(st.integers(0, 100), min_size=1, max_size=10))
def test_a_customers_clock_never_goes_back(minutes: list[int]) -> None:
    """Whatever the order in which records of different times arrive."""
    replay, clocks = a_replay(waiting()), []
    for minute in minutes:
        replay.signal(a_signal("Other"), START_MS + minute * MINUTE_MS)
        clocks += [each.now_ms for state in replay.partitions for each in state.profiles.values()]
    assert clocks == sorted(clocks)
    assert clocks[-1] == START_MS + max(minutes) * MINUTE_MS


def test_redirected_profiles_do_not_stay() -> None:
    """What moved is in one place only."""
    replay = a_replay(waiting())
    replay.signal(a_signal("Other", user=None, anonymousId="a"), START_MS)
    replay.signal(a_signal("Other", anonymousId="a"), START_MS)
    assert [key for state in replay.partitions for key in state.profiles] == ["u1"]


def test_outcomes_find_their_decision_wherever_it_went() -> None:
    """Keyed by the customer id of the decision, even after that customer became part of another."""
    replay = a_replay(waiting())
    (decision,) = decisions_of(replay.signal(a_signal(user=None, anonymousId="a"), START_MS))
    replay.signal(a_signal("Other", anonymousId="a"), START_MS)
    click = {"decisionId": decision["decisionId"], "customerId": decision["customerId"], "type": "click"}
    assert replay.publish("outcomes", decision["customerId"], json.dumps(click).encode(), START_MS) == []
    assert replay.counts["outcomes", "click", "applied"] == 1


def test_segments_are_entered_and_left_by_the_signal_that_changes_them() -> None:
    """Both are triggers, once each."""
    keen = Segment(id="keen", when=compile_expression("last['Rated'].properties.score > 8"))
    triggers = (Trigger(id="in", entered="keen"), Trigger(id="out", left="keen"))
    replay = a_replay(waiting(profile=ProfileRules(segments=(keen,)), triggers=triggers))
    found = []
    for n, score in enumerate((5, 9, 10, 3, 3)):
        rated = a_signal("Rated", properties={"score": score})
        found.append([trigger for trigger, _ in made(replay.signal(rated, START_MS + n * MINUTE_MS))])
    assert found == [[], ["in"], [], ["out"], []]
