"""Two commands of the command line: what another configuration would change, and what it would have earned."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from agents import comparison
from agents.evaluation import prove
from agents.policy_log import Log, read_log
from agents.policy_log import Progress as OnLine
from config.load import load_directory

WRONG = 1

Json = Annotated[bool, typer.Option("--json", help="For programs.")]


class RewardKind(StrEnum):
    """What a decision is judged by."""

    taken = "taken"
    value = "value"


def evaluate(
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOG...",
            exists=True,
            dir_okay=False,
            readable=True,
            help="JSONL files of decisions, outcomes and signals.",
        ),
    ],
    config: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The configuration to judge; none: the log by itself.")
    ] = None,
    reward: Annotated[
        RewardKind, typer.Option(help="taken: any positive outcome; value: what the positive ones were worth.")
    ] = RewardKind.taken,
    as_json: Json = False,
) -> None:
    """Tell what recorded decisions earned, and what a configuration would have earned in their place."""
    repertoire = None if config is None else load_directory(config)
    log = read_log(logs)
    with _progress("Evaluate", log if repertoire is not None else None) as on_line:
        try:
            proof = prove(log, repertoire, reward.value, on_line)
        except ValueError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(WRONG) from error
    typer.echo(json.dumps(proof.as_dict(), indent=2) if as_json else proof.as_text())


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", exists=True, help="A configuration, or a log of decisions.")],
    b: Annotated[Path, typer.Argument(metavar="B", exists=True, help="What to compare it with, of the same sort.")],
    signals: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="Recorded signals and outcomes to play; for configurations."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what B changes against A: how many decisions, for whom, their value, and who is left with no action."""
    if a.is_dir() != b.is_dir():
        typer.echo(f"{a} and {b} are not of one sort: name two configurations, or two files of decisions", err=True)
        raise typer.Exit(WRONG)
    if a.is_dir() and not signals:
        typer.echo(
            "two configurations are compared by what they decide: name recorded signals with --signals", err=True
        )
        raise typer.Exit(WRONG)
    sides = _played(a, b, read_log(signals or [])) if a.is_dir() else [_logged(each) for each in (a, b)]
    found = comparison.compare(*sides)
    typer.echo(json.dumps(found.as_dict(), indent=2) if as_json else found.as_text())


def _played(a: Path, b: Path, log: Log) -> list[comparison.Side]:
    sides = []
    for directory in (a, b):
        with _progress(str(directory), log) as on_line:
            sides.append(comparison.side_of(load_directory(directory), log, on_line))
    return sides


def _logged(path: Path) -> comparison.Side:
    log = read_log([path])
    if not log.decisions:
        typer.echo(f"{path} has no decisions", err=True)
        raise typer.Exit(WRONG)
    return comparison.Side(log.decisions)


@contextmanager
def _progress(what: str, log: Log | None) -> Iterator[OnLine]:
    """A bar over the lines of a log, where somebody looks."""
    console = Console(stderr=True)
    hidden = log is None or not console.is_terminal or not sys.stderr.isatty()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=hidden, transient=True) as progress:
        lines = () if log is None else (*log.signals, *log.outcomes)
        task = progress.add_task(what, total=sum(len(line.value) + 1 for line in lines))
        yield lambda size: progress.advance(task, size)
