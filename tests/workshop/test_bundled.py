"""What ships passes its checks, notices small faults, and equals what it is assembled from."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path

import msgspec
import pytest

from graders import registry
from graders.engine import digest_of
from service.adapters import AdapterError, engine_options, sandbox_config
from service.cli import main
from service.cli.workshop import open_ports
from service.settings import Settings
from service.workshop.assembly import assemble
from service.workshop.check import Terms, check_subjects
from service.workshop.library import Subject, find_subjects
from service.workshop.mutants import Caught, catch_mutants
from service.workshop.probing import probe_subjects
from service.workshop.results import Result, report
from tests.cli.world import serving

SETTINGS = Settings(sandbox_min_isolation="process", sandbox_timeout_s=20.0)
OPTIONS = engine_options(SETTINGS)
SUBJECTS = find_subjects([registry.BUNDLED], (), OPTIONS)
LATEST = {subject.name: subject for subject in SUBJECTS}
SOURCES = sorted(registry.BUNDLED.glob("*/src"))


@pytest.fixture(autouse=True)
def _sandbox() -> None:
    try:
        sandbox_config(SETTINGS)
    except AdapterError as error:
        pytest.skip(str(error))


@pytest.mark.serial
def test_every_check_and_probe_of_the_library_passes_in_time() -> None:
    async def checked() -> list[Result]:
        async with open_ports(SETTINGS, SUBJECTS) as ports:
            terms = Terms(ports=ports)
            results = await check_subjects(SUBJECTS, OPTIONS, terms)
            return results + await probe_subjects(SUBJECTS, terms)

    started = time.monotonic()
    results = asyncio.run(checked())
    missed = [result for result in results if result.status in {"failed", "skipped"}]
    assert missed == [], "\n".join(report(missed))
    assert {result.grader for result in results} >= {subject.title for subject in SUBJECTS}
    assert time.monotonic() - started < 90  # what CI may take


@pytest.mark.serial
@pytest.mark.integration
def test_a_deployment_gives_every_reward_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    """All but those of judges, whose recordings cannot be sent along."""
    with serving(GRADEKEEPER_SANDBOX_MIN_ISOLATION="process") as (_process, url):
        code = main(["check", "--url", url])
    out = capsys.readouterr().out
    assert code == 0, out
    summary = re.fullmatch(
        r"(\d+) graders: (\d+) passed, 0 failed, \d+ skipped, \d+ noted", out.splitlines()[-1]
    )
    assert summary, out
    assert int(summary[1]) == len(SUBJECTS)
    examples = sum(len(read_examples(subject)) for subject in LATEST.values() if not asks(subject))
    assert int(summary[2]) >= examples > 500


def asks(subject: Subject) -> bool:
    """Return whether ``subject`` has a part that asks a judge."""
    return b'"model":' in msgspec.json.encode(subject.document)


def read_examples(subject: Subject) -> list[str]:
    return subject.examples_file.read_text(encoding="utf-8").splitlines()


# The longest has two hundred mutants; those that do not end take the sandbox's whole time.
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(LATEST))
def test_examples_notice_small_faults(name: str) -> None:
    async def caught() -> Caught:
        settings = msgspec.structs.replace(SETTINGS, sandbox_timeout_s=1.5)
        async with open_ports(settings, SUBJECTS) as ports:
            terms = Terms(ports=ports)
            return await catch_mutants(LATEST[name], OPTIONS, terms, sampled=sys.maxsize)

    found = asyncio.run(caught())
    assert found.tried > 0
    assert found.share >= 0.9, found.survivors


@pytest.mark.parametrize("source", SOURCES, ids=[path.parent.name for path in SOURCES])
def test_last_version_is_what_its_source_assembles_to(source: Path) -> None:
    versions = sorted(
        (path for path in source.parent.glob("[0-9]*.json")), key=lambda path: int(path.stem)
    )
    document = msgspec.json.decode(versions[-1].read_bytes())
    assert digest_of(assemble(source)) == digest_of(document)
