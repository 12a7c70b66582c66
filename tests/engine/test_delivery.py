"""Exactly once: whatever crashes, and however records interleave, nothing is lost, repeated or contradicted."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.delivery import forget_moved, forget_sent, keep, resume, sent_for
from engine.identity import Identity
from engine.profile import Profile, decode_profile, encode_profile
from engine.record import Output, Record
from engine.state import MemoryState
from tests.engine.crowd import (
    USERS,
    assert_decided_once,
    assert_each_counted_once,
    assert_one_customer_per_person,
    crowds,
    play,
    repertoire,
)
from tests.engine.memory_broker import Broker
from tests.repertoires import HOUR_MS, START_MS

SEEDS = st.integers(0, 2**32)


def assert_delivered(deeds: list[dict[str, Any]], seed: int, crashes: float, partitions: int) -> None:
    """All promises at once."""
    broker = play(deeds, seed, crashes, partitions)
    assert_each_counted_once(broker, deeds)
    assert_one_customer_per_person(broker, deeds)
    assert_decided_once(broker, deeds)


@settings(max_examples=60, deadline=None)
@given(crowds(), SEEDS, st.sampled_from([1, 2, 4, 7]))
def test_any_order_of_partitions(deeds: list[dict[str, Any]], seed: int, partitions: int) -> None:
    """Only records of one partition are in order; the rest may come in any."""
    assert_delivered(deeds, seed, 0.0, partitions)


@settings(max_examples=120, deadline=None)
@given(crowds(), SEEDS, st.sampled_from([0.02, 0.1, 0.3]), st.sampled_from([1, 2, 4]))
def test_workers_that_crash(deeds: list[dict[str, Any]], seed: int, crashes: float, partitions: int) -> None:
    """After a crash records come again, some of what was on its way has arrived, and models are of another version."""
    assert_delivered(deeds, seed, crashes, partitions)


@pytest.mark.slow
@settings(max_examples=3_000, deadline=None)
@given(crowds(60), SEEDS, st.sampled_from([0.02, 0.1, 0.3]), st.sampled_from([1, 2, 4, 9]))
def test_workers_that_crash_at_length(deeds: list[dict[str, Any]], seed: int, crashes: float, partitions: int) -> None:
    """The same, longer."""
    assert_delivered(deeds, seed, crashes, partitions)


def facts(broker: Broker) -> dict[str, Any]:
    """What profiles say about their customers, without what the engine notes for itself."""
    return {
        key: {
            "traits": (each.traits, each.trait_times),
            "last": each.last,
            "aggregates": each.aggregates,
            "contacts": each.contacts,
            "times": (each.created_ms, each.seen_ms),
            "dropped": each.dropped,
        }
        for key, each in broker.customers().items()
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from(["Go", "Late", "Other"])), max_size=30), SEEDS)
def test_profiles_are_those_of_a_run_without_crashes(deeds: list[tuple[str, str]], seed: int) -> None:
    """Where nothing else depends on chance, every fact of every profile is the same."""
    bodies = [
        {
            "type": "track",
            "event": event,
            "userId": user,
            "messageId": f"s{n}",
            "properties": {"n": n},
            "traits": {"n": 1},
        }
        for n, (user, event) in enumerate(deeds)
    ]
    smooth, rough = Broker(repertoire(), seed), Broker(repertoire(), seed, 0.2)
    for broker in (smooth, rough):
        for n, body in enumerate(bodies):
            broker.publish("signals", body["userId"], json.dumps(body).encode(), START_MS + n)
        broker.advance(START_MS + 5 * HOUR_MS)
    assert facts(rough) == facts(smooth)


# --- The parts ---

RECORD = Record("signals", 1, 9, START_MS, None, b"")


def test_what_was_sent_is_kept_until_its_record_is_committed() -> None:
    """For the record that caused it and no other; then it makes room."""
    profile = Profile(customer_id="u1")
    output = Output("decisions", b"u1", b"{}", (("ce_id", b"d1"),), START_MS)
    keep(profile, [output], RECORD)
    keep(profile, [msgspec.structs.replace(output, value=b"[]")], msgspec.structs.replace(RECORD, offset=10))
    kept = decode_profile(encode_profile(profile))
    assert sent_for(kept, RECORD) == [output]
    assert sent_for(kept, msgspec.structs.replace(RECORD, topic="outcomes")) == []
    forget_sent(kept, {"signals": 9, "outcomes": 99})
    assert len(kept.outbox) == 2
    forget_sent(kept, {"signals": 10})
    assert [each.value for each in kept.outbox] == [b"[]"]


def test_a_moved_profile_waits_until_its_claim_is_committed() -> None:
    """It can be sent again until then, and is sent before anything else by whoever takes over."""
    state = MemoryState(
        profiles={key: Profile(customer_id=key, now_ms=START_MS) for key in ("u1", "anonymousId:a", "anonymousId:b")},
        identities={
            "anonymousId:a": Identity("u1", START_MS, 7),
            "anonymousId:b": Identity("u1", START_MS, 5),
            "anonymousId:c": Identity("u1", START_MS, 6),
        },
    )
    keep(state.profiles["anonymousId:b"], [Output("decisions", b"anonymousId:b", b"{}")], RECORD)
    sent = resume(state)
    assert [(each.topic, each.key) for each in sent] == [("decisions", b"anonymousId:b"), *[("customers", b"u1")] * 2]
    assert resume(state) == sent
    state.committed |= {"links": 7, "signals": 10}
    assert [each.topic for each in resume(state)] == ["customers"]
    assert sorted(state.profiles) == ["anonymousId:a", "u1"]
    state.committed["links"] = 8
    forget_moved(state)
    assert (sorted(state.profiles), list(state.moved)) == (["u1"], [])
