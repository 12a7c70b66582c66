"""The faults: what is done to workers, their networks and the brokers, by name."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

from agents.broker import KafkaBroker, Network
from agents.children import Children
from benchmarks.chaos.clocks import NOTICED_SECONDS, Clock
from benchmarks.chaos.notes import Injection
from benchmarks.chaos.supervisor import Supervisor

BLACKOUT_SECONDS = 30.0
_KILL, _TERM = signal.SIGKILL, signal.SIGTERM
_OWN_MOUNTS = ("unshare", "--map-root-user", "--mount")
_DISK = "96m"
"""Size of a file system that is filled."""
_DAMAGED = 3
"""So many files of a local state are damaged at once."""
_STOP_SECONDS = 5.0
_NOTICED_SECONDS = NOTICED_SECONDS + 0.5
STEP_SECONDS = 3_600
"""By how much a clock is set forward or back."""
_EARLY, _SHARE_SECONDS, _POLL_SECONDS = 0.3, 30.0, 0.2
"""How often a worker that joined leaves before it serves; how long it may take to; how often it is asked."""


class CannotStrike(Exception):
    """A fault has nothing to act on; the text says what is missing."""


class Stage:
    """What faults act on: the workers of a `supervisor`, and learners of another one. `join(name)`: starts a further
    worker. `networks`, `states`, `clocks`: networks, directories of local state and clocks of workers that have them,
    by their names. `session_seconds`: silence after which the group gives a worker up. `broker`: None where it is not
    ours.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        learners: Supervisor,
        children: Children,
        join: Callable[[str], None],
        *,
        partitions: int,
        session_seconds: float,
        networks: Mapping[str, Network],
        states: Mapping[str, Path],
        clocks: Mapping[str, Clock],
        broker: KafkaBroker | None,
    ) -> None:
        self.supervisor = supervisor
        self.learners = learners
        self.join = join
        self.partitions = range(partitions)
        self.session_seconds = session_seconds
        self.networks = networks
        self.states = states
        self.clocks = clocks
        self.joined = 0
        self.turn = 0
        self._children = children
        self._broker = broker
        self._broker_lock = threading.Lock()

    @contextmanager
    def broker(self) -> Iterator[KafkaBroker]:
        """The broker, for one at a time. Raises `CannotStrike` where it is not ours to touch."""
        if self._broker is None:
            raise CannotStrike("this fault needs a broker of its own; choose one that spares the broker")
        with self._broker_lock:
            yield self._broker

    # --- Networks ---

    def open_network(self, name: str) -> None:
        """Have the network of a worker pass bytes on."""
        network = self.networks[name]
        routes = [f"{way_in}:{out}" for way_in, out in zip(network.entrances, network.exits, strict=True)]
        self._children.start(f"network-{name}", [sys.executable, "-m", "benchmarks.chaos.relay", *routes])

    def freeze_network(self, name: str, *, frozen: bool) -> None:
        """Have a network swallow everything, or pass it on again."""
        os.kill(self._children.pid(f"network-{name}"), signal.SIGSTOP if frozen else signal.SIGCONT)

    def close_network(self, name: str) -> None:
        """Have a network reset all connections and refuse new ones."""
        self._children.stop(f"network-{name}", _KILL, _STOP_SECONDS)

    # --- How they do ---

    def wait_for_share(self, name: str) -> None:
        """Wait until a worker serves partitions; not for ever."""
        deadline = monotonic() + _SHARE_SECONDS
        while not self.supervisor.partitions(name) and monotonic() < deadline:
            sleep(_POLL_SECONDS)

    def is_whole(self) -> bool:
        """Whether every worker serves, and every partition is served."""
        served = [self.supervisor.partitions(name) for name in self.supervisor.names()]
        return all(served) and set(self.partitions) == {number for numbers in served for number in numbers}


Strike = Callable[[Stage, random.Random], Injection]


class Fault(NamedTuple):
    """One fault: what it does, in words, and what does it; `strike` returns when the fault is over."""

    does: str
    strike: Strike


def _injection(fault: str, at: float, partitions: Collection[int]) -> Injection:
    return Injection(fault, at, monotonic(), sorted(partitions))


# --- Workers and learners ---


Whom = Callable[[Stage], Supervisor]


def _workers(stage: Stage) -> Supervisor:
    return stage.supervisor


def _learners(stage: Stage) -> Supervisor:
    """Those that only learn: they serve no partition, and interrupt none."""
    if not stage.learners.names():
        raise CannotStrike("this fault needs learners; choose one that strikes workers")
    return stage.learners


def _signalled(fault: str, number: signal.Signals, whom: Whom = _workers) -> Strike:
    def strike(stage: Stage, draw: random.Random) -> Injection:
        supervisor = whom(stage)
        name = draw.choice(supervisor.names())
        partitions, at = supervisor.partitions(name), monotonic()
        supervisor.send(name, number)
        return _injection(fault, at, partitions)

    return strike


def _kill_all(stage: Stage, _: random.Random) -> Injection:
    at = monotonic()
    for name in stage.supervisor.names():
        stage.supervisor.send(name, _KILL)
    return _injection("kill-all", at, stage.partitions)


def _frozen(fault: str, sessions: float, whom: Whom = _workers) -> Strike:
    def strike(stage: Stage, draw: random.Random) -> Injection:
        supervisor = whom(stage)
        name = draw.choice(supervisor.names())
        partitions, at = supervisor.partitions(name), monotonic()
        supervisor.send(name, signal.SIGSTOP)
        sleep(sessions * stage.session_seconds)
        supervisor.send(name, signal.SIGCONT)
        return _injection(fault, at, partitions)

    return strike


def _join_and_leave(stage: Stage, draw: random.Random) -> Injection:
    """A worker joins, and leaves before or after it has got its share."""
    name = f"guest-{stage.joined}"
    stage.joined += 1
    stage.join(name)
    early = draw.random() < _EARLY
    sleep(draw.uniform(1.0, 3.0))
    if not early:
        stage.wait_for_share(name)
    partitions, at = stage.supervisor.partitions(name), monotonic()
    stage.supervisor.remove(name, draw.choice((_TERM, _KILL)))
    return _injection("rebalance", at, partitions)


# --- Networks ---


def _cut(fault: str, sessions: float) -> Strike:
    def strike(stage: Stage, draw: random.Random) -> Injection:
        name = draw.choice(sorted(stage.networks))
        partitions, at = stage.supervisor.partitions(name), monotonic()
        stage.freeze_network(name, frozen=True)
        sleep(sessions * stage.session_seconds)
        stage.freeze_network(name, frozen=False)
        return _injection(fault, at, partitions)

    return strike


def _reset(stage: Stage, draw: random.Random) -> Injection:
    name = draw.choice(sorted(stage.networks))
    partitions, at = stage.supervisor.partitions(name), monotonic()
    stage.close_network(name)
    sleep(draw.uniform(0.0, 2.0))
    stage.open_network(name)
    return _injection("reset", at, partitions)


# --- Local state ---


def _corrupt_state(stage: Stage, draw: random.Random) -> Injection:
    """Bytes of a worker's files change, then it is killed: it must not believe what it finds when it is back."""
    name = draw.choice(sorted(stage.states))
    files = sorted(each for each in stage.states[name].rglob("*") if each.is_file() and each.stat().st_size)
    if not files:
        raise CannotStrike(f"{name} has no local state in {stage.states[name]} that could be corrupted")
    partitions, at = stage.supervisor.partitions(name), monotonic()
    for path in draw.sample(files, min(_DAMAGED, len(files))):
        _damage(path, draw)
    stage.supervisor.send(name, _KILL)
    return _injection("state-corrupted", at, partitions)


def _damage(path: Path, draw: random.Random) -> None:
    """Overwrite some bytes of a file, or cut it short."""
    with suppress(FileNotFoundError), path.open("r+b") as file:
        at = draw.randrange(path.stat().st_size)
        if draw.random() < 0.3:
            file.truncate(at)
        else:
            file.seek(at)
            file.write(draw.randbytes(64))


def _fill_disk(stage: Stage, draw: random.Random) -> Injection:
    """The file system of a worker, which is its own, has no byte left for a while."""
    name = draw.choice(sorted(stage.states))
    pid, partitions, at = stage.supervisor.pid(name), stage.supervisor.partitions(name), monotonic()
    if pid is not None:
        ballast = Path(f"/proc/{pid}/root{stage.states[name]}") / "ballast"
        with suppress(FileNotFoundError):
            _fill(ballast)
            sleep(stage.session_seconds)
            ballast.unlink()
    return _injection("disk-full", at, partitions)


def _fill(ballast: Path) -> None:
    """Write until the file system refuses. OSError for any other reason than that it is full."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 10, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def has_small_disks() -> bool:
    """Whether this system lets a process have a file system of its own."""
    try:
        return subprocess.run([*_OWN_MOUNTS, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def on_a_small_disk(directory: Path, command: Sequence[str]) -> list[str]:
    """The command, on a file system of its own in `directory` that vanishes with it; Linux, with user namespaces."""
    mount = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'
    return [*_OWN_MOUNTS, "sh", "-c", mount, "sh", _DISK, str(directory), *command]


# --- Clocks ---


def _clock_off(fault: str, seconds: int) -> Strike:
    """The clock of a worker is set, and set right again after a while."""

    def strike(stage: Stage, draw: random.Random) -> Injection:
        name = draw.choice(sorted(stage.clocks))
        partitions, at = stage.supervisor.partitions(name), monotonic()
        stage.clocks[name].put(seconds)
        sleep(draw.uniform(3.0, 8.0))
        # Who is killed meanwhile comes back by the wrong clock.
        stage.wait_for_share(name)
        sleep(_NOTICED_SECONDS)
        stage.clocks[name].put(0)
        return _injection(fault, at, partitions)

    return strike


# --- Brokers ---


def _broker_down(fault: str, how: signal.Signals) -> Strike:
    def strike(stage: Stage, draw: random.Random) -> Injection:
        with stage.broker() as broker:
            node = broker.nodes[stage.turn % len(broker.nodes)]
            stage.turn += 1
            at = monotonic()
            broker.stop_node(node, how)
            sleep(draw.uniform(0.5, 3.0))
            broker.start_node(node)
        return _injection(fault, at, stage.partitions)

    return strike


def _blackout(stage: Stage, _: random.Random) -> Injection:
    with stage.broker() as broker:
        at = monotonic()
        for node in broker.nodes:
            broker.stop_node(node, _KILL)
        sleep(BLACKOUT_SECONDS)
        broker.start_nodes(broker.nodes)
    return _injection("blackout", at, stage.partitions)


FAULTS: Mapping[str, Fault] = {
    "kill": Fault("a worker is killed without warning", _signalled("kill", _KILL)),
    "kill-all": Fault("all workers are killed at once", _kill_all),
    "terminate": Fault("a worker is told to stop, and started again", _signalled("terminate", _TERM)),
    "freeze": Fault("a worker is frozen for longer than its session, then thaws", _frozen("freeze", 1.6)),
    "blink": Fault("a worker is frozen for a third of its session", _frozen("blink", 0.33)),
    "rebalance": Fault("a further worker joins, and leaves or is killed soon after", _join_and_leave),
    "cut": Fault("a worker's network swallows everything for longer than its session", _cut("cut", 1.6)),
    "hiccup": Fault("a worker's network swallows everything for a third of its session", _cut("hiccup", 0.33)),
    "reset": Fault("all connections of a worker are reset, new ones refused for up to 2 s", _reset),
    "state-corrupted": Fault("files of a worker's local state are damaged, and it is killed", _corrupt_state),
    "disk-full": Fault("the disk of a worker's local state is full for one session", _fill_disk),
    "clock-forward": Fault(
        "a worker's clock is set forward by an hour, and right again", _clock_off("clock-forward", STEP_SECONDS)
    ),
    "clock-back": Fault(
        "a worker's clock is set back by an hour, and right again", _clock_off("clock-back", -STEP_SECONDS)
    ),
    "learner-kill": Fault("a learner is killed without warning", _signalled("learner-kill", _KILL, _learners)),
    "learner-terminate": Fault(
        "a learner is told to stop, and started again", _signalled("learner-terminate", _TERM, _learners)
    ),
    "learner-freeze": Fault(
        "a learner is frozen for longer than its session, then thaws", _frozen("learner-freeze", 1.6, _learners)
    ),
    "broker-kill": Fault("a broker, each in turn, is killed and started again", _broker_down("broker-kill", _KILL)),
    "broker-restart": Fault("a broker is stopped in order and started again", _broker_down("broker-restart", _TERM)),
    "blackout": Fault(f"all brokers are killed and away for {BLACKOUT_SECONDS:.0f} s", _blackout),
}
"""What can be done, by name."""

NETWORK_FAULTS, STATE_FAULTS = frozenset({"cut", "hiccup", "reset"}), frozenset({"state-corrupted", "disk-full"})
CLOCK_FAULTS = frozenset({"clock-forward", "clock-back"})
LEARNER_FAULTS = frozenset({"learner-kill", "learner-terminate", "learner-freeze"})
"""Those that need workers with networks, with state or with clocks of their own, and those that strike learners."""
