"""What the registry routes say, and exports as the official client's own types take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.fine_tuning import job_create_params
from openai.types.graders import PythonGrader, ScoreModelGrader, StringCheckGrader
from pydantic import TypeAdapter

from graders.ports import Ports
from service.app import create_app
from tests.api.world import CODED, DEFINITIONS, EXACT, JUDGED, calling, settings

EXPORT = "/v1/graders/{}/versions/1/export"
JOB = {"form": "job", "model": "o4-mini-2025-04-16", "training_file": "file-1"}
JOB |= {"validation_file": "file-2"}


class TestRoutes:
    async def test_graders_are_listed_by_name(self, api: httpx.AsyncClient) -> None:
        answer = (await api.get("/v1/graders")).json()
        assert [grader["name"] for grader in answer["graders"]] == sorted(DEFINITIONS)
        assert answer["graders"][1] == {
            "name": "exact",
            "description": "The whole answer, letter for letter.",
            "type": "string_check",
            "latest": 2,
            "labels": {"stable": 1},
        }

    async def test_one_grader(self, api: httpx.AsyncClient) -> None:
        answer = (await api.get("/v1/graders/exact")).json()
        assert answer["latest"] == 2
        assert answer["labels"] == {"stable": 1}

    async def test_versions_oldest_first(self, api: httpx.AsyncClient) -> None:
        answer = (await api.get("/v1/graders/exact/versions")).json()
        assert answer["grader"] == "exact"
        assert [version["version"] for version in answer["versions"]] == [1, 2]
        assert [version["labels"] for version in answer["versions"]] == [["stable"], []]
        assert len({version["digest"] for version in answer["versions"]}) == 2

    @pytest.mark.parametrize(("asked", "version"), [("1", 1), ("stable", 1), ("latest", 2)])
    async def test_a_version_is_given_as_stored(
        self, api: httpx.AsyncClient, definitions: Path, asked: str, version: int
    ) -> None:
        response = await api.get(f"/v1/graders/exact/versions/{asked}")
        answer = response.json()
        stored = definitions / "exact" / f"{version}.json"
        assert answer["version"] == version
        assert answer["definition"] == json.loads(read(stored))
        assert read(stored) in response.text
        assert answer["examples"][0]["reward"] == 1.0
        assert answer["signature"].startswith(f"exact@{version}|{answer['digest']}")
        assert (answer["pass_threshold"], answer["threshold_source"]) == (1.0, "default")
        assert response.headers["etag"] == f'"{answer["digest"]}"'

    async def test_a_stated_threshold_is_said_to_be_the_definitions(
        self, api: httpx.AsyncClient
    ) -> None:
        answer = (await api.get("/v1/graders/overlap/versions/1")).json()
        assert (answer["pass_threshold"], answer["threshold_source"]) == (0.75, "definition")

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/graders/nobody",
            "/v1/graders/nobody/versions",
            "/v1/graders/nobody/versions/1",
            "/v1/graders/exact/versions/9",
            "/v1/graders/exact/versions/nightly",
            "/v1/graders/exact/versions/9/export",
            "/v1/graders/../exact",
            "/v1/graders/%2e%2e/versions/1",
            "/v1/graders/é",
        ],
    )
    async def test_what_is_not_there_is_404(self, api: httpx.AsyncClient, path: str) -> None:
        response = await api.get(path)
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"


class TestExport:
    @pytest.mark.parametrize("name", [name for name in DEFINITIONS if name != "meaning"])
    @pytest.mark.parametrize("target", ["openai", "azure"])
    async def test_the_bare_grader_carries_digest_and_etag(
        self, api: httpx.AsyncClient, name: str, target: str
    ) -> None:
        response = await api.get(EXPORT.format(name), params={"target": target})
        answer = response.json()
        assert response.status_code == 200
        assert answer["body"]["type"] == DEFINITIONS[name][0]["type"]
        assert answer["body"]["name"] == name or name in {"overlap", "meaning"}
        assert (answer["target"], answer["form"]) == (target, "grader")
        assert response.headers["etag"] == f'"{answer["digest"]}"'

    @pytest.mark.parametrize(
        ("name", "model"),
        [
            ("exact", StringCheckGrader),
            ("judged", ScoreModelGrader),
            ("coded", PythonGrader),
        ],
    )
    async def test_the_bare_grader_is_one_of_the_clients_types(
        self, api: httpx.AsyncClient, name: str, model: Any
    ) -> None:
        answer = (await api.get(EXPORT.format(name))).json()
        model.model_validate(answer["body"], strict=True)

    async def test_a_multi_is_a_map_of_the_clients_types(self, api: httpx.AsyncClient) -> None:
        """The client's own ``MultiGrader`` wants a single grader there, which no server takes."""
        body = (await api.get(EXPORT.format("mixed"))).json()["body"]
        assert list(body) == ["type", "name", "graders", "calculate_output"]
        StringCheckGrader.model_validate(body["graders"]["same"], strict=True)
        ScoreModelGrader.model_validate(body["graders"]["judged"], strict=True)

    @pytest.mark.parametrize("target", ["openai", "azure"])
    @pytest.mark.parametrize("grader", [EXACT, JUDGED, CODED], ids=lambda grader: grader["name"])
    async def test_a_job_is_one_of_the_clients_types(
        self, api: httpx.AsyncClient, grader: dict[str, Any], target: str
    ) -> None:
        wanted: dict[str, Any] = {"n_epochs": 2, "reasoning_effort": "low", "batch_size": "auto"}
        params: dict[str, Any] = {
            **JOB,
            "target": target,
            "suffix": "mine",
            "seed": 7,
            "hyperparameters": json.dumps(wanted),
        }
        answer = (await api.get(EXPORT.format(grader["name"]), params=params)).json()
        body = answer["body"]
        assert body["method"]["type"] == "reinforcement"
        assert body["method"]["reinforcement"]["grader"] == grader
        assert body["method"]["reinforcement"]["hyperparameters"] == wanted
        assert (body["suffix"], body["seed"]) == ("mine", 7)
        assert body["metadata"]["digest"] == answer["digest"]
        assert body["metadata"]["gradekeeper"] == f"{grader['name']}@1"
        TypeAdapter(job_create_params.JobCreateParams).validate_python(body)

    async def test_a_job_without_extras_leaves_them_out(self, api: httpx.AsyncClient) -> None:
        body = (await api.get(EXPORT.format("exact"), params=JOB)).json()["body"]
        assert set(body) == {"model", "training_file", "validation_file", "method", "metadata"}
        assert "hyperparameters" not in body["method"]["reinforcement"]

    async def test_evals_criteria(self, api: httpx.AsyncClient) -> None:
        answer = (await api.get(EXPORT.format("overlap"), params={"form": "evals"})).json()
        (criterion,) = answer["body"]["testing_criteria"]
        assert criterion["evaluation_metric"] == "rouge_l"
        assert criterion["pass_threshold"] == 0.75

    async def test_what_is_left_out_is_listed(self, api: httpx.AsyncClient) -> None:
        answer = (await api.get(EXPORT.format("overlap"))).json()
        assert "pass_threshold" not in answer["body"]
        assert [finding["pointer"] for finding in answer["left_out"]] == ["/pass_threshold"]

    async def test_hidden_headers_are_said_to_be_hidden(self, tmp_path: Path) -> None:
        headers = {"authorization": "Bearer s3cret"}
        call = {"type": "endpoint", "name": "call", "url": "https://a.test", "headers": headers}
        (tmp_path / "call").mkdir()
        (tmp_path / "call" / "1.json").write_text(json.dumps(call))
        async with calling(create_app(settings(tmp_path), ports=Ports())) as client:
            answer = (await client.get(EXPORT.format("call"))).json()
        assert answer["body"]["headers"] == {"authorization": "**********"}
        assert answer["left_out"][-1]["code"] == "hidden_headers"

    @pytest.mark.parametrize(
        ("name", "params", "detail"),
        [
            pytest.param("meaning", {}, "cosine", id="cosine in a job"),
            pytest.param("parts", {"form": "evals"}, "no multi", id="multi in Evals"),
            pytest.param("exact", {"form": "job"}, "model and files", id="job without files"),
            pytest.param("exact", {**JOB, "model": None}, "model and files", id="no model"),
        ],
    )
    async def test_what_the_target_cannot_take_is_422(
        self, api: httpx.AsyncClient, name: str, params: dict[str, Any], detail: str
    ) -> None:
        given = {key: value for key, value in params.items() if value is not None}
        response = await api.get(EXPORT.format(name), params=given)
        assert response.status_code == 422
        assert response.json()["type"] == "urn:gradekeeper:problem:not-exportable"
        assert detail in response.json()["detail"]

    @pytest.mark.parametrize(
        "hyperparameters",
        [
            "{",
            "[]",
            '{"n_epochs": "many"}',
            '{"n_epoch": 2}',
            '{"reasoning_effort": "utmost"}',
            '{"x": ' + "[" * 3_000 + "]" * 3_000 + "}",
            '{"n_epochs": 1e999}',
            "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
        ],
        ids=["cut off", "array", "type", "misspelt", "value", "deep", "overflow", "no text"],
    )
    async def test_bad_hyperparameters_are_400(
        self, api: httpx.AsyncClient, hyperparameters: str
    ) -> None:
        params = {**JOB, "hyperparameters": hyperparameters}
        response = await api.get(EXPORT.format("exact"), params=params)
        assert response.status_code == 400
        assert response.json()["detail"].startswith("hyperparameters: ")

    @pytest.mark.parametrize(
        ("params", "pointer"),
        [
            ({"target": "elsewhere"}, "/target"),
            ({"form": "letter"}, "/form"),
            ({"seed": "seven"}, "/seed"),
            ({"seed": "1.5"}, "/seed"),
        ],
    )
    async def test_bad_parameters_are_400_and_named(
        self, api: httpx.AsyncClient, params: dict[str, str], pointer: str
    ) -> None:
        response = await api.get(EXPORT.format("exact"), params=params)
        problem = response.json()
        assert response.status_code == 400
        assert [finding["pointer"] for finding in problem["errors"]] == [pointer]
        assert problem["detail"].startswith(f"{pointer[1:]}: ")


def read(file: Path) -> str:
    return file.read_text()
