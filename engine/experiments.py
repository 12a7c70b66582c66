"""Experiments: which arm a customer is in, the global holdout, and what an arm leaves to choose from.

Assignment is `hash(salt, customer)` in [0, 1), deterministic and sticky without being stored (GrowthBook,
"Experimenting"; Unleash's rule that every experiment has a salt of its own, so that they are independent).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from engine.candidates import Rejections, Selection
from engine.context import Context
from engine.repertoire import Arm, Candidate, Experiment, Holdout, Repertoire


def bucket(salt: str, unit: str) -> float:
    """Where a unit falls in [0, 1); uniform over units, independent between salts."""
    digest = hashlib.blake2b(f"{salt}\0{unit}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


def experiment_for(repertoire: Repertoire, cause: str, context: Context) -> Experiment | None:
    """The first experiment, by id, that speaks of this trigger (or `request`) and this customer."""
    for experiment in repertoire.experiments:
        if (not experiment.triggers or cause in experiment.triggers) and (
            experiment.when is None or experiment.when.test(context)
        ):
            return experiment
    return None


def arm_of(experiment: Experiment, customer_id: str) -> Arm:
    """The arm a customer is in, by the arms' shares."""
    position = bucket(experiment.salt, customer_id) * sum(arm.weight for arm in experiment.arms)
    for arm in experiment.arms:
        position -= arm.weight
        if position < 0:
            return arm
    return experiment.arms[-1]


def shares(experiment: Experiment) -> list[float]:
    """The arms' shares of customers, adding up to 1."""
    total = sum(arm.weight for arm in experiment.arms)
    return [arm.weight / total for arm in experiment.arms]


def left_by(arm: Arm, experiment: Experiment, candidates: Selection, rejections: Rejections) -> Selection:
    """The candidates an arm leaves, mandatory ones always; why not the others goes to `rejections`."""

    def is_left(candidate: Candidate) -> bool:
        names = {candidate.action.id, candidate.treatment.id}
        if candidate.action.action_class == "mandatory":
            return True
        if (arm.only and names.isdisjoint(arm.only)) or not names.isdisjoint(arm.exclude):
            reason = f"{candidate.treatment.id}: not in arm {arm.id} of {experiment.id}"
            rejections.add(candidate.action.id, "experiment", reason)
            return False
        return True

    return candidates.where(is_left)


def is_held_out(holdout: Holdout | None, customer_id: str) -> bool:
    """Whether a customer belongs to the global holdout."""
    return holdout is not None and holdout.low <= bucket(holdout.salt, customer_id) < holdout.high


def is_exempt(holdout: Holdout, candidate: Candidate) -> bool:
    """Whether a candidate reaches held-out customers all the same, by its class or a tag."""
    action = candidate.action
    return action.action_class in holdout.exempt or not action.tags.isdisjoint(holdout.exempt)


def in_model_control(customer_id: str, now_ms: int, share: float) -> bool:
    """Whether a customer's propensities are random in the calendar month (UTC) of a moment (Pega; mission D3)."""
    return bucket(f"model-control/{datetime.fromtimestamp(now_ms / 1000, UTC):%Y-%m}", customer_id) < share
