"""Models to be taught in tests: their repertoire, their examples, and processes that learn them or serve them.

Run as a script: `learn` is a learner, `serve` a worker that counts signals, notes the models it is given in its log
and has a learner beside it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from agents.model_topic import Standing, TrainingState
from engine.expression import compile_expression
from engine.features import Feature, FeatureSchema
from engine.learning import Example, outputs_of
from engine.repertoire import LearnerRule, ModelRule, Repertoire
from models.model import Model
from models.snapshot import Snapshot, unseal
from tests.repertoires import START_MS, Builder

KIND, PICKLED_KIND = "bayesian-linear", "adaptive-tree"
MODELS = ("offers", "content", "service")
WINDOW_MS = 60_000
FEATURES = FeatureSchema(
    version="f1",
    features=(
        Feature(name="age", value=compile_expression("profile.age")),
        Feature(name="tier", kind="categorical", buckets=4, value=compile_expression("profile.tier")),
    ),
)


def a_rule(model: str, **changes: Any) -> ModelRule:
    """A model of one linear learner."""
    rule = ModelRule(id=model, learners={"linear": LearnerRule(kind=KIND)}, champion="linear")
    return msgspec.structs.replace(rule, **changes)


def a_repertoire(*models: ModelRule, **changes: Any) -> Repertoire:
    """A shop with these models; three of them unless told otherwise."""
    rules = models or tuple(map(a_rule, MODELS))
    return Builder().action("a").build(features=FEATURES, models=rules, **changes)


def an_example(number: int, model: str = "offers", **changes: Any) -> Example:
    """What is told of decision `number` // 3, in three examples: it was shown, answered, and its window closed."""
    decision, stage = number // 3, ("exposed", "answered", "closed")[number % 3]
    reward = float(stage != "exposed" and decision % 3 == 0)
    settings: dict[str, Any] = {
        "example_id": f"d{decision}:{stage}",
        "model": model,
        "stage": stage,
        "label": None if stage == "exposed" else "positive" if reward else "negative",
        "reward": reward,
        "previous": reward if stage == "closed" else None,
        "late": False,
        "decision_id": f"d{decision}",
        "customer_id": f"c{decision % 50}",
        "group": "offers",
        "action": "a",
        "treatment": "a-email",
        "channel": "email",
        "prior": 0.3,
        "propensity": 0.3,
        "version": None,
        "probability": 0.5,
        "schema": FEATURES.version,
        "features": (decision % 5 / 5, "gold" if decision % 2 else None),
        "action_schema": "none",
        "action_features": (),
        "decided_ms": START_MS + decision * 1000,
        "at_ms": START_MS + decision * 1000 + number % 3 * (WINDOW_MS // 2),
        "window_ms": WINDOW_MS,
    }
    return Example(**{**settings, **changes})


def record_of(example: Example) -> tuple[bytes, bytes]:
    """Key and value of an example on `batuta.learning`."""
    (output,) = outputs_of([example])
    assert output.key is not None
    return output.key, output.value


def taught(examples: Iterable[Example], model: str = "offers") -> Model:
    """A model that was taught these examples and never disturbed."""
    pupil = Model(a_rule(model), FEATURES, FeatureSchema())
    for example in examples:
        pupil.learn(example)
    return pupil


def knowledge(model: Model) -> dict[str, Any]:
    """All that a model knows, but for how many learners it ever made: loading makes some to begin with."""
    state: dict[str, Any] = msgspec.msgpack.decode(model.dump(), strict=False)
    del state["numbers"]
    return state


def state_in(value: bytes) -> TrainingState:
    """What an unsigned `#state` record holds."""
    body = unseal(value, None)
    assert isinstance(body, bytes), body
    return msgspec.msgpack.decode(body, type=TrainingState)


class Noting:
    """A target that keeps what it is given, and says when in the log of its process."""

    def __init__(self) -> None:
        self.installed: dict[str, Snapshot] = {}

    def bind(self, snapshot: Snapshot) -> Snapshot:
        """Nothing to prepare; an example count that is no count cannot be used."""
        if snapshot.examples < 0:
            raise ValueError(f"{snapshot.examples} examples")
        return snapshot

    def swap(self, bound: Snapshot) -> None:
        """Keep it, and say so: model, number of examples, when (epoch seconds)."""
        self.installed[bound.model] = bound
        sys.stdout.write(f"installed {bound.model} {bound.examples} {time.time():.6f}\n")
        sys.stdout.flush()


def headers_of(epoch: int = 1, generation: int = 1, offset: int = 0) -> tuple[tuple[str, bytes], ...]:
    """Headers of a record of a model."""
    return Standing(epoch, generation, offset).headers()


if __name__ == "__main__":
    from agents.learner_process import run_learner
    from agents.settings import read_settings
    from agents.topics import TOPICS
    from agents.worker import Learning, run_worker
    from tests.agents.counting import counting_engine

    settings, repertoire = read_settings(os.environ), a_repertoire()
    if sys.argv[1] == "learn":
        sys.exit(run_learner(settings, repertoire, TOPICS, lifeline="--lifeline" in sys.argv))
    command = [sys.executable, "-m", "tests.agents.teaching", "learn", "--lifeline"]
    learning = Learning(repertoire, Noting(), command if settings.learner else ())
    sys.exit(run_worker(settings, counting_engine(), create_topics=True, learning=learning))
