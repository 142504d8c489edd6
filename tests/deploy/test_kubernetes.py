"""The Kubernetes manifests: valid by its own schemas, hardened, and as the code wants them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from graders import registry
from graders.building import Options
from service.metrics import Metrics
from service.settings import PREFIX, RUNNER_SETTINGS, Settings
from tests.deploy.kubernetes import GIB, RELEASES, Document, schema_problems, size
from tests.tools.manifests import KUBERNETES, OVERLAYS, RENDERED, header, render, why_not

# Custom resources: their schemas belong to the operator that brings them, not to Kubernetes.
CUSTOM = {"ServiceMonitor", "PrometheusRule"}
WITH_RUNNER = ("production", "gvisor")


@cache
def documents(overlay: str) -> list[Document]:
    """Return the rendered documents of an overlay."""
    text = (RENDERED / f"{overlay}.yaml").read_text("utf-8")
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(overlay: str, kind: str) -> dict[str, Document]:
    """Return the documents of one kind by name."""
    found = (document for document in documents(overlay) if document["kind"] == kind)
    return {document["metadata"]["name"]: document for document in found}


def pods() -> list[Any]:
    """Return overlay and Deployment of every pod there is, to run a test on each."""
    return [
        pytest.param(overlay, name, id=f"{overlay}-{name}")
        for overlay in OVERLAYS
        for name in of_kind(overlay, "Deployment")
    ]


def pod_of(overlay: str, name: str) -> Document:
    """Return the pod that a Deployment makes."""
    spec: Document = of_kind(overlay, "Deployment")[name]["spec"]["template"]["spec"]
    return spec


def environment_of(overlay: str, name: str) -> dict[str, str]:
    """Return the variables of a Deployment's container; references to secrets as their key."""
    (container,) = pod_of(overlay, name)["containers"]
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= of_kind(overlay, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    for variable in container.get("env", []):
        reference = variable["valueFrom"]["secretKeyRef"]
        found[variable["name"]] = f"secret:{reference['name']}/{reference['key']}"
    return found


def settings_of(overlay: str, name: str) -> Settings:
    """Return what the process in the pod reads from its environment."""
    own = {k: v for k, v in environment_of(overlay, name).items() if k.startswith(PREFIX)}
    return Settings.from_environment(own, runner=name == "sandbox-runner")


class TestRendering:
    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_rendered_files_are_of_these_sources(self, overlay: str) -> None:
        text = (RENDERED / f"{overlay}.yaml").read_text("utf-8")
        assert text.startswith(header()), "make manifests"

    @pytest.mark.skipif(bool(why_not()), reason=f"rendering again: {why_not()}")
    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_rendered_files_are_what_kubectl_makes_of_them(self, overlay: str) -> None:
        assert list(yaml.safe_load_all(render(overlay))) == documents(overlay)


@pytest.mark.skipif(bool(why_not()), reason=f"rendering the README's overlay: {why_not()}")
class TestOverlayOfTheReadme:
    """What deploy/kubernetes/README.md tells to write works as it stands there."""

    @pytest.fixture
    def made(self, tmp_path: Path) -> dict[str, dict[str, Any]]:
        """Return the Deployments and ConfigMaps, by name without digest, of that overlay."""
        text = (KUBERNETES / "README.md").read_text("utf-8")
        (overlay,) = re.findall(r"(?ms)^```yaml mine/kustomization.yaml\n(.*?)^```", text)
        for placeholder in ("YOUR-DIGEST", "YOUR-RUNNER-DIGEST"):
            overlay = overlay.replace(placeholder, "1" * 64)
        shutil.copytree(KUBERNETES, tmp_path / "deploy" / "kubernetes")
        mine = tmp_path / "mine"
        mine.mkdir()
        (mine / "kustomization.yaml").write_text(overlay.replace("YOUR-REGISTRY", "r.test"))
        for name in ("routes.json", "budgets.json"):
            (mine / name).write_text("{}")
        command = ["kubectl", "kustomize", str(mine)]
        rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        wanted = ("Deployment", "ConfigMap")
        found = [d for d in yaml.safe_load_all(rendered) if d and d["kind"] in wanted]
        assert all(d["metadata"]["namespace"] == "gradekeeper" for d in found)
        return {
            f"{d['kind']}/{re.sub('-[a-z0-9]{10}$', '', d['metadata']['name'])}": d for d in found
        }

    def test_replaces_every_image(self, made: dict[str, dict[str, Any]]) -> None:
        images = {
            container["image"]
            for name, document in made.items()
            if name.startswith("Deployment/")
            for container in document["spec"]["template"]["spec"]["containers"]
        }
        digest = f"@sha256:{'1' * 64}"
        assert images == {f"r.test/gradekeeper{digest}", f"r.test/gradekeeper-runner{digest}"}

    def test_gives_the_service_routes_and_budgets(self, made: dict[str, dict[str, Any]]) -> None:
        settings = Settings.from_environment(made["ConfigMap/gradekeeper-settings"]["data"])
        files = [Path(settings.judge_routes_file), Path(settings.judge_budgets_file)]
        judges = made["ConfigMap/gradekeeper-judges"]
        assert {file.name for file in files} == set(judges["data"])
        pod = made["Deployment/gradekeeper"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for file in files:
            volume = volumes[mounts[str(file.parent)]]
            assert volume["configMap"]["name"] == judges["metadata"]["name"]
        assert "/run/secrets/gradekeeper" in mounts, "what the overlay adds replaces nothing"


class TestSchemas:
    @pytest.mark.parametrize("release", RELEASES)
    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_every_document_is_valid(self, overlay: str, release: str) -> None:
        problems = [
            f"{document['kind']}/{document['metadata']['name']}: {problem}"
            for document in documents(overlay)
            if document["kind"] not in CUSTOM
            for problem in schema_problems(document, release)
        ]
        assert problems == []

    def test_misspelt_field_is_found(self) -> None:
        document = of_kind("small", "Deployment")["gradekeeper"]
        spec = {**document["spec"], "replicsa": 1}
        assert schema_problems({**document, "spec": spec}, RELEASES[0])


@pytest.mark.parametrize(("overlay", "name"), pods())
class TestEveryPod:
    def test_meets_the_restricted_standard(self, overlay: str, name: str) -> None:
        """https://kubernetes.io/docs/concepts/security/pod-security-standards/."""
        pod = pod_of(overlay, name)
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(pod)
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] >= 10_000
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "initContainers" not in pod
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert own["readOnlyRootFilesystem"] is True
            assert not {"privileged", "procMount", "runAsUser"} & set(own)
            assert not [port for port in container["ports"] if "hostPort" in port]
        for volume in pod["volumes"]:
            assert set(volume) - {"name"} <= {"secret", "configMap", "emptyDir"}

    def test_cannot_ask_the_cluster_and_is_told_nothing_by_it(
        self, overlay: str, name: str
    ) -> None:
        pod = pod_of(overlay, name)
        assert pod["automountServiceAccountToken"] is False
        account = of_kind(overlay, "ServiceAccount")[pod["serviceAccountName"]]
        assert account["automountServiceAccountToken"] is False
        # Else a Service named gradekeeper sets GRADEKEEPER_PORT=tcp://… in every pod.
        assert pod["enableServiceLinks"] is False

    def test_is_bounded(self, overlay: str, name: str) -> None:
        for container in pod_of(overlay, name)["containers"]:
            bounds = {"cpu", "memory", "ephemeral-storage"}
            assert set(container["resources"]["limits"]) == bounds
            assert set(container["resources"]["requests"]) == bounds

    def test_is_probed_at_routes_that_need_no_key(self, overlay: str, name: str) -> None:
        for container in pod_of(overlay, name)["containers"]:
            probes = {
                kind: container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")
            }
            assert probes["readiness"]["httpGet"]["path"] == "/readyz"
            # A dependency that is away is no reason to kill the process.
            assert probes["liveness"]["httpGet"]["path"] == "/healthz"
            assert {probe["httpGet"]["port"] for probe in probes.values()} == {"http"}

    def test_runs_an_image_by_digest(self, overlay: str, name: str) -> None:
        for container in pod_of(overlay, name)["containers"]:
            assert re.fullmatch(r"[a-z0-9./-]+@sha256:[0-9a-f]{64}", container["image"])

    def test_is_spread_and_kept_when_nodes_are_drained(self, overlay: str, name: str) -> None:
        labels = of_kind(overlay, "Deployment")[name]["spec"]["template"]["metadata"]["labels"]
        spread = pod_of(overlay, name)["topologySpreadConstraints"]
        assert {rule["topologyKey"] for rule in spread} == {
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        }
        selectors = [rule["labelSelector"]["matchLabels"] for rule in spread]
        budget = of_kind(overlay, "PodDisruptionBudget")[name]["spec"]
        selectors.append(budget["selector"]["matchLabels"])
        selectors.append(of_kind(overlay, "Service")[name]["spec"]["selector"])
        assert all(selector.items() <= labels.items() for selector in selectors)
        assert budget["maxUnavailable"] == 1

    def test_reads_variables_that_settings_know(self, overlay: str, name: str) -> None:
        assert settings_of(overlay, name).shutdown_grace_s
        foreign = {v for v in environment_of(overlay, name) if not v.startswith(PREFIX)}
        assert foreign <= {"OPENAI_API_KEY"}

    def test_finds_the_files_that_its_settings_name(self, overlay: str, name: str) -> None:
        pod = pod_of(overlay, name)
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert all(
            mount.get("readOnly")
            for mount in container["volumeMounts"]
            if mount["mountPath"] != "/tmp"
        )
        settings = settings_of(overlay, name)
        for file in filter(None, (settings.api_keys_file, settings.sandbox_token_file)):
            assert "secret" in mounts[str(Path(file).parent)]
        if settings.definitions:
            assert "configMap" in mounts[settings.definitions]
        assert mounts["/tmp"]["emptyDir"]["medium"] == "Memory"

    def test_has_the_memory_that_python_graders_may_take(self, overlay: str, name: str) -> None:
        """docs/sandbox.md: 0.5 GB + package sets + slots × (memory limit + scratch limit)."""
        settings = settings_of(overlay, name)
        if settings.sandbox_url:
            return  # others do
        pod = pod_of(overlay, name)
        (container,) = pod["containers"]
        assert settings.sandbox_slots, "a node's number of CPUs says nothing in a container"
        call = settings.sandbox_memory_bytes + settings.sandbox_disk_bytes
        needed = GIB // 2 + settings.sandbox_slots * call
        assert size(container["resources"]["limits"]["memory"]) >= needed
        (scratch,) = (v["emptyDir"] for v in pod["volumes"] if "emptyDir" in v)
        assert size(scratch["sizeLimit"]) >= settings.sandbox_slots * settings.sandbox_disk_bytes

    def test_is_given_longer_to_stop_than_it_takes(self, overlay: str, name: str) -> None:
        pod = pod_of(overlay, name)
        settings = settings_of(overlay, name)
        pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] >= pause + settings.shutdown_grace_s + 10

    def test_listens_where_the_service_and_the_probes_look(self, overlay: str, name: str) -> None:
        settings = settings_of(overlay, name)
        listens = settings.port
        if name == "sandbox-runner":
            listens = int(settings.runner_listen.rpartition(":")[2])
        (port,) = pod_of(overlay, name)["containers"][0]["ports"]
        assert port == {"name": "http", "containerPort": listens}
        (exposed,) = of_kind(overlay, "Service")[name]["spec"]["ports"]
        assert exposed == {"name": "http", "port": listens, "targetPort": "http"}


@pytest.mark.parametrize("overlay", OVERLAYS)
class TestEveryOverlay:
    def test_namespace_enforces_the_restricted_standard(self, overlay: str) -> None:
        (namespace,) = of_kind(overlay, "Namespace").values()
        labels = namespace["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
        for document in documents(overlay):
            if document["kind"] != "Namespace":
                assert document["metadata"]["namespace"] == namespace["metadata"]["name"]

    def test_holds_no_secret(self, overlay: str) -> None:
        assert not of_kind(overlay, "Secret")
        for settings in of_kind(overlay, "ConfigMap").values():
            assert not [key for key in settings["data"] if re.search("API_KEY$|REDIS_URL", key)]

    def test_everything_is_denied_but_what_is_listed(self, overlay: str) -> None:
        policies = of_kind(overlay, "NetworkPolicy")
        assert policies["default-deny"]["spec"] == {
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
        }
        for policy in policies.values():
            assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
            for rule in policy["spec"].get("ingress", []):
                assert rule["from"]
                assert rule["ports"]

    def test_judges_are_reached_and_the_network_of_the_cluster_is_not(self, overlay: str) -> None:
        egress = of_kind(overlay, "NetworkPolicy")["gradekeeper"]["spec"]["egress"]
        blocks = [to["ipBlock"] for rule in egress for to in rule["to"] if "ipBlock" in to]
        excepted = {network for block in blocks for network in block["except"]}
        assert {"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} <= excepted

    def test_definitions_are_served_as_they_are_mounted(self, overlay: str, tmp_path: Path) -> None:
        """The kubelet's layout: a hidden folder with the files, links to it on top."""
        pod = pod_of(overlay, "gradekeeper")
        (volume,) = (v["configMap"] for v in pod["volumes"] if "configMap" in v)
        data = of_kind(overlay, "ConfigMap")[volume["name"]]["data"]
        assert {item["key"] for item in volume["items"]} == set(data)
        home = tmp_path / "..2026_11_20"
        for item in volume["items"]:
            path = home / item["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(data[item["key"]])
        (tmp_path / "..data").symlink_to(home.name)
        for path in home.iterdir():
            (tmp_path / path.name).symlink_to(f"..data/{path.name}")
        assert registry.load([tmp_path], Options()).names() == ["capital"]

    def test_autoscalers_look_at_series_of_the_catalogue(self, overlay: str) -> None:
        for scaler in of_kind(overlay, "HorizontalPodAutoscaler").values():
            assert scaler["spec"]["scaleTargetRef"]["name"] in of_kind(overlay, "Deployment")
            assert set(series_of(scaler)) <= gauges()


def series_of(scaler: Document) -> Iterator[str]:
    for metric in scaler["spec"]["metrics"]:
        if metric["type"] == "Pods":
            yield metric["pods"]["metric"]["name"]


def gauges() -> set[str]:
    """Return the names of the gauges in the catalogue."""
    families = Metrics().registry.collect()
    return {family.name for family in families if family.type == "gauge"}


class TestScaling:
    def test_small_is_one_pod(self) -> None:
        assert of_kind("small", "Deployment")["gradekeeper"]["spec"]["replicas"] == 1
        assert not of_kind("small", "HorizontalPodAutoscaler")

    @pytest.mark.parametrize("overlay", WITH_RUNNER)
    def test_each_deployment_is_scaled_by_what_waits_in_it(self, overlay: str) -> None:
        scalers = of_kind(overlay, "HorizontalPodAutoscaler")
        assert list(series_of(scalers["gradekeeper"])) == ["gradekeeper_grades_in_flight"]
        assert list(series_of(scalers["sandbox-runner"])) == ["gradekeeper_sandbox_waiting"]

    @pytest.mark.parametrize("overlay", WITH_RUNNER)
    def test_several_pods_need_a_common_store(self, overlay: str) -> None:
        (container,) = pod_of(overlay, "gradekeeper")["containers"]
        (store,) = (v for v in container["env"] if v["name"] == "GRADEKEEPER_REDIS_URL")
        assert store["valueFrom"]["secretKeyRef"]["optional"] is False

    def test_rules_of_the_adapter_give_what_the_autoscalers_ask_for(self) -> None:
        text = (KUBERNETES / "prometheus-adapter.yaml").read_text("utf-8")
        rules = yaml.safe_load(text)["rules"]["custom"]
        given = {rule["name"]["as"] for rule in rules}
        base = yaml.safe_load((KUBERNETES / "base" / "autoscaler.yaml").read_text("utf-8"))
        assert given == set(series_of(base))
        for rule in rules:
            assert rule["name"]["as"] in rule["seriesQuery"]


@pytest.mark.parametrize("overlay", WITH_RUNNER)
class TestRunner:
    def test_holds_no_key_and_the_service_runs_no_user_code(self, overlay: str) -> None:
        names = {
            name.removeprefix(PREFIX).lower() for name in environment_of(overlay, "sandbox-runner")
        }
        assert names <= RUNNER_SETTINGS
        secrets = [
            v["secret"] for v in pod_of(overlay, "sandbox-runner")["volumes"] if "secret" in v
        ]
        assert [secret["secretName"] for secret in secrets] == ["sandbox-token"]
        assert settings_of(overlay, "gradekeeper").sandbox_url == "http://sandbox-runner:8081"

    def test_has_no_way_out(self, overlay: str) -> None:
        policy = of_kind(overlay, "NetworkPolicy")["sandbox-runner"]["spec"]
        assert "Egress" in policy["policyTypes"]
        assert not policy.get("egress")

    def test_is_reached_by_the_service(self, overlay: str) -> None:
        labels = of_kind(overlay, "Deployment")["sandbox-runner"]["spec"]["template"]["metadata"]
        egress = of_kind(overlay, "NetworkPolicy")["gradekeeper"]["spec"]["egress"]
        reached = [
            to["podSelector"]["matchLabels"]
            for rule in egress
            for to in rule["to"]
            if "podSelector" in to and "namespaceSelector" not in to
        ]
        assert [target.items() <= labels["labels"].items() for target in reached] == [True]

    def test_both_sides_present_the_same_token(self, overlay: str) -> None:
        files = {
            settings_of(overlay, name).sandbox_token_file
            for name in ("gradekeeper", "sandbox-runner")
        }
        assert files == {"/run/secrets/sandbox/token"}

    def test_may_finish_the_longest_grader_when_it_is_stopped(self, overlay: str) -> None:
        settings = settings_of(overlay, "sandbox-runner")
        assert settings.shutdown_grace_s >= settings.sandbox_timeout_s


def test_gvisor_is_around_user_code_and_both_sides_accept_its_level() -> None:
    assert pod_of("gvisor", "sandbox-runner")["runtimeClassName"] == "gvisor"
    for name in ("gradekeeper", "sandbox-runner"):
        assert settings_of("gvisor", name).sandbox_min_isolation == "seccomp"
        assert settings_of("production", name).sandbox_min_isolation == "lsm"


class TestMonitoring:
    @pytest.mark.parametrize("overlay", WITH_RUNNER)
    def test_every_deployment_is_scraped(self, overlay: str) -> None:
        for name, monitor in of_kind(overlay, "ServiceMonitor").items():
            assert set(monitor) == {"apiVersion", "kind", "metadata", "spec"}
            selector = monitor["spec"]["selector"]["matchLabels"]
            assert (
                selector.items() <= of_kind(overlay, "Service")[name]["metadata"]["labels"].items()
            )
            (endpoint,) = monitor["spec"]["endpoints"]
            assert endpoint["port"] == "http"
            assert endpoint["path"] == "/metrics"
        monitors = of_kind(overlay, "ServiceMonitor")
        assert set(monitors) == set(of_kind(overlay, "Deployment"))
        (endpoint,) = monitors["gradekeeper"]["spec"]["endpoints"]
        assert endpoint["authorization"]["credentials"]["name"] == "gradekeeper-metrics"

    @pytest.mark.parametrize("overlay", WITH_RUNNER)
    def test_alerts_are_those_of_prometheus(self, overlay: str) -> None:
        text = (KUBERNETES.parent / "prometheus" / "rules.yaml").read_text("utf-8")
        (rule,) = of_kind(overlay, "PrometheusRule").values()
        assert rule["apiVersion"] == "monitoring.coreos.com/v1"
        assert rule["spec"] == yaml.safe_load(text)
