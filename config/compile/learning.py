"""Compiling what is learned: features with a version, models with their rewards and learners."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations

import msgspec

from config.compile.compilation import Compilation, in_words
from config.documents.learners import Learner as LearnerDocument
from config.documents.learners import NaiveBayes
from config.documents.learning import ActionFeature, ModelsFile, MoneyReward, SurveyReward
from config.documents.learning import Feature as FeatureDocument
from config.documents.learning import Model as ModelDocument
from config.documents.learning import Reward as RewardDocument
from config.documents.offers import ActionsFile
from config.faults import Path, one_of, show
from engine.candidates import named
from engine.expression import ANY, LIST, MAP, NUMBER, STRING, Expression, Schema
from engine.features import Feature, FeatureSchema
from engine.repertoire import Candidate, LearnerRule, ModelRule, Repertoire, RewardRule

BUCKETS = 16
MAX_SLOTS = 512
"""Slots of all features together: a learner with full covariance keeps, and computes with, their square."""
_UNFIT = {"numeric": frozenset({STRING, LIST, MAP}), "categorical": frozenset({LIST, MAP})}
_EXPECTED = {
    "numeric": "a number, or true or false; type: categorical for text",
    "categorical": "text, a number, or true or false",
}

# --- Features ---


def compile_features(file: ModelsFile, c: Compilation) -> FeatureSchema:
    """What models know of a customer and a moment."""
    return _schema("features", file.features, c.vocabulary.rules, c)


def compile_action_features(file: ModelsFile, c: Compilation) -> FeatureSchema:
    """What models know of an offer."""
    return _schema("action_features", file.action_features, c.vocabulary.action_features, c)


def _schema(section: str, written: Mapping[str, ActionFeature], schema: Schema, c: Compilation) -> FeatureSchema:
    path: Path = ("models", section)
    features = tuple(_feature((*path, id_), id_, each, schema, c) for id_, each in sorted(written.items()))
    slots = sum(len(each.slots) for each in features)
    if slots > MAX_SLOTS:
        expected = f"at most {MAX_SLOTS}: fewer features, or fewer buckets"
        c.fault(path, "too much to learn from", found=f"{slots} slots", expected=expected)
    return FeatureSchema(version=_version_of(features), features=features) if features else FeatureSchema()


def _feature(path: Path, id_: str, written: ActionFeature, schema: Schema, c: Compilation) -> Feature:
    value = _value((*path, "value"), written, schema, c)
    if written.buckets is not None and written.type == "numeric" and value.type is not STRING:
        c.fault((*path, "buckets"), "only a categorical feature has buckets", found=str(written.buckets))
    as_of, fresh_ms = _age(path, written, schema, c) if isinstance(written, FeatureDocument) else (None, 0)
    return Feature(
        name=id_,
        kind=written.type,
        value=value,
        buckets=BUCKETS if written.buckets is None else written.buckets,
        as_of=as_of,
        fresh_ms=fresh_ms,
    )


def _value(path: Path, written: ActionFeature, schema: Schema, c: Compilation) -> Expression:
    value = c.expression(path, written.value, schema, ANY)
    if value.type in _UNFIT[written.type]:
        c.fault(path, f"this is {in_words(value.type)}", found=show(written.value), expected=_EXPECTED[written.type])
    return value


def _age(path: Path, written: FeatureDocument, schema: Schema, c: Compilation) -> tuple[Expression | None, int]:
    """From when the value dates, and how long it is fresh: both or neither."""
    if (written.as_of is None) is not (written.fresh_for is None):
        missing, present = ("as_of", "fresh_for") if written.as_of is None else ("fresh_for", "as_of")
        c.fault((*path, present), "says nothing by itself", expected=f"also {missing}", given=(*path, missing))
    as_of = None if written.as_of is None else c.expression((*path, "as_of"), written.as_of, schema, NUMBER)
    return as_of, 0 if written.fresh_for is None else c.span_ms((*path, "fresh_for"), written.fresh_for)


def _version_of(features: Sequence[Feature]) -> str:
    """64 bits in hexadecimal over all that gives a value its meaning: what was learned is only good for the same."""
    content = [
        (each.name, each.kind, each.value.key, each.buckets, each.as_of and each.as_of.key, each.fresh_ms)
        for each in features
    ]
    return hashlib.blake2b(msgspec.json.encode(content), digest_size=8).hexdigest()


# --- Models ---


def compile_models(file: ModelsFile, candidates: Sequence[Candidate], c: Compilation) -> tuple[ModelRule, ...]:
    """Models in the order they are asked in: by precedence, then those with the fewest candidates first."""
    models = [_model(("models", "models", id_), id_, each, c) for id_, each in sorted(file.models.items())]
    return tuple(sorted(models, key=lambda each: (-file.models[each.id].precedence, len(_covered(each, candidates)))))


def _model(path: Path, id_: str, written: ModelDocument, c: Compilation) -> ModelRule:
    return ModelRule(
        id=id_,
        scope=c.scope((*path, "scope"), written.scope),
        reward=_reward((*path, "reward"), written.reward, c),
        window_ms=None if written.window is None else c.span_ms((*path, "window"), written.window),
        learners={key: _learner((*path, "learners", key), each, c) for key, each in sorted(written.learners.items())},
        champion=_champion(path, written, c),
    )


def _learner(path: Path, written: LearnerDocument, c: Compilation) -> LearnerRule:
    if isinstance(written, NaiveBayes) and written.warm_up > written.window:
        expected = f"at most window, {written.window}"
        c.fault((*path, "warm_up"), "longer than what is kept", found=str(written.warm_up), expected=expected)
    parameters = {name: getattr(written, name) for name in written.__struct_fields__}
    return LearnerRule(kind=str(type(written).__struct_config__.tag), parameters=parameters)


def _champion(path: Path, written: ModelDocument, c: Compilation) -> str:
    """The learner that is served: the one that is named, or the only one."""
    if written.champion is not None:
        c.refer((*path, "champion"), written.champion, written.learners.keys(), "learner")
        return written.champion
    if len(written.learners) > 1:
        given = (*path, "champion")
        c.fault(path, "which learner is served?", expected=f"champion: {one_of(written.learners)}", given=given)
    return min(written.learners)


def _reward(path: Path, written: RewardDocument, c: Compilation) -> RewardRule:
    match written:
        case MoneyReward():
            return RewardRule(kind="money", positive=written.positive, most=written.most)
        case SurveyReward():
            if written.most <= written.least:
                expected = f"more than least, {written.least:g}"
                c.fault((*path, "most"), "an empty range", found=f"{written.most:g}", expected=expected)
            return RewardRule(
                kind="survey", positive=frozenset(), least=written.least, most=written.most, metric=written.metric
            )
    return RewardRule(positive=written.positive)


# --- Which model scores what ---


def _covered(model: ModelRule, candidates: Sequence[Candidate]) -> frozenset[int]:
    return frozenset(each.index for each in candidates if model.scope.covers(*named(each)))


def check_models(repertoire: Repertoire, file: ModelsFile, actions: ActionsFile, c: Compilation) -> None:
    """It is clear which model scores a candidate, every model has some, and no window outlasts their answers."""
    covered = {each.id: _covered(each, repertoire.candidates) for each in repertoire.models}
    overlaps = [pair for pair in combinations(repertoire.models, 2) if not _is_clear(*pair, covered, file)]
    for first, second in overlaps:
        both = repertoire.candidates[min(covered[first.id] & covered[second.id])]
        said = f"model {min(first.id, second.id)} scores {both.treatment.id} as well"
        expected = "scopes apart, one within the other, or a precedence"
        c.fault(("models", "models", max(first.id, second.id)), said, expected=expected)
    if overlaps:
        return
    taken: set[int] = set()
    for model in repertoire.models:
        own = [repertoire.candidates[index] for index in sorted(covered[model.id] - taken)]
        taken |= covered[model.id]
        if own:
            _check_window(model, own, file, actions, c)
        else:
            expected = "a treatment in its scope that no model before it scores"
            c.fault(("models", "models", model.id), "nothing to score", expected=expected)


def _is_clear(first: ModelRule, second: ModelRule, covered: Mapping[str, frozenset[int]], file: ModelsFile) -> bool:
    """Whether it is clear which of two scores what both cover; `first` is asked first."""
    ours, theirs = covered[first.id], covered[second.id]
    goes_before = file.models[first.id].precedence > file.models[second.id].precedence
    return ours < theirs or goes_before or ours.isdisjoint(theirs)


def _check_window(
    model: ModelRule, own: Sequence[Candidate], file: ModelsFile, actions: ActionsFile, c: Compilation
) -> None:
    """An outcome that comes later than its action takes answers is never learned from."""
    shortest = min(own, key=lambda each: each.action.answerable_ms).action
    if model.window_ms is not None and model.window_ms > shortest.answerable_ms:
        path: Path = ("models", "models", model.id, "window")
        written = actions.actions[shortest.id]
        said, found = f"action {shortest.id} takes no answers that late", show(file.models[model.id].window)
        c.fault(path, said, found=found, expected=f"at most {written.answerable or written.expires_after}")
