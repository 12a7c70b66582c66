"""What a models file means: features with a version, models in an order, and how much is left to chance."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from engine.calendar import DAY_MS
from engine.candidates import named
from engine.features import FeatureSchema
from engine.outcomes import POSITIVE
from engine.repertoire import Exploration, Repertoire, RewardRule
from tests.builders import CONFIG, a_repertoire
from tests.config.broken import assert_one_fault
from tests.config.shop_models import MODELS

NOW_MS = 1_767_225_600_000


@pytest.fixture(scope="module")
def shop() -> Repertoire:
    """The example configuration with its models."""
    return a_repertoire(models=MODELS)


def models_with(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The example's models with another value somewhere."""
    changed = copy.deepcopy(MODELS)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return changed


# --- Features ---


def test_features_are_read_from_all_a_rule_may_see(shop: Repertoire) -> None:
    """In the order of their names, with what is missing and what is old."""
    scope = {
        "profile": {"age": 40, "tier": "gold"},
        "aggregates": {"spent": 0.0},
        "age_ms": {"spent": 31 * DAY_MS},
        "segments": frozenset({"loyal"}),
        "now_ms": NOW_MS,
    }
    assert [each.name for each in shop.features.features] == ["age", "loyal", "spent", "tier"]
    assert shop.features.read(scope) == (40.0, True, 0.0, "gold", True)
    assert shop.features.read({**scope, "age_ms": {"spent": 29 * DAY_MS}})[-1] is False
    assert shop.features.read({"segments": frozenset(), "now_ms": NOW_MS}) == (None, False, None, None, True)
    assert [slot for slot in shop.features.slots if slot.startswith("tier")] == [
        "tier=0", "tier=1", "tier=2", "tier=3", "tier?",
    ]  # fmt: skip


def test_features_of_actions_see_the_offer_alone(shop: Repertoire) -> None:
    """They are the same for every customer."""
    action = {"id": "x", "issue": "growth", "group": "offers", "tags": frozenset({"promotion"})}
    treatment = {"id": "y", "channel": "push", "cost": 0.5}
    assert shop.action_features.read({"action": action, "treatment": treatment}) == ("push", 0.5, True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("age", "value"), "profile.age + 1"),
        (("age", "type"), "categorical"),
        (("tier", "buckets"), 8),
        (("spent", "as_of"), "now_ms"),
        (("spent", "fresh_for"), "31d"),
        (("more",), {"value": "1"}),
    ],
)
def test_a_feature_of_another_meaning_is_another_version(shop: Repertoire, path: tuple[str, ...], value: Any) -> None:
    """What was learned of one is not applied to the other."""
    changed = a_repertoire(models=models_with(("features", *path), value))
    assert changed.features.version != shop.features.version
    assert changed.action_features.version == shop.action_features.version


def test_how_a_feature_is_written_is_not_its_meaning(shop: Repertoire) -> None:
    """Spacing, quotes, descriptions and models leave the version alone."""
    changed = models_with(("features", "loyal"), {"value": '("loyal"  in segments)', "description": "Comes again."})
    del changed["models"]["offers"]
    assert a_repertoire(models=changed).features.version == shop.features.version


def test_without_features_there_is_a_schema_without_slots() -> None:
    """Models then know which offer it is, and nothing else."""
    bare = a_repertoire(models={"models": {"m": {"learners": {"a": {"kind": "bayesian-linear"}}}}})
    assert bare.features == bare.action_features == FeatureSchema()


# --- Models ---


def test_models_mean_what_is_written(shop: Repertoire) -> None:
    """Rewards, windows, learners with all their parameters, champions."""
    models = {each.id: each for each in shop.models}
    everything, offers, pushes = models["everything"], models["offers"], models["pushes"]
    assert everything.reward == RewardRule(positive=frozenset({"accept", "convert"}))
    assert offers.reward == RewardRule(kind="money", positive=frozenset({"accept", "convert"}), most=200)
    assert pushes.reward == RewardRule(kind="survey", positive=frozenset(), least=-1, most=10, metric="nps")
    assert (everything.window_ms, offers.window_ms) == (None, 2 * DAY_MS)
    assert [each.champion for each in (everything, offers, pushes)] == ["b", "a", "a"]
    assert {key: each.kind for key, each in everything.learners.items()} == {"a": "bayesian-linear", "b": "logistic"}
    assert everything.learners["b"].parameters["learning_rate"] == 0.5


def test_what_is_left_out_is_a_binary_reward_of_what_the_engine_calls_positive() -> None:
    """A click, an accept or a convert."""
    (model,) = a_repertoire(models={"models": {"m": {"learners": {"a": {"kind": "logistic"}}}}}).models
    assert model.reward == RewardRule()
    assert model.reward.positive == POSITIVE


def scorer_of(repertoire: Repertoire) -> dict[str, str]:
    """Treatment → the first model whose scope covers it."""
    return {
        each.treatment.id: next(model.id for model in repertoire.models if model.scope.covers(*named(each)))
        for each in repertoire.candidates
    }


def test_the_narrower_model_scores_and_precedence_goes_first(shop: Repertoire) -> None:
    """A model for everything may have exceptions, in whatever order they are written."""
    assert [each.id for each in shop.models] == ["pushes", "offers", "everything"]
    assert scorer_of(shop) == {
        "free-shipping-email": "offers",
        "free-shipping-push": "pushes",
        "newsletter-hero": "everything",
        "order-confirmation-email": "everything",
        "recall-push": "pushes",
    }


def test_what_no_model_covers_keeps_its_propensity() -> None:
    """Learning may begin with a part."""
    models = {"models": {"m": {"scope": {"channels": ["web"]}, "learners": {"a": {"kind": "logistic"}}}}}
    assert len(a_repertoire(models=models).models) == 1


# --- Chance ---


def test_where_there_are_models_there_is_something_to_learn_from(shop: Repertoire) -> None:
    """A floor and a control group unless the configuration says otherwise; none where nothing is learned."""
    assert a_repertoire(arbitration=None).arbitration.exploration == Exploration(floor=0.0, control=0.0)
    assert a_repertoire(arbitration=None, models=MODELS).arbitration.exploration == Exploration(
        floor=0.005, control=0.02
    )


def test_exploration_means_what_is_written() -> None:
    """Every setting by itself, in arms as well."""
    written = {"thompson": False, "epsilon": 0.1, "floor": 0, "control": 0, "ramp": {"positives": 50, "start": 0.1}}
    arms = {"a": {}, "b": {"arbitration": {"exploration": {"ramp": {}}}}}
    compiled = a_repertoire(
        arbitration={"exploration": written}, experiments={"experiments": {"t": {"arms": arms}}}, models=MODELS
    )
    assert compiled.arbitration.exploration == Exploration(
        thompson=False, epsilon=0.1, floor=0, control=0, ramp_positives=50, ramp_start=0.1
    )
    arm = compiled.experiments[0].arms[1].arbitration
    assert arm is not None
    assert arm.exploration == Exploration(floor=0.005, control=0.02, ramp_positives=200, ramp_start=0.02)


def test_channels_say_whether_they_report_impressions() -> None:
    """Where they do, nothing is learned from what was not seen."""
    channels = {**CONFIG["channels"], "channels": {**CONFIG["channels"]["channels"], "web": {"impressions": True}}}
    compiled = a_repertoire(channels=channels).channels
    assert {key: each.impressions for key, each in compiled.items()} == {"email": False, "push": False, "web": True}


# --- Faults ---

LEARNERS = "learners: {a: {kind: bayesian-linear}}"
TABLE: dict[str, tuple[str, str]] = {
    "an unknown trait": ("features: {f: {value: ¦profile.aeg}}\n", 'did you mean "profile.age"?'),
    "a feature without a value": ("features: {¦f: {type: numeric}}\n", "features.f.value: missing"),
    "text for a number": (
        "features: {f: {value: ¦profile.name}}\n",
        'this is text: found "profile.name", expected a number, or true or false; type: categorical for text',
    ),
    "a map for a word": ("features: {f: {value: ¦last, type: categorical}}\n", "this is a map"),
    "an unknown type": ("features: {f: {value: '1', type: ¦categoric}}\n", 'did you mean "categorical"?'),
    "buckets of a number": ("features: {f: {value: profile.age, buckets: ¦4}}\n", "only a categorical feature"),
    "no buckets": ("features: {f: {value: profile.name, type: categorical, buckets: ¦0}}\n", "from 1 to 256"),
    "a date without freshness": ("features: {f: {value: '1', as_of: ¦now_ms}}\n", "also fresh_for"),
    "freshness without a date": ("features: {f: {value: '1', fresh_for: ¦1d}}\n", "also as_of"),
    "a date that is none": ("features: {f: {value: '1', as_of: ¦profile.name, fresh_for: 1d}}\n", "this is text"),
    "too many slots": (
        "¦features:\n"
        + "".join(f"  f{n}: {{value: profile.name, type: categorical, buckets: 256}}\n" for n in range(2)),
        "found 514 slots, expected at most 512",
    ),
    "a customer in a feature of actions": ("action_features: {f: {value: ¦profile.age}}\n", "unknown name 'profile'"),
    "an unknown tag": ("action_features: {f: {value: '¦\"prmo\" in action.tags'}}\n", '"promo"'),
    "a date of an action": ("action_features: {f: {value: '1', ¦as_of: '1'}}\n", "unknown key"),
    "no learners": ("models: {m: {learners: ¦{}}}\n", "expected at least one learner"),
    "a learner that is none": ("models: {m: {learners: {a: ¦5}}}\n", "found 5, expected a map"),
    "a learner without a kind": ("models: {m: {learners: {¦a: {}}}}\n", "kind: missing: expected one of"),
    "a misspelt kind": ("models: {m: {learners: {a: {kind: ¦bayes-linear}}}}\n", 'did you mean "bayesian-linear"?'),
    "an unknown parameter": (
        "models: {m: {learners: {a: {kind: logistic, ¦learning-rate: 1}}}}\n",
        'did you mean "learning_rate"?',
    ),
    "a wrong parameter": (
        "models: {m: {learners: {a: {kind: logistic, learning_rate: ¦fast}}}}\n",
        'found "fast", expected a number above 0',
    ),
    "a warm-up that never ends": (
        "models: {m: {learners: {a: {kind: naive-bayes, warm_up: ¦300, window: 200}}}}\n",
        "longer than what is kept: found 300, expected at most window, 200",
    ),
    "an unknown champion": (f"models: {{m: {{{LEARNERS}, champion: ¦b}}}}\n", "unknown learner"),
    "no champion": (
        "models: {¦m: {learners: {a: {kind: logistic}, b: {kind: logistic}}}}\n",
        "which learner is served?: expected champion: one of a, b",
    ),
    "an unknown scope": (f"models: {{m: {{{LEARNERS}, scope: {{groups: [¦offer]}}}}}}\n", 'did you mean "offers"?'),
    "a scope without candidates": (f"models: {{¦m: {{{LEARNERS}, scope: {{channels: [web]}}}}}}\n", "nothing to score"),
    "two models for the same": (
        f"models: {{m: {{{LEARNERS}}}, ¦n: {{{LEARNERS}, scope: {{tags: [promo]}}}}}}\n",
        "model m scores gift-email as well: expected scopes apart, one within the other, or a precedence",
    ),
    "a window longer than answers": (
        f"models: {{m: {{{LEARNERS}, window: ¦8d}}}}\n",
        'action gift takes no answers that late: found "8d", expected at most 7d',
    ),
    "no window at all": (f"models: {{m: {{{LEARNERS}, window: ¦0s}}}}\n", "a duration out of range"),
    "an unknown reward": (
        f"models: {{m: {{{LEARNERS}, reward: {{type: ¦bool}}}}}}\n",
        "expected one of binary, money, survey",
    ),
    "a reward without a type": (f"models: {{m: {{{LEARNERS}, ¦reward: {{most: 1}}}}}}\n", "reward.type: missing"),
    "a reward of nothing": (
        f"models: {{m: {{{LEARNERS}, reward: {{type: binary, positive: ¦[]}}}}}}\n",
        "at least one",
    ),
    "an unknown outcome": (
        f"models: {{m: {{{LEARNERS}, reward: {{type: money, most: 9, positive: [¦sale]}}}}}}\n",
        "unknown value",
    ),
    "money without a measure": (f"models: {{m: {{{LEARNERS}, ¦reward: {{type: money}}}}}}\n", "reward.most: missing"),
    "no money": (f"models: {{m: {{{LEARNERS}, reward: {{type: money, most: ¦0}}}}}}\n", "a number above 0"),
    "a survey of nothing": (f"models: {{m: {{{LEARNERS}, ¦reward: {{type: survey, most: 9}}}}}}\n", "metric: missing"),
    "a survey without a range": (
        f"models: {{m: {{{LEARNERS}, reward: {{type: survey, metric: nps, least: 5, most: ¦5}}}}}}\n",
        "an empty range: found 5, expected more than least, 5",
    ),
}


@pytest.mark.parametrize(("text", "fragment"), TABLE.values(), ids=TABLE.keys())
def test_each_fault_is_reported_alone_and_in_place(tmp_path: Path, text: str, fragment: str) -> None:
    """Of one mistake comes one fault, at the character that is wrong, saying what would be right."""
    assert_one_fault(tmp_path, f"kind: models\n{text}", fragment)
