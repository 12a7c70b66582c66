"""The learners there are, each a document with the parameters its constructor takes.

So a wrong one is a fault with a line, without a learner being there: a test holds these against the registry.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from config.documents.values import Document, NotNegative, Positive

Fading = Annotated[float, Meta(title="a number above 0, at most 1", gt=0, le=1)]
Evidence = Annotated[Positive, Meta(description="Examples that what is expected beforehand is worth.")]


class BayesianLinear(Document, frozen=True, tag_field="kind", tag="bayesian-linear"):
    """The first choice: how features add up per offer, and how sure that is. A new offer starts from its relatives."""

    rule: Annotated[
        Literal["thompson", "ucb"],
        Meta(description="How doubt counts: thompson, as a spread to draw from; ucb, as a bonus (LinUCB)."),
    ] = "thompson"
    exploration: Annotated[NotNegative, Meta(description="How much doubt counts; 0: not at all.")] = 0.25
    half_lives: Annotated[
        tuple[Annotated[float, Meta(title="a number, 1 or more", ge=1)], ...],
        Meta(
            description="After how many examples of an offer one weighs half, where things change. One that forgets "
            "nothing runs beside them, and who predicts best counts most.",
            title="a list of at most eight numbers, 1 or more",
            max_length=8,
        ),
    ] = (34,)
    expansion: Annotated[
        Annotated[int, Meta(title="a whole number from 0 to 1000", ge=0, le=1000)],
        Meta(description="Random waves for what is not a straight line, up to 64 slots of features; 0: none."),
    ] = 64
    precision: Annotated[Positive, Meta(description="How firmly weights are held at what similar offers taught.")] = 4.0
    intercept_precision: Annotated[Positive, Meta(description="The same for what no feature explains.")] = 4.0
    starting_evidence: Annotated[
        Positive, Meta(description="Rewards that stated propensities are worth, before what comes corrects them.")
    ] = 1.0
    memory: Annotated[Fading, Meta(description="How slowly the comparison of half-lives fades; 1: never.")] = 0.995
    patience: Annotated[
        NotNegative,
        Meta(description="How much better, in log odds, one that forgets or has waves must predict to count as much."),
    ] = 3.0
    relevance: Annotated[
        bool,
        Meta(description="Whether rewards teach how much each slot matters, and `precision` is but where that begins."),
    ] = True
    max_arms: Annotated[
        Annotated[int, Meta(title="a whole number from 1 to 100000", ge=1, le=100_000)],
        Meta(description="Offers, actions and groups kept; those least used make room."),
    ] = 2000


class Logistic(Document, frozen=True, tag_field="kind", tag="logistic"):
    """Logistic regression by gradient steps, one for all offers: light, and a good challenger."""

    optimizer: Annotated[
        Literal["adagrad", "sgd"], Meta(description="adagrad: a rate of its own for each weight; sgd: one for all.")
    ] = "adagrad"
    learning_rate: Annotated[Positive, Meta(description="How far one example moves a weight.")] = 0.2
    keep: Annotated[Fading, Meta(description="How slowly the rates of adagrad forget; 1: never.")] = 1.0
    l2: Annotated[NotNegative, Meta(description="How strongly weights are drawn to 0.")] = 0.0
    starting_evidence: Evidence = 10.0


class Bagging(Logistic, frozen=True, tag_field="kind", tag="bagging"):
    """Logistic regressions that see each example a random number of times: where they disagree is doubt."""

    members: Annotated[
        Annotated[int, Meta(title="a whole number from 1 to 100", ge=1, le=100)], Meta(description="How many.")
    ] = 10


class NaiveBayes(Document, frozen=True, tag_field="kind", tag="naive-bayes"):
    """Each feature judged by itself, by counting in bins: simple, and good with few examples."""

    bins: Annotated[
        Annotated[int, Meta(title="a whole number from 2 to 254", ge=2, le=254)],
        Meta(description="Into how many a number is put, of equally many examples each."),
    ] = 10
    warm_up: Annotated[
        Annotated[int, Meta(title="a whole number from 1 to 100000", ge=1, le=100_000)],
        Meta(description="Examples after which bins are made, at most `window`."),
    ] = 200
    window: Annotated[
        Annotated[int, Meta(title="a whole number from 1 to 100000", ge=1, le=100_000)],
        Meta(description="How many of the latest examples say what a score is worth."),
    ] = 1000
    classes: Annotated[
        Annotated[int, Meta(title="a whole number from 1 to 1000", ge=1, le=1000)],
        Meta(description="Into how many scores are put for that, at most."),
    ] = 20
    starting_evidence: Evidence = 10.0


class AdaptiveTree(Document, frozen=True, tag_field="kind", tag="adaptive-tree"):
    """A decision tree whose branches are replaced when they go stale. Needs the deployment's key."""

    grace_period: Annotated[
        Annotated[int, Meta(title="a whole number from 1 to 1000000", ge=1, le=1_000_000)],
        Meta(description="Examples between attempts to split."),
    ] = 100
    delta: Annotated[
        Annotated[float, Meta(title="a number between 0 and 1", gt=0, lt=1)],
        Meta(description="Chance of a wrong split."),
    ] = 0.05
    max_depth: Annotated[
        Annotated[int, Meta(title="a whole number from 1 to 20", ge=1, le=20)], Meta(description="Levels at most.")
    ] = 6
    leaf_prediction: Annotated[
        Literal["mc", "nb", "nba"],
        Meta(description="What leaves say. mc: their rate; nb: naive Bayes; nba: whichever was right more often."),
    ] = "mc"
    starting_evidence: Evidence = 10.0


class BaggedTrees(AdaptiveTree, frozen=True, tag_field="kind", tag="bagged-trees"):
    """Trees that see each example a random number of times: where they disagree is doubt. Needs the key as well."""

    members: Annotated[
        Annotated[int, Meta(title="a whole number from 1 to 100", ge=1, le=100)], Meta(description="How many.")
    ] = 5


Learner = BayesianLinear | Logistic | Bagging | NaiveBayes | AdaptiveTree | BaggedTrees
