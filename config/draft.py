"""Draft: all files of a directory put together by kind, every entry once, each still knowing where it was written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from config.documents import Document
from config.faults import Fault, Path, show
from config.shape import Fitted
from config.sources import Place

_File = TypeVar("_File", bound=Document)

_NOWHERE = Place("", 1, 1)


class Draft(msgspec.Struct):
    """The configuration before anything is compiled. Every path begins with the kind.

    `data`: what fits its schema. `written`: all of it, to know which names exist. `left_out`: paths of what did not
    fit. `files`: the files that hold a kind, in order.
    """

    data: dict[str, dict[str, Any]] = {}
    written: dict[str, dict[str, Any]] = {}
    left_out: set[Path] = set()
    values: dict[Path, Place] = {}
    keys: dict[Path, Place] = {}
    files: dict[str, list[str]] = {}

    def place(self, path: Path) -> Place:
        """Where a value stands, or the nearest value around it."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, _NOWHERE)

    def key_place(self, path: Path) -> Place:
        """Where the key of a value stands, or the value itself."""
        return self.keys.get(path) or self.place(path)

    def where(self, path: Path) -> Place:
        """Where to point: at a value, but of a whole map at its key."""
        return self.key_place(path) if isinstance(self._written(path), dict) else self.place(path)

    def item(self, path: Path, value: str) -> Path:
        """The path of a value in a list, whose own path is given."""
        written = self._written(path)
        return (*path, written.index(value)) if isinstance(written, list) and value in written else path

    def _written(self, path: Path) -> Any:
        written: Any = self.written
        for step in path:
            known = isinstance(written, list) or (isinstance(written, dict) and step in written)
            written = written[step] if known else None
        return written

    def document(self, shape: type[_File], **defaults: Any) -> _File:
        """The document of a kind; `defaults` stand in for required fields of a file that is not there."""
        kind = shape.__struct_config__.tag
        return msgspec.convert({**defaults, **self.data.get(str(kind), {}), "kind": kind}, shape)


def assemble(fitted: Sequence[Fitted]) -> tuple[Draft, list[Fault]]:
    """Put files together by kind; an id or a setting given twice is a fault that names both places."""
    draft, faults = Draft(), []
    for each in fitted:
        if each.kind == "engine" and "engine" in draft.files:
            faults.append(_second_engine(draft, each))
        elif each.kind is not None:
            draft.files.setdefault(each.kind, []).append(each.source.file)
            draft.left_out.update((each.kind, *path) for path in each.left_out)
            faults += _add_sections(draft, each.kind, each)
            _add_places(draft, each.kind, each)
    return draft, faults


def _second_engine(draft: Draft, fitted: Fitted) -> Fault:
    said = f"{draft.files['engine'][0]} already is of kind engine"
    return fitted.source.at(("kind",)).fault(("kind",), said, found=show("engine"), expected="one such file")


def _add_sections(draft: Draft, kind: str, fitted: Fitted) -> list[Fault]:
    written, data = draft.written.setdefault(kind, {}), draft.data.setdefault(kind, {})
    faults = []
    for section, value in fitted.source.data.items():
        if section in ("kind", "cases"):
            continue
        fits = (fitted.data or {}).get(section)
        if not isinstance(value, dict):
            if section in written:
                faults.append(_twice(draft, kind, fitted, (section,)))
            else:
                written[section] = value
                if section in (fitted.data or {}):
                    data[section] = fits
            continue
        known = written.setdefault(section, {})
        for key, entry in value.items():
            if not isinstance(known, dict) or key in known:
                faults.append(_twice(draft, kind, fitted, (section, key)))
            else:
                known[key] = entry
                if isinstance(fits, dict) and key in fits:
                    data.setdefault(section, {})[key] = fits[key]
    return faults


def _twice(draft: Draft, kind: str, fitted: Fitted, path: Path) -> Fault:
    first = draft.key_place((kind, *path))
    return fitted.source.key_at(path).fault(
        path, f"already given at {first.file}:{first.line}", found=show(path[-1]), expected="each id once"
    )


def _add_places(draft: Draft, kind: str, fitted: Fitted) -> None:
    """The first place of a path counts: where entries of the same id stand is told by their fault."""
    for path, place in fitted.source.values.items():
        draft.values.setdefault((kind, *path), place)
    for path, place in fitted.source.keys.items():
        draft.keys.setdefault((kind, *path), place)
