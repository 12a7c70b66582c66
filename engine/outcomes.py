"""Outcomes: what a channel reports about a decision, joined to the contact history of its customer."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from engine import budgets, consent, history
from engine.budgets import Budgets
from engine.calendar import format_rfc3339, parse_rfc3339_ms
from engine.candidates import tags_of
from engine.consent import ANY, Statement
from engine.profile import Answer, Contact, Profile
from engine.record import Record
from engine.rejects import Reject
from engine.repertoire import Repertoire
from engine.wire import parse

OutcomeType = Literal[
    "delivered", "impression", "click", "accept", "reject", "dismiss", "convert", "bounce", "unsubscribe"
]
OUTCOME_TYPES: tuple[str, ...] = get_args(OutcomeType)
POSITIVE = frozenset({"click", "accept", "convert"})
"""What says that an offer was taken up."""
SHOWN = frozenset({"impression", "click", "accept", "reject", "dismiss", "convert"})
"""What cannot happen to an offer nobody was shown."""
_OF_THE_CHANNEL = frozenset({"bounce", "unsubscribe"})
"""What answers a message and says nothing about its offer."""
MAX_BYTES = 64 * 1024
MAX_ID = 512


class Outcome(msgspec.Struct, frozen=True):
    """A valid outcome. `outcome_id`: the idempotency key, derived when the channel sent none."""

    outcome_id: str
    decision_id: str
    customer_id: str
    type: str
    at_ms: int
    value: float | None


class _Wire(msgspec.Struct, rename="camel"):
    decision_id: str
    customer_id: str
    type: str
    outcome_id: str | None = None
    value: float | None = None
    timestamp: str | None = None


_decoder = msgspec.json.Decoder(_Wire)


def decode_outcome(record: Record, origin: str) -> Outcome | Reject:
    """Validate one record of `batuta.outcomes`. `origin`: where it was put, for a missing `outcomeId`."""
    wire = parse(_decoder, record.value, MAX_BYTES)
    if isinstance(wire, Reject):
        return wire
    return _checked(wire, record, origin)


def _checked(wire: _Wire, record: Record, origin: str) -> Outcome | Reject:
    if wire.type not in OUTCOME_TYPES:
        return Reject("unknown-outcome", f"type is {wire.type[:40]!r}; expected one of {', '.join(OUTCOME_TYPES)}.")
    ids = (("decisionId", wire.decision_id), ("customerId", wire.customer_id), ("outcomeId", wire.outcome_id))
    for name, text in ids:
        if text is not None and not 0 < len(text) <= MAX_ID:
            code = "too-long" if text else "missing-field"
            return Reject(code, f"{name} has {len(text)} characters; expected 1 to {MAX_ID}.")
    try:
        at_ms = record.timestamp_ms if wire.timestamp is None else parse_rfc3339_ms(wire.timestamp)
    except ValueError as error:
        return Reject("bad-timestamp", f"timestamp: {error}.")
    outcome_id = wire.outcome_id or origin
    return Outcome(outcome_id, wire.decision_id, wire.customer_id, wire.type, at_ms, wire.value)


def attribute(
    profile: Profile, outcome: Outcome, now_ms: int, repertoire: Repertoire, spending: Budgets
) -> Contact | Reject:
    """Join an outcome to its decision and let history, consent and budgets know; returns the contact it belongs to.

    A decision the history does not have, or whose time for answers is over, makes it a reject.
    """
    contact = history.find(profile, outcome.decision_id)
    if contact is None:
        return Reject("unknown-decision", f"No open decision {outcome.decision_id[:64]} of this customer is known.")
    if now_ms > contact.answerable_until_ms:
        until = format_rfc3339(contact.answerable_until_ms)
        return Reject("expired-decision", f"Outcomes of decision {outcome.decision_id} were accepted until {until}.")
    at_ms = min(max(outcome.at_ms, contact.at_ms), now_ms)
    answer = Answer(outcome.type, at_ms, contact.issue, contact.group, contact.action, contact.channel)
    history.add_answer(profile, answer, repertoire.retention, repertoire.profile.limits.contacts)
    contact.taken = contact.taken or outcome.type in POSITIVE
    if outcome.type == "bounce" and contact.answer is None:
        _give_back(contact, repertoire, spending)
    if history.closes(outcome.type):
        _close(contact, outcome.type, profile)
    if outcome.type == "unsubscribe":
        said = {f"{contact.channel}/{ANY}": Statement("revoked", at_ms)}
        if consent.state(profile.consent, said):
            profile.drop("consent")
    return contact


def _close(contact: Contact, outcome: str, profile: Profile) -> None:
    """Answer an offer: the answer to an action is one for every contact that offered it, whatever the channel."""
    for each in [contact] if outcome in _OF_THE_CHANNEL else profile.contacts:
        if each.action == contact.action and each.answer is None:
            each.answer = outcome


def _give_back(contact: Contact, repertoire: Repertoire, spending: Budgets) -> None:
    """What never arrived neither counts toward caps nor uses a budget."""
    contact.counts = False
    tags = tags_of(contact.action, repertoire)
    for budget in repertoire.constraints.budgets:
        if budget.scope.covers(contact.issue, contact.group, contact.action, tags, contact.channel):
            amount = budgets.amount_of(budget, contact.cost)
            budgets.release(budget, spending, amount, contact.at_ms, repertoire.zones)
