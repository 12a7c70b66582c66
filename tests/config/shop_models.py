"""What the shop of `tests.builders` might learn: a file of kind `models`, with one of everything."""

from __future__ import annotations

from typing import Any

MODELS: dict[str, Any] = {
    "features": {
        "age": {"value": "profile.age"},
        "tier": {"value": "profile.tier", "type": "categorical", "buckets": 4},
        "loyal": {"value": "'loyal' in segments"},
        "spent": {
            "value": "log1p(aggregates.spent)",
            "as_of": "now_ms - age_ms.spent",
            "fresh_for": "30d",
        },
    },
    "action_features": {
        "promotion": {"value": "'promotion' in action.tags"},
        "channel": {"value": "treatment.channel", "type": "categorical", "buckets": 8},
        "cost": {"value": "treatment.cost"},
    },
    "models": {
        "everything": {
            "reward": {"type": "binary", "positive": ["accept", "convert"]},
            "learners": {"a": {"kind": "bayesian-linear"}, "b": {"kind": "logistic", "learning_rate": 0.5}},
            "champion": "b",
        },
        "offers": {
            "scope": {"groups": ["offers"]},
            "reward": {"type": "money", "most": 200},
            "window": "2d",
            "learners": {"a": {"kind": "bayesian-linear"}},
        },
        "pushes": {
            "scope": {"channels": ["push"]},
            "precedence": 2,
            "reward": {"type": "survey", "metric": "nps", "least": -1, "most": 10},
            "learners": {"a": {"kind": "naive-bayes"}},
        },
    },
}
