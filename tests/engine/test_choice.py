"""The final choice: chances under exploration, and the draw that picks by them."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.arbitration import Ranked
from engine.choice import best_treatments, certain, draw, explored, greedy, pick
from engine.repertoire import Exploration
from tests.repertoires import Builder, in_order


def test_a_draw_is_uniform_and_its_own_for_every_decision_and_seed():
    """Over 4,000 draws each tenth of [0, 1) gets its share, within five standard errors."""
    drawn = [draw(f"d{n}", seed) for n, seed in product(range(2_000), range(2))]
    assert len(set(drawn)) == len(drawn)
    for tenth in range(10):
        assert abs(sum(tenth <= each * 10 < tenth + 1 for each in drawn) - 400) < 5 * 19


# --- Probabilities ---


def _ranked(count: int, **changes) -> Ranked:
    b = Builder()
    for n in range(count):
        b.action(f"a{n:02}", **changes)
    return in_order(b.build())


@given(st.integers(1, 12), st.floats(0, 1))
def test_probabilities_are_epsilon_greedy_and_sum_to_one(count, epsilon):
    """Each contender has its part of epsilon, the best one the rest; one alone is certain, to the last bit."""
    chances = greedy(_ranked(count), Exploration(epsilon=epsilon)).own
    assert sum(chances) == pytest.approx(1)
    assert chances[1:] == pytest.approx([epsilon / count] * (count - 1))
    assert all(0 <= each <= 1 + 1e-12 for each in chances)
    if count == 1:
        assert chances == pytest.approx([1.0])


def test_what_is_certain_is_not_left_to_chance():
    """The first for certain, the others not at all."""
    assert certain(_ranked(3)).own == [1.0, 0.0, 0.0]


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=8).filter(any),
    st.floats(0, 0.3),
    st.floats(0, 0.3),
    st.floats(0, 1),
    st.booleans(),
)
def test_every_option_keeps_the_floor_and_chances_add_up(wins, epsilon, floor, share, control):
    """Whatever the draws say, each option has at least the floor, as far as there is room; both add up to 1."""
    ranked, known = _ranked(len(wins)), [each / sum(wins) for each in wins]
    settings = Exploration(epsilon=epsilon, floor=floor, control=share)
    options = explored(ranked.take(slice(2)), ranked, known, known[::-1], settings, control=control)
    least = min(1 / len(options.scored), max(epsilon / len(options.scored), floor))
    for chances in (options.own, options.overall):
        assert sum(chances) == pytest.approx(1)
        assert min(chances) >= least - 1e-12
    assert options.scored[:2] == ranked[:2]


def test_model_control_is_part_of_the_logged_chance_for_everybody():
    """One in ten is in model control: whoever it is, the logged chance is the mixture, their own is their policy's."""
    ranked, settings = _ranked(2), Exploration(control=0.1)
    known, random = [1.0, 0.0], [0.5, 0.5]
    inside = explored(ranked, ranked, known, random, settings, control=True)
    outside = explored(ranked, ranked, known, random, settings, control=False)
    assert inside.own == random
    assert outside.own == known
    assert inside.overall == outside.overall == pytest.approx([0.95, 0.05])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0, 1, exclude_max=True))
def test_a_pick_has_its_share_of_the_line(weights, position):
    """The index in whose stretch the position lies; nothing without a share is picked."""
    assume(sum(weights) > 1e-6)
    chances = [each / sum(weights) for each in weights]
    at = pick(chances, position)
    assert chances[at] > 0
    before = sum(chances[:at])
    assert before - 1e-9 <= position <= before + chances[at] + 1e-9


def test_rounding_never_picks_what_cannot_be_chosen():
    """At the very end of the line, where the shares fall short of 1, the last one that has a share is taken."""
    assert pick([0.0] + [0.3] * 3 + [0.0], 0.999999) == 3
    assert pick([1.0, 0.0], 0.0) == 0


def test_of_an_action_the_best_treatment_contends():
    """The first of each action, in the order of the ranking."""
    b = Builder()
    b.action("a", b.treatment("a1"), b.treatment("a2")).action("b", b.treatment("b1"))
    a1, a2, b1 = ranked = in_order(b.build())
    assert best_treatments(ranked.take([2, 1, 0])) == [b1, a2]
    assert best_treatments(ranked) == [a1, b1]
