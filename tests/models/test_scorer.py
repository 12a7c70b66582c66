"""The worker's scorer: published models over its candidates, stated propensities for the rest, swapped as a whole."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from engine.expression import compile_expression
from engine.features import Feature, FeatureSchema
from engine.learning import Example, outputs_of
from engine.repertoire import Arbitration, Exploration, LearnerRule, ModelRule, Repertoire, Scope
from models.baseline import PriorScorer
from models.model import Model
from models.rehearsal import Rehearsal
from models.scorer import UNTRAINED, ModelScorer, reach_of
from tests.repertoires import START_MS, Builder, a_profile

FEATURES = FeatureSchema(version="f1", features=(Feature(name="age", value=compile_expression("profile.age")),))
APART_MS = 10_000
EMAIL = Scope(channels=frozenset({"email"}))


def a_rule(id_: str = "m", **changes) -> ModelRule:
    """A model with the default learner."""
    learners = {"champion": LearnerRule(kind="bayesian-linear")}
    return ModelRule(**{"id": id_, "learners": learners, "champion": "champion", **changes})


def a_repertoire(*rules: ModelRule, exploration: Exploration | None = None) -> Repertoire:
    """Two actions by e-mail, one of them by push as well; priors 0.2, and 0.4 for push."""
    b = Builder()
    b.action("a", b.treatment("a-email", propensity=0.2), b.treatment("a-push", "push", propensity=0.4))
    b.action("b", b.treatment("b-email", propensity=0.2))
    models = rules or (a_rule(),)
    return b.build(models=models, features=FEATURES, arbitration=Arbitration(exploration=exploration or Exploration()))


def a_context(age: float | None = 30.0):
    """The roots that features are read from."""
    return {"profile": {} if age is None else {"age": age}, "now_ms": START_MS}


def examples(number: int, treatment: str, reward: float, age: float = 30.0, model: str = "m") -> list[Example]:
    """One decision told of three times."""
    action, channel = treatment.split("-")
    first = Example(
        example_id=f"{treatment}{number}:exposed",
        model=model,
        stage="exposed",
        label=None,
        reward=0.0,
        previous=None,
        late=False,
        decision_id=f"{treatment}{number}",
        customer_id="u",
        group="offers",
        action=action,
        treatment=treatment,
        channel=channel,
        prior=0.2,
        propensity=0.2,
        version=None,
        probability=0.5,
        schema="f1",
        features=(age,),
        action_schema="none",
        action_features=(),
        decided_ms=START_MS + number * APART_MS,
        at_ms=START_MS + number * APART_MS,
        window_ms=1_000,
    )
    later = {"at_ms": first.at_ms + 1_000, "reward": reward, "label": "positive" if reward else "no-response"}
    answered = msgspec.structs.replace(first, example_id=f"{first.decision_id}:answered", stage="answered", **later)
    closed = msgspec.structs.replace(
        first, example_id=f"{first.decision_id}:closed", stage="closed", previous=reward or None, **later
    )
    return [first, *([answered] if reward else []), closed]


def a_trained_model(repertoire: Repertoire, rates: dict[str, float], count: int = 400) -> Model:
    """A model that saw each treatment so often, and it was taken at these rates."""
    model = Model(repertoire.models[0], repertoire.features, repertoire.action_features)
    chance = np.random.default_rng(7)
    for number in range(count):
        for treatment, rate in rates.items():
            for each in examples(number, treatment, float(chance.random() < rate), float(chance.integers(18, 80))):
                model.learn(each)
    return model


def test_before_anything_was_published_the_priors_hold():
    """With or without features, every candidate's propensity is the stated one; models say that they are untrained."""
    repertoire = a_repertoire()
    for age in (30.0, None):
        scores = ModelScorer(repertoire).score(repertoire.candidates, a_context(age), a_profile())
        stated = [each.treatment.propensity for each in repertoire.candidates]
        # Draws are held within [0, 1], which moves their mean a little.
        assert list(scores.propensities) == pytest.approx(stated, abs=0.35)
        assert scores.models == {"m": UNTRAINED}
        assert scores.draws is not None
        assert scores.draws.shape[0] == len(repertoire.candidates)
        assert scores.features == (age,)


def test_what_was_learned_is_what_is_scored():
    """After a few hundred decisions the propensities are the rates."""
    repertoire = a_repertoire()
    scorer = ModelScorer(repertoire)
    rates = {"a-email": 0.1, "b-email": 0.5, "a-push": 0.3}
    model = a_trained_model(repertoire, rates)
    snapshot = model.snapshot(START_MS)
    scorer.install(snapshot)
    scores = scorer.score(repertoire.candidates, a_context(), a_profile())
    for candidate, propensity in zip(repertoire.candidates, scores.propensities, strict=True):
        assert propensity == pytest.approx(rates[candidate.treatment.id], abs=0.12)
    assert scores.models == {"m": snapshot.version} == scorer.versions


def test_any_candidates_in_any_order_get_their_own_scores():
    """A part of the pool, turned round, scores as it did in the whole; scoring changes nothing."""
    repertoire = a_repertoire()
    scorer = ModelScorer(repertoire)
    scorer.install(a_trained_model(repertoire, {"a-email": 0.1, "b-email": 0.5}, 50).snapshot(START_MS))
    whole = scorer.score(repertoire.candidates, a_context(), a_profile(), 5)
    part = scorer.score(repertoire.candidates[::-2], a_context(), a_profile(), 5)
    assert list(part.propensities) == pytest.approx(list(whole.propensities)[::-2])
    assert whole.draws is not None
    assert part.draws is not None
    assert part.draws == pytest.approx(whole.draws[::-2])
    again = scorer.score(repertoire.candidates, a_context(), a_profile(), 5)
    assert (again.draws == whole.draws).all()


def test_what_no_model_covers_keeps_its_stated_propensity():
    """Push is nobody's: the prior, for certain; both are named as what said so."""
    repertoire = a_repertoire(a_rule(scope=EMAIL))
    scores = ModelScorer(repertoire).score(repertoire.candidates, a_context(), a_profile())
    at = [each.treatment.id for each in repertoire.candidates].index("a-push")
    assert scores.propensities[at] == pytest.approx(0.4)
    assert scores.draws is not None
    assert np.ptp(scores.draws[at]) == 0.0
    assert scores.models == {"m": UNTRAINED, "prior": "v1"}


def test_without_any_model_it_is_the_prior():
    """The very same scores."""
    repertoire = a_repertoire(a_rule(scope=Scope(channels=frozenset({"sms"}))))
    scores = ModelScorer(repertoire).score(repertoire.candidates, a_context(), a_profile())
    prior = PriorScorer(repertoire).score(repertoire.candidates, a_context(), a_profile())
    assert list(scores.propensities) == list(prior.propensities)
    assert (scores.models, scores.draws, scores.features) == (prior.models, None, ())


def test_two_models_score_their_own():
    """Each names its version; one is trained, the other is not."""
    push = Scope(channels=frozenset({"push"}))
    repertoire = a_repertoire(a_rule("mail", scope=EMAIL), a_rule("push", scope=push))
    scorer = ModelScorer(repertoire)
    mail = Model(repertoire.models[0], repertoire.features, repertoire.action_features)
    for number in range(200):
        for each in examples(number, "b-email", 1.0, model="mail"):
            mail.learn(each)
    scorer.install(mail.snapshot(START_MS))
    scores = scorer.score(repertoire.candidates, a_context(), a_profile())
    by = dict(zip((each.treatment.id for each in repertoire.candidates), scores.propensities, strict=True))
    assert by["b-email"] > 0.8
    assert set(scores.models) == {"mail", "push"}
    assert scores.models["push"] == UNTRAINED


def test_a_tripped_model_is_not_asked():
    """Its candidates fall back to the stated propensities, and the version says why."""
    repertoire = a_repertoire()
    scorer = ModelScorer(repertoire)
    trained = a_trained_model(repertoire, {"b-email": 0.9}, 50).snapshot(START_MS)
    scorer.install(msgspec.structs.replace(trained, status="tripped", version="tripped.1"))
    scores = scorer.score(repertoire.candidates, a_context(), a_profile())
    assert list(scores.propensities) == pytest.approx([each.treatment.propensity for each in repertoire.candidates])
    assert scores.models == {"m": "tripped.1", "prior": "v1"}
    scorer.install(trained)
    assert scorer.score(repertoire.candidates, a_context(), a_profile()).models == {"m": trained.version}


@pytest.mark.parametrize("maturity", [0.5, 1.25])
def test_what_is_still_to_come_counts_as_come(maturity):
    """Half of an arm's rewards are in: propensities twice what was learned, never above 1; less for too much credit."""
    repertoire = a_repertoire()
    scorer = ModelScorer(repertoire)
    trained = a_trained_model(repertoire, {"b-email": 0.3}).snapshot(START_MS)
    ripe = msgspec.structs.replace(trained, maturity={})
    young = msgspec.structs.replace(trained, maturity=dict.fromkeys(trained.evidence, maturity))
    scorer.install(ripe)
    before = scorer.score(repertoire.candidates, a_context(), a_profile()).propensities
    scorer.install(young)
    after = scorer.score(repertoire.candidates, a_context(), a_profile())
    at = [each.treatment.id for each in repertoire.candidates].index("b-email")
    assert after.propensities[at] == pytest.approx(before[at] / maturity, rel=0.01)
    assert after.draws is not None
    assert after.draws.max() <= 1.0


def test_a_snapshot_that_cannot_be_used_leaves_the_old_one():
    """An unknown learner, damaged arrays, or a model this configuration does not have."""
    repertoire = a_repertoire()
    scorer = ModelScorer(repertoire)
    good = a_trained_model(repertoire, {"b-email": 0.3}, 20).snapshot(START_MS)
    scorer.install(good)
    for bad in ({"learner": "oracle"}, {"exported": b"\x00garbage"}, {"exported": b""}):
        with pytest.raises(ValueError, match=r".+"):
            scorer.install(msgspec.structs.replace(good, **bad))
    with pytest.raises(KeyError):
        scorer.install(msgspec.structs.replace(good, model="nobody"))
    assert scorer.versions == {"m": good.version}


def test_reach_grows_with_the_positives_of_an_action():
    """2 % at first, in proportion up to 200 positives, then everybody; without a ramp nothing is said."""
    ramp = Exploration(ramp_positives=200)
    assert [reach_of(each, ramp) for each in (0, 100, 200, 500)] == pytest.approx([0.02, 0.51, 1.0, 1.0])
    repertoire = a_repertoire(exploration=ramp)
    scorer = ModelScorer(repertoire)
    assert list(scorer.score(repertoire.candidates, a_context(), a_profile()).reach or ()) == [0.02] * 3
    scorer.install(a_trained_model(repertoire, {"a-email": 0.5, "b-email": 0.0}, 100).snapshot(START_MS))
    scores = scorer.score(repertoire.candidates, a_context(), a_profile())
    by = dict(zip((each.treatment.id for each in repertoire.candidates), scores.reach or (), strict=True))
    assert by["a-push"] == by["a-email"] == pytest.approx(0.02 + 0.98 * 50 / 200, abs=0.1)
    assert by["b-email"] == pytest.approx(0.02)
    plain = a_repertoire()
    assert ModelScorer(plain).score(plain.candidates, a_context(), a_profile()).reach is None


def test_a_rehearsal_follows_what_is_published():
    """Examples among an engine's outputs are learned and scored with from then on, at most so often."""
    repertoire = a_repertoire()
    scorer = ModelScorer(repertoire)
    rehearsal = Rehearsal(repertoire, scorer, interval_ms=15_000)
    first = examples(0, "b-email", 1.0)
    rehearsal.take(outputs_of(first[:1]))
    version = scorer.versions["m"]
    assert version != UNTRAINED
    rehearsal.take(outputs_of(examples(1, "b-email", 1.0)[:1]))
    assert scorer.versions["m"] == version
    rehearsal.take(outputs_of(examples(2, "b-email", 1.0)[:1]))
    assert scorer.versions["m"] != version
