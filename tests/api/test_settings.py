"""Settings from the environment, and the documents written from them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from service.configuration import document
from service.settings import SECRETS, Settings, SettingsError

CONFIGURATION = Path(__file__).parents[2] / "CONFIGURATION.md"


def test_nothing_set_is_the_defaults() -> None:
    assert Settings.from_environment({"PATH": "/bin", "HOME": "/"}) == Settings()


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("GRADEKEEPER_PORT", "9000", "port", 9000),
        ("GRADEKEEPER_PORT", " 9000 ", "port", 9000),
        ("GRADEKEEPER_HOST", "::1", "host", "::1"),
        ("GRADEKEEPER_RELOAD_DEFINITIONS_S", "0.5", "reload_definitions_s", 0.5),
        ("GRADEKEEPER_RESPONSE_PROFILE", "schema", "response_profile", "schema"),
        ("GRADEKEEPER_ALLOW_UNAUTHENTICATED", "true", "allow_unauthenticated", True),
        ("GRADEKEEPER_ALLOW_UNAUTHENTICATED", "YES", "allow_unauthenticated", True),
        ("GRADEKEEPER_ACCESS_LOG", "off", "access_log", False),
        ("GRADEKEEPER_ACCESS_LOG", "0", "access_log", False),
        ("GRADEKEEPER_API_KEY", "gk-1", "api_key", "gk-1"),
        ("GRADEKEEPER_API_KEY", "yes", "api_key", "yes"),
        ("GRADEKEEPER_API_KEY", "No", "api_key", "No"),
        ("GRADEKEEPER_API_KEY", "12", "api_key", "12"),
    ],
)
def test_a_variable_sets_its_field(
    variable: str, text: str, field: str, value: str | float | bool
) -> None:
    assert getattr(Settings.from_environment({variable: text}), field) == value


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("GRADEKEEPER_PORT", "http", "GRADEKEEPER_PORT: Expected `int`, got 'http'"),
        ("GRADEKEEPER_PORT", "70000", "GRADEKEEPER_PORT: Expected `int` <= 65535, got '70000'"),
        ("GRADEKEEPER_WORKERS", "0", "GRADEKEEPER_WORKERS: Expected `int` >= 1"),
        ("GRADEKEEPER_ACCESS_LOG", "perhaps", "GRADEKEEPER_ACCESS_LOG: Expected `bool`"),
        ("GRADEKEEPER_LOG_LEVEL", "loud", "GRADEKEEPER_LOG_LEVEL: Invalid enum value 'loud'"),
        ("GRADEKEEPER_MAX_BATCH_ROWS", "", "GRADEKEEPER_MAX_BATCH_ROWS: Expected `int`"),
        ("GRADEKEEPER_RELOAD_DEFINITIONS_S", "nan", "GRADEKEEPER_RELOAD_DEFINITIONS_S"),
        ("GRADEKEEPER_RELOAD_DEFINITIONS_S", "inf", "GRADEKEEPER_RELOAD_DEFINITIONS_S"),
        ("GRADEKEEPER_MAX_BODY_SIZE", "1", "did you mean GRADEKEEPER_MAX_BODY_BYTES?"),
        ("GRADEKEEPER_PROT", "1", "did you mean GRADEKEEPER_PORT?"),
        ("GRADEKEEPER_REDIS_PREFIX", "a{b}", "GRADEKEEPER_REDIS_PREFIX: Expected `str` matching"),
        ("GRADEKEEPER_REDIS_PREFIX", "", "GRADEKEEPER_REDIS_PREFIX: Expected `str` matching"),
        ("GRADEKEEPER_ZZZZZZ", "1", "GRADEKEEPER_ZZZZZZ is no setting of gradekeeper"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(variable: str, text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({variable: text})
    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]


def test_all_of_them_are_named_at_once() -> None:
    environment = {"GRADEKEEPER_PORT": "x", "GRADEKEEPER_WORKERS": "0", "GRADEKEEPER_NOTHING": ""}
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(environment)
    assert len(caught.value.problems) == 3
    assert all(name in str(caught.value) for name in environment)


def test_a_secret_that_cannot_be_used_is_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({"GRADEKEEPER_API_KEYS": "gk-secret-1"})
    assert "gk-secret-1" not in str(caught.value)


@pytest.mark.parametrize("variable", ["GRADEKEEPER_NOTHING", "GRADEKEEPER_TIMEOUT"])
def test_only_a_close_name_is_suggested(variable: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({variable: "1"})
    assert caught.value.problems == (f"{variable} is no setting of gradekeeper",)


def test_a_value_is_shown_once_and_not_whole() -> None:
    environment = {"GRADEKEEPER_LOG_LEVEL": "loud", "GRADEKEEPER_PORT": "q" * 1000}
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(environment)
    level, port = caught.value.problems
    assert level.count("loud") == 1
    assert port.count("q") == 100


def test_secrets_are_masked() -> None:
    shown = Settings(api_key="gk-secret-1").masked()
    assert shown["api_key"] == "***"
    assert Settings().masked()["api_key"] == ""
    assert "gk-secret-1" not in str(shown)
    assert set(shown) == set(Settings.__struct_fields__)
    assert set(shown) >= SECRETS


def test_the_processes_own_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GRADEKEEPER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GRADEKEEPER_PORT", "1234")
    assert Settings.from_environment().port == 1234


def test_configuration_md_is_what_the_settings_say() -> None:
    """Written by ``gradekeeper settings --markdown > CONFIGURATION.md``."""
    assert CONFIGURATION.read_text() == document()


def test_every_setting_is_documented_with_its_default() -> None:
    text = document()
    for field in msgspec.structs.fields(Settings):
        (line,) = [
            line
            for line in text.splitlines()
            if line.startswith(f"| `GRADEKEEPER_{field.name.upper()}` |")
        ]
        _, _, default, values, sentence, _ = line.split("|")
        assert values.strip()
        assert sentence.strip().endswith((".", ")"))
        if field.default != "":
            assert default.strip().strip("`").lower() == str(field.default).lower()
