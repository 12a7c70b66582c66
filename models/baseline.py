"""Fixed priors: the propensity an operator states, bent by how this person answered on that channel so far."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from engine import history
from engine.candidates import indices_of
from engine.context import Context
from engine.profile import Profile
from engine.repertoire import Candidate, Repertoire
from engine.scoring import Scores

MODEL = "prior"
STARTING_EVIDENCE = 10.0
"""How many contacts on a channel weigh as much as the channel's own prior."""


class PriorScorer:
    """Scores by configured priors times the person's own rate of answering on the channel over the usual one.

    The person's rate is smoothed toward the channel's (Pega Academy, "Smooth propensity", with weights that
    add up): `(SE·SP + E·p) / (SE + E)`, with E contacts on the channel, taken or over, of which a share p was taken.
    """

    def __init__(self, repertoire: Repertoire) -> None:
        self.models = {MODEL: repertoire.version}
        treatments = [each.treatment for each in repertoire.candidates]
        self._stated = np.array([each.propensity for each in treatments])
        self._channels = [repertoire.channels[each] for each in dict.fromkeys(each.channel for each in treatments)]
        places = {each.id: place for place, each in enumerate(self._channels)}
        self._channel_of = np.array([places[each.channel] for each in treatments], dtype=np.intp)

    def score(self, candidates: Sequence[Candidate], context: Context, profile: Profile, draw: int = 0) -> Scores:  # noqa: ARG002 - priors know no context, no chance
        """Propensity of each candidate, in [0, 1]."""
        indices = indices_of(candidates)
        affinity = np.array(self._affinities(profile))
        return Scores(np.minimum(1.0, self._stated[indices] * affinity[self._channel_of[indices]]), self.models)

    def _affinities(self, profile: Profile) -> list[float]:
        """Of each channel the person's smoothed rate over the channel's; 1 for somebody nothing is known about."""
        over: dict[str, list[bool]] = {}
        for each in profile.contacts:
            if each.taken or not history.is_open(each, profile.now_ms):
                over.setdefault(each.channel, []).append(each.taken)
        return [_affinity(over.get(channel.id, ()), channel.answers) for channel in self._channels]


def _affinity(over: Sequence[bool], usual: float) -> float:
    if not over or usual == 0:
        return 1.0
    return (STARTING_EVIDENCE * usual + sum(over)) / (STARTING_EVIDENCE + len(over)) / usual


# --- Chance, to compare with ---

RANDOM_MODEL = "random"


class RandomScorer:
    """Scores every candidate by chance: what an engine that knows nothing would do under the same rules.

    A propensity is uniform over [0, 1) and a pure function of the seed, the customer, the moment and the treatment,
    so neither the order of the candidates nor which others there are changes it.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._models = {RANDOM_MODEL: str(seed)}

    def score(self, candidates: Sequence[Candidate], context: Context, profile: Profile, draw: int = 0) -> Scores:  # noqa: ARG002 - one customer and moment have one chance
        """Propensity of each candidate, in [0, 1)."""
        moment = f"{self._seed}\0{profile.customer_id}\0{context['now_ms']}\0"
        return Scores([_uniform(f"{moment}{each.action.id}\0{each.treatment.id}") for each in candidates], self._models)


def _uniform(name: str) -> float:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53
