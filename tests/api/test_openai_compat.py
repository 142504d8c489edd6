"""``graders/run`` and ``graders/validate`` by the official client, and the recorded vectors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import pytest
from openai.types.fine_tuning.alpha import GraderRunResponse, GraderValidateResponse
from pydantic import BaseModel, ConfigDict, create_model

from graders.errors import JudgeUnavailableError, SandboxUnavailableError
from graders.grade import ErrorFlags, SchemaErrorFlags
from graders.ports import Ports
from service.adapters import find_wordnet
from service.app import create_app
from service.edge import Edge
from tests.api.world import (
    CODED,
    COSINE,
    EXACT,
    JUDGED,
    MIXED,
    PARTS,
    REMOTE,
    Live,
    calling,
    serving,
    settings,
)
from tests.fakes import MODEL, FakeJudge, FakeSandbox, recorded, run_here, verdict

RUN = "/v1/fine_tuning/alpha/graders/run"
VALIDATE = "/v1/fine_tuning/alpha/graders/validate"
PREFIXES = ["/v1", "/openai/v1"]
ITEM = {"answer": "Paris", "question": "capital?"}
VECTORS = Path(__file__).parents[1] / "conformance" / "vectors.jsonl"


def client_of(live: Live, prefix: str = "/v1", key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}{prefix}", api_key=key, max_retries=0, timeout=20)


@pytest.fixture(scope="module")
def service(definitions: Path) -> Iterator[Live]:
    judge = FakeJudge(lambda _: verdict(0.75))
    with serving(settings(definitions), Ports(judge=judge)) as live:
        yield live


class TestOfficialClient:
    @pytest.mark.parametrize("prefix", PREFIXES)
    def test_run_gives_a_typed_answer(self, service: Live, prefix: str) -> None:
        with client_of(service, prefix) as client:
            answer = client.fine_tuning.alpha.graders.run(
                grader=EXACT,  # type: ignore[arg-type] # a plain dict, as most callers have it
                item=ITEM,
                model_sample="Paris",
            )
        assert isinstance(answer, GraderRunResponse)
        assert answer.reward == 1.0
        assert answer.metadata.name == "exact"
        assert answer.metadata.type == "string_check"
        assert answer.metadata.errors.other_error is False
        assert answer.metadata.execution_time >= 0.0
        assert answer.sub_rewards == {}

    @pytest.mark.parametrize("prefix", PREFIXES)
    async def test_the_async_client_works_too(self, service: Live, prefix: str) -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{service.url}{prefix}", api_key="none", max_retries=0
        ) as client:
            answer = await client.fine_tuning.alpha.graders.run(
                grader=MIXED,  # type: ignore[arg-type]
                item=ITEM,
                model_sample="Paris",
            )
            checked = await client.fine_tuning.alpha.graders.validate(
                grader=EXACT  # type: ignore[arg-type]
            )
        assert answer.reward == 0.875
        assert answer.sub_rewards == {"same": 1.0, "judged": 0.75}
        assert answer.metadata.sampled_model_name == MODEL
        assert isinstance(checked, GraderValidateResponse)
        assert checked.grader is not None
        assert checked.grader.name == "exact"

    @pytest.mark.parametrize("prefix", PREFIXES)
    def test_a_bad_grader_raises_bad_request_with_the_place(
        self, service: Live, prefix: str
    ) -> None:
        grader: Any = {**PARTS, "graders": "same"}
        with client_of(service, prefix) as client, pytest.raises(openai.BadRequestError) as caught:
            client.fine_tuning.alpha.graders.validate(grader=grader)
        error = caught.value
        assert error.status_code == 400
        assert error.param == "graders"
        assert error.code == "invalid_type"
        assert error.type == "invalid_request_error"
        assert isinstance(error.body, dict)
        assert error.body["message"].startswith("Invalid type for 'graders': expected an object")

    def test_a_missing_model_sample_raises_bad_request(self, service: Live) -> None:
        without: Any = openai.omit
        with client_of(service) as client, pytest.raises(openai.BadRequestError) as caught:
            client.fine_tuning.alpha.graders.run(
                grader=EXACT,  # type: ignore[arg-type]
                model_sample=without,
            )
        assert "model_sample" in str(caught.value)

    def test_an_unknown_path_raises_not_found(self, service: Live) -> None:
        with client_of(service, "/openai/v1") as client, pytest.raises(openai.NotFoundError) as got:
            client.models.list()
        assert isinstance(got.value.body, dict)
        assert got.value.body["type"] == "invalid_request_error"

    def test_the_clients_errors_carry_the_request_id(self, service: Live) -> None:
        grader: Any = {"type": "nothing"}
        with client_of(service) as client, pytest.raises(openai.BadRequestError) as caught:
            client.fine_tuning.alpha.graders.validate(grader=grader)
        assert caught.value.request_id

    def test_azure_client_with_its_own_key_header(self, definitions: Path) -> None:
        app_settings = settings(definitions, api_key="azure-secret")
        with serving(app_settings) as live:
            with openai.AzureOpenAI(
                base_url=f"{live.url}/openai/v1",
                api_key="azure-secret",
                api_version="preview",
                max_retries=0,
            ) as client:
                answer = client.fine_tuning.alpha.graders.run(
                    grader=EXACT,  # type: ignore[arg-type]
                    item=ITEM,
                    model_sample="Paris",
                )
            assert answer.reward == 1.0
            with client_of(live, key="wrong") as other, pytest.raises(openai.AuthenticationError):
                other.fine_tuning.alpha.graders.validate(grader=EXACT)  # type: ignore[arg-type]


def strict(model: type[BaseModel]) -> type[BaseModel]:
    """Return the client's model with every field, at every depth, strict and nothing besides."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = strict(kind)
        fields[name] = (kind, field)
    config = ConfigDict(strict=True, extra="forbid", populate_by_name=True)
    return create_model(model.__name__, __config__=config, **fields)


class TestProfiles:
    @pytest.mark.parametrize("grader", [EXACT, JUDGED, MIXED, CODED], ids=lambda g: g["type"])
    async def test_profile_schema_satisfies_the_published_model_strictly(
        self, definitions: Path, ports: Ports, grader: dict[str, Any]
    ) -> None:
        app = create_app(settings(definitions, response_profile="schema"), ports=ports)
        body = {"grader": grader, "item": ITEM, "model_sample": "Paris"}
        async with calling(app) as client:
            answer = (await client.post(RUN, json=body)).content
        strict(GraderRunResponse).model_validate_json(answer, strict=True)
        GraderRunResponse.model_validate(json.loads(answer))
        errors = json.loads(answer)["metadata"]["errors"]
        assert list(errors) == list(SchemaErrorFlags.__struct_fields__)
        assert len(errors) == 14

    async def test_profile_schema_totals_the_tokens(self, definitions: Path, ports: Ports) -> None:
        app = create_app(settings(definitions, response_profile="schema"), ports=ports)
        body = {"grader": JUDGED, "item": ITEM, "model_sample": "Paris"}
        async with calling(app) as client:
            answer = (await client.post(RUN, json=body)).json()
        assert answer["metadata"]["token_usage"] == 120

    async def test_profile_schema_raises_other_error_for_flags_it_lacks(
        self, definitions: Path
    ) -> None:
        cut = FakeJudge(lambda _: recorded({"finish_reason": "length", "content": "{"}))
        app = create_app(settings(definitions, response_profile="schema"), ports=Ports(judge=cut))
        body = {"grader": JUDGED, "item": ITEM, "model_sample": "x"}
        async with calling(app) as client:
            errors = (await client.post(RUN, json=body)).json()["metadata"]["errors"]
        assert [name for name, value in errors.items() if value is True] == ["other_error"]

    async def test_profile_live_is_the_recorded_shape(self, api: httpx.AsyncClient) -> None:
        body = {"grader": JUDGED, "item": ITEM, "model_sample": "Paris"}
        answer = (await api.post(RUN, json=body)).json()
        usage = {
            "prompt_tokens": 100,
            "total_tokens": 120,
            "completion_tokens": 20,
            "cached_tokens": 5,
        }
        assert list(answer) == [
            "reward",
            "metadata",
            "sub_rewards",
            "model_grader_token_usage_per_model",
        ]
        assert list(answer["metadata"]) == [
            *("name", "type", "errors", "execution_time", "scores", "token_usage"),
            "sampled_model_name",
        ]
        assert list(answer["metadata"]["errors"]) == list(ErrorFlags.__struct_fields__)
        assert len(answer["metadata"]["errors"]) == 24
        assert answer["metadata"]["token_usage"] == usage
        assert answer["metadata"]["scores"] == {}
        assert answer["model_grader_token_usage_per_model"] == {MODEL: usage}

    async def test_profile_live_without_a_judge_has_no_usage(self, api: httpx.AsyncClient) -> None:
        body = {"grader": EXACT, "item": ITEM, "model_sample": "Paris"}
        answer = (await api.post(RUN, json=body)).json()
        assert answer["metadata"]["token_usage"] is None
        assert answer["metadata"]["sampled_model_name"] is None
        assert answer["model_grader_token_usage_per_model"] == {}


class TestNames:
    @pytest.mark.parametrize("path", [RUN, VALIDATE])
    async def test_a_nameless_grader_gets_a_name_as_hosted(
        self, api: httpx.AsyncClient, path: str
    ) -> None:
        grader = {key: value for key, value in EXACT.items() if key != "name"}
        body = {"grader": grader, "item": ITEM} | ({"model_sample": "x"} if path == RUN else {})
        answers = [(await api.post(path, json=body)).json() for _ in range(2)]
        names = {(answer.get("grader") or answer.get("metadata"))["name"] for answer in answers}
        assert len(names) == 2
        assert all(re.fullmatch(r"grader-[A-Za-z0-9]{12}", name) for name in names)

    async def test_validate_gives_the_posted_grader_back(self, api: httpx.AsyncClient) -> None:
        answer = await api.post(VALIDATE, json={"grader": PARTS})
        assert answer.json() == {"grader": PARTS}

    async def test_further_fields_are_taken_and_unused(self, api: httpx.AsyncClient) -> None:
        body = {"grader": EXACT, "item": ITEM, "model_sample": "Paris", "trace_id": "t-1"}
        assert (await api.post(RUN, json=body)).json()["reward"] == 1.0

    @pytest.mark.parametrize("item", [{}, {"item": None}], ids=["absent", "null"])
    async def test_the_item_is_optional(
        self, api: httpx.AsyncClient, item: dict[str, None]
    ) -> None:
        grader = {**EXACT, "reference": "fixed"}
        body = {"grader": grader, "model_sample": "fixed", **item}
        assert (await api.post(RUN, json=body)).json()["reward"] == 1.0


class TestFailures:
    @pytest.mark.parametrize(
        ("grader", "flag"),
        [
            pytest.param(JUDGED, "model_grader_server_error", id="judge"),
            pytest.param(CODED, "python_grader_server_error", id="sandbox"),
            pytest.param(REMOTE, "endpoint_grader_server_error", id="endpoint"),
        ],
    )
    async def test_a_missing_port_is_reward_zero_and_a_server_error(
        self, bare: httpx.AsyncClient, grader: dict[str, Any], flag: str
    ) -> None:
        body = {"grader": grader, "item": ITEM, "model_sample": "Paris"}
        answer = await bare.post(RUN, json=body)
        assert answer.status_code == 200
        assert answer.json()["reward"] == 0.0
        assert true_flags(answer.json()) == [flag]

    async def test_the_kind_of_a_sandbox_error_is_told(self, bare: httpx.AsyncClient) -> None:
        body = {"grader": CODED, "item": ITEM, "model_sample": "Paris"}
        errors = (await bare.post(RUN, json=body)).json()["metadata"]["errors"]
        assert errors["python_grader_server_error_type"] == "not_available"

    async def test_a_failed_part_counts_zero_and_raises_its_flag(self, definitions: Path) -> None:
        judge = FakeJudge(lambda _: JudgeUnavailableError("the judge answered 500"))
        app = create_app(settings(definitions), ports=Ports(judge=judge))
        body = {"grader": MIXED, "item": ITEM, "model_sample": "Paris"}
        async with calling(app) as client:
            answer = (await client.post(RUN, json=body)).json()
        assert answer["reward"] == 0.5
        assert answer["sub_rewards"] == {"same": 1.0, "judged": 0.0}
        assert true_flags(answer) == ["model_grader_server_error"]
        details = answer["metadata"]["errors"]["model_grader_server_error_details"]
        assert details == "the judge answered 500"

    @pytest.mark.parametrize("path", [RUN, VALIDATE])
    async def test_cosine_is_refused_as_hosted(self, api: httpx.AsyncClient, path: str) -> None:
        body = {"grader": COSINE, "item": ITEM, "model_sample": "x"}
        answer = await api.post(path, json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "evaluation_metric"

    async def test_every_finding_stands_in_the_message(self, api: httpx.AsyncClient) -> None:
        grader = {"type": "string_check", "operation": "is", "input": "{{nothing}}"}
        error = (await api.post(VALIDATE, json={"grader": grader})).json()["error"]
        assert error["param"] == "operation"
        assert "'operation'" in error["message"]
        assert "'reference'" in error["message"]

    @pytest.mark.parametrize("path", [RUN, VALIDATE])
    async def test_the_same_bad_grader_is_refused_every_time(
        self, api: httpx.AsyncClient, path: str
    ) -> None:
        body = {"grader": {**EXACT, "operation": "is"}, "model_sample": "x"}
        answers = [await api.post(path, json=body) for _ in range(3)]
        assert {answer.status_code for answer in answers} == {400}
        assert len({answer.text for answer in answers}) == 1


class TestCompiledGraders:
    async def test_a_run_uses_the_compiled_grader_of_the_last_one(self, definitions: Path) -> None:
        app = create_app(settings(definitions, run_cache_entries=1))
        async with calling(app) as client:
            for answer, reward in (("Paris", 1.0), ("Rome", 0.0)):
                for grader in (EXACT, ROUGE_OF_NOTHING, EXACT):
                    body = {"grader": grader, "item": {"answer": answer}, "model_sample": "Paris"}
                    assert (await client.post(RUN, json=body)).json()["reward"] == reward

    @pytest.mark.parametrize("entries", [0, 1, 256])
    async def test_equal_text_for_validate_and_run_stays_apart(
        self, definitions: Path, entries: int
    ) -> None:
        """A source that does not compile is 400 at validate and a flag at run (spec §9.9)."""
        app = create_app(settings(definitions, run_cache_entries=entries))
        body = {"grader": {**CODED, "source": "def grade(:"}, "item": ITEM, "model_sample": "x"}
        async with calling(app) as client:
            for _ in range(2):
                assert (await client.post(RUN, json=body)).status_code == 200
                assert (await client.post(VALIDATE, json=body)).status_code == 400


ROUGE_OF_NOTHING = {**EXACT, "name": "again"}


def true_flags(answer: dict[str, Any]) -> list[str]:
    errors = answer["metadata"]["errors"]
    return sorted(name for name, value in errors.items() if value is True)


def vectors() -> list[Any]:
    """Return every vector of the two routes."""
    read = [json.loads(line) for line in VECTORS.read_text().splitlines()]
    return [
        pytest.param(vector, id=vector["id"])
        for vector in read
        if vector["call"] in {"run", "validate"}
    ]


class Replay(NamedTuple):
    app: Edge
    judge: FakeJudge
    sandbox: FakeSandbox


@pytest.fixture(scope="module")
def replay(definitions: Path) -> Replay:
    judge, sandbox = FakeJudge(lambda _: verdict(0.0)), FakeSandbox(run_here)
    app = create_app(settings(definitions), ports=Ports(judge=judge, sandbox=sandbox))
    return Replay(app, judge, sandbox)


@pytest.mark.conformance
class TestVectors:
    def test_no_vector_got_lost(self) -> None:
        assert len(vectors()) == 109

    @pytest.mark.parametrize("vector", vectors())
    async def test_matches(self, replay: Replay, vector: dict[str, Any]) -> None:
        if "meteor" in json.dumps(vector["grader"]) and find_wordnet("")[0] is None:
            pytest.skip("METEOR needs WordNet, which is not installed")
        replay.judge.script = lambda _: recorded(vector["judge_reply"])
        if vector["expected"]["flag"] == "python_grader_server_error":
            replay.sandbox.script = lambda _: SandboxUnavailableError("no sandbox")
        else:
            replay.sandbox.script = run_here
        asked = replay.judge.asked
        body = {key: vector[key] for key in ("grader", "item", "model_sample") if key in vector}
        async with calling(replay.app) as client:
            response = await client.post(RUN if vector["call"] == "run" else VALIDATE, json=body)
        expected = vector["expected"]
        answer = response.json()
        assert response.status_code == expected["status"], answer
        if expected["status"] == 400:
            assert set(answer["error"]) == {"message", "type", "param", "code"}
            assert answer["error"]["type"] == "invalid_request_error"
            return
        if vector["call"] == "run":
            self.check_run(answer, vector)
        else:
            self.check_validate(answer, vector)
        for path, value in expected.get("fields", {}).items():
            found = answer
            for step in path.split("."):
                found = found[step]
            assert found == value
        if "judge_calls" in expected:
            assert replay.judge.asked - asked == expected["judge_calls"]

    def check_run(self, answer: dict[str, Any], vector: dict[str, Any]) -> None:
        expected, tolerance = vector["expected"], vector["tolerance"]
        assert math.isclose(answer["reward"], expected["reward"], rel_tol=0, abs_tol=tolerance)
        flags = expected["flag"]
        wanted = [] if flags is None else sorted([flags] if isinstance(flags, str) else flags)
        assert true_flags(answer) == wanted
        for key, value in expected.get("sub_rewards", {}).items():
            assert answer["sub_rewards"][key] == pytest.approx(value, abs=tolerance)

    def check_validate(self, answer: dict[str, Any], vector: dict[str, Any]) -> None:
        expected = vector["expected"]
        if expected.get("echo"):
            assert answer["grader"] == vector["grader"]
        if "name_pattern" in expected:
            assert re.fullmatch(expected["name_pattern"], answer["grader"]["name"])
