"""What a model remembers of single examples and decisions, within bounds."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np

SEEN = 20_000
SHOWN = 10_000
AWAITED = 4_096
ALL = 2**64 - 1
DAY_MS = 86_400_000


def hashed(name: str) -> int:
    """A name as 64 bits: among 20,000 remembered ones, a further name looks like one of them once in 10^15."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


class Recent:
    """The last `size` hashes, in order."""

    def __init__(self, size: int, hashes: Iterable[int] = ()) -> None:
        self._size = size
        self._order = deque(hashes)
        self._known = set(self._order)

    def __contains__(self, item: int) -> bool:
        return item in self._known

    def add(self, item: int) -> bool:
        """Remember one that is not remembered; True when the oldest had to go for it."""
        self._known.add(item)
        self._order.append(item)
        if len(self._order) <= self._size:
            return False
        self._known.remove(self._order.popleft())
        return True

    def dump(self) -> bytes:
        """Eight bytes for each."""
        return np.array(self._order, np.uint64).tobytes()

    @classmethod
    def load(cls, size: int, data: bytes) -> Recent:
        """What was dumped, as much as still fits. ValueError when it is none."""
        return cls(size, np.frombuffer(data, np.uint64)[-size:].tolist())


class Shown:
    """Which decisions were told of as shown: the last `SHOWN`, and of those before them no more than until when."""

    def __init__(self, hashes: bytes = b"", times: bytes = b"", forgotten_ms: int = -1) -> None:
        self._decisions = Recent.load(SHOWN, hashes)
        self._times = deque[int](np.frombuffer(times, np.int64)[-SHOWN:].tolist())
        self.forgotten_ms = forgotten_ms

    def add(self, decision: int, at_ms: int) -> None:
        """Remember a decision shown at `at_ms`."""
        if decision in self._decisions:
            return
        self._times.append(at_ms)
        if self._decisions.add(decision):
            self.forgotten_ms = max(self.forgotten_ms, self._times.popleft())

    def may_include(self, decision: int, decided_ms: int) -> bool:
        """False when a decision was certainly not told of: had it been, it would still be remembered."""
        return decision in self._decisions or decided_ms <= self.forgotten_ms

    def dump(self) -> tuple[bytes, bytes, int]:
        """What to construct an equal one from."""
        return self._decisions.dump(), np.array(self._times, np.int64).tobytes(), self.forgotten_ms


class Awaited(msgspec.Struct, frozen=True, array_like=True):
    """What was predicted of a decision whose window is open.

    `predicted`: by number of learner. `served`: the number of the one that was decided by, and what it had said.
    `seasoned`: enough had been closed by then for a learner to know anything. Given up at `stale_ms`.
    """

    stale_ms: int
    base: float
    prior: float
    served: tuple[int, float] | None
    predicted: dict[int, float]
    seasoned: bool = True


class Awaiting:
    """Predictions of at most `AWAITED` decisions, a sample by hash when there are more: whose hash is below a bound."""

    def __init__(self, awaited: Mapping[int, Awaited] | None = None, bound: int = ALL) -> None:
        self.awaited = dict(awaited or {})
        self.bound = bound

    def put(self, decision: int, awaited: Awaited, now_ms: int) -> None:
        """Keep what was predicted, if the decision is in the sample."""
        if self.bound < ALL and len(self.awaited) < AWAITED // 4:
            self.bound = min(ALL, self.bound * 2 + 1)
        if decision > self.bound:
            return
        self.awaited[decision] = awaited
        if len(self.awaited) > AWAITED:
            self._thin(now_ms)

    def pop(self, decision: int) -> Awaited | None:
        """Hand out what was predicted; None when it was not kept."""
        return self.awaited.pop(decision, None)

    def _thin(self, now_ms: int) -> None:
        self.awaited = {key: each for key, each in self.awaited.items() if each.stale_ms > now_ms}
        while len(self.awaited) > AWAITED:
            self.bound //= 2
            self.awaited = {key: each for key, each in self.awaited.items() if key <= self.bound}
