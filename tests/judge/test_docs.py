"""The examples of docs/judges.md are ones that work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import msgspec
import pytest

from service.adapters import _budgets
from service.cli import _parser
from service.judge import load_routes
from service.judge.routes import Route
from service.settings import Settings
from service.wire import SampledRequest

TEXT = (Path(__file__).parents[2] / "docs" / "judges.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^gradekeeper (.*)$", TEXT, re.MULTILINE)


def example(kind: str) -> str:
    (found,) = re.findall(rf"```json {kind}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


def test_routes_are_routes(tmp_path: Path) -> None:
    file = tmp_path / "routes.json"
    file.write_text(example("routes"))
    routes = load_routes(file, {"OPENAI_API_KEY": "k"})
    names = {
        model: target.route.name
        for model in ("gpt-4o-2024-08-06", "text-embedding-3-large", "anything")
        if (target := routes.target(model))
    }
    assert list(names.values()) == ["openai", "embeddings", "local"]


def test_every_field_of_a_route_is_listed_with_its_default() -> None:
    (section,) = re.findall(r"^## Routes\n(.*?)^## ", TEXT, re.DOTALL | re.MULTILINE)
    listed = re.findall(r"^\| `(\w+)` \| `?(.*?)`? \|", section, re.MULTILINE)
    assert listed == [
        (field.name, "required" if field.required else msgspec.json.encode(field.default).decode())
        for field in msgspec.structs.fields(Route)
    ]


def test_budgets_are_budgets(tmp_path: Path) -> None:
    file = tmp_path / "budgets.json"
    file.write_text(example("budgets"))
    assert len(_budgets(str(file)).budgets) == 3


def test_sampling_is_a_request() -> None:
    request = msgspec.json.decode(example("sampling"), type=SampledRequest)
    assert request.sampling is not None
    assert request.sampling.draws == 6


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    assert _parser().parse_args(shlex.split(command)).run


def test_variables_are_settings() -> None:
    variables = set(re.findall(r"GRADEKEEPER_([A-Z_]+)", TEXT))
    assert {name.lower() for name in variables} <= set(Settings.__struct_fields__)
