"""The learners there are, by the names configurations know them by."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast, get_type_hints

from models.bayesian import BayesianLinear
from models.learner import Learner
from models.logistic import BaggedLogistic, Logistic
from models.naive_bayes import NaiveBayes
from models.trees import AdaptiveTree, BaggedTrees

_KINDS: tuple[type[Learner], ...] = (BayesianLinear, Logistic, BaggedLogistic, NaiveBayes, AdaptiveTree, BaggedTrees)
LEARNERS: Mapping[str, type[Learner]] = {each.kind: each for each in _KINDS}


class Parameter(NamedTuple):
    """One parameter of a learner: its type, as annotated, and what it is when not given."""

    type: Any
    default: Any


def parameters_of(kind: str) -> dict[str, Parameter]:
    """The parameters of a kind by name, as its constructor declares them. ValueError for an unknown kind.

    A constructor that takes any others (`**`) passes them on to the one it overrides.
    """
    found: dict[str, Parameter] = {}
    for owner in _of(kind).__mro__:
        if constructor := vars(owner).get("__init__"):
            hints, declared = get_type_hints(constructor), inspect.signature(constructor).parameters.values()
            own = [each for each in declared if each.kind is inspect.Parameter.KEYWORD_ONLY]
            found |= {each.name: Parameter(hints[each.name], each.default) for each in own}
            if all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in declared):
                break
    return found


def new(
    kind: str, slots: Sequence[str], action_slots: Sequence[str], seed: int, parameters: Mapping[str, Any]
) -> Learner:
    """Make a learner that knows nothing. ValueError for an unknown kind or parameter, or an impossible value."""
    known = parameters_of(kind)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ValueError(f"learner {kind} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    return cast("Any", _of(kind))(slots, action_slots, seed, **parameters)  # type: ignore[no-any-return]


def _of(kind: str) -> type[Learner]:
    if kind not in LEARNERS:
        raise ValueError(f"learner {kind!r} is none of {', '.join(LEARNERS)}")
    return LEARNERS[kind]
