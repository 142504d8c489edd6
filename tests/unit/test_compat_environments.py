"""Environments of foreign packages: one that cannot be made is a failure, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compat import environments


def test_what_cannot_be_installed_fails_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(environments, "HOME", tmp_path / "home")
    monkeypatch.setattr(environments, "LOCKS", tmp_path)
    monkeypatch.setattr(environments, "WANTED", {"fine": ((), ()), "absent": ((), ())})
    (tmp_path / "fine.txt").write_text("")
    (tmp_path / "absent.txt").write_text("no-such-package-of-ours==1.0\n")
    with pytest.raises(environments.UnusableError, match="run make compat"):
        environments.environment("fine")

    assert environments.main([]) == 1
    assert "absent cannot be installed: " in capsys.readouterr().err
    assert environments.environment("fine") == tmp_path / "home" / "fine"
    with pytest.raises(environments.UnusableError, match="no-such-package-of-ours"):
        environments.environment("absent")
    assert environments.make("fine") == "fine: there"

    (tmp_path / "fine.txt").write_text("# another lock\n")
    assert environments.make("fine").startswith("fine: installed in ")
