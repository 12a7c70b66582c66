"""Settings come from one place each, and everything wrong with them is said at once."""

from __future__ import annotations

import msgspec
import pytest

from agents.settings import InvalidSettings, Settings, read_settings


def test_arguments_come_before_the_environment_before_defaults():
    """What is given wins over a variable, a variable over the default; empty variables do not count."""
    environ = {"BATUTA_BOOTSTRAP": "kafka:9092", "BATUTA_PARTITIONS": "16", "BATUTA_GROUP": " ", "OTHER": "1"}
    settings = read_settings(environ, partitions=4, prefix=None)
    assert (settings.bootstrap, settings.partitions) == ("kafka:9092", 4)
    assert (settings.group, settings.prefix) == (Settings().group, Settings().prefix)


def test_every_fault_is_named():
    """Each wrong value is named with its source, the value seen and what is expected."""
    environ = {"BATUTA_PARTITIONS": "0", "BATUTA_IDEMPOTENT": "perhaps"}
    with pytest.raises(InvalidSettings) as caught:
        read_settings(environ, web_port=70_000)
    for part in ("BATUTA_PARTITIONS is '0'", "BATUTA_IDEMPOTENT is 'perhaps'", "web_port is 70000", "<= 65535"):
        assert part in str(caught.value)


def test_transactions_need_idempotent_producers():
    """What the broker would refuse is said before it is asked."""
    with pytest.raises(InvalidSettings, match="guarantee is exactly_once, but idempotent is false"):
        read_settings({"BATUTA_GUARANTEE": "exactly_once"}, idempotent=False)


def test_heartbeats_must_fit_into_a_session():
    """A session that ends before a second heartbeat would be given up for nothing."""
    with pytest.raises(InvalidSettings, match=r"heartbeat_seconds is 1\.5; expected at most half"):
        read_settings({"BATUTA_SESSION_TIMEOUT_SECONDS": "2"})


def test_unknown_argument_is_a_bug():
    """An argument that is no setting is a mistake in the code."""
    with pytest.raises(TypeError, match="no such settings: colour"):
        read_settings({}, colour="red")


def test_every_setting_says_what_it_is():
    """Each setting carries the sentence its reference is made from, and its default passes its own check."""
    properties = msgspec.json.schema(Settings)["$defs"]["Settings"]["properties"]
    for field in msgspec.structs.fields(Settings):
        assert properties[field.name]["description"]
        assert msgspec.convert(field.default, field.type) == field.default


def test_the_key_is_shown_nowhere():
    """Neither what is printed of the settings nor a complaint about a short key contains it."""
    settings = read_settings({"BATUTA_MODEL_KEY": "correct horse battery staple"})
    assert settings.signing_key == b"correct horse battery staple"
    assert "horse" not in f"{settings!r} {settings}"
    with pytest.raises(InvalidSettings, match="model_key has 5 characters; expected 16 or more") as caught:
        read_settings({"BATUTA_MODEL_KEY": "horse"})
    assert "horse" not in str(caught.value)


def test_settings_pass_through_an_environment():
    """Another process that is given them as variables has the same settings."""
    settings = read_settings({}, group="g", idempotent=False, learner=False, model_key="correct horse battery staple")
    assert read_settings(settings.environment()) == settings
    assert Settings().signing_key is None


def test_a_local_store_needs_a_place():
    """State on a disk nobody named would be lost where nobody looks for it."""
    with pytest.raises(InvalidSettings, match="store is rocksdb, but state_dir is not set"):
        read_settings({"BATUTA_STORE": "rocksdb"})
    with pytest.raises(InvalidSettings, match="BATUTA_STORE is 'redis'"):
        read_settings({"BATUTA_STORE": "redis"})
    assert read_settings({"BATUTA_STORE": "rocksdb", "BATUTA_STATE_DIR": "/state"}).state_dir == "/state"
