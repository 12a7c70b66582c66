"""Cases run through the engine's own stages: they see what a decision would see."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from config.load import Checked, check_directory
from tests.builders import CONFIG, write_config

BOUGHT = {"event": "Order Completed", "properties": {"total": 20}}
ADDED = {"event": "Product Added", "properties": {"price": 20, "sku": "a"}}
KNOWN = {"email": "a@b.c", "first_name": "Ana"}


def run(directory: Path, kind: str, given: dict[str, Any], expect: dict[str, Any]) -> Checked:
    """Check the example configuration with one case in the file of a kind."""
    case = {"name": "it", "given": given, "expect": expect}
    return check_directory(write_config(directory, **{kind: {**CONFIG[kind], "cases": [case]}}))


RIGHT: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("profile", {"signal": BOUGHT}, {"spent": True, "orders_90d": True, "views_by_sku": False}),
    ("profile", {"signal": {**BOUGHT, "properties": {"total": 0}}}, {"spent": False, "orders_90d": True}),
    ("segments", {"aggregates": {"orders_90d": 2}}, {"loyal": True, "unhappy": False, "'loyal' in segments": True}),
    ("segments", {"last": {"Survey Answered": {"score": 3}}}, {"unhappy": True, "segments": ["unhappy"]}),
    ("channels", {"profile": {"email": "a@b.c"}}, {"email": True, "push": True}),
    ("channels", {}, {"email": False, "web": True}),
    (
        "actions",
        {"profile": KNOWN},
        {"free-shipping": True, "eligible": ["free-shipping", "newsletter", "order-confirmation"]},
    ),
    (
        "actions",
        {},
        {"free-shipping-push": True, "free-shipping-email": False, "eligible": ["newsletter", "free-shipping"]},
    ),
    ("actions", {"profile": {"age": 17}}, {"eligible": []}),
    ("actions", {"segments": ["unhappy"]}, {"free-shipping": False, "newsletter": True}),
    ("actions", {"signal": {"event": "Recall Announced"}}, {"recall": True, "recall-push": True}),
    ("triggers", {"signal": ADDED}, {"cart-abandoned": True, "order-placed": False}),
    ("triggers", {"entered": ["unhappy"]}, {"became-unhappy": True}),
    ("triggers", {"segments": ["unhappy"]}, {"became-unhappy": False}),
    ("arbitration", {"signal": {"type": "page", "properties": {"intent": "cancel"}}}, {"leaving": True}),
    ("experiments", {}, {"push-or-email": True}),
    (
        "segments",
        {
            "profile": {"age": 30},
            "age_ms": {"age": 5},
            "customer": {"id": "c-1", "known": True},
            "request": {"placement": "hero"},
            "aggregates": {"views_by_sku": {"a": 3}},
            "at": "2026-11-16",
        },
        {
            "profile.age * 2": 60,
            "age_ms.age": 5,
            "customer.id": "c-1",
            "customer.known": True,
            "request.placement": "hero",
            "aggregates.views_by_sku.a": 3,
            "aggregates.orders_90d": 0,
            "parameters.free_shipping_from": 60,
            "now_ms": int(datetime(2026, 11, 16, tzinfo=ZoneInfo("Europe/Madrid")).timestamp()) * 1000,
            "profile.tier == 'gold'": False,
        },
    ),
]


@pytest.mark.parametrize(("kind", "given", "expect"), RIGHT)
def test_what_holds_holds(tmp_path: Path, kind: str, given: dict[str, Any], expect: dict[str, Any]) -> None:
    """Rules of every kind, expressions and values come out as the engine sees them."""
    checked = run(tmp_path, kind, given, expect)
    assert checked.faults == ()
    assert checked.cases_run == 1
    assert checked.repertoire is not None


@pytest.mark.parametrize(("kind", "given", "expect"), RIGHT)
def test_what_does_not_hold_fails(tmp_path: Path, kind: str, given: dict[str, Any], expect: dict[str, Any]) -> None:
    """The opposite of each expectation is a fault of its own line."""
    wrong = {key: not value if isinstance(value, bool) else "something else" for key, value in expect.items()}
    checked = run(tmp_path, kind, given, wrong)
    assert checked.repertoire is None
    assert checked.cases_run == 1
    assert len(checked.faults) == len(expect)
    assert all(fault.message == 'case "it" fails' for fault in checked.faults)
    assert all(fault.expected in ("true", "false", '"something else"') for fault in checked.faults)
    assert len({fault.line for fault in checked.faults}) == len(expect)


@pytest.mark.parametrize(
    ("kind", "given", "expect", "found"),
    [
        (
            "actions",
            {"segments": ["unhappy"]},
            {"free-shipping": True},
            "false (eligibility: action free-shipping: not true: not ('unhappy' in segments))",
        ),
        (
            "actions",
            {},
            {"free-shipping-email": True},
            "false (eligibility: free-shipping-email: email does not reach: has(profile.email))",
        ),
        (
            "actions",
            {"profile": {"email": "a@b.c"}},
            {"free-shipping-email": True},
            "false (eligibility: free-shipping-email: content subject needs profile.first_name)",
        ),
        ("actions", {"profile": {"age": 9}}, {"eligible": ["newsletter"]}, "default(profile.age, 18) >= 18"),
        ("channels", {}, {"email": True}, "false (not true: has(profile.email))"),
        ("segments", {}, {"profile.age > 3": True}, "false (a value is missing)"),
        ("segments", {}, {"profile.age": 3}, "nothing, as a value is missing"),
    ],
)
def test_a_failing_case_says_why(
    tmp_path: Path, kind: str, given: dict[str, Any], expect: dict[str, Any], found: str
) -> None:
    """What was found comes with the engine's own reason."""
    (fault,) = run(tmp_path, kind, given, expect).faults
    assert found in fault.found


@pytest.mark.parametrize(
    ("given", "path", "suggestion"),
    [
        ({"profile": {"agee": 1}}, "cases[0].given.profile.agee", "age"),
        ({"aggregates": {"orders": 1}}, "cases[0].given.aggregates.orders", "orders_90d"),
        ({"segments": ["loyall"]}, "cases[0].given.segments", "loyal"),
        ({"last": {"Order Complete": {}}}, 'cases[0].given.last["Order Complete"]', "Order Completed"),
        ({"signal": {"evnt": "x"}}, "cases[0].given.signal.evnt", "event"),
    ],
)
def test_what_is_given_must_exist(tmp_path: Path, given: dict[str, Any], path: str, suggestion: str) -> None:
    """A case about a trait nobody has would hold for the wrong reason."""
    (fault,) = run(tmp_path, "segments", given, {"loyal": False}).faults
    assert (fault.path, fault.suggestion) == (path, suggestion)


def test_cases_wait_until_the_rest_is_right(tmp_path: Path) -> None:
    """Examples are tried on a configuration that compiles."""
    segments = {**CONFIG["segments"], "cases": [{"name": "it", "given": {}, "expect": {"loyal": True}}]}
    checked = check_directory(write_config(tmp_path, segments=segments, arbitration={"formula": "x"}))
    assert checked.cases_run == 0
    assert [fault.file for fault in checked.faults] == ["arbitration.yaml"]
