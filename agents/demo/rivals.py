"""Rivals: other policies under the same rules, each in a copy of the same world, to measure the engine against."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter

import msgspec

from agents.demo.simulation import World
from engine.context import Context
from engine.decision import Decision
from engine.profile import Profile
from engine.record import Output
from engine.repertoire import Arbitration, Candidate, Repertoire
from engine.replay import Replay
from engine.scoring import Scorer, Scores
from models.baseline import RandomScorer

MOST_EUROS = 1_000.0
"""Expected rewards beyond these, gains or losses, are all the same to the oracle."""
STEP_MS = 60_000

_decode = msgspec.json.Decoder(Decision).decode


class OracleScorer:
    """Scores by the expected reward itself, as only the world it plays in knows it: the most a policy can choose by.

    What it says are no propensities but, on their scale, rewards: 0.5 for none, and more or less in proportion.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def score(self, candidates: Sequence[Candidate], context: Context, profile: Profile, draw: int = 0) -> Scores:  # noqa: ARG002 - who knows the truth needs neither
        """Each candidate's expected reward, in [0, 1]. KeyError for a customer who is not of this world."""
        expected = (
            self._world.expected_reward(profile.known_as, each.action.id, each.treatment.channel) for each in candidates
        )
        return Scores([min(max(0.5 + each / (2 * MOST_EUROS), 0.0), 1.0) for each in expected], {"oracle": "1"})


class Rival:
    """The customers in another copy of their world, met by an engine that goes by its scorer alone, within the rules.

    `scorer`: makes it, given the world.
    """

    def __init__(
        self, repertoire: Repertoire, size: int, seed: int, start_ms: int, scorer: Callable[[World], Scorer]
    ) -> None:
        alone = Arbitration(context=False, value=False, lever=False)
        repertoire = msgspec.structs.replace(repertoire, arbitration=alone)
        self.world = World(repertoire, size, seed, start_ms)
        self._engine = Replay(repertoire, scorer(self.world))
        self._waiting = deque(self.world.load())

    def catch_up(self, now_ms: int, seconds: float) -> bool:
        """Live on until `now_ms` of the shop, but work no longer than so many seconds; whether it got there."""
        deadline = perf_counter() + seconds
        while perf_counter() < deadline:
            if self._waiting:
                message = self._waiting.popleft()
                at_ms = self.world.now_ms
                self._hear(self._engine.publish(message.topic, message.key, message.value, at_ms))
            elif self.world.now_ms < now_ms:
                step_ms = min(now_ms, self.world.now_ms + STEP_MS)
                self._hear(self._engine.advance(step_ms))
                self._waiting.extend(self.world.advance(step_ms))
            else:
                return True
        return False

    def _hear(self, outputs: list[Output]) -> None:
        for output in outputs:
            if output.topic == "decisions":
                self.world.receive(_decode(output.value), self.world.now_ms)


def rivals(repertoire: Repertoire, size: int, seed: int, start_ms: int) -> dict[str, Rival]:
    """`random`: ranks by chance, and so knows nothing; `oracle`: by the truth, and so leaves nothing to learn."""
    return {
        "random": Rival(repertoire, size, seed, start_ms, lambda _: RandomScorer(seed)),
        "oracle": Rival(repertoire, size, seed, start_ms, OracleScorer),
    }
