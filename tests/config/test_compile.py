"""What is written means what it says, and says the same in whatever order it is written."""

from __future__ import annotations

import copy
import json
import random
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.load import check_directory, load_directory
from engine.aggregates import Window as AggregateWindow
from engine.calendar import DAY_MS, HOUR_MS, MINUTE_MS, QuietHours
from engine.repertoire import Action, Exploration, Repertoire, Scope, Window
from tests.builders import CONFIG, a_config, a_repertoire, write_config
from tests.config.shop_models import MODELS

MADRID = ZoneInfo("Europe/Madrid")


@pytest.fixture(scope="module")
def shop() -> Repertoire:
    """The example configuration, with models."""
    return a_repertoire(models=MODELS)


def an_action(**changes: Any) -> Action:
    """The newsletter of the example with changes, compiled."""
    actions = copy.deepcopy(CONFIG["actions"])
    actions["actions"]["newsletter"].update(changes)
    return a_repertoire(actions=actions).actions["newsletter"]


# --- One configuration, however it is written ---


def shuffled(value: Any, rng: random.Random) -> Any:
    """The same value with the entries of every map in another order."""
    if isinstance(value, dict):
        keys = rng.sample(list(value), len(value))
        return {key: shuffled(value[key], rng) for key in keys}
    return [shuffled(each, rng) for each in value] if isinstance(value, list) else value


def split(kind: str, body: dict[str, Any], rng: random.Random) -> list[dict[str, Any]]:
    """The entries of one kind over up to three files; an engine stays one."""
    count = 1 if kind == "engine" else rng.randint(1, 3)
    files: list[dict[str, Any]] = [{"kind": kind} for _ in range(count)]
    for section, entries in body.items():
        if isinstance(entries, dict):
            for key, entry in entries.items():
                rng.choice(files).setdefault(section, {})[key] = entry
        else:
            rng.choice(files)[section] = entries
    return files


def essence(repertoire: Repertoire) -> tuple[Any, ...]:
    """All of a repertoire that can be compared."""
    predicates = repertoire.predicates
    return (
        repertoire.version,
        [(each.index, each.action.id, each.treatment.id) for each in repertoire.candidates],
        [predicates.source(index) for index in range(len(predicates))],
        [each.action.engagement for each in repertoire.candidates],
        [list(each) for each in (repertoire.channels, repertoire.placements, repertoire.actions)],
        repertoire.constraints,
        [each.id for each in (*repertoire.triggers, *repertoire.experiments, *repertoire.profile.segments)],
        [each.name for each in repertoire.profile.aggregates],
        repertoire.identity,
        repertoire.retention,
        repertoire.holdout,
        [(each.version, each.slots) for each in (repertoire.features, repertoire.action_features)],
        repertoire.models,
        repertoire.arbitration.exploration,
    )


@given(rng=st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_order_and_files_change_nothing(rng: random.Random, shop: Repertoire) -> None:
    """Entries may be permuted and moved between files: version, candidates and predicates stay the same."""
    parts = [part for kind, body in shuffled(a_config(models=MODELS), rng).items() for part in split(kind, body, rng)]
    with tempfile.TemporaryDirectory() as name:
        for number, part in enumerate(parts):
            text = f"# {rng.random()}\n{json.dumps(part)}"
            Path(name, f"{rng.getrandbits(16)}-{number}.yaml").write_text(text)
        assert essence(load_directory(Path(name))) == essence(shop)


def test_comments_cases_and_defaults_are_no_content(tmp_path: Path, shop: Repertoire) -> None:
    """The version stays when a comment or a case is added or a default is spelt out."""
    case = {"name": "it", "given": {}, "expect": {"loyal": False}}
    channels = {**CONFIG["channels"], "channels": {**CONFIG["channels"]["channels"], "web": {"topic": False}}}
    segments = {**CONFIG["segments"], "cases": [case]}
    assert a_repertoire(channels=channels, segments=segments, models=MODELS).version == shop.version


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("engine", ("partitions",), 8),
        ("engine", ("parameters", "free_shipping_from"), 61),
        ("profile", ("aggregates", "spent", "window"), {"decayed": "30d"}),
        ("segments", ("segments", "loyal", "when"), "aggregates.orders_90d >= 3"),
        ("channels", ("placements", "hero", "limit"), 3),
        ("actions", ("actions", "newsletter", "value"), 2),
        ("triggers", ("triggers", "cart-abandoned", "after"), "31m"),
        ("constraints", ("contact_limits", "promotions", "limit"), 4),
        ("arbitration", ("exploration", "epsilon"), 0.2),
        ("experiments", ("holdout", "to"), 6),
        ("models", ("features", "age", "value"), "profile.age + 1"),
        ("models", ("models", "everything", "champion"), "a"),
        ("models", ("models", "everything", "learners", "b", "learning_rate"), 0.4),
    ],
)
def test_another_content_is_another_version(shop: Repertoire, kind: str, path: tuple[str, ...], value: Any) -> None:
    """Every change that can change a decision changes the version."""
    config = copy.deepcopy({**CONFIG, "models": MODELS})
    inner = config[kind]
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    assert a_repertoire(**config).version != shop.version


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.sampled_from(["profile.age >", "30d", "1 week", "segments", "offers", "{x", "2026-02-30", "/(/"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, inner in steps for found in places(inner, (*path, key)))]


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_written_raises(data: Any) -> None:
    """Whatever is put in place of anything, the outcome is a repertoire or faults that name a file and a line."""
    config = copy.deepcopy({**CONFIG, "models": MODELS})
    for _ in range(data.draw(st.integers(1, 7))):
        kind = data.draw(st.sampled_from(sorted(config)))
        *above, last = data.draw(st.sampled_from(places(config[kind])[1:] or [("x",)]))
        inner: Any = config[kind]
        for step in above:
            inner = inner[step]
        inner[last] = data.draw(JUNK)
    with tempfile.TemporaryDirectory() as name:
        checked = check_directory(write_config(Path(name), **config))
    assert (checked.repertoire is None) is bool(checked.faults)
    for fault in checked.faults:
        assert fault.file.endswith(".yaml")
        assert fault.line >= 1
        assert fault.column >= 1
        assert "\n" not in str(fault)


# --- What each thing means ---


def test_the_engine(shop: Repertoire) -> None:
    """Names, partitions, zones and constants."""
    assert (shop.name, shop.source, shop.prefix, shop.partitions) == ("shop", "urn:example:shop", "batuta.", 4)
    assert shop.max_future_ms == 10 * MINUTE_MS
    assert [str(zone) for zone in shop.zones.of(None, None)] == ["Europe/Madrid"]
    assert shop.parameters == {"free_shipping_from": 60}


def test_rules_of_all_levels_come_together() -> None:
    """An action has the rules of all actions, of its issue, of its group and its own, in that order and named."""
    actions = {
        "all_actions": {"eligibility": ["true"], "suitability": ["profile.a > 0"]},
        "issues": {
            "i": {
                "eligibility": ["profile.a > 1 and profile.b > 1"],
                "groups": {"g": {"eligibility": ["profile.a > 2"]}},
            }
        },
        "actions": {
            "x": {"group": "g", "eligibility": ["profile.a > 3"], "treatments": {"x1": {"channel": "web"}}},
            "y": {"group": "g", "opt_out_of_group_rules": True, "treatments": {"y1": {"channel": "web"}}},
        },
    }
    compiled = a_repertoire(
        actions=actions, profile=None, segments=None, triggers=None, constraints=None, experiments=None,
        arbitration=None, channels={"channels": {"web": {}}},
    )  # fmt: skip
    x, y = compiled.actions["x"].engagement, compiled.actions["y"].engagement
    assert [rule.where for rule in x.eligibility] == ["all actions", "issue i", "group g", "action x"]
    assert [rule.where for rule in y.eligibility] == ["all actions", "issue i"]
    assert [len(rule.predicates) for rule in x.eligibility] == [1, 2, 1, 1]
    assert [rule.where for rule in x.suitability] == ["all actions"]
    assert x.eligibility[0] == y.eligibility[0]
    assert compiled.actions["x"].issue == "i"


def test_equal_conditions_are_one_predicate(shop: Repertoire) -> None:
    """What stands in several rules is evaluated once."""
    rules = {action.engagement.suitability[0].predicates for action in shop.actions.values()}
    assert len(rules) == 1


def test_levers_add_up(shop: Repertoire) -> None:
    """Issue, group and action, in percent."""
    assert shop.actions["free-shipping"].lever == 15
    assert shop.actions["newsletter"].lever == 10
    assert an_action(lever=-5).lever == 5


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, (True, True, False)),
        ({"class": "mandatory"}, (False, False, False)),
        ({"class": "transactional"}, (False, False, True)),
        ({"obeys_caps": False}, (False, False, False)),
        ({"obeys_caps": False, "counts_toward_caps": True}, (False, True, False)),
        ({"class": "transactional", "obeys_caps": True, "ignores_quiet_hours": False}, (True, True, False)),
        ({"counts_toward_caps": False}, (True, False, False)),
    ],
)
def test_classes_have_their_switches(written: dict[str, Any], expected: tuple[bool, bool, bool]) -> None:
    """Mandatory and transactional actions skip caps and do not use them up; each switch can be set by itself."""
    action = an_action(**written)
    assert (action.obeys_caps, action.counts_toward_caps, action.ignores_quiet_hours) == expected


def test_days_are_whole_days_of_the_engine() -> None:
    """An action that ends on a day is there on that day; times are taken as they are."""
    action = an_action(starts="2026-03-29", ends="2026-03-29")
    assert action.starts_ms == int(datetime(2026, 3, 29, tzinfo=MADRID).timestamp() * 1000)
    assert action.ends_ms == int(datetime(2026, 3, 30, tzinfo=MADRID).timestamp() * 1000)
    assert action.ends_ms - action.starts_ms == 23 * HOUR_MS
    assert an_action(ends="1970-01-01T01:00:00+01:00").ends_ms == 0


def test_offers_stay_open_and_answerable() -> None:
    """A week by default; outcomes count as long as the offer stands, or longer."""
    assert (an_action().expires_after_ms, an_action().answerable_ms) == (7 * DAY_MS, 7 * DAY_MS)
    longer = an_action(expires_after="1d", answerable="30d")
    assert (longer.expires_after_ms, longer.answerable_ms) == (DAY_MS, 30 * DAY_MS)


def test_values(shop: Repertoire) -> None:
    """A number is a float, an expression is compiled."""
    assert shop.actions["newsletter"].value == 1.0
    assert isinstance(shop.actions["newsletter"].value, float)
    value = shop.actions["free-shipping"].value
    assert not isinstance(value, float)
    assert value.value({"parameters": {"free_shipping_from": 60}}) == 6


def test_treatments(shop: Repertoire) -> None:
    """Purpose by class, propensity of the action, compiled content."""
    treatments = {each.treatment.id: each.treatment for each in shop.candidates}
    assert treatments["newsletter-hero"].purpose == "marketing"
    assert treatments["order-confirmation-email"].purpose == "transactional"
    assert treatments["recall-push"].purpose == "service"
    assert (treatments["free-shipping-push"].propensity, treatments["recall-push"].propensity) == (0.2, 0.5)
    assert (
        treatments["free-shipping-email"].content["subject"].render({"profile": {"first_name": "Ana"}}).text
        == "Dear Ana"
    )
    assert treatments["newsletter-hero"].placements == {"hero"}


def test_candidates_are_sorted(shop: Repertoire) -> None:
    """By action and treatment, numbered."""
    pairs = [(each.action.id, each.treatment.id) for each in shop.candidates]
    assert pairs == sorted(pairs)
    assert [each.index for each in shop.candidates] == list(range(len(pairs)))


def test_channels_and_placements(shop: Repertoire) -> None:
    """Topics, reach, quiet hours."""
    assert (shop.channels["email"].topic, shop.channels["push"].topic, shop.channels["web"].inbound) == (
        True,
        False,
        False,
    )
    assert shop.channels["email"].reachable is not None
    assert shop.channels["web"].reachable is None
    assert shop.channels["push"].quiet_hours == (QuietHours(22 * 60, 8 * 60),)
    assert (shop.placements["hero"].channel, shop.placements["hero"].fallback) == ("web", "newsletter")


def test_quiet_days() -> None:
    """Days by name, ends up to midnight."""
    hours = [{"from": "00:00", "to": "24:00", "days": ["sunday", "monday"]}]
    channels = {
        **CONFIG["channels"],
        "channels": {"email": {}, "push": {"quiet_hours": hours}, "web": {"inbound": True}},
    }
    compiled = a_repertoire(channels=channels)
    assert compiled.channels["push"].quiet_hours == (QuietHours(0, 1440, frozenset({0, 6})),)
    assert compiled.channels["web"].inbound


def test_constraints(shop: Repertoire) -> None:
    """Purposes come on top of the built-in ones; windows are calendar or rolling."""
    constraints = shop.constraints
    assert constraints.purposes == {"marketing": "required", "service": "implied", "transactional": "none"}
    assert [limit.window for limit in constraints.contact_limits] == [
        Window(unit="week", count=1),
        Window(span_ms=7 * DAY_MS),
    ]
    assert constraints.contact_limits[1].scope == Scope(tags=frozenset({"promotion"}))
    assert constraints.budgets[0].window == Window(unit="day", count=1)
    policy = constraints.suppressions[0]
    assert (policy.level, policy.threshold, policy.window_ms, policy.pause_ms) == (
        "action",
        2,
        15 * DAY_MS,
        30 * DAY_MS,
    )


@pytest.mark.parametrize(
    ("written", "window"),
    [
        ("day", Window(unit="day")),
        ("3 days", Window(unit="day", count=3)),
        ("1 hour", Window(unit="hour")),
        ("12 months", Window(unit="month", count=12)),
        ("weeks", Window(unit="week")),
    ],
)
def test_calendar_spans(written: str, window: Window) -> None:
    """Singular and plural, with a number or for one."""
    limits = {"contact_limits": {"x": {"limit": 1, "per": written}}, "purposes": {"service": "none"}}
    assert a_repertoire(constraints=limits).constraints.contact_limits[0].window == window


def test_triggers(shop: Repertoire) -> None:
    """Events, waits, segments and scopes."""
    triggers = {each.id: each for each in shop.triggers}
    cart = triggers["cart-abandoned"]
    assert (cart.events, cart.after_ms, cart.answer_always) == ({"Product Added"}, 30 * MINUTE_MS, False)
    assert cart.unless is not None
    assert cart.unless.test({"signal": {"event": "Order Completed"}})
    assert cart.scope == Scope(groups=frozenset({"offers"}))
    assert triggers["order-placed"].answer_always
    assert triggers["became-unhappy"].entered == "unhappy"


def test_aggregates(shop: Repertoire) -> None:
    """Windows, and filters by name and by condition."""
    aggregates = {each.name: each for each in shop.profile.aggregates}
    assert aggregates["orders_90d"].window == AggregateWindow("sliding", 90 * DAY_MS, 30)
    spent = aggregates["spent"]
    assert spent.where is not None
    assert spent.of is not None
    order = {"signal": {"name": "Order Completed", "properties": {"total": 5}}}
    assert spent.where(order)
    assert spent.of(order) == 5
    assert not spent.where({"signal": {"name": "Product Added", "properties": {"total": 5}}})
    assert not spent.where({"signal": {"name": "Order Completed", "properties": {"total": 0}}})
    assert not spent.where({"signal": {}})


def test_an_aggregate_of_another_wording_is_another(shop: Repertoire) -> None:
    """A state folded under another filter is not read on."""
    profile = copy.deepcopy(CONFIG["profile"])
    profile["aggregates"]["orders_90d"]["events"] = ["Product Added"]
    before = next(each for each in shop.profile.aggregates if each.name == "orders_90d")
    after = next(each for each in a_repertoire(profile=profile).profile.aggregates if each.name == "orders_90d")
    assert before.tag != after.tag


@pytest.mark.parametrize(
    ("value", "is_blocked"),
    [("000-000", True), ("-1", True), ("NULL", True), ("Anonymous", True), ("test", True), ("fake-7", True),
     ("tester", False), ("a-fake-7", False), ("annie", False), ("10", False)],
)  # fmt: skip
def test_blocked_identifiers(value: str, is_blocked: bool) -> None:
    """The built-in values, exact ones and regular expressions; nothing else."""
    profile = {**CONFIG["profile"], "identifiers": {"blocked": ["test", "/^fake-/"]}}
    identity = a_repertoire(profile=profile).identity
    assert any(pattern.search(value) for pattern in identity.blocked) is is_blocked


def test_identifiers_have_priorities_and_limits(shop: Repertoire) -> None:
    """One user id for ever, then e-mail, then anonymous ids; unless the configuration says otherwise."""
    assert [(each.kind, each.limit, each.window_ms) for each in shop.identity.kinds] == [
        ("userId", 1, None),
        ("email", 5, None),
        ("anonymousId", 5, None),
    ]
    priority = [{"kind": "userId", "limit": 1}, {"kind": "crm", "limit": 2, "window": "7d"}]
    kinds = a_repertoire(profile={**CONFIG["profile"], "identifiers": {"priority": priority}}).identity.kinds
    assert [(each.kind, each.limit, each.window_ms) for each in kinds] == [
        ("userId", 1, None),
        ("crm", 2, 7 * DAY_MS),
    ]


def test_arbitration() -> None:
    """Factors, formula, weights, influencers and chance."""
    written = {
        **CONFIG["arbitration"],
        "factors": {"lever": False},
        "formula": "propensity * value + (1 if 'promotion' in action.tags else 0)",
        "influencers": {"later": {"outcome": "dismiss", "start": -50, "end": 20, "steps": 5, "period": "10d"}},
        "contenders": 0,
    }
    arbitration = a_repertoire(arbitration=written).arbitration
    assert (arbitration.propensity, arbitration.lever, arbitration.contenders) == (True, False, 0)
    assert arbitration.exploration == Exploration(epsilon=0.1)
    assert arbitration.formula is not None
    scope = {"propensity": 0.5, "value": 4.0, "action": {"tags": frozenset({"promotion"})}}
    assert arbitration.formula.value(scope) == 3
    assert (arbitration.context_weights[0].weight, arbitration.context_weights[0].scope) == (
        50,
        Scope(issues=frozenset({"care"})),
    )
    influencer = arbitration.influencers[0]
    assert (influencer.start, influencer.end, influencer.steps, influencer.period_ms) == (-50, 20, 5, 10 * DAY_MS)
    assert influencer.target == influencer.source


def test_experiments() -> None:
    """Arms in order, salts by id, rankings of their own; buckets of the holdout as parts of one."""
    arms = {"b": {"weight": 3, "arbitration": {"exploration": {"epsilon": 0.5}}}, "a": {"only": ["newsletter"]}}
    compiled = a_repertoire(experiments={"experiments": {"t": {"arms": arms}}, "holdout": {"from": 5, "to": 10}})
    (experiment,) = compiled.experiments
    assert (experiment.salt, [arm.id for arm in experiment.arms], [arm.weight for arm in experiment.arms]) == (
        "t",
        ["a", "b"],
        [1, 3],
    )
    assert experiment.arms[0].only == {"newsletter"}
    assert experiment.arms[0].arbitration is None
    assert experiment.arms[1].arbitration is not None
    assert experiment.arms[1].arbitration.exploration == Exploration(epsilon=0.5)
    assert compiled.holdout is not None
    assert (compiled.holdout.low, compiled.holdout.high, compiled.holdout.exempt) == (
        0.05,
        0.1,
        {"mandatory", "transactional"},
    )


def test_undeclared_names_are_open() -> None:
    """Without declared traits and events any may be used."""
    segments = {
        "a": {"when": "profile.anything > 1 and last['Any Event'].properties.x == 1"},
        "loyal": {"when": "age_ms.anything < 5"},
        "unhappy": {"when": "true"},
    }
    segment = a_repertoire(profile=None, segments={"segments": segments}).profile.segments[0]
    assert segment.when.test({"profile": {"anything": 2}, "last": {"Any Event": {"properties": {"x": 1}}}})


def test_the_zone_and_country_traits_need_no_declaration() -> None:
    """They are known by being named."""
    profile = {**CONFIG["profile"], "timezone_trait": "tz"}
    segments = {**CONFIG["segments"]["segments"], "there": {"when": "profile.tz == 'UTC' and profile.country == 'ES'"}}
    assert a_repertoire(profile=profile, segments={"segments": segments}).profile.timezone_trait == "tz"
