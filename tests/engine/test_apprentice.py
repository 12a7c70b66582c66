"""Apprentice mode: a second configuration decides on the same moments, and nothing comes of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.apprentice import TOPIC, Apprentice, obstacles
from engine.expression import compile_expression
from engine.record import Output
from engine.repertoire import (
    Arbitration,
    BudgetRule,
    Constraints,
    ContactLimit,
    Exploration,
    ProfileRules,
    Repertoire,
    Segment,
    Trigger,
    Window,
)
from engine.replay import Replay
from models.baseline import PriorScorer
from tests.repertoires import DAY_MS, HOUR_MS, START_MS, Builder, a_signal

CONSTRAINTS = Constraints(
    purposes={"marketing": "implied"},
    contact_limits=(ContactLimit(id="l", limit=3, window=Window(span_ms=DAY_MS)),),
    budgets=(BudgetRule(id="b", unit="decisions", limit=40, window=Window(span_ms=DAY_MS)),),
)


def a_repertoire(version: str = "v1", **changes) -> Repertoire:
    """Two actions, sent or shown, with a cap and a budget."""
    b = Builder()
    for name, value in (("a", changes.pop("a", 10.0)), ("b", 9.0)):
        b.action(name, b.treatment(f"{name}-email"), b.treatment(f"{name}-web", "web"), value=value)
    return b.build(version=version, constraints=CONSTRAINTS, **changes)


def played(story, live: Repertoire, apprentice: Repertoire | None = None) -> tuple[list[Output], Replay]:
    """What comes of a story of minutes, customers and events."""
    beside = None if apprentice is None else Apprentice(apprentice, PriorScorer(apprentice))
    replay = Replay(live, PriorScorer(live), apprentice=beside)
    outputs: list[Output] = []
    for minute, customer, event in sorted(story):
        asked = {"properties": {"placement": "hero", "limit": 2}} if event == "Decision Requested" else {}
        outputs += replay.signal(a_signal(event, f"u{customer}", **asked), START_MS + minute * 60_000)
    return outputs, replay


STORIES = st.lists(
    st.tuples(st.integers(0, 3 * 24 * 60), st.integers(0, 3), st.sampled_from(["Go", "Decision Requested", "Other"])),
    max_size=20,
)


@settings(max_examples=40)
@given(STORIES)
def test_an_apprentice_changes_nothing(story):
    """Whatever it would do, all else is as without it: outputs, profiles, budgets."""
    eager = a_repertoire("v2", a=1.0, arbitration=Arbitration(exploration=Exploration(epsilon=0.9)))
    alone, before = played(story, a_repertoire())
    beside, after = played(story, a_repertoire(), eager)
    assert [each for each in beside if each.topic != TOPIC] == alone
    # The outbox holds what was published, which is compared above.
    for one, other in zip(before.partitions, after.partitions, strict=True):
        for profile in (*one.profiles.values(), *other.profiles.values()):
            profile.outbox.clear()
        assert one.profiles == other.profiles
        assert one.budgets == other.budgets


@settings(max_examples=40)
@given(STORIES)
def test_an_apprentice_of_the_same_mind_decides_the_same(story):
    """The same configuration: the same bytes, decision by decision."""
    outputs, _ = played(story, a_repertoire(), a_repertoire())
    values = {topic: [each.value for each in outputs if each.topic == topic] for topic in ("decisions", TOPIC)}
    assert values["decisions"] == values[TOPIC]


def test_another_mind_is_laid_beside_under_the_same_id():
    """It would have chosen b; that is logged with its own configuration's version."""
    outputs, _ = played([(0, 1, "Go")], a_repertoire(), a_repertoire("v2", a=1.0))
    live, beside = (json.loads(each.value) for each in sorted(outputs, key=lambda each: each.topic != "decisions"))
    assert live["decisionId"] == beside["decisionId"]
    assert (live["action"], beside["action"]) == ("a", "b")
    assert (live["config"], beside["config"]) == ("v1", "v2")


def test_a_trigger_it_does_not_have_is_none_of_its_business():
    """Nothing is said of it."""
    outputs, _ = played([(0, 1, "Go")], a_repertoire(), a_repertoire("v2", triggers=()))
    assert {each.topic for each in outputs} == {"decisions"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"profile": ProfileRules(segments=(Segment(id="s", when=compile_expression("true")),))}, "segments"),
        ({"triggers": (Trigger(id="other", after_ms=HOUR_MS),)}, "never decides for other"),
    ],
)
def test_what_an_apprentice_cannot_see_is_said(changes, said):
    """It would decide on facts the live engine does not gather, or at moments it does not have."""
    [obstacle] = obstacles(a_repertoire(), a_repertoire("v2", **changes))
    assert said in obstacle
    assert obstacles(a_repertoire(), a_repertoire("v2", a=3.0)) == []
