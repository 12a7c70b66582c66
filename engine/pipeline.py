"""The pipeline: one record in, its effects out. Read this first; it goes in the order of a customer's event.

    arrive → identify → profile → triggers → candidates → eligibility → constraints → score → arbitrate → decide

The Kafka worker, `batuta replay`, the tests and the benchmarks all call `handle`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine import candidates, delivery, history, identity, learning, outcomes, triggers
from engine.apprentice import Apprentice, observe
from engine.arrival import Arrival, Notice, arrive, claim_message, decode_claim, forward, notice
from engine.budgets import Share
from engine.context import Context, Request, context_of, folded_scope, with_request
from engine.decision import Decision, outputs_of
from engine.funnel import REQUEST, Ask, Chooser, Funnel, Lap, decide, quiet_hours_end
from engine.identity import Demoted, Identifier
from engine.learning import Example
from engine.murmur import partition_of
from engine.outcomes import Outcome
from engine.profile import Profile, enforce_bounds, fold, merge, remember_message, trim_aggregates
from engine.record import Effects, Record
from engine.rejects import Reject, bad_timestamp, reject_output
from engine.repertoire import Repertoire, Trigger
from engine.scoring import Scorer
from engine.signal import Signal
from engine.state import State
from engine.triggers import request_of


def handle(
    record: Record,
    state: State,
    repertoire: Repertoire,
    scorer: Scorer,
    lap: Lap | None = None,
    *,
    chooser: Chooser | None = None,
    apprentice: Apprentice | None = None,
) -> Effects:
    """Handle one record at the partition it was read from: changes `state`, returns what is to be written.

    Deterministic in all its arguments. Bad input becomes a record of `rejects`; raises nothing on its account.
    `chooser`: chooses instead of the draw. `apprentice`: is asked the same, without effect.
    """
    effects = Effects()
    delivery.forget_moved(state)
    if record.topic == "links":
        _settle_claim(record, state, repertoire, effects)
        return effects
    arrival = bad_timestamp(record) or arrive(record, repertoire)
    _lap(lap, "decode")
    if isinstance(arrival, Reject):
        _reject(record, arrival, repertoire, effects)
        return effects
    elsewhere = _identify(arrival, record, state, repertoire)
    _lap(lap, "identify")
    if elsewhere is not None:
        effects.outputs.append(forward(record, arrival, elsewhere))
        _count(effects, arrival, "forwarded")
        return effects
    _apply(_Turn(record, arrival, state, repertoire, scorer, effects, lap, chooser, apprentice))
    return effects


def _identify(arrival: Arrival, record: Record, state: State, repertoire: Repertoire) -> str | None:
    """The key under which a message has to be sent on; None when its customer is here.

    A redirect is followed by way of `customers` even to this very partition: what moved there went the same way.
    """
    if partition_of(arrival.key, repertoire.partitions) != record.partition:
        return arrival.key
    redirect = state.identities.get(arrival.key)
    return None if redirect is None else redirect.canonical


def _settle_claim(record: Record, state: State, repertoire: Repertoire, effects: Effects) -> None:
    """A customer claims an identifier this partition owns."""
    claim = bad_timestamp(record) or decode_claim(record, repertoire.partitions)
    if isinstance(claim, Reject):
        _reject(record, claim, repertoire, effects)
        return
    settled = identity.settle(state, claim, record.timestamp_ms, record.offset, repertoire.identity)
    if settled.moved:
        state.moved.append((record.offset, claim.identifier))
        effects.outputs += delivery.move(claim.identifier, state)
    if settled.adopt is not None:
        stronger, weaker = settled.adopt
        effects.outputs.append(notice("adopt", stronger, Notice(weaker, claim.explicit), record.timestamp_ms))
    if settled.refused:
        about = Notice(claim.identifier, claim.explicit)
        effects.outputs.append(notice("refused", claim.customer_id, about, record.timestamp_ms))


# --- One customer's turn ---


_BEGINNINGS = frozenset({"signal", "merge", "adopt"})
"""What a profile may begin with; anything else about somebody unknown is not remembered."""


class _Turn(msgspec.Struct, gc=False):
    """All that a message's turn with its customer works with."""

    record: Record
    arrival: Arrival
    state: State
    repertoire: Repertoire
    scorer: Scorer
    effects: Effects
    lap: Lap | None
    chooser: Chooser | None
    apprentice: Apprentice | None


def _apply(turn: _Turn) -> None:
    """Apply a message to its customer's profile, exactly once, and keep what it caused until it is committed."""
    arrival, record, effects, repertoire = turn.arrival, turn.record, turn.effects, turn.repertoire
    known = turn.state.profiles.get(arrival.key)
    profile = Profile(customer_id=arrival.key) if known is None else known
    if delivery.is_repeated(profile, arrival, record):
        effects.outputs += delivery.sent_for(profile, record)
        _count(effects, arrival, "redelivered")
        return
    delivery.note(profile, arrival)
    delivery.forget_sent(profile, turn.state.committed)
    history.forget(profile, repertoire.retention)
    due_ms = triggers.next_due_ms(profile)
    _fire_timers(profile, turn)
    _pass_time(profile, record.timestamp_ms, turn)
    result = _dispatch(profile, turn)
    _count(effects, arrival, result)
    trim_aggregates(profile, repertoire.profile)
    enforce_bounds(profile, repertoire.profile.limits)
    delivery.keep(profile, effects.outputs, record)
    next_ms = triggers.next_due_ms(profile)
    if next_ms is not None and (next_ms != due_ms or arrival.kind == "tick"):
        effects.timers.append((profile.customer_id, next_ms))
    if known is not None or arrival.kind in _BEGINNINGS:
        turn.state.profiles[profile.customer_id] = profile


def _dispatch(profile: Profile, turn: _Turn) -> str:
    """Have a message change the profile; returns the result by which it is counted."""
    body = turn.arrival.body
    if isinstance(body, Signal):
        return _on_signal(profile, body, turn)
    if isinstance(body, Outcome):
        return _on_outcome(profile, body, turn)
    if isinstance(body, Profile):
        return _on_merge(profile, body, turn)
    if isinstance(body, Notice):
        return _on_notice(profile, body, turn)
    return "applied"


def _on_signal(profile: Profile, signal: Signal, turn: _Turn) -> str:
    """Fold a signal into the profile, then start every decision it calls for."""
    repertoire = turn.repertoire
    if not remember_message(profile, signal.message_id, repertoire.profile.limits.recent_messages):
        return "duplicate"
    scope = folded_scope(signal, repertoire)
    fold(profile, signal, repertoire.profile, scope)
    _claim_identifiers(profile, signal, turn)
    context = context_of(profile, signal, repertoire, scope)
    changes = triggers.update_segments(profile, context, repertoire.profile)
    triggers.disarm(profile, context, repertoire)
    _teach(learning.surveyed(profile, signal, repertoire), turn)
    _lap(turn.lap, "profile")
    request = request_of(signal)
    if request is not None:
        _answer(profile, signal, request, context, turn)
    for trigger in triggers.due_triggers(signal, changes, context, repertoire):
        if trigger.after_ms:
            triggers.arm(profile, trigger, signal, profile.now_ms + trigger.after_ms)
        else:
            _pull(profile, trigger, signal, signal.message_id, context, turn)
    return "applied"


def _claim_identifiers(profile: Profile, signal: Signal, turn: _Turn) -> None:
    """Claim what else the signal says about who this is."""
    rules = turn.repertoire.identity
    for each in turn.arrival.named:
        _claim(profile, each, signal.time_ms, turn)
    for each in identity.previous_identifiers(signal, rules):
        _claim(profile, each, signal.time_ms, turn, explicit=True, again=True)
    identity.rename(profile, signal, rules)


def _claim(
    profile: Profile, identifier: Identifier, at_ms: int, turn: _Turn, *, explicit: bool = False, again: bool = False
) -> None:
    admitted = identity.admit(profile, identifier, at_ms, turn.repertoire.identity, explicit=explicit, again=again)
    if isinstance(admitted, Demoted):
        profile.drop("identifiers_demoted")
    elif admitted is not None:
        turn.effects.outputs.append(claim_message(admitted, turn.record.timestamp_ms))


def _on_outcome(profile: Profile, outcome: Outcome, turn: _Turn) -> str:
    repertoire = turn.repertoire
    # An outcome's id must not pass for a signal's: both are remembered in one list.
    if not remember_message(profile, f"outcome {outcome.outcome_id}", repertoire.profile.limits.recent_messages):
        return "duplicate"
    joined = outcomes.attribute(profile, outcome, profile.now_ms, repertoire, turn.state.budgets)
    if isinstance(joined, Reject):
        _reject(turn.record, joined, repertoire, turn.effects)
        return "rejected"
    _teach(learning.answered(profile, joined, outcome, repertoire), turn)
    return "applied"


def _on_merge(profile: Profile, other: Profile, turn: _Turn) -> str:
    if not merge(profile, other, turn.repertoire.profile):
        return "duplicate"
    delivery.take_over_watermarks(profile, other)
    history.bound(profile, turn.repertoire.retention, turn.repertoire.profile.limits.contacts)
    return "applied"


def _on_notice(profile: Profile, body: Notice, turn: _Turn) -> str:
    if turn.arrival.kind == "refused":
        identity.refuse(profile, body.identifier)
    else:
        found = Identifier(identity.kind_of(body.identifier, turn.repertoire.identity), body.identifier)
        _claim(profile, found, turn.record.timestamp_ms, turn, explicit=body.explicit, again=True)
    return "applied"


def _fire_timers(profile: Profile, turn: _Turn) -> None:
    """Let what fell due before this message happen first, at its own time."""
    for timer in (
        () if not profile.timers else triggers.take_due(profile, max(profile.now_ms, turn.record.timestamp_ms))
    ):
        _pass_time(profile, timer.at_ms, turn)
        trigger = next((each for each in turn.repertoire.triggers if each.id == timer.trigger), None)
        if trigger is not None:  # the configuration still has it
            context = context_of(profile, timer.signal, turn.repertoire)
            cause = f"timer:{timer.at_ms}:{timer.signal.message_id}"
            _pull(profile, trigger, timer.signal, cause, context, turn)


def _pass_time(profile: Profile, now_ms: int, turn: _Turn) -> None:
    """Move the customer's clock on; decisions whose window ends meanwhile are told to their models."""
    profile.now_ms = max(profile.now_ms, now_ms)
    _teach(learning.close_windows(profile, turn.repertoire), turn)


def _teach(examples: Sequence[Example], turn: _Turn) -> None:
    if not examples:
        return
    turn.effects.outputs += learning.outputs_of(examples)
    for each in examples:
        if each.label is not None:
            turn.effects.count("learning_examples", each.model)


# --- Decisions ---


def _pull(profile: Profile, trigger: Trigger, signal: Signal, cause: str, context: Context, turn: _Turn) -> None:
    """Decide for a trigger."""
    ask = Ask(
        cause=cause,
        signal=signal,
        trigger=trigger.id,
        pool=candidates.for_trigger(turn.repertoire, trigger),
        limit=trigger.limit,
        fallback=trigger.fallback,
        answer_always=trigger.answer_always,
    )
    funnel = _funnel(profile, ask, context, turn)
    made = _decide(funnel, turn)
    if trigger.hold and (not made or made[0].action is None):
        until_ms = quiet_hours_end(funnel)
        if until_ms is not None:
            triggers.arm(profile, trigger, signal, until_ms)


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
            limit=limit,
            fallback=fallback,
            request=request,
            placement=name,
            taken=taken,
            answer_always=True,
        )
        made = _decide(_funnel(profile, ask, with_request(context, request, name), turn), turn)
        taken |= {each.action for each in made if each.action is not None}


def _funnel(profile: Profile, ask: Ask, context: Context, turn: _Turn) -> Funnel:
    share = Share(turn.record.partition, turn.repertoire.partitions)
    return Funnel(
        ask, profile, context, turn.state.budgets, share, turn.repertoire, turn.scorer, turn.lap, turn.chooser
    )


def _decide(funnel: Funnel, turn: _Turn) -> list[Decision]:
    """Run the funnel and put what it decided out.

    Upstream may repeat a message after so many others that its id is forgotten. Its decision is not made anew while
    the history still has it: the same id must not get a second content.
    """
    ask, repertoire, effects = funnel.ask, turn.repertoire, turn.effects
    if history.find(funnel.profile, funnel.first_id) is not None:
        return []
    if turn.apprentice is not None:
        effects.outputs += observe(funnel, turn.apprentice)
    made = decide(funnel)
    for each in made:
        effects.outputs += outputs_of(each, repertoire, ask.signal.traceparent)
        contact = history.find(funnel.profile, each.decision_id) if each.action is not None else None
        if contact is not None:
            _teach(learning.await_answer(funnel.profile, contact, repertoire), turn)
        held = "true" if each.control else "false"
        effects.count("decisions", each.action or "none", each.channel or "none", ask.trigger, held)
    for stage, count in funnel.rejections.counts().items():
        effects.count("suppressed", stage, times=count)
    return made


# --- Small change ---


def _reject(record: Record, reject: Reject, repertoire: Repertoire, effects: Effects) -> None:
    topic = repertoire.prefix + record.topic
    effects.outputs.append(reject_output(record, reject, topic))
    effects.count("rejects", topic, reject.code)


def _count(effects: Effects, arrival: Arrival, result: str) -> None:
    """Count what became of a message: signals and outcomes by their own type, the engine's own by their kind."""
    body = arrival.body
    if isinstance(body, Signal):
        effects.count("signals", body.type, result)
    elif isinstance(body, Outcome):
        effects.count("outcomes", body.type, result)
    else:
        effects.count("messages", arrival.kind, result)


def _lap(lap: Lap | None, stage: str) -> None:
    if lap is not None:
        lap(stage)
