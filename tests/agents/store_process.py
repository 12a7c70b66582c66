"""A process that keeps writing to a local copy until it is killed; see `test_store`."""

from __future__ import annotations

import sys
from pathlib import Path

from agents.store import Lineage, Mark, open_store

ROWS = 500


def row(position: int) -> tuple[str, bytes]:
    """The key and value that the record below a position had."""
    return f"key-{position * 7919 % ROWS}", b"%d" % position * 200


if __name__ == "__main__":
    store = open_store(Path(sys.argv[1]), 8 << 20, print)
    assert store is not None
    copy = store.copy(0, {"profiles": None}, {"profiles": Lineage("topic", 86_400_000)}, 1)
    assert copy is not None
    position = 0
    while True:
        batch = [row(at) for at in range(position + 1, position + 1 + position % 90 + 1)]
        position += len(batch)
        copy.save([("profiles", key, value) for key, value in batch], {"profiles": Mark(position, 1)})
        if position > 5_000:
            sys.stdout.write("going\n")
            sys.stdout.flush()
