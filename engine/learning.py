"""Learning examples: what became of a decision, told to the model that scored it.

A decision is told of up to three times, so that a model neither waits for silence nor mistakes it for a no:

* `exposed`: it was shown (or made, on channels that do not report impressions); no reward is known yet.
* `answered`: an outcome changed its reward, at once, and also after its window (`late`).
* `closed`: its window has ended; everything that came by then is its reward, nothing is "no response".

Labels that come at an age depend on what they say: a yes comes early, a no only with the end of the window. Two
kinds of learner are free of that bias. One learns a provisional reward from `exposed`, a share of what was expected,
and has `answered` and `closed` replace it; how far that is from what will have come it finds from the ages of its
exposures (`models.delay`). The other learns from `closed` alone: all decisions at the same age, whatever came of them.
(Chapelle 2014, "Modeling delayed feedback in display advertising"; Ktena et al. 2019, "Addressing delayed
feedback for continuous training"; Personalizer's activation: nothing is learned from what was never shown.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from engine.context import Context
from engine.features import Value
from engine.outcomes import POSITIVE, SHOWN, Outcome
from engine.profile import Contact, Pending, Profile
from engine.record import Output
from engine.repertoire import Action, Candidate, ModelRule, Repertoire, RewardRule, Treatment
from engine.signal import Signal

TOPIC = "learning"
SURVEY_EVENT = "Survey Answered"
Stage = Literal["exposed", "answered", "closed"]
Label = Literal["positive", "negative", "no-response"]


class Example(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Value of `batuta.learning`, keyed by model.

    `example_id`: a pure function of the decision, the stage and the outcome. `reward`, `previous`: in [0, 1], what
    is known and what was known before, None before the first answer. `label`: None while nothing is known. `late`:
    after the window. `prior`: the stated propensity. `propensity`, `version`: what the model said and which version
    of it, None for a decision scored without one. `probability`: of the final choice. `features`, `action_features`:
    by name, of the schemas named `schema` and `action_schema`. Times in epoch ms; `window_ms` from the decision to
    its close.
    """

    example_id: str
    model: str
    stage: Stage
    label: Label | None
    reward: float
    previous: float | None
    late: bool
    decision_id: str
    customer_id: str
    group: str
    action: str
    treatment: str
    channel: str
    prior: float
    propensity: float
    version: str | None
    probability: float
    schema: str
    features: tuple[Value, ...]
    action_schema: str
    action_features: tuple[Value, ...]
    decided_ms: int
    at_ms: int
    window_ms: int


_decoder = msgspec.json.Decoder(Example)
_encoder = msgspec.json.Encoder()
_values_decoder = msgspec.msgpack.Decoder(tuple[Value, ...])
_values_encoder = msgspec.msgpack.Encoder()


def decode_example(value: bytes) -> Example:
    """Decode a record of `batuta.learning`; msgspec.DecodeError for what is none."""
    return _decoder.decode(value)


# --- Deciding ---


def model_of(candidate: Candidate, repertoire: Repertoire) -> ModelRule | None:
    """The model that scores a candidate; None when none does."""
    if not repertoire.models:
        return None
    action = candidate.action
    names = (action.issue, action.group, action.id, action.tags, candidate.treatment.channel)
    for each in repertoire.models:
        if each.scope.covers(*names):
            return each
    return None


def action_scope(action: Action, treatment: Treatment) -> Context:
    """What the features of an action are read from."""
    return {
        "action": {"id": action.id, "issue": action.issue, "group": action.group, "tags": sorted(action.tags)},
        "treatment": {"id": treatment.id, "channel": treatment.channel, "cost": treatment.cost},
    }


def pending_of(
    candidate: Candidate,
    features: tuple[Value, ...],
    versions: Mapping[str, str],
    propensity: float,
    probability: float,
    now_ms: int,
    repertoire: Repertoire,
) -> Pending | None:
    """What has to be kept of a decision for its model to learn from it; None when it has no model."""
    rule = model_of(candidate, repertoire) if features or not repertoire.features.features else None
    if rule is None:
        return None
    window_ms = candidate.action.expires_after_ms if rule.window_ms is None else rule.window_ms
    return Pending(
        model=rule.id,
        version=versions.get(rule.id),
        schema=repertoire.features.version,
        features=_values_encoder.encode(features),
        propensity=propensity,
        prior=candidate.treatment.propensity,
        probability=probability,
        closes_ms=now_ms + min(window_ms, candidate.action.answerable_ms),
    )


def await_answer(profile: Profile, contact: Contact, repertoire: Repertoire) -> list[Example]:
    """Have the window of a contact begin; on channels that do not report impressions it counts as shown."""
    pending = contact.pending
    if pending is None:
        return []
    due_ms = profile.closes_ms
    profile.closes_ms = pending.closes_ms if due_ms is None else min(due_ms, pending.closes_ms)
    channel = repertoire.channels.get(contact.channel)
    return [] if channel is not None and channel.impressions else _expose(profile, contact, repertoire)


# --- What becomes of it ---


def answered(profile: Profile, contact: Contact, outcome: Outcome, repertoire: Repertoire) -> list[Example]:
    """What an outcome teaches: that an offer was shown, and what it brought."""
    pending, rule = contact.pending, _rule_of(contact, repertoire)
    if pending is None or rule is None:
        return []
    if outcome.type == "bounce" or (pending.closed and not pending.exposed):
        # It never arrived, or not while it was waited for: silence said nothing, and a yes alone would say too much.
        contact.pending = None
        return []
    examples = _expose(profile, contact, repertoire) if outcome.type in SHOWN else []
    if rule.reward.kind == "survey" or outcome.type not in SHOWN - {"impression"}:
        return examples
    if outcome.type in rule.reward.positive:
        pending.earned += 1.0 if outcome.value is None or rule.reward.kind == "binary" else outcome.value
    elif outcome.type in POSITIVE:
        return examples
    return examples + _reward(profile, contact, outcome.outcome_id, rule.reward, repertoire)


def surveyed(profile: Profile, signal: Signal, repertoire: Repertoire) -> list[Example]:
    """What a survey says about the latest offer that was made for the sake of its score."""
    if signal.event != SURVEY_EVENT:
        return []
    metric, score = signal.properties.get("metric"), signal.properties.get("score")
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        return []
    for contact in reversed(profile.contacts):
        pending, rule = contact.pending, _rule_of(contact, repertoire)
        if pending is None or rule is None or rule.reward.kind != "survey" or rule.reward.metric != metric:
            continue
        if pending.exposed and profile.now_ms <= contact.answerable_until_ms:
            pending.earned = float(score)
            return _reward(profile, contact, signal.message_id, rule.reward, repertoire)
    return []


def close_windows(profile: Profile, repertoire: Repertoire) -> list[Example]:
    """Close the windows that have ended by the customer's clock; a decision never shown teaches nothing."""
    if profile.closes_ms is None or profile.closes_ms > profile.now_ms:
        return []
    examples: list[Example] = []
    due_ms: int | None = None
    for contact in profile.contacts:
        pending = contact.pending
        if pending is None:
            continue
        if pending.closed:
            continue
        if pending.closes_ms > profile.now_ms:
            due_ms = pending.closes_ms if due_ms is None else min(due_ms, pending.closes_ms)
        else:
            pending.closed = True
            if pending.exposed:
                known = None if pending.label is None else pending.reward
                examples += _example(profile, contact, "closed", "", known, repertoire)
    profile.closes_ms = due_ms
    return examples


def outputs_of(examples: Iterable[Example]) -> list[Output]:
    """The records of examples."""
    return [Output(TOPIC, each.model.encode(), _encoder.encode(each)) for each in examples]


def _rule_of(contact: Contact, repertoire: Repertoire) -> ModelRule | None:
    """The rule of the model that scored a contact, as long as the configuration has it."""
    if contact.pending is None:
        return None
    return next((each for each in repertoire.models if each.id == contact.pending.model), None)


def _expose(profile: Profile, contact: Contact, repertoire: Repertoire) -> list[Example]:
    pending = contact.pending
    assert pending is not None
    if pending.exposed:
        return []
    pending.exposed = True
    return _example(profile, contact, "exposed", "", None, repertoire)


def _reward(profile: Profile, contact: Contact, cause: str, rule: RewardRule, repertoire: Repertoire) -> list[Example]:
    """Value what came in so far; the same answer twice teaches nothing more."""
    pending = contact.pending
    assert pending is not None
    before, label = (pending.reward, pending.label)
    answer = rule.kind == "survey" or pending.earned > 0.0
    reward = min(1.0, max(0.0, (pending.earned - rule.least) / (rule.most - rule.least))) if answer else 0.0
    if rule.kind == "binary":
        reward = float(answer)
    pending.reward, pending.label = reward, "positive" if reward > 0.0 else "negative"
    if (before, label) == (pending.reward, pending.label):
        return []
    return _example(profile, contact, "answered", cause, None if label is None else before, repertoire)


def _example(
    profile: Profile, contact: Contact, stage: Stage, cause: str, previous: float | None, repertoire: Repertoire
) -> list[Example]:
    """The example of a stage; none when the decision was made under another feature schema."""
    pending = contact.pending
    assert pending is not None
    if pending.schema != repertoire.features.version:
        return []
    label: Label | None = None
    if stage != "exposed":
        label = "positive" if pending.reward > 0.0 else "negative" if pending.label is not None else "no-response"
    action = repertoire.actions.get(contact.action)
    treatment = next((each for each in action.treatments if each.id == contact.treatment), None) if action else None
    scope = action_scope(action, treatment) if action and treatment else {"action": {}, "treatment": {}}
    named = hashlib.blake2b(cause.encode(), digest_size=8).hexdigest()
    return [
        Example(
            example_id=f"{contact.decision_id}:{stage}" + (f":{named}" if cause else ""),
            model=pending.model,
            stage=stage,
            label=label,
            reward=pending.reward,
            previous=previous,
            late=stage == "answered" and pending.closed,
            decision_id=contact.decision_id,
            customer_id=profile.customer_id,
            group=contact.group,
            action=contact.action,
            treatment=contact.treatment,
            channel=contact.channel,
            prior=pending.prior,
            propensity=pending.propensity,
            version=pending.version,
            probability=pending.probability,
            schema=pending.schema,
            features=_values_decoder.decode(pending.features),
            action_schema=repertoire.action_features.version,
            action_features=repertoire.action_features.read({**scope, "now_ms": profile.now_ms}),
            decided_ms=contact.at_ms,
            at_ms=profile.now_ms,
            window_ms=pending.closes_ms - contact.at_ms,
        )
    ]
