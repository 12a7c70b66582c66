"""Proof from the log: estimates of policies that were never live, against what they really earn."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agents.evaluation import prove
from agents.policy_log import Log, read_log
from engine.calendar import format_rfc3339
from engine.repertoire import Arbitration, Experiment, Exploration, Repertoire
from engine.repertoire import Arm as ExperimentArm
from engine.replay import Replay
from models.baseline import PriorScorer
from tests.repertoires import HOUR_MS, START_MS, Builder, a_signal, decisions_of

TASTES = {"young": {"a": 0.1, "b": 0.3, "c": 0.2}, "old": {"a": 0.35, "b": 0.05, "c": 0.2}}
"""How likely each kind of customer takes each action."""


def a_repertoire(
    exploration: Exploration | None = None, *, levers: dict[str, float] | None = None, **changes: Any
) -> Repertoire:
    """Three actions; unless levers say otherwise, c is thought the best for everybody."""
    b = Builder()
    for name, propensity in {"a": 0.1, "b": 0.1, "c": 0.2}.items():
        lever = (levers or {}).get(name, 0.0)
        b.action(name, b.treatment(f"{name}-email", propensity=propensity), lever=lever, value=1.0)
    settings = changes.pop("arbitration", Arbitration(exploration=exploration or Exploration(epsilon=0.6)))
    return b.build(arbitration=settings, **changes)


def value_of(favourite: str, epsilon: float = 0.0) -> float:
    """What a policy really earns that offers a favourite, but for epsilon, to as many young as old customers."""
    means = {name: sum(taste[name] for taste in TASTES.values()) / len(TASTES) for name in "abc"}
    return (1 - epsilon) * means[favourite] + epsilon * sum(means.values()) / 3


class Life:
    """Customers who live through a log: some take what they are offered. Writes the files `batuta evaluate` reads."""

    def __init__(self, repertoire: Repertoire, seed: int, customers: int) -> None:
        chance = Random(seed)
        replay = Replay(repertoire, PriorScorer(repertoire))
        self.lines: dict[str, list[bytes]] = {"signals": [], "outcomes": [], "decisions": []}
        for number in range(customers):
            kind, at_ms = ("young", "old")[number % 2], START_MS + number * HOUR_MS
            at = format_rfc3339(at_ms)
            signal = a_signal(
                "Go", f"u{seed}-{number}", messageId=f"m{seed}-{number}", traits={"kind": kind}, timestamp=at
            )
            outputs = replay.signal(signal, at_ms)
            self.lines["signals"].append(signal)
            self.lines["decisions"] += [each.value for each in outputs if each.topic == "decisions"]
            for made in decisions_of(outputs):
                if chance.random() < TASTES[kind][made["action"]]:
                    self._accept(made, at_ms + 60_000, replay)

    def _accept(self, made: dict[str, Any], at_ms: int, replay: Replay) -> None:
        said = {"decisionId": made["decisionId"], "customerId": made["customerId"], "type": "accept", "value": 20}
        outcome = json.dumps({**said, "timestamp": format_rfc3339(at_ms)}).encode()
        self.lines["outcomes"].append(outcome)
        replay.publish("outcomes", None, outcome, at_ms)

    def log(self, directory: Path) -> Log:
        """Everything, in one file as it might come from a dump of several topics."""
        path = directory / "log.jsonl"
        path.write_bytes(b"\n".join([each for lines in self.lines.values() for each in lines]) + b"\n")
        return read_log([path])


def test_a_log_is_told_apart_line_by_line(tmp_path: Path):
    """Decisions, outcomes and signals in one file; what is none of them is counted."""
    life = Life(a_repertoire(), 1, 40)
    life.lines["outcomes"].append(b"not json")
    life.lines["outcomes"].append(b'{"some": "thing"}')
    log = life.log(tmp_path)
    assert (len(log.signals), len(log.decisions), log.unreadable) == (40, 40, 2)
    assert len(log.outcomes) == len(life.lines["outcomes"]) - 2


def test_the_policy_of_the_log_earned_what_it_earned(tmp_path: Path):
    """Followed through its own configuration every weight is 1, and all estimators say the mean."""
    life = Life(a_repertoire(), 2, 300)
    proof = prove(life.log(tmp_path), a_repertoire())
    earned = len(life.lines["outcomes"]) / 300
    by_itself, beside = proof.reports.values()
    assert by_itself.logged.value == pytest.approx(earned)
    assert beside["ips"].value == beside["snips"].value == pytest.approx(earned)
    assert beside.overlap.mean_weight == pytest.approx(1.0)
    assert proof.remarks == []
    assert "ips" in proof.as_text()
    assert json.loads(json.dumps(proof.as_dict()))["remarks"] == []


def test_values_can_be_the_reward(tmp_path: Path):
    """Every purchase is worth 20."""
    life = Life(a_repertoire(), 3, 100)
    [report] = prove(life.log(tmp_path), None, "value").reports.values()
    assert report.logged.value == pytest.approx(20 * len(life.lines["outcomes"]) / 100)


def test_what_a_configuration_never_does_is_said(tmp_path: Path):
    """One without the trigger earns nothing by the log, and decisions without counterpart are counted."""
    log = Life(a_repertoire(), 4, 60).log(tmp_path)
    proof = prove(log, a_repertoire(triggers=()))
    assert "60 of 60 logged decisions were not asked for" in proof.remarks[0]
    half = log._replace(decisions=dict(list(log.decisions.items())[:30]))
    assert "30 decisions it would have made" in prove(half, a_repertoire()).remarks[0]


def test_nothing_to_judge_is_an_error(tmp_path: Path):
    """No decisions, or a configuration without signals: what is missing is named."""
    log = Life(a_repertoire(), 5, 40).log(tmp_path)
    with pytest.raises(ValueError, match="no decision with an action"):
        prove(log._replace(decisions={}), None)
    with pytest.raises(ValueError, match="with the signals of the log"):
        prove(log._replace(signals=[]), a_repertoire())


def test_model_control_and_arms_are_judged_by_themselves(tmp_path: Path):
    """Parts that chance made: each arm of an experiment has a report."""
    arms = (ExperimentArm(id="one", weight=1.0), ExperimentArm(id="two", weight=1.0, only=frozenset("a")))
    repertoire = a_repertoire(experiments=(Experiment(id="e", salt="e", arms=arms),))
    proof = prove(Life(repertoire, 6, 200).log(tmp_path), repertoire)
    assert {"the log, e, arm one", "the log, e, arm two"} <= proof.reports.keys()
    assert list(proof.reports.values())[-1]["ips"].value == pytest.approx(
        proof.reports["the log, all decisions"].logged.value
    )


@pytest.mark.slow
@pytest.mark.parametrize("favourite", ["a", "b"])
def test_intervals_cover_the_truth_as_often_as_they_say(favourite: str, tmp_path: Path):
    """60 logged runs of 400 decisions, each judging a policy that was never live: 95 % intervals, at least 86 % hold.

    The exact value is known, since the customers are ours. Fewer than 86 % of 60 would be three deviations off.
    """
    target = a_repertoire(Exploration(epsilon=0.1), levers={favourite: 300.0})
    truth = value_of(favourite, 0.1)
    covered = {"ips": 0, "snips": 0}
    for seed in range(60):
        log = Life(a_repertoire(), 1_000 + seed, 400).log(tmp_path)
        *_, report = prove(log, target).reports.values()
        for name in covered:
            covered[name] += report[name].low <= truth <= report[name].high
    assert all(count >= 0.86 * 60 for count in covered.values()), covered
