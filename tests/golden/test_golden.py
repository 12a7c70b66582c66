"""Recorded signals and outcomes of the retail example decide what they decided when they were recorded.

Without its models: what these learn has other last digits on other processors. A difference is a change of what the
engine decides: look at it, and if it is meant, copy the example, delete its models.yaml and write the file anew with

    batuta replay tests/golden/retail.signals.jsonl --outcomes tests/golden/retail.outcomes.jsonl \\
        --config COPY --decisions tests/golden/retail.decisions.jsonl
"""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

from agents.replay_files import replay
from config.load import load_directory

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "config" / "repertoires" / "retail"
VERSIONS = ("config", "models")
"""Fields that change with every edit of the configuration, whether or not it matters."""


def comparable(decisions: bytes) -> list[dict[str, Any]]:
    """The decisions without the versions they were made with."""
    found = [json.loads(line) for line in decisions.splitlines()]
    return [{name: value for name, value in each.items() if name not in VERSIONS} for each in found]


def test_retail_decides_what_it_decided(tmp_path: Path):
    """Every decision is the recorded one, in the same order, and nothing is rejected."""
    config = shutil.copytree(CONFIG, tmp_path / "retail", ignore=shutil.ignore_patterns("models.yaml"))
    recorded = {name: (HERE / f"retail.{name}.jsonl").read_bytes() for name in ("signals", "outcomes", "decisions")}
    decisions, rejects = BytesIO(), BytesIO()
    signals, outcomes = BytesIO(recorded["signals"]), BytesIO(recorded["outcomes"])
    totals = replay(load_directory(config), signals, outcomes, decisions, rejects)
    assert comparable(decisions.getvalue()) == comparable(recorded["decisions"])
    assert (totals.rejects, rejects.getvalue()) == (0, b"")


def test_the_recording_is_worth_keeping():
    """It has pushes, answers to requests, answers of nothing, and more than one reason to leave something out."""
    decisions = comparable((HERE / "retail.decisions.jsonl").read_bytes())
    assert {each["channel"] for each in decisions} >= {None, "push", "email", "app"}
    assert any(each["requestId"] for each in decisions)
    stages = {rejection["stage"] for each in decisions for rejection in each["explanation"]["rejected"]}
    assert stages >= {"eligibility", "applicability", "consent", "quiet-hours"}
