"""What `batuta evaluate` and `batuta compare` say: recorded files in, text or JSON out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from agents import comparison
from agents.evaluation import prove
from agents.policy_log import Log, Reward, read_log
from agents.policy_log import Progress as OnLine
from config.load import load_directory


def evaluated(logs: Sequence[Path], config: Path | None, reward: Reward, *, as_json: bool = False) -> str:
    """What the decisions of a log earned, and what a configuration would have earned.

    Raises ValueError, saying what is missing, when the log cannot tell; ConfigInvalid for the configuration.
    """
    repertoire = None if config is None else load_directory(config)
    log = read_log(logs)
    with _progress("Evaluate", log if repertoire is not None else None) as on_line:
        proof = prove(log, repertoire, reward, on_line)
    return json.dumps(proof.as_dict(), indent=2) if as_json else proof.as_text()


def compared(a: Path, b: Path, signals: Sequence[Path], *, as_json: bool = False) -> str:
    """What B changes against A: two configurations played with recorded signals, or two logs of decisions.

    Raises ValueError when they are not of one sort or something is missing; ConfigInvalid for the configurations.
    """
    if a.is_dir() != b.is_dir():
        raise ValueError(f"{a} and {b} are not of one sort: name two configurations, or two files of decisions")
    if a.is_dir() and not signals:
        raise ValueError("configurations are compared by what they decide: name recorded signals with --signals")
    sides = _played(a, b, read_log(signals)) if a.is_dir() else [_logged(each) for each in (a, b)]
    found = comparison.compare(*sides)
    return json.dumps(found.as_dict(), indent=2) if as_json else found.as_text()


def _played(a: Path, b: Path, log: Log) -> list[comparison.Side]:
    sides = []
    for directory in (a, b):
        with _progress(str(directory), log) as on_line:
            sides.append(comparison.side_of(load_directory(directory), log, on_line))
    return sides


def _logged(path: Path) -> comparison.Side:
    log = read_log([path])
    if not log.decisions:
        raise ValueError(f"{path} has no decisions")
    return comparison.Side(log.decisions)


@contextmanager
def _progress(what: str, log: Log | None) -> Iterator[OnLine]:
    """A bar over the lines of a log, where somebody looks."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    hidden = log is None or not console.is_terminal
    with Progress(*columns, console=console, disable=hidden, transient=True) as progress:
        lines = () if log is None else (*log.signals, *log.outcomes)
        task = progress.add_task(what, total=sum(len(line.value) + 1 for line in lines))
        yield lambda size: progress.advance(task, size)
