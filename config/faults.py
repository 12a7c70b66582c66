"""Faults: what is wrong with a configuration, where, and what belongs there, so that its author can put it right."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any

import msgspec

Path = tuple[str | int, ...]
"""The way to a value inside a document: keys and list indices."""

_SHOWN = 80


class Fault(msgspec.Struct, frozen=True, order=True):
    """One fault. `file`: relative to the directory; `line`, `column`: from 1; `path`: like `actions.offer.value`.

    `suggestion`: the known name the author probably meant.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    found: str = ""
    expected: str = ""
    suggestion: str = ""

    def __str__(self) -> str:
        contrast = ", ".join(
            f"{word} {text}" for word, text in (("found", self.found), ("expected", self.expected)) if text
        )
        said = ": ".join(part for part in (self.path, self.message, contrast) if part)
        hint = f'; did you mean "{self.suggestion}"?' if self.suggestion else ""
        return f"{self.file}:{self.line}:{self.column}: {said}{hint}"


class ConfigInvalid(Exception):
    """A configuration cannot be used; `faults` holds everything that is wrong with it, in file order."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


def show(value: Any) -> str:
    """A value as the author wrote it, shortened; a map or list by its size."""
    if isinstance(value, dict):
        return "an empty map" if not value else f"a map of {len(value)}"
    if isinstance(value, list):
        return "an empty list" if not value else f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def show_path(path: Path) -> str:
    """A path in words: `actions.offer.tags[0]`, with keys that are no plain names in brackets."""
    text = ""
    for step in path:
        if isinstance(step, str) and step.replace("-", "").replace("_", "").isalnum():
            text += f".{step}" if text else step
        else:
            text += f"[{show(step)}]"
    return text


def closest(name: str, known: Iterable[str]) -> str:
    """The known name most like `name`, for a did-you-mean; empty when none is near."""
    folded = {each.casefold().replace("_", "-"): each for each in sorted(known)}
    found = difflib.get_close_matches(name.casefold().replace("_", "-"), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else ""


def one_of(names: Iterable[str]) -> str:
    """`one of a, b, c`, cut after twelve."""
    ordered = sorted(names)
    if not ordered:
        return "none, as none is declared"
    more = f" and {len(ordered) - 12} more" if len(ordered) > 12 else ""
    return ("one of " if len(ordered) > 1 else "") + ", ".join(ordered[:12]) + more
