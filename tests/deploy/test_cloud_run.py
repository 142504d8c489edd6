"""deploy/cloud-run/service.yaml: containers as Kubernetes, settings as the code has them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings
from tests.deploy.kubernetes import GIB, part_problems, size
from tests.deploy.stack import DEPLOY

SERVICE: dict[str, Any] = yaml.safe_load((DEPLOY / "cloud-run" / "service.yaml").read_text("utf-8"))
TEMPLATE = SERVICE["spec"]["template"]
(CONTAINER,) = TEMPLATE["spec"]["containers"]
VOLUMES = {volume["name"]: volume for volume in TEMPLATE["spec"]["volumes"]}

# https://cloud.google.com/run/docs/reference/yaml/v1: annotations by where they may stand.
OF_SERVICE = {"run.googleapis.com/ingress", "run.googleapis.com/invoker-iam-disabled"}
OF_REVISION = {
    "autoscaling.knative.dev/minScale",
    "autoscaling.knative.dev/maxScale",
    "run.googleapis.com/execution-environment",
    "run.googleapis.com/cpu-throttling",
    "run.googleapis.com/startup-cpu-boost",
    "run.googleapis.com/network-interfaces",
    "run.googleapis.com/vpc-access-egress",
}


def test_it_is_a_service_of_cloud_run() -> None:
    assert (SERVICE["apiVersion"], SERVICE["kind"]) == ("serving.knative.dev/v1", "Service")
    assert set(SERVICE) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(SERVICE["metadata"]["annotations"]) <= OF_SERVICE
    assert set(TEMPLATE["metadata"]["annotations"]) <= OF_REVISION
    assert set(TEMPLATE["spec"]) == {
        *("serviceAccountName", "containerConcurrency", "timeoutSeconds"),
        *("containers", "volumes"),
    }
    for place in (SERVICE, TEMPLATE):
        assert all(isinstance(value, str) for value in place["metadata"]["annotations"].values())


def test_its_container_and_volumes_are_kubernetes_own() -> None:
    assert part_problems("Container", CONTAINER) == []
    for volume in VOLUMES.values():
        assert part_problems("Volume", volume) == []
    assert part_problems("Container", {**CONTAINER, "livenesProbe": {}})


def test_environment_is_what_settings_know() -> None:
    values = {v["name"]: v.get("value", "redis://secret") for v in CONTAINER["env"]}
    settings = Settings.from_environment({k: v for k, v in values.items() if k.startswith(PREFIX)})
    assert settings.port == CONTAINER["ports"][0]["containerPort"]
    # Cloud Run sends SIGKILL ten seconds after SIGTERM.
    assert settings.shutdown_grace_s < 10
    call = settings.sandbox_memory_bytes + settings.sandbox_disk_bytes
    limits = CONTAINER["resources"]["limits"]
    assert size(limits["memory"]) >= GIB // 2 + settings.sandbox_slots * call
    mounts = {mount["mountPath"]: VOLUMES[mount["name"]] for mount in CONTAINER["volumeMounts"]}
    assert mounts[settings.definitions]["csi"]["readOnly"] is True
    scratch = size(mounts["/tmp"]["emptyDir"]["sizeLimit"])
    assert scratch >= settings.sandbox_slots * settings.sandbox_disk_bytes


def test_without_keys_google_checks_every_caller() -> None:
    values = {v["name"]: v.get("value") for v in CONTAINER["env"]}
    assert values["GRADEKEEPER_ALLOW_UNAUTHENTICATED"] == "true"
    disabled = SERVICE["metadata"]["annotations"]["run.googleapis.com/invoker-iam-disabled"]
    assert disabled == "false"


@pytest.mark.parametrize("variable", ["GRADEKEEPER_REDIS_URL", "OPENAI_API_KEY"])
def test_secrets_are_references(variable: str) -> None:
    (found,) = (v for v in CONTAINER["env"] if v["name"] == variable)
    assert set(found) == {"name", "valueFrom"}
    assert found["valueFrom"]["secretKeyRef"]["key"] == "latest"


def test_image_is_by_digest_and_probes_need_no_key() -> None:
    assert re.search(r"@sha256:[0-9a-f]{64}$", CONTAINER["image"])
    assert CONTAINER["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert CONTAINER["livenessProbe"]["httpGet"]["path"] == "/healthz"
