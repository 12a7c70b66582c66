"""Decide: the final choice among what is left, its probability, and the decision that goes out with its reasons."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import islice

import msgspec

from engine.arbitration import Scored
from engine.candidates import Rejection
from engine.record import Headers, Output
from engine.repertoire import Repertoire

TYPE = "batuta.decision"


class Score(msgspec.Struct, frozen=True, rename="camel"):
    """The four factors and the priority they make."""

    propensity: float
    context_weight: float
    value: float
    lever: float
    priority: float


class Contender(msgspec.Struct, frozen=True):
    """An action that lost, and by how much."""

    action: str
    priority: float


MAX_REJECTED = 1_000
"""Most rejections one explanation lists; the last entry then says how many more there were."""


class Explanation(msgspec.Struct, frozen=True):
    """Why this and nothing else: how many actions were considered, what was left out where, what came next."""

    considered: int
    rejected: list[Rejection]
    contenders: list[Contender]


class ArmRef(msgspec.Struct, frozen=True):
    """The experiment a decision belongs to, and its arm."""

    id: str
    arm: str


class JourneyRef(msgspec.Struct, frozen=True):
    """The journey and the step that asked for a decision."""

    id: str
    step: str


class Decision(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
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


def draw(decision: str, seed: int) -> float:
    """The random number of a decision, in [0, 1), a pure function of its id and the seed."""
    digest = hashlib.blake2b(f"{seed}\0{decision}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


# --- The final choice ---


def best_treatments(ranked: Sequence[Scored]) -> list[Scored]:
    """Of each action its best treatment, in the order of the ranking: the best channel for this person."""
    seen: set[str] = set()
    best = []
    for scored in ranked:
        if scored.candidate.action.id not in seen:
            seen.add(scored.candidate.action.id)
            best.append(scored)
    return best


def probabilities(contenders: Sequence[Scored], epsilon: float) -> list[float]:
    """The chance of each contender, best first, under epsilon-greedy; a mandatory action is never left to chance."""
    if not contenders:
        return []
    each = 0.0 if is_mandatory(contenders[0]) else epsilon / len(contenders)
    others = len(contenders) - 1
    return [1.0 - each * others] + [each] * others


def is_mandatory(scored: Scored) -> bool:
    """Whether an action skips arbitration."""
    return scored.candidate.action.action_class == "mandatory"


def pick(chances: Sequence[float], position: float) -> int:
    """The index whose share of [0, 1) holds a position; where rounding leaves a rest, it is the last one's."""
    last = 0
    for index, chance in enumerate(chances):
        if chance > 0:
            last, position = index, position - chance
            if position < 0:
                break
    return last


# --- What goes out ---


def outputs_of(decision: Decision, repertoire: Repertoire, traceparent: str | None) -> list[Output]:
    """The records of a decision: `decisions`, and the channel's own topic when it has one and is to act."""
    value = msgspec.json.encode(decision)
    headers: Headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", decision.decision_id.encode()),
        ("ce_type", TYPE.encode()),
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


def listed(rejections: Sequence[Rejection]) -> list[Rejection]:
    """The rejections an explanation lists: all, unless a message could not hold them."""
    if len(rejections) <= MAX_REJECTED:
        return list(rejections)
    more = rejections[MAX_REJECTED - 1 :]
    return [*rejections[: MAX_REJECTED - 1], Rejection("*", more[0].stage, f"and {len(more)} more, from here on")]


def contenders_of(ranked: Sequence[Scored], chosen: Scored | None, most: int) -> list[Contender]:
    """The best of what was not chosen."""
    others = (each for each in ranked if each is not chosen)
    return [Contender(each.candidate.action.id, each.priority) for each in islice(others, most)]


def score_of(scored: Scored) -> Score:
    """The factors as they are published."""
    return Score(scored.propensity, scored.context_weight, scored.value, scored.lever, scored.priority)
