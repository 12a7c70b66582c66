"""The tree of arms: all actions, groups, actions, treatments, in rows that are given away again when room runs out."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from models.gaussian import Generation, Rows
from models.learner import Arm

LEVELS = 4
ACTION = 2
"""The level of actions: above it are groups and all actions."""


class Place(NamedTuple):
    """A row that became a node's, of a level (0: all actions … 3: treatment)."""

    row: int
    level: int


@lru_cache(maxsize=4096)
def lineage(arm: Arm) -> tuple[tuple[int, Arm], ...]:
    """An arm and what it is a case of, from the general to the special, each with its level."""
    steps = [(0, Arm("", "", "")), (1, Arm(arm.group, "", "")), (2, Arm(arm.group, arm.action, "")), (3, arm)]
    return (steps[0], *(step for step in steps[1:] if step[1][step[0] - 1]))


class Tree:
    """Rows of nodes, at most `limit`: then the leaf least often used makes room; what it taught its parents stays."""

    def __init__(self, limit: int) -> None:
        self._limit = max(limit, LEVELS)
        self.rows: dict[Arm, int] = {}
        self._uses: dict[Arm, int] = {}
        self._children: dict[Arm, int] = {}

    def known(self, arm: Arm) -> list[Arm]:
        """The arm and its ancestors, as far as they are known, from the root down."""
        return [each for _, each in lineage(arm) if each in self.rows]

    def settle(self, arm: Arm) -> list[Place]:
        """Count a use of the arm and its ancestors; the rows of those that were not known."""
        line = lineage(arm)
        fresh: list[Place] = []
        parent: Arm | None = None
        for level, node in line:
            if node not in self.rows:
                fresh.append(Place(self._room({each for _, each in line}), level))
                self.rows[node], self._uses[node], self._children[node] = fresh[-1].row, 0, 0
                if parent is not None:
                    self._children[parent] += 1
            self._uses[node] += 1
            parent = node
        return fresh

    def _room(self, wanted: set[Arm]) -> int:
        if len(self.rows) < self._limit:
            return len(self.rows)
        leaves = (each for each, children in self._children.items() if not children and each not in wanted)
        least = min(leaves, key=lambda each: (self._uses[each], each))
        del self._uses[least], self._children[least]
        self._children[lineage(least)[-2][1]] -= 1
        return self.rows.pop(least)

    def starts(self, line: list[Arm]) -> list[int | None]:
        """For each of a line of relatives the place of the one it starts from: the next above with other children.

        What an only child knows is all its parent knows: starting from it would count everything twice.
        """
        found: list[int | None] = []
        start = None
        for place, node in enumerate(line):
            found.append(start)
            start = place if self._children[node] > 1 else start
        return found

    def descent(self, line: list[Arm]) -> list[Generation]:
        """The places of a line of relatives and of those they start from, see `starts`."""
        starts = enumerate(self.starts(line))
        return [(_slice(place), None if above is None else _slice(above)) for place, above in starts]

    def everything(self) -> tuple[Rows, list[Generation]]:
        """Rows of all nodes; and by level from the root down, the places of nodes therein, and what they start from."""
        places = {node: place for place, node in enumerate(self.rows)}
        groups: dict[tuple[int, bool], list[tuple[int, int]]] = {}
        for node, place in places.items():
            line = lineage(node)
            above = self.starts([each for _, each in line])[-1]
            pair = place, -1 if above is None else places[line[above][1]]
            groups.setdefault((line[-1][0], above is None), []).append(pair)
        generations: list[Generation] = []
        for (_, first), pairs in sorted(groups.items()):
            own, parents = np.array(pairs, dtype=np.intp).T
            generations.append((own, None if first else parents))
        return np.array(list(self.rows.values()), dtype=np.intp), generations

    def levels(self) -> Rows:
        """Levels of all nodes."""
        return np.array([lineage(node)[-1][0] for node in self.rows], dtype=np.intp)

    def dump(self) -> list[Any]:
        """Everything, as lists."""
        return [[list(node), row, self._uses[node], self._children[node]] for node, row in self.rows.items()]

    def load(self, state: list[Any]) -> None:
        """Take over what was dumped."""
        self.rows, self._uses, self._children = {}, {}, {}
        for name, row, uses, children in state:
            node = Arm(*name)
            self.rows[node], self._uses[node], self._children[node] = row, uses, children


def _slice(place: int) -> slice:
    return slice(place, place + 1)
