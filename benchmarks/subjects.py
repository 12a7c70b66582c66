"""The subjects: who does the same work side by side, and how each is started."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import workload
from benchmarks.load import LoadFailed
from benchmarks.probe import free_port
from benchmarks.stream import PARTITIONS, Subject

CANDIDATES = 100
PEERS = Path(sys.prefix) / "stream-peers"
"""The environment of its own that `make bench` gives the frameworks whose dependencies clash with ours."""

BATUTA, QUIXSTREAMS, FAUST = "batuta", "quixstreams", "faust"
AIOKAFKA, CONFLUENT, ECHO = "aiokafka-loop", "confluent-loop", "echo"


def batuta(bootstrap: str, directory: Path, settings: Sequence[str] = ()) -> Subject:
    """A worker as users start it. `settings`: NAME=value."""
    port = free_port()

    def command(prefix: str) -> list[str]:
        config = directory / prefix
        config.mkdir()
        workload.write_config(config, CANDIDATES, prefix=prefix, partitions=PARTITIONS)
        return worker(config, bootstrap, [f"BATUTA_GROUP={prefix}batuta", *settings], port)

    return Subject(BATUTA, command, port)


def worker(config: Path, bootstrap: str, settings: Sequence[str], port: int = 0) -> list[str]:
    """The command of a worker as users start it. `settings`: NAME=value; `port`: of its web server, 0: a free one."""
    command = [sys.executable, "-m", "agents", "up", str(config), "--bootstrap", bootstrap, "--web-port", str(port)]
    return ["env", *settings, *command]


def aiokafka_loop(bootstrap: str) -> Subject:
    """The same work by a loop on aiokafka."""
    return _script(AIOKAFKA, "benchmarks.bare_loop", bootstrap)


def confluent_loop(bootstrap: str) -> Subject:
    """The same work by a loop on confluent-kafka."""
    return _script(CONFLUENT, "benchmarks.confluent_loop", bootstrap)


def faust(bootstrap: str) -> Subject:
    """The same work by an app on plain Faust."""
    return _script(FAUST, "benchmarks.faust_app", bootstrap)


def quixstreams(bootstrap: str, directory: Path) -> Subject:
    """The same work by an app on quixstreams. Raises `LoadFailed` when its environment is not there."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        raise LoadFailed(f"quixstreams is not installed in {PEERS}; `make bench` does that")
    script = [str(python), "-m", "benchmarks.quix_app", bootstrap]
    return Subject(
        QUIXSTREAMS,
        lambda prefix: [*script, prefix, str(CANDIDATES), str(PARTITIONS), str(directory / f"{prefix}rocks")],
    )


def echo(bootstrap: str, answer_bytes: int) -> Subject:
    """No work: as many bytes back as a decision has."""
    script = [sys.executable, "-m", "benchmarks.echo", bootstrap]
    return Subject(ECHO, lambda prefix: [*script, prefix, str(answer_bytes)])


def _script(name: str, module: str, bootstrap: str) -> Subject:
    script = [sys.executable, "-m", module, bootstrap]
    return Subject(name, lambda prefix: [*script, prefix, str(CANDIDATES), str(PARTITIONS)])
