"""Fixed priors: the propensity an operator states, bent by how this person answered on that channel so far."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from engine import history
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
        self._channels = repertoire.channels
        self.models = {MODEL: repertoire.version}

    def score(self, candidates: Sequence[Candidate], context: Context, profile: Profile, draw: int = 0) -> Scores:  # noqa: ARG002 - priors know no context, no chance
        """Propensity of each candidate, in [0, 1]."""
        affinity = {channel: self._affinity(channel, profile) for channel in {c.treatment.channel for c in candidates}}
        propensities = [min(1.0, each.treatment.propensity * affinity[each.treatment.channel]) for each in candidates]
        return Scores(propensities, self.models)

    def _affinity(self, channel: str, profile: Profile) -> float:
        """The person's smoothed rate over the channel's; 1 for somebody nothing is known about."""
        usual = self._channels[channel].answers
        over = [
            each.taken
            for each in profile.contacts
            if each.channel == channel and (each.taken or not history.is_open(each, profile.now_ms))
        ]
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
