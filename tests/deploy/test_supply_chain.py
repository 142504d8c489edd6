"""What is known about what we install: bills of materials, and what advisories say of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from service import __version__
from tests.stores.server import free_port
from tests.tools import audit, sbom
from tests.tools.locks import read_pins

LOCK = """\
requests==2.19.0 \\
    --hash=sha256:{0}
six==1.17.0 \\
    --hash=sha256:{0} \\
    --hash=sha256:{1}
nothing==1 ; sys_platform == 'none' \\
    --hash=sha256:{0}
""".format("a" * 64, "b" * 64)


class TestBills:
    @pytest.mark.parametrize("name", sbom.subjects())
    def test_bill_is_valid_and_holds_every_pin_of_its_lock(self, name: str) -> None:
        pins = list(read_pins(sbom.subjects()[name].read_text("utf-8")))
        text = sbom.bill(name, pins)
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        parts = json.loads(text)["components"]
        found = {f"{part['name']}=={part['version']}" for part in parts}
        assert found == {str(pin) for pin in pins if pin.is_for_here}
        assert all(part["hashes"] for part in parts)

    def test_there_is_one_for_everything_an_image_installs(self) -> None:
        names = set(sbom.subjects())
        assert {"gradekeeper", "graders-2025-05-08-full", "graders-2025-05-08-minimal"} <= names

    def test_everything_the_service_runs_on_has_a_licence_and_a_reason_to_be_there(self) -> None:
        lock = sbom.subjects()["gradekeeper"]
        bill = json.loads(sbom.bill("gradekeeper", read_pins(lock.read_text("utf-8"))))
        assert bill["metadata"]["component"]["version"] == __version__
        assert all(part["licenses"] for part in bill["components"])
        graph = {entry["ref"]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
        reached = {"gradekeeper"}
        while new := {need for ref in reached for need in graph[ref]} - reached:
            reached |= new
        assert reached == {"gradekeeper", *(part["bom-ref"] for part in bill["components"])}
        # An extra that we ask for is an edge; one that nobody asks for is none.
        edges = {ref.partition("@")[0]: "".join(needs) for ref, needs in graph.items()}
        assert "pkg:pypi/hiredis@" in edges["pkg:pypi/redis"]
        assert "pkg:pypi/aiohttp@" not in edges["pkg:pypi/uvloop"]

    def test_same_locks_give_the_same_bytes(self) -> None:
        assert sbom.bill("x", read_pins(LOCK)) == sbom.bill("x", read_pins(LOCK))
        assert "nothing" not in sbom.bill("x", read_pins(LOCK))


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    file = tmp_path / "serve.txt"
    file.write_text(LOCK)
    return file


@pytest.fixture
def advisories() -> Iterator[dict[str, Any]]:
    """An advisory service: package → what it says; ``url`` is where it is."""
    said: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = said.get(asked["package"]["name"])
            body = json.dumps({"vulns": [known]} if known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    said["url"] = f"http://127.0.0.1:{server.server_port}/v1/query"
    yield said
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but loopback is reached."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)


BAD = {
    "id": "PYSEC-2018-28",
    "aliases": ["CVE-2018-18074"],
    "details": "sends credentials on",
    "modified": "2020-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "requests", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.20.0"}]}],
            "versions": ["2.19.0"],
        }
    ],
}


class TestAudit:
    def test_nothing_known_is_clean(
        self, lock: Path, advisories: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert audit.main(["--osv-url", advisories["url"], str(lock)]) == audit.CLEAN
        assert "serve.txt: 2 packages looked up, 0 advisories" in capsys.readouterr().out

    def test_known_vulnerability_fails_and_says_where_it_is_mended(
        self, lock: Path, advisories: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        advisories["requests"] = BAD
        arguments = ["--osv-url", advisories["url"], "--unreachable", "notice", str(lock)]
        assert audit.main(arguments) == audit.VULNERABLE
        out = capsys.readouterr().out
        assert "requests==2.19.0  PYSEC-2018-28 CVE-2018-18074  mended in 2.20.0" in out

    def test_accepted_one_is_shown_with_its_reason(
        self,
        lock: Path,
        advisories: dict[str, Any],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        advisories["requests"] = BAD
        monkeypatch.setattr(audit, "ACCEPTED", {"CVE-2018-18074": "no redirects here"})
        assert audit.main(["--osv-url", advisories["url"], str(lock)]) == audit.CLEAN
        assert "accepted: no redirects here" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("flags", "status"),
        [([], audit.NOT_AUDITED), (["--unreachable", "notice"], audit.CLEAN)],
        ids=["fail", "notice"],
    )
    def test_nobody_to_ask_is_said_loudly(
        self,
        lock: Path,
        flags: list[str],
        status: int,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        closed = f"http://127.0.0.1:{free_port()}/"
        assert audit.main(["--osv-url", closed, *flags, str(lock)]) == status
        out, err = capsys.readouterr()
        assert "DEPENDENCIES WERE NOT AUDITED" in err
        assert {"  osv:", "  pypi:"} <= {line[: line.find(":") + 1] for line in err.splitlines()}
        assert out.startswith("::warning ")

    def test_index_that_knows_no_package_has_audited_none(self) -> None:
        """As pip-audit reports, with success, where the index is a mirror without advisories."""
        known = {"name": "six", "version": "1.17.0", "vulns": []}
        unknown = {"name": "requests", "skip_reason": "Dependency not found on PyPI"}
        report = json.dumps({"dependencies": [known, unknown], "fixes": []})
        assert audit.reading(report, "") == "1 of 2 packages: Dependency not found on PyPI"
        assert audit.reading('{"dependencies": []}', "") == "it names no package"
