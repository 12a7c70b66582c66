"""The engine as the worker runs it: its tables, what it counts, and what of it is measured."""

from __future__ import annotations

from collections import deque

from agents.decisioning import MEASURED, TABLES, PartitionState, due_ms, engine_of
from agents.metrics import COUNTERS, Metrics, exposition
from agents.tables import Table
from engine.arrival import KIND
from engine.profile import Profile, Timer, encode_profile
from engine.record import Output, Record
from engine.signal import Signal
from models.baseline import PriorScorer
from tests.repertoires import START_MS, Builder, a_signal


def a_state() -> PartitionState:
    """A partition that remembers nothing yet."""
    return PartitionState(**{spec.name: Table(spec) for spec in TABLES}, committed={})


def test_every_count_has_a_counter():
    """Whatever the engine counts on any kind of message, the worker can add up."""
    repertoire = Builder().action("a").build(partitions=1)
    engine, state, metrics = engine_of(repertoire, PriorScorer(repertoire)), a_state(), Metrics()
    queue = deque(
        [
            Output("signals", b"a1", a_signal("Go", user=None, anonymousId="a1", messageId="m0")),
            Output("signals", b"u1", a_signal(None, type="identify", anonymousId="a1", messageId="m1")),
            Output("signals", b"u1", a_signal("Go", messageId="m2")),
            Output("signals", b"u1", b"{"),
            Output("outcomes", b"u1", b'{"decisionId": "d", "customerId": "u1", "type": "click"}'),
            Output("customers", b"u1", b"", ((KIND, b"tick"),)),
        ]
    )
    offsets: dict[str, int] = {}
    counted: set[str] = set()
    while queue:
        output = queue.popleft()
        offset = offsets[output.topic] = offsets.get(output.topic, -1) + 1
        record = Record(output.topic, 0, offset, START_MS, output.key, output.value, output.headers)
        effects = engine.handle(record, state)
        metrics.add(effects.counts)
        counted |= {name for name, *_ in effects.counts}
        queue += [each for each in effects.outputs if each.topic in ("customers", "links")]
    assert counted >= {"signals", "decisions", "rejects", "outcomes", "messages"}
    assert counted <= COUNTERS.keys()
    assert b'batuta_messages_total{kind="merge",result="applied"} 1.0' in exposition(metrics)


def test_stages_are_measured_now_and_then():
    """One record in so many says how long each stage of its handling took."""
    repertoire = Builder().action("a").build(partitions=1)
    engine, state = engine_of(repertoire, PriorScorer(repertoire)), a_state()
    measured = []
    for offset in range(MEASURED * 2):
        record = Record("signals", 0, offset, START_MS, b"u1", a_signal(messageId=f"m{offset}"))
        measured.append(engine.handle(record, state).laps)
    assert sum(bool(laps) for laps in measured) == 2
    stages = [stage for stage, _ in measured[0]]
    assert stages == ["decode", "identify", "profile", "eligibility", "constraints", "score", "arbitrate", "decide"]
    assert all(seconds >= 0 for _, seconds in measured[0])


def test_a_stored_profile_tells_when_it_is_due():
    """The earliest of its timers, read without decoding the rest; None without timers."""
    signal = Signal(message_id="m", type="track", time_ms=1)
    timers = [Timer("t", 500, signal), Timer("s", 300, signal)]
    assert due_ms(encode_profile(Profile(customer_id="u", timers=timers))) == 300
    assert due_ms(encode_profile(Profile(customer_id="u"))) is None
