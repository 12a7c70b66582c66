"""Exploration in the funnel: what is logged as probability is how often it happens, whatever stands in between."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from engine.decision import Decision
from engine.expression import compile_expression
from engine.funnel import decide
from engine.repertoire import (
    Arbitration,
    Arm,
    Constraints,
    ContactLimit,
    Experiment,
    Exploration,
    Repertoire,
    Scope,
    Window,
)
from tests.engine.known_scorer import KnownScorer
from tests.engine.test_learning import a_model
from tests.repertoires import DAY_MS, START_MS, Builder, a_contact, a_funnel, a_profile

FREE = Constraints(purposes={"marketing": "implied"})
KNOWN = {"a-email": (0.30, 0.05), "b-email": (0.28, 0.08), "c-email": (0.10, 0.02), "d-email": (0.05, 0.30)}
CUSTOMERS = 3_000


def a_repertoire(exploration: Exploration, **changes) -> Repertoire:
    """Four actions of equal value, two of them close, one that nobody knows."""
    b = Builder()
    for name in "abcd":
        b.action(name)
    settings = changes.pop("arbitration", Arbitration(exploration=exploration))
    return b.build(**{"arbitration": settings, "constraints": FREE, "models": (a_model(),), **changes})


def decided(repertoire: Repertoire, *, known=KNOWN, reach=None, limit: int = 1, **profile) -> list[list[Decision]]:
    """The decisions of many customers who are otherwise alike."""
    scorer = KnownScorer(repertoire, known, reach)
    return [
        decide(
            a_funnel(repertoire, a_profile(customer_id=f"u{n}", **profile), cause=f"m{n}", scorer=scorer, limit=limit)
        )
        for n in range(CUSTOMERS)
    ]


def weighed(made: list[list[Decision]], rank: int = 1) -> dict[str, float]:
    """For each action the mean of 1/probability over the decisions for it: 1 when what is logged is true."""
    sums: dict[str, float] = defaultdict(float)
    for decisions in made:
        for each in decisions:
            if each.rank == rank:
                sums[each.action or ""] += 1 / each.probability
    return {action: total / CUSTOMERS for action, total in sums.items()}


def frequencies(made: list[list[Decision]]) -> Counter[str]:
    """How often each action was the first choice."""
    return Counter(decisions[0].action or "" for decisions in made)


SETTINGS = {
    "thompson": Exploration(floor=0.02),
    "epsilon-greedy": Exploration(thompson=False, epsilon=0.2),
    "with a floor and model control": Exploration(floor=0.03, control=0.2),
}


@pytest.mark.parametrize("exploration", SETTINGS.values(), ids=SETTINGS)
def test_the_logged_probability_is_the_frequency(exploration):
    """Each action's inverse probabilities add up to the number of decisions: unbiased, hence honest."""
    made = decided(a_repertoire(exploration))
    assert weighed(made) == pytest.approx(dict.fromkeys("abcd", 1.0), abs=0.2)
    assert min(each.probability for [each] in made) >= max(exploration.floor, exploration.epsilon / 4) - 1e-9


def test_close_ones_share_and_clear_losers_are_left_to_the_floor():
    """Thompson: of two alike both are tried; what could be anything is tried; what is surely worse is not."""
    often = frequencies(decided(a_repertoire(Exploration())))
    assert often["a"] > 0.3 * CUSTOMERS
    assert often["b"] > 0.15 * CUSTOMERS
    assert often["d"] > 0.1 * CUSTOMERS
    assert often["c"] == 0


def test_chance_is_over_what_constraints_left():
    """The favourite is capped: the others' probabilities add up without it."""
    capped = ContactLimit(id="l", limit=1, window=Window(span_ms=DAY_MS), scope=Scope(actions=frozenset("a")))
    held = Constraints(purposes={"marketing": "implied"}, contact_limits=(capped,))
    contact = a_contact(START_MS - 1, "a", answer="dismiss")
    made = decided(a_repertoire(Exploration(floor=0.02), constraints=held), contacts=[contact])
    assert weighed(made) == pytest.approx(dict.fromkeys("bcd", 1.0), abs=0.2)


def test_chance_is_over_the_arms_of_an_experiment():
    """Whoever could have been in the other arm counts with what that arm would have chosen."""
    values = Arbitration(value=False, exploration=Exploration(floor=0.02, control=0.1))
    arms = (Arm(id="all", weight=3.0), Arm(id="few", weight=1.0, only=frozenset("cd"), arbitration=values))
    repertoire = a_repertoire(Exploration(floor=0.02), experiments=(Experiment(id="e", salt="e", arms=arms),))
    assert weighed(decided(repertoire)) == pytest.approx(dict.fromkeys("abcd", 1.0), abs=0.2)


def test_the_second_choice_has_its_probability_given_the_first():
    """Among what is left after it, which adds up to one again."""
    made = decided(a_repertoire(Exploration(floor=0.05)), limit=2)
    pairs: dict[str, Counter[str]] = defaultdict(Counter)
    weights: dict[str, Counter[str]] = defaultdict(Counter)
    for first, second in made:
        pairs[first.action or ""][second.action or ""] += 1
        weights[first.action or ""][second.action or ""] += 1 / second.probability
    for first, seconds in weights.items():
        total = sum(pairs[first].values())
        for second, weight in seconds.items():
            assert weight / total == pytest.approx(1.0, abs=16 / total**0.5), (first, second)


def test_a_formula_is_drawn_for_as_well():
    """With a formula the priority of each draw is the formula's."""
    formula = compile_expression("propensity * propensity * value")
    repertoire = a_repertoire(
        Exploration(), arbitration=Arbitration(formula=formula, exploration=Exploration(floor=0.02))
    )
    made = decided(repertoire)
    assert weighed(made) == pytest.approx(dict.fromkeys("abcd", 1.0), abs=0.2)
    assert frequencies(made)["d"] > frequencies(made)["c"]


def test_values_and_levers_weigh_every_draw():
    """Ten times the value wins, however unlikely the model says it is."""
    b = Builder().action("a", value=1.0).action("c", value=20.0)
    made = decided(b.build(constraints=FREE, models=(a_model(),)))
    assert frequencies(made) == {"c": CUSTOMERS}


def test_model_control_says_so_and_chooses_at_random():
    """The share of customers it is for; they get every action alike, the others what the models say."""
    repertoire = a_repertoire(Exploration(control=0.25))
    made = decided(repertoire)
    inside = [each for each in made if each[0].models.get("model-control") == "random"]
    assert len(inside) == pytest.approx(CUSTOMERS / 4, rel=0.15)
    often = Counter(each[0].action for each in inside)
    assert all(often[action] == pytest.approx(len(inside) / 4, rel=0.25) for action in "abcd")


def test_a_young_action_reaches_a_share_of_customers():
    """The same ones every time; the others have a reason, and what is asked for is never held back."""
    repertoire = a_repertoire(Exploration())
    made = decided(repertoire, known={"a-email": (0.9, 0.0), "b-email": (0.1, 0.0)}, reach={"a-email": 0.3})
    often = frequencies(made)
    assert often["a"] == pytest.approx(0.3 * CUSTOMERS, rel=0.15)
    held = next(each for [each] in made if each.action == "b")
    [rejection] = held.explanation.rejected
    assert (rejection.action, rejection.stage) == ("a", "experiment")
    assert rejection.reason == "a-email: too young, so far for 30% of customers"


def test_what_is_certain_stays_certain():
    """A mandatory action is chosen although the models would have it otherwise."""
    b = Builder().action("a").action("law", action_class="mandatory")
    made = decided(
        b.build(constraints=FREE, models=(a_model(),), arbitration=Arbitration(exploration=Exploration(floor=0.2)))
    )
    assert {(each.action, each.probability) for [each] in made} == {("law", 1.0)}


def test_without_propensities_there_is_nothing_to_draw():
    """An arbitration that ignores them ranks by value, with what the floor leaves to chance."""
    repertoire = a_repertoire(
        Exploration(), arbitration=Arbitration(propensity=False, exploration=Exploration(floor=0.1))
    )
    made = decided(repertoire)
    assert weighed(made) == pytest.approx(dict.fromkeys("abcd", 1.0), abs=0.25)
    assert {round(each.probability, 6) for [each] in made} == {0.7, 0.1}
