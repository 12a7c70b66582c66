"""One target under Atheris: `python -m benchmarks.fuzz.one TARGET CORPUS [libFuzzer's options]`."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["engine", "models", "config", "agents"]):
    from benchmarks.fuzz import targets


def main(name: str, corpus: Path, options: list[str]) -> None:
    """Fuzz until the runs asked for are done; libFuzzer ends the process, with a status other than 0 on a finding."""
    target = targets.TARGETS[name]
    targets.world()
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
