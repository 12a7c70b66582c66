"""Contact history: what was decided for a customer and how it was answered, as long as any rule looks back.

Kept short without loosening a rule: entries older than every window go, and of the contacts of one action on one
channel only the newest `depth` stay, which is at least every limit and threshold, besides the newest offers that
still may be answered or that a model waits for. What has no room all the same is dropped, and as long as a cap would
have to count it, the engine offers nothing that this cap holds for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import TypeVar

from engine.calendar import DAY_MS
from engine.profile import Answer, Contact, Profile
from engine.repertoire import Action, Arbitration, Constraints, Retention, Window

_UNIT_DAYS = {"hour": 1, "day": 1, "week": 7, "month": 31}
_CLOSING = frozenset({"accept", "reject", "dismiss", "convert", "bounce", "unsubscribe"})
_Entry = TypeVar("_Entry", Contact, Answer)
OPEN_CONTACTS = 50
"""How many offers that still may be answered are kept in any case, the newest ones."""


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
    bound(profile, retention, limit)


def add_answer(profile: Profile, answer: Answer, retention: Retention, limit: int) -> None:
    """Enter an outcome into the history."""
    profile.answers.append(answer)
    bound(profile, retention, limit)


def bound(profile: Profile, retention: Retention, limit: int) -> None:
    """Keep to what rules need; what then has no room is dropped, the oldest first, and counted."""
    forget(profile, retention)
    if len(profile.contacts) > min(retention.depth, limit):
        profile.contacts = _newest_contacts(profile, retention.depth)
    if len(profile.answers) > limit:
        profile.answers = _newest(profile.answers, retention.depth, lambda each: each.type)
    for what, entries in (("contacts", profile.contacts), ("answers", profile.answers)):
        excess = len(entries) - limit
        if excess > 0:
            if what == "contacts":
                lost_ms = entries[excess - 1].at_ms
                profile.lost_ms = lost_ms if profile.lost_ms is None else max(lost_ms, profile.lost_ms)
            del entries[:excess]
            profile.drop(what, excess)


def forget(profile: Profile, retention: Retention) -> None:
    """Drop what no rule looks at any more and nobody can answer."""
    now_ms = profile.now_ms
    for each in profile.contacts:
        pending = each.pending
        if pending is not None and pending.closed and each.answerable_until_ms < now_ms:
            each.pending = None
    since_ms = now_ms - retention.contacts_ms
    if profile.contacts and profile.contacts[0].at_ms < since_ms:
        profile.contacts = [
            each for each in profile.contacts if each.at_ms >= since_ms or each.answerable_until_ms >= now_ms
        ]
    since_ms = now_ms - retention.answers_ms
    if profile.answers and profile.answers[0].at_ms < since_ms:
        profile.answers = [each for each in profile.answers if each.at_ms >= since_ms]


def _newest_contacts(profile: Profile, depth: int) -> list[Contact]:
    """The contacts without those that have `depth` newer ones of their kind, unless they are among the newest open."""
    contacts = profile.contacts
    waiting = [each for each in contacts if _is_awaited(each, profile.now_ms)]
    newest = _newest(contacts, depth, lambda each: (each.counts, each.outbound))
    kept = {id(each) for each in (*newest, *waiting[-OPEN_CONTACTS:])}
    return contacts if len(kept) == len(contacts) else [each for each in contacts if id(each) in kept]


def _is_awaited(contact: Contact, now_ms: int) -> bool:
    """Whether an answer may come, or a model waits for the end of its window."""
    pending = contact.pending
    return (contact.answer is None and contact.answerable_until_ms >= now_ms) or (
        pending is not None and not pending.closed
    )


def _newest(entries: list[_Entry], depth: int, kind_of: Callable[[_Entry], Hashable]) -> list[_Entry]:
    """The entries without those of which `depth` newer ones of the same action, channel and kind exist."""
    counts: Counter[tuple[str, str, Hashable]] = Counter()
    kept: list[_Entry] = []
    for entry in reversed(entries):
        kind = (entry.action, entry.channel, kind_of(entry))
        counts[kind] += 1
        if counts[kind] <= depth:
            kept.append(entry)
    kept.reverse()
    return kept


def is_complete(profile: Profile, since_ms: int) -> bool:
    """Whether no contact since a moment was dropped for want of room, so that counting them is safe."""
    return profile.lost_ms is None or profile.lost_ms < since_ms


def find(profile: Profile, decision_id: str) -> Contact | None:
    """The decision with this id, if the history still has it."""
    for each in reversed(profile.contacts):
        if each.decision_id == decision_id:
            return each
    return None


def is_open(contact: Contact, now_ms: int) -> bool:
    """Whether an offer still stands: neither answered nor expired."""
    return contact.answer is None and now_ms < contact.expires_ms


def closes(outcome: str) -> bool:
    """Whether an outcome answers an offer for good (`click` and `impression` do not)."""
    return outcome in _CLOSING
