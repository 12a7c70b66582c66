from __future__ import annotations

import pytest

from agents.broker import BrokerUnavailable
from benchmarks.__main__ import DONE, NO_BROKER, SECTIONS, USAGE, WRONG, main
from benchmarks.load import LoadFailed
from benchmarks.results import Findings, row


def section(faults=(), error=None):
    """A section that finds one row and these faults, or fails."""

    def measure(*, quick):
        if error is not None:
            raise error
        return Findings((row("made.up", [1.0], "ms"),), faults)

    return measure


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        (section(), DONE, ""),
        (section(faults=("of 9 signals' decisions: 1 lost",)), WRONG, "1 lost"),
        (section(error=LoadFailed("the worker ended")), WRONG, "the worker ended"),
        (section(error=BrokerUnavailable("no Java")), NO_BROKER, "no Java"),
    ],
)
def test_the_exit_code_says_whether_a_decision_was_lost_or_no_broker_was_there(monkeypatch, capsys, found, code, said):
    """1 for anything lost, changed or conflicting, 3 without Kafka, and the reason on standard error."""
    monkeypatch.setitem(SECTIONS, "made-up", found)
    assert main(["made-up"]) == code
    assert said in capsys.readouterr().err


def test_a_section_nobody_knows_is_a_usage_error(capsys):
    """The name given and those there are, are in the message."""
    assert main(["cores"]) == USAGE
    assert "cores" in (said := capsys.readouterr().err)
    assert "stream" in said
