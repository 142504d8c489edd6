"""The catalogue: what every series must say about itself, and the page that is made of it."""

from __future__ import annotations

import re

import pytest

from service.metrics import LABELS, Metrics, Series
from tests.tools.metrics import PAGE, document

CATALOGUE = Metrics().catalogue


@pytest.mark.parametrize("series", CATALOGUE, ids=lambda series: series.name)
def test_a_series_says_what_it_is(series: Series) -> None:
    assert re.fullmatch(r"gradekeeper_[a-z_]+", series.name)
    assert series.help.endswith(".")
    assert series.unit
    assert set(series.labels) <= LABELS.keys()


@pytest.mark.parametrize("series", CATALOGUE, ids=lambda series: series.name)
def test_its_name_says_its_unit(series: Series) -> None:
    assert (series.type == "counter") == series.name.endswith("_total")
    name = series.name.removesuffix("_total")
    for unit in ("seconds", "bytes", "dollars"):
        assert (series.unit == unit) == name.endswith(f"_{unit}")


def test_every_label_is_used() -> None:
    assert {label for series in CATALOGUE for label in series.labels} == LABELS.keys()


def test_the_catalogue_is_what_the_registry_holds() -> None:
    metrics = Metrics()
    held = {
        (family.name + ("_total" if family.type == "counter" else ""), family.type)
        for family in metrics.registry.collect()
    }
    assert held == {(series.name, series.type) for series in metrics.catalogue}
    assert len(metrics.catalogue) == len(held)


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), (
        "stale: run python -m tests.tools.metrics"
    )
