"""Features: what models may know of a customer and of an action, as declared, read once and made into numbers.

A numeric feature takes two slots, its value and a flag that it is missing (the value is then 0). A categorical one
takes as many slots as it has buckets, one of which is 1 (feature hashing, Weinberger et al. 2009: memory is fixed
whatever values turn up), and the same flag. A feature with `as_of` has a flag more: it is older than `fresh_ms`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from engine.expression import MISSING, Expression

Value = float | str | bool | None
"""A number, the text of a category, a flag; None where it is missing."""
Vector = npt.NDArray[np.float64]
MAX_CATEGORY = 64
"""Characters of a category that count."""
MAX_NUMBER = 1e12
"""Numbers are held within plus and minus this."""


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """One feature. `buckets`: slots of a categorical one. `as_of`: epoch ms its value dates from."""

    name: str
    kind: Literal["numeric", "categorical"] = "numeric"
    value: Expression
    buckets: int = 16
    as_of: Expression | None = None
    fresh_ms: int = 0

    @property
    def slots(self) -> list[str]:
        """The names of its slots: `age`, `age?` (missing), `age!` (old); `city=0` … `city=15`, `city?`."""
        own = [self.name] if self.kind == "numeric" else [f"{self.name}={each}" for each in range(self.buckets)]
        return [*own, f"{self.name}?", *([f"{self.name}!"] if self.as_of is not None else [])]


class FeatureSchema(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Features in the order of their values. `version`: digest of all that gives a value its meaning."""

    version: str = "none"
    features: tuple[Feature, ...] = ()

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """The names of the slots of a vector."""
        return tuple(slot for feature in self.features for slot in feature.slots)

    def read(self, scope: Mapping[str, Any]) -> tuple[Value, ...]:
        """The values in a scope of expressions: one per feature, then a flag for each that has `as_of`."""
        values: list[Value] = [_read(feature, scope) for feature in self.features]
        values += [_is_old(each, scope) for each in self.features if each.as_of is not None]
        return tuple(values)

    def vector(self, values: Sequence[Value]) -> Vector:
        """Values as numbers, one per slot. ValueError when there are more or fewer than `read` gives."""
        features, dated = self.features, [each for each in self.features if each.as_of is not None]
        if len(values) != len(features) + len(dated):
            raise ValueError(f"{len(values)} feature values for {len(features)} features of schema {self.version}")
        old = iter(values[len(features) :])
        numbers: list[float] = []
        for feature, value in zip(features, values, strict=False):
            if feature.kind == "categorical":
                numbers += _one_hot(feature, value)
            else:
                numbers += (value, 0.0) if isinstance(value, (int, float)) else (0.0, 1.0)
            if feature.as_of is not None:
                numbers.append(1.0 if next(old) else 0.0)
        return np.array(numbers)


def _read(feature: Feature, scope: Mapping[str, Any]) -> Value:
    value = feature.value.value(scope)
    if value is MISSING or value is None:
        return None
    if feature.kind == "categorical":
        if isinstance(value, (list, dict, set, frozenset, tuple)):
            return None
        return str(value)[:MAX_CATEGORY]
    if not isinstance(value, (bool, int, float)) or not math.isfinite(value):
        return None
    return min(max(float(value), -MAX_NUMBER), MAX_NUMBER)


def _is_old(feature: Feature, scope: Mapping[str, Any]) -> bool:
    """Whether a value dates from too long ago, or nobody knows from when."""
    assert feature.as_of is not None
    at_ms = feature.as_of.value(scope)
    return isinstance(at_ms, bool) or not isinstance(at_ms, (int, float)) or scope["now_ms"] - at_ms > feature.fresh_ms


def _one_hot(feature: Feature, value: Value) -> list[float]:
    numbers = [0.0] * (feature.buckets + 1)
    numbers[feature.buckets if value is None else zlib.crc32(f"{feature.name}={value}".encode()) % feature.buckets] = (
        1.0
    )
    return numbers
