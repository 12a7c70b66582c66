"""Whatever bytes arrive, they are read or refused: inputs that once crashed a decoder, and new ones."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fuzz import targets
from benchmarks.fuzz.__main__ import NAMES

ROOT = Path(__file__).parents[2]
CORPUS = sorted(path for path in (Path(__file__).parent / "corpus").rglob("*") if path.is_file())


def test_every_target_is_run():
    """The list that is run without importing what it fuzzes is the list there is."""
    assert tuple(targets.TARGETS) == NAMES
    assert {path.parent.name for path in CORPUS} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_our_encoders_write_is_read(name: str):
    """The inputs that mutation begins with pass."""
    for seed in targets.TARGETS[name].seeds():
        targets.TARGETS[name].run(seed)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_once_crashed_a_decoder_does_not(path: Path):
    """Findings stay found."""
    targets.TARGETS[path.parent.name].run(path.read_bytes())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="Atheris has wheels for Linux on x86-64 only")
def test_mutated_messages_find_nothing():
    """A few thousand, guided by coverage."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--runs", "3000", *NAMES[1:]]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("nothing found") == len(NAMES) - 1
