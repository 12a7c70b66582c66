"""Child processes end with this process, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents.children import Children

_PARENT = """
import signal, sys, time
from agents.children import Children
# Whoever runs the tests in the background of a shell hands down an interrupt that is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
children = Children()
children.start("sleeper", ["sleep", "600"])
print(children.pid("sleeper"), children.directory, flush=True)
if sys.argv[1] == "wait":
    time.sleep(600)
"""


@pytest.fixture
def children() -> Iterator[Children]:
    """Children of this test, gone after it."""
    started = Children()
    yield started
    started.close()


def _soon(promise: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not promise() and time.monotonic() < deadline:
        time.sleep(0.02)
    return promise()


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def _start_parent(then: str) -> tuple[subprocess.Popen[str], int, Path]:
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, then],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        start_new_session=True,
    )
    assert parent.stdout is not None
    with parent.stdout as said:
        pid, directory = said.readline().split()
    return parent, int(pid), Path(directory)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_parent_takes_its_children_along(how: signal.Signals):
    """A signal to the parent, even one it cannot handle, ends the child and deletes the directory."""
    parent, pid, directory = _start_parent("wait")
    assert not _gone(pid)
    assert directory.is_dir()
    parent.send_signal(how)
    parent.wait()
    assert _soon(lambda: _gone(pid))
    assert _soon(lambda: not directory.exists())


def test_parent_that_ends_takes_its_children_along():
    """A parent that forgets to close leaves nothing behind."""
    parent, pid, directory = _start_parent("end")
    assert parent.wait() == 0
    assert _gone(pid)
    assert not directory.exists()


def test_close_ends_children_and_deletes_the_directory(children: Children):
    """After close nothing is left, and closing again is harmless."""
    children.start("sleeper", ["sleep", "600"])
    pid = children.pid("sleeper")
    children.close()
    assert _gone(pid)
    assert not children.directory.exists()
    children.close()


def test_stubborn_child_is_killed(children: Children):
    """A child that ignores the signal is gone when stop returns."""
    children.start("stubborn", ["/bin/sh", "-c", 'trap "" TERM; echo ready; while :; do sleep 0.05; done'])
    assert _soon(lambda: children.last_words("stubborn") == "ready")
    pid = children.pid("stubborn")
    children.stop("stubborn", signal.SIGTERM, timeout_seconds=0.2)
    assert _gone(pid)
    assert not children.alive("stubborn")


def test_child_that_ended_can_be_stopped_and_started_again(children: Children):
    """Stopping a child that is gone is no error, and its name is free again."""
    for _ in range(2):
        children.start("brief", ["true"])
        assert _soon(lambda: not children.alive("brief"))
        children.stop("brief", signal.SIGTERM, timeout_seconds=1)


def test_running_child_cannot_be_started_twice(children: Children):
    """One name, one process."""
    children.start("sleeper", ["sleep", "600"])
    with pytest.raises(RuntimeError, match="sleeper is already running"):
        children.start("sleeper", ["sleep", "600"])


def test_exit_status_and_last_words_are_reported(children: Children):
    """What a child printed before it failed can be told to a person."""
    children.start("failing", ["/bin/sh", "-c", "echo no such disk >&2; exit 7"])
    assert children.wait("failing", timeout_seconds=5) == 7
    assert children.last_words("failing") == "no such disk"
    assert children.last_words("never started") == "it said nothing"
