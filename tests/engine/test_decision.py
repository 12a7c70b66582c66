"""The final choice, its probability and id, and what goes out."""

from __future__ import annotations

import json

import jsonschema
from hypothesis import given
from hypothesis import strategies as st

from engine.candidates import Rejection, Rejections
from engine.choice import NOTHING, greedy
from engine.decision import (
    MAX_REJECTED,
    contenders_of,
    decision_id,
    listed,
    outputs_of,
)
from engine.funnel import decide
from engine.repertoire import Exploration, Holdout
from engine.schemas import message_schema
from tests.repertoires import Builder, a_funnel, in_order

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["", "\0", "a\0b", "0", "1", '"', ","])
CAUSES = st.tuples(TEXTS, TEXTS, TEXTS, st.none() | TEXTS, st.integers(1, 20))


# --- Ids and draws ---


@given(CAUSES, CAUSES)
def test_an_id_is_a_pure_function_of_its_cause(one, other):
    """Equal causes give equal ids; a difference in cause, customer, trigger, placement or rank another id."""
    assert (decision_id(*one) == decision_id(*other)) == (one == other)
    assert len(decision_id(*one)) == 32


def test_no_separator_in_a_name_makes_two_causes_one():
    """A slot without a name is not no slot, and names cannot be shifted into each other."""
    ids = {decision_id("c", "u", "t", placement, 1) for placement in (None, "", "null", "1")}
    ids |= {
        decision_id("c\0u", "", "t", None, 1),
        decision_id("c", "u\0", "t", None, 1),
        decision_id("c\0", "u", "t", None, 1),
    }
    assert len(ids) == 7


def test_ids_do_not_change_between_versions():
    """A golden value: a changed id would make every consumer see old decisions again after an upgrade."""
    assert decision_id("m1", "u1", "go", None, 1) == "c1b5c2c58a680fdb3f326ab5c8203a80"


# --- What goes out ---


def test_contenders_are_the_best_that_were_not_chosen():
    """At most so many, in their order, whichever was chosen."""
    b = Builder()
    for n in range(5):
        b.action(f"a{n}")
    ranked = in_order(b.build())
    options = greedy(ranked, Exploration(epsilon=0.5))
    listed = contenders_of(options, ranked[1], 3)
    assert [(each.action, each.probability) for each in listed] == [("a0", 0.6), ("a2", 0.1), ("a3", 0.1)]
    assert contenders_of(options, ranked[0], 0) == []
    assert contenders_of(NOTHING, None, 3) == []


def test_a_decision_goes_to_its_topic_and_that_of_its_channel():
    """The same bytes under the customer's key with CloudEvents headers, to push which has a topic, not for e-mail."""
    b = Builder()
    b.action("a", b.treatment("t", "push"))
    repertoire = b.build()
    [decision] = decide(a_funnel(repertoire))
    outputs = outputs_of(decision, repertoire, "00-trace-01")
    assert [each.topic for each in outputs] == ["decisions", "decisions.push"]
    assert {(each.key, each.value, each.headers) for each in outputs} == {(b"u1", outputs[0].value, outputs[0].headers)}
    assert dict(outputs[0].headers) == {
        "ce_specversion": b"1.0",
        "ce_id": decision.decision_id.encode(),
        "ce_type": b"batuta.decision",
        "ce_source": b"/test",
        "ce_time": b"2026-01-05T08:00:00.000Z",
        "content-type": b"application/json",
        "traceparent": b"00-trace-01",
    }
    repertoire = Builder().action("a").build()
    [mail] = decide(a_funnel(repertoire))
    [output] = outputs_of(mail, repertoire, None)
    assert (output.topic, "traceparent" in dict(output.headers)) == ("decisions", False)


def test_every_kind_of_decision_is_what_the_schema_says():
    """Chosen, with an answer of nothing, and as control: camelCase JSON that validates."""
    b = Builder()
    b.action("a", b.treatment("t", "push")).action("b", eligibility=["false"])
    held = b.build(holdout=Holdout(id="h", salt="s", low=0.0, high=1.0))
    nothing = Builder().action("b", eligibility=["false"]).build()
    funnels = [a_funnel(b.build()), a_funnel(nothing, answer_always=True), a_funnel(held)]
    schema = message_schema("decision")
    for funnel in funnels:
        [decision] = decide(funnel)
        [output, *_] = outputs_of(decision, funnel.repertoire, None)
        jsonschema.validate(json.loads(output.value), schema)


def test_an_explanation_stays_small_enough_to_send():
    """Of more rejections than a message should hold, the rest are counted in the last entry."""
    rejections = Rejections()
    for n in range(MAX_REJECTED):
        rejections.add(f"a{n}", "eligibility", "no")
    assert listed(rejections) == rejections
    for n in range(5):
        rejections.add(f"b{n}", "eligibility", "no")
    cut = listed(rejections)
    assert cut[:-1] == rejections[: MAX_REJECTED - 1]
    assert cut[-1] == Rejection("*", "eligibility", "and 6 more, from here on")
