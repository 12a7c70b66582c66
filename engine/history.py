"""Contact history: what was decided for a customer and how it was answered, as long as any rule looks back.

Kept short without ever loosening a rule: entries older than every window go, and of one action and channel only
the newest `depth` stay, which is at least every limit and threshold. When it is full all the same, the engine
offers nothing that caps would have to count.
"""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from engine.calendar import DAY_MS
from engine.profile import Answer, Contact, Profile
from engine.repertoire import Action, Arbitration, Constraints, Retention, Window

_UNIT_DAYS = {"hour": 1, "day": 1, "week": 7, "month": 31}
_CLOSING = frozenset({"accept", "reject", "dismiss", "convert", "bounce", "unsubscribe"})
_Entry = TypeVar("_Entry", Contact, Answer)


def retention_of(
    constraints: Constraints, arbitrations: tuple[Arbitration, ...], actions: tuple[Action, ...]
) -> Retention:
    """What history the configured rules need, for `Repertoire.retention`."""
    windows = [_longest_ms(limit.window) for limit in constraints.contact_limits]
    pauses = [policy.window_ms + policy.pause_ms for policy in constraints.suppressions]
    influences = [each.period_ms for arbitration in arbitrations for each in arbitration.influencers]
    counts = [limit.limit for limit in constraints.contact_limits]
    counts += [policy.threshold for policy in constraints.suppressions]
    return Retention(
        contacts_ms=max([*windows, *pauses, *(action.answerable_ms for action in actions)], default=DAY_MS),
        answers_ms=max([*pauses, *influences], default=DAY_MS),
        depth=max([*counts, 5]),
    )


def _longest_ms(window: Window) -> int:
    return window.span_ms if window.unit is None else (window.count * _UNIT_DAYS[window.unit] + 2) * DAY_MS


def add_contact(profile: Profile, contact: Contact, retention: Retention, limit: int) -> None:
    """Enter a decision into the history."""
    profile.contacts.append(contact)
    since = profile.now_ms - retention.contacts_ms
    recent = [each for each in profile.contacts if each.at_ms >= since or each.answerable_until_ms >= profile.now_ms]
    profile.contacts = _newest(recent, retention.depth)
    if len(profile.contacts) > limit:
        profile.contacts.pop(0)
        profile.drop("contacts")


def add_answer(profile: Profile, answer: Answer, retention: Retention, limit: int) -> None:
    """Enter an outcome into the history."""
    profile.answers.append(answer)
    since = profile.now_ms - retention.answers_ms
    profile.answers = _newest([each for each in profile.answers if each.at_ms >= since], retention.depth)
    if len(profile.answers) > limit:
        profile.answers.pop(0)
        profile.drop("answers")


def _newest(entries: list[_Entry], depth: int) -> list[_Entry]:
    """The entries without those of which `depth` newer ones of the same action, channel and kind exist."""
    counts: Counter[tuple[str, str, str]] = Counter()
    kept: list[_Entry] = []
    for entry in reversed(entries):
        kind = (entry.action, entry.channel, getattr(entry, "type", ""))
        counts[kind] += 1
        if counts[kind] <= depth:
            kept.append(entry)
    kept.reverse()
    return kept


def is_full(profile: Profile, limit: int) -> bool:
    """Whether the history has reached its bound, so that counting on it is no longer safe."""
    return len(profile.contacts) >= limit


def find(profile: Profile, decision_id: str) -> Contact | None:
    """The decision with this id, if the history still has it."""
    return next((each for each in reversed(profile.contacts) if each.decision_id == decision_id), None)


def is_open(contact: Contact, now_ms: int) -> bool:
    """Whether an offer still stands: neither answered nor expired."""
    return contact.answer is None and now_ms < contact.expires_ms


def closes(outcome: str) -> bool:
    """Whether an outcome answers an offer for good (`click` and `impression` do not)."""
    return outcome in _CLOSING
