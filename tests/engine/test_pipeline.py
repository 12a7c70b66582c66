"""The pipeline: every record ends in a change or a reject, whatever is in it."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.aggregates import Aggregate, Window
from engine.arrival import FIRST, HOPS, KIND, KINDS, ORIGIN, merge_message
from engine.expression import compile_expression
from engine.identity import Claim, Identity
from engine.murmur import partition_of
from engine.pipeline import handle
from engine.profile import Profile, decode_profile, encode_profile
from engine.record import Effects, Headers, Output, Record
from engine.rejects import CODES
from engine.repertoire import Limits, ProfileRules, Repertoire, Segment, Trigger
from engine.state import MemoryState
from models.baseline import PriorScorer
from tests.engine.memory_broker import READ
from tests.engine.strategies import bodies, mutated
from tests.repertoires import DAY_MS, HOUR_MS, START_MS, Builder, a_replay, a_signal, decisions_of


def _aggregate(name: str, function: Any, window: Window, **parts: str) -> Aggregate:
    """An aggregate whose parts are expressions over the signal."""
    compiled = {part: compile_expression(source).value for part, source in parts.items()}
    return Aggregate(name=name, function=function, window=window, **compiled)


_A, _HOUR = "signal.properties.a", Window("sliding", HOUR_MS)
RULES = ProfileRules(
    aggregates=(
        _aggregate("sum", "sum", _HOUR, of=_A),
        _aggregate("last", "last", Window("lifetime"), of=_A, by="signal.traits.name"),
        _aggregate("distinct", "distinct", _HOUR, of=_A),
        _aggregate("mean", "mean", Window("decayed", HOUR_MS), of=_A, by=_A),
    ),
    segments=(Segment(id="some", when=compile_expression("aggregates.sum > 0")),),
)
TRIGGERS = (
    Trigger(id="go", events=frozenset({"Go"})),
    Trigger(id="some", entered="some"),
    Trigger(id="later", events=frozenset({"Go", "Later"}), after_ms=60_000),
)
REPERTOIRE = Builder().action("a").build(profile=RULES, triggers=TRIGGERS)
SCORER = PriorScorer(REPERTOIRE)
HOME = partition_of("u1", 4)
CLICK = {"decisionId": "d1", "customerId": "u1", "type": "click"}


def run(state: MemoryState, *records: Record, repertoire: Repertoire = REPERTOIRE) -> list[Effects]:
    """Handle records in a partition's state."""
    return [handle(each, state, repertoire, SCORER) for each in records]


def a_record(offset: int, value: bytes | None = None, topic: str = "signals", **fields: Any) -> Record:
    """A record at home with u1, a second after the one before."""
    settings: dict[str, Any] = {"partition": HOME, "timestamp_ms": START_MS + offset * 1_000, "key": b"u1"}
    return Record(topic=topic, offset=offset, value=a_signal() if value is None else value, **{**settings, **fields})


def sent(effects: Effects) -> list[str]:
    """The topics written to."""
    return [each.topic for each in effects.outputs]


# --- One record ---


def test_a_signal_of_another_partition_is_sent_on() -> None:
    """To the owner of its key, and nothing is remembered here."""
    state = MemoryState()
    (effects,) = run(state, a_record(0, partition=(HOME + 1) % 4))
    (output,) = effects.outputs
    assert (output.topic, output.key, output.timestamp_ms) == ("customers", b"u1", START_MS)
    assert effects.counts == {("signals", "track", "forwarded"): 1}
    assert not state.profiles


def test_a_redirected_signal_is_sent_on_even_to_the_same_partition() -> None:
    """So that it cannot overtake the profile that moved the same way."""
    near = next(f"anonymousId:a{n}" for n in range(99) if partition_of(f"anonymousId:a{n}", 4) == HOME)
    state = MemoryState(identities={near: Identity("u1", 0, 0)})
    (effects,) = run(state, a_record(0, a_signal(user=None, anonymousId=near.removeprefix("anonymousId:"))))
    assert [(each.topic, each.key) for each in effects.outputs] == [("customers", b"u1")]


def test_a_repeated_signal_changes_nothing_and_says_the_same() -> None:
    """Also under another configuration and after other signals."""
    state = MemoryState()
    first, _ = run(state, a_record(0), a_record(1))
    before = encode_profile(state.profiles["u1"])
    other = Builder().action("b").action("a", value=99.0).build(version="v2")
    (again,) = run(state, a_record(0), repertoire=other)
    assert again.outputs == first.outputs
    assert sent(first) == ["decisions"]
    assert again.counts == {("signals", "track", "redelivered"): 1}
    assert encode_profile(state.profiles["u1"]) == before


def test_what_is_committed_is_not_kept() -> None:
    """The outbox holds what may have to be sent again, no more."""
    state = MemoryState()
    run(state, a_record(0), a_record(1))
    assert len(state.profiles["u1"].outbox) == 2
    state.committed["signals"] = 2
    run(state, a_record(2, a_signal("Other")))
    assert state.profiles["u1"].outbox == []


def test_upstreams_repetition_is_recognised_by_its_message_id() -> None:
    """It is another record with the same `messageId`, and no decision is made again."""
    state = MemoryState()
    _, again = run(state, *(a_record(n, a_signal(messageId="m")) for n in range(2)))
    assert (sent(again), again.counts) == ([], {("signals", "track", "duplicate"): 1})


def test_the_same_merge_twice_changes_nothing() -> None:
    """Sent again by whoever took a partition over, it is another record with the same profile."""
    state, other = MemoryState(), Profile(customer_id="anonymousId:a", traits={"a": 1}, trait_times={"a": 1})
    merge = merge_message("u1", other, START_MS)
    records = [a_record(n, merge.value, "customers", headers=merge.headers) for n in range(2)]
    first, again = run(state, *records)
    assert first.counts == {("messages", "merge", "applied"): 1}
    assert again.counts == {("messages", "merge", "duplicate"): 1}
    assert (state.profiles["u1"].traits, state.profiles["u1"].merged) == ({"a": 1}, ["anonymousId:a"])


def test_what_a_merged_profile_has_seen_is_not_applied_again() -> None:
    """A signal that was counted under the anonymous id comes again by way of the redirect."""
    limits = ProfileRules(limits=Limits(recent_messages=1))
    repertoire = Builder().action("a").build(profile=limits)
    key = "anonymousId:a"
    there, state = MemoryState(), MemoryState()
    signal = Record("signals", partition_of(key, 4), 5, START_MS, None, a_signal(user=None, anonymousId="a"))
    run(there, signal, repertoire=repertoire)
    merge = merge_message("u1", there.profiles[key], START_MS)
    run(state, a_record(0, merge.value, "customers", headers=merge.headers), a_record(1), repertoire=repertoire)
    there.identities[key] = Identity("u1", START_MS, 0)
    ((forwarded,),) = [each.outputs for each in run(there, signal, repertoire=repertoire)]
    again = a_record(2, forwarded.value, "customers", headers=forwarded.headers)
    (effects,) = run(state, again, repertoire=repertoire)
    assert effects.counts == {("signals", "track", "redelivered"): 1}


def test_nobody_is_remembered_for_what_is_said_about_nobody() -> None:
    """Outcomes, ticks and refusals about customers nobody knows leave no profile behind."""
    state = MemoryState()
    (outcome,) = run(state, a_record(0, json.dumps(CLICK).encode(), "outcomes"))
    assert outcome.counts[("rejects", "batuta.outcomes", "unknown-decision")] == 1
    run(state, a_record(1, b"", "customers", headers=((KIND, b"tick"),)))
    run(state, a_record(2, b'{"identifier":"email:x"}', "customers", headers=((KIND, b"refused"),)))
    assert not state.profiles


def test_an_outcome_and_a_signal_may_share_an_id() -> None:
    """Each is recognised among its own kind."""
    state = MemoryState()
    (effects,) = run(state, a_record(0, a_signal(messageId="same")))
    (decision,) = decisions_of(effects.outputs)
    click = {**CLICK, "decisionId": decision["decisionId"], "outcomeId": "same"}
    applied, again = run(state, *(a_record(n, json.dumps(click).encode(), "outcomes") for n in (1, 2)))
    assert applied.counts == {("outcomes", "click", "applied"): 1}
    assert again.counts == {("outcomes", "click", "duplicate"): 1}


def test_decisions_call_a_customer_what_upstream_calls_it() -> None:
    """After an alias that is the later user id, whichever of them is the key of the profile."""
    replay = a_replay(REPERTOIRE)
    for user in ("u0", "u1"):
        replay.signal(a_signal("Other", user=user), START_MS)
    replay.signal(a_signal(user="u1", type="alias", previousId="u0"), START_MS)
    outputs = [each for user in ("u0", "u1") for each in replay.signal(a_signal(user=user), START_MS + 1)]
    assert [each["customerId"] for each in decisions_of(outputs)] == ["u1", "u1"]
    assert {each.key for each in outputs} == {b"u1"}


@pytest.mark.parametrize("topic", READ)
@pytest.mark.parametrize("timestamp_ms", [-1, 2**62])
def test_a_record_from_no_time_is_a_reject(topic: str, timestamp_ms: int) -> None:
    """On every topic: its time would become that of a customer."""
    (effects,) = run(MemoryState(), a_record(0, topic=topic, timestamp_ms=timestamp_ms))
    assert effects.counts == {("rejects", f"batuta.{topic}", "bad-timestamp"): 1}


# --- Anything at all ---


def outcome_of(effects: Effects, value: Any) -> str:
    """`accepted` or the code of the reject; never both, never neither."""
    rejects = [msgspec.json.decode(each.value) for each in effects.outputs if each.topic == "rejects"]
    accepted = [count for count in effects.counts if count[0] != "rejects" and count[-1] != "rejected"]
    accepted = [count for count in accepted if count[0] not in ("decisions", "suppressed")]
    assert len(rejects) + len(accepted) == 1, (value, effects)
    assert all(each["code"] in CODES for each in rejects)
    return str(rejects[0]["code"]) if rejects else "accepted"


class Stored(dict[str, Profile]):
    """Profiles that are encoded and decoded each time they are put back, as a worker's table does sooner or later."""

    def __setitem__(self, key: str, profile: Profile) -> None:
        encoded = encode_profile(profile)
        super().__setitem__(key, decode_profile(encoded))
        assert encode_profile(self[key]) == encoded


@settings(max_examples=300)
@given(bodies(), st.integers(0, 3))
def test_valid_signals_are_accepted(body: dict[str, Any], partition: int) -> None:
    """With any free JSON, odd identifiers and odd names, in any partition; or nobody is named in them."""
    record = Record("signals", partition, 0, START_MS, None, json.dumps(body).encode())
    effects = handle(record, MemoryState(profiles=Stored()), REPERTOIRE, SCORER)
    assert outcome_of(effects, body) in ("accepted", "blocked-identifier")


SEEDS = [
    a_signal(messageId="m", anonymousId="a", timestamp="2026-01-05T08:00:00Z", properties={"a": [1, {"b": 2.5}]}),
    a_signal("Consent Updated", properties={"consents": [{"channel": "email", "status": "granted"}]}),
    a_signal("Decision Requested", properties={"requestId": "r", "placement": ["hero", "x"], "limit": 2}),
    a_signal(type="alias", previousId="u0", externalIds=[{"type": "email", "id": "x"}]),
    a_signal(type="group", traits={"name": "Acme"}, context={"ip": "::1"}),
    json.dumps({**CLICK, "outcomeId": "o", "value": 1.5}).encode(),
]


def fuzz_signals(count: int, seed: int) -> dict[str, int]:
    """Play mutated signals through one engine; returns how many ended how."""
    chance, replay, ends = random.Random(seed), a_replay(REPERTOIRE), dict[str, int]()
    for state in replay.partitions:
        state.profiles = Stored()
    for n in range(count):
        value = mutated(chance.choice(SEEDS), chance)
        before = sum(times for (kind, *_), times in replay.counts.items() if kind == "rejects")
        outputs = replay.signal(value, START_MS + n)
        rejects = [json.loads(each.value)["code"] for each in outputs if each.topic == "rejects"]
        after = sum(times for (kind, *_), times in replay.counts.items() if kind == "rejects")
        assert len(rejects) == after - before <= 1, value
        assert set(rejects) <= set(CODES), value
        end = rejects[0] if rejects else "accepted"
        ends[end] = ends.get(end, 0) + 1
    return ends


def fuzz_records(count: int, seed: int) -> dict[str, int]:
    """Handle records of every topic with garbage for keys, headers and values; returns how many ended how."""
    chance, ends = random.Random(seed), dict[str, int]()
    states = [MemoryState(profiles=Stored()) for _ in range(4)]
    for n in range(count):
        topic, partition = chance.choice(READ), chance.randrange(4)
        record = Record(topic, partition, n, START_MS + n, *_garbage(topic, chance))
        effects = handle(record, states[partition], REPERTOIRE, SCORER)
        end = outcome_of(effects, record) if topic != "links" or effects.counts else "settled"
        ends[end] = ends.get(end, 0) + 1
    return ends


def _garbage(topic: str, chance: random.Random) -> tuple[bytes | None, bytes | None, Headers]:
    """Key, value and headers for a record of a topic: what belongs there, or something like it."""
    values = {
        "signals": SEEDS,
        "outcomes": SEEDS[-1:],
        "links": [msgspec.json.encode(Claim(f"k{n}", "u1", explicit=bool(n % 2))) for n in range(9)],
        "customers": [*SEEDS, _MERGE.value, b'{"identifier":"email:x","explicit":true}', b""],
    }
    value = chance.choice(values[topic])
    key = chance.choice((None, b"", b"u1", b"u2", b"email:x", b"\xff", b"k" * 2_000, chance.randbytes(3)))
    if chance.random() < 0.5 and value.startswith(b"{"):
        value = mutated(value, chance)
    elif chance.random() < 0.3 and value:
        at = chance.randrange(len(value))
        value = value[:at] + chance.randbytes(1) + value[at + 1 :]
    return key, chance.choice((value, value, value, value, None)), _headers(chance)


_MERGE = merge_message("u1", Profile(customer_id="a", traits={"a": 1}, recent=[1]), START_MS)


def _headers(chance: random.Random) -> Headers:
    known = {
        KIND: [kind.encode() for kind in KINDS],
        ORIGIN: [b"signals:1:5", b"outcomes:3:7", b"links:0:1", b"nowhere"],
        FIRST: [b"u1", b"anonymousId:a", b"k" * 2_000],
        HOPS: [b"1", b"63", b"64", b"99", b"many"],
        "ce_type": [b"page", b"Order Completed"],
        "ce_id": [b"e1", b"e" * 200],
        "ce_time": [b"2026-01-05T08:00:00Z", b"now"],
        "traceparent": [b"00-1-1-01"],
    }
    chosen = [(name, chance.choice((*values, chance.randbytes(2)))) for name, values in known.items()]
    return tuple(each for each in chosen if chance.random() < (0.7 if each[0] == KIND else 0.2))


def test_mutated_signals_are_accepted_or_rejected() -> None:
    """No accident to a message raises, or has it both ways; and the accidents are of many kinds."""
    ends = fuzz_signals(2_000, seed=1)
    assert len(ends) >= 10
    assert min(ends["accepted"], 2_000 - ends["accepted"]) > 200


def test_garbage_on_every_topic_is_accepted_or_rejected() -> None:
    """Keys, headers and values that no engine wrote, too."""
    ends = fuzz_records(2_000, seed=1)
    assert len(ends) >= 10
    assert min(ends["accepted"], ends["settled"], ends["malformed"]) > 30


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_thousand_mutated_messages(seed: int) -> None:
    """The same, a hundred thousand times."""
    fuzz_signals(5_000, 100 + seed)
    fuzz_records(5_000, 200 + seed)


def test_a_message_that_only_circulates_ends_among_the_rejects() -> None:
    """Redirects do not form a circle; if they did all the same, as after a change of priorities, it would show."""
    states = [MemoryState() for _ in range(4)]
    for key, to in (("u1", "u2"), ("u2", "u1")):
        states[partition_of(key, 4)].identities[key] = Identity(to, 0, 0)
    record = a_record(0)
    for offset in range(200):
        (effects,) = run(states[record.partition], record)
        (output,) = effects.outputs
        if output.topic == "rejects":
            assert json.loads(output.value)["code"] == "malformed"
            return
        record = _read_back(output, offset)
    pytest.fail("it is still circulating")


def _read_back(output: Output, offset: int) -> Record:
    assert output.key is not None
    partition = partition_of(output.key.decode(), 4)
    return Record(output.topic, partition, offset, output.timestamp_ms or 0, output.key, output.value, output.headers)


def test_a_forgotten_message_id_mints_no_second_content() -> None:
    """Repeated after more messages than are remembered, a signal gets no second decision under its first's id."""
    builder = Builder().action("a", value=2.0).action("b", value=1.0, eligibility=["profile.rich == true"])
    replay = a_replay(builder.build())
    first = decisions_of(replay.signal(a_signal(messageId="m"), START_MS))
    for n in range(200):
        traits = {"rich": True, "n": n}
        replay.signal(a_signal(None, type="identify", messageId=f"other-{n}", traits=traits), START_MS + n)
    again = decisions_of(replay.signal(a_signal(messageId="m"), START_MS + 1000))
    assert len(first) == 1
    assert again == []


def test_what_left_its_window_is_not_kept() -> None:
    """Whatever comes next from a customer, buckets of long ago are no longer stored."""
    window = Window("sliding", 30 * DAY_MS)
    rules = ProfileRules(aggregates=(Aggregate(name="recent", function="sum", window=window, of=lambda _: 1.5),))
    replay = a_replay(Builder().action("a").build(profile=rules, partitions=1))
    for day in range(20):
        replay.signal(a_signal("Seen", messageId=f"m{day}"), START_MS + day * DAY_MS)
    (state,) = replay.partitions
    full = len(msgspec.msgpack.encode(state.profiles["u1"].aggregates))
    replay.publish(
        "outcomes", "u1", b'{"decisionId": "d", "customerId": "u1", "type": "click"}', START_MS + 99 * DAY_MS
    )
    assert len(msgspec.msgpack.encode(state.profiles["u1"].aggregates)) < full / 2
