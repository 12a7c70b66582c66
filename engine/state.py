"""State: what one partition remembers. In memory for replays, tests and benchmarks; the worker's is `agents.tables`."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, MutableMapping
from typing import Protocol

import msgspec

from engine.budgets import Spending
from engine.identity import Identity
from engine.profile import Profile


class State(Protocol):
    """What one partition remembers. Putting a value back under its key is what marks it changed.

    Each value becomes durable by itself: after a crash every key may be as of any moment since the last outputs
    were sent. Who takes a partition over sends what `engine.delivery.resume` returns before anything is handled.
    """

    @property
    def profiles(self) -> MutableMapping[str, Profile]:
        """Canonical customer id → profile; also one that moved away, until the claim that moved it is committed."""
        ...

    @property
    def identities(self) -> MutableMapping[str, Identity]:
        """Identifier key → redirect."""
        ...

    @property
    def budgets(self) -> MutableMapping[str, Spending]:
        """Budget id → what this partition used of it."""
        ...

    @property
    def committed(self) -> Mapping[str, int]:
        """Role of a topic → offset below which its records need never be handled again."""
        ...

    @property
    def moved(self) -> deque[tuple[int, str]]:
        """Claims, by offset and identifier, whose moved profile is still kept; not durable, see `resume`."""
        ...


class MemoryState(msgspec.Struct):
    """Plain dictionaries with the face of a partition's tables."""

    profiles: dict[str, Profile] = {}
    identities: dict[str, Identity] = {}
    budgets: dict[str, Spending] = {}
    committed: dict[str, int] = {}
    moved: deque[tuple[int, str]] = msgspec.field(default_factory=deque)
