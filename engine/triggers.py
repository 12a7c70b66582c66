"""Triggers and requests: which moments of a signal start a decision, at once or after a while."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.context import Context, Request
from engine.profile import Profile, Timer
from engine.repertoire import ProfileRules, Repertoire, Trigger
from engine.signal import Signal

REQUEST_EVENT = "Decision Requested"
MAX_LIMIT = 20
"""Most decisions one slot of a request may ask for."""
MAX_TEXT = 256
"""Characters of a request's id, slot or channel; decisions repeat them."""
MAX_TIMER_SIGNAL = 8 * 1024
"""Bytes of the signal a timer keeps; a larger one is kept without its properties."""


class SegmentChanges(msgspec.Struct, frozen=True, gc=False):
    """Segments entered and left with one signal."""

    entered: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()


def update_segments(profile: Profile, context: Context, rules: ProfileRules) -> SegmentChanges:
    """Re-evaluate every segment; those that changed are written to the profile and the context."""
    segments, entered, left, held = profile.segments, list[str](), list[str](), 0
    for segment in rules.segments:
        belongs, belonged = segment.when.test(context), segment.id in segments
        held += belongs
        if belongs and not belonged:
            segments[segment.id] = profile.now_ms
            entered.append(segment.id)
        elif belonged and not belongs:
            del segments[segment.id]
            left.append(segment.id)
    if held < len(segments):
        known = {segment.id for segment in rules.segments}
        for stale in [each for each in segments if each not in known]:
            del segments[stale]
    context["segments"] = frozenset(segments)
    return SegmentChanges(frozenset(entered), frozenset(left))


def due_triggers(signal: Signal, changes: SegmentChanges, context: Context, repertoire: Repertoire) -> list[Trigger]:
    """The triggers a signal, or the segment changes it made, sets off."""
    name = signal.name
    return [each for each in repertoire.triggers if _is_met(each, name, changes, context)]


def _is_met(trigger: Trigger, name: str, changes: SegmentChanges, context: Context) -> bool:
    if trigger.events and name not in trigger.events:
        return False
    if trigger.entered is not None and trigger.entered not in changes.entered:
        return False
    if trigger.left is not None and trigger.left not in changes.left:
        return False
    return trigger.when is None or trigger.when.test(context)


def arm(profile: Profile, trigger: Trigger, signal: Signal, at_ms: int) -> None:
    """Have a trigger wait until a moment, with the signal that asked for it; a wait it had before is over."""
    if len(msgspec.json.encode(signal)) > MAX_TIMER_SIGNAL:
        signal = msgspec.structs.replace(signal, properties={}, context={}, traits={})
        profile.drop("timer_signal")
    profile.timers = [each for each in profile.timers if each.trigger != trigger.id]
    profile.timers.append(Timer(trigger.id, at_ms, signal))


def disarm(profile: Profile, context: Context, repertoire: Repertoire) -> None:
    """Drop the waiting triggers whose `unless` came true, or that the configuration no longer has."""
    if profile.timers:
        triggers = {each.id: each for each in repertoire.triggers}
        profile.timers = [each for each in profile.timers if not _is_off(triggers.get(each.trigger), context)]


def _is_off(trigger: Trigger | None, context: Context) -> bool:
    return trigger is None or (trigger.unless is not None and trigger.unless.test(context))


def next_due_ms(profile: Profile) -> int | None:
    """When the customer has to be woken, for a trigger or the end of a window; None when nothing waits."""
    closes_ms = profile.closes_ms
    if not profile.timers:
        return closes_ms
    due_ms = min(each.at_ms for each in profile.timers)
    return due_ms if closes_ms is None else min(due_ms, closes_ms)


def take_due(profile: Profile, now_ms: int) -> list[Timer]:
    """Remove and return the timers that are due, earliest first."""
    if not profile.timers:
        return []
    due = sorted((each for each in profile.timers if each.at_ms <= now_ms), key=lambda each: (each.at_ms, each.trigger))
    if due:
        profile.timers = [each for each in profile.timers if each.at_ms > now_ms]
    return due


def request_of(signal: Signal) -> Request | None:
    """What a `Decision Requested` asks for; values of the wrong type, or too long, are taken as absent."""
    if signal.event != REQUEST_EVENT:
        return None
    asked = signal.properties
    placement = asked.get("placement")
    placements = placement if isinstance(placement, list) else [placement]
    limit = asked.get("limit")
    return Request(
        id=_text(asked.get("requestId")),
        placements=tuple(dict.fromkeys(text for each in placements if (text := _text(each)) is not None))[:MAX_LIMIT],
        channel=_text(asked.get("channel")),
        limit=min(max(limit, 1), MAX_LIMIT) if isinstance(limit, int) and not isinstance(limit, bool) else None,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and len(value) <= MAX_TEXT else None
