"""A small sound configuration as text, to be broken at one character: `¦` marks where."""

from __future__ import annotations

from pathlib import Path

from config.load import Checked, check_directory

ENGINE = "kind: engine\nname: shop\nsource: urn:shop\n"
CHANNELS = "kind: channels\nchannels: {email: {}, web: {}}\nplacements: {hero: {channel: web}}\n"
HIERARCHY = "kind: actions\nissues: {growth: {groups: {offers: {}}}}\n"
ACTIONS = HIERARCHY + "actions: {gift: {group: offers, tags: [promo], treatments: {gift-email: {channel: email}}}}\n"
PROFILE = """kind: profile
traits: {age: {type: number}, name: {type: string}}
signals: {Bought: {properties: {total: number}}, Seen: {}}
aggregates: {spent: {function: sum, of: signal.properties.total, events: [Bought]}}
"""
SEGMENTS = "kind: segments\nsegments: {loyal: {when: aggregates.spent > 100}}\n"
BASE = {"channels": CHANNELS, "actions": ACTIONS, "profile": PROFILE, "segments": SEGMENTS}


def check(directory: Path, **texts: str) -> Checked:
    """Check files of these texts beside a sound engine file."""
    for name, text in {"engine": ENGINE, **texts}.items():
        (directory / f"{name}.yaml").write_text(text, "utf-8")
    return check_directory(directory)


def marked(text: str) -> tuple[str, tuple[int, int]]:
    """The text without its mark, and the mark's line and column."""
    before, _, after = text.partition("¦")
    return before + after, (before.count("\n") + 1, len(before) - before.rfind("\n"))


def assert_one_fault(directory: Path, text: str, fragment: str) -> None:
    """Of one mistake comes one fault, at the character that is marked, saying what would be right."""
    text, place = marked(text)
    name = text.split("\n")[0].removeprefix("kind: ")
    name = name if name in ("engine", *BASE) else "zz"
    base = {key: value for key, value in BASE.items() if (name, key) != ("profile", "segments")}  # refers to it
    checked = check(directory, **{**base, name: text})
    assert checked.repertoire is None
    assert [(fault.line, fault.column) for fault in checked.faults] == [place], "\n".join(map(str, checked.faults))
    fault = checked.faults[0]
    assert fault.file == f"{name}.yaml"
    assert fragment in str(fault)
    assert str(fault).startswith(f"{name}.yaml:{place[0]}:{place[1]}: ")
