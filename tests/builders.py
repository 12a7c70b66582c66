"""Factories with defaults: a small complete configuration, to be changed where a test cares.

`CONFIG` is a shop: three channels, a placement, four actions of every class, triggers of every sort, and each kind of
constraint. A test replaces whole kinds, leaves one out with None, or gives YAML as text.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

from config.load import load_directory
from engine.repertoire import Repertoire

CONFIG: dict[str, dict[str, Any]] = {
    "engine": {
        "name": "shop",
        "source": "urn:example:shop",
        "partitions": 4,
        "timezones": ["Europe/Madrid"],
        "parameters": {"free_shipping_from": 60},
    },
    "profile": {
        "traits": {
            "first_name": {"type": "string"},
            "email": {"type": "string"},
            "age": {"type": "number"},
            "tier": {"type": "string", "merge": "oldest"},
            "interests": {"type": "list", "merge": "adding"},
        },
        "signals": {
            "Product Added": {"properties": {"sku": "string", "price": "number"}},
            "Order Completed": {"properties": {"orderId": "string", "total": "number"}},
            "Survey Answered": {"properties": {"metric": "string", "score": "number"}},
        },
        "aggregates": {
            "orders_90d": {"function": "count", "events": ["Order Completed"], "window": {"sliding": "90d"}},
            "spent": {
                "function": "sum",
                "events": ["Order Completed"],
                "of": "signal.properties.total",
                "where": "signal.properties.total > 0",
            },
            "views_by_sku": {"function": "count", "events": ["Product Added"], "by": "signal.properties.sku"},
        },
    },
    "segments": {
        "segments": {
            "loyal": {"when": "aggregates.orders_90d >= 2"},
            "unhappy": {"when": "last['Survey Answered'].properties.score <= 6"},
        },
    },
    "channels": {
        "channels": {
            "email": {"topic": True, "reachable": "has(profile.email)"},
            "push": {"quiet_hours": [{"from": "22:00", "to": "08:00"}]},
            "web": {},
        },
        "placements": {"hero": {"channel": "web", "limit": 2, "fallback": "newsletter"}},
    },
    "actions": {
        "all_actions": {"suitability": ["default(profile.age, 18) >= 18"]},
        "issues": {
            "growth": {"lever": 10, "groups": {"offers": {"lever": 5}, "content": {}}},
            "care": {"groups": {"service": {}}},
        },
        "actions": {
            "free-shipping": {
                "group": "offers",
                "tags": ["promotion"],
                "eligibility": ["not ('unhappy' in segments)"],
                "value": "parameters.free_shipping_from / 10",
                "propensity": 0.2,
                "treatments": {
                    "free-shipping-push": {
                        "channel": "push",
                        "content": {"title": "{profile.first_name|Hello}, shipping is on us"},
                    },
                    "free-shipping-email": {
                        "channel": "email",
                        "cost": 0.01,
                        "content": {"subject": "Dear {profile.first_name}"},
                    },
                },
            },
            "newsletter": {
                "group": "content",
                "value": 1,
                "propensity": 0.1,
                "treatments": {"newsletter-hero": {"channel": "web", "placements": ["hero"]}},
            },
            "order-confirmation": {
                "group": "service",
                "class": "transactional",
                "treatments": {"order-confirmation-email": {"channel": "email"}},
            },
            "recall": {
                "group": "service",
                "class": "mandatory",
                "eligibility": ["signal.event == 'Recall Announced'"],
                "treatments": {"recall-push": {"channel": "push", "purpose": "service"}},
            },
        },
    },
    "triggers": {
        "triggers": {
            "cart-abandoned": {
                "on": "Product Added",
                "after": "30m",
                "unless": "signal.event == 'Order Completed'",
                "consider": {"groups": ["offers"]},
            },
            "order-placed": {
                "on": "Order Completed",
                "consider": {"actions": ["order-confirmation"]},
                "answer": "always",
            },
            "became-unhappy": {"entered": "unhappy", "consider": {"issues": ["care"]}},
        },
    },
    "constraints": {
        "purposes": {"service": "implied"},
        "suppressions": {
            "two-rejects": {
                "outcome": "reject",
                "threshold": 2,
                "within": "15d",
                "pause": "30d",
                "across_channels": True,
            },
        },
        "contact_limits": {
            "one-email-a-week": {"limit": 1, "per": "1 week", "scope": {"channels": ["email"]}},
            "promotions": {"limit": 3, "rolling": "7d", "scope": {"tags": ["promotion"]}},
        },
        "budgets": {"free-shipping-a-day": {"limit": 1000, "per": "day", "scope": {"actions": ["free-shipping"]}}},
    },
    "arbitration": {
        "context_weights": {
            "leaving": {
                "when": "signal.properties.intent == 'cancel'",
                "weight": 50,
                "scope": {"issues": ["care"]},
            },
        },
        "exploration": {"epsilon": 0.1},
    },
    "experiments": {
        "experiments": {
            "push-or-email": {
                "triggers": ["cart-abandoned"],
                "arms": {"push": {"exclude": ["free-shipping-email"]}, "email": {"exclude": ["free-shipping-push"]}},
            },
        },
        "holdout": {"to": 5},
    },
}


def a_config(**kinds: dict[str, Any] | str | None) -> dict[str, dict[str, Any] | str]:
    """`CONFIG` with whole kinds replaced; None leaves a kind out."""
    merged: dict[str, dict[str, Any] | str | None] = {**copy.deepcopy(CONFIG), **kinds}
    return {kind: body for kind, body in merged.items() if body is not None}


def write_config(directory: Path, **kinds: dict[str, Any] | str | None) -> Path:
    """Write `a_config(...)`, one file per kind, and return the directory. Text is written as it is."""
    for kind, body in a_config(**kinds).items():
        text = body if isinstance(body, str) else json.dumps({"kind": kind, **body}, indent=1, ensure_ascii=False)
        (directory / f"{kind}.yaml").write_text(text, "utf-8")
    return directory


def a_repertoire(**kinds: dict[str, Any] | str | None) -> Repertoire:
    """The compiled `a_config(...)`; raises ConfigInvalid with every fault."""
    with tempfile.TemporaryDirectory() as directory:
        return load_directory(write_config(Path(directory), **kinds))
