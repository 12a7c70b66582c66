"""Change review: two sides of the same decisions, and what differs between them."""

from __future__ import annotations

import json
from pathlib import Path

from agents.comparison import NOTHING, Side, compare, side_of
from agents.policy_log import read_log
from tests.agents.test_evaluation import Life, a_repertoire


def a_log(tmp_path: Path, customers: int = 60):
    """Signals of so many customers."""
    return Life(a_repertoire(), 7, customers).log(tmp_path)


def test_a_configuration_compared_with_itself_changes_nothing(tmp_path: Path):
    """No change, no difference in value, nobody loses anything."""
    log = a_log(tmp_path)
    found = compare(side_of(a_repertoire(), log), side_of(a_repertoire(), log))
    assert (found.paired, found.changed, found.customers_changed, found.newly_unserved) == (60, 0, 0, 0)
    assert found.a == found.b
    assert found.moves == []


def test_what_changes_is_counted_for_whom(tmp_path: Path):
    """Raising b's lever moves decisions to b; each change has its trigger, and value follows the propensities."""
    log = a_log(tmp_path)
    found = compare(side_of(a_repertoire(), log), side_of(a_repertoire(levers={"b": 400.0}), log))
    assert 0 < found.changed == found.customers_changed <= found.paired == 60
    assert found.by_trigger == {"go": (found.changed, 60)}
    assert sum(count for _, _, count in found.moves) == found.changed
    assert {other for _, other, _ in found.moves} >= {"b"}
    assert found.b.value < found.a.value


def test_people_left_with_no_action_are_counted(tmp_path: Path):
    """B decides nothing: everybody is left without, and every decision becomes nothing."""
    log = a_log(tmp_path)
    found = compare(side_of(a_repertoire(), log), side_of(a_repertoire(triggers=()), log))
    assert found.newly_unserved == found.b.unserved == found.customers == 60
    assert {other for _, other, _ in found.moves} == {NOTHING}
    assert "60 lose theirs" in found.as_text()


def test_two_logs_are_compared_by_their_ids(tmp_path: Path):
    """As from a live engine and its apprentice; JSON can be made of it."""
    life = Life(a_repertoire(), 8, 30)
    one = life.log(tmp_path)
    assert compare(Side(one.decisions), Side(one.decisions)).changed == 0
    first = next(iter(one.decisions))
    fewer = {name: each for name, each in one.decisions.items() if name != first}
    found = compare(Side(one.decisions), Side(fewer))
    assert (found.changed, found.b.unserved) == (1, 1)
    assert json.loads(json.dumps(found.as_dict()))["changed"] == 1
    assert read_log([]).decisions == {}
