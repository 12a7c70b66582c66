"""Wrong clocks: what has the wall clock of one process set while it runs. Linux on x86-64, with libfaketime.

The library answers before the C library does, and reads from a file by how much to be off. The monotonic clock stays
as it is, as it does when an operator or NTP sets a machine's clock.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

NOTICED_SECONDS = 1
"""How long a process may go by the offset it knows; to look at every call would cost it fifty times the call."""
_LIBRARY = Path("vendor", "libfaketime", "src", "libfaketime.so.1")


def has_clocks() -> bool:
    """Whether this system lets a process have a clock of its own."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and find_spec("libfaketime") is not None


def sweep() -> None:
    """Remove what the library left behind of processes that were killed: it stops one that is given an old number."""
    for left in Path("/dev/shm").glob("*faketime_*"):  # noqa: S108 - where the library keeps it
        number = left.name.rpartition("_")[2]
        if number.isdecimal() and not Path("/proc", number).exists():
            left.unlink(missing_ok=True)


class Clock:
    """The wall clock of one process, right until it is set. `file`: where it is said by how much it is off."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.put(0)

    def put(self, seconds: int) -> None:
        """Set it forward or, with a negative number, back from the right time."""
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_text(f"{seconds:+d}\n", "ascii")
        unfinished.rename(self._file)

    def on(self, command: Sequence[str]) -> list[str]:
        """The command, by this clock. RuntimeError where there is no library."""
        found = find_spec("libfaketime")
        if found is None or found.origin is None:
            raise RuntimeError("libfaketime is not installed; `make setup` does it on Linux on x86-64")
        settings = {
            "LD_PRELOAD": Path(found.origin).parent / _LIBRARY,
            "FAKETIME_TIMESTAMP_FILE": self._file,
            "FAKETIME_CACHE_DURATION": NOTICED_SECONDS,
            "DONT_FAKE_MONOTONIC": 1,
        }
        return ["env", *(f"{name}={value}" for name, value in settings.items()), *command]
