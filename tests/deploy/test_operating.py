"""docs/operating.md and the READMEs of deploy/ name nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.cli import _COMMANDS
from service.metrics import Metrics
from service.settings import PREFIX, Settings
from tests.bench import SUITES
from tests.deploy.stack import DEPLOY, compose

ROOT = DEPLOY.parent
PAGES = [ROOT / "docs" / "operating.md", *sorted(DEPLOY.rglob("README.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.fixture(params=PAGES, ids=IDS)
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def anchors(page: Path) -> set[str]:
    """Return what links into ``page`` may name."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", text.lower()).replace(" ", "-") for text in headings}


def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_settings_and_series_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    known = {f"{PREFIX}{name.upper()}" for name in Settings.__struct_fields__}
    assert set(re.findall(r"\bGRADEKEEPER_[A-Z_]+[A-Z]\b", text)) <= known
    families = {family.name for family in Metrics().registry.collect()}
    for series in re.findall(r"`(gradekeeper_[a-z_]+)`", text):
        assert series.removesuffix("_total") in families, series


def test_commands_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)`", text)) <= targets
    assert set(re.findall(r"(?:^|`)gradekeeper ([a-z]+)", text, re.MULTILINE)) <= set(_COMMANDS)
    assert set(re.findall(r"--suite ([a-z]+)", text)) <= set(SUITES)
    services = set(compose()["services"])
    for line in re.findall(r"docker compose -f deploy/compose.yaml (run|ps) .*? ([a-z]+)", text):
        assert line[1] in services


def test_figures_follow_from_each_other() -> None:
    """Each core and second is what the CPU time of one leaves room for, rounded down."""
    rows = re.findall(
        r"^\| .*? \| ([0-9.]+) (µs|ms) \| ([0-9,]+) \|",
        (ROOT / "docs" / "operating.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert len(rows) == 7
    for time, unit, rate in rows:
        seconds = float(time) * {"µs": 1e-6, "ms": 1e-3}[unit]
        assert int(rate.replace(",", "")) == pytest.approx(1 / seconds, rel=0.1)
