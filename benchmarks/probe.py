"""A worker seen from outside: its web pages, and what Linux tells of its process (proc(5))."""

from __future__ import annotations

import os
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

_ASK_SECONDS = 30.0


def page(port: int, path: str) -> str | None:
    """A page of a worker on this machine; None when it does not answer, or not with 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=_ASK_SECONDS) as response:
            return bytes(response.read()).decode()
    except (urllib.error.URLError, OSError):
        return None


def is_ready(port: int) -> bool:
    """Whether the worker serves its partitions."""
    return page(port, "/readyz") is not None


def total(metrics: str, name: str) -> float:
    """The sum of all samples of a metric, whatever their labels; 0.0 without any."""
    return sum(map(float, re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", metrics, re.MULTILINE)))


def sums(port: int, name: str) -> Mapping[str, tuple[float, float]]:
    """Sum of seconds and count of a worker's histogram, by the value of its label; "": it has none. {}: no answer."""
    text = page(port, "/metrics") or ""
    seconds, counts = (
        dict(re.findall(rf'^{name}_{part}(?:\{{\w+="([^"]*)"\}})? (\S+)$', text, re.MULTILINE))
        for part in ("sum", "count")
    )
    return {label: (float(seconds[label]), float(counts[label])) for label in seconds}


def resident(pid: int) -> int:
    """Bytes of memory a process has."""
    pages = Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    """File descriptors a process has open, sockets among them."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def threads(pid: int) -> int:
    """Threads of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
