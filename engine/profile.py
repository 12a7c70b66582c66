"""The profile: all that is known about one customer, folded from signals by event time, bounded everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from engine import aggregates, consent
from engine.aggregates import MOST, AggregateState
from engine.consent import Ledger
from engine.record import Headers
from engine.rejects import LAST_MS
from engine.repertoire import Limits, ProfileRules
from engine.signal import MAX_NAME, Signal

SCHEMA = 1
_MAX_SUM = 2**63
"""Sums of traits beyond what 64 bits hold are not formed."""

_Dated = TypeVar("_Dated", "Contact", "Answer")


class Seen(msgspec.Struct, array_like=True, gc=False):
    """An identifier of the customer: its kind, when it was seen first and last, and whether it is somebody else's."""

    kind: str
    first_ms: int
    last_ms: int
    refused: bool = False


class LastSignal(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The latest signal of one name, by event time."""

    at_ms: int
    properties: dict[str, Any]


class Pending(msgspec.Struct, array_like=True, gc=False):
    """What a decision was scored with, kept until nothing more can become of it; see `engine.learning`.

    `model`, `version`: what scored it; no version, the stated propensity. `features`: as stored by `engine.learning`.
    `closes_ms`: when its window ends. `earned`: what its outcomes add up to; `reward`: the same, in [0, 1].
    """

    model: str
    version: str | None
    schema: str
    features: bytes
    propensity: float
    prior: float
    probability: float
    closes_ms: int
    exposed: bool = False
    closed: bool = False
    label: str | None = None
    earned: float = 0.0
    reward: float = 0.0


class Contact(msgspec.Struct, array_like=True, gc=False):
    """A decision made for the customer.

    `counts`: toward caps. `outbound`: the engine spoke first, so it is a promise. `answer`: the outcome that
    closed the offer, on whatever channel. `taken`: this contact itself had a positive outcome.
    """

    decision_id: str
    at_ms: int
    issue: str
    group: str
    action: str
    treatment: str
    channel: str
    expires_ms: int
    answerable_until_ms: int
    counts: bool
    outbound: bool
    cost: float = 0.0
    answer: str | None = None
    taken: bool = False
    pending: Pending | None = None


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An outcome: what suppression policies and influencers count."""

    type: str
    at_ms: int
    issue: str
    group: str
    action: str
    channel: str


class Timer(msgspec.Struct, frozen=True, array_like=True):
    """A trigger waiting for its time, with the signal that armed it. `at_ms`: when it is due."""

    trigger: str
    at_ms: int
    signal: Signal


class Outbound(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An output kept until the record that caused it is committed, so that a redelivery re-emits the same bytes."""

    read_topic: str
    read_offset: int
    topic: str
    key: bytes | None
    value: bytes
    headers: Headers
    timestamp_ms: int | None


class Profile(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One customer. Mutable: the engine changes it in place and puts it back into its table.

    `created_ms`, `seen_ms`: event time of the earliest and the latest signal. `now_ms`: the customer's clock, the
    latest broker timestamp seen. `alias`: event time and key of the user id an `alias` introduced last.
    `recent`: hashes of the last message ids. `watermarks`, `outbox`: see `engine.delivery`. `merged`: customers
    that became part of this one. `closes_ms`: when the next window of a contact ends. `lost_ms`: up to when contacts
    may be missing for want of room. `dropped`: what hit a bound → how often.
    """

    customer_id: str
    created_ms: int | None = None
    seen_ms: int | None = None
    now_ms: int = 0
    alias: tuple[int, str] | None = None
    identifiers: dict[str, Seen] = {}
    traits: dict[str, Any] = {}
    trait_times: dict[str, int] = {}
    last: dict[str, LastSignal] = {}
    aggregates: dict[str, AggregateState] = {}
    segments: dict[str, int] = {}
    consent: list[Ledger] = []
    contacts: list[Contact] = []
    closes_ms: int | None = None
    lost_ms: int | None = None
    answers: list[Answer] = []
    timers: list[Timer] = []
    recent: list[int] = []
    watermarks: dict[str, int] = {}
    merged: list[str] = []
    outbox: list[Outbound] = []
    dropped: dict[str, int] = {}

    @property
    def known_as(self) -> str:
        """What others call the customer: the user id an `alias` introduced, else the canonical id."""
        return self.customer_id if self.alias is None else self.alias[1]

    def drop(self, what: str, count: int = 1) -> None:
        """Note that a bound was reached."""
        self.dropped[what] = self.dropped.get(what, 0) + count


# --- Encoding ---


Upcasts = Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]
UPCASTS: Upcasts = {}
"""Schema version → what turns a decoded profile of that version into one of the next."""

_encoder = msgspec.msgpack.Encoder()
_envelope = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])
_decoder = msgspec.msgpack.Decoder(Profile)


def encode_profile(profile: Profile) -> bytes:
    """MessagePack: `[schema version, profile]`."""
    return _encoder.encode((SCHEMA, profile))


def decode_profile(data: bytes, upcasts: Upcasts = UPCASTS, schema: int = SCHEMA) -> Profile:
    """Decode a profile of this schema version or an earlier one, step by step.

    Raises ValueError for a version this code cannot read, and msgspec's DecodeError for bytes that are no profile.
    """
    version, body = _envelope.decode(data)
    if version == schema:
        return _decoder.decode(body)
    if version > schema or any(step not in upcasts for step in range(version, schema)):
        raise ValueError(
            f"a profile has schema version {version}, this engine reads up to {schema}; run a version that knows it"
        )
    raw = msgspec.msgpack.decode(body)
    for step in range(version, schema):
        raw = upcasts[step](raw)
    return msgspec.convert(raw, Profile)


def flaw(profile: Profile, rules: ProfileRules) -> str | None:
    """What of a decoded profile no engine can have put there; None when nothing is found that later work trips over."""
    if profile.now_ms > LAST_MS:
        return f"its clock shows {profile.now_ms} ms"
    if not all(0 <= count <= MOST for count in profile.dropped.values()):
        return "it dropped more than can be counted"
    for definition in rules.aggregates:
        state = profile.aggregates.get(definition.name)
        if state is not None and not aggregates.is_of(definition, state):
            return f"its aggregate {definition.name!r} does not hold what the aggregate keeps"
    return None


# --- Fold ---


def message_hash(message_id: str) -> int:
    """64 bits that stand for a message id."""
    return int.from_bytes(hashlib.blake2b(message_id.encode(), digest_size=8).digest(), "big")


def remember_message(profile: Profile, message_id: str, limit: int) -> bool:
    """Note a message id; False when it is among the last `limit` ones."""
    hashed = message_hash(message_id)
    if hashed in profile.recent:
        return False
    profile.recent.append(hashed)
    del profile.recent[:-limit]
    return True


def fold(profile: Profile, signal: Signal, rules: ProfileRules, scope: Mapping[str, Any]) -> None:
    """Apply one signal by event time: traits, last signals, consent and aggregates, which see `scope`.

    Folding the same signals in any order gives the same facts, up to float rounding and the bounds.
    """
    created_ms, seen_ms, at_ms = profile.created_ms, profile.seen_ms, signal.time_ms
    profile.created_ms = at_ms if created_ms is None or at_ms < created_ms else created_ms
    profile.seen_ms = at_ms if seen_ms is None or at_ms > seen_ms else seen_ms
    if signal.traits:
        _fold_traits(profile, signal, rules.limits)
    name = signal.name
    _fold_last(profile, name, signal, rules.limits)
    said = consent.statements_of(signal)
    if said and (lost := consent.state(profile.consent, said)):
        profile.drop("consent", lost)
    states = profile.aggregates
    for definition in rules.folding(name):
        state = states.get(definition.name)
        folded = aggregates.fold(definition, state, scope, at_ms)
        if folded is not None and folded is not state:
            states[definition.name] = folded
    if len(states) > len(rules.aggregates):
        defined = {definition.name for definition in rules.aggregates}
        profile.aggregates = {name: each for name, each in profile.aggregates.items() if name in defined}


def _earlier(one: int | None, other: int | None) -> int | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _later(one: int | None, other: int | None) -> int | None:
    return max((each for each in (one, other) if each is not None), default=None)


def _fold_traits(profile: Profile, signal: Signal, limits: Limits) -> None:
    incoming = {"group": signal.traits} if signal.type == "group" else signal.traits
    for name, value in incoming.items():
        known = profile.trait_times.get(name)
        if len(name) > MAX_NAME or _is_longer(value, limits.trait_bytes):
            profile.drop("trait_bytes")
        elif known is None or _wins(signal.time_ms, value, known, profile.traits[name]):
            profile.traits[name] = value
            profile.trait_times[name] = signal.time_ms


def _is_longer(value: Any, limit: int) -> bool:
    return isinstance(value, (dict, list, str)) and len(msgspec.json.encode(value)) > limit


def _wins(at_ms: int, value: Any, known_ms: int, known: Any) -> bool:
    """Later wins; at the same moment the greater encoding, so that the order of arrival does not matter."""
    if at_ms != known_ms:
        return at_ms > known_ms
    return msgspec.json.encode(value) > msgspec.json.encode(known)


def _fold_last(profile: Profile, name: str, signal: Signal, limits: Limits) -> None:
    known, properties = profile.last.get(name), signal.properties
    if properties and _is_longer(properties, limits.last_signal_bytes):
        properties = {}
        profile.drop("last_signal_bytes")
    if known is None or _wins(signal.time_ms, properties, known.at_ms, known.properties):
        profile.last[name] = LastSignal(signal.time_ms, properties)


# --- Merge ---


def merge(profile: Profile, other: Profile, rules: ProfileRules) -> bool:
    """Take over the facts of another profile of the same person, once; False when that was done before.

    Facts both hold are settled by event time or, for traits, by their strategy (Unomi's five; mission D10).
    Consent never widens. `other` is used up; what it still had to send is not taken over.
    """
    if other.customer_id in profile.merged:
        return False
    profile.created_ms = _earlier(profile.created_ms, other.created_ms)
    profile.seen_ms = _later(profile.seen_ms, other.seen_ms)
    profile.now_ms = max(profile.now_ms, other.now_ms)
    profile.alias = max(filter(None, (profile.alias, other.alias)), default=None)
    _merge_traits(profile, other, rules)
    for name, signal in other.last.items():
        known = profile.last.get(name)
        if known is None or _wins(signal.at_ms, signal.properties, known.at_ms, known.properties):
            profile.last[name] = signal
    profile.consent = consent.merge_ledgers(profile.consent, other.consent)
    for definition in rules.aggregates:
        theirs, ours = other.aggregates.get(definition.name), profile.aggregates.get(definition.name)
        if theirs is not None:
            merged = theirs if ours is None else aggregates.merge(definition, ours, theirs)
            profile.aggregates[definition.name] = merged
    _merge_identifiers(profile, other)
    profile.contacts = _in_order([*profile.contacts, *other.contacts])
    profile.lost_ms = _later(profile.lost_ms, other.lost_ms)
    profile.closes_ms = _earlier(profile.closes_ms, other.closes_ms)
    profile.answers = _in_order([*profile.answers, *other.answers])
    profile.timers = _latest_armed([*profile.timers, *other.timers])
    profile.recent = [*dict.fromkeys([*other.recent, *profile.recent])][-2 * rules.limits.recent_messages :]
    profile.merged = [*dict.fromkeys([*other.merged, *profile.merged, other.customer_id])]
    for what, count in other.dropped.items():
        profile.drop(what, count)
    enforce_bounds(profile, rules.limits)
    return True


def _merge_identifiers(profile: Profile, other: Profile) -> None:
    for key, theirs in other.identifiers.items():
        if key != profile.customer_id:
            ours = note_identifier(profile, key, theirs.kind, theirs.first_ms, theirs.last_ms, refused=theirs.refused)
            ours.refused = ours.refused and theirs.refused


def _latest_armed(timers: list[Timer]) -> list[Timer]:
    """Of each trigger the wait that ends last, as if it had been started over."""
    timers.sort(key=lambda each: (each.at_ms, msgspec.json.encode(each)))
    return [*{each.trigger: each for each in timers}.values()]


def _in_order(history: list[_Dated]) -> list[_Dated]:
    return sorted(history, key=lambda each: (each.at_ms, msgspec.json.encode(each)))


def _merge_traits(profile: Profile, other: Profile, rules: ProfileRules) -> None:
    for name, value in other.traits.items():
        taken = theirs = (other.trait_times.get(name, 0), value)
        if name in profile.traits:
            ours = (profile.trait_times.get(name, 0), profile.traits[name])
            taken = _TRAIT_MERGES[rules.merge.get(name, "most-recent")](ours, theirs)
            if _is_longer(taken[1], rules.limits.trait_bytes):
                taken = _most_recent(ours, theirs)
                profile.drop("trait_bytes")
        profile.trait_times[name], profile.traits[name] = taken


_Trait = tuple[int, Any]
"""Event time and value."""


def _most_recent(ours: _Trait, theirs: _Trait) -> _Trait:
    return theirs if _wins(*theirs, *ours) else ours


def _oldest(ours: _Trait, theirs: _Trait) -> _Trait:
    return _most_recent(ours, theirs) if ours[0] == theirs[0] else min(ours, theirs, key=lambda each: each[0])


def _adding(ours: _Trait, theirs: _Trait) -> _Trait:
    """Lists united, numbers summed as far as they can be stored; other values are not added."""
    one, other, at_ms = ours[1], theirs[1], max(ours[0], theirs[0])
    if isinstance(one, list) and isinstance(other, list):
        return at_ms, [*one, *(each for each in other if each not in one)]
    if _is_number(one) and _is_number(other) and -_MAX_SUM < one + other < _MAX_SUM:
        return at_ms, one + other
    return _most_recent(ours, theirs)


def _non_empty(ours: _Trait, theirs: _Trait) -> _Trait:
    if _is_empty(ours[1]) is _is_empty(theirs[1]):
        return _most_recent(ours, theirs)
    return theirs if _is_empty(ours[1]) else ours


def _keep(ours: _Trait, theirs: _Trait) -> _Trait:  # noqa: ARG001 - one signature for all strategies
    return ours


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {})


_TRAIT_MERGES: Mapping[str, Callable[[_Trait, _Trait], _Trait]] = {
    "most-recent": _most_recent,
    "oldest": _oldest,
    "adding": _adding,
    "non-empty": _non_empty,
    "keep": _keep,
}


# --- Bounds ---


def note_identifier(
    profile: Profile, key: str, kind: str, first_ms: int, last_ms: int, *, refused: bool = False
) -> Seen:
    """Remember an identifier of the customer, or that it was seen again."""
    seen = profile.identifiers.setdefault(key, Seen(kind, first_ms, last_ms, refused))
    seen.first_ms, seen.last_ms = min(seen.first_ms, first_ms), max(seen.last_ms, last_ms)
    return seen


def trim_aggregates(profile: Profile, rules: ProfileRules) -> None:
    """Drop what has left the windows by the customer's clock; no value changes."""
    states, now_ms = profile.aggregates, profile.now_ms
    for definition in rules.windowed:
        state = states.get(definition.name)
        if state is not None:
            aggregates.trim(definition, state, now_ms)


def enforce_bounds(profile: Profile, limits: Limits) -> None:
    """Drop the oldest entries of whatever exceeds its bound, and count them."""
    identifiers, traits, last = profile.identifiers, profile.traits, profile.last
    if len(identifiers) > limits.identifiers:
        _shrink(profile, "identifiers", identifiers, limits.identifiers, lambda key: identifiers[key].last_ms)
    if len(traits) > limits.traits:
        _shrink(profile, "traits", traits, limits.traits, lambda name: profile.trait_times.get(name, 0))
    if len(last) > limits.last_signals:
        _shrink(profile, "last_signals", last, limits.last_signals, lambda name: last[name].at_ms)
    if len(profile.trait_times) > len(profile.traits):
        profile.trait_times = {name: at for name, at in profile.trait_times.items() if name in profile.traits}
    if len(profile.timers) > limits.timers:
        profile.drop("timers", len(profile.timers) - limits.timers)
        profile.timers = sorted(profile.timers, key=lambda timer: timer.at_ms)[: limits.timers]
    if len(profile.merged) > limits.merges:
        profile.drop("merges", len(profile.merged) - limits.merges)
        del profile.merged[: -limits.merges]
    while len(profile.watermarks) > limits.watermarks:
        del profile.watermarks[next(iter(profile.watermarks))]
        profile.drop("watermarks")


def _shrink(profile: Profile, what: str, entries: dict[str, Any], limit: int, at_ms: Callable[[str], int]) -> None:
    excess = len(entries) - limit
    for key in sorted(entries, key=lambda each: (at_ms(each), each))[:excess]:
        del entries[key]
    profile.drop(what, excess)
