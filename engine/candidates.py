"""Candidates: what a trigger or a slot of a request may choose from, and what was left out of it.

A pool is compiled once: each stage of the funnel keeps there, as arrays, what it knows of the candidates whoever the
customer is. From there on candidates are rows of their pool, and a stage looks at all of them at once (ADR 12).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from engine.context import Request
from engine.lazy import Lazy
from engine.repertoire import Candidate, Placement, Repertoire, Trigger

_Part = TypeVar("_Part")
Rows = npt.NDArray[np.intp]

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


# --- Those that may be chosen ---


class Pool(Lazy[Candidate]):
    """All that a trigger or a slot may choose from, by row, in the order of their ids.

    `indices`: their places in `Repertoire.candidates`. `actions`: a number per row, the same for treatments of one
    action; `action_count`: of different ones. `every`: all of them, selected.
    """

    __slots__ = ("_parts", "action_count", "actions", "candidates", "every", "indices", "repertoire")

    def __init__(self, candidates: Iterable[Candidate], repertoire: Repertoire) -> None:
        self.candidates, self.repertoire = tuple(sorted(candidates, key=lambda each: each.index)), repertoire
        numbers: dict[str, int] = {}
        actions = [numbers.setdefault(each.action.id, len(numbers)) for each in self.candidates]
        self.actions, self.action_count = np.array(actions, dtype=np.intp), len(numbers)
        self.indices = np.array([each.index for each in self.candidates], dtype=np.intp)
        self.every = Selection(self, np.arange(len(actions)))
        self._parts: dict[Callable[[Pool], Any], Any] = {}

    def __len__(self) -> int:
        return len(self.candidates)

    def at(self, place: int) -> Candidate:
        """The candidate of a row."""
        return self.candidates[place]

    def part(self, compiled: Callable[[Pool], _Part]) -> _Part:
        """What a stage compiles of this pool, made when first asked for."""
        found: _Part | None = self._parts.get(compiled)
        if found is None:
            found = self._parts[compiled] = compiled(self)
        return found


class Selection(Lazy[Candidate]):
    """Some candidates of a pool, by their `rows`."""

    __slots__ = ("pool", "rows")

    def __init__(self, pool: Pool, rows: Rows) -> None:
        self.pool, self.rows = pool, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Candidate]:
        return map(self.pool.candidates.__getitem__, self.rows.tolist())

    def at(self, place: int) -> Candidate:
        """The candidate at a place."""
        return self.pool.candidates[self.rows.item(place)]

    def keep(self, places: npt.NDArray[np.bool_] | Rows | slice) -> Selection:
        """Those at some places, or where a mask is true."""
        return Selection(self.pool, self.rows[places])

    def where(self, holds: Callable[[Candidate], bool]) -> Selection:
        """Those of which something is true."""
        return self.keep(np.array([holds(each) for each in self], dtype=np.bool_))


def select(candidates: Iterable[Candidate], repertoire: Repertoire) -> Selection:
    """Candidates as a selection, of a pool of their own if they are none."""
    if isinstance(candidates, Pool):
        return candidates.every
    if candidates is repertoire.candidates:
        return _for_channel(repertoire, None).every
    return candidates if isinstance(candidates, Selection) else Pool(candidates, repertoire).every


def indices_of(candidates: Sequence[Candidate]) -> Rows:
    """Places of candidates in `Repertoire.candidates`."""
    if isinstance(candidates, Selection):
        return candidates.pool.indices.take(candidates.rows)
    return np.fromiter([each.index for each in candidates], dtype=np.intp, count=len(candidates))


def for_trigger(repertoire: Repertoire, trigger: Trigger) -> Pool:
    """What a trigger may choose from: all that is sent, within its scope."""
    return _pool(
        repertoire,
        f"trigger/{trigger.id}",
        lambda each: is_sent(each, repertoire) and trigger.scope.covers(*named(each)),
    )


def for_request(repertoire: Repertoire, request: Request, placement: str | None) -> tuple[Pool, int, str | None]:
    """What one slot of a request may choose from, how many at most, and its fallback.

    Without a slot: everything on the channel asked for, or everything. A slot or channel nobody configured has nothing.
    """
    asked = request.limit
    if placement is None:
        return _for_channel(repertoire, request.channel), 1 if asked is None else asked, None
    slot = repertoire.placements.get(placement)
    if slot is None:
        return _none(repertoire), 1, None
    return _for_placement(repertoire, slot), slot.limit if asked is None else min(asked, slot.limit), slot.fallback


def pools_of(repertoire: Repertoire) -> Iterator[Pool]:
    """What every trigger and every slot may choose from."""
    yield from (for_trigger(repertoire, each) for each in repertoire.triggers)
    yield from (_for_placement(repertoire, each) for each in repertoire.placements.values())


def for_fallback(repertoire: Repertoire, action: str, placement: str | None) -> Pool:
    """The treatments in which a named action fits a slot, or can be sent when there is none."""
    slot = None if placement is None else repertoire.placements.get(placement)
    return _pool(
        repertoire,
        f"fallback/{action}/{'' if slot is None else slot.id}",
        lambda each: each.action.id == action and (is_sent(each, repertoire) if slot is None else _fits(each, slot)),
    )


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


def _pool(repertoire: Repertoire, name: str, belongs: Callable[[Candidate], bool]) -> Pool:
    """The pool of a name, compiled when first asked for."""
    pool: Pool | None = repertoire.pools.get(name)
    if pool is None:
        pool = repertoire.pools[name] = Pool(filter(belongs, repertoire.candidates), repertoire)
    return pool


def _for_placement(repertoire: Repertoire, placement: Placement) -> Pool:
    """Treatments on the slot's channel that are made for it or for any slot."""
    return _pool(repertoire, f"placement/{placement.id}", lambda each: _fits(each, placement))


def _fits(candidate: Candidate, placement: Placement) -> bool:
    treatment = candidate.treatment
    return treatment.channel == placement.channel and (not treatment.placements or placement.id in treatment.placements)


def _for_channel(repertoire: Repertoire, channel: str | None) -> Pool:
    if channel is not None and channel not in repertoire.channels:
        return _none(repertoire)
    return _pool(
        repertoire, f"channel/{channel or '*'}", lambda each: channel is None or each.treatment.channel == channel
    )


def _none(repertoire: Repertoire) -> Pool:
    return _pool(repertoire, "none", lambda _: False)


# --- Those left out ---


class Rejection(msgspec.Struct, frozen=True):
    """Why a candidate was left out, recorded by the stage that decided it."""

    action: str
    stage: str
    reason: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Rejection).decode


class Rejections(Lazy[Rejection]):
    """Who was left out, in order. Each is kept as the JSON that decisions publish, for many are the same every time."""

    __slots__ = ("_counts", "_texts")

    def __init__(self) -> None:
        self._texts: list[bytes] = []
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def at(self, place: int) -> Rejection:
        """The rejection at a place."""
        return _decode(self._texts[place])

    @property
    def texts(self) -> Sequence[bytes]:
        """Each one's JSON."""
        return self._texts

    def counts(self) -> Mapping[str, int]:
        """How many candidates each stage left out."""
        return self._counts

    def add(self, action: str, stage: str, reason: str) -> None:
        """Note that one was left out."""
        self.add_texts([text_of(action, stage, reason)], {stage: 1})

    def add_texts(self, texts: Iterable[bytes], counts: Mapping[str, int]) -> None:
        """Note several, and how many are of a stage."""
        self._texts += texts
        known = self._counts
        for stage, count in counts.items():
            if count:
                known[stage] = known.get(stage, 0) + count

    def add_missing(self, others: Rejections) -> None:
        """Note those of others that are not noted yet."""
        known = set(self._texts)
        for text in others.texts:
            if text not in known:
                rejection = _decode(text)
                self.add(rejection.action, rejection.stage, rejection.reason)


def text_of(action: str, stage: str, reason: str) -> bytes:
    """The JSON of a rejection."""
    return _encode(Rejection(action, stage, reason))


def text_prefix(action: str, stage: str, reason: str) -> bytes:
    """The JSON of a rejection whose reason begins like this, up to there; a `text_suffix` completes it."""
    return text_of(action, stage, reason)[:-2]


def text_suffix(reason: str) -> bytes:
    """How the JSON of a rejection goes on whose reason ends like this."""
    return _encode(reason)[1:] + b"}"
