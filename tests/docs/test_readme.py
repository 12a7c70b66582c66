"""What the READMEs show works: the configuration checks, the signal fits, the commands exist, both tell the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from agents.cli import app
from config.load import check_directory
from engine.schemas import message_schema
from tests.builders import write_config

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "README.es.md")


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", READMES)
def test_the_configuration_shown_is_in_order(page: str, tmp_path: Path):
    """As it stands there, beside the files of a small shop, it has no fault."""
    (actions,) = blocks(page, "yaml")
    channels = {"channels": {"push": {}}}
    rest = dict.fromkeys(("triggers", "constraints", "arbitration", "experiments"))
    checked = check_directory(write_config(tmp_path, actions=actions, channels=channels, **rest))
    assert checked.faults == ()


@pytest.mark.parametrize("page", READMES)
def test_the_signal_shown_is_one(page: str):
    """It fits the published schema."""
    (signal,) = blocks(page, "json")
    jsonschema.Draft202012Validator(message_schema("signal")).validate(json.loads(signal))


@pytest.mark.parametrize("page", READMES)
def test_the_commands_shown_exist(page: str):
    """Every `batuta …` and `make …` in it can be typed."""
    shown = "\n".join(blocks(page, "bash"))
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert set(re.findall(r"^batuta (\w+)", shown, re.MULTILINE)) <= commands
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"^make (\S+)", shown, re.MULTILINE)) <= targets


def test_both_have_the_same_parts():
    """As many headings, blocks and table rows in Spanish as in English, in the same order of kinds."""
    shapes = [re.findall(r"^(#+|```\w+|\|)", (ROOT / page).read_text("utf-8"), re.MULTILINE) for page in READMES]
    assert shapes[0] == shapes[1]
