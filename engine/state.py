"""State in memory: what one partition remembers, for replays, tests and benchmarks. The worker's is `agents.tables`."""

from __future__ import annotations

from collections import deque

import msgspec

from engine.budgets import Spending
from engine.identity import Identity
from engine.profile import Profile


class MemoryState(msgspec.Struct):
    """Plain dictionaries with the face of a partition's tables."""

    profiles: dict[str, Profile] = {}
    identities: dict[str, Identity] = {}
    budgets: dict[str, Spending] = {}
    committed: dict[str, int] = {}
    moved: deque[tuple[int, str]] = msgspec.field(default_factory=deque)
