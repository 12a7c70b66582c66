"""The profile: all that is known about one customer, folded from signals by event time, bounded everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from engine import aggregates, consent
from engine.aggregates import AggregateState
from engine.consent import Ledger
from engine.record import Headers
from engine.repertoire import Limits, ProfileRules
from engine.signal import Signal

SCHEMA = 1

_Dated = TypeVar("_Dated", "Contact", "Answer", "Timer")


class Seen(msgspec.Struct, array_like=True):
    """An identifier of the customer: its kind, and when it was seen first and last."""

    kind: str
    first_ms: int
    last_ms: int


class LastSignal(msgspec.Struct, frozen=True, array_like=True):
    """The latest signal of one name, by event time."""

    at_ms: int
    properties: dict[str, Any]


class Contact(msgspec.Struct, array_like=True):
    """A decision made for the customer.

    `counts`: toward caps. `outbound`: the engine spoke first, so it is a promise. `answer`: the outcome that
    closed the offer.
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


class Answer(msgspec.Struct, frozen=True, array_like=True):
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


class Outbound(msgspec.Struct, frozen=True, array_like=True):
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

    `now_ms`: the customer's clock, the latest broker timestamp seen. `recent`: hashes of the last message ids.
    `watermarks`: `topic/partition` a message came from → highest offset applied. `dropped`: what hit a bound →
    how often.
    """

    customer_id: str
    created_ms: int = 0
    seen_ms: int = 0
    now_ms: int = 0
    revision: int = 0
    identifiers: dict[str, Seen] = {}
    traits: dict[str, Any] = {}
    trait_times: dict[str, int] = {}
    last: dict[str, LastSignal] = {}
    aggregates: dict[str, AggregateState] = {}
    segments: dict[str, int] = {}
    consent: list[Ledger] = []
    contacts: list[Contact] = []
    answers: list[Answer] = []
    timers: list[Timer] = []
    recent: list[int] = []
    watermarks: dict[str, int] = {}
    merged: list[str] = []
    outbox: list[Outbound] = []
    dropped: dict[str, int] = {}

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
    """Apply one signal by event time: traits, last signals, consent and aggregates.

    Folding the same signals in any order gives the same facts, up to float rounding and the bounds.
    """
    profile.created_ms = min(profile.created_ms or signal.time_ms, signal.time_ms)
    profile.seen_ms = max(profile.seen_ms, signal.time_ms)
    if signal.traits:
        _fold_traits(profile, signal, rules.limits)
    _fold_last(profile, signal, rules.limits)
    lost = consent.state(profile.consent, consent.statements_of(signal))
    if lost:
        profile.drop("consent", lost)
    for definition in rules.aggregates:
        state = profile.aggregates.get(definition.name)
        folded = aggregates.fold(definition, state, scope, signal.time_ms)
        if folded is not None:
            profile.aggregates[definition.name] = folded


def _fold_traits(profile: Profile, signal: Signal, limits: Limits) -> None:
    incoming = {"group": signal.traits} if signal.type == "group" else signal.traits
    for name, value in incoming.items():
        known = profile.trait_times.get(name)
        if known is None and len(profile.traits) >= limits.traits:
            profile.drop("traits")
        elif isinstance(value, (dict, list, str)) and len(msgspec.json.encode(value)) > limits.trait_bytes:
            profile.drop("trait_bytes")
        elif known is None or _wins(signal.time_ms, value, known, profile.traits[name]):
            profile.traits[name] = value
            profile.trait_times[name] = signal.time_ms


def _wins(at_ms: int, value: Any, known_ms: int, known: Any) -> bool:
    """Later wins; at the same moment the greater encoding, so that the order of arrival does not matter."""
    if at_ms != known_ms:
        return at_ms > known_ms
    return msgspec.json.encode(value) > msgspec.json.encode(known)


def _fold_last(profile: Profile, signal: Signal, limits: Limits) -> None:
    name = signal.name
    known = profile.last.get(name)
    properties = signal.properties
    if len(properties) > 3 and len(msgspec.json.encode(properties)) > limits.last_signal_bytes:
        properties = {}
        profile.drop("last_signal_bytes")
    if known is None or _wins(signal.time_ms, properties, known.at_ms, known.properties):
        profile.last[name] = LastSignal(signal.time_ms, properties)
    if len(profile.last) > limits.last_signals:
        oldest = min(profile.last, key=lambda each: (profile.last[each].at_ms, each))
        del profile.last[oldest]
        profile.drop("last_signals")


# --- Merge ---


def merge(profile: Profile, other: Profile, rules: ProfileRules) -> None:
    """Take over the facts of another profile of the same person; `other` is used up.

    Facts both hold are settled by event time or, for traits, by their strategy (Unomi's five; mission D10).
    Consent never widens. The caller sees to it that one profile is merged once.
    """
    limits = rules.limits
    profile.created_ms = min(profile.created_ms or other.created_ms, other.created_ms or profile.created_ms)
    profile.seen_ms = max(profile.seen_ms, other.seen_ms)
    profile.now_ms = max(profile.now_ms, other.now_ms)
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
    for key, seen in other.identifiers.items():
        note_identifier(profile, key, seen.kind, seen.first_ms, seen.last_ms)
    for source, offset in other.watermarks.items():
        profile.watermarks[source] = max(offset, profile.watermarks.get(source, -1))
    profile.contacts = _united(profile.contacts, other.contacts)
    profile.answers = _united(profile.answers, other.answers)
    profile.timers = _united(profile.timers, other.timers)
    profile.recent = [*other.recent, *profile.recent][-2 * limits.recent_messages :]
    profile.merged = [*dict.fromkeys([*other.merged, *profile.merged])][-limits.merges :]
    for what, count in other.dropped.items():
        profile.drop(what, count)
    enforce_bounds(profile, limits)


def _united(ours: list[_Dated], theirs: list[_Dated]) -> list[_Dated]:
    """Both histories in order of time, without what stands in both."""
    united = ours + [each for each in theirs if each not in ours]
    united.sort(key=lambda each: (each.at_ms, msgspec.json.encode(each)))
    return united


def _merge_traits(profile: Profile, other: Profile, rules: ProfileRules) -> None:
    for name, theirs in other.traits.items():
        at_ms = other.trait_times.get(name, 0)
        if name not in profile.traits:
            profile.traits[name], profile.trait_times[name] = theirs, at_ms
            continue
        ours, ours_ms = profile.traits[name], profile.trait_times.get(name, 0)
        take = _TRAIT_MERGES[rules.merge.get(name, "most-recent")](ours, ours_ms, theirs, at_ms)
        profile.traits[name] = take
        profile.trait_times[name] = max(ours_ms, at_ms)


def _most_recent(ours: Any, ours_ms: int, theirs: Any, theirs_ms: int) -> Any:
    return theirs if _wins(theirs_ms, theirs, ours_ms, ours) else ours


def _oldest(ours: Any, ours_ms: int, theirs: Any, theirs_ms: int) -> Any:
    return theirs if theirs_ms < ours_ms or (theirs_ms == ours_ms and _wins(0, theirs, 0, ours)) else ours


def _adding(ours: Any, ours_ms: int, theirs: Any, theirs_ms: int) -> Any:
    if isinstance(ours, list) and isinstance(theirs, list):
        return [*ours, *(each for each in theirs if each not in ours)]
    if _is_number(ours) and _is_number(theirs):
        return ours + theirs
    return _most_recent(ours, ours_ms, theirs, theirs_ms)


def _non_empty(ours: Any, ours_ms: int, theirs: Any, theirs_ms: int) -> Any:
    empty: tuple[Any, ...] = (None, "", [], {})
    if ours in empty or theirs in empty:
        return theirs if ours in empty else ours
    return _most_recent(ours, ours_ms, theirs, theirs_ms)


def _keep(ours: Any, ours_ms: int, theirs: Any, theirs_ms: int) -> Any:  # noqa: ARG001 - one signature for all strategies
    return ours


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_TRAIT_MERGES: Mapping[str, Callable[[Any, int, Any, int], Any]] = {
    "most-recent": _most_recent,
    "oldest": _oldest,
    "adding": _adding,
    "non-empty": _non_empty,
    "keep": _keep,
}


# --- Bounds ---


def note_identifier(profile: Profile, key: str, kind: str, first_ms: int, last_ms: int) -> None:
    """Remember an identifier of the customer, or that it was seen again."""
    seen = profile.identifiers.get(key)
    if seen is None:
        profile.identifiers[key] = Seen(kind, first_ms, last_ms)
    else:
        seen.first_ms, seen.last_ms = min(seen.first_ms, first_ms), max(seen.last_ms, last_ms)


def enforce_bounds(profile: Profile, limits: Limits) -> None:
    """Drop the oldest entries of whatever exceeds its bound, and count them."""
    _shrink(profile, "identifiers", profile.identifiers, limits.identifiers, lambda seen: seen.last_ms)
    _shrink(profile, "traits", profile.traits, limits.traits, None)
    _shrink(profile, "last_signals", profile.last, limits.last_signals, lambda last: last.at_ms)
    for name in profile.trait_times.keys() - profile.traits.keys():
        del profile.trait_times[name]
    if len(profile.timers) > limits.timers:
        profile.drop("timers", len(profile.timers) - limits.timers)
        profile.timers = sorted(profile.timers, key=lambda timer: timer.at_ms)[: limits.timers]
    while len(profile.watermarks) > limits.watermarks:
        del profile.watermarks[next(iter(profile.watermarks))]


def _shrink(profile: Profile, what: str, entries: dict[str, Any], limit: int, age: Callable[[Any], int] | None) -> None:
    while len(entries) > limit:
        ages = profile.trait_times if age is None else {key: age(entry) for key, entry in entries.items()}
        del entries[min(entries, key=lambda key: (ages.get(key, 0), key))]
        profile.drop(what)
