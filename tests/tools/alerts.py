"""Write the alerts as a resource of the Prometheus operator: ``python -m tests.tools.alerts``."""

from pathlib import Path

_DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = _DEPLOY / "prometheus" / "rules.yaml"
RESOURCE = _DEPLOY / "kubernetes" / "components" / "monitoring" / "prometheus-rule.yaml"
_HEAD = """# Written by `python -m tests.tools.alerts` from deploy/prometheus/rules.yaml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: gradekeeper
spec:
"""


def document() -> str:
    """Return the resource: the same text, one level deeper."""
    _, _, groups = RULES.read_text(encoding="utf-8").partition("\ngroups:\n")
    lines = ["groups:", *groups.splitlines()]
    return _HEAD + "".join(f"  {line}\n" if line else "\n" for line in lines)


if __name__ == "__main__":
    RESOURCE.write_text(document(), encoding="utf-8")
    print(f"wrote {RESOURCE.name}")
