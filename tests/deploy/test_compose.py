"""compose.yaml: valid by the specification, hardened, without a secret, as the code wants."""

from __future__ import annotations

import json
import re
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from service.settings import PREFIX, Settings
from tests.deploy.stack import DEPLOY, compose, haproxy

COMPOSE = compose()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVICE = SERVICES["service"]
GIB = 1024**3
_UNITS = {"k": 1024, "m": 1024**2, "g": GIB}


def size(text: str) -> int:
    """Return the bytes that ``text`` (``512m``) stands for."""
    return int(text[:-1]) * _UNITS[text[-1]]


def seconds(text: str) -> int:
    """Return what ``text`` (``45s``) stands for."""
    assert text.endswith("s")
    return int(text[:-1])


def schema_problems(document: dict[str, Any]) -> list[str]:
    """Return what the schema of the Compose specification finds wrong."""
    folder = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text("utf-8"))
    validator = jsonschema.validators.validator_for(schema)(schema)
    return [error.message for error in validator.iter_errors(document)]


def test_it_is_valid_by_the_specification() -> None:
    assert schema_problems(COMPOSE) == []
    broken = {**COMPOSE, "services": {"service": {**SERVICE, "read_onlly": True}}}
    assert schema_problems(broken), "the schema finds a misspelt key"


def test_the_override_for_judges_gives_the_service_the_files_that_it_names() -> None:
    text = (DEPLOY.parent / "docs" / "operating.md").read_text("utf-8")
    (override,) = re.findall(
        r"^```yaml deploy/mine.yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL
    )
    document = yaml.safe_load(override)
    assert schema_problems(document) == []
    assert set(document["services"]) <= set(SERVICES)
    service = document["services"]["service"]
    settings = Settings.from_environment(service["environment"])
    (volume,) = service["volumes"]
    assert volume["source"] == "./judges", "beside compose.yaml, where compose looks"
    assert volume["target"] not in {mounted["target"] for mounted in SERVICE["volumes"]}
    for file in (settings.judge_routes_file, settings.judge_budgets_file):
        assert str(Path(file).parent) == volume["target"]


def test_it_has_what_a_deployment_needs() -> None:
    assert set(SERVICES) == {"service", "gateway", "redis", "prometheus", "grafana"}
    assert SERVICE["deploy"]["replicas"] == 2
    assert SERVICE["build"]["target"] == "service"


@pytest.mark.parametrize("name", SERVICES)
class TestEveryContainer:
    def test_has_no_more_rights_than_it_needs(self, name: str) -> None:
        container = SERVICES[name]
        assert container["read_only"] is True
        assert container["cap_drop"] == ["ALL"]
        assert container["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc"} & set(
            container
        )
        if name != "service":  # ours has its user in the image
            assert re.fullmatch(r"[1-9][0-9]*:[0-9]+", container["user"])

    def test_is_bounded_watched_and_stopped_with_patience(self, name: str) -> None:
        container = SERVICES[name]
        assert set(container["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
        assert {"test", "interval", "timeout", "retries", "start_period"} <= set(
            container["healthcheck"]
        )
        assert seconds(container["stop_grace_period"]) >= 20
        assert container["restart"] == "unless-stopped"
        assert container["logging"]["options"]["max-size"]

    def test_mounts_only_what_is_in_the_repository_and_read_only(self, name: str) -> None:
        for mount in SERVICES[name].get("volumes", []):
            if mount["type"] == "volume":
                assert mount["source"] in COMPOSE["volumes"]
                continue
            assert mount["read_only"] is True
            if not mount["source"].startswith("${"):
                assert (DEPLOY / mount["source"]).exists(), mount["source"]

    def test_is_published_on_loopback_only_unless_the_operator_says_otherwise(
        self, name: str
    ) -> None:
        for port in SERVICES[name].get("ports", []):
            assert re.fullmatch(r"\$\{[A-Z]+_ADDRESS:-127\.0\.0\.1:[0-9]+\}:[0-9]+", port)

    def test_names_an_exact_image_that_can_be_replaced_by_a_digest(self, name: str) -> None:
        assert re.fullmatch(
            r"\$\{[A-Z]+_IMAGE:-[a-z/]+:v?[0-9][0-9a-z.-]+\}", SERVICES[name]["image"]
        )


def test_secrets_are_references_to_files_that_the_repository_ignores() -> None:
    made = {Path(secret["file"]) for secret in COMPOSE["secrets"].values()}
    made |= {Path(file) for file in SERVICE["env_file"]}
    script = (DEPLOY / "make-secrets").read_text("utf-8")
    for file in made:
        assert file.parent == Path("secrets")
        assert re.search(rf"keep {re.escape(file.name)}\b", script), f"{file} is not made"
    command = ["git", "check-ignore", "--quiet", "deploy/secrets/keys.json"]
    assert subprocess.run(command, cwd=DEPLOY.parent, check=False).returncode == 0
    for container in SERVICES.values():
        for variable, value in container.get("environment", {}).items():
            secret = re.search("PASSWORD|SECRET|TOKEN|KEY|REDIS_URL", variable)
            assert not secret or value.startswith("/run/secrets/"), variable
        assert {*container.get("secrets", [])} <= set(COMPOSE["secrets"])


def test_environment_is_what_settings_know() -> None:
    own = {k: v for k, v in SERVICE["environment"].items() if k.startswith(PREFIX)}
    settings = Settings.from_environment(own)
    assert settings.host == "0.0.0.0"  # noqa: S104 - in a container
    assert settings.api_keys_file == "/run/secrets/keys.json"
    assert not settings.allow_unauthenticated


def test_memory_holds_what_python_graders_may_take() -> None:
    """docs/sandbox.md: 0.5 GB + package sets + slots × (memory limit + scratch limit)."""
    own = {k: v for k, v in SERVICE["environment"].items() if k.startswith(PREFIX)}
    settings = Settings.from_environment(own)
    slots = settings.sandbox_slots
    assert slots, "the number of CPUs that the machine has says nothing in a container"
    needed = GIB // 2 + slots * (settings.sandbox_memory_bytes + settings.sandbox_disk_bytes)
    assert size(SERVICE["deploy"]["resources"]["limits"]["memory"]) >= needed
    scratch = re.search(r"size=([0-9]+m)", SERVICE["tmpfs"][0])
    assert scratch is not None
    assert size(scratch[1]) >= slots * settings.sandbox_disk_bytes


def test_service_is_given_longer_to_stop_than_it_takes() -> None:
    own = {k: v for k, v in SERVICE["environment"].items() if k.startswith(PREFIX)}
    grace = Settings.from_environment(own).shutdown_grace_s
    assert seconds(SERVICE["stop_grace_period"]) >= grace + 10
    hard_stop = re.search(r"hard-stop-after ([0-9]+)s", (DEPLOY / "haproxy.cfg").read_text())
    assert hard_stop is not None
    assert grace < int(hard_stop[1]) < seconds(SERVICES["gateway"]["stop_grace_period"])


def test_redis_has_room_beyond_what_it_keeps() -> None:
    found = re.search(r"^maxmemory ([0-9]+)gb$", (DEPLOY / "redis.conf").read_text(), re.MULTILINE)
    assert found is not None
    limit = size(SERVICES["redis"]["deploy"]["resources"]["limits"]["memory"])
    assert limit >= 2 * int(found[1]) * GIB


def test_only_the_load_balancer_and_grafana_are_reachable_and_redis_has_no_way_out() -> None:
    assert {name for name, container in SERVICES.items() if "ports" in container} == {
        "gateway",
        "grafana",
    }
    assert COMPOSE["networks"]["storage"] == {"internal": True}
    assert SERVICES["redis"]["networks"] == ["storage"]
    users = {name for name, container in SERVICES.items() if "storage" in container["networks"]}
    assert users == {"redis", "service"}


def test_prometheus_finds_every_replica_and_has_a_key() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text("utf-8"))
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "gradekeeper")
    (found,) = job["dns_sd_configs"]
    assert (found["names"], found["port"]) == (["service"], 8080)
    assert set(SERVICES["prometheus"]["networks"]) & set(SERVICE["networks"])
    key = Path(job["authorization"]["credentials_file"])
    assert key == Path("/run/secrets") / SERVICES["prometheus"]["secrets"][0]
    assert "/etc/prometheus" in mounts_of("prometheus")
    assert "--config.file=/etc/prometheus/prometheus.yaml" in SERVICES["prometheus"]["command"]
    for file in config["rule_files"]:
        assert (DEPLOY / "prometheus" / file).exists()


def test_grafana_finds_prometheus_and_its_dashboards() -> None:
    home = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((home / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    assert set(SERVICES["grafana"]["networks"]) & set(SERVICES["prometheus"]["networks"])
    (provider,) = yaml.safe_load((home / "dashboards" / "gradekeeper.yaml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"] in mounts_of("grafana")
    assert list((DEPLOY / "grafana" / "dashboards").glob("*.json"))


def mounts_of(name: str) -> set[str]:
    """Return where a container sees something of the repository."""
    return {mount["target"] for mount in SERVICES[name]["volumes"] if mount["type"] == "bind"}


def test_configuration_of_the_load_balancer_is_valid_as_it_stands() -> None:
    command = [haproxy(), "-c", "-f", str(DEPLOY / "haproxy.cfg")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
