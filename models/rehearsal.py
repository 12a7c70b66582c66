"""Learning in the same process: what `batuta replay`, evaluations and the demo do instead of learner agents."""

from __future__ import annotations

from collections.abc import Iterable

from engine.learning import TOPIC, decode_example
from engine.record import Output
from engine.repertoire import Repertoire
from models.model import Model
from models.scorer import ModelScorer

INTERVAL_MS = 250
"""Stream time between two versions of a model, as on Kafka."""


class Rehearsal:
    """Learns from what an engine publishes and has its scorer follow; repeatable, since stream time is the clock."""

    def __init__(
        self, repertoire: Repertoire, scorer: ModelScorer, seed: int = 0, interval_ms: int = INTERVAL_MS
    ) -> None:
        self._scorer, self._interval_ms = scorer, interval_ms
        self._published: dict[str, int] = {}
        self.models = {
            rule.id: Model(rule, repertoire.features, repertoire.action_features, seed) for rule in repertoire.models
        }

    def take(self, outputs: Iterable[Output]) -> None:
        """Learn from the examples among what was published, and score with what was learned from then on."""
        for output in outputs:
            if output.topic == TOPIC:
                example = decode_example(output.value)
                model = self.models[example.model]
                model.learn(example)
                self._publish(model, example.model, example.at_ms)

    def _publish(self, model: Model, name: str, now_ms: int) -> None:
        if model.changed and now_ms - self._published.get(name, now_ms - self._interval_ms) >= self._interval_ms:
            self._published[name] = now_ms
            self._scorer.install(model.snapshot(now_ms))
