"""Child processes that cannot outlive this one: what `agents.broker` starts. Linux and macOS."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Reads until its standard input closes, which happens when this process ends, however it ends.
_WATCHDOG = """
read -r _
for file in "$1"/*.pid; do
  [ -e "$file" ] && kill -KILL "-$(cat "$file")" && sleep 1
done
rm -rf -- "$1"
"""
_KILL_TIMEOUT_SECONDS = 30.0


class Children:
    """Child processes of one broker and their directory; neither outlives this process.

    A watchdog holds the reading end of a pipe. The pipe closes when this process ends, by exit, signal or
    crash; the watchdog then kills what is left and deletes the directory. Each child leads its own process
    group, so that Ctrl-C reaches the worker and not the broker it still has to drain to.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="batuta-broker-"))
        self._owner = os.getpid()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "batuta-watchdog", str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(self.close)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a child; what it prints goes to `<name>.out`."""
        if self.alive(name):
            raise RuntimeError(f"{name} is already running")
        with (self.directory / f"{name}.out").open("ab") as out:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[name] = child
        (self.directory / f"{name}.pid").write_text(str(child.pid), encoding="ascii")

    def alive(self, name: str) -> bool:
        """Whether the child was started and has not ended."""
        return name in self._children and self._children[name].poll() is None

    def pid(self, name: str) -> int:
        """Process id of a child that was started and not stopped."""
        return self._children[name].pid

    def wait(self, name: str, timeout_seconds: float) -> int:
        """Wait for a child to end by itself and return its exit status; kills it when it takes too long."""
        child = self._children[name]
        try:
            status = child.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            status = child.wait()
        del self._children[name]
        (self.directory / f"{name}.pid").unlink(missing_ok=True)
        return status

    def stop(self, name: str, how: signal.Signals, timeout_seconds: float) -> None:
        """Send a signal to a child and wait until it is gone; `SIGKILL` follows when it takes too long."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._children[name].pid, how)
        self.wait(name, timeout_seconds)

    def close(self) -> None:
        """Kill every child and delete the directory; harmless when repeated or in a fork of this process."""
        if os.getpid() != self._owner or self._watchdog.stdin is None or self._watchdog.stdin.closed:
            return
        atexit.unregister(self.close)
        for name in list(self._children):
            self.stop(name, signal.SIGKILL, _KILL_TIMEOUT_SECONDS)
        self._watchdog.stdin.close()
        self._watchdog.wait()

    def last_words(self, name: str) -> str:
        """The end of what a child logged and printed, in one line and without Java's stack frames."""
        texts = [self.directory / f"{name}{suffix}" for suffix in (".log", ".out")]
        said = "\n".join(text.read_text("utf-8", "replace") for text in texts if text.exists())
        lines = [line.strip() for line in said.splitlines()]
        return " ".join(line for line in lines if not line.startswith("at "))[-600:] or "it said nothing"
