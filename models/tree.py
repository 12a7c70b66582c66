"""The tree of arms: all actions, groups, actions, treatments, in rows that are given away again when room runs out."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from models.learner import Arm

LEVELS = 4


class Place(NamedTuple):
    """A node and the row that became its own."""

    node: Arm
    row: int


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

    def settle(self, arm: Arm) -> list[Place]:
        """Count a use of the arm and its ancestors; those that were not known, from the root down."""
        line = [node for _, node in lineage(arm)]
        fresh: list[Place] = []
        parent: Arm | None = None
        for node in line:
            if node not in self.rows:
                row = self.rows[node] = self._room(line)
                self._uses[node], self._children[node] = 0, 0
                fresh.append(Place(node, row))
                if parent is not None:
                    self._children[parent] += 1
            self._uses[node] += 1
            parent = node
        return fresh

    def nearest(self, arm: Arm) -> Arm | None:
        """The arm, or else its closest relative that is known."""
        return next((each for _, each in reversed(lineage(arm)) if each in self.rows), None)

    def ancestors(self, arm: Arm) -> list[tuple[int, Arm]]:
        """What a known arm is a case of, from the root down, each with its level."""
        return [step for step in lineage(arm) if step[1] != arm]

    def _room(self, wanted: list[Arm]) -> int:
        if len(self.rows) < self._limit:
            return len(self.rows)
        leaves = (each for each, children in self._children.items() if not children and each not in wanted)
        least = min(leaves, key=lambda each: (self._uses[each], each))
        del self._uses[least], self._children[least]
        self._children[lineage(least)[-2][1]] -= 1
        return self.rows.pop(least)

    def dump(self) -> list[Any]:
        """Everything, as lists."""
        return [[list(node), row, self._uses[node], self._children[node]] for node, row in self.rows.items()]

    def load(self, state: list[Any]) -> None:
        """Take over what was dumped."""
        self.rows, self._uses, self._children = {}, {}, {}
        for name, row, uses, children in state:
            node = Arm(*name)
            self.rows[node], self._uses[node], self._children[node] = row, uses, children
