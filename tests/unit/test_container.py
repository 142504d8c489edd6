"""The rules of the container images; `deploy/verify-image` builds and attacks the real ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from service import __version__
from service.cli import _COMMANDS
from service.settings import PREFIX, RUNNER_SETTINGS

ROOT = Path(__file__).parents[2]
TARGETS = ("sandbox-runner", "service")
Instruction = tuple[str, str]


def _stages() -> dict[str, list[Instruction]]:
    """Return the instructions of every stage, those of the stage that it starts from first."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text("utf-8"))
    stages: dict[str, list[Instruction]] = {"": []}
    name = ""
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = [*stages.get(base, []), ("FROM", base)]
        else:
            stages[name].append((word, rest.strip()))
    return stages


STAGES = _stages()


def _values(stage: str, word: str) -> list[str]:
    return [rest for found, rest in STAGES[stage] if found == word]


@pytest.mark.parametrize("target", TARGETS)
class TestTarget:
    def test_runs_as_a_numeric_user_that_is_not_root(self, target: str) -> None:
        uid, _, gid = _values(target, "USER")[-1].partition(":")
        assert (uid.isdigit(), gid.isdigit(), uid != "0", gid != "0") == (True,) * 4

    def test_starts_without_a_shell(self, target: str) -> None:
        (entry,), (command,) = _values(target, "ENTRYPOINT"), _values(target, "CMD")
        assert json.loads(entry) == ["/opt/gradekeeper/bin/gradekeeper"]
        assert json.loads(command)[0] in _COMMANDS

    def test_checks_its_health_with_a_command_there_is(self, target: str) -> None:
        (check,) = _values(target, "HEALTHCHECK")
        program, command, *_ = json.loads(check.partition("CMD ")[2])
        assert (program, command in _COMMANDS) == ("/opt/gradekeeper/bin/gradekeeper", True)

    def test_is_only_copied_together(self, target: str) -> None:
        # What runs in it would leave caches, and could need tools that have no place in it.
        assert _values(target, "RUN") == []
        assert all(rest.startswith("--from=") for rest in _values(target, "COPY"))

    def test_says_what_it_is(self, target: str) -> None:
        labels = " ".join(_values(target, "LABEL"))
        for name in ("title", "description", "licenses", "version", "revision"):
            assert f"org.opencontainers.image.{name}=" in labels
        assert f"VERSION={__version__}" in _values(target, "ARG")


def test_the_runner_gets_nothing_of_the_services() -> None:
    sources = {rest.split()[0] for rest in _values("sandbox-runner", "COPY")}
    assert sources == {"--from=graders", "--from=runner-python"}
    variables = " ".join(_values("sandbox-runner", "ENV")).split()
    ours = {part.partition("=")[0] for part in variables if part.startswith(PREFIX)}
    assert {name.removeprefix(PREFIX).lower() for name in ours} <= RUNNER_SETTINGS


def test_everything_from_an_index_is_pinned_by_hash() -> None:
    installs = [
        part
        for stage in STAGES.values()
        for word, rest in stage
        if word == "RUN"
        for part in rest.split("&&")
        if re.search(r"\bpip (install|wheel)\b", part)
    ]
    assert len(installs) >= 4
    for part in installs:
        assert re.search(r"--require-hashes|--no-index|--no-deps --no-build-isolation", part), part


def test_base_image_and_indexes_can_be_named_by_build_arguments() -> None:
    assert {base for name in STAGES for base in _values(name, "FROM")} - set(STAGES) == {
        "${BASE_IMAGE}"
    }
    assert re.search(r"BASE_IMAGE=docker\.io/library/python:\S+-slim-\S+", str(STAGES[""]))
    for stage in ("graders", "wheel", "runner-python", "service-python"):
        assert {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"} <= set(_values(stage, "ARG"))


def test_only_what_is_needed_goes_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        part.split("/")[0]
        for stage in STAGES.values()
        for word, rest in stage
        if word == "COPY" and not rest.startswith("--from")
        for part in rest.split()[:-1]
    }
    assert allowed == copied


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_verify_image_parses_refuses_and_names_no_address() -> None:
    script = ROOT / "deploy" / "verify-image"
    subprocess.run(["bash", "-n", str(script)], check=True)
    refused = subprocess.run(
        [str(script), "--nonsense"], capture_output=True, text=True, check=False
    )
    assert (refused.returncode, "unknown argument --nonsense" in refused.stderr) == (1, True)
    text = script.read_text("utf-8")
    assert set(re.findall(r"https?://[^\s\"$]+", text)) <= {"http://127.0.0.1:"}
