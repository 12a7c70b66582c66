"""Choose: the final choice among what is left, and the chance that everything else had."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from engine.arbitration import Scored
from engine.exploration import mixed
from engine.repertoire import Exploration


class Options(msgspec.Struct, frozen=True):
    """What may be chosen, the best first. `own`: each one's chance for this customer, adding up to 1.

    `overall`: the same over customers in model control and others, which is what a decision logs.
    """

    scored: Sequence[Scored]
    own: Sequence[float]
    overall: Sequence[float]

    def chance_of(self, treatment: str) -> float:
        """The overall chance of a treatment; 0 when it is not among the options."""
        return sum(
            chance
            for each, chance in zip(self.scored, self.overall, strict=True)
            if each.candidate.treatment.id == treatment
        )


NOTHING = Options((), (), ())


def best_treatments(ranked: Sequence[Scored]) -> list[Scored]:
    """Of each action its best treatment, in the order of the ranking: the best channel for this person."""
    seen: set[str] = set()
    best = []
    for scored in ranked:
        if scored.candidate.action.id not in seen:
            seen.add(scored.candidate.action.id)
            best.append(scored)
    return best


def is_mandatory(scored: Scored) -> bool:
    """Whether an action skips arbitration."""
    return scored.candidate.action.action_class == "mandatory"


def certain(contenders: Sequence[Scored]) -> Options:
    """The first of the contenders for certain."""
    chances = [1.0] + [0.0] * (len(contenders) - 1)
    return Options(contenders, chances, chances)


def greedy(contenders: Sequence[Scored], exploration: Exploration) -> Options:
    """The first of the contenders, but for what is left to pure chance among them."""
    chances = mixed(certain(contenders).own, exploration.epsilon, exploration.floor)
    return Options(contenders, chances, chances)


def explored(
    contenders: Sequence[Scored],
    among: Sequence[Scored],
    known: Sequence[float],
    random: Sequence[float],
    exploration: Exploration,
    *,
    control: bool,
) -> Options:
    """The contenders and whatever else of `among` has a chance.

    `known`: chances of `among` by what models know; `random`: by random propensities, which decide for customers
    in model control (`control`: this one is). Pure chance has its part in both.
    """
    share = exploration.control
    drawn = {
        id(each): (by_model, by_chance if share > 0 else 0.0)
        for each, by_model, by_chance in zip(among, known, random, strict=True)
    }
    named = {id(each) for each in contenders}
    scored = [*contenders, *(each for each in among if id(each) not in named and any(drawn[id(each)]))]
    by_model, by_chance = (
        mixed([drawn[id(each)][part] for each in scored], exploration.epsilon, exploration.floor) for part in (0, 1)
    )
    if share == 0:
        return Options(scored, by_model, by_model)
    overall = [(1.0 - share) * one + share * other for one, other in zip(by_model, by_chance, strict=True)]
    return Options(scored, by_chance if control else by_model, overall)


def draw(decision: str, seed: int) -> float:
    """The random number of a decision, in [0, 1), a pure function of its id and the seed."""
    digest = hashlib.blake2b(f"{seed}\0{decision}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


def pick(chances: Sequence[float], position: float) -> int:
    """The index whose share of [0, 1) holds a position; where rounding leaves a rest, it is the last one's."""
    last = 0
    for index, chance in enumerate(chances):
        if chance > 0:
            last, position = index, position - chance
            if position < 0:
                break
    return last
