"""deploy/make-secrets: random, readable by nobody else, and never written twice."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from service.auth import read_keys
from tests.deploy.stack import DEPLOY, make_secrets


def test_keys_are_random_and_only_their_hashes_are_in_the_file(tmp_path: Path) -> None:
    one, two = (make_secrets(tmp_path / name) for name in ("one", "two"))
    keys = read_keys((one / "keys.json").read_bytes())
    assert {key.name: set(key.scopes) for key in keys} == {
        "trainer": {"score"},
        "operator": {"score", "run", "publish", "metrics"},
        "prometheus": {"metrics"},
    }
    for file in one.iterdir():
        assert file.read_text() != (two / file.name).read_text()


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    folder = make_secrets(tmp_path / "secrets")
    environment = folder / "gradekeeper.env"
    environment.write_text(environment.read_text() + "OPENAI_API_KEY=sk-mine\n")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / "redis-users").unlink()  # written again from the password that is in use
    make_secrets(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_nobody_else_on_the_machine_can_read_them(tmp_path: Path) -> None:
    folder = make_secrets(tmp_path / "secrets")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    own = {"trainer.key", "operator.key", "gradekeeper.env"}  # no container mounts these
    assert {f.name for f in folder.iterdir() if stat.S_IMODE(f.stat().st_mode) == 0o600} == own


def test_the_cluster_s_secrets_come_from_files_that_are_made_before(tmp_path: Path) -> None:
    text = (DEPLOY / "kubernetes" / "README.md").read_text("utf-8")
    made = {file.name for file in make_secrets(tmp_path / "secrets").iterdir()}
    made |= set(re.findall(r">deploy/secrets/(\S+?)\)?$", text, re.MULTILINE))
    read = set(re.findall(r"--from-file=(?:[a-z]+=)?deploy/secrets/(\S+)", text))
    assert {"keys.json", "prometheus.key", "redis-url", "openai-api-key"} == read
    assert read <= made
