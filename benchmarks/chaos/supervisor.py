"""The supervisor: keeps workers running, as systemd or Kubernetes would: whoever ends is started again."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import NamedTuple, Self

from agents.children import Children

RESTART_SECONDS = 0.5
"""Between the end of a worker and its next start."""
STOP_SECONDS = 45.0
_WATCH_SECONDS = 0.1
_ASK_SECONDS = 2.0


class Exit(NamedTuple):
    """A worker's end: its name, when, its status, and its last line."""

    name: str
    at: float
    status: int
    said: str


class Supervisor:
    """Workers by name, each with the command that starts it. Use it as a context manager; safe between threads."""

    def __init__(self, children: Children) -> None:
        self.exits: list[Exit] = []
        """Every end that nobody asked for by `remove`, in order."""
        self._children = children
        self._commands: dict[str, Sequence[str]] = {}
        self._ended: dict[str, float] = {}
        self._before: dict[str, int] = {}
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def add(self, name: str, command: Sequence[str]) -> None:
        """Start a worker and keep it running."""
        with self._lock:
            self._commands[name] = command
            self._start(name)

    def remove(self, name: str, how: signal.Signals = signal.SIGTERM) -> int:
        """Stop a worker for good; returns the status it ended with, 0 when it was not running this moment."""
        with self._lock:
            del self._commands[name]
            self._ended.pop(name, None)
            if not self._children.alive(name):
                return 0
            os.kill(self._children.pid(name), how)
        return self._children.wait(name, STOP_SECONDS)

    def send(self, name: str, number: signal.Signals) -> bool:
        """Send a signal to a worker; False when it is not running this moment."""
        with self._lock:
            if not self._children.alive(name):
                return False
            os.kill(self._children.pid(name), number)
            return True

    def pid(self, name: str) -> int | None:
        """The process id of a worker, or None when it is not running this moment."""
        with self._lock:
            return self._children.pid(name) if self._children.alive(name) else None

    def names(self) -> list[str]:
        """The workers kept running."""
        with self._lock:
            return sorted(self._commands)

    def partitions(self, name: str) -> list[int]:
        """The partitions a worker serves, as its web port says; none while it is not ready or does not answer."""
        port = re.search(r"web port (\d+)", self._said(name))
        if port is None:
            return []
        with suppress(OSError, ValueError):
            url = f"http://127.0.0.1:{port[1]}/readyz"
            with urllib.request.urlopen(url, timeout=_ASK_SECONDS) as answer:
                return list(json.load(answer)["partitions"])
        return []

    def _watch(self) -> None:
        while not self._over.wait(_WATCH_SECONDS):
            with self._lock:
                for name in self._commands:
                    self._look_after(name)

    def _look_after(self, name: str) -> None:
        if self._children.alive(name):
            return
        if name not in self._ended:
            self._ended[name] = monotonic()
            said = self._said(name).strip().rpartition("\n")[2]
            self.exits.append(Exit(name, monotonic(), self._children.wait(name, 0), said))
        elif monotonic() - self._ended[name] > RESTART_SECONDS:
            self._start(name)

    def _said(self, name: str) -> str:
        """What a worker printed since its last start."""
        return self._out(name).read_bytes()[self._before.get(name, 0) :].decode("utf-8", "replace")

    def _out(self, name: str) -> Path:
        return self._children.directory / f"{name}.out"

    def _start(self, name: str) -> None:
        self._before[name] = self._out(name).stat().st_size if self._out(name).exists() else 0
        self._ended.pop(name, None)
        self._children.start(name, self._commands[name])
