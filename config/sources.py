"""Reading: a directory of YAML files -> plain values, with the place of every key and value.

YAML 1.2, of which a configuration needs maps, lists, text, numbers, true, false and null. Everything is bounded
before it is expanded, so that a small file cannot become a large value.
"""

from __future__ import annotations

import math
import re
from pathlib import Path as FilePath
from typing import Any

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from config.faults import Fault, Path, show, show_path

MAX_FILES = 1_000
MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_VALUES = 200_000
"""Values of one file, aliases expanded."""
MAX_DEPTH = 32

_TAG = "tag:yaml.org,2002:"
_INT64 = 2**63


class _BoundedComposer(Composer):
    """Stops at the depth that is allowed instead of composing what will not be used."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH + 1:
            mark = self.parser.peek_event().start_mark
            raise MarkedYAMLError(problem=f"nested more than {MAX_DEPTH} levels deep", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class Place(msgspec.Struct, frozen=True):
    """Where something stands. `line`, `column`: from 1. `start`, `end`: its characters in `text`, the whole file."""

    file: str
    line: int
    column: int
    text: str = ""
    start: int = 0
    end: int = 0

    def fault(self, path: Path, message: str, *, found: str = "", expected: str = "", suggestion: str = "") -> Fault:
        """A fault at this place."""
        return Fault(self.file, self.line, self.column, show_path(path), message, found, expected, suggestion)

    def inside(self, value: str, offset: int) -> Place:
        """The place of the character at `offset` of a text that stands here in any of YAML's styles.

        The written form is walked along with the value: quotes, indents and line folds are only in the former.
        """
        index, quote = self._content(), self.text[self.start : self.start + 1]
        for char in value[:offset]:
            if char.isspace():
                index = self._skip_space(index)
            else:
                found = self.text.find(char, index, self.end)
                index = index if found < 0 else found + (2 if char == quote == "'" else 1)
        if offset < len(value) and not value[offset].isspace():
            index = self._skip_space(index)
        return self._at(index)

    def _content(self) -> int:
        """Where the value begins after a quote or the header line of a block."""
        if self.text[self.start : self.start + 1] in ("|", ">"):
            return self._skip_space(self.text.find("\n", self.start, self.end))
        return self.start + (self.text[self.start : self.start + 1] in ('"', "'"))

    def _skip_space(self, index: int) -> int:
        """Past blanks, line ends, and those that stand as escapes in double quotes."""
        escapes = ("\\n", "\\t", "\\r") if self.text[self.start : self.start + 1] == '"' else ()
        while index < self.end:
            if self.text[index].isspace():
                index += 1
            elif self.text[index : index + 2] in escapes:
                index += 2
            else:
                break
        return index

    def _at(self, index: int) -> Place:
        before = self.text[:index]
        line, column = before.count("\n") + 1, index - before.rfind("\n")
        return Place(self.file, line, column, self.text, index, self.end)


class Source(msgspec.Struct):
    """One file. `data`: its plain value; `values`, `keys`: where each value and each key of a map stands."""

    file: str
    data: Any = None
    values: dict[Path, Place] = {}
    keys: dict[Path, Place] = {}

    def at(self, path: Path) -> Place:
        """Where a value stands, or the nearest value around it."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path) or Place(self.file, 1, 1)

    def key_at(self, path: Path) -> Place:
        """Where the key of a value stands, or the value itself."""
        return self.keys.get(path) or self.at(path)


class Directory(msgspec.Struct, frozen=True):
    """What was read. `is_whole`: every file could be, so names that are declared nowhere do not exist."""

    sources: list[Source]
    faults: list[Fault]
    is_whole: bool


def read_directory(directory: FilePath) -> Directory:
    """Read every `*.yaml` and `*.yml` below a directory, sorted by name."""
    if not directory.is_dir():
        return _nothing(directory, "not a directory", "a directory of YAML files")
    found = sorted(path for path in directory.rglob("*") if path.suffix in (".yaml", ".yml") and not path.is_dir())
    if not found:
        return _nothing(directory, "no *.yaml file found", "at least one file with kind: engine")
    if len(found) > MAX_FILES:
        return _nothing(directory, f"{len(found)} YAML files", f"at most {MAX_FILES}")
    sources, faults = [], []
    for path in found:
        name = path.relative_to(directory).as_posix()
        text = _read(path, name)
        source, its_faults = (None, [text]) if isinstance(text, Fault) else parse(name, text)
        sources += [] if source is None else [source]
        faults += its_faults
    return Directory(sources, faults, len(sources) == len(found))


def _nothing(directory: FilePath, message: str, expected: str) -> Directory:
    return Directory([], [_nowhere(str(directory), message, expected)], is_whole=False)


def _nowhere(file: str, message: str, expected: str) -> Fault:
    return Place(file, 1, 1).fault((), message, expected=expected)


def _read(path: FilePath, name: str) -> str | Fault:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            return _nowhere(name, f"the file has {size} bytes", f"at most {MAX_FILE_BYTES}: split it")
        raw = path.read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        return _nowhere(name, f"cannot be read ({error.strerror})", "a readable file")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        return Place(name, line, column).fault((), "not UTF-8", found=f"byte 0x{raw[error.start]:02x}")


def parse(file: str, text: str) -> tuple[Source | None, list[Fault]]:
    """The value of one YAML text, None when it cannot be told, and its faults."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _BoundedComposer
    try:
        root = yaml.compose(text)
    except YAMLError as error:
        return None, [_syntax_fault(file, text, error)]
    if root is None:
        return None, [_nowhere(file, "the file is empty", "a map with kind")]
    source = Source(file)
    reading = _Reading(source, text)
    try:
        source.data = reading.value(root, ())
    except _TooMuch as error:
        return None, [*reading.faults, error.fault]
    return source, reading.faults


def _syntax_fault(file: str, text: str, error: YAMLError) -> Fault:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        said = ": ".join(part for part in (error.context, error.problem) if part)
        return Place(file, mark.line + 1, mark.column + 1).fault((), f"not valid YAML: {said}")
    odd = re.search(r"[^\x09\x0a\x0d\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
    line, column = (
        (text.count("\n", 0, odd.start()) + 1, odd.start() - text.rfind("\n", 0, odd.start())) if odd else (1, 1)
    )
    return Place(file, line, column).fault((), "not valid YAML: a control character", found=show(odd and odd[0]))


class _TooMuch(Exception):
    def __init__(self, fault: Fault) -> None:
        self.fault = fault


class _Reading:
    """Turns the nodes of one file into values and notes their places."""

    def __init__(self, source: Source, text: str) -> None:
        self.source = source
        self.text = text
        self.faults: list[Fault] = []
        self.count = 0
        self.scalars = YAML(typ="safe", pure=True).constructor

    def value(self, node: Node, path: Path) -> Any:
        place = self.source.values[path] = self._place(node)
        self.count += 1
        if self.count > MAX_VALUES:
            raise _TooMuch(
                place.fault(path, "the file has too many values", expected=f"at most {MAX_VALUES}, aliases expanded")
            )
        if len(path) > MAX_DEPTH:
            raise _TooMuch(place.fault(path[:MAX_DEPTH], "nested too deeply", expected=f"at most {MAX_DEPTH} levels"))
        if isinstance(node, MappingNode):
            return self._map(node, path)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node, path, place)

    def _place(self, node: Node) -> Place:
        start, end = node.start_mark, node.end_mark
        return Place(self.source.file, start.line + 1, start.column + 1, self.text, start.index, end.index)

    def _map(self, node: MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            key = key_node.value
            if not isinstance(key_node, ScalarNode) or key_node.tag == _TAG + "null":
                self.faults.append(place.fault(path, "the key of a map must be text"))
            elif key_node.tag == _TAG + "merge":
                self.faults.append(
                    place.fault((*path, key), "merge keys are not supported", expected="an alias for a whole value")
                )
            elif key in found:
                first = self.source.keys[(*path, key)]
                said = f"the key is already at line {first.line}"
                self.faults.append(place.fault((*path, key), said, expected="each key once"))
            else:
                self.source.keys[(*path, key)] = place
                found[key] = self.value(value_node, (*path, key))
                if value_node.start_mark.index == value_node.end_mark.index:
                    self.source.values[(*path, key)] = place  # nothing is written: the mark is at what comes next
        return found

    def _scalar(self, node: ScalarNode, path: Path, place: Place) -> Any:
        tag = str(node.tag)
        kind = tag.removeprefix(_TAG)
        if kind in ("str", "timestamp"):
            return node.value
        if kind == "null":
            return None
        if kind == "bool":
            return self.scalars.construct_yaml_bool(node)
        if kind in ("int", "float"):
            return self._number(node, kind, path, place)
        self.faults.append(place.fault(path, "YAML tags are not supported", found=tag, expected="a plain value"))
        return node.value

    def _number(self, node: ScalarNode, kind: str, path: Path, place: Place) -> int | float | str:
        try:
            number: int | float = getattr(self.scalars, f"construct_yaml_{kind}")(node)
        except ValueError:
            return str(node.value)
        if not math.isfinite(number) or (isinstance(number, int) and abs(number) >= _INT64):
            self.faults.append(
                place.fault(
                    path,
                    "the number is out of range",
                    found=str(node.value),
                    expected="a finite number that fits 64 bits",
                )
            )
            return 0
        return number
