"""Every kind of fault fires, alone, at the very character: `¦` in a text marks where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config import sources
from config.faults import ConfigInvalid, Fault, closest, one_of, show, show_path
from config.load import check_directory, load_directory
from tests.config.broken import ACTIONS, BASE, CHANNELS, ENGINE, HIERARCHY, PROFILE, SEGMENTS, assert_one_fault, check

TABLE: dict[str, tuple[str, str]] = {
    # --- YAML ---
    "a tab": ("kind: segments\n¦\tsegments: {}\n", "not valid YAML: while scanning"),
    "an unclosed bracket": ("kind: segments\nsegments: {a: [1, 2\n¦", "not valid YAML"),
    "a key given twice": ("kind: segments\nsegments: {}\n¦segments: {}\n", "already at line 2"),
    "an unknown alias": ("kind: segments\nsegments: ¦*nobody\n", "undefined alias"),
    "two documents": ("kind: segments\n¦---\nkind: segments\n", "another document"),
    "an empty file": ("¦", "the file is empty"),
    "comments only": ("¦# nothing\n", "the file is empty"),
    "a control character": ('kind: segments\nsegments: {a: {when: "¦\x01"}}\n', "control character"),
    "a YAML tag": ("kind: segments\nsegments: {a: {when: ¦!secret 'true'}}\n", "tags are not supported"),
    "a merge key": ("kind: segments\nsegments: {a: {when: 'true', ¦<<: {}}}\n", "merge keys are not supported"),
    "a list as a key": ("kind: segments\nsegments: {¦[a]: {when: 'true'}}\n", "must be text"),
    "a number that is none": ("kind: arbitration\ncontenders: ¦.inf\n", "out of range"),
    "a number of too many digits": ("kind: arbitration\ncontenders: ¦99999999999999999999\n", "out of range"),
    # --- Shape ---
    "no kind": ("¦segments: {}\n", "kind: missing"),
    "a misspelt kind": ("kind: ¦segment\n", 'did you mean "segments"?'),
    "not a map": ("¦- kind: segments\n", "not a map"),
    "an unknown key": ("kind: arbitration\n¦contender: 3\n", 'unknown key: found "contender"'),
    "an unknown key deep down": (
        "kind: segments\nsegments:\n  a:\n    when: 'true'\n    ¦desc: x\n",
        "segments.a.desc: unknown key",
    ),
    "a missing key": ("kind: segments\nsegments:\n  ¦a: {description: x}\n", "segments.a.when: missing"),
    "a wrong type": ("kind: arbitration\ncontenders: ¦three\n", 'found "three", expected a whole number from 0 to 100'),
    "a fraction for a count": ("kind: arbitration\ncontenders: ¦1.0\n", "found 1.0, expected a whole number"),
    "a text for a switch": ("kind: arbitration\nfactors: {value: ¦off}\n", 'found "off", expected true or false'),
    "nothing for a map": ("kind: segments\n¦segments:\n\n", "found null, expected a map"),
    "a misspelt value": (
        "kind: profile\ntraits: {age: {type: ¦numbr}}\n",
        'expected one of any, boolean, list, map, number, string; did you mean "number"?',
    ),
    "a bad id": ("kind: segments\nsegments:\n  ¦a b: {when: 'true'}\n", 'segments["a b"]: not a valid key'),
    "a bad aggregate name": ("kind: profile\naggregates: {¦9x: {function: count}}\n", "not a valid key"),
    "a bad duration": (ENGINE + "max_future: ¦soon\n", 'found "soon", expected a duration such as 15m'),
    "a share above one": ("kind: arbitration\nexploration: {epsilon: ¦1.5}\n", "expected a share from 0 to 1"),
    "a negative cost": (
        HIERARCHY + "actions: {a: {group: offers, treatments: {t: {channel: email, cost: ¦-1}}}}\n",
        "found -1, expected a number, 0 or more",
    ),
    "no treatments": (
        HIERARCHY + "actions: {a: {group: offers, treatments: ¦{}}}\n",
        "expected at least one treatment",
    ),
    "one arm": ("kind: experiments\nexperiments: {t: {arms: ¦{a: {}}}}\n", "expected at least two arms"),
    "an arm without weight": (
        "kind: experiments\nexperiments: {t: {arms: {a: {weight: ¦0}, b: {}}}}\n",
        "found 0, expected a number above 0",
    ),
    "a tag given twice": (
        HIERARCHY + "actions: {a: {group: offers, tags: ¦[x, x], treatments: {t: {channel: email}}}}\n",
        "given twice",
    ),
    "an unknown window": (
        "kind: profile\naggregates: {a: {function: count, window: {¦slidng: 1d}}}\n",
        'did you mean "sliding"?',
    ),
    "a window that is a number": (
        "kind: profile\naggregates: {a: {function: count, window: ¦30}}\n",
        "expected lifetime or a map such as {sliding: 30d}",
    ),
    "an unknown outcome": (
        "kind: constraints\nsuppressions: {s: {outcome: ¦clicked, threshold: 1, within: 1d, pause: 1d}}\n",
        'did you mean "click"?',
    ),
    "an outcome nobody sends": (
        "kind: arbitration\ninfluencers: {i: {outcome: ¦contact, start: 1, period: 1d}}\n",
        "unknown value",
    ),
    # --- Engine ---
    "an unknown zone": (ENGINE + "timezones: [UTC, ¦Europe/Madird]\n", 'did you mean "Europe/Madrid"?'),
    # --- Profile and segments ---
    "an unknown trait": (
        "kind: segments\nsegments: {a: {when: ¦profile.aeg > 3}}\n",
        'found "profile.aeg > 3", expected an expression that is true or false; did you mean "profile.age"?',
    ),
    "an unknown aggregate": ("kind: segments\nsegments: {a: {when: ¦aggregates.spend > 3}}\n", '"aggregates.spent"'),
    "an unknown age": ("kind: segments\nsegments: {a: {when: ¦age_ms.agge > 3}}\n", '"age_ms.age"'),
    "an unknown event": ("kind: segments\nsegments: {a: {when: \"has(¦last['Boght'])\"}}\n", "Bought"),
    "segments of segments": (
        "kind: segments\nsegments: {a: {when: \"'b' in ¦segments\"}}\n",
        "unknown name 'segments'",
    ),
    "a number for a condition": ("kind: segments\nsegments: {a: {when: ¦profile.age + 1}}\n", "this is a number"),
    "types that never meet": ("kind: segments\nsegments: {a: {when: ¦profile.age == 'x'}}\n", "compared with"),
    "an aggregate of an unknown property": (
        PROFILE.replace("of: signal.properties.total", "of: ¦signal.properties.totl"),
        '"signal.properties.total"',
    ),
    "an aggregate that sees the profile": (
        PROFILE.replace("of: signal.properties.total", "of: ¦profile.age"),
        "unknown name 'profile'",
    ),
    "an aggregate of an unknown event": (PROFILE.replace("[Bought]", "[¦Bougt]"), 'did you mean "Bought"?'),
    "a sum of nothing": ("kind: profile\naggregates: {¦a: {function: sum}}\n", "needs `of`"),
    "a decaying minimum": (
        "kind: profile\naggregates: {¦a: {function: min, of: signal.time_ms, window: {decayed: 1d}}}\n",
        "cannot decay",
    ),
    "two windows": (
        "kind: profile\naggregates: {a: {function: count, ¦window: {sliding: 1d, decayed: 1d}}}\n",
        "found sliding and decayed, expected one of",
    ),
    "a window without length": (
        "kind: profile\naggregates: {a: {function: count, window: {sliding: ¦0s}}}\n",
        "a duration out of range",
    ),
    "buckets of a window without": (
        "kind: profile\naggregates: {a: {function: count, window: {decayed: 1d, buckets: ¦3}}}\n",
        "only a sliding window has buckets",
    ),
    "an offset of a window without": (
        "kind: profile\naggregates: {a: {function: count, ¦window: {decayed: 1d, offset: 1h}}}\n",
        "only tumbling has one",
    ),
    "an identifier stronger than user ids": (
        "kind: profile\nidentifiers: {priority: ¦[{kind: email}, {kind: userId}]}\n",
        "user ids must be the strongest kind",
    ),
    "an identifier given twice": (
        "kind: profile\nidentifiers: {priority: [{kind: userId}, {kind: email}, {kind: ¦email}]}\n",
        "given twice",
    ),
    "a bad regular expression": (
        "kind: profile\nidentifiers: {blocked: [test, ¦/(/]}\n",
        "not a regular expression",
    ),
    # --- Channels ---
    "an unknown channel of a placement": (
        CHANNELS.replace("channel: web", "channel: ¦wbe"),
        'unknown channel: found "wbe", expected one of email, web; did you mean "web"?',
    ),
    "an unknown fallback": (CHANNELS.replace("channel: web", "channel: web, fallback: ¦gfit"), 'did you mean "gift"?'),
    "a fallback that never fits": (
        CHANNELS.replace("channel: web", "channel: web, fallback: ¦gift"),
        "never fits this placement",
    ),
    "quiet hours without a span": (
        'kind: channels\nchannels: {email: {quiet_hours: [¦{from: "08:00", to: "08:00"}]}, web: {}}\n',
        "not quiet hours",
    ),
    "quiet hours without an end": (
        'kind: channels\nchannels: {email: {quiet_hours: [¦{from: "00:00", to: "24:00"}]}, web: {}}\n',
        "not quiet hours",
    ),
    "an hour that does not exist": (
        'kind: channels\nchannels: {email: {quiet_hours: [{from: ¦"24:00", to: "08:00"}]}, web: {}}\n',
        "not in the right form",
    ),
    # --- Actions ---
    "an unknown group": (ACTIONS.replace("group: offers", "group: ¦offer"), "unknown group"),
    "an unknown channel": (ACTIONS.replace("channel: email", "channel: ¦e-mail"), "unknown channel"),
    "no channel": (ACTIONS.replace("gift-email: {channel: email}", "¦gift-email: {}"), "missing: expected an id"),
    "an unknown placement": (
        ACTIONS.replace("channel: email", "channel: web, placements: [hero, ¦heor]"),
        'did you mean "hero"?',
    ),
    "a placement on another channel": (
        ACTIONS.replace("channel: email", "channel: email, placements: [¦hero]"),
        "this placement is on web",
    ),
    "an unknown purpose": (ACTIONS.replace("channel: email", "channel: email, purpose: ¦marketin"), '"marketing"'),
    "a rule that is none": (
        ACTIONS.replace("tags:", "eligibility: ['true', ¦profile.age >], tags:"),
        "not an expression",
    ),
    "a text for a value": (
        ACTIONS.replace("tags:", "value: ¦ten, tags:"),
        "unknown name 'ten': found \"ten\", expected a number or an expression that gives one",
    ),
    "a truth for a value": (ACTIONS.replace("tags:", "value: ¦profile.age > 3, tags:"), "this is true or false"),
    "a template that is none": (
        ACTIONS.replace("channel: email", 'channel: email, content: {body: "Dear ¦{profile.nme}"}').replace("¦{", "{¦"),
        '"profile.name"',
    ),
    "a lone brace": (
        ACTIONS.replace("channel: email", 'channel: email, content: {body: "Dear ¦{profile.name"}'),
        "lone '{'",
    ),
    "an end before the start": (
        ACTIONS.replace("tags:", "starts: 2026-05-02, ends: ¦2026-05-01, tags:"),
        "before it starts",
    ),
    "a day that does not exist": (ACTIONS.replace("tags:", "starts: ¦2026-02-30, tags:"), "not a time"),
    "a time without an offset": (ACTIONS.replace("tags:", "ends: ¦2026-02-03T10:00:00, tags:"), "not a time"),
    "answers shorter than the offer": (
        ACTIONS.replace("tags:", "expires_after: 2d, answerable: ¦1d, tags:"),
        "shorter than the offer",
    ),
    "a treatment of two actions": (
        ACTIONS.replace(
            "{channel: email}}}}\n",
            "{channel: email}}}, more: {group: offers, treatments: {¦gift-email: {channel: web}}}}\n",
        ),
        "action gift has a treatment of this id",
    ),
    "a treatment named as an action": (ACTIONS.replace("gift-email:", "¦gift:"), "an action has this id"),
    "a group of two issues": (
        ACTIONS.replace(
            "issues: {growth: {groups: {offers: {}}}}",
            "issues: {growth: {groups: {offers: {}}}, sale: {groups: {¦offers: {}}}}",
        ),
        "issue growth has a group of this id",
    ),
    # --- Triggers ---
    "nothing that sets it off": ("kind: triggers\ntriggers: {¦t: {limit: 2}}\n", "nothing sets it off"),
    "an unknown segment": ("kind: triggers\ntriggers: {t: {entered: ¦loyl}}\n", 'did you mean "loyal"?'),
    "an undeclared event": ("kind: triggers\ntriggers: {t: {on: ¦Bough}}\n", 'did you mean "Bought"?'),
    "an unknown property": (
        "kind: triggers\ntriggers: {t: {on: Bought, when: ¦signal.properties.totl > 3}}\n",
        '"signal.properties.total"',
    ),
    "no wait to end": ("kind: triggers\ntriggers: {t: {on: Bought, unless: ¦'true'}}\n", "it does not wait"),
    "the id of requests": ("kind: triggers\ntriggers: {¦request: {on: Bought}}\n", "stands for requests"),
    "an unknown scope": ("kind: triggers\ntriggers: {t: {on: Bought, consider: {tags: [¦promos]}}}\n", '"promo"'),
    "a wait of years": ("kind: triggers\ntriggers: {t: {on: Bought, after: ¦800d}}\n", "out of range"),
    "nothing to choose": (
        "kind: triggers\ntriggers: {¦t: {on: Bought, consider: {channels: [web]}}}\n",
        "no treatment can be sent",
    ),
    # --- Constraints ---
    "two windows of a limit": (
        "kind: constraints\ncontact_limits: {¦c: {limit: 1, per: day, rolling: 1d}}\n",
        "found both, expected one of per",
    ),
    "no window of a limit": ("kind: constraints\ncontact_limits: {¦c: {limit: 1}}\n", "found neither"),
    "a limit beyond the history": (
        "kind: constraints\ncontact_limits: {c: {limit: ¦200, per: day}}\n",
        "less than profile.limits.contacts, 200",
    ),
    "a limit of years": ("kind: constraints\ncontact_limits: {c: {limit: 1, per: ¦13 months}}\n", "longer than a year"),
    "an unknown span": ("kind: constraints\ncontact_limits: {c: {limit: 1, per: ¦fortnight}}\n", "a calendar span"),
    "half a decision": ("kind: constraints\nbudgets: {b: {limit: ¦10.5, per: day}}\n", "decisions are whole"),
    "no budget": ("kind: constraints\nbudgets: {b: {limit: ¦0, per: day}}\n", "a number above 0"),
    "a budget too small to share": (
        "kind: constraints\nbudgets: {b: {limit: ¦3, per: day}}\n",
        "found 3, expected at least 8, one for each of the engine's partitions",
    ),
    "pacing without a beginning": (
        "kind: constraints\nbudgets: {b: {limit: 50, rolling: 1d, pacing: ¦even}}\n",
        "no beginning to pace from",
    ),
    # --- Arbitration and experiments ---
    "an unknown factor": ("kind: arbitration\nformula: propensity * ¦valu\n", '"value"'),
    "a condition for a formula": ("kind: arbitration\nformula: ¦propensity > 1\n", "this is true or false"),
    "an end never reached": (
        "kind: arbitration\ninfluencers: {i: {outcome: reject, start: 1, end: ¦5, period: 1d}}\n",
        "never reached in one step",
    ),
    "an unknown action of an arm": (
        "kind: experiments\nexperiments: {t: {arms: {a: {only: [¦gft]}, b: {}}}}\n",
        "unknown action or treatment",
    ),
    "in and out of an arm": (
        "kind: experiments\nexperiments: {t: {arms: {a: {only: [gift], exclude: [¦gift]}, b: {}}}}\n",
        "also in only",
    ),
    "an unknown trigger": (
        "kind: experiments\nexperiments: {t: {triggers: [¦reqest], arms: {a: {}, b: {}}}}\n",
        'did you mean "request"?',
    ),
    "an empty holdout": ("kind: experiments\nholdout: {from: 5, to: ¦5}\n", "an empty range"),
    "a holdout beyond everybody": ("kind: experiments\nholdout: {to: ¦101}\n", "percent from 0 to 100"),
    "an unknown exemption": ("kind: experiments\nholdout: {to: 1, exempt: [¦mandatry]}\n", '"mandatory"'),
    # --- Cases ---
    "a failing case": (
        SEGMENTS + "cases: [{name: poor, given: {aggregates: {spent: 5}}, expect: {loyal: ¦true}}]\n",
        'case "poor" fails: found false, expected true',
    ),
    "a case of an unknown trait": (
        SEGMENTS + "cases: [{name: x, given: {profile: {¦agee: 5}}, expect: {loyal: false}}]\n",
        "unknown trait",
    ),
    "a case of an unknown rule": (
        SEGMENTS + "cases: [{name: x, given: {}, expect: {¦loyl: false}}]\n",
        "neither a rule of this file nor an expression: unknown name 'loyl': expected loyal; did you mean \"loyal\"?",
    ),
    "a case of no moment": (
        SEGMENTS + "cases: [{name: x, given: ¦{at: 2026-02-30}, expect: {loyal: false}}]\n",
        "no such moment",
    ),
    "a case of no signal": (
        SEGMENTS + "cases: [{name: x, given: ¦{signal: {event: 5}}, expect: {loyal: false}}]\n",
        "no such moment",
    ),
}


@pytest.mark.parametrize(("text", "fragment"), TABLE.values(), ids=TABLE.keys())
def test_each_fault_is_reported_alone_and_in_place(tmp_path: Path, text: str, fragment: str) -> None:
    """Of one mistake comes one fault, at the character that is wrong, saying what would be right."""
    assert_one_fault(tmp_path, text, fragment)


def test_the_base_of_the_table_is_sound(tmp_path: Path) -> None:
    """What the table breaks is whole before."""
    checked = check(tmp_path, **BASE)
    assert checked.faults == ()
    assert checked.repertoire is not None


def test_all_faults_of_all_files_at_once(tmp_path: Path) -> None:
    """Faults of shape, of meaning and in several files come together, in order of file and line."""
    checked = check(
        tmp_path,
        **{
            **BASE,
            "actions": ACTIONS.replace("group: offers", "group: offerings").replace("tags: [promo]", "tags: 3"),
            "segments": SEGMENTS.split("segments: {", maxsplit=1)[0]
            + "segments:\n  a: {when: 5}\n  b: {when: profile.aeg > 1}\n  c: {wehn: 'true'}\n",
        },
    )
    assert [(fault.file, fault.line, fault.path) for fault in checked.faults] == [
        ("actions.yaml", 3, "actions.gift.group"),
        ("actions.yaml", 3, "actions.gift.tags"),
        ("segments.yaml", 3, "segments.a.when"),
        ("segments.yaml", 4, "segments.b.when"),
        ("segments.yaml", 5, "segments.c.when"),
        ("segments.yaml", 5, "segments.c.wehn"),
    ]


def test_a_faulty_entry_is_not_also_an_unknown_one(tmp_path: Path) -> None:
    """An entry that does not fit still has a name that others may use."""
    broken = "kind: segments\nsegments: {loyal: {when: 5}}\n"
    triggers = "kind: triggers\ntriggers: {t: {entered: loyal}}\n"
    checked = check(tmp_path, **{**BASE, "segments": broken, "triggers": triggers})
    assert [fault.path for fault in checked.faults] == ["segments.loyal.when"]


def test_what_was_left_out_is_not_missed(tmp_path: Path) -> None:
    """A key that does not fit is one fault; that it then is missing is no second one."""
    triggers = "kind: triggers\ntriggers: {t: {on: 5}, u: {on: Bought, unless: 'true', after: soon}}\n"
    constraints = "kind: constraints\ncontact_limits: {c: {limit: 1, rollling: 1d}}\n"
    checked = check(tmp_path, **{**BASE, "triggers": triggers, "constraints": constraints})
    assert [fault.path for fault in checked.faults] == [
        "contact_limits.c.rollling",
        "triggers.t.on",
        "triggers.u.after",
    ]


def test_an_unreadable_file_hides_no_names(tmp_path: Path) -> None:
    """While a file cannot be read, what it may declare is not called unknown."""
    checked = check(tmp_path, **{**BASE, "channels": "kind: channels\n\tchannels: {}\n"})
    assert [fault.file for fault in checked.faults] == ["channels.yaml"]


def test_an_id_in_two_files(tmp_path: Path) -> None:
    """Files of one kind are one; an id in both is a fault that names both places."""
    checked = check(
        tmp_path, **BASE, more="kind: segments\nsegments:\n  other: {when: 'true'}\n  loyal: {when: 'true'}\n"
    )
    assert [str(fault) for fault in checked.faults] == [
        'segments.yaml:2:12: segments.loyal: already given at more.yaml:4: found "loyal", expected each id once'
    ]


def test_a_setting_in_two_files(tmp_path: Path) -> None:
    """A setting that is no map of ids is given once as well."""
    checked = check(tmp_path, a="kind: arbitration\ncontenders: 3\n", b="kind: arbitration\ncontenders: 3\n")
    assert [str(fault) for fault in checked.faults] == [
        'b.yaml:2:1: contenders: already given at a.yaml:2: found "contenders", expected each id once'
    ]


def test_two_engines(tmp_path: Path) -> None:
    """There is one engine per directory."""
    checked = check(tmp_path, other=ENGINE)
    assert [(fault.file, fault.line, fault.message) for fault in checked.faults] == [
        ("other.yaml", 1, "engine.yaml already is of kind engine")
    ]


def test_no_engine(tmp_path: Path) -> None:
    """A directory without an engine is told so, and nothing else."""
    (tmp_path / "segments.yaml").write_text("kind: segments\nsegments: {a: {when: parameters.x > 1}}\n")
    assert [fault.message for fault in check_directory(tmp_path).faults] == ["no file is of kind engine"]


def test_not_utf8(tmp_path: Path) -> None:
    """A file in another encoding is a fault at its first foreign byte."""
    (tmp_path / "latin.yaml").write_bytes("kind: segments\n# año\n".encode("latin-1"))
    assert [str(fault) for fault in check_directory(tmp_path).faults] == ["latin.yaml:2:4: not UTF-8: found byte 0xf1"]


def test_an_empty_directory(tmp_path: Path) -> None:
    """No YAML at all is a fault."""
    (tmp_path / "readme.txt").write_text("nothing")
    assert "no *.yaml file found" in str(check_directory(tmp_path).faults[0])


def test_no_directory(tmp_path: Path) -> None:
    """Neither a missing directory nor a file will do."""
    assert "not a directory" in str(check_directory(tmp_path / "nowhere").faults[0])


def test_an_unreadable_file(tmp_path: Path) -> None:
    """A file that cannot be opened is a fault, with the system's reason."""
    (tmp_path / "lost.yaml").symlink_to(tmp_path / "nowhere")
    assert "cannot be read (No such file" in str(check_directory(tmp_path).faults[0])


def test_a_file_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files have a bound."""
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 100)
    checked = check(tmp_path, **BASE)
    assert {fault.message for fault in checked.faults} == {
        f"the file has {len(text)} bytes" for text in BASE.values() if len(text) > 100
    }


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of files has a bound."""
    monkeypatch.setattr(sources, "MAX_FILES", 4)
    assert "5 YAML files" in str(check(tmp_path, **BASE).faults[0])


def test_a_bomb_of_aliases(tmp_path: Path) -> None:
    """Aliases are counted as what they stand for, before that is built."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    checked = check(tmp_path, bomb="kind: segments\n" + "\n".join(lines) + "\n")
    assert [fault.message for fault in checked.faults] == ["the file has too many values"]


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "- " * 50 + "x\n", "- " * 20_000 + "x\n", "[" * 50_000])
def test_depth_has_a_bound(tmp_path: Path, text: str) -> None:
    """Neither a value inside itself nor any other depth gets through, and it is noticed at once."""
    (fault,) = check(tmp_path, deep=text).faults
    assert (fault.file, fault.line) == ("deep.yaml", 1)
    assert "nested" in fault.message


def test_invalid_carries_all_faults(tmp_path: Path) -> None:
    """Loading raises one exception with every fault, one a line."""
    (tmp_path / "a.yaml").write_text("kind: segmentz\n")
    (tmp_path / "b.yaml").write_text("kind: enginee\n")
    with pytest.raises(ConfigInvalid) as raised:
        load_directory(tmp_path)
    assert len(raised.value.faults) == 2
    assert str(raised.value).count("\n") == 1


# --- How faults read ---


def test_a_fault_reads_as_a_sentence() -> None:
    """Place, path, what is wrong, what was found and what belongs there, in one line."""
    fault = Fault("a.yaml", 12, 5, "actions.gift.value", "wrong type", '"ten"', "a number", "10")
    assert str(fault) == (
        'a.yaml:12:5: actions.gift.value: wrong type: found "ten", expected a number; did you mean "10"?'
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        ("añb", '"añb"'),
        ({}, "an empty map"),
        ([1, 2], "a list of 2"),
        ({"a": 1}, "a map of 1"),
    ],
)
def test_values_are_shown_as_written(value: Any, shown: str) -> None:
    """Found values read as in the file."""
    assert show(value) == shown


def test_long_values_are_cut() -> None:
    """A fault stays a line."""
    assert len(show("x" * 5_000)) < 100


def test_paths_quote_what_is_no_name() -> None:
    """Keys with spaces and dots stand in brackets."""
    assert show_path(("signals", "Product Added", "a.b", 3, "x-y_z")) == 'signals["Product Added"]["a.b"][3].x-y_z'


@pytest.mark.parametrize(
    ("name", "found"),
    [("colour", "color"), ("free_shiping", "free-shipping"), ("EMAIL", "email"), ("zzz", "")],
)
def test_did_you_mean(name: str, found: str) -> None:
    """Case, dashes and a few letters are forgiven; nothing is guessed from afar."""
    assert closest(name, ["color", "free-shipping", "email"]) == found


def test_choices_are_listed_shortly() -> None:
    """A dozen names at most."""
    assert one_of(["b", "a"]) == "one of a, b"
    assert one_of([]) == "none, as none is declared"
    assert one_of(f"n{n:02}" for n in range(20)).endswith("n11 and 8 more")
