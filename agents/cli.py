"""The command line. Each command is a few lines over what does the work; errors are one line each on stderr."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

import msgspec
import typer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from agents import lookup, topics
from agents.broker import BrokerUnavailable
from agents.explanation import explain_decision
from agents.replay_files import replay as replay_files
from agents.settings import InvalidSettings, Settings, read_settings
from agents.topics import TopicsUnusable
from config.faults import ConfigInvalid
from config.load import check_directory, load_directory
from config.schema import KINDS, schema_of
from engine.apprentice import Apprentice, obstacles
from engine.repertoire import Repertoire
from engine.schemas import MESSAGES, message_schema
from engine.scoring import Scorer
from models.baseline import PriorScorer

DONE, WRONG, USAGE, NO_BROKER = 0, 1, 2, 3
"""Exit codes: done; the input or the configuration is wrong; usage; the broker cannot be reached."""
CONNECT_SECONDS = 15.0

app = typer.Typer(
    name="batuta",
    help="Streaming decisioning on Kafka: customer events in, next best actions out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigDir = Annotated[Path, typer.Argument(metavar="CONFIG_DIR", help="Directory of YAML files.")]
Bootstrap = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Kafka brokers; default $BATUTA_BOOTSTRAP or 127.0.0.1:9092.")
]
Prefix = Annotated[str | None, typer.Option(help="Prefix of all topic names; default `batuta.`.")]


class RewardKind(StrEnum):
    """What a decision is judged by."""

    taken = "taken"
    value = "value"


class Example(StrEnum):
    """The repertoires that come with the engine."""

    retail = "retail"
    banking = "banking"
    travel = "travel"


@app.command()
def demo(
    minutes: Annotated[float, typer.Option(help="How long it runs.", min=0.1)] = 2.0,
    rate: Annotated[float, typer.Option(help="Signals per second.", min=1)] = 200.0,
) -> None:
    """See the engine decide, live: a broker, a worker, simulated customers and their channels."""
    from agents.demo.run import run_demo  # noqa: PLC0415 - the other commands start faster without it

    raise typer.Exit(run_demo(minutes, rate, Console()))


@app.command()
def up(
    config_dir: ConfigDir,
    bootstrap: Bootstrap = None,
    web_port: Annotated[int | None, typer.Option(help="Port of /healthz, /readyz and /metrics; 0: any.")] = None,
    learner: Annotated[
        bool | None,
        typer.Option("--learner/--no-learner", help="Run a learner beside it; default: if there are models."),
    ] = None,
    apprentice: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A second configuration that decides beside it, logged and not acted on."),
    ] = None,
) -> None:
    """Run one worker. More of them with the same configuration share the work."""
    from agents.decisioning import engine_of  # noqa: PLC0415 - Faust takes a second to import
    from agents.worker import Learning, run_worker  # noqa: PLC0415 - as above

    repertoire = _load(config_dir)
    settings = _settings(repertoire, bootstrap=bootstrap, web_port=web_port, learner=learner)
    second = None if apprentice is None else _apprentice(repertoire, apprentice)
    scorer: Scorer = PriorScorer(repertoire)
    needed, learning = _topics_of(repertoire), None
    if repertoire.models:
        from models.scorer import ModelScorer, Together  # noqa: PLC0415 - River takes a second to import

        _require_learners(repertoire, settings)
        scorer = live = ModelScorer(repertoire)
        both = second is not None and isinstance(second.scorer, ModelScorer)
        target = Together(live, cast("ModelScorer", second.scorer)) if both and second is not None else live
        command = [sys.executable, "-m", "agents", "learn", str(config_dir), "--lifeline"]
        learning = Learning(repertoire, target, command if settings.learner else ())
    if second is not None:
        needed = (*needed, topics.APPRENTICE)
    engine = engine_of(repertoire, scorer, second)
    raise typer.Exit(run_worker(settings, engine, needed, create_topics=True, learning=learning))


@app.command()
def learn(
    config_dir: ConfigDir,
    bootstrap: Bootstrap = None,
    lifeline: Annotated[bool, typer.Option("--lifeline", hidden=True)] = False,
) -> None:
    """Run one learner and no worker. Learners share the models; `batuta up` runs one beside each worker."""
    from agents.learner_process import run_learner  # noqa: PLC0415 - River takes a second to import

    repertoire = _load(config_dir)
    if not repertoire.models:
        _complain(f"{config_dir} has no models, so there is nothing to learn")
        raise typer.Exit(WRONG)
    settings = _settings(repertoire, bootstrap=bootstrap)
    _require_learners(repertoire, settings)
    raise typer.Exit(run_learner(settings, repertoire, _topics_of(repertoire), lifeline=lifeline))


@app.command()
def check(config_dir: ConfigDir) -> None:
    """Validate a configuration and run its cases; every fault with file, line and what would be right."""
    checked = check_directory(config_dir)
    for fault in checked.faults:
        _complain(str(fault))
    if checked.faults:
        raise typer.Exit(WRONG)
    assert checked.repertoire is not None
    actions, triggers = len(checked.repertoire.actions), len(checked.repertoire.triggers)
    typer.echo(f"{config_dir}: in order: {actions} actions, {triggers} triggers, {checked.cases_run} cases passed")


@app.command()
def schema(
    kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join((*KINDS, *MESSAGES))}; none: all.")] = None,
) -> None:
    """Print the JSON Schema of a kind of configuration file or of a message."""
    known: dict[str, Callable[[str], dict[str, Any]]] = dict.fromkeys(KINDS, schema_of)
    known |= dict.fromkeys(MESSAGES, message_schema)
    if kind is not None and kind not in known:
        _complain(f"no schema {kind!r}; expected one of {', '.join(known)}")
        raise typer.Exit(USAGE)
    shown = known[kind](kind) if kind is not None else {each: make(each) for each, make in known.items()}
    typer.echo(json.dumps(shown, indent=2))


@app.command()
def replay(
    signals: Annotated[Path, typer.Argument(metavar="SIGNALS.jsonl", exists=True, dir_okay=False, readable=True)],
    config: Annotated[Path, typer.Option(metavar="DIR", help="Directory of YAML files.")],
    outcomes: Annotated[Path | None, typer.Option(help="Outcomes to play in between.", exists=True)] = None,
    decisions: Annotated[
        Path | None, typer.Option(metavar="OUT.jsonl", help="Where decisions go; - for stdout.")
    ] = None,
    rejects: Annotated[Path | None, typer.Option(metavar="OUT.jsonl", help="Where rejects go.")] = None,
    seed: Annotated[int, typer.Option(help="Salt of every random draw; 0 is the live engine's.")] = 0,
) -> None:
    """Play recorded signals through the engine, without a broker: same input and seed, same bytes out."""
    repertoire = msgspec.structs.replace(_load(config), seed=seed)
    with ExitStack() as stack:
        source = stack.enter_context(signals.open("rb"))
        answers = stack.enter_context(outcomes.open("rb")) if outcomes is not None else None
        made, refused = (_output(path, stack) for path in (decisions, rejects))
        progress = stack.enter_context(_progress())
        task = progress.add_task("Replay", total=signals.stat().st_size)
        totals = replay_files(
            repertoire, source, answers, made, refused, lambda line: progress.advance(task, len(line.value) + 1)
        )
    said = (
        f"{totals.signals} signals, {totals.outcomes} outcomes → {totals.decisions} decisions, {totals.rejects} rejects"
    )
    typer.echo(said, err=True)


@app.command()
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
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Tell what recorded decisions earned, and what a configuration would have earned in their place."""
    from agents import proof  # noqa: PLC0415 - River takes a second to import

    _tell(lambda: proof.evaluated(logs, config, reward.value, as_json=as_json))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", exists=True, help="A configuration, or a log of decisions.")],
    b: Annotated[Path, typer.Argument(metavar="B", exists=True, help="What to compare it with, of the same sort.")],
    signals: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="Recorded signals and outcomes to play; for configurations."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Tell what B changes against A: how many decisions, for whom, their value, and who is left with no action."""
    from agents import proof  # noqa: PLC0415 - River takes a second to import

    _tell(lambda: proof.compared(a, b, signals or [], as_json=as_json))


@app.command("topics")
def topics_command(
    config_dir: ConfigDir,
    apply: Annotated[bool, typer.Option("--apply", help="Create what is missing.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Show the topics the engine needs and which of them exist; create them with --apply."""
    repertoire = _load(config_dir)
    settings = _settings(repertoire, bootstrap=bootstrap)
    inspection = _ask_broker(settings.bootstrap, _inspect_topics(settings, _topics_of(repertoire), apply=apply))
    _show_topics(settings, _topics_of(repertoire), inspection, applied=apply)
    if inspection.mismatched or (inspection.missing and not apply):
        raise typer.Exit(WRONG)


@app.command()
def profile(
    customer: Annotated[str, typer.Argument(help="Customer id, or an identifier such as anonymousId:a1.")],
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
) -> None:
    """Show what the engine knows about a customer."""
    settings = _read_settings(bootstrap=bootstrap, prefix=prefix)
    found = _ask_broker(settings.bootstrap, lookup.find_profile(settings.bootstrap, settings.prefix, customer))
    if found is None:
        _complain(f"nobody is known as {customer!r}")
        raise typer.Exit(WRONG)
    shown = msgspec.to_builtins(found)
    shown["outbox"] = len(found.outbox)
    typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))


@app.command()
def explain(
    decision: Annotated[str, typer.Argument(help="A decisionId.")],
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
) -> None:
    """Say in words why a decision was made, and what else was not chosen and why."""
    settings = _read_settings(bootstrap=bootstrap, prefix=prefix)
    found = _ask_broker(settings.bootstrap, lookup.find_decision(settings.bootstrap, settings.prefix, decision))
    if found is None:
        _complain(f"no decision {decision!r} in {settings.prefix}decisions")
        raise typer.Exit(WRONG)
    typer.echo(explain_decision(found))


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the configuration goes; must not exist.")],
    example: Annotated[Example, typer.Option(help="Which example to start from.")] = Example.retail,
) -> None:
    """Write a starting configuration."""
    if directory.exists() and any(directory.iterdir() if directory.is_dir() else [directory]):
        _complain(f"{directory} exists and is not empty; name a new directory")
        raise typer.Exit(WRONG)
    with as_file(files("config") / "repertoires" / example.value) as source:
        shutil.copytree(source, directory, dirs_exist_ok=True)
    typer.echo(f"{directory}: the {example.value} example. Next: batuta check {directory}")


# --- What commands share ---


def _load(directory: Path) -> Repertoire:
    return load_directory(directory)


def _read_settings(**given: Any) -> Settings:
    return read_settings(os.environ, **given)


def _settings(repertoire: Repertoire, **given: Any) -> Settings:
    """Settings of a worker: topics as configured, and a group of its own for each engine unless told otherwise."""
    group = None if os.environ.get("BATUTA_GROUP") else f"batuta-{repertoire.name}"
    return _read_settings(prefix=repertoire.prefix, partitions=repertoire.partitions, group=group, **given)


def _apprentice(live: Repertoire, directory: Path) -> Apprentice:
    """A second configuration to be asked beside the live one; exits with 1 when it cannot be."""
    repertoire = _load(directory)
    found = obstacles(live, repertoire)
    for each in found:
        _complain(f"{directory} cannot be an apprentice: {each}")
    if found:
        raise typer.Exit(WRONG)
    if not repertoire.models:
        return Apprentice(repertoire, PriorScorer(repertoire))
    from models.scorer import ModelScorer  # noqa: PLC0415 - River takes a second to import

    return Apprentice(repertoire, ModelScorer(repertoire))


def _require_learners(repertoire: Repertoire, settings: Settings) -> None:
    """Exit with 1 and one line for each fault when the configured learners cannot be run."""
    from agents.learner import unusable  # noqa: PLC0415 - River takes a second to import

    faults = unusable(repertoire, settings.signing_key)
    for fault in faults:
        _complain(fault)
    if faults:
        raise typer.Exit(WRONG)


def _topics_of(repertoire: Repertoire) -> tuple[topics.Topic, ...]:
    return topics.needed(channel.id for channel in repertoire.channels.values() if channel.topic)


async def _inspect_topics(settings: Settings, needed: Sequence[topics.Topic], *, apply: bool) -> topics.Inspection:
    async with asyncio.timeout(CONNECT_SECONDS):
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
        try:
            await admin.start()
            found = await topics.inspect(admin, needed, settings.prefix, settings.partitions)
            if apply and not found.mismatched:
                await topics.create(admin, found.missing, settings.prefix, settings.partitions)
            return found
        finally:
            await admin.close()


def _show_topics(
    settings: Settings, needed: Sequence[topics.Topic], found: topics.Inspection, *, applied: bool
) -> None:
    missing = {each.role for each in found.missing}
    wrong = {each.topic: each.sentence for each in found.mismatched}
    rows = [("topic", "key", "partitions", "cleanup", "state")]
    for topic in needed:
        name = f"{settings.prefix}{topic.role}"
        state = "created" if topic.role in missing and applied else "missing" if topic.role in missing else "there"
        count = str(topics.partition_count(topic, settings.partitions))
        rows.append((name, topic.key, count, topic.cleanup, "wrong" if name in wrong else state))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for sentence in wrong.values():
        _complain(sentence)


def _ask_broker(bootstrap: str, question: Any) -> Any:
    """Run a coroutine against Kafka; exits with 3 and one line when it cannot be reached."""
    try:
        return asyncio.run(question)
    except (KafkaError, TimeoutError) as error:
        _complain(f"cannot reach Kafka at {bootstrap}: {error or 'no answer'}")
        raise typer.Exit(NO_BROKER) from error
    except LookupError as error:
        _complain(str(error))
        raise typer.Exit(WRONG) from error


def _output(path: Path | None, stack: ExitStack) -> BinaryIO | None:
    if path is None:
        return None
    return sys.stdout.buffer if str(path) == "-" else stack.enter_context(path.open("wb"))


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def _tell(answer: Callable[[], str]) -> None:
    """Print an answer; exits with 1 and one line when there is none."""
    try:
        typer.echo(answer())
    except ValueError as error:
        _complain(str(error))
        raise typer.Exit(WRONG) from error


def _complain(sentence: str) -> None:
    typer.echo(sentence, err=True)


@contextmanager
def _failing_plainly() -> Iterator[None]:
    """Turn what is expected to go wrong into one line each and an exit code."""
    try:
        yield
    except ConfigInvalid as error:
        for fault in error.faults:
            _complain(str(fault))
        sys.exit(WRONG)
    except (InvalidSettings, TopicsUnusable) as error:
        _complain(str(error))
        sys.exit(WRONG)
    except BrokerUnavailable as error:
        _complain(str(error))
        sys.exit(NO_BROKER)
    except (OSError, UnicodeDecodeError) as error:
        _complain(f"{type(error).__name__}: {error}")
        sys.exit(WRONG)


def main() -> None:
    """Run the command line; `--debug` anywhere lets exceptions through with their traceback."""
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        app()
    with _failing_plainly():
        app()
