"""A model: each example is learned once, judged by what was known before it, and the best learner is served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.expression import compile_expression
from engine.features import Feature, FeatureSchema
from engine.learning import Example
from engine.repertoire import LearnerRule, ModelRule
from models.health import LEAST, Drifted, Recovered, Tripped
from models.learner import Arm, Learner, Observation
from models.memory import ALL, AWAITED, SEEN, SHOWN, Awaited, Awaiting, Recent, Shown
from models.model import Model, New, Untrained
from models.promotion import Promotion
from models.snapshot import Evidence

WINDOW_MS = 30_000
SCHEMA = FeatureSchema(version="f1", features=(Feature(name="age", value=compile_expression("profile.age")),))
ARM = Arm("offers", "a", "a-email")


class Rates:
    """A rate per arm from counts, drawn towards the prior. It may be `stubborn`: after so many examples it is set."""

    kind: ClassVar[str] = "rates"
    corrigible: ClassVar[bool] = True
    pickled: ClassVar[bool] = False

    def __init__(self, weight: float = 2.0, stubborn: int = 10**9) -> None:
        self.counts: dict[Arm, list[float]] = {}
        self.learned = 0
        self._weight, self._stubborn = weight, stubborn

    def learn(self, seen: Observation) -> None:
        """Count it, unless it is set."""
        self.learned += 1
        if self.learned <= self._stubborn:
            self._add(seen.arm, 1.0, seen.reward)

    def correct(self, seen: Observation, before: float) -> None:
        """Count the difference, unless it is set."""
        if self.learned <= self._stubborn:
            self._add(seen.arm, 0.0, seen.reward - before)

    def _add(self, arm: Arm, n: float, reward: float) -> None:
        count = self.counts.setdefault(arm, [0.0, 0.0])
        count[0] += n
        count[1] += reward

    def predict(self, seen: Observation) -> float:
        """The smoothed rate."""
        n, rewards = self.counts.get(seen.arm, (0.0, 0.0))
        return float(np.clip((self._weight * seen.prior + rewards) / (self._weight + n), 0.0, 1.0))

    def dump(self) -> bytes:
        """Its counts."""
        return msgspec.msgpack.encode([self.learned, list(self.counts.items())])

    def load(self, data: bytes) -> None:
        """Those counts."""
        try:
            self.learned, counts = msgspec.msgpack.decode(data, type=tuple[int, list[tuple[Arm, list[float]]]])
        except msgspec.DecodeError as fault:
            raise ValueError(str(fault)) from fault
        self.counts = dict(counts)

    def export(self) -> bytes:
        """The same."""
        return self.dump()


class ClosedRates(Rates):
    """The same of closed decisions alone."""

    kind = "closed-rates"
    corrigible = False
    pickled = True

    def correct(self, seen: Observation, before: float) -> None:
        """It cannot."""
        raise NotImplementedError


def new(
    kind: str,
    _slots: Sequence[str],
    _action_slots: Sequence[str],
    _seed: int,
    parameters: Mapping[str, Any],
) -> Learner:
    """What the registry does, for these two."""
    return {each.kind: each for each in (Rates, ClosedRates)}[kind](**parameters)  # type: ignore[return-value]


DEAF = LearnerRule(kind="rates", parameters={"stubborn": 0})
STUBBORN = LearnerRule(kind="rates", parameters={"stubborn": 1_000})


def a_rule(*challengers: LearnerRule, champion: LearnerRule | None = None, **changes) -> ModelRule:
    """A model with a champion "main" and challengers "c1", "c2"…"""
    learners = {"main": champion or LearnerRule(kind="rates")}
    learners |= {f"c{n}": each for n, each in enumerate(challengers, 1)}
    return ModelRule(**{"id": "offers", "learners": learners, "champion": "main", **changes})


def a_model(*challengers: LearnerRule, champion: LearnerRule | None = None, using: New = new, **changes) -> Model:
    """Of these learners."""
    return Model(a_rule(*challengers, champion=champion, **changes), SCHEMA, FeatureSchema(), new=using)


def an_example(stage: str, decision: int = 0, reward: float = 0.0, **changes) -> Example:
    """What is told of a decision made every minute, answered soon and closed before the next."""
    decided_ms = decision * 60_000
    given = {
        "example_id": f"d{decision}:{stage}",
        "model": "offers",
        "stage": stage,
        "label": None,
        "reward": reward,
        "previous": None,
        "late": False,
        "decision_id": f"d{decision}",
        "customer_id": "c",
        "group": ARM.group,
        "action": ARM.action,
        "treatment": ARM.treatment,
        "channel": "email",
        "prior": 0.5,
        "propensity": 0.5,
        "version": None,
        "probability": 1.0,
        "schema": "f1",
        "features": (30.0,),
        "action_schema": "none",
        "action_features": (),
        "decided_ms": decided_ms,
        "at_ms": decided_ms + {"exposed": 0, "answered": 10_000, "closed": WINDOW_MS}[stage],
        "window_ms": WINDOW_MS,
    }
    return Example(**{**given, **changes})


def a_life(decision: int, reward: float, **changes) -> list[Example]:
    """All that is told of one decision."""
    answered = [an_example("answered", decision, reward, **changes)] if reward else []
    closed = an_example("closed", decision, reward, previous=reward or None, **changes)
    return [an_example("exposed", decision, **changes), *answered, closed]


def a_stream(rates: Sequence[float], first: int = 0, seed: int = 0, **changes) -> Iterator[Example]:
    """Decisions with these chances of a reward."""
    rng = np.random.default_rng(seed)
    for place, rate in enumerate(rates):
        yield from a_life(first + place, float(rng.random() < rate), **changes)


def teach(model: Model, examples: Iterator[Example] | list[Example]) -> list[object]:
    """What happened meanwhile."""
    assert {model.learn(each) for each in examples} <= {"learned"}
    return list(model.events())


def counts(model: Model, name: str = "main") -> list[float]:
    """Observations and rewards a learner has counted."""
    return model._trainees[name].learner.counts.get(ARM, [0.0, 0.0])  # type: ignore[attr-defined]


# --- Stages ---


def test_a_corrigible_learner_follows_every_stage():
    """Half of what was expected at once, its answer at once, nothing more when it closes; a late answer too."""
    model = a_model()
    model.learn(an_example("exposed"))
    assert counts(model) == [1.0, 0.25]
    model.learn(an_example("answered", reward=0.6))
    assert counts(model) == [1.0, 0.6]
    model.learn(an_example("closed", reward=0.6, previous=0.6))
    assert counts(model) == [1.0, 0.6]
    model.learn(an_example("answered", reward=1.0, previous=0.6, late=True, example_id="late"))
    assert counts(model) == [1.0, 1.0]
    assert model.snapshot(0).evidence == {ARM: Evidence(1, 1)}


def test_other_learners_learn_of_what_is_closed():
    """All decisions at the same age."""
    model = a_model(LearnerRule(kind="closed-rates"))
    for n, stage in enumerate(("exposed", "answered", "closed")):
        assert counts(model, "c1") == [0.0, 0.0]
        model.learn(an_example(stage, reward=float(n > 0), previous=float(n > 1)))
    assert counts(model, "c1") == [1.0, 1.0]


def test_an_answer_without_its_exposure_changes_nothing():
    """It was selected by its outcome, so learning from it would overrate everything."""
    model = a_model(LearnerRule(kind="closed-rates"))
    assert model.learn(an_example("answered", reward=1.0)) == "learned"
    assert counts(model) == counts(model, "c1") == [0.0, 0.0]
    assert model.snapshot(0).evidence == {}


def test_a_window_that_closes_without_its_exposure_takes_nothing_back():
    """Nothing was credited; who learns of what is closed learns it all the same."""
    model = a_model(LearnerRule(kind="closed-rates"))
    teach(model, [an_example("closed", 0), an_example("exposed", 1), an_example("closed", 2)])
    assert counts(model) == [1.0, 0.25]
    assert counts(model, "c1") == [2.0, 0.0]


def test_a_no_that_was_said_is_a_no():
    """It takes back at once what was credited; when it closes there is nothing more to take."""
    model = a_model()
    teach(model, [an_example("exposed"), an_example("answered", label="negative")])
    assert counts(model) == [1.0, 0.0]
    teach(model, [an_example("closed", previous=0.0, label="negative")])
    assert counts(model) == [1.0, 0.0]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=20), st.randoms(use_true_random=False))
def test_repetitions_change_nothing(decisions, random):
    """Whatever comes again, wherever: each example is learned once."""
    once = [each for n, (yes, _) in enumerate(decisions) for each in a_life(n, float(yes))]
    often = list(once)
    for n, (_, again) in enumerate(decisions):
        if again:
            example = random.choice([each for each in once if each.decision_id == f"d{n}"])
            often.insert(random.randint(often.index(example) + 1, len(often)), example)
    plain, repeated = a_model(), a_model()
    teach(plain, once)
    results = [repeated.learn(each) for each in often]
    assert results.count("learned") == len(once)
    assert results.count("repeated") == len(often) - len(once)
    assert repeated.dump() == plain.dump()


@pytest.mark.parametrize(
    ("result", "changes"),
    [
        ("other-schema", {"schema": "f2"}),
        ("other-schema", {"action_schema": "a2"}),
        ("malformed", {"features": ()}),
        ("malformed", {"features": (1.0, 2.0)}),
        ("malformed", {"features": (float("inf"),)}),
        ("malformed", {"reward": 1.5}),
        ("malformed", {"previous": -0.1}),
        ("malformed", {"prior": float("nan")}),
        ("malformed", {"propensity": 2.0}),
        ("malformed", {"model": "another"}),
    ],
)
def test_what_cannot_be_learned_from_is_refused(result, changes):
    """By its reason, and without a trace."""
    model = a_model()
    before = model.dump()
    assert model.learn(an_example("exposed", **changes)) == result
    assert model.dump() == before


def test_a_stated_certainty_is_no_certainty():
    """A prior of 0 or 1 reaches learners as something they can take the log odds of."""
    seen: list[float] = []

    class Noting(Rates):
        def learn(self, seen_: Observation) -> None:
            seen.append(seen_.prior)

    model = a_model(using=lambda *_: Noting())  # type: ignore[arg-type, return-value]
    teach(model, [an_example("exposed", 0, prior=0.0), an_example("exposed", 1, prior=1.0)])
    assert 0.0 < seen[0] < 1e-5
    assert 1.0 - 1e-5 < seen[1] < 1.0


def test_what_is_still_to_come_is_allowed_for():
    """Rewards come evenly over an hour: an old arm is believed, one shown lately is raised to its true rate.

    Of the old arm's last 300 of 1,000 a quarter is to come, and half of what was expected is credited to who has not
    answered: .925 + .5 · (.3 - .3 · .225). Of the new arm's 300 a quarter has come: .25 + .5 · (1 - .3 · .25).
    """
    model = a_model(LearnerRule(kind="closed-rates"))
    rng = np.random.default_rng(0)
    hour_ms, told = 3_600_000, []
    for n in range(2_000):
        at_ms = n * 6_000
        same = {"action": "old" if n < 1_000 else "new", "window_ms": hour_ms, "decided_ms": at_ms, "propensity": 0.3}
        told.append(an_example("exposed", n, at_ms=at_ms, **same))
        if rng.random() < 0.3:
            told.append(an_example("answered", n, 1.0, at_ms=at_ms + int(rng.random() * hour_ms), **same))
        else:
            told.append(an_example("closed", n, at_ms=at_ms + hour_ms, **same))
    now_ms = 1_300 * 6_000
    teach(model, sorted((each for each in told if each.at_ms <= now_ms), key=lambda each: each.at_ms))
    maturity = model.snapshot(now_ms).maturity
    old, new_ = Arm(ARM.group, "old", ARM.treatment), Arm(ARM.group, "new", ARM.treatment)
    assert maturity[old] == pytest.approx(1.04, abs=0.03)
    assert maturity[new_] == pytest.approx(0.71, abs=0.05)
    raw, learner = counts_of(model, "new"), model._trainees["main"]
    assert raw[1] / raw[0] < 0.25
    observed = Observation(np.zeros(2), new_, np.zeros(0), 0.3)
    learner.maturity = maturity
    assert learner.predict(observed) == pytest.approx(0.3, abs=0.08)
    assert model._trainees["c1"].matured(now_ms) == {}


def test_an_arm_shown_once_is_not_overrated():
    """Its only exposure has had no time for a reward, and says nothing."""
    model = a_model()
    model.learn(an_example("exposed"))
    (share,) = model.snapshot(1).maturity.values()
    assert 0.8 < share < 1.0


# --- Judging ---


def test_a_decision_is_judged_by_what_was_served():
    """The propensity in the example counts when this champion said so; else what it says when it was shown."""
    for version, said in (("main.0.abc", 0.9), (None, 0.5), ("tripped.main.0.abc", 0.5), ("gone.3.abc", 0.5)):
        model = a_model()
        teach(model, a_life(0, 1.0, version=version, propensity=0.9))
        assert model.health.numbers.logloss == pytest.approx(-np.log(said))


def test_a_decision_is_judged_before_it_is_learned_from():
    """A learner that counts a single yes as certainty is judged by its prior."""
    model = a_model(champion=LearnerRule(kind="rates", parameters={"weight": 1e-9}))
    teach(model, a_life(0, 1.0))
    assert model.health.numbers.logloss == pytest.approx(-np.log(0.5))
    assert model.health.numbers.examples == 1


def test_a_late_answer_is_not_judged():
    """The window had its last word."""
    model = a_model()
    teach(model, [*a_life(0, 0.0), an_example("answered", reward=1.0, late=True)])
    assert model.health.numbers.logloss == pytest.approx(-np.log(0.5))


def test_what_was_not_predicted_is_not_judged():
    """But counted."""
    model = a_model()
    teach(model, [an_example("closed", 1, 1.0)])
    assert (model.health.numbers.examples, model.health.unevaluated) == (0, 1)


def test_a_better_challenger_takes_over():
    """With its evidence; the tests begin anew, and its versions carry its name."""
    model = a_model(LearnerRule(kind="rates"), LearnerRule(kind="closed-rates"), champion=DEAF)
    events = teach(model, a_stream([0.05] * 1_500))
    promotion = next(each for each in events if isinstance(each, Promotion))
    assert promotion.from_learner == "main"
    assert model.champion == promotion.to_learner != "main"
    assert promotion.examples >= LEAST
    assert promotion.e_value >= 1 / promotion.alpha
    assert promotion.alpha == 0.025
    assert promotion.mean_difference > 0
    assert model.health.e_values.keys() == {"main", "c1", "c2"} - {model.champion}
    assert model.snapshot(0).version.startswith(f"{model.champion}.")


def test_equal_learners_stay():
    """Their evidence is exactly nothing."""
    model = a_model(LearnerRule(kind="rates"))
    assert teach(model, a_stream([0.3] * 600)) == []
    assert model.health.e_values == {"c1": 1.0}


# --- The breaker ---

SHIFT = [0.1] * 1_200 + [0.9] * 600


def test_the_breaker_trips_and_a_replacement_returns():
    """Answers become nine times as frequent and the champion learns no more: priors, an alert, then its replacement.

    The arms differ, so that there is something to know beyond the base rate.
    """
    model = a_model(champion=STUBBORN)
    story: list[str] = []
    rng = np.random.default_rng(1)
    for n in range(6_000):
        action = "ab"[n % 2]
        rate = {"a": 0.1, "b": 0.3}[action] if n < 1_200 else {"a": 0.9, "b": 0.5}[action]
        for example in a_life(n, float(rng.random() < rate), action=action, prior=0.5):
            model.learn(example)
        for event in model.events():
            story.append(type(event).__name__)
            if isinstance(event, Tripped):
                assert model.changed
                snapshot = model.snapshot(n)
                assert (model.health.status, snapshot.status, event.status) == ("tripped",) * 3
                assert snapshot.version.startswith("tripped.main.")
                assert event.numbers.logloss > event.numbers.base_logloss
            if isinstance(event, Recovered):
                assert event.replacement
                break
        if "Recovered" in story:
            break
    assert story[0] == "Drifted"
    assert story[-2:] == ["Tripped", "Recovered"]
    assert model.health.drift >= 1
    assert (model.health.status, model.snapshot(0).status) == ("serving", "serving")
    assert model._replacement is None
    assert counts_of(model, "b") != [0.0, 0.0]


def counts_of(model: Model, action: str) -> list[float]:
    """Of an action."""
    return model._trainees[model.champion].learner.counts.get(Arm("offers", action, ARM.treatment), [0.0, 0.0])  # type: ignore[attr-defined]


def test_priors_that_are_worse_still_do_not_take_over():
    """The operator is told, a replacement trains, and the model serves on."""
    model = a_model(champion=STUBBORN)
    for example in a_stream(SHIFT, prior=0.001):
        model.learn(example)
        if model._replacement is not None:
            break
    tripped = model.events()[-1]
    assert isinstance(tripped, Tripped)
    assert tripped.status == model.health.status == model.snapshot(0).status == "serving"


def test_a_learning_model_does_not_trip():
    """Not even from a bad prior, while it is still close to that."""
    model = a_model()
    assert teach(model, a_stream([0.05] * 2_000, prior=0.9)) == []


def test_a_promotion_ends_the_fallback():
    """A challenger that is proven better than what failed serves."""
    model = a_model(LearnerRule(kind="rates", parameters={"weight": 3.0}), champion=STUBBORN)
    events = teach(model, a_stream(SHIFT))
    assert any(isinstance(each, Promotion) for each in events)
    assert model.champion == "c1"
    assert model.health.status == "serving"
    assert model._replacement is None


def test_a_replacement_learns_of_later_decisions_alone():
    """Of those shown before it began it would only hear the answers."""
    model = a_model(champion=STUBBORN)
    for example in a_stream(SHIFT):
        model.learn(example)
        if model._replacement is not None:
            break
    began = model._latest_ms // 60_000
    pending = [an_example("exposed", began + n) for n in (1, 2)]
    before = counts(model)[0]
    model.learn(an_example("answered", began - 5, 1.0, example_id="early"))
    assert model._replacement.learner.counts == {}  # type: ignore[union-attr, attr-defined]
    teach(model, [*pending, an_example("answered", began + 1, 1.0)])
    # An answer, and what is credited to who has not answered.
    assert model._replacement.learner.counts == {ARM: [2.0, 1.25]}  # type: ignore[union-attr, attr-defined]
    assert counts(model)[0] == before


# --- Serving and storing ---


def test_there_is_something_to_publish_when_the_champion_learned():
    """And once at the beginning; not when only a challenger did."""
    model = a_model(LearnerRule(kind="rates"), champion=LearnerRule(kind="closed-rates"))
    assert model.changed
    model.snapshot(0)
    assert not model.changed
    model.learn(an_example("exposed"))
    assert not model.changed
    model.learn(an_example("closed"))
    assert model.changed
    assert model.snapshot(0).evidence == {ARM: Evidence(1, 0)}


def test_a_version_is_of_one_history():
    """Equal histories have equal versions, different ones have not."""
    versions = []
    for rewards in ((0.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0,)):
        model = a_model()
        teach(model, [each for n, reward in enumerate(rewards) for each in a_life(n, reward)])
        versions.append(model.snapshot(0).version)
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3


STORY = list(a_stream(SHIFT, seed=3))
CONFIGURATION = (LearnerRule(kind="rates", parameters={"weight": 5.0}), LearnerRule(kind="closed-rates"))


@pytest.mark.parametrize("challengers", [(), CONFIGURATION])
def test_a_model_goes_on_from_its_state(challengers):
    """Killed every 190 examples, through drift, breaker, promotion: the same events, versions, state as undisturbed."""
    whole = a_model(*challengers, champion=STUBBORN)
    killed, told = a_model(*challengers, champion=STUBBORN), []
    for at in range(0, len(STORY), 190):
        told += teach(killed, STORY[at : at + 190])
        heir = a_model(*challengers, champion=STUBBORN)
        heir.load(killed.dump())
        assert heir.dump() == killed.dump()
        killed = heir
    assert told == teach(whole, STORY)
    assert {type(each) for each in told} >= {Drifted, Promotion if challengers else Tripped}
    assert killed.dump() == whole.dump()
    assert killed.snapshot(7) == whole.snapshot(7)


def _reloaded(state: bytes, *challengers: LearnerRule, **changes) -> Model:
    model = a_model(*challengers, **changes)
    model.load(state)
    return model


def test_a_learner_whose_rule_changed_starts_untrained():
    """It alone; the operator is told, and it learns only of decisions made from then on."""
    model = a_model(*CONFIGURATION)
    teach(model, a_stream([0.3] * 50))
    pending = an_example("exposed", 50)
    model.learn(pending)
    changed = _reloaded(model.dump(), LearnerRule(kind="rates", parameters={"weight": 6.0}), CONFIGURATION[1])
    assert [type(each) for each in changed.events()] == [Untrained]
    assert counts(changed) == counts(model)
    assert counts(changed, "c2") == counts(model, "c2")
    assert counts(changed, "c1") == [0.0, 0.0]
    changed.learn(an_example("answered", 50, 1.0))
    assert counts(changed)[1] == counts(model)[1] + 0.75
    assert counts(changed, "c1") == [0.0, 0.0]


def test_a_learner_whose_state_is_broken_starts_untrained():
    """With what its learner says about it."""
    model = a_model()
    teach(model, a_stream([0.3] * 10))
    state = msgspec.msgpack.decode(model.dump(), strict=False)
    state["trainees"][0]["learned"] = b"\xc1"
    broken = _reloaded(msgspec.msgpack.encode(state))
    (event,) = broken.events()
    assert isinstance(event, Untrained)
    assert "main starts untrained" in str(event)
    assert counts(broken) == [0.0, 0.0]


def test_learners_come_and_go_with_the_configuration():
    """A new one begins, one that is gone is forgotten, the rest goes on."""
    model = a_model(*CONFIGURATION)
    teach(model, a_stream([0.3] * 50))
    fewer = _reloaded(model.dump())
    assert counts(fewer) == counts(model)
    more = _reloaded(fewer.dump(), *CONFIGURATION)
    assert counts(more) == counts(model)
    assert counts(more, "c1") == counts(more, "c2") == [0.0, 0.0]
    assert more.events() == []


def test_a_promoted_champion_stays_until_the_operator_names_another():
    """Also over restarts."""
    model = a_model(LearnerRule(kind="rates"), champion=DEAF)
    teach(model, a_stream([0.05] * 1_500))
    assert model.champion == "c1"
    for challengers in (1, 2):
        assert _reloaded(model.dump(), *[LearnerRule(kind="rates")] * challengers, champion=DEAF).champion == "c1"
    named = a_rule(*[LearnerRule(kind="rates")] * 2, champion=DEAF)
    named = msgspec.structs.replace(named, champion="c2")
    operator = Model(named, SCHEMA, FeatureSchema(), new=new)
    operator.load(model.dump())
    assert operator.champion == "c2"


@given(st.binary(max_size=100))
def test_no_state_is_refused(data):
    """And the model is what it was."""
    model = a_model()
    before = model.dump()
    with pytest.raises(ValueError, match="not the state of a model"):
        model.load(data)
    assert model.dump() == before


def test_the_state_of_another_model_is_refused():
    """By name; and one of another version."""
    other = Model(a_rule(id="other"), SCHEMA, FeatureSchema(), new=new)
    with pytest.raises(ValueError, match="model other"):
        a_model().load(other.dump())


def test_a_model_is_pickled_when_one_of_its_learners_is():
    """A single one is enough."""
    assert not a_model().pickled
    assert a_model(LearnerRule(kind="closed-rates")).pickled


def test_a_champion_has_to_be_a_learner():
    """Said with the names there are."""
    with pytest.raises(ValueError, match="c9 is none of main"):
        Model(msgspec.structs.replace(a_rule(), champion="c9"), SCHEMA, FeatureSchema(), new=new)


def test_registered_learners_are_trained_by_default():
    """Linear and tree, through all stages, a dump and a load; people above 50 answer."""
    rule = a_rule(LearnerRule(kind="adaptive-tree"), champion=LearnerRule(kind="bayesian-linear"))
    model, other = (Model(rule, SCHEMA, FeatureSchema()) for _ in range(2))
    assert model.pickled
    rng = np.random.default_rng(0)
    for n in range(800):
        age = float(rng.uniform(18, 80))
        teach(model, a_life(n, float(age > 50), features=(age,)))
    assert model.health.numbers.auc > 0.9
    other.load(model.dump())
    assert other.snapshot(0) == model.snapshot(0)


# --- Memory ---


def test_memory_is_bounded():
    """Of ids, of what was shown, and of predictions for decisions that are never closed."""
    model = a_model(using=lambda *_: Rates(stubborn=0))  # type: ignore[arg-type, return-value]
    for n in range(SEEN + 500):
        model.learn(an_example("exposed", n % 7_000, example_id=str(n), decision_id=str(n)))
    assert len(model._seen.dump()) == 8 * SEEN
    assert len(model._shown.dump()[0]) == 8 * SHOWN
    assert len(model._judging._awaiting.awaited) <= AWAITED


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 8), st.integers(0, 60))
def test_the_most_recent_are_remembered(items, size, at):
    """The last ones to be added, in a bounded memory, stored in between or not."""
    recent, order = Recent(size), []
    for place, item in enumerate(items):
        if place == at:
            recent = Recent.load(size, recent.dump())
        if item not in recent:
            assert recent.add(item) == (len(order) >= size)
            order.append(item)
        assert [each for each in range(31) if each in recent] == sorted(order[-size:])


def test_what_is_forgotten_may_have_been_shown():
    """Only of decisions younger than the memory is it certain that they were not."""
    shown = Shown()
    for n in range(SHOWN + 10):
        shown.add(n, 1_000 + n)
    assert Shown(*shown.dump()).dump() == shown.dump()
    assert shown.may_include(SHOWN + 5, 10**9)
    assert shown.may_include(0, 1_000)
    assert shown.may_include(ALL, 1_009)
    assert not shown.may_include(ALL, 1_010)


def test_predictions_are_thinned_by_chance_and_come_back():
    """Never more than the bound, a fair sample while there are too many, all of them again afterwards."""
    rng = np.random.default_rng(0)
    awaiting = Awaiting()
    awaited = Awaited(10**12, 0.5, 0.5, None, {1: 0.5})
    decisions = rng.integers(0, ALL, 10 * AWAITED, dtype=np.uint64).tolist()
    for each in decisions:
        awaiting.put(each, awaited, 0)
        assert len(awaiting.awaited) <= AWAITED
    kept = sum(awaiting.pop(each) is not None for each in decisions)
    assert AWAITED / 4 <= kept <= AWAITED
    assert awaiting.bound < ALL
    for each in rng.integers(0, ALL, 100, dtype=np.uint64).tolist():
        awaiting.put(each, awaited, 0)
    assert awaiting.bound == ALL


def test_predictions_for_what_never_closes_are_given_up():
    """When room is needed; the younger ones stay, all of them."""
    awaiting = Awaiting()
    for n in range(AWAITED + 1):
        awaiting.put(n, Awaited(5 if n < 100 else 50, 0.5, 0.5, None, {}), 10)
    assert (len(awaiting.awaited), awaiting.bound) == (AWAITED - 99, ALL)


def test_events_are_told_once():
    """And not hoarded when nobody asks."""
    model = a_model(champion=STUBBORN)
    events = teach(model, a_stream(SHIFT))
    assert any(isinstance(each, Drifted) for each in events)
    assert model.events() == []
