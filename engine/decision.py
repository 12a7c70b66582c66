"""Decide: the decision that goes out, with its reasons."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from engine.arbitration import Scored
from engine.candidates import Rejection, Rejections, text_of
from engine.choice import Options
from engine.lazy import Lazy
from engine.record import Headers, Output
from engine.repertoire import Repertoire

TYPE = b"batuta.decision"


class Score(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The four factors and the priority they make."""

    propensity: float
    context_weight: float
    value: float
    lever: float
    priority: float


class Contender(msgspec.Struct, frozen=True, gc=False):
    """An action that lost, by how much, and the chance it had; None in decisions made before chances were told."""

    action: str
    priority: float
    probability: float | None = None


MAX_REJECTED = 1_000
"""Most rejections one explanation lists; the last entry then says how many more there were."""


class Listing(Lazy[Rejection]):
    """Rejections as a decision lists them, kept as the JSON they are published as."""

    __slots__ = ("_read", "json")

    def __init__(self, json: bytes) -> None:
        self.json = json
        self._read: Sequence[Rejection] | None = None

    def __len__(self) -> int:
        return len(self._rejections())

    def at(self, place: int) -> Rejection:
        """The rejection at a place."""
        return self._rejections()[place]

    def _rejections(self) -> Sequence[Rejection]:
        if self._read is None:
            self._read = _read_listing(self.json)
        return self._read


_read_listing = msgspec.json.Decoder(list[Rejection]).decode


class Explanation(msgspec.Struct, frozen=True, gc=False):
    """Why this and nothing else: how many actions were considered, what was left out where, what came next."""

    considered: int
    rejected: Sequence[Rejection]
    contenders: list[Contender]


class ArmRef(msgspec.Struct, frozen=True):
    """The experiment a decision belongs to, and its arm."""

    id: str
    arm: str


class JourneyRef(msgspec.Struct, frozen=True):
    """The journey and the step that asked for a decision."""

    id: str
    step: str


class Decision(msgspec.Struct, frozen=True, rename="camel", kw_only=True, gc=False):
    """Value of `batuta.decisions`. Without an action: nothing qualified, and `explanation` says why.

    `probability`: the chance that this treatment was chosen, given what the constraints left, under exploration
    and over the experiment's arms. `control`: held out, to be counted and not to be acted on.
    """

    decision_id: str
    customer_id: str
    signal_id: str
    request_id: str | None
    trigger: str
    journey: JourneyRef | None
    action: str | None
    treatment: str | None
    channel: str | None
    placement: str | None
    content: dict[str, str] | None
    rank: int
    score: Score | None
    probability: float
    control: bool
    experiment: ArmRef | None
    explanation: Explanation
    models: Mapping[str, str]
    config: str
    decided_at: str
    expires_at: str | None


def decision_id(cause: str, customer_id: str, trigger: str, placement: str | None, rank: int) -> str:
    """128 bits in hexadecimal, a pure function of the cause, so that a replay never mints a second id."""
    named = msgspec.json.encode((cause, customer_id, trigger, placement, rank))
    return hashlib.blake2b(named, digest_size=16).hexdigest()


# --- What goes out ---


def outputs_of(decision: Decision, repertoire: Repertoire, traceparent: str | None) -> list[Output]:
    """The records of a decision: `decisions`, and the channel's own topic when it has one and is to act."""
    value = _encode(decision)
    headers: Headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", decision.decision_id.encode()),
        ("ce_type", TYPE),
        ("ce_source", repertoire.source.encode()),
        ("ce_time", decision.decided_at.encode()),
        ("content-type", b"application/json"),
    )
    if traceparent is not None:
        headers = (*headers, ("traceparent", traceparent.encode()))
    key = decision.customer_id.encode()
    outputs = [Output("decisions", key, value, headers)]
    if decision.channel is not None and not decision.control and repertoire.channels[decision.channel].topic:
        outputs.append(Output(f"decisions.{decision.channel}", key, value, headers))
    return outputs


def _raw(value: object) -> msgspec.Raw:
    """A listing is JSON already."""
    if isinstance(value, Listing):
        return msgspec.Raw(value.json)
    raise NotImplementedError(f"{type(value).__name__} is no part of a decision")


_encode = msgspec.json.Encoder(enc_hook=_raw).encode


def listed(rejections: Rejections) -> Listing:
    """The rejections an explanation lists: all, unless a message could not hold them."""
    texts = rejections.texts
    if len(texts) > MAX_REJECTED:
        first, more = rejections[MAX_REJECTED - 1], len(texts) - MAX_REJECTED + 1
        texts = [*texts[: MAX_REJECTED - 1], text_of("*", first.stage, f"and {more} more, from here on")]
    return Listing(b"[%b]" % b",".join(texts))


def contenders_of(options: Options, chosen: Scored | None, most: int) -> list[Contender]:
    """The best of what was not chosen."""
    scored, found = options.scored, list[Contender]()
    if isinstance(scored, tuple):
        return found
    candidates, priorities = scored.candidates, scored.factors.priority
    index = None if chosen is None else chosen.candidate.index
    for place, at in enumerate(scored.order[: most + 1].tolist()):
        candidate = candidates.at(at)
        if candidate.index != index:
            found.append(Contender(candidate.action.id, priorities.item(at), options.overall[place]))
    return found[:most]


def score_of(scored: Scored) -> Score:
    """The factors as they are published."""
    return Score(scored.propensity, scored.context_weight, scored.value, scored.lever, scored.priority)
