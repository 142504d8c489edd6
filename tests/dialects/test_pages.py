"""Every page's request is answered as the page says, and every URL in it is one of ours."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from graders.ports import Ports
from service.app import create_app
from service.dialects import DIALECTS
from service.dialects.mapping import parse
from tests.api.world import calling, key_entry, running, settings, write_definitions
from tests.dialects.pages import FOLDER, NAMES, blocks, capital, snippet
from tests.fakes import FakeSandbox, run_here

_URL = re.compile(r"https?://gradekeeper[^\s\"'`)]*")
CONFIGURED = [
    pytest.param(page, url, id=f"{page}-{name}-{number}")
    for page in NAMES
    for name, block in blocks(page).items()
    if name not in {"curl", "answer", "http-provider.yaml"}  # make compat runs that one
    for number, url in enumerate(_URL.findall(block))
]


@pytest.mark.parametrize("page", NAMES)
async def test_the_request_of_a_page_is_answered_as_it_says(
    page: str, pages_definitions: Path
) -> None:
    command, url, flag, body = shlex.split(snippet(page, "curl"))
    assert (command, flag) == ("curl", "-d")
    async with calling(create_app(settings(pages_definitions))) as api:
        # curl -d says this content type
        form = {"content-type": "application/x-www-form-urlencoded"}
        parts = urlsplit(url)
        response = await api.post(f"{parts.path}?{parts.query}", content=body, headers=form)
    assert response.status_code == 200, response.text
    answer = response.json()
    if page == "native":
        advantages = [row["advantage"] for row in answer["results"]]
        assert advantages == [pytest.approx(0.7071, abs=1e-4), pytest.approx(-0.7071, abs=1e-4)]
        return
    expected = json.loads(snippet(page, "answer"))
    if page == "roll":
        expected["reward_request_id"] = answer["reward_request_id"]
    assert answer == expected


async def test_the_check_before_a_run_tells_a_mapping_that_misses(tmp_path: Path) -> None:
    """The same request also to a Python grader, which answers 0.0 where its field is missing."""
    code = "def grade(sample, item):\n    return float(item.get('label') == sample['output_text'])"
    definitions = {**capital(), "lenient": [{"type": "python", "name": "lenient", "source": code}]}
    command, url, flag, body = shlex.split(snippet("README", "right"))
    assert (command, flag) == ("curl", "-d")
    right = urlsplit(url)._replace(scheme="", netloc="").geturl()
    missed = right.replace("label=label", "label=reference")
    lenient = [target.replace("capital", "lenient") for target in (right, missed)]
    own = Ports(sandbox=FakeSandbox(run_here))
    app = create_app(settings(write_definitions(tmp_path, definitions)), ports=own)
    async with calling(app) as api:
        found = [await api.post(target, content=body) for target in (right, missed, *lenient)]
    assert [answer.status_code for answer in found] == [200, 422, 200, 200]
    assert found[0].json() == json.loads(snippet("README", "right-answer")) == 1.0
    assert [answer.json() for answer in found[2:]] == [1.0, 0.0]


def keys(folder: Path) -> str:
    """Write a keys file with the key that stands for the pages' ``gk-…``."""
    file = folder / "keys.json"
    file.write_text(json.dumps([key_entry("trainer", "gk-test", ["score"])]))
    return str(file)


@pytest.mark.parametrize(("page", "url"), CONFIGURED)
async def test_a_configured_address_answers_the_page_s_request_for_its_key(
    page: str, url: str, pages_definitions: Path, tmp_path: Path
) -> None:
    """Flags, configuration files and environment variables, with the key where they put it."""
    parts = urlsplit(url.replace("gk-…", "gk-test"))
    target = f"{parts.path}?{parts.query}"
    if page == "nemo-gym":
        target = target.replace("/rewards/nemo-gym", "/rewards/nemo-gym/verify")
    if page == "native":
        target = target.replace("/score", "/score/batch")
    body = shlex.split(snippet(page, "curl"))[-1]
    headers = {"authorization": "Bearer gk-test"} if "gk-test" not in target else {}
    app = create_app(settings(pages_definitions, api_keys_file=keys(tmp_path)))
    async with calling(app) as api:
        assert (await api.post(parts.path.replace("gk-test", "gk-x"), content=body)).is_error
        response = await api.post(target, content=body, headers=headers)
    assert response.status_code == 200, response.text
    if page in {"native", "roll"}:
        return
    assert response.json() == json.loads(snippet(page, "answer"))


def test_every_page_says_what_to_configure() -> None:
    assert {parameter.values[0] for parameter in CONFIGURED} == set(NAMES)


@pytest.mark.integration
def test_the_endpoint_grader_of_the_page_calls_us(pages_definitions: Path, tmp_path: Path) -> None:
    """Both ends are ours here: the job's grader, and the service that it names."""
    with running(
        pages_definitions,
        tmp_path / "one.log",
        GRADEKEEPER_SANDBOX="off",
        GRADEKEEPER_API_KEYS_FILE=keys(tmp_path),
    ) as other:
        grader = json.loads(snippet("azure-endpoint", "grader").replace("gk-…", "gk-test"))
        grader["url"] = grader["url"].replace("https://gradekeeper.example", other.url)
        own = write_definitions(tmp_path / "own", {"remote": [grader]})
        with running(
            own,
            tmp_path / "two.log",
            GRADEKEEPER_SANDBOX="off",
            GRADEKEEPER_ENDPOINT_ALLOWED_NETWORKS="127.0.0.0/8",
        ) as service:
            rewards = [
                httpx.post(
                    f"{service.url}/v1/graders/remote/versions/1/score",
                    json={"item": {"label": "Paris"}, "model_sample": text},
                    timeout=30,
                ).json()["reward"]
                for text in ("Paris", "Lyon")
            ]
    assert rewards == [1.0, 0.0]


def test_every_dialect_has_a_page() -> None:
    assert set(DIALECTS) | {"native"} == set(NAMES)


@pytest.mark.parametrize("page", [*NAMES, "README"])
def test_the_urls_of_a_page_are_ours(page: str) -> None:
    text = (FOLDER / f"{page}.md").read_text(encoding="utf-8")
    urls = _URL.findall(text)
    assert urls
    for url in urls:
        parts = urlsplit(url)
        assert re.fullmatch(
            r"/v1(/k/gk-…)?(/with/[^/]+)?/graders/capital/versions/1/(score|score/batch|"
            rf"rewards/({'|'.join(DIALECTS)})(/verify|/evaluate)?)",
            parts.path,
        ), url
        dialect = next((name for name in DIALECTS if f"/rewards/{name}" in parts.path), None)
        if dialect:
            packed = re.search(r"/with/([^/]+)/", parts.path)
            for query in (parts.query, packed[1] if packed else ""):
                parse(DIALECTS[dialect], query.replace("key=gk-…", ""))


@pytest.fixture(scope="module")
def pages_definitions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grader that the pages speak of."""
    return write_definitions(tmp_path_factory.mktemp("pages"), capital())
