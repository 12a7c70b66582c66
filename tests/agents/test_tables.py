"""A table is a dict that knows what changed; a changelog rebuilds it exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agents.tables import Changelog, Table, TableSpec, changelogs

KEYS = st.text(alphabet="ab:\\budget", max_size=9)
VALUES = st.integers(0, 5)
PROFILES = TableSpec("profiles", "profiles", lambda value: str(value).encode(), int)
IDENTITIES = TableSpec("identities", "identities", lambda value: str(value).encode(), int)
BUDGETS = TableSpec("budgets", "identities", lambda value: str(value).encode(), int, prefix="budget:")


class TableMachine(RuleBasedStateMachine):
    """Whatever is done to a table is done to a dict; both stay equal, and so does what the changelog rebuilds."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table[int](PROFILES, cache_size=2)
        self.model: dict[str, int] = {}
        self.flushed: dict[str, int] = {}
        self.touched: set[str] = set()
        self.log: dict[str, bytes] = {}

    @rule(key=KEYS, value=VALUES)
    def put(self, key, value):
        """A value is put under a key."""
        self.table[key] = value
        self.model[key] = value

    @rule(key=KEYS)
    def remove(self, key):
        """A key is deleted, whether or not it is there."""
        assert self.table.pop(key, None) == self.model.pop(key, None)

    @rule(key=KEYS)
    def get(self, key):
        """A key is looked up."""
        assert self.table.get(key) == self.model.get(key)
        assert (key in self.table) == (key in self.model)

    @rule(key=KEYS)
    def touch(self, key):
        """A key is to be written again."""
        self.table.touch(key)
        self.touched.add(key)

    @rule()
    def flush(self):
        """Changes are taken up, and are what the changelog needs to follow."""
        changes = self.table.flush()
        assert len(dict(changes)) == len(changes), "a key is reported once"
        changed = {key for key in {*self.model, *self.flushed} if self.model.get(key) != self.flushed.get(key)}
        assert {key for key, _ in changes} == changed | self.touched, "exactly what changed or was touched is reported"
        for key, value in changes:
            if value is None:
                self.log.pop(key, None)
            else:
                self.log[key] = value
        self.flushed = dict(self.model)
        self.touched.clear()
        assert self.log == {key: str(value).encode() for key, value in self.model.items()}

    @invariant()
    def equal(self):
        """Table and dict are equal."""
        assert len(self.table) == len(self.model)
        assert sorted(self.table) == sorted(self.model)
        assert dict(self.table.items()) == self.model


TestTable = TableMachine.TestCase


@given(
    st.dictionaries(KEYS, VALUES),
    st.dictionaries(KEYS, VALUES),
    st.sets(KEYS),
)
def test_changelog_rebuilds_tables_that_share_it(identities, budgets, deleted):
    """What tables append to one changelog, read back, gives the same; no key of one reads as another's."""
    tables, (changelog,) = changelogs([IDENTITIES, BUDGETS])
    tables["identities"].update(identities)
    tables["budgets"].update(budgets)
    records = changelog.flush()
    for key in deleted & identities.keys():
        del tables["identities"][key]
    records += changelog.flush()
    compacted = {change.key: change.value for change in records}
    restored, (reader,) = changelogs([IDENTITIES, BUDGETS])
    for key, value in compacted.items():
        reader.load(key, value)
    assert dict(restored["identities"]) == {key: each for key, each in identities.items() if key not in deleted}
    assert dict(restored["budgets"]) == budgets
    assert reader.flush() == []


def test_untouched_values_are_not_written():
    """Putting back an unchanged value costs no changelog record; reading does not decode twice."""
    decoded: list[bytes] = []

    def decode(value: bytes) -> int:
        decoded.append(value)
        return int(value)

    table = Table[int](PROFILES._replace(decode=decode))
    table.load("ana", b"5")
    assert (table["ana"], table["ana"]) == (5, 5)
    table["ana"] = 5
    assert table.flush() == []
    assert decoded == [b"5"]


def test_missing_key_is_a_key_error():
    """As a dict does; also for a key deleted since the last flush."""
    table = Table[int](PROFILES)
    with pytest.raises(KeyError, match="ana"):
        table["ana"]
    table.load("ana", b"1")
    del table["ana"]
    with pytest.raises(KeyError, match="ana"):
        table["ana"]
    with pytest.raises(KeyError, match="ana"):
        del table["ana"]


def test_touched_key_is_written_again():
    """A key that somebody else overwrote in the changelog is written again as it is here, or deleted again."""
    table = Table[int](PROFILES)
    changelog = Changelog("profiles", [table])
    table["ana"] = 1
    changelog.flush()
    changelog.touch(b"ana")
    changelog.touch(b"bea")
    assert [(change.key, change.value) for change in changelog.flush()] == [(b"ana", b"1"), (b"bea", None)]
    assert changelog.flush() == []


@pytest.mark.parametrize("second", [BUDGETS, BUDGETS._replace(name="spend")])
def test_tables_that_clash_are_refused(second):
    """Two tables with one name, or one prefix in one changelog, could not be told apart."""
    with pytest.raises(ValueError, match="same name"):
        changelogs([BUDGETS, second])


def test_rows_are_let_go_when_nothing_waits():
    """Who keeps them afterwards has what the changelog has; not while a change, or a key to be written again, waits."""
    table = Table[int](PROFILES)
    table["a"] = 1
    assert table.rows() is None
    table.flush()
    assert table.rows() == {"a": b"1"}
    table.touch("a")
    assert table.rows() is None
    table.flush()
    assert table.rows() == {"a": b"1"}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | VALUES), max_size=20))
def test_who_is_to_be_woken_is_known_without_looking(loads):
    """With what is known beforehand, kept up while reading back, it is the same as from every value; and used up."""
    spec = PROFILES._replace(due=lambda value: int(value) if int(value) % 2 else None)
    dues: dict[str, int] = {}
    plain, table = Table[int](spec), Table[int](spec, dues=dues)
    for key, value in loads:
        for each in (plain, table):
            each.load(key, None if value is None else str(value).encode())
    assert dues == dict(plain.dues())
    assert dict(table.dues()) == dues
    table.load("d", b"7")
    assert dict(table.dues()) == {**dues, "d": 7}
