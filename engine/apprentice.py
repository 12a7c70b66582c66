"""Apprentice: a second configuration that decides on the same moments, logged and never acted on.

Whenever the live configuration decides, the apprentice is asked the same of the same customer at the same moment.
What it would have chosen is published to `apprentice` under the live decision's id, so that the two can be laid side
by side. It changes neither the profile nor any budget. (Azure Personalizer, "Apprentice mode".)
"""

from __future__ import annotations

from copy import deepcopy

import msgspec

from engine import candidates
from engine.decision import outputs_of
from engine.funnel import Ask, Funnel, decide
from engine.record import Output
from engine.repertoire import Repertoire
from engine.scoring import Scorer

TOPIC = "apprentice"


class Apprentice(msgspec.Struct, frozen=True):
    """The second configuration and what scores for it."""

    repertoire: Repertoire
    scorer: Scorer


def obstacles(live: Repertoire, apprentice: Repertoire) -> list[str]:
    """Why one configuration cannot learn beside another: both have to know customers by the same facts."""
    found = []
    if _facts(live) != _facts(apprentice):
        found.append("aggregates and segments must be the same as those of the live configuration")
    if live.profile.limits != apprentice.profile.limits or live.identity.kinds != apprentice.identity.kinds:
        found.append("limits and identity rules must be the same as those of the live configuration")
    unknown = sorted({each.id for each in apprentice.triggers} - {each.id for each in live.triggers})
    if unknown:
        found.append(f"the live configuration never decides for {', '.join(unknown)}")
    return found


def _facts(repertoire: Repertoire) -> tuple[list[str], list[tuple[str, str]]]:
    rules = repertoire.profile
    return [repr(each) for each in rules.aggregates], [(each.id, each.when.key) for each in rules.segments]


def observe(live: Funnel, apprentice: Apprentice) -> list[Output]:
    """What the apprentice would have decided where the live engine is about to; to be called before it does."""
    ask = _ask(live.ask, apprentice.repertoire)
    if ask is None:
        return []
    profile = live.profile
    copied = msgspec.structs.replace(
        profile,
        contacts=list(profile.contacts),
        answers=list(profile.answers),
        dropped=dict(profile.dropped),
    )
    funnel = Funnel(
        ask=ask,
        profile=copied,
        context={**live.context, "parameters": apprentice.repertoire.parameters},
        budgets={name: deepcopy(spending) for name, spending in live.budgets.items()},
        share=live.share,
        repertoire=apprentice.repertoire,
        scorer=apprentice.scorer,
    )
    made = [outputs_of(each, apprentice.repertoire, ask.signal.traceparent)[0] for each in decide(funnel)]
    return [msgspec.structs.replace(each, topic=TOPIC) for each in made]


def _ask(live: Ask, repertoire: Repertoire) -> Ask | None:
    """The same question to the other configuration; None when it has no such trigger."""
    if live.request is not None:
        pool, limit, fallback = candidates.for_request(repertoire, live.request, live.placement)
        return msgspec.structs.replace(live, pool=pool, limit=limit, fallback=fallback)
    trigger = next((each for each in repertoire.triggers if each.id == live.trigger), None)
    if trigger is None:
        return None
    pool = candidates.for_trigger(repertoire, trigger)
    return msgspec.structs.replace(
        live, pool=pool, limit=trigger.limit, fallback=trigger.fallback, answer_always=trigger.answer_always
    )
