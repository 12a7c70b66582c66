"""The pipeline: one record in, its effects out. Read this first; it goes in the order of a customer's event.

    arrive → identify → profile → triggers → candidates → eligibility → constraints → score → arbitrate → decide

The Kafka worker, `batuta replay`, the tests and the benchmarks all call `handle`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, MutableMapping
from typing import Protocol

import msgspec

from engine import candidates, identity, outcomes, triggers
from engine.arrival import (
    Arrival,
    Merge,
    Notice,
    arrive,
    claim_message,
    decode_claim,
    forward,
    merge_message,
    notice,
)
from engine.budgets import Share, Spending
from engine.context import Context, Request, context_of, with_request
from engine.decision import Decision, outputs_of
from engine.funnel import REQUEST, Ask, Funnel, Lap, decide
from engine.identity import Claim, Demoted, Identity
from engine.murmur import partition_of
from engine.outcomes import Outcome
from engine.profile import (
    Outbound,
    Profile,
    encode_profile,
    enforce_bounds,
    fold,
    merge,
    remember_message,
)
from engine.record import Effects, Output, Record
from engine.rejects import Reject, reject_output
from engine.repertoire import Repertoire
from engine.scoring import Scorer
from engine.signal import Signal
from engine.triggers import request_of


class State(Protocol):
    """What one partition remembers. Putting a value back under its key is what marks it changed."""

    @property
    def profiles(self) -> MutableMapping[str, Profile]:
        """Canonical customer id → profile."""
        ...

    @property
    def identities(self) -> MutableMapping[str, Identity]:
        """Identifier key → redirect."""
        ...

    @property
    def budgets(self) -> MutableMapping[str, Spending]:
        """Budget id → what this partition used of it."""
        ...

    @property
    def committed(self) -> Mapping[str, int]:
        """Role of a topic → offset below which its records need never be handled again."""
        ...

    @property
    def moved(self) -> deque[tuple[int, str]]:
        """Claims, by offset and identifier, that moved a profile and are not known to be committed."""
        ...


def handle(record: Record, state: State, repertoire: Repertoire, scorer: Scorer, lap: Lap | None = None) -> Effects:
    """Handle one record at the partition it was read from: changes `state`, returns what is to be written.

    Deterministic in all its arguments. Bad input becomes a record of `rejects`; raises nothing on its account.
    """
    effects = Effects()
    if record.topic == "links":
        _settle_claim(record, state, repertoire, effects)
        return effects
    arrival = arrive(record, repertoire)
    _lap(lap, "decode")
    if isinstance(arrival, Reject):
        _reject(record, arrival, repertoire, effects)
        return effects
    arrival, owner = _identify(record, arrival, state, repertoire)
    _lap(lap, "identify")
    if owner != record.partition:
        effects.outputs.append(forward(record, arrival, arrival.key))
        effects.count(f"{arrival.kind}s", _type_of(arrival), "forwarded")
        return effects
    _apply(_Turn(record, arrival, state, repertoire, scorer, effects, lap))
    return effects


def _identify(record: Record, arrival: Arrival, state: State, repertoire: Repertoire) -> tuple[Arrival, int]:
    """Follow redirects as far as this partition knows them; returns the message and the partition that owns it."""
    while True:
        owner = partition_of(arrival.key, repertoire.partitions)
        if owner != record.partition:
            return arrival, owner
        canonical = identity.resolve(state, arrival.key, arrival.hops, repertoire.identity)
        if canonical == arrival.key:
            return arrival, owner
        arrival = msgspec.structs.replace(arrival, key=canonical, hops=(*arrival.hops, arrival.key))


# --- Claims to identifiers ---


def _settle_claim(record: Record, state: State, repertoire: Repertoire, effects: Effects) -> None:
    """A customer claims an identifier this partition owns."""
    _forget_moved(state)
    claim = decode_claim(record)
    if isinstance(claim, Reject):
        _reject(record, claim, repertoire, effects)
        return
    settled = identity.settle(state, claim, repertoire.identity)
    if settled.merge is not None:
        _move(settled.merge, claim, record, state)
    if settled.adopt is not None:
        stronger, weaker = settled.adopt
        effects.outputs.append(notice("adopt", stronger, weaker, record))
    if settled.refused:
        effects.outputs.append(notice("refused", claim.customer_id, claim.identifier, record))
    redirect = state.identities.get(claim.identifier)
    if redirect is not None:
        effects.outputs += [_output(each) for each in redirect.moved if _caused_by(each, record)]


def _move(profile: Profile, claim: Claim, record: Record, state: State) -> None:
    """Send a profile to the customer it belongs to, after whatever it still had to send."""
    message = merge_message(
        claim.customer_id, f"{claim.identifier}@{profile.revision}", encode_profile(profile), record
    )
    sent = [*(_output(each) for each in profile.outbox), message]
    redirect = state.identities[claim.identifier]
    moved = tuple(_outbound(each, record) for each in sent)
    state.identities[claim.identifier] = msgspec.structs.replace(redirect, moved=moved)
    state.moved.append((record.offset, claim.identifier))


def _forget_moved(state: State) -> None:
    """Drop the copies of what was moved by claims that are committed."""
    committed = state.committed.get("links", 0)
    while state.moved and state.moved[0][0] < committed:
        _, key = state.moved.popleft()
        redirect = state.identities.get(key)
        if redirect is not None:
            state.identities[key] = msgspec.structs.replace(redirect, moved=())


# --- One customer's turn ---


class _Turn(msgspec.Struct):
    """All that a message's turn with its customer works with."""

    record: Record
    arrival: Arrival
    state: State
    repertoire: Repertoire
    scorer: Scorer
    effects: Effects
    lap: Lap | None


def _apply(turn: _Turn) -> None:
    """Apply a message to its customer's profile, exactly once, and keep what it caused until it is committed."""
    arrival, record, effects = turn.arrival, turn.record, turn.effects
    profile = turn.state.profiles.get(arrival.key)
    if profile is None:
        profile = Profile(customer_id=arrival.key)
    elif profile.watermarks.get(arrival.sender, -1) >= arrival.sender_offset:
        effects.outputs += [_output(each) for each in profile.outbox if _caused_by(each, record)]
        effects.count(f"{arrival.kind}s", _type_of(arrival), "redelivered")
        return
    profile.watermarks.pop(arrival.sender, None)
    profile.watermarks[arrival.sender] = arrival.sender_offset
    profile.outbox = [each for each in profile.outbox if not _is_committed(each, turn.state)]
    profile.revision += 1
    _fire_timers(profile, turn)
    profile.now_ms = max(profile.now_ms, record.timestamp_ms)
    result = _dispatch(profile, turn)
    effects.count(f"{arrival.kind}s", _type_of(arrival), result)
    enforce_bounds(profile, turn.repertoire.profile.limits)
    profile.outbox += [_outbound(each, record) for each in effects.outputs]
    turn.state.profiles[profile.customer_id] = profile


def _dispatch(profile: Profile, turn: _Turn) -> str:
    body = turn.arrival.body
    if isinstance(body, Signal):
        return _on_signal(profile, body, turn)
    if isinstance(body, Outcome):
        return _on_outcome(profile, body, turn)
    if isinstance(body, Merge):
        return _on_merge(profile, body, turn)
    if isinstance(body, Notice):
        return _on_notice(profile, body, turn)
    if profile.timers:
        turn.effects.timers.append((profile.customer_id, min(each.at_ms for each in profile.timers)))
    return "applied"


def _on_signal(profile: Profile, signal: Signal, turn: _Turn) -> str:
    """Fold a signal into the profile, then start every decision it calls for."""
    repertoire = turn.repertoire
    if not remember_message(profile, signal.message_id, repertoire.profile.limits.recent_messages):
        return "duplicate"
    fold(profile, signal, repertoire.profile, context_of(profile, signal, repertoire))
    _claim_identifiers(profile, signal, turn)
    context = context_of(profile, signal, repertoire)
    changes = triggers.update_segments(profile, context, repertoire.profile)
    triggers.disarm(profile, context, repertoire)
    _lap(turn.lap, "profile")
    request = request_of(signal)
    if request is not None:
        _answer(profile, signal, request, context, turn)
    for trigger in triggers.due_triggers(signal, changes, context, repertoire):
        if trigger.after_ms:
            timer = triggers.arm(profile, trigger, signal)
            turn.effects.timers.append((profile.customer_id, timer.at_ms))
        else:
            _pull(profile, trigger.id, signal, signal.message_id, context, turn)
    return "applied"


def _claim_identifiers(profile: Profile, signal: Signal, turn: _Turn) -> None:
    """Claim what else the signal says about who this is."""
    rules = turn.repertoire.identity
    named = [(each, False) for each in identity.identifiers_of(signal, rules)]
    named += [(each, True) for each in identity.previous_identifiers(signal, rules)]
    for identifier, explicit in named:
        admitted = identity.admit(profile, identifier, signal.time_ms, rules, explicit=explicit)
        if isinstance(admitted, Demoted):
            profile.drop("identifiers_demoted")
        elif admitted is not None:
            turn.effects.outputs.append(claim_message(admitted, turn.record))


def _on_outcome(profile: Profile, outcome: Outcome, turn: _Turn) -> str:
    if not remember_message(profile, outcome.outcome_id, turn.repertoire.profile.limits.recent_messages):
        return "duplicate"
    joined = outcomes.attribute(profile, outcome, profile.now_ms, turn.repertoire, turn.state.budgets)
    if isinstance(joined, Reject):
        _reject(turn.record, joined, turn.repertoire, turn.effects)
        return "rejected"
    return "applied"


def _on_merge(profile: Profile, body: Merge, turn: _Turn) -> str:
    if body.id in profile.merged:
        return "duplicate"
    body.profile.outbox = []
    merge(profile, body.profile, turn.repertoire.profile)
    profile.merged.append(body.id)
    turn.effects.timers += [(profile.customer_id, each.at_ms) for each in profile.timers]
    return "applied"


def _on_notice(profile: Profile, body: Notice, turn: _Turn) -> str:
    if turn.arrival.kind == "refused":
        profile.identifiers.pop(body.identifier, None)
        profile.drop("identifiers_refused")
        return "applied"
    rules = turn.repertoire.identity
    found = identity.Identifier(identity.kind_of(body.identifier, rules), body.identifier)
    admitted = identity.admit(profile, found, body.at_ms, rules)
    if isinstance(admitted, Claim):
        turn.effects.outputs.append(claim_message(admitted, turn.record))
    return "applied"


def _fire_timers(profile: Profile, turn: _Turn) -> None:
    """Let what fell due before this message happen first, at its own time."""
    for timer in triggers.take_due(profile, turn.record.timestamp_ms):
        profile.now_ms = max(profile.now_ms, timer.at_ms)
        context = context_of(profile, timer.signal, turn.repertoire)
        _pull(profile, timer.trigger, timer.signal, f"timer:{timer.signal.message_id}", context, turn)


# --- Decisions ---


def _pull(profile: Profile, trigger_id: str, signal: Signal, cause: str, context: Context, turn: _Turn) -> None:
    """Decide for a trigger, unless the configuration no longer has it."""
    trigger = next((each for each in turn.repertoire.triggers if each.id == trigger_id), None)
    if trigger is not None:
        ask = Ask(
            cause=cause,
            signal=signal,
            trigger=trigger.id,
            pool=candidates.for_trigger(turn.repertoire, trigger),
            limit=trigger.limit,
            fallback=trigger.fallback,
            answer_always=trigger.answer_always,
        )
        _decide(profile, ask, context, turn)


def _answer(profile: Profile, signal: Signal, request: Request, context: Context, turn: _Turn) -> None:
    """Decide for each slot a request names; it always gets an answer, if only why there is nothing."""
    taken: frozenset[str] = frozenset()
    for name in request.placements or (None,):
        pool, limit, fallback = candidates.for_request(turn.repertoire, request, name)
        ask = Ask(
            cause=signal.message_id,
            signal=signal,
            trigger=REQUEST,
            pool=pool,
            limit=request.limit if request.limit is not None else limit,
            fallback=fallback,
            request=request,
            placement=name,
            taken=taken,
            answer_always=True,
        )
        made = _decide(profile, ask, with_request(context, request, name), turn)
        taken |= {each.action for each in made if each.action is not None}


def _decide(profile: Profile, ask: Ask, context: Context, turn: _Turn) -> list[Decision]:
    """Run the funnel and put what it decided out."""
    repertoire, effects = turn.repertoire, turn.effects
    share = Share(turn.record.partition, repertoire.partitions)
    funnel = Funnel(ask, profile, context, turn.state.budgets, share, repertoire, turn.scorer, turn.lap)
    made = decide(funnel)
    for each in made:
        effects.outputs += outputs_of(each, repertoire, ask.signal.traceparent)
        held = "true" if each.control else "false"
        effects.count("decisions", each.action or "none", each.channel or "none", ask.trigger, held)
    for rejection in funnel.rejections:
        effects.count("suppressed", rejection.stage)
    return made


# --- Small change ---


def _reject(record: Record, reject: Reject, repertoire: Repertoire, effects: Effects) -> None:
    topic = repertoire.prefix + record.topic
    effects.outputs.append(reject_output(record, reject, topic))
    effects.count("rejects", topic, reject.code)


def _type_of(arrival: Arrival) -> str:
    """The bounded label of a message: a signal's or an outcome's own type."""
    body = arrival.body
    return body.type if isinstance(body, (Signal, Outcome)) else arrival.kind


def _outbound(output: Output, record: Record) -> Outbound:
    kept = (output.topic, output.key, output.value, output.headers, output.timestamp_ms)
    return Outbound(record.topic, record.offset, *kept)


def _output(kept: Outbound) -> Output:
    return Output(kept.topic, kept.key, kept.value, kept.headers, kept.timestamp_ms)


def _caused_by(kept: Outbound, record: Record) -> bool:
    return kept.read_topic == record.topic and kept.read_offset == record.offset


def _is_committed(kept: Outbound, state: State) -> bool:
    return kept.read_offset < state.committed.get(kept.read_topic, 0)


def _lap(lap: Lap | None, stage: str) -> None:
    if lap is not None:
        lap(stage)
