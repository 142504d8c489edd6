"""What is installed, locked and offered by make is what the project says it is."""

import importlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.tools.licences import declared_licence, is_allowed
from tests.tools.locks import read_pins

ROOT = Path(__file__).parents[2]
LOCKS = ("build.txt", "lock.txt", "runner.txt", "serve.txt", "test.txt")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def lock_text(name: str) -> str:
    return (ROOT / "requirements" / name).read_text("utf-8")


def pins(name: str) -> set[str]:
    return set(re.findall(r"^\S+==\S+", lock_text(name), flags=re.MULTILINE))


@pytest.mark.parametrize("package", ["graders", "service"])
class TestPackage:
    def test_is_ours(self, package: str) -> None:
        assert importlib.import_module(package).__file__ == str(ROOT / package / "__init__.py")

    def test_no_foreign_distribution_installs_it(self, package: str) -> None:
        # Unrelated distributions of both names exist; either would shadow or be shadowed.
        assert set(packages_distributions().get(package, [])) <= {"gradekeeper"}

    def test_is_typed(self, package: str) -> None:
        assert (ROOT / package / "py.typed").is_file()

    def test_is_in_the_wheel(self, package: str) -> None:
        assert package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def test_command_is_installed_under_the_name_of_the_distribution() -> None:
    commands = distribution("gradekeeper").entry_points.select(group="console_scripts")
    assert [(command.name, command.value) for command in commands] == [
        ("gradekeeper", "service.cli:main")
    ]


def test_installed_version_is_the_projects() -> None:
    assert distribution("gradekeeper").version == PROJECT["project"]["version"]


@pytest.mark.parametrize("name", LOCKS)
class TestLock:
    def test_every_pin_has_a_hash(self, name: str) -> None:
        logical_lines = lock_text(name).replace("\\\n", " ").splitlines()
        lines = [line for line in logical_lines if line.strip() and not line.startswith("#")]
        assert lines
        assert [line for line in lines if "==" not in line or "--hash=sha256:" not in line] == []

    @pytest.mark.parametrize(
        "address", ["://", "--index-url", "--extra-index-url", "--find-links", " @ "]
    )
    def test_no_address_is_recorded(self, name: str, address: str) -> None:
        assert address not in lock_text(name)


def test_the_runner_needs_nothing_that_its_lock_lacks() -> None:
    assert pins("runner.txt") <= pins("serve.txt")
    code = (
        "import sys; from service.cli import health, runner; import uvloop, httptools;"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    locked = {canonicalize_name(pin.partition("==")[0]) for pin in pins("runner.txt")}
    needed = {
        canonicalize_name(name)
        for module in found.stdout.split()
        for name in packages_distributions().get(module, [])
    }
    # What is installed but not locked is imported where it is there only (by click, by `site`).
    optional = {"gradekeeper", "typing-extensions", "setuptools"}
    assert needed - optional <= locked
    assert {"litestar", "openai", "aiohttp", "redis"} & needed == set()


@pytest.mark.parametrize("name", ["build.txt", "serve.txt"])
def test_test_lock_holds_all_of(name: str) -> None:
    # `make test` marks the serve lock as installed too.
    assert pins(name) <= pins("test.txt")


def test_serve_lock_holds_every_runtime_dependency() -> None:
    direct = {re.split(r"[\[~<>=]", line)[0] for line in PROJECT["project"]["dependencies"]}
    locked = {pin.partition("==")[0] for pin in pins("serve.txt")}
    assert {canonicalize_name(name) for name in direct} <= locked


@pytest.mark.parametrize(
    "target",
    ["help", "serve", "test", "check", "bench", "lock", "fmt", "wordnet", "image", "clean"],
)
def test_make_has_and_explains_target(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(rf"^{target}:.*  ## \w", makefile, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("MPL-2.0 AND MIT", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("Apache-2.0 WITH LLVM-exception", False),
        ("", False),
    ],
)
def test_licence_is_allowed_by_the_list(expression: str, allowed: bool) -> None:
    assert is_allowed(expression) is allowed


def test_own_licence_is_declared() -> None:
    assert declared_licence(distribution("gradekeeper").metadata) == "Apache-2.0"


def test_pins_for_other_platforms_are_left_out() -> None:
    lock = "a==1 \\\n    --hash=sha256:00\nb==2 ; sys_platform == 'none' \\\n    --hash=sha256:11\n"
    assert [str(pin) for pin in read_pins(lock) if pin.is_for_here] == ["a==1"]
