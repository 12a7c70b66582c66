"""The command line as its users meet it: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from agents.cli import Example
from agents.explanation import explain_decision
from config.schema import KINDS
from engine.schemas import MESSAGES
from tests.agents.command import batuta
from tests.builders import write_config
from tests.repertoires import START_MS, Builder, a_replay, a_signal


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The example shop."""
    directory = tmp_path / "shop"
    directory.mkdir()
    return write_config(directory)


@pytest.fixture
def signals(tmp_path: Path) -> Path:
    """A day at the shop: people who buy, ask and rest in carts, and one line that is no signal."""
    lines = []
    for n in range(40):
        who, hour = f"user-{n % 7}", 8 + n // 4
        at = f"2026-01-05T{hour:02d}:{n % 4 * 15:02d}:00Z"
        event = ("Product Added", "Order Completed", "Decision Requested")[n % 3]
        properties = {"sku": "s", "price": 5.0, "total": 30.0, "orderId": f"o{n}", "placement": "hero"}
        body = {"type": "track", "event": event, "userId": who, "timestamp": at, "properties": properties}
        lines.append(json.dumps({**body, "traits": {"first_name": "Eva", "email": "eva@example.org"}}))
    lines.insert(20, '{"type": "track"')
    path = tmp_path / "signals.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_without_arguments_it_says_what_it_can_do():
    """Every command of the contract is listed."""
    said = batuta("--help").stdout
    for command in ("demo", "up", "check", "schema", "replay", "topics", "profile", "explain", "init"):
        assert f" {command} " in said


def test_usage_errors_exit_with_2():
    """A command nobody knows, a missing argument, an option that is none."""
    assert batuta("dance").returncode == 2
    assert batuta("check").returncode == 2
    assert batuta("schema", "sonata").returncode == 2


@pytest.mark.parametrize("example", list(Example))
def test_an_example_can_be_taken_and_is_in_order(tmp_path: Path, example: Example):
    """`init` writes a configuration that `check` accepts; an existing directory is not touched."""
    assert batuta("init", tmp_path / "mine", "--example", example.value).returncode == 0
    checked = batuta("check", tmp_path / "mine")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "cases passed" in checked.stdout
    again = batuta("init", tmp_path / "mine")
    assert again.returncode == 1
    assert "not empty" in again.stderr


def test_check_names_every_fault_with_its_place(config: Path):
    """Two faults in two files are both told, each on a line of its own, with file and line."""
    for name, good, bad in (("actions", '"offers"', '"ofers"'), ("triggers", '"30m"', '"half an hour"')):
        path = config / f"{name}.yaml"
        path.write_text(path.read_text().replace(good, bad, 1))
    result = batuta("check", config)
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert any(line.startswith("triggers.yaml:") and "half an hour" in line for line in lines)
    assert any(line.startswith("actions.yaml:") for line in lines)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("kind", [*KINDS, *MESSAGES])
def test_schemas_are_printed_and_valid(kind: str):
    """Each kind of file and message has a JSON Schema that is one."""
    result = batuta("schema", kind)
    assert result.returncode == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(result.stdout))


def test_replay_twice_gives_the_same_bytes(config: Path, signals: Path, tmp_path: Path):
    """Same input, configuration and seed: identical files; every line is a decision or a reject, or silent."""
    written = []
    for run in ("a", "b"):
        decisions, rejects = tmp_path / f"{run}.jsonl", tmp_path / f"{run}.rejects.jsonl"
        result = batuta("replay", signals, "--config", config, "--decisions", decisions, "--rejects", rejects)
        assert result.returncode == 0, result.stderr
        written.append((decisions.read_bytes(), rejects.read_bytes()))
    assert written[0] == written[1]
    assert len(written[0][0].splitlines()) > 20
    assert [json.loads(line)["code"] for line in written[0][1].splitlines()] == ["not-json"]


def test_another_seed_draws_otherwise(config: Path, signals: Path, tmp_path: Path):
    """With exploration switched on, the seed decides the draws and nothing else about the input changes."""
    arbitration = config / "arbitration.yaml"
    arbitration.write_text(arbitration.read_text().replace("0.1", "1.0"))
    slot = {"channel": "web", "placements": ["hero"], "purpose": "service"}
    leaflets = {f"leaflet-{n}": {"group": "content", "treatments": {f"leaflet-{n}-hero": slot}} for n in range(4)}
    (config / "more.yaml").write_text(json.dumps({"kind": "actions", "actions": leaflets}))
    files = {}
    for seed in ("0", "1", "2"):
        files[seed] = tmp_path / f"{seed}.jsonl"
        batuta("replay", signals, "--config", config, "--decisions", files[seed], "--seed", seed)
    contents = {path.read_bytes() for path in files.values()}
    assert len(contents) > 1


def test_replay_joins_outcomes_to_their_decisions(config: Path, signals: Path, tmp_path: Path):
    """Outcomes are played in their time; one of a decision nobody made is rejected with its reason."""
    made = tmp_path / "decisions.jsonl"
    batuta("replay", signals, "--config", config, "--decisions", made)
    decision = next(each for each in map(json.loads, made.read_text().splitlines()) if each["action"])
    outcomes, rejects = tmp_path / "outcomes.jsonl", tmp_path / "rejects.jsonl"
    known = {"decisionId": decision["decisionId"], "customerId": decision["customerId"], "type": "click"}
    known["timestamp"] = "2026-01-05T18:30:00Z"
    outcomes.write_text("\n".join(map(json.dumps, (known, {**known, "decisionId": "never"}))) + "\n")
    result = batuta("replay", signals, "--config", config, "--outcomes", outcomes, "--rejects", rejects)
    assert "2 outcomes" in result.stderr
    codes = [json.loads(line)["code"] for line in rejects.read_text().splitlines()]
    assert codes == ["not-json", "unknown-decision"]


def test_an_invalid_configuration_stops_before_anything_runs(config: Path, signals: Path):
    """`replay` and `up` refuse what `check` refuses, with the same lines and exit code 1."""
    (config / "engine.yaml").unlink()
    for command in (("replay", signals, "--config", config), ("up", config), ("topics", config)):
        result = batuta(*command)
        assert result.returncode == 1
        assert "engine" in result.stderr
        assert "Traceback" not in result.stderr


def test_a_broker_that_is_not_there_exits_with_3():
    """`profile` and `explain` say where they looked, in one line."""
    for command in (("profile", "u1"), ("explain", "d1")):
        result = batuta(*command, "--bootstrap", "127.0.0.1:9")
        assert result.returncode == 3
        assert "cannot reach Kafka at 127.0.0.1:9" in result.stderr
        assert "Traceback" not in result.stderr


def test_a_decision_is_explained_in_words():
    """What was chosen and by which numbers, what came next, and why the rest was left out."""
    builder = Builder()
    builder.action("first", value=20.0).action("second", value=5.0).action("adults", eligibility=["profile.age >= 18"])
    outputs = a_replay(builder.build()).signal(a_signal(), START_MS)
    text = explain_decision(outputs[0].value)
    assert "Chosen: first as first-email on email" in text
    assert "Priority 2 from propensity 0.1, context 1, value 20, lever 1" in text
    assert "Next best: second (0.5)" in text
    assert "adults: " in text
    assert "profile.age >= 18" in text


def test_nothing_chosen_is_explained_too():
    """An answer without an action says so, and why."""
    asked = a_signal("Decision Requested", properties={"placement": "nowhere", "requestId": "r"})
    outputs = a_replay(Builder().action("a").build()).signal(asked, START_MS)
    text = explain_decision(outputs[0].value)
    assert "Chosen: nothing" in text
    assert "nowhere" in text


# --- Proof ---


def test_a_log_is_evaluated_and_a_configuration_by_it(config: Path, signals: Path, tmp_path: Path):
    """From files as `replay` writes them; text for people, JSON for programs, one line when something is missing."""
    made = tmp_path / "decisions.jsonl"
    batuta("replay", signals, "--config", config, "--decisions", made)
    said = batuta("evaluate", made)
    assert said.returncode == 0, said.stderr
    assert "the log, all decisions" in said.stdout
    beside = json.loads(batuta("evaluate", made, signals, "--config", config, "--json").stdout)
    *_, report = beside["reports"].values()
    assert report["overlap"]["mean_weight"] == pytest.approx(1.0)
    lacking = batuta("evaluate", made, "--config", config)
    assert lacking.returncode == 1
    assert "signals of the log" in lacking.stderr
    assert "Traceback" not in lacking.stderr


def test_two_configurations_or_two_logs_are_compared(config: Path, signals: Path, tmp_path: Path):
    """A configuration changes nothing against itself; the sorts must not be mixed, and signals are needed."""
    made = tmp_path / "decisions.jsonl"
    batuta("replay", signals, "--config", config, "--decisions", made)
    assert batuta("compare", made, made).stdout.startswith("0 of ")
    same = batuta("compare", config, config, "--signals", signals, "--json")
    assert json.loads(same.stdout)["changed"] == 0
    for arguments in ((made, config), (config, config), (signals, signals)):
        refused = batuta("compare", *arguments)
        assert refused.returncode == 1
        assert len(refused.stderr.splitlines()) == 1


def test_an_apprentice_must_know_customers_by_the_same_facts(config: Path, tmp_path: Path):
    """Other segments: refused before anything is connected, saying why."""
    other = tmp_path / "other"
    shutil.copytree(config, other)
    segments = other / "segments.yaml"
    segments.write_text(segments.read_text().replace(">= 2", ">= 3"))
    result = batuta("up", config, "--apprentice", other)
    assert result.returncode == 1
    assert "cannot be an apprentice: aggregates and segments" in result.stderr
