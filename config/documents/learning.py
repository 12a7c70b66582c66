"""The files that say what is learned: features, and models with their rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from config.documents.learners import Learner
from config.documents.values import (
    Answer,
    Condition,
    Document,
    Duration,
    Id,
    Label,
    Positive,
    Scope,
)

# --- What models know ---

Buckets = Annotated[int, Meta(title="a whole number from 1 to 256", ge=1, le=256)]
FeatureKind = Literal["numeric", "categorical"]


class ActionFeature(Document, frozen=True):
    """Something models know of an offer, the same for every customer."""

    value: Annotated[Condition, Meta(description="What it is, of `action` and `treatment` alone.")]
    type: Annotated[
        FeatureKind,
        Meta(description="numeric: a number, or true or false; categorical: a word that stands for a group."),
    ] = "numeric"
    buckets: Annotated[
        Buckets | None, Meta(description="How many words a categorical one tells apart at most; left out: 16.")
    ] = None
    description: Annotated[str, Meta(description="What it means.")] = ""


class Feature(ActionFeature, frozen=True):
    """Something models know of the customer and the moment. What is missing is learned from, too."""

    value: Annotated[Condition, Meta(description="What it is; may use all that rules may use.")]
    as_of: Annotated[
        Condition | None, Meta(description="Epoch milliseconds the value dates from, to learn what an old one says.")
    ] = None
    fresh_for: Annotated[Duration | None, Meta(description="How long a value with `as_of` is not old.")] = None


# --- What counts as a success ---


class BinaryReward(Document, frozen=True, tag_field="type", tag="binary"):
    """A success or none."""

    positive: Annotated[
        frozenset[Answer],
        Meta(description="Outcomes that are a success.", title="at least one outcome", min_length=1),
    ] = frozenset({"click", "accept", "convert"})


class MoneyReward(Document, frozen=True, tag_field="type", tag="money", kw_only=True):
    """What successes brought: the sum of the values of their outcomes."""

    most: Annotated[Positive, Meta(description="The sum that counts 1; more does not count more.")]
    positive: Annotated[
        frozenset[Answer],
        Meta(description="Outcomes whose value counts.", title="at least one outcome", min_length=1),
    ] = frozenset({"accept", "convert"})


class SurveyReward(Document, frozen=True, tag_field="type", tag="survey", kw_only=True):
    """What the customer answers to a survey afterwards, in a `Survey Answered`."""

    metric: Annotated[Label, Meta(description="Its property `metric`, such as nps.")]
    least: Annotated[float, Meta(description="The score that counts 0.")] = 0.0
    most: Annotated[float, Meta(description="The score that counts 1.")]


Reward = BinaryReward | MoneyReward | SurveyReward

# --- Models ---


class Model(Document, frozen=True, kw_only=True):
    """What scores some offers, learns from their outcomes, and is tried against challengers on the way."""

    scope: Annotated[
        Scope, Meta(description="Which offers it scores, except those of a model whose scope lies within this one.")
    ] = Scope()
    precedence: Annotated[
        Annotated[int, Meta(title="a whole number from 0 to 100", ge=0, le=100)],
        Meta(description="Where scopes overlap and neither lies within the other, the greater one's model scores."),
    ] = 0
    reward: Annotated[Reward, Meta(description="What counts as a success; left out: a click, accept or convert.")] = (
        BinaryReward()
    )
    window: Annotated[
        Duration | None,
        Meta(description="When an offer without a success counts as not taken up; left out: when it expires."),
    ] = None
    learners: Annotated[
        Mapping[Id, Learner],
        Meta(
            description="Its learners by id, each of one of the kinds below, all learning from the same.",
            title="at least one learner",
            min_length=1,
        ),
    ]
    champion: Annotated[
        Id | None, Meta(description="The learner that decides first; left out: the only one there is.")
    ] = None
    description: Annotated[str, Meta(description="What it is for.")] = ""


class ModelsFile(Document, frozen=True, tag_field="kind", tag="models"):
    """What is learned, and from what. Offers that no model scores keep their stated propensity."""

    features: Annotated[Mapping[Id, Feature], Meta(description="What models know of customers, by id.")] = {}
    action_features: Annotated[Mapping[Id, ActionFeature], Meta(description="What they know of offers, by id.")] = {}
    models: Annotated[Mapping[Id, Model], Meta(description="Models by id.")] = {}
