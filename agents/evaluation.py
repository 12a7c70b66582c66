"""Proof from the log: what recorded decisions earned, and what another configuration would have earned.

Without a configuration the log is judged by itself: what it earned in all, in model control and out of it (the lift
of the models; Pega's Impact Analyzer, mission D6), and in each arm of its experiments. With one, the log is played
through that configuration: at every decision it says how likely it would have chosen what was chosen, and then
the logged choice happens, so that it meets the circumstances of the log and no others (`agents.policy_log`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from agents.policy_log import Follower, Log, Progress, Reward, rewards_of
from engine.decision import Decision
from engine.repertoire import Repertoire
from models.evaluation import Logged, evaluate
from models.evaluation_report import Report

CONTROL = "model-control"
"""What stands among the models of a decision that was made with random propensities."""
LEAST_GROUP = 30
"""Decisions a group must have to be judged by itself."""


class Proof(NamedTuple):
    """The reports by what they are about, and what else there is to say."""

    reports: dict[str, Report]
    remarks: list[str]

    def as_text(self) -> str:
        """For people."""
        parts = [f"{name}\n{report.as_text()}" for name, report in self.reports.items()]
        return "\n\n".join([*parts, *([chr(10).join(self.remarks)] if self.remarks else [])])

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {"reports": {name: each.as_dict() for name, each in self.reports.items()}, "remarks": self.remarks}


def prove(
    log: Log,
    repertoire: Repertoire | None,
    reward: Reward = "taken",
    on_line: Progress = lambda _: None,
) -> Proof:
    """Judge the log, and a configuration by it when there is one. ValueError when there is nothing to judge."""
    made = [each for each in log.decisions.values() if each.treatment is not None and not each.control]
    if not made:
        raise ValueError("no decision with an action is in the log; name the files with recorded decisions")
    remarks = [f"{log.unreadable} lines are neither decisions nor outcomes nor signals"] if log.unreadable else []
    rewards = rewards_of(log, reward)
    reports = {f"the log, {name}": _by_itself(each, rewards) for name, each in _groups(made)}
    if repertoire is not None:
        if not log.signals:
            raise ValueError("a configuration can only be judged with the signals of the log: name their file as well")
        rows, said = _beside(log, made, rewards, repertoire, on_line)
        reports[f"{repertoire.name}, configuration {repertoire.version[:12]}"] = evaluate(rows)
        remarks += said
    return Proof(reports, remarks)


def _groups(made: list[Decision]) -> Iterable[tuple[str, list[Decision]]]:
    """All of it, then parts that can be compared because chance made them."""
    groups: dict[str, list[Decision]] = defaultdict(list)
    for each in made:
        groups["in model control" if CONTROL in each.models else "chosen by models"].append(each)
        if each.experiment is not None:
            groups[f"{each.experiment.id}, arm {each.experiment.arm}"].append(each)
    if "in model control" not in groups:
        groups.pop("chosen by models", None)
    return [("all decisions", made), *((name, each) for name, each in groups.items() if len(each) >= LEAST_GROUP)]


def _by_itself(made: list[Decision], rewards: dict[str, float]) -> Report:
    """What decisions earned: the policy that made them, judged by its own chances."""
    return evaluate(
        Logged(
            decision_id=each.decision_id,
            cluster=each.customer_id,
            reward=rewards.get(each.decision_id, 0.0),
            logged=each.probability,
            target=each.probability,
            action=each.treatment or "",
        )
        for each in made
    )


def _beside(
    log: Log, made: list[Decision], rewards: dict[str, float], repertoire: Repertoire, on_line: Progress
) -> tuple[list[Logged], list[str]]:
    follower = Follower(log.decisions)
    followed = follower.follow(repertoire, log, on_line)
    causes = {each.decision_id for each in made} & (followed.keys() | follower.met.keys())
    rows = []
    for each in made:
        met = follower.met.get(each.decision_id)
        whole = met is not None and not repertoire.experiments and met.features is not None
        rows.append(
            Logged(
                decision_id=each.decision_id,
                cluster=each.customer_id,
                reward=rewards.get(each.decision_id, 0.0),
                logged=each.probability,
                target=followed.get(each.decision_id, 0.0),
                action=each.treatment or "",
                features=met.features if whole and met is not None else None,
                targets=met.targets if whole and met is not None else None,
            )
        )
    remarks = []
    unmet = len(made) - len(causes)
    if unmet:
        remarks.append(
            f"{unmet} of {len(made)} logged decisions were not asked for under this configuration (no such trigger or "
            "slot, or their signals are missing); it earns nothing by them"
        )
    if follower.unlogged:
        remarks.append(f"{follower.unlogged} decisions it would have made have no counterpart in the log")
    return rows, remarks
