"""Consent per channel and purpose: what a customer said, when, until when, and what follows from it.

Statements are kept in one ledger per profile that was ever merged into this one. Within a ledger the latest
matching statement counts. Across ledgers every one that has an opinion must allow: a merge can take consent
away and never widens it, while a statement made after the merge goes into all of them and settles the matter.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import msgspec

from engine.calendar import parse_rfc3339_ms
from engine.signal import Signal

Status = Literal["granted", "denied", "revoked"]
CONSENT_EVENT = "Consent Updated"
ANY = "*"
MAX_STATEMENTS = 64
MAX_LEDGERS = 8
_ALL = f"{ANY}/{ANY}"


class Statement(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was said about one channel and purpose (`*` for all). `expires_ms` ends a grant."""

    status: Status
    at_ms: int
    expires_ms: int | None = None

    def allows(self, now_ms: int) -> bool:
        """Whether it is a grant that has not expired."""
        return self.status == "granted" and (self.expires_ms is None or now_ms < self.expires_ms)


Ledger = dict[str, Statement]
"""`channel/purpose` → the latest statement; either part may be `*`."""


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What is on record for one channel and purpose. `statement`: the one that decides, if any."""

    allowed: bool | None
    statement: Statement | None


def statements_of(signal: Signal) -> dict[str, Statement]:
    """Statements a signal makes: `Consent Updated` with `{channel?, purpose?, status, expiresAt?}`, or a list of them
    in `consents`. Malformed ones are left out."""
    if signal.event != CONSENT_EVENT:
        return {}
    entries = signal.properties.get("consents", [signal.properties])
    found: dict[str, Statement] = {}
    for entry in entries if isinstance(entries, list) else ():
        said = _statement(entry, signal.time_ms)
        if said is not None:
            found[said[0]] = said[1]
    return found


def _statement(entry: Any, at_ms: int) -> tuple[str, Statement] | None:
    if not isinstance(entry, dict):
        return None
    channel, purpose = entry.get("channel", ANY), entry.get("purpose", ANY)
    status, expires = entry.get("status"), entry.get("expiresAt")
    named = isinstance(channel, str) and isinstance(purpose, str) and "/" not in channel
    if status not in ("granted", "denied", "revoked") or not named or len(channel) + len(purpose) > 200:
        return None
    try:
        expires_ms = parse_rfc3339_ms(expires) if isinstance(expires, str) else None
    except ValueError:
        return None
    return f"{channel}/{purpose}", Statement(status, at_ms, expires_ms)


def state(ledgers: list[Ledger], said: dict[str, Statement]) -> int:
    """Enter statements into every ledger, keeping the later one of each kind; returns how many found no room.

    A denial that finds no room is entered for everything: it must not be lost.
    """
    if not said:
        return 0
    if not ledgers:
        ledgers.append({})
    return sum(_enter(ledger, key, statement) for ledger in ledgers for key, statement in said.items())


def _enter(ledger: Ledger, key: str, statement: Statement) -> int:
    is_full = key not in ledger and len(ledger) >= MAX_STATEMENTS
    if is_full and statement.status == "granted":
        return 1
    key = _ALL if is_full else key
    kept = ledger.get(key)
    ledger[key] = statement if kept is None else _later(kept, statement)
    return int(is_full)


def _strictness(statement: Statement) -> tuple[bool, float]:
    """Orders statements from lenient to strict: any denial above any grant, an early end above a late one."""
    ends = float("inf") if statement.expires_ms is None else statement.expires_ms
    return statement.status != "granted", -ends


def _later(one: Statement, other: Statement) -> Statement:
    return max(one, other, key=lambda said: (said.at_ms, *_strictness(said), said.status))


def verdict(ledgers: list[Ledger], channel: str, purpose: str, now_ms: int) -> Verdict:
    """What the customer allows: True, False, or None when nothing was ever said about it."""
    keys = _keys(channel, purpose)
    allowed, deciding = None, None
    for ledger in ledgers:
        said = None
        for key in keys:
            each = ledger.get(key)
            if each is not None:
                said = each if said is None else _later(said, each)
        if said is None:
            continue
        if not said.allows(now_ms):
            return Verdict(False, said)
        allowed, deciding = True, said
    return Verdict(allowed, deciding)


@lru_cache(maxsize=1_024)
def _keys(channel: str, purpose: str) -> tuple[str, ...]:
    """The keys of statements that speak of a channel and purpose."""
    return f"{channel}/{purpose}", f"{channel}/{ANY}", f"{ANY}/{purpose}", f"{ANY}/{ANY}"


def merge_ledgers(ours: list[Ledger], theirs: list[Ledger]) -> list[Ledger]:
    """Ledgers of two profiles that are one person; those beyond the bound are united by their strictest statements."""
    merged = [ledger for ledger in ours if ledger]
    merged += [ledger for ledger in theirs if ledger and ledger not in merged]
    while len(merged) > MAX_LEDGERS:
        merged.append(_strictest(merged.pop(), merged.pop()))
    return merged


def _strictest(one: Ledger, other: Ledger) -> Ledger:
    """One ledger that allows nothing either of two denies.

    Denials count as said last, all grants end with the first one; what has no room is denied.
    """
    said = [*one.values(), *other.values()]
    latest_ms = max(each.at_ms for each in said)
    ends_ms = min((each.expires_ms for each in said if each.expires_ms is not None), default=None)
    united: Ledger = {}
    for key in [*one, *other]:
        kept = max((ledger[key] for ledger in (one, other) if key in ledger), key=_strictness)
        if kept.status == "granted":
            united[key] = Statement("granted", kept.at_ms, ends_ms)
        else:
            united[key] = Statement(kept.status, latest_ms)
    return united if len(united) <= MAX_STATEMENTS else {_ALL: Statement("denied", latest_ms)}
