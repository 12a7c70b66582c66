"""The operations page says what the code says."""

from __future__ import annotations

from pathlib import Path

from agents.settings import settings_table

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def test_settings_on_the_page_are_current():
    """The table between the markers is the one the settings themselves make."""
    between = PAGE.read_text("utf-8").partition("<!-- settings -->\n")[2].partition("\n<!-- /settings -->")[0]
    assert between == settings_table()
