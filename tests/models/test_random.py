"""Scoring by chance: repeatable, uniform, and blind to everything but who, when and what."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.profile import Profile
from engine.scoring import Scores
from models.baseline import RANDOM_MODEL, RandomScorer
from tests.repertoires import Builder

REPERTOIRE = Builder().action("a").action("b").action("c").action("d").build()


def _score(candidates=REPERTOIRE.candidates, customer: str = "u1", now_ms: int = 0, seed: int = 0) -> Scores:
    return RandomScorer(seed).score(candidates, {"now_ms": now_ms}, Profile(customer_id=customer))


@given(st.permutations(REPERTOIRE.candidates), st.text(max_size=20), st.integers(0, 2**41), st.integers(0, 2**31))
def test_a_propensity_belongs_to_its_treatment(shuffled, customer, now_ms, seed):
    """Neither the order of the candidates nor the absence of others changes a propensity; all lie in [0, 1)."""
    scores = _score(REPERTOIRE.candidates, customer, now_ms, seed)
    by_id = dict(zip((each.treatment.id for each in REPERTOIRE.candidates), scores.propensities, strict=True))
    again = _score(shuffled[:3], customer, now_ms, seed)
    assert list(again.propensities) == [by_id[each.treatment.id] for each in shuffled[:3]]
    assert all(0 <= each < 1 for each in scores.propensities)


def test_customer_moment_and_seed_each_draw_anew():
    """Who, when and the seed all change the draw."""
    drawn = {tuple(each.propensities) for each in (_score(), _score(customer="u2"), _score(now_ms=1), _score(seed=1))}
    assert len(drawn) == 4


def test_draws_are_uniform():
    """Over many moments the mean is 1/2 and the variance 1/12, within five standard errors."""
    drawn = [each for now_ms in range(5_000) for each in _score(now_ms=now_ms).propensities]
    mean = sum(drawn) / len(drawn)
    variance = sum((each - mean) ** 2 for each in drawn) / len(drawn)
    assert abs(mean - 0.5) < 5 * (1 / 12 / len(drawn)) ** 0.5
    assert abs(variance - 1 / 12) < 5 * (1 / 180 / len(drawn)) ** 0.5


def test_decisions_name_the_model():
    """The model id says that chance decided, and its version which chance."""
    assert _score(seed=7).models == {RANDOM_MODEL: "7"}
