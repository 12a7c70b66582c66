from __future__ import annotations

import json
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.results import Report, begin, complete, meets, percentile, row, write

numbers = st.floats(-1e9, 1e9)


@given(st.lists(numbers, min_size=1))
def test_a_row_is_the_median_between_its_extremes(values):
    """Whatever was measured, the value is the median and lies between low and high."""
    made = row("m", values, "ms")
    assert made.value == median(values)
    assert made.low == min(values) <= made.value <= max(values) == made.high


def test_a_row_needs_a_measurement():
    """Nothing measured is no row, not a row of zeros."""
    with pytest.raises(ValueError, match="no values"):
        row("m", [], "ms")


@given(numbers, numbers)
def test_a_target_is_met_exactly_when_the_comparison_holds(value, bound):
    """Each comparison means what it says; nothing asked is met by everything."""
    assert meets(value, f"<= {bound}") == (value <= bound)
    assert meets(value, f"< {bound}") == (value < bound)
    assert meets(value, f">= {bound}") == (value >= bound)
    assert meets(value, f"> {bound}") == (value > bound)
    assert meets(value, f"== {bound}") == (value == bound)
    assert meets(value, "")


@pytest.mark.parametrize("target", ["2", "<=2", "~ 2", "<= two", "<= "])
def test_a_target_that_cannot_be_read_is_an_error(target):
    """A misspelt target never counts as met."""
    with pytest.raises(ValueError, match=r"target|float"):
        meets(1.0, target)


@given(st.lists(numbers, min_size=1), st.floats(0, 1))
def test_a_percentile_is_the_least_value_that_covers_its_share(values, share):
    """At least `share` of the values do not exceed it, and of no smaller value is that true."""
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert sum(each <= found for each in ordered) >= share * len(ordered)
    assert not any(
        each < found and sum(other <= each for other in ordered) >= share * len(ordered) > 0 for each in ordered
    )


def a_report() -> Report:
    """Three rows, one of them short of its target."""
    rows = (
        row("stream.lost", [0, 3, 1], "decisions", target="== 0", detail="counted by id"),
        row("core.signal", [12.345], "µs", detail="one core"),
        row("core.other", [1234.5], "µs", detail="one core"),
    )
    return complete(begin(), rows)


def test_the_json_has_the_published_shape(tmp_path):
    """Machine, date, commit, and rows of exactly the contract's fields."""
    write(a_report(), "bench", tmp_path)
    read = json.loads((tmp_path / "bench.json").read_text())
    assert set(read) == {"machine", "date", "commit", "rows"}
    assert all(read[name] for name in read)
    fields = {"metric", "value", "low", "high", "unit", "target", "met", "detail"}
    assert all(set(each) == fields for each in read["rows"])
    lost = read["rows"][0]
    assert (lost["value"], lost["low"], lost["high"], lost["target"], lost["met"]) == (1, 0, 3, "== 0", False)


def test_the_markdown_shows_every_metric_once_and_what_is_not_met(tmp_path):
    """One line of the table per row; a detail that rows share is said once."""
    write(a_report(), "bench", tmp_path)
    lines = (tmp_path / "bench.md").read_text().splitlines()
    assert "| stream.lost | 1 | 0 to 3 | decisions | == 0 | **no** |" in lines
    assert "| core.signal | 12.3 | 12.3 to 12.3 | µs |  |  |" in lines
    assert "* core.signal, core.other: one core." in lines
