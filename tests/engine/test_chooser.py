"""Following a log: the choices of another engine, with the chances this one would have given them."""

from __future__ import annotations

import msgspec

from engine.arbitration import Scored
from engine.choice import Options
from engine.funnel import Funnel
from engine.repertoire import Arbitration, Exploration, Repertoire
from engine.replay import Replay
from models.baseline import PriorScorer
from tests.repertoires import START_MS, Builder, a_signal, decisions_of


def a_repertoire(epsilon: float = 0.4, **changes) -> Repertoire:
    """Two actions; the better one is chosen, but for what is left to chance."""
    builder = Builder().action("a", value=10.0, **changes).action("b", value=5.0)
    return builder.build(arbitration=Arbitration(exploration=Exploration(epsilon=epsilon)))


def follow(treatments: dict[str, str]):
    """Chooses what a log says: decision id → treatment."""

    def choose(decision: str, options: Options, funnel: Funnel) -> Scored | None:
        treatment = treatments.get(decision)
        for each in options.scored:
            if each.candidate.treatment.id == treatment:
                return each
        for candidate in funnel.repertoire.candidates:
            if candidate.treatment.id == treatment:
                return Scored(candidate, 0.0, 1.0, 0.0, 1.0, 0.0)
        return None

    return choose


def decided(repertoire: Repertoire, chooser=None) -> list[dict]:
    """The decisions for ten customers."""
    replay = Replay(repertoire, PriorScorer(repertoire), chooser=chooser)
    return [each for n in range(10) for each in decisions_of(replay.signal(a_signal("Go", f"u{n}"), START_MS + n))]


def test_following_its_own_log_an_engine_agrees_with_itself():
    """The same decisions with the same probabilities."""
    log = decided(a_repertoire())
    assert decided(a_repertoire(), follow({each["decisionId"]: each["treatment"] for each in log})) == log


def test_another_log_is_followed_with_this_engines_chances():
    """Whatever was chosen there has here the chance that this engine's arbitration leaves it."""
    log = decided(a_repertoire(epsilon=1.0))
    followed = decided(a_repertoire(), follow({each["decisionId"]: each["treatment"] for each in log}))
    assert [each["action"] for each in followed] == [each["action"] for each in log]
    assert {(each["action"], round(each["probability"], 9)) for each in followed} == {("a", 0.8), ("b", 0.2)}


def test_what_this_engine_would_not_offer_has_no_chance_and_happened_all_the_same():
    """The log says a; here nobody qualifies for it: probability 0, and the contact counts."""
    log = {each["decisionId"]: "a-email" for each in decided(a_repertoire())}
    repertoire = a_repertoire(eligibility=["false"])
    replay = Replay(repertoire, PriorScorer(repertoire), chooser=follow(log))
    outputs = [each for n in range(10) for each in replay.signal(a_signal("Go", f"u{n}"), START_MS + n)]
    assert {(each["action"], each["probability"]) for each in decisions_of(outputs)} == {("a", 0.0)}
    contacts = [c for state in replay.partitions for each in state.profiles.values() for c in each.contacts]
    assert len(contacts) == 10
    assert msgspec.structs.asdict(contacts[0])["action"] == "a"


def test_what_the_log_does_not_have_is_not_decided():
    """Neither a decision nor a contact."""
    assert decided(a_repertoire(), follow({})) == []
