"""Arms, holdout and the probability of a choice, as decisions show them; proven by simulation."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.budgets import Spending
from engine.candidates import Rejection
from engine.experiments import bucket
from engine.expression import compile_expression
from engine.funnel import decide
from engine.repertoire import (
    Arbitration,
    Arm,
    BudgetRule,
    Constraints,
    ContactLimit,
    Experiment,
    Exploration,
    Holdout,
    Repertoire,
    Scope,
    Trigger,
    Window,
)
from tests.repertoires import (
    START_MS,
    Builder,
    a_funnel,
    a_profile,
    a_replay,
    a_signal,
)

FREE = {"marketing": "none"}
WEEK = Window(unit="week")


# --- Experiments ---


def _customer_in(experiment: Experiment, arm: str) -> str:
    total = sum(each.weight for each in experiment.arms)
    edges, low = {}, 0.0
    for each in experiment.arms:
        edges[each.id] = (low, low := low + each.weight / total)
    low, high = edges[arm]
    return next(each for n in range(1_000) if low < bucket(experiment.salt, each := f"u{n}") < high)


def test_arms_differ_in_treatments_actions_or_arbitration():
    """And the decision says which experiment and which arm."""
    b = Builder()
    b.action("a", b.treatment("a1"), b.treatment("a2", propensity=0.05), lever=100.0).action("b", value=15.0)
    arms = (
        Arm(id="first", weight=1.0),
        Arm(id="other-treatment", weight=1.0, exclude=frozenset({"a1"})),
        Arm(id="other-action", weight=1.0, only=frozenset({"b"})),
        Arm(id="other-ranking", weight=1.0, arbitration=Arbitration(lever=False)),
    )
    experiment = Experiment(id="x", salt="s", arms=arms)
    repertoire = b.build(experiments=(experiment,))
    chosen = {}
    for arm in arms:
        profile = a_profile(customer_id=_customer_in(experiment, arm.id))
        [decision] = decide(a_funnel(repertoire, profile))
        assert msgspec.to_builtins(decision.experiment) == {"id": "x", "arm": arm.id}
        chosen[arm.id] = (decision.treatment, decision.probability)
    assert chosen == {
        "first": ("a1", 0.25),
        "other-treatment": ("b-email", 0.75),
        "other-action": ("b-email", 0.75),
        "other-ranking": ("b-email", 0.75),
    }


def test_other_arms_leave_no_reasons_behind():
    """What this customer's arm leaves out is said, what the other arms would leave out is not."""
    arms = (Arm(id="p", weight=1.0, exclude=frozenset({"a"})), Arm(id="q", weight=1.0, exclude=frozenset({"b"})))
    experiment = Experiment(id="x", salt="s", arms=arms)
    repertoire = Builder().action("a").action("b").build(experiments=(experiment,))
    [decision] = decide(a_funnel(repertoire, a_profile(customer_id=_customer_in(experiment, "q"))))
    assert [each.reason for each in decision.explanation.rejected] == ["b-email: not in arm q of x"]


# --- Holdout ---


def _held_out(exempt: frozenset[str] = frozenset(), **changes) -> Repertoire:
    """Everybody is held out, in a shop with an offer, a receipt and a fallback."""
    b = Builder()
    b.action("offer", b.treatment("o", "push", cost=1.0), eligibility=["not has(profile.none)"])
    b.action("receipt", b.treatment("r"), action_class="transactional", eligibility=["has(profile.bought)"])
    b.action("fallback", b.treatment("f"), eligibility=["false"], tags=frozenset({"service"}))
    budget = BudgetRule(id="b", unit="money", limit=9, window=Window(unit="day"))
    return b.build(
        holdout=Holdout(id="h", salt="h", low=0.0, high=1.0, exempt=exempt),
        constraints=Constraints(purposes=FREE, budgets=(budget,)),
        triggers=(Trigger(id="go", limit=3, fallback="fallback"),),
        **changes,
    )


def test_a_held_out_customer_is_not_contacted():
    """What would have been chosen is logged as control, without content, contact, budget or channel topic."""
    profile, budgets = a_profile(), dict[str, Spending]()
    [decision] = decide(a_funnel(_held_out(), profile, budgets=budgets))
    assert (decision.control, decision.action, decision.treatment, decision.rank) == (True, "offer", "o", 1)
    assert (decision.content, profile.contacts, budgets) == (None, [], {})
    assert decision.score is not None
    assert decision.explanation.rejected[-1] == Rejection("offer", "experiment", "held out by h")
    outputs = a_replay(_held_out()).signal(a_signal(), START_MS)
    assert [each.topic for each in outputs if each.topic.startswith("decisions")] == ["decisions"]


def test_what_is_exempt_reaches_held_out_customers():
    """By class or tag; what is withheld besides it is said, and nothing is control."""
    profile = a_profile(traits={"bought": True})
    [decision] = decide(a_funnel(_held_out(frozenset({"transactional"})), profile))
    assert (decision.control, decision.action, decision.content) == (False, "receipt", {"body": "Hello there"})
    assert [each.reason for each in decision.explanation.rejected if each.stage == "experiment"] == ["held out by h"]
    assert [each.action for each in profile.contacts] == ["receipt"]


@pytest.mark.parametrize(("exempt", "control"), [(frozenset(), True), (frozenset({"service"}), False)])
def test_no_fallback_slips_past_the_holdout(exempt, control):
    """It is control like anything else, unless it is exempt."""
    profile = a_profile(traits={"none": 1})
    [decision] = decide(a_funnel(_held_out(exempt), profile))
    assert (decision.action, decision.control, bool(profile.contacts)) == ("fallback", control, not control)


def test_held_out_customers_take_no_part_in_experiments():
    """They are removed before, so that no arm's own effect is measured on them."""
    experiment = Experiment(id="x", salt="s", arms=(Arm(id="p", weight=1.0), Arm(id="q", weight=1.0)))
    for exempt in (frozenset[str](), frozenset({"default"})):
        [decision, *_] = decide(a_funnel(_held_out(exempt, experiments=(experiment,))))
        assert (decision.experiment, decision.probability) == (None, 1.0)


def test_control_is_drawn_like_the_rest():
    """Under exploration what is logged is what the customer would have got outside the holdout, chance included."""
    b = Builder().action("a").action("b").action("c")
    explored, everybody = (
        Arbitration(exploration=Exploration(epsilon=0.8)),
        Holdout(id="h", salt="h", low=0.0, high=1.0),
    )
    free, held = b.build(arbitration=explored), b.build(arbitration=explored, holdout=everybody)
    for n in range(30):
        [one], [other] = (decide(a_funnel(each, cause=f"m{n}")) for each in (free, held))
        assert (one.decision_id, one.action, one.probability) == (other.decision_id, other.action, other.probability)
        assert (one.control, other.control) == (False, True)


# --- Probability ---


DRAWS = 4_000


def _frequencies(repertoire: Repertoire, *, vary: str, **asked) -> dict[str, tuple[float, float]]:
    """By treatment: how often it was chosen first over many causes or customers, and its logged probability."""
    counts: dict[str, int] = {}
    logged: dict[str, float] = {}
    for n in range(DRAWS):
        profile = a_profile(customer_id=f"u{n}" if vary == "customer" else "u1")
        made = decide(a_funnel(repertoire, profile, cause=f"m{n}", **asked))
        name = made[0].treatment or "nothing"
        counts[name] = counts.get(name, 0) + 1
        assert logged.setdefault(name, made[0].probability) == pytest.approx(made[0].probability)
    return {name: (count / DRAWS, logged[name]) for name, count in counts.items()}


def _assert_honest(frequencies: dict[str, tuple[float, float]]) -> None:
    """Each frequency within four and a half standard errors of its probability, and these sum to 1."""
    for name, (frequency, probability) in frequencies.items():
        error = (probability * (1 - probability) / DRAWS) ** 0.5
        assert abs(frequency - probability) <= 4.5 * error + 1e-9, name
    assert sum(probability for _, probability in frequencies.values()) == pytest.approx(1)


def _offers(**changes) -> Repertoire:
    """Four actions that could be chosen, two of them in two treatments, and three that constraints hold back."""
    b = Builder()
    for n in range(7):
        b.action(f"a{n}", b.treatment(f"t{n}"), b.treatment(f"u{n}", propensity=0.05 + 0.1 * (n % 2)), value=float(n))
    held = Constraints(
        purposes=FREE,
        contact_limits=(
            ContactLimit(id="l", limit=0, window=WEEK, scope=Scope(actions=frozenset({"a6", "a5", "a0"}))),
        ),
    )
    return b.build(constraints=held, **{"arbitration": Arbitration(exploration=Exploration(epsilon=0.3)), **changes})


def test_probability_is_that_of_the_choice_after_constraints():
    """Under epsilon-greedy, by simulation: of what the caps left, not of what was ranked before."""
    frequencies = _frequencies(_offers(), vary="cause")
    assert {name: probability for name, (_, probability) in frequencies.items()} == pytest.approx(
        {"u3": 0.775, "t4": 0.075, "t2": 0.075, "u1": 0.075}
    )
    _assert_honest(frequencies)


def test_probability_is_that_over_all_arms():
    """Customers fall to arms at random, so that the chance of a choice is summed over the arms they could be in."""
    arms = (
        Arm(id="p", weight=2.0),
        Arm(id="q", weight=1.0, exclude=frozenset({"t4", "a3"})),
        Arm(
            id="r",
            weight=1.0,
            only=frozenset({"a1", "a2"}),
            arbitration=Arbitration(value=False, exploration=Exploration(epsilon=0.9)),
        ),
    )
    experiment = Experiment(id="x", salt="probability", arms=arms)
    frequencies = _frequencies(_offers(experiments=(experiment,)), vary="customer")
    assert set(frequencies) == {"t4", "u4", "u3", "t2", "u1"}
    _assert_honest(frequencies)


@pytest.mark.parametrize("fallback", ["a2", "a5", None])
def test_probability_with_an_arm_that_leaves_nothing(fallback):
    """What is chosen there is the fallback, if it may be, or nothing: these too have their probability."""
    arms = (Arm(id="p", weight=3.0, only=frozenset({"a1", "a2"})), Arm(id="q", weight=1.0, only=frozenset({"u2"})))
    rule = compile_expression("signal.type == 'track'")
    experiment = Experiment(id="x", salt="empty", arms=arms, when=rule)
    b = Builder()
    b.action("a1").action("a2", b.treatment("t2"), b.treatment("u2", when=b.rules("false")[0])).action("a5")
    capped = ContactLimit(id="l", limit=0, window=WEEK, scope=Scope(actions=frozenset({"a5"})))
    repertoire = b.build(
        experiments=(experiment,),
        constraints=Constraints(purposes=FREE, contact_limits=(capped,)),
        arbitration=Arbitration(exploration=Exploration(epsilon=0.4)),
    )
    frequencies = _frequencies(repertoire, vary="customer", fallback=fallback, answer_always=True)
    assert set(frequencies) == {"a1-email", "t2", "nothing"}
    assert frequencies["nothing"][1] == pytest.approx(0.25)
    _assert_honest(frequencies)


def test_probability_when_a_fallback_of_one_arm_is_the_choice_of_another():
    """The two ways to it add up."""
    arms = (Arm(id="p", weight=3.0), Arm(id="q", weight=1.0, exclude=frozenset({"a1"})))
    experiment = Experiment(id="x", salt="fallback", arms=arms)
    b = Builder().action("a1").action("f", eligibility=["false"])
    frequencies = _frequencies(b.build(experiments=(experiment,)), vary="customer", fallback="f")
    assert {name: each[1] for name, each in frequencies.items()} == pytest.approx({"a1-email": 0.75, "f-email": 0.25})
    _assert_honest(frequencies)


def test_a_single_candidate_is_certain():
    """Whatever the exploration."""
    repertoire = Builder().action("a").build(arbitration=Arbitration(exploration=Exploration(epsilon=0.77)))
    assert {decide(a_funnel(repertoire, cause=f"m{n}"))[0].probability for n in range(20)} == {1.0}


@given(st.integers(1, 6), st.floats(0, 1), st.integers(0, 50))
def test_probabilities_of_all_ranks_are_those_given_the_choices_before(count, epsilon, n):
    """Each rank draws anew among what is left."""
    b = Builder()
    for each in range(count):
        b.action(f"a{each}", value=float(each))
    made = decide(
        a_funnel(b.build(arbitration=Arbitration(exploration=Exploration(epsilon=epsilon))), cause=f"m{n}", limit=20)
    )
    left = sorted((each.action or "" for each in made), reverse=True)
    for each in made:
        best = each.action == left[0]
        assert each.probability == pytest.approx(best * (1 - epsilon) + epsilon / len(left))
        left.remove(each.action or "")
