"""Candidates: which actions, in which treatments, a trigger or a slot of a request may choose from."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.context import Request
from engine.repertoire import Candidate, Placement, Repertoire, Trigger

STAGES = (
    "eligibility",
    "applicability",
    "suitability",
    "consent",
    "contact-policy",
    "quiet-hours",
    "budget",
    "approval",
    "experiment",
)
"""Every stage that can leave a candidate out."""


class Rejection(msgspec.Struct, frozen=True):
    """Why a candidate was left out, recorded by the stage that decided it."""

    action: str
    stage: str
    reason: str


def for_trigger(repertoire: Repertoire, trigger: Trigger) -> tuple[Candidate, ...]:
    """What a trigger may choose from: all in its scope, but nothing for a slot or an inbound channel."""
    key = f"trigger/{trigger.id}"
    pool = repertoire.pools.get(key)
    if pool is None:
        pool = tuple(
            each
            for each in repertoire.candidates
            if not each.treatment.placements
            and not repertoire.channels[each.treatment.channel].inbound
            and trigger.scope.covers(
                each.action.issue, each.action.group, each.action.id, each.action.tags, each.treatment.channel
            )
        )
        repertoire.pools[key] = pool
    return pool


def for_request(
    repertoire: Repertoire, request: Request, placement: str | None
) -> tuple[tuple[Candidate, ...], int, str | None]:
    """What one slot of a request may choose from, how many at most, and its fallback.

    Without a slot: everything on the channel asked for, or everything. A slot or channel nobody configured has nothing.
    """
    if placement is not None:
        slot = repertoire.placements.get(placement)
        return ((), 1, None) if slot is None else (_for_placement(repertoire, slot), slot.limit, slot.fallback)
    return _for_channel(repertoire, request.channel), 1, None


def _for_placement(repertoire: Repertoire, placement: Placement) -> tuple[Candidate, ...]:
    """Treatments on the slot's channel that are made for it or for any slot."""
    key = f"placement/{placement.id}"
    pool = repertoire.pools.get(key)
    if pool is None:
        pool = tuple(
            each
            for each in repertoire.candidates
            if each.treatment.channel == placement.channel
            and (not each.treatment.placements or placement.id in each.treatment.placements)
        )
        repertoire.pools[key] = pool
    return pool


def _for_channel(repertoire: Repertoire, channel: str | None) -> tuple[Candidate, ...]:
    if channel is not None and channel not in repertoire.channels:
        return ()
    key = f"channel/{channel or '*'}"
    pool = repertoire.pools.get(key)
    if pool is None:
        pool = tuple(each for each in repertoire.candidates if channel in (None, each.treatment.channel))
        repertoire.pools[key] = pool
    return pool


def action_count(candidates: Iterable[Candidate]) -> int:
    """How many different actions the candidates are treatments of."""
    return len({each.action.id for each in candidates})
