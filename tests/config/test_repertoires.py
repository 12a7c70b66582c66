"""The example repertoires: each one loads, carries its cases, and has nothing in it that can never happen."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import config
from config.load import Checked, check_directory
from engine import candidates
from engine.context import Request, context_of
from engine.learning import action_scope, model_of
from engine.profile import Profile
from engine.repertoire import Repertoire
from engine.signal import Signal

EXAMPLES = ("banking", "retail", "travel")
DIRECTORY = Path(config.__file__).parent / "repertoires"
NOW_MS = 1_767_225_600_000
WITHOUT_CASES = {"engine", "constraints", "models"}


@cache
def checked(name: str) -> Checked:
    """What `batuta check` finds, found once."""
    return check_directory(DIRECTORY / name)


def example(name: str) -> Repertoire:
    """A repertoire without faults."""
    repertoire = checked(name).repertoire
    assert repertoire is not None
    return repertoire


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_no_faults_and_its_cases_hold(name: str) -> None:
    """`batuta check` finds nothing to say."""
    assert checked(name).faults == ()
    assert checked(name).cases_run >= 20


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_file_says_what_it_holds_and_every_rule_file_has_cases(name: str) -> None:
    """A reader is told in one line; an author has examples to copy."""
    for path in sorted((DIRECTORY / name).glob("*.yaml")):
        text = path.read_text("utf-8")
        first, second, *_ = text.splitlines()
        assert (first[:2], second[:6]) == ("# ", "kind: "), path
        content = YAML(typ="safe").load(text)
        assert content["kind"] in WITHOUT_CASES or content["cases"], path


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_treatment_can_be_chosen_by_a_trigger_or_a_placement(name: str) -> None:
    """Nothing in an example is decoration; and no trigger or slot is without a choice."""
    repertoire = example(name)
    pools = [candidates.for_trigger(repertoire, each) for each in repertoire.triggers]
    request = Request(None, (), None, None)
    pools += [candidates.for_request(repertoire, request, placement)[0] for placement in repertoire.placements]
    assert all(pools)
    reached = {each.treatment.id for pool in pools for each in pool}
    assert reached == {each.treatment.id for each in repertoire.candidates}
    assert 8 <= len(repertoire.actions) <= 15


@pytest.mark.parametrize("name", EXAMPLES)
def test_models_know_every_offer_and_bear_with_a_stranger(name: str) -> None:
    """Of an offer nothing is ever missing; of somebody nothing is known about, what is missing is told as such."""
    repertoire = example(name)
    for each in repertoire.candidates:
        assert None not in repertoire.action_features.read(action_scope(each.action, each.treatment))
        assert model_of(each, repertoire) is not None
    nobody = Profile(customer_id="c", created_ms=0, seen_ms=0, now_ms=NOW_MS)
    signal = Signal(message_id="m", type="track", time_ms=NOW_MS, event="Decision Requested")
    values = repertoire.features.read(context_of(nobody, signal, repertoire))
    assert 10 <= len(repertoire.features.features) <= 25
    assert len(repertoire.features.vector(values)) == len(repertoire.features.slots) <= 80
    assert None in values


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_needs_no_key(name: str) -> None:
    """No learner in it is pickled, so nothing has to be signed."""
    kinds = {each.kind for model in example(name).models for each in model.learners.values()}
    assert kinds <= {"bayesian-linear", "logistic", "naive-bayes"}


@pytest.mark.parametrize(
    ("name", "file", "right", "wrong"),
    [
        ("retail", "triggers.yaml", "signal.properties.score", "signal.properties.scores"),
        (
            "retail",
            "actions-sales.yaml",
            '["Product Added"].properties.price >=',
            '["Product Added"].properties.prise >=',
        ),
        ("banking", "actions-advice.yaml", "profile.in_arrears", "profile.in_arears"),
        ("banking", "models.yaml", '"surplus" in segments', '"surplusses" in segments'),
        ("travel", "segments.yaml", 'last["Guest Arrived"]', 'last["Guest Arived"]'),
        ("travel", "actions-sales.yaml", '"in-house" in segments', '"inhouse" in segments'),
    ],
)
def test_a_typo_in_a_name_is_found_with_the_name_that_was_meant(
    tmp_path: Path, name: str, file: str, right: str, wrong: str
) -> None:
    """Traits, signals and their properties are declared, so that nothing is silently never true."""
    shutil.copytree(DIRECTORY / name, tmp_path / name)
    path = tmp_path / name / file
    text = path.read_text("utf-8")
    assert right in text
    path.write_text(text.replace(right, wrong, 1), "utf-8")
    faults = check_directory(tmp_path / name).faults
    assert [each.file for each in faults if each.suggestion] == [file]
