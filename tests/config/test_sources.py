"""YAML is read with the place of everything, whatever style it is written in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.sources import Source, parse, read_directory

WORDS = st.lists(st.text("abcxyz.09'<=", min_size=1, max_size=6), min_size=1, max_size=12)


def read(text: str) -> Source:
    """The source of a text without faults."""
    source, faults = parse("a.yaml", text)
    assert faults == []
    assert source is not None
    return source


def written(words: list[str], style: str) -> str:
    """A map with one text of these words, in a style of YAML."""
    if style == "double":
        return f"key: {json.dumps(' '.join(words))}\n"
    if style == "single":
        return "key: '" + " ".join(words).replace("'", "''") + "'\n"
    lines = "\n".join(f"    {word}" for word in words)
    return f"before: 1\nkey: {style}  # a comment\n{lines}\n"


@given(words=WORDS, style=st.sampled_from(["double", "single", ">", "|", ">-", "|2-"]), data=st.data())
def test_characters_are_found_in_every_style(words: list[str], style: str, data: Any) -> None:
    """The place of a character of a value is the place of that character in the file."""
    text = written(words, style)
    source = read(text)
    value = source.data["key"]
    offset = data.draw(st.integers(0, len(value) - 1).filter(lambda at: not value[at].isspace()))
    place = source.at(("key",)).inside(value, offset)
    lines = text.splitlines(keepends=True)
    index = sum(map(len, lines[: place.line - 1])) + place.column - 1
    start = text.index("key:") + len("key:") if "#" not in text else text.index("comment") + len("comment")
    assert text[index] == value[offset]
    between = text[start:index].replace("''", "'") if style == "single" else text[start:index]
    seen = "".join(between.split()).removeprefix('"' if style == "double" else "'" if style == "single" else "")
    assert seen == "".join(value[:offset].split())


@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**53), 2**53),
            st.floats(allow_nan=False, allow_infinity=False, width=32),
            st.text("abc: -#'\"\n[]{}&*!|>%@`,?1.eE~ñ", max_size=12),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.text("abc x", min_size=1, max_size=4), inner, max_size=4)
        ),
        max_leaves=12,
    ).filter(lambda value: isinstance(value, dict))
)
def test_values_are_those_of_yaml(value: dict[str, Any]) -> None:
    """JSON is YAML: what goes in as such comes out the same."""
    assert read(json.dumps(value)).data == value


def test_scalars_of_yaml_12() -> None:
    """`yes`, `on` and dates are text, as in YAML 1.2 without types that configurations do not have."""
    text = "{a: yes, on: off, b: 2026-11-30, c: 0x1F, d: 1_000, e: ~, f: 1e3, 5: x}"
    assert read(text).data == {
        "a": "yes",
        "on": "off",
        "b": "2026-11-30",
        "c": 31,
        "d": 1000,
        "e": None,
        "f": 1000.0,
        "5": "x",
    }


def test_every_value_and_key_has_a_place() -> None:
    """Lines and columns count from one, keys and values apart."""
    source = read("a: 1\nb:\n  - x\n  - {c: y}\n")
    assert [(place.line, place.column) for place in source.values.values()] == [
        (1, 1),
        (1, 4),
        (3, 3),
        (3, 5),
        (4, 5),
        (4, 9),
    ]
    assert {path: (place.line, place.column) for path, place in source.keys.items()} == {
        ("a",): (1, 1),
        ("b",): (2, 1),
        ("b", 1, "c"): (4, 6),
    }


def test_a_missing_place_is_the_nearest_around() -> None:
    """Of what is not there, the thing it should be in is shown."""
    source = read("a:\n  b: 1\n")
    assert source.at(("a", "x", 3)) == source.at(("a",))


def test_an_alias_stands_for_its_value() -> None:
    """Anchors may be used for whole values."""
    assert read("a: &x [1, 2]\nb: *x\n").data == {"a": [1, 2], "b": [1, 2]}


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    """Editors that write one may be used, and columns do not shift."""
    (tmp_path / "a.yml").write_text("kind: engine\n", "utf-8-sig")
    directory = read_directory(tmp_path)
    assert directory.is_whole
    assert directory.sources[0].data == {"kind": "engine"}
    assert directory.sources[0].at(("kind",)).column == 7


def test_files_are_found_in_sub_directories(tmp_path: Path) -> None:
    """Both endings, any depth, in order of their names; other files are left alone."""
    for name in ("b.yaml", "sub/a.yml", "a.yaml", "notes.txt", "sub/deep/c.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("kind: engine\n")
    assert [each.file for each in read_directory(tmp_path).sources] == [
        "a.yaml",
        "b.yaml",
        "sub/a.yml",
        "sub/deep/c.yaml",
    ]


@pytest.mark.parametrize("text", ["%YAML 1.1\n---\non: yes\n", "%YAML 1.2\n---\non: 'yes'\n"])
def test_keys_are_text_in_every_version(text: str) -> None:
    """A key is what is written, also where YAML 1.1 would read a truth value."""
    assert list(read(text).data) == ["on"]
