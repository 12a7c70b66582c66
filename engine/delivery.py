"""Deliver: why a record that is read again changes nothing, and sends the same bytes again.

* A profile keeps watermarks. Messages that upstream put into one topic partition under one key take the same way
  to a profile, so they come in the order of their offsets: one at or below the watermark was applied before.
  A message of the engine itself may come twice: what it says is true twice (and a profile is merged once).
* A profile keeps an outbox: what a record made it send, until that record is committed. A repeated record sends
  it again, whatever the configuration and the models have become meanwhile.
* A profile that moves to another customer is kept, untouched, until the claim that moved it is committed. Who
  takes the partition over sends it again first of all, so that nothing overtakes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine.arrival import Arrival, merge_message
from engine.profile import Outbound, Profile
from engine.record import Output, Record
from engine.state import State


def is_repeated(profile: Profile, arrival: Arrival, record: Record) -> bool:
    """Whether this profile has applied a message before."""
    if arrival.kind in ("signal", "outcome"):
        return profile.watermarks.get(_stream(arrival, profile), -1) >= arrival.offset
    return any(_is_of(each, record) for each in profile.outbox)


def note(profile: Profile, arrival: Arrival) -> None:
    """Note that a message is applied; the stream heard of last comes last."""
    if arrival.kind in ("signal", "outcome"):
        stream = _stream(arrival, profile)
        profile.watermarks.pop(stream, None)
        profile.watermarks[stream] = arrival.offset


def _stream(arrival: Arrival, profile: Profile) -> str:
    return arrival.source if arrival.first == profile.customer_id else f"{arrival.source}@{arrival.first}"


def take_over_watermarks(profile: Profile, other: Profile) -> None:
    """What another profile has applied, this one has applied with its facts."""
    for stream, offset in other.watermarks.items():
        named = stream if "@" in stream else f"{stream}@{other.customer_id}"
        profile.watermarks[named] = max(offset, profile.watermarks.get(named, -1))


# --- Outbox ---


def keep(profile: Profile, outputs: Iterable[Output], record: Record) -> None:
    """Remember what a record made the profile send."""
    profile.outbox += [
        Outbound(record.topic, record.offset, each.topic, each.key, each.value, each.headers, each.timestamp_ms)
        for each in outputs
    ]


def sent_for(profile: Profile, record: Record) -> list[Output]:
    """What a record made the profile send, as far as it was kept."""
    return [_output(each) for each in profile.outbox if _is_of(each, record)]


def forget_sent(profile: Profile, committed: Mapping[str, int]) -> None:
    """Drop what was sent for records that are committed."""
    if profile.outbox:
        profile.outbox = [each for each in profile.outbox if each.read_offset >= committed.get(each.read_topic, 0)]


def _is_of(kept: Outbound, record: Record) -> bool:
    return kept.read_topic == record.topic and kept.read_offset == record.offset


def _is_committed(kept: Outbound, committed: Mapping[str, int]) -> bool:
    return kept.read_offset < committed.get(kept.read_topic, 0)


def _output(kept: Outbound) -> Output:
    return Output(kept.topic, kept.key, kept.value, kept.headers, kept.timestamp_ms)


# --- Profiles that move ---


def move(key: str, state: State) -> list[Output]:
    """What sends the profile of a redirected key to its customer, after whatever it still had to send."""
    profile, redirect = state.profiles[key], state.identities[key]
    unsent = [_output(each) for each in profile.outbox if not _is_committed(each, state.committed)]
    return [*unsent, merge_message(redirect.canonical, profile, redirect.since_ms)]


def forget_moved(state: State) -> None:
    """Drop the profiles that were moved by claims that are committed."""
    committed = state.committed.get("links", 0)
    while state.moved and state.moved[0][0] < committed:
        state.profiles.pop(state.moved.popleft()[1], None)


def resume(state: State) -> list[Output]:
    """What a partition has to send before anything else when somebody takes it over, its tables restored.

    Rebuilds `state.moved`. Lists both tables, which costs less than looking one's keys up in the other.
    """
    waiting = set(state.profiles).intersection(state.identities)
    state.moved.clear()
    state.moved.extend(sorted((state.identities[key].claim_offset, key) for key in waiting))
    forget_moved(state)
    return [output for _, key in state.moved for output in move(key, state)]
