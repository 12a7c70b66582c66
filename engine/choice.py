"""Choose: the final choice among what is left, and the chance that everything else had."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
import numpy as np

from engine.arbitration import Ranked
from engine.candidates import Pool
from engine.exploration import mixed
from engine.repertoire import Candidate, Exploration


class Options(msgspec.Struct, frozen=True, gc=False):
    """What may be chosen, the best first. `own`: each one's chance for this customer, adding up to 1.

    `overall`: the same over customers in model control and others, which is what a decision logs.
    """

    scored: Ranked | tuple[()]
    own: Sequence[float]
    overall: Sequence[float]

    def chance_of(self, treatment: str) -> float:
        """The overall chance of a treatment; 0 when it is not among the options."""
        if isinstance(self.scored, tuple):
            return 0
        rows = self.scored.rows
        known = self.scored.candidates.pool.part(_rows_of_treatments).get(treatment, ())
        found: list[float] = [self.overall[at] for row in known for at in (rows == row).nonzero()[0].tolist()]
        return sum(found)


NOTHING = Options((), (), ())


def _rows_of_treatments(pool: Pool) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, each in enumerate(pool):
        rows.setdefault(each.treatment.id, []).append(row)
    return rows


def best_treatments(ranked: Ranked) -> Ranked:
    """Of each action its best treatment, in the order of the ranking: the best channel for this person."""
    pool = ranked.candidates.pool
    if pool.action_count == len(pool):
        return ranked
    actions, places = pool.actions[ranked.rows], np.arange(len(ranked))
    first = np.zeros(pool.action_count, dtype=np.intp)
    first[actions[::-1]] = places[::-1]  # of several for one action the last assignment stays
    return ranked.take(first[actions] == places)


def is_mandatory(candidate: Candidate) -> bool:
    """Whether an action skips arbitration."""
    return candidate.action.action_class == "mandatory"


def certain(contenders: Ranked) -> Options:
    """The first of the contenders for certain."""
    chances = _first_of(len(contenders))
    return Options(contenders, chances, chances)


def _first_of(count: int) -> list[float]:
    return [1.0] + [0.0] * (count - 1)


def greedy(contenders: Ranked, exploration: Exploration) -> Options:
    """The first of the contenders, but for what is left to pure chance among them."""
    chances = mixed(_first_of(len(contenders)), exploration.epsilon, exploration.floor)
    return Options(contenders, chances, chances)


def explored(
    contenders: Ranked,
    among: Ranked,
    known: Sequence[float],
    random: Sequence[float],
    exploration: Exploration,
    *,
    control: bool,
) -> Options:
    """The contenders and whatever else of `among`, the ranking they are from, has a chance.

    `known`: chances of `among` by what models know; `random`: by random propensities, which decide for customers
    in model control (`control`: this one is). Pure chance has its part in both.
    """
    share = exploration.control
    drawn = np.array([known, random if share > 0 else np.zeros(len(known))])
    # By place in what was ranked: those of `among`, of the contenders, and of what else has a chance.
    place_of = np.empty(len(among.candidates), dtype=np.intp)
    place_of[among.order] = np.arange(len(among))
    heads = place_of[contenders.order]
    others = (drawn > 0).max(axis=0)
    others[heads] = False
    places = np.concatenate((heads, others.nonzero()[0]))
    by_model, by_chance = (mixed(each, exploration.epsilon, exploration.floor) for each in drawn[:, places].tolist())
    scored = among.take(places)
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
