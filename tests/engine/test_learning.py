"""Examples from life: what a decision, its outcomes and the end of its window tell the model that scored it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.expression import compile_expression
from engine.features import Feature, FeatureSchema
from engine.learning import Example, decode_example
from engine.record import Output
from engine.repertoire import Channel, LearnerRule, ModelRule, Repertoire, RewardRule, Scope
from engine.replay import Replay
from tests.engine.known_scorer import KnownScorer
from tests.repertoires import DAY_MS, HOUR_MS, START_MS, Builder, a_signal, channels, decisions_of

FEATURES = FeatureSchema(version="f1", features=(Feature(name="age", value=compile_expression("profile.age")),))
ACTION_FEATURES = FeatureSchema(
    version="g1",
    features=(
        Feature(name="channel", kind="categorical", value=compile_expression("treatment.channel")),
        Feature(name="promo", value=compile_expression('"promo" in action.tags')),
    ),
)


def a_model(**changes: Any) -> ModelRule:
    """A model of everything."""
    learners = {"a": LearnerRule(kind="bayesian-linear")}
    return ModelRule(**{"id": "take-up", "learners": learners, "champion": "a", **changes})


def a_repertoire(*, impressions: bool = False, **changes: Any) -> Repertoire:
    """One e-mail for `Go`, with a prior of 0.2, open for a day and answerable for a week."""
    b = Builder()
    b.action("a", b.treatment("a-email", propensity=0.2), tags=frozenset({"promo"}))
    reporting = {**channels(), "email": Channel(id="email", impressions=impressions)}
    models = changes.pop("models", (a_model(),))
    return b.build(
        **{"channels": reporting, "features": FEATURES, "action_features": ACTION_FEATURES, "models": models, **changes}
    )


class Story:
    """A customer's story, told to a whole engine; keeps the examples it taught."""

    def __init__(self, repertoire: Repertoire) -> None:
        self.replay = Replay(repertoire, KnownScorer(repertoire, {"a-email": (0.3, 0.1)}))
        self.examples: list[Example] = []
        self.decision = ""

    def _hear(self, outputs: list[Output]) -> None:
        for each in decisions_of(outputs):
            self.decision = each["decisionId"]
        self.examples += [decode_example(each.value) for each in outputs if each.topic == "learning"]

    def signal(self, event: str, at_ms: int = 0, **fields: Any) -> None:
        """The customer, 41 years old, does something, so long after the start."""
        self._hear(self.replay.signal(a_signal(event, traits={"age": 41}, **fields), START_MS + at_ms))

    def outcome(self, type_: str, at_ms: int, **fields: Any) -> None:
        """A channel reports on the latest decision."""
        body = {"decisionId": self.decision, "customerId": "u1", "type": type_, **fields}
        self._hear(self.replay.publish("outcomes", "u1", json.dumps(body).encode(), START_MS + at_ms))

    def wait(self, at_ms: int) -> None:
        """Nothing happens until then."""
        self._hear(self.replay.advance(START_MS + at_ms))

    def told(self) -> list[tuple[str, str | None, float | None, float, bool]]:
        """Stage, label, reward before and after, and whether it was late."""
        return [(each.stage, each.label, each.previous, each.reward, each.late) for each in self.examples]


def a_story(*, impressions: bool = False, **changes: Any) -> Story:
    """A decision was made for a customer."""
    story = Story(a_repertoire(impressions=impressions, **changes))
    story.signal("Go")
    return story


EXPOSED = ("exposed", None, None, 0.0, False)


def test_an_example_says_all_a_model_has_to_know():
    """Features as they were at the decision, the prior, what was said of it and how likely the choice was."""
    story = a_story()
    [example] = story.examples
    assert msgspec.to_builtins(example) == {
        "exampleId": f"{story.decision}:exposed",
        "model": "take-up",
        "stage": "exposed",
        "label": None,
        "reward": 0.0,
        "previous": None,
        "late": False,
        "decisionId": story.decision,
        "customerId": "u1",
        "group": "offers",
        "action": "a",
        "treatment": "a-email",
        "channel": "email",
        "prior": 0.2,
        "propensity": pytest.approx(0.3, abs=1e-6),
        "version": "v7",
        "probability": 1.0,
        "schema": "f1",
        "features": (41.0,),
        "actionSchema": "g1",
        "actionFeatures": ("email", 1.0),
        "decidedMs": START_MS,
        "atMs": START_MS,
        "windowMs": DAY_MS,
    }


def test_features_are_those_of_the_decision_not_of_the_answer():
    """The customer is a year older when the answer comes; the example is not."""
    story = a_story()
    story.signal("Birthday", HOUR_MS, properties={})
    story.replay.signal(a_signal("Birthday", traits={"age": 42}), START_MS + HOUR_MS)
    story.outcome("accept", 2 * HOUR_MS)
    assert [each.features for each in story.examples] == [(41.0,), (41.0,)]


def test_an_answer_is_told_at_once_and_the_window_closes_with_it():
    """Exposed, answered, closed: with what it brought."""
    story = a_story()
    story.outcome("click", HOUR_MS)
    story.wait(DAY_MS)
    answered, closed = ("answered", "positive", None, 1.0, False), ("closed", "positive", 1.0, 1.0, False)
    assert story.told() == [EXPOSED, answered, closed]
    assert [each.at_ms - START_MS for each in story.examples] == [0, HOUR_MS, DAY_MS]


def test_silence_is_told_at_the_end_of_the_window():
    """Nobody needs to send anything for that: the end of the window is a timer."""
    story = a_story(models=(a_model(window_ms=3 * HOUR_MS),))
    story.wait(3 * HOUR_MS - 1)
    assert story.told() == [EXPOSED]
    story.wait(3 * HOUR_MS)
    assert story.told() == [EXPOSED, ("closed", "no-response", None, 0.0, False)]


def test_a_no_is_no_silence():
    """Rejected: a negative example, which closes as one; what was known before is a nothing then, not unknown."""
    story = a_story()
    story.outcome("reject", HOUR_MS)
    story.wait(2 * DAY_MS)
    assert story.told() == [
        EXPOSED,
        ("answered", "negative", None, 0.0, False),
        ("closed", "negative", 0.0, 0.0, False),
    ]


def test_a_late_yes_corrects_what_silence_taught():
    """After the window, as long as outcomes are accepted; it is the first answer, so nothing was known before it."""
    story = a_story()
    story.outcome("convert", 3 * DAY_MS)
    assert story.told() == [
        EXPOSED,
        ("closed", "no-response", None, 0.0, False),
        ("answered", "positive", None, 1.0, True),
    ]
    story.outcome("convert", 9 * DAY_MS)
    assert len(story.examples) == 3


def test_the_same_answer_twice_teaches_once():
    """A click, then the purchase: one reward. And every example has an id of its own."""
    story = a_story()
    for hour, type_ in enumerate(("delivered", "click", "click", "convert")):
        story.outcome(type_, hour * HOUR_MS)
    assert story.told() == [EXPOSED, ("answered", "positive", None, 1.0, False)]
    story.wait(DAY_MS)
    assert len({each.example_id for each in story.examples}) == 3


def test_what_was_never_shown_teaches_nothing():
    """On a channel that reports impressions, silence before the first one says nothing."""
    story = a_story(impressions=True)
    story.outcome("delivered", HOUR_MS)
    story.wait(2 * DAY_MS)
    assert story.told() == []


@pytest.mark.parametrize("shown", ["impression", "click", "dismiss"])
def test_what_was_shown_counts_from_then_on(shown):
    """An impression activates it, and so does whatever cannot happen without one."""
    story = a_story(impressions=True)
    story.outcome(shown, HOUR_MS)
    story.outcome("impression", 2 * HOUR_MS)
    story.wait(2 * DAY_MS)
    assert [each.stage for each in story.examples].count("exposed") == 1
    assert story.examples[0].stage == "exposed"
    assert story.examples[0].at_ms == START_MS + HOUR_MS
    assert story.examples[-1].stage == "closed"


def test_what_is_shown_after_its_window_teaches_nothing():
    """The window closed without a word; learning only its late yes would make it look better than it is."""
    story = a_story(impressions=True)
    story.outcome("click", 2 * DAY_MS)
    story.outcome("accept", 3 * DAY_MS)
    assert story.told() == []


def test_what_bounced_is_not_a_no():
    """It never arrived, so its window closes without a word."""
    story = a_story()
    story.outcome("bounce", HOUR_MS)
    story.wait(2 * DAY_MS)
    assert story.told() == [EXPOSED]


def test_money_adds_up_to_the_most_that_counts():
    """Two purchases of 30 of at most 80; the model learns shares of it."""
    money = RewardRule(kind="money", positive=frozenset({"convert"}), most=80.0)
    story = a_story(models=(a_model(reward=money),))
    story.outcome("click", HOUR_MS)
    for hour in (2, 3, 4):
        story.outcome("convert", hour * HOUR_MS, value=30)
    assert [each[2:4] for each in story.told()] == [(None, 0.0), (None, 0.375), (0.375, 0.75), (0.75, 1.0)]


def test_a_survey_rewards_the_latest_offer_made_for_its_sake():
    """A score of 9 of 10 is .9; another metric, or a score that is no number, is not for this model."""
    nps = RewardRule(kind="survey", metric="nps", least=0.0, most=10.0)
    story = a_story(models=(a_model(reward=nps),))
    for number, properties in enumerate(({"metric": "csat", "score": 1}, {"metric": "nps", "score": "9"})):
        story.signal("Survey Answered", HOUR_MS + number, properties=properties)
    story.outcome("accept", 2 * HOUR_MS)
    story.signal("Survey Answered", 3 * HOUR_MS, properties={"metric": "nps", "score": 9})
    assert story.told() == [EXPOSED, ("answered", "positive", None, 0.9, False)]


def test_only_what_a_model_covers_is_learned():
    """Out of scope, out of the configuration, or held out: no example."""
    assert a_story(models=(a_model(scope=Scope(channels=frozenset({"push"}))),)).examples == []
    assert a_story(models=()).examples == []


def test_examples_of_another_feature_schema_are_not_mixed_in():
    """A decision made before the features changed keeps quiet: its values mean something else."""
    repertoire = a_repertoire()
    story = Story(repertoire)
    story.signal("Go")
    changed = msgspec.structs.replace(repertoire, features=msgspec.structs.replace(FEATURES, version="f2"))
    after = Replay(changed, KnownScorer(changed, {}))
    after.partitions = story.replay.partitions
    body = json.dumps({"decisionId": story.decision, "customerId": "u1", "type": "accept"}).encode()
    outputs = after.publish("outcomes", "u1", body, START_MS + HOUR_MS)
    assert [each.topic for each in outputs] == []


def test_profiles_forget_what_nothing_more_can_become_of():
    """Once outcomes are no longer accepted, the features go."""
    story = a_story()
    story.signal("Later", 8 * DAY_MS)
    story.signal("Later still", 8 * DAY_MS + 1)
    for state in story.replay.partitions:
        for profile in state.profiles.values():
            assert all(each.pending is None for each in profile.contacts)
            assert profile.closes_ms is None


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 3 * DAY_MS),
        st.sampled_from(["Go", "delivered", "impression", "click", "accept", "reject", "dismiss", "convert"]),
    ),
    max_size=14,
)


@settings(max_examples=60)
@given(EVENTS, st.booleans())
def test_every_decision_is_told_in_order_and_never_twice(events, impressions):
    """Exposed once and first, closed at most once; each says what was known before it, None before an answer."""
    story = a_story(impressions=impressions)
    for at_ms, what in sorted(events):
        story.signal(what, at_ms) if what == "Go" else story.outcome(what, at_ms)
    story.wait(20 * DAY_MS)
    assert len({each.example_id for each in story.examples}) == len(story.examples)
    by_decision: dict[str, list[Example]] = {}
    for each in story.examples:
        by_decision.setdefault(each.decision_id, []).append(each)
    for told in by_decision.values():
        assert told[0].at_ms <= told[0].decided_ms + told[0].window_ms
        stages = [each.stage for each in told]
        assert stages[0] == "exposed"
        assert stages.count("exposed") == stages.count("closed") == 1
        known: float | None = None
        for each in told:
            assert each.previous == known
            if each.stage == "answered":
                known = each.reward
            assert each.reward == (known or 0.0)
            assert each.late == (each.stage == "answered" and each.at_ms >= each.decided_ms + each.window_ms)
    if not impressions:
        made = story.replay.counts.get(("decisions", "a", "email", "go", "false"), 0)
        assert len(by_decision) == made
