"""Open Bandit: off-policy estimates on real logged decisions, against those of its own pipeline.

What Bernoulli Thompson sampling earned in a fashion shop, estimated from the randomised logs of the small sample in
`obp` 0.4.1 (10,000 decisions a campaign; Saito et al. 2020). The chances of the target's choices come from 100,000
simulated ones with seed 12345, as its quickstart has it. With 38 to 46 clicks a log this checks estimators and ranks
no policy.
"""

from __future__ import annotations

import csv
import zipfile
from io import TextIOWrapper
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from ruamel.yaml import YAML

from benchmarks.datasets import fetch
from benchmarks.results import Row, row
from models.evaluation import estimate

Numbers = npt.NDArray[np.float64]
SIMULATED, SEED, POSITIONS = 100_000, 12345, 3
PUBLISHED = {
    ("all", "ips"): 0.00455288,
    ("all", "snips"): 0.00477583,
    ("men", "ips"): 0.00453356,
    ("women", "ips"): 0.00681347,
}
"""By campaign and estimator, to eight digits."""


class Log(NamedTuple):
    """One entry per decision: whether it was clicked, its logged chance and the target's chance of it."""

    clicks: Numbers
    logged: Numbers
    target: Numbers


def measure() -> list[Row]:
    """How far each estimate is from the published one."""
    with fetch("obp") as wheel:
        logs = {campaign: read(wheel, campaign) for campaign, _ in PUBLISHED}
    reports = {campaign: estimate(*log) for campaign, log in logs.items()}
    return [
        row(
            f"estimators.{campaign}.{estimator}",
            [abs(reports[campaign][estimator].value - published)],
            "reward",
            target="<= 1e-08",
            detail="distance from the value published by the Open Bandit Pipeline on its small sample",
        )
        for (campaign, estimator), published in PUBLISHED.items()
    ]


def read(wheel: zipfile.ZipFile, campaign: str) -> Log:
    """The randomised log of a campaign, and what the target would have chosen."""
    prior = YAML(typ="safe").load(wheel.read("obp/policy/conf/prior_bts.yaml"))[campaign]
    with wheel.open(f"obp/dataset/obd/random/{campaign}/{campaign}.csv") as file:
        decisions = list(csv.DictReader(TextIOWrapper(file)))
    chances = thompson_chances(prior["alpha"], prior["beta"])
    items = np.array([int(each["item_id"]) for each in decisions])
    positions = np.array([int(each["position"]) - 1 for each in decisions])
    clicks, logged = (np.array([float(each[name]) for each in decisions]) for name in ("click", "propensity_score"))
    return Log(clicks, logged, chances[items, positions])


def thompson_chances(alpha: list[float], beta: list[float]) -> Numbers:
    """The chance of each item at each position (items by positions): items in the order of their drawn click rate."""
    draws = np.random.RandomState(SEED).beta(alpha, beta, size=(SIMULATED, len(alpha)))
    shown = np.argsort(draws, axis=1)[:, ::-1][:, :POSITIONS]
    return np.stack([np.bincount(column, minlength=len(alpha)) for column in shown.T], axis=1) / SIMULATED
