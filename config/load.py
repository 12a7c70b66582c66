"""Loading: a directory of YAML -> the compiled repertoire, or everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from config.cases import run_cases
from config.compile.repertoire import compile_draft
from config.draft import Draft, assemble
from config.faults import ConfigInvalid, Fault
from config.shape import fit
from config.sources import read_directory
from engine.repertoire import Repertoire


class Checked(msgspec.Struct, frozen=True):
    """The outcome of a check. `repertoire`: None when there are faults; `cases_run`: examples in rule files tried."""

    repertoire: Repertoire | None
    faults: tuple[Fault, ...]
    cases_run: int


def load_directory(path: Path) -> Repertoire:
    """The repertoire of a directory; raises ConfigInvalid with every fault, failing cases included."""
    checked = check_directory(path)
    if checked.repertoire is None:
        raise ConfigInvalid(checked.faults)
    return checked.repertoire


def check_directory(path: Path) -> Checked:
    """Read, fit, assemble, compile and try out a directory; no fault hides another that it does not cause."""
    read = read_directory(path)
    fitted = [fit(source) for source in read.sources]
    draft, doubles = assemble(fitted)
    faults = [*read.faults, *(fault for each in fitted for fault in each.faults), *doubles]
    if not (read.is_whole and all(each.kind for each in fitted)):
        # Names that an unreadable file declares would all be reported as unknown.
        return _invalid(faults)
    repertoire, found = compile_draft(draft)
    faults += [*found, *_missing_engine(draft)]
    if faults:
        return _invalid(faults)
    cases_run, failures = run_cases(fitted, draft, repertoire)
    return _invalid(failures, cases_run) if failures else Checked(repertoire, (), cases_run)


def _invalid(faults: Sequence[Fault], cases_run: int = 0) -> Checked:
    return Checked(None, tuple(sorted(set(faults))), cases_run)


def _missing_engine(draft: Draft) -> list[Fault]:
    if "engine" in draft.files:
        return []
    return [Fault(".", 1, 1, "", "no file is of kind engine", expected="one file with kind: engine, name and source")]
