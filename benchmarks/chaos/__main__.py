"""`python -m benchmarks.chaos`: play every scenario, print a table, write `benchmarks/results/chaos.json` and `.md`.

    python -m benchmarks.chaos [--seed SEED] [SCENARIO …]

With scenarios named, only those are played and nothing is written. `QUICK=1` in the environment: a form of less than
ten minutes. Exit code 1 when something was lost, repeated or conflicting, 2 on usage, 3 when Kafka cannot be started.
Logs and notes of a scenario in which something was wrong stay in `var/chaos/`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from agents.broker import BrokerUnavailable, KafkaBroker
from benchmarks.chaos import report
from benchmarks.chaos.clocks import has_clocks
from benchmarks.chaos.faults import CLOCK_FAULTS, has_small_disks
from benchmarks.chaos.play import Played, Scenario, ScenarioFailed, play
from benchmarks.chaos.scenarios import FULL, QUICK
from benchmarks.results import begin

DONE, WRONG, USAGE, NO_BROKER = 0, 1, 2, 3
COMPACTING = {"log.roll.ms": "10000", "log.cleaner.backoff.ms": "1000", "log.cleaner.min.cleanable.ratio": "0.05"}
"""Changelogs are compacted every few seconds, as they would be in months: what only old records say is gone."""
KEPT = Path(__file__).parents[2] / "var" / "chaos"


def main(arguments: Sequence[str]) -> int:
    """Play scenarios by name, or all; returns the exit code."""
    quick = os.environ.get("QUICK", "0") not in ("", "0")
    known = {each.name: each for each in (QUICK if quick else FULL)}
    asked = _arguments(arguments)
    unknown = [name for name in asked.scenarios if name not in known]
    if unknown:
        return _complain(USAGE, f"no scenario {', '.join(unknown)}; there are {', '.join(known)}")
    scenarios = [*_possible([known[name] for name in asked.scenarios] or [*known.values()])]
    started = begin()
    played: list[Played] = []
    try:
        for each in _play(scenarios, asked.seed):
            played.append(each)
            print(report.told(each), flush=True)
    except BrokerUnavailable as error:
        return _complain(NO_BROKER, str(error))
    except ScenarioFailed as error:
        return _complain(WRONG, str(error))
    print("\n".join(report.table(played)))
    if not asked.scenarios:
        report.write(started, played, asked.seed)
    faults = report.faults(played)
    return _complain(WRONG, "\n".join(faults)) if faults else DONE


def _play(scenarios: Sequence[Scenario], seed: str) -> Iterator[Played]:
    """Play scenarios; those after each other with as many nodes share their broker."""
    for nodes, group in groupby(scenarios, key=lambda each: each.nodes):
        together = list(group)
        networks = max(each.workers for each in together)
        with KafkaBroker(nodes, networks=networks, settings=COMPACTING) as broker:
            for scenario in together:
                print(f"{scenario.name} …", file=sys.stderr, flush=True)
                yield play(scenario, broker.bootstrap, broker, seed, KEPT)


def _possible(scenarios: Sequence[Scenario]) -> Iterator[Scenario]:
    """The scenarios without what this system cannot do; says what that is."""
    left_out: set[str] = set()
    if not has_small_disks():
        print("disk-full is left out: this system lets no process have a file system of its own", file=sys.stderr)
        left_out |= {"disk-full"}
    if not has_clocks():
        print("steps of the clock are left out: they need libfaketime, on Linux on x86-64", file=sys.stderr)
        left_out |= CLOCK_FAULTS
    for scenario in scenarios:
        lanes = [tuple(fault for fault in lane if fault not in left_out) for lane in scenario.lanes]
        # The first fault is what a scenario is about.
        if not scenario.lanes or scenario.lanes[0][0] not in left_out:
            yield scenario._replace(lanes=tuple(filter(None, lanes)))


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description="Play chaos and judge it.")
    parser.add_argument("scenarios", metavar="SCENARIO", nargs="*", help="which to play; none: all")
    parser.add_argument("--seed", default="1", help="what faults and signals follow from")
    return parser.parse_args(arguments)


def _complain(code: int, sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
