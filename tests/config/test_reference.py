"""The reference page is the one the code would write."""

from __future__ import annotations

from pathlib import Path

from config.reference import configuration_page
from config.schema import KINDS


def test_committed_page_is_current():
    """`python -m config.reference > docs/configuration.md` was run after the last change of a schema."""
    committed = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert committed.read_text("utf-8") == configuration_page()


def test_every_kind_and_the_language_are_on_it():
    """Nothing an operator may write is left out."""
    page = configuration_page()
    assert all(f"## `kind: {kind}`" in page for kind in KINDS)
    assert "days_since" in page
