"""`python -m benchmarks.fuzz [--runs N] [--seed N] [TARGET …]`: so many mutated inputs, shared out among the targets.

Says for each target how many ran, and in how many seconds. A finding is kept in a file whose name is told; put it into
`tests/fuzz/corpus/<target>/` with the fix. Exit code 1 on a finding, 2 where Atheris is not to be had.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import NamedTuple

DONE, FOUND, UNAVAILABLE = 0, 1, 2
MOST_BYTES = 8_192
"""Longest input that is made."""
NAMES = (
    "records",
    "profiles",
    "small-states",
    "changelog-records",
    "copy-marks",
    "examples",
    "snapshots",
    "states",
    "configuration",
)
SHARES = {"records": 4.0, "configuration": 0.02}
"""Of the runs, where it is not 1: much goes through the one, and the other reads a whole file of YAML each time."""


class Outcome(NamedTuple):
    """What became of a target. `finding`: the input that crashed it, and how; None when nothing did."""

    name: str
    runs: int
    seconds: float
    finding: str | None


def main(arguments: Sequence[str]) -> int:
    """Fuzz the targets named, or all; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description="Fuzz every decoder.")
    parser.add_argument("targets", nargs="*", choices=[*NAMES, []], help="which; all unless named")
    parser.add_argument("--runs", type=int, default=1_000_000, help="mutated inputs over all targets")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations")
    given = parser.parse_args(arguments)
    if importlib.util.find_spec("atheris") is None:
        print("Atheris is not installed: it has wheels for Linux on x86-64 only", file=sys.stderr)
        return UNAVAILABLE
    names = given.targets or NAMES
    whole = sum(SHARES.get(name, 1.0) for name in names)
    found = []
    for name in names:
        each = fuzz(name, int(given.runs * SHARES.get(name, 1.0) / whole) + 1, given.seed)
        found.append(each)
        said = each.finding or "nothing found"
        print(f"{each.name:20} {each.runs:>9,} runs {each.seconds:8.1f} s  {said}", flush=True)
    print(f"{'all':20} {sum(each.runs for each in found):>9,} runs {sum(each.seconds for each in found):8.1f} s")
    return FOUND if any(each.finding for each in found) else DONE


def fuzz(name: str, runs: int, seed: int) -> Outcome:
    """Run one target in a process of its own."""
    findings = Path(tempfile.mkdtemp(prefix=f"batuta-fuzz-{name}-"))
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        begun = monotonic()
        options = [f"-runs={runs}", f"-seed={seed}", f"-max_len={MOST_BYTES}", f"-artifact_prefix={findings}/"]
        command = [sys.executable, "-m", "benchmarks.fuzz.one", name, str(corpus), *options]
        # libFuzzer ends its process without tidying up.
        environment = {**os.environ, "TMPDIR": scratch}
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=environment)
        seconds = monotonic() - begun
    said = ended.stdout + ended.stderr
    done = re.findall(r"^(?:Done |#)(\d+)", said, re.MULTILINE)
    if ended.returncode == 0 and done:
        shutil.rmtree(findings)
        return Outcome(name, int(done[-1]), seconds, None)
    crashes = ", ".join(map(str, findings.iterdir())) or "no input was kept"
    raised = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception|Damaged)\b.*$", said, re.MULTILINE)
    reason = raised[0] if raised else said.strip().splitlines()[-1]
    return Outcome(name, int(done[-1]) if done else 0, seconds, f"{reason} ({crashes})")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
