"""Settings are checked before the first rollout is paid for."""

import json
import os
import pickle
import subprocess
import sys
from collections import UserDict
from pathlib import Path
from typing import Any

import pytest

from service.trainers.errors import RefusedError
from service.trainers.reward import Reward, connect, make
from service.trainers.source import Source, Where
from tests.trainers.servers import ROOT, definition

GOOD: Where = {"url": "http://grader:8080/base/", "grader": "gene-ranking@3"}


def test_the_path_holds_name_and_version() -> None:
    assert Source.of(GOOD).path == "/base/v1/graders/gene-ranking/versions/3/score/batch"
    assert Source.of(GOOD).name == "gene-ranking"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": None}, "url must be the server's address"),
        ({"url": "grader:8080"}, "url must be the server's address"),
        ({"url": "http://grader:8080/?key=x"}, "url must be the server's address"),
        ({"grader": "gene-ranking"}, "'name@version'"),
        ({"grader": "Gene@1"}, "'name@version'"),
        ({"grader": "a/../b@1"}, "'name@version'"),
        ({"definition": "x.json"}, "either url and grader, or definition"),
        ({"deadline_s": 0}, "must be above 0"),
        ({"batch_rows": -1}, "must be above 0"),
        ({"gradr": "a@1"}, "unknown setting 'gradr'; known are url, grader"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        Source.of({**GOOD, **changes})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_ungraded": "zero"}, "'raise', None or a number"),
        ({"on_outage": 0.0, "abstains": True}, "never becomes a number"),
        ({"on_outage": "none", "abstains": True}, "never becomes a number"),
        ({"on_ungraded": None}, "knows only numbers"),
        ({"on_outage": None}, "knows only numbers"),
        ({"item_fields": "answer"}, "a list of columns, or a mapping"),
    ],
)
def test_policies_that_cannot_work_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        make(GOOD, **options)


def test_a_definition_is_named_after_itself_or_its_file(tmp_path: Path) -> None:
    assert Source.of({"definition": definition("capital")}).name == "capital"
    assert Source.of({"definition": UserDict({"type": "string_check"})}).name == "grader"
    assert Source.of({"definition": tmp_path / "my-grader.json"}).name == "my-grader"


def test_equal_settings_share_their_connections() -> None:
    assert connect(Source.of(GOOD)) is connect(Source.of(dict(GOOD)))
    assert connect(Source.of(GOOD)) is not connect(Source.of({**GOOD, "key": "k"}))


def test_a_reward_survives_pickling_and_keeps_its_connections() -> None:
    reward = make(GOOD, item_fields={"a": "b"}, on_ungraded=0.0)
    again: Reward = pickle.loads(pickle.dumps(reward))  # noqa: S301 - our own
    assert again == reward
    assert connect(again.source) is connect(reward.source)


def test_importing_the_adapters_needs_the_standard_library_only(tmp_path: Path) -> None:
    """In an interpreter without any site-packages, from the sources alone."""
    adapters = sorted(path.stem for path in (ROOT / "service" / "trainers").glob("[a-z]*.py"))
    adapters.remove("in_process")
    code = (
        f"import sys\nfor name in {adapters}: __import__('service.trainers.' + name)\n"
        "ours = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(ours - set(sys.stdlib_module_names) - {'__main__', 'service'}))\n"
        "import importlib.metadata; assert 'service.app' not in sys.modules"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_the_version_is_read_on_demand() -> None:
    import service

    assert service.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = service.nothing


def test_json_and_path_give_the_same_grader(tmp_path: Path) -> None:
    file = tmp_path / "capital.json"
    file.write_text(json.dumps(definition("capital")))
    item, text = {"answer": "Paris"}, "Paris"
    for given in (file, str(file), definition("capital")):
        assert make({"definition": given}).grade([item], [text])[0].reward == 1.0
