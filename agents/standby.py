"""Standbys: partitions that another worker owns, kept up here so that taking them over reads only what is missing.

The group says of which partitions a worker is the standby, and gives them to it when their owner goes. Until then a
task reads their changelogs, as a take-over does but without claiming anything, into the local store where there is
one, else into memory. It works in small slices and rests between them, and whatever goes wrong with it is said and
tried again: a worker without its standbys serves all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import islice
from time import perf_counter, time
from typing import Any

from agents.journal import Recovery
from agents.offsets import TopicPartition
from agents.store import Copy, Lineage, MemoryCopy, outdated
from agents.tables import TableSpec, changelogs

log = logging.getLogger("batuta")

ROUND_SECONDS = 0.5
"""Between two looks at where the changelogs end."""
RECORDS_AT_ONCE = 200
REST = 3.0
"""Seconds left to the partitions being served per second of CPU between two of these rests."""
SAVED_MS = 60_000
"""How often a copy that nothing was written to notes that it is complete: its age is what makes it trusted."""
_CLOSE_SECONDS = 2.0
_LEAST_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 1.0, 60.0

Reader = Callable[[], AbstractAsyncContextManager[Any]]
Lineages = Callable[[], Awaitable[Mapping[str, Lineage] | None]]
LocalCopies = Callable[[Collection[int], Mapping[str, Lineage]], Awaitable[Mapping[int, Copy]]]


class _Anew(Exception):
    """What was read of a partition cannot be gone on from, and is forgotten."""


class Standbys:
    """The standbys of one worker.

    `names`: changelog role → full topic name. `reader`: a started consumer without a group. `lineages`: of the
    changelogs, by role; None when the broker does not tell. `local_copies`: of partitions, to go on from or to make
    anew; None without a local store.
    """

    def __init__(
        self,
        tables: Sequence[TableSpec],
        names: Mapping[str, str],
        reader: Reader,
        lineages: Lineages,
        local_copies: LocalCopies | None,
    ) -> None:
        self._tables = tables
        self._names = names
        self._reader = reader
        self._lineages = lineages
        self._local_copies = local_copies
        self._memory: dict[int, MemoryCopy] = {}
        self._task: asyncio.Task[None] | None = None
        self._recovery: Recovery | None = None
        self._ends: Mapping[TopicPartition, int] = {}
        self._pause = _LEAST_PAUSE_SECONDS

    def follow(self, numbers: Collection[int]) -> None:
        """Follow these partitions and no others, after `halt`."""
        self._memory = {number: copy for number, copy in self._memory.items() if number in numbers}
        if numbers:
            self._task = asyncio.get_running_loop().create_task(self._persist(sorted(numbers)), name="standby")

    async def halt(self) -> None:
        """Stop following; what there is stays, for who takes a partition over, or for `follow`."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            # What it reads with may take its time to close; nothing is touched meanwhile.
            await asyncio.wait([task], timeout=_CLOSE_SECONDS)

    def put(self, number: int, copy: MemoryCopy) -> None:
        """Have a partition followed from what this worker has of it."""
        self._memory[number] = copy

    async def copies(self, numbers: Collection[int]) -> dict[int, MemoryCopy]:
        """What there is of partitions in memory, as far as it can be trusted; after `halt`."""
        found = {number: self._memory[number] for number in numbers if number in self._memory}
        lineages = await self._lineages() if found else None
        if lineages is None:
            return {}
        for copy in found.values():
            copy.open(lineages, int(time() * 1000))
        return found

    def forget(self, number: int) -> None:
        """A partition is served here from now on."""
        self._memory.pop(number, None)

    def lag(self) -> dict[TopicPartition, int]:
        """Offsets not read yet, by changelog partition followed, as of the last look; without those nobody knows of."""
        recovery = self._recovery
        if recovery is None:
            return {}
        return {at: max(0, end - recovery.readers[at].mark.position) for at, end in self._ends.items()}

    # --- Following ---

    async def _persist(self, numbers: Sequence[int]) -> None:
        while True:
            try:
                if not await self._follow(numbers):
                    return
            except _Anew:
                pass  # It was said when it was forgotten.
            except Exception as error:  # noqa: BLE001 - the partitions being served go on, whatever it is
                said = ", ".join(map(str, numbers))
                log.warning("Standby of partitions %s: %r; trying again in %.0f s", said, error, self._pause)
            finally:
                self._recovery, self._ends = None, {}
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, _MOST_PAUSE_SECONDS)

    async def _follow(self, numbers: Sequence[int]) -> bool:
        """Follow until something goes wrong; False when these partitions cannot be followed."""
        lineages = await self._lineages()
        copies = {} if lineages is None else await self._open(numbers, lineages)
        if lineages is None or not copies:
            return False
        partitions = {number: changelogs(self._tables, copy.tables, copy.dues)[1] for number, copy in copies.items()}
        async with self._reader() as consumer:
            recovery = Recovery(consumer, partitions, self._names, copies, at_once=RECORDS_AT_ONCE, rest=REST)
            await recovery.start()
            try:
                await self._read_on(consumer, recovery, copies, lineages)
            finally:
                for copy in copies.values():
                    if copy.marks and not copy.busy:
                        copy.save_all(copy.marks)
        return True

    async def _open(self, numbers: Sequence[int], lineages: Mapping[str, Lineage]) -> Mapping[int, Copy | MemoryCopy]:
        if self._local_copies is not None:
            return await self._local_copies(numbers, lineages)
        for number in numbers:
            if number not in self._memory:
                self._memory[number] = MemoryCopy(number, {spec.name: {} for spec in self._tables}, {})
            self._memory[number].open(lineages, int(time() * 1000))
            await self._index(self._memory[number])
        return dict(self._memory)

    async def _index(self, copy: MemoryCopy) -> None:
        """Find who is to be woken, now that nobody waits for it, unless that is known."""
        for name, due in ((spec.name, spec.due) for spec in self._tables if spec.due is not None):
            if name in copy.dues:
                continue
            found: dict[str, int] = {}
            rows = iter(copy.tables[name].items())
            while some := list(islice(rows, RECORDS_AT_ONCE)):
                begun = perf_counter()
                found |= {key: due_ms for key, value in some if (due_ms := due(value)) is not None}
                await asyncio.sleep(REST * (perf_counter() - begun))
            copy.dues[name] = found

    async def _read_on(
        self,
        consumer: Any,
        recovery: Recovery,
        copies: Mapping[int, Copy | MemoryCopy],
        lineages: Mapping[str, Lineage],
    ) -> None:
        """Read to the end of the changelogs, again and again. Raises `_Anew`."""
        at, saved_ms = list(recovery.readers), 0
        while True:
            asked_ms, before = int(time() * 1000), {each: recovery.readers[each].mark.position for each in at}
            self._recovery, self._ends = recovery, await consumer.end_offsets(at)
            await recovery.read_to(self._ends)
            first = await consumer.beginning_offsets(at)
            for each in at:
                copy = copies[each.partition]
                reason = outdated(copy.marks, lineages, asked_ms)
                if before[each] < first[each]:
                    # The consumer went on from the beginning by itself, and what it left out may be deletions.
                    reason = f"it went to {before[each]} in {each.topic}, which begins at {first[each]} by now"
                if reason is not None:
                    copy.reset(reason)
                    raise _Anew(reason)
            recovery.note_complete(asked_ms)
            if asked_ms - saved_ms >= SAVED_MS:
                await recovery.keep(copies)
                saved_ms = asked_ms
            self._pause = _LEAST_PAUSE_SECONDS
            await asyncio.sleep(ROUND_SECONDS)
