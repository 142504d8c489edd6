"""Routes: from a file, from two environment values, or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graders.grade import TokenUsage
from service.judge import Price, RoutesError, load_routes

KEYED = {"name": "a", "models": ["gpt-*"], "api_key_env": "A_KEY"}


def written(folder: Path, document: Any) -> Path:
    path = folder / "routes.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_default_route_reads_what_the_official_client_reads() -> None:
    routes = load_routes(None, {"OPENAI_BASE_URL": "http://h/v1", "OPENAI_API_KEY": "k"})
    target = routes.target("anything")
    assert target is not None
    assert (target.route.base_url, target.api_key, target.model) == ("http://h/v1", "k", "anything")
    only_key = load_routes(None, {"OPENAI_API_KEY": "k"}).target("m")
    assert only_key is not None
    assert only_key.route.base_url == "https://api.openai.com/v1"
    keyless = load_routes(None, {"OPENAI_BASE_URL": "http://h/v1"}).target("m")
    assert keyless is not None
    assert keyless.api_key is None


def test_default_route_needs_a_web_address() -> None:
    with pytest.raises(RoutesError, match="OPENAI_BASE_URL"):
        load_routes(None, {"OPENAI_BASE_URL": "localhost:8000"})


def test_without_either_there_is_no_route() -> None:
    assert load_routes(None, {}).target("m") is None


def test_first_matching_route_wins(tmp_path: Path) -> None:
    document = {
        "routes": [
            KEYED,
            {"name": "b", "models": ["*"], "base_url": "http://b/v1", "upstream_model": "local"},
        ]
    }
    routes = load_routes(written(tmp_path, document), {"A_KEY": "secret"})
    first, second = routes.target("gpt-9"), routes.target("other")
    assert first is not None
    assert second is not None
    assert (first.route.name, first.model, first.api_key) == ("a", "gpt-9", "secret")
    assert (second.route.name, second.model, second.api_key) == ("b", "local", None)
    assert "secret" not in f"{routes!r} {first!r}"


def test_successor_is_named(tmp_path: Path) -> None:
    document = {"routes": [{"name": "a"}], "successors": {"old": "new"}}
    target = load_routes(written(tmp_path, document), {}).target("old")
    assert target is not None
    assert (target.model, target.asked_model, target.successor) == ("new", "old", "new")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "not valid"),
        ({"routes": [{"name": "a", "colour": 1}]}, "unknown field `colour`"),
        ({"routes": [{"name": "a", "concurrency": 0}]}, "concurrency"),
        ({"routes": [{"name": "a"}, {"name": "a"}]}, "same name"),
        ({"routes": [{"name": "a", "base_url": "h"}]}, "starts with http"),
        ({"routes": [KEYED]}, "A_KEY is not set"),
        ({"routes": [KEYED | {"api_key_file": "f"}]}, "keep one"),
        ({"routes": [{"name": "a", "api_key_file": "/nowhere"}]}, "no file"),
        ({"routes": [], "successors": {"a": "b", "b": "c"}}, "successors of successors"),
    ],
)
def test_unusable_file_says_where_and_why(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(RoutesError, match=message):
        load_routes(written(tmp_path, document), {})


@pytest.mark.parametrize("key", ["sk-é-secret", "sk\r\nx-evil: 1", "sk-\x00"])
def test_key_that_no_header_can_carry_stops_the_start(tmp_path: Path, key: str) -> None:
    file = tmp_path / "key"
    file.write_text(key)
    filed = written(tmp_path, {"routes": [{"name": "a", "api_key_file": str(file)}]})
    with pytest.raises(RoutesError, match="api_key_file holds no key") as caught:
        load_routes(filed, {})
    assert "secret" not in str(caught.value)
    with pytest.raises(RoutesError, match="A_KEY holds no key"):
        load_routes(written(tmp_path, {"routes": [KEYED]}), {"A_KEY": key})
    with pytest.raises(RoutesError, match="OPENAI_API_KEY holds no key"):
        load_routes(None, {"OPENAI_API_KEY": key})


@pytest.mark.parametrize("content", [b"", b" \n", b"sk-\xff\xfe"])
def test_key_file_without_a_key_stops_the_start(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(RoutesError, match="api_key_file holds no key"):
        load_routes(written(tmp_path, {"routes": [{"name": "a", "api_key_file": str(file)}]}), {})


def test_space_around_a_key_is_no_part_of_it(tmp_path: Path) -> None:
    routes = load_routes(written(tmp_path, {"routes": [KEYED]}), {"A_KEY": " secret\n"})
    assert routes.api_keys == {"a": "secret"}
    assert load_routes(None, {"OPENAI_API_KEY": "secret\n"}).api_keys == {"default": "secret"}


def test_missing_file_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(RoutesError, match="cannot be read: No such file"):
        load_routes(tmp_path / "none.json", {})


def test_price_is_per_million_with_cached_tokens_apart() -> None:
    usage = TokenUsage(prompt_tokens=1_000_000, cached_tokens=400_000, completion_tokens=1_000)
    price = Price(input=2.0, cached_input=0.5, output=8.0)
    assert price.nanodollars(usage) == round((1.2 + 0.2 + 0.008) * 1e9)
    assert Price(input=2.0).nanodollars(usage) == 2 * 10**9
