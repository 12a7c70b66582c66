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
    """What a trigger may choose from: all that is sent, within its scope."""
    key = f"trigger/{trigger.id}"
    pool = repertoire.pools.get(key)
    if pool is None:
        pool = tuple(
            each for each in repertoire.candidates if is_sent(each, repertoire) and trigger.scope.covers(*named(each))
        )
        repertoire.pools[key] = pool
    return pool


def for_request(
    repertoire: Repertoire, request: Request, placement: str | None
) -> tuple[tuple[Candidate, ...], int, str | None]:
    """What one slot of a request may choose from, how many at most, and its fallback.

    Without a slot: everything on the channel asked for, or everything. A slot or channel nobody configured has nothing.
    """
    asked = request.limit
    if placement is None:
        return _for_channel(repertoire, request.channel), 1 if asked is None else asked, None
    slot = repertoire.placements.get(placement)
    if slot is None:
        return (), 1, None
    return _for_placement(repertoire, slot), slot.limit if asked is None else min(asked, slot.limit), slot.fallback


def for_fallback(repertoire: Repertoire, action: str, placement: str | None) -> list[Candidate]:
    """The treatments in which a named action fits a slot, or can be sent when there is none."""
    slot = None if placement is None else repertoire.placements.get(placement)
    pool = repertoire.candidates if slot is None else _for_placement(repertoire, slot)
    return [each for each in pool if each.action.id == action and (slot is not None or is_sent(each, repertoire))]


def is_sent(candidate: Candidate, repertoire: Repertoire) -> bool:
    """Whether a treatment goes to the customer, instead of being shown where the customer comes."""
    treatment = candidate.treatment
    return not treatment.placements and not repertoire.channels[treatment.channel].inbound


def named(candidate: Candidate) -> tuple[str, str, str, frozenset[str], str]:
    """What scopes know a candidate by: issue, group, action, tags, channel."""
    action = candidate.action
    return action.issue, action.group, action.id, action.tags, candidate.treatment.channel


def tags_of(action: str, repertoire: Repertoire) -> frozenset[str]:
    """The tags an action has; none when the configuration no longer knows it."""
    known = repertoire.actions.get(action)
    return frozenset() if known is None else known.tags


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
