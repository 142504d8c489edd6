"""Every page's request is answered as the page says, and every URL in it is one of ours."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from service.app import create_app
from service.dialects import DIALECTS
from service.dialects.mapping import parse
from tests.api.world import calling, settings, write_definitions
from tests.dialects.pages import FOLDER, NAMES, snippet

_URL = re.compile(r"https?://gradekeeper[^\s\"'`)]*")


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
    from tests.dialects.pages import capital

    return write_definitions(tmp_path_factory.mktemp("pages"), capital())
