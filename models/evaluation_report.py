"""What an off-policy evaluation found: estimates with intervals, what they rest on, and why not to trust them."""

from __future__ import annotations

from typing import Any

import msgspec

from models.overlap import Overlap


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A policy's value, in reward per decision, with its confidence interval.

    `n`: decisions. `ess`: how many on-policy decisions they are worth, (sum w)^2 / sum w^2 (Kish 1965). An estimate
    with a bias says so in `warnings`; its interval leaves that bias out.
    """

    estimator: str
    value: float
    low: float
    high: float
    n: int
    ess: float
    warnings: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the target policy would have earned.

    `logged`: what was earned. `estimates`: of the target. `recommended`: the estimator to go by, fixed before the
    data: doubly robust with a reward model, else self-normalised. `change`: that estimate minus `logged`.
    """

    confidence: float
    logged: Estimate
    estimates: tuple[Estimate, ...]
    recommended: str
    change: Estimate
    overlap: Overlap
    warnings: tuple[str, ...]

    def __getitem__(self, estimator: str) -> Estimate:
        """The estimate of an estimator; KeyError when it was not made."""
        for each in self.estimates:
            if each.estimator == estimator:
                return each
        raise KeyError(f"no estimate {estimator!r}; there are {', '.join(each.estimator for each in self.estimates)}")

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it: what is infinite or undefined is None."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain

    def as_text(self) -> str:
        """A table for people, then every warning."""
        head = f"{'':<18}{'value':>12}{'low':>12}{'high':>12}{'ess':>10}"
        rows = [self.logged, *self.estimates, self.change]
        table = [f"{e.estimator:<18}{e.value:>12.6g}{e.low:>12.6g}{e.high:>12.6g}{e.ess:>10.0f}" for e in rows]
        said = [f"{e.estimator}: {text}" for e in rows for text in e.warnings]
        seen = (
            f"{self.overlap.n} decisions of {self.overlap.clusters} customers, {self.confidence:.0%} intervals; "
            f"mean weight {self.overlap.mean_weight:.3f}, go by {self.recommended}"
        )
        return "\n".join([seen, head, *table, *(f"! {each}" for each in (*self.warnings, *said))])
