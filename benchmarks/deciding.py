"""The decision core as every other subject calls it: `engine.pipeline.handle`, once per signal, as the worker does.

What the subjects differ in is how records, state and decisions travel. `Deciding` keeps state in memory, for loops
that see to the rest themselves; `decide_alone` takes and returns one customer's bytes, for frameworks with tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks import workload
from engine.pipeline import handle
from engine.profile import Profile, decode_profile, encode_profile
from engine.record import Effects, Output, Record
from engine.state import MemoryState
from models.baseline import PriorScorer

ROLE = "signals"


class _Changing(dict[str, Profile]):
    """Profiles of one partition that know which of them were put back since the last time."""

    def __init__(self) -> None:
        super().__init__()
        self.changed: dict[str, None] = {}

    def __setitem__(self, key: str, value: Profile) -> None:
        super().__setitem__(key, value)
        self.changed[key] = None


class Deciding:
    """The engine over all partitions of a subject."""

    def __init__(self, candidates: int, partitions: int) -> None:
        self._repertoire = workload.load(candidates, partitions=partitions)
        self._scorer = PriorScorer(self._repertoire)
        self._profiles = [_Changing() for _ in range(partitions)]
        self._states = [MemoryState(profiles=profiles) for profiles in self._profiles]

    def decide(self, record: Record) -> Sequence[Output]:
        """Handle a signal; returns the decisions it caused."""
        return self._handle(record, self._states[record.partition]).outputs

    def changes(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """Key and profile of every customer that changed since the last time, as for the changelog."""
        profiles = self._profiles[partition]
        for key in profiles.changed:
            yield key.encode(), encode_profile(profiles[key])
        profiles.changed.clear()

    def committed(self, partition: int, offset: int) -> None:
        """Say what is committed, so that profiles need not remember any longer what it made them send."""
        self._states[partition].committed[ROLE] = offset

    def decide_alone(self, record: Record, stored: bytes | None) -> tuple[Sequence[Output], bytes | None]:
        """Handle a signal of the customer with this profile; returns the decisions and the profile to be kept.

        A subject that is not told what its framework has committed takes everything before this record for it.
        """
        key = (record.key or b"").decode()
        state = MemoryState(committed={ROLE: record.offset})
        if stored is not None:
            state.profiles[key] = decode_profile(stored)
        outputs = self._handle(record, state).outputs
        profile = state.profiles.get(key)
        return outputs, None if profile is None else encode_profile(profile)

    def _handle(self, record: Record, state: MemoryState) -> Effects:
        return handle(record, state, self._repertoire, self._scorer)
