"""Write the generated page on metrics: ``python -m tests.tools.metrics``."""

from pathlib import Path

from service.metrics import LABELS, Metrics

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
_HEAD = """# Metrics

Written by `python -m tests.tools.metrics` from `service/metrics.py`; do not edit.

`GET /metrics` answers in Prometheus' text format. Where keys are configured it needs one with the
scope `metrics` (`gradekeeper key --scope metrics`). With several workers a scrape of any of them
shows all of them: counters and histograms of workers that ended stay in the sums, their gauges do
not. What counts grades and requests is at most 50 ms old, what looks at sandbox, judges, store and
budgets at most 5 s.

`deploy/prometheus` holds a configuration and alerts over these series, `deploy/grafana` a
dashboard. [alerts.md](alerts.md) says what each alert means.

## Series

Histograms come as `_bucket` (with the label `le`), `_count` and `_sum`.

| series | type | unit | labels | what it measures |
|---|---|---|---|---|
"""
_LABELS = """
## Labels

No label holds text of a caller: values come from configuration, from definitions in force or from
fixed sets.

| label | values |
|---|---|
"""


def document() -> str:
    """Return docs/metrics.md."""
    series = [
        f"| `{one.name}` | {one.type} | {one.unit} | "
        f"{', '.join(f'`{label}`' for label in one.labels)} | {one.help} |\n"
        for one in Metrics().catalogue
    ]
    labels = [f"| `{label}` | {meaning} |\n" for label, meaning in sorted(LABELS.items())]
    return "".join((_HEAD, *series, _LABELS, *labels))


if __name__ == "__main__":
    PAGE.write_text(document(), encoding="utf-8")
    print(f"wrote {PAGE.name}")
