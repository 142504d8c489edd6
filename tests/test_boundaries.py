"""The rules between the parts (ARCHITECTURE.md), proved on the import graph of the sources."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("graders", "service")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.parent.name != "src"  # what definitions are assembled from
}
GRADERS = sorted(name for name in SOURCES if name.split(".")[0] == "graders")
TYPES = ("string_check", "text_similarity", "score_model", "label_model", "python", "multi")
GRADER_TYPES = {f"graders.{name}" for name in (*TYPES, "endpoint")}

# What graders may import besides itself.
PURE_LIBRARIES = {"msgspec", "rapidfuzz"}
PURE_STANDARD = {
    *("__future__", "array", "bisect", "collections", "contextlib", "copy", "functools"),
    *("hashlib", "itertools", "json", "math", "mmap", "operator", "pathlib", "re", "symtable"),
    *("sys", "types", "typing", "urllib", "warnings"),
}
# What runs inside the sandbox; the guest is sent there as text or forked into it.
GUEST = sorted(name for name in SOURCES if name.startswith("service.sandbox.guest"))

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60


def tree_of(name: str) -> ast.Module:
    return ast.parse(SOURCES[name].read_text(encoding="utf-8"))


def imports_of(name: str) -> set[str]:
    """Every module that ``name`` imports anywhere, and names imported from ours as modules."""
    found: set[str] = set()
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            module = node.module or ""
            children = {f"{module}.{alias.name}" for alias in node.names} & SOURCES.keys()
            found |= children or {module}
    return found


GRAPH = {name: imports_of(name) for name in SOURCES}


def code_lines(path: Path) -> set[int]:
    """Lines that hold code: neither blank, nor comment, nor docstring."""
    source = path.read_text(encoding="utf-8")
    layout = {
        *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
        *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def test_the_sources_are_found() -> None:
    assert {"graders", "graders.engine", "graders.metrics.bleu", "service.settings"} <= set(SOURCES)
    assert GRAPH["graders.engine"] >= GRADER_TYPES


@pytest.mark.parametrize("name", GRADERS)
def test_graders_import_only_the_pure_libraries_and_themselves(name: str) -> None:
    foreign = {module.split(".")[0] for module in GRAPH[name]} - {"graders"}
    allowed = PURE_LIBRARIES | PURE_STANDARD
    if name == "graders.engine":
        allowed |= {"asyncio"}
    assert foreign <= allowed
    assert "urllib.request" not in GRAPH[name]


@pytest.mark.parametrize("name", GRADERS)
def test_graders_know_no_environment_and_no_clock(name: str) -> None:
    used = {node.attr for node in ast.walk(tree_of(name)) if isinstance(node, ast.Attribute)}
    assert not used & {"environ", "getenv", "perf_counter", "monotonic", "urandom", "urlopen"}


def test_grader_types_are_imported_by_the_engine_only_and_not_by_each_other() -> None:
    importers = {
        (importer, imported)
        for importer, imports in GRAPH.items()
        for imported in imports & GRADER_TYPES
    }
    assert {importer for importer, _ in importers} == {"graders.engine"}


def test_no_module_imports_itself_by_way_of_others() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path, name))
        if name not in done:
            for imported in sorted(GRAPH[name] & SOURCES.keys()):
                visit(imported, (*path, name))
            done.add(name)

    for name in SOURCES:
        visit(name, ())
    assert done == set(SOURCES)


@pytest.mark.skipif(not GUEST, reason="there is no sandbox guest yet")
def test_what_runs_in_the_sandbox_imports_the_standard_library_only() -> None:
    import sys

    for name in GUEST:
        foreign = {module for module in GRAPH[name] if module not in GUEST}
        assert {module.split(".")[0] for module in foreign} <= sys.stdlib_module_names


def module_level_calls(tree: ast.Module) -> Iterator[str]:
    """Calls that run at import as statements of their own: effects, not values."""
    for node in tree.body:
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
            yield ast.unparse(node)
        elif isinstance(node, ast.For | ast.While | ast.With | ast.Try):
            yield ast.unparse(node).splitlines()[0]


@pytest.mark.parametrize("name", SOURCES)
def test_importing_a_module_does_no_work(name: str) -> None:
    assert list(module_level_calls(tree_of(name))) == []


@pytest.mark.parametrize("name", SOURCES)
def test_modules_and_functions_stay_within_their_budget(name: str) -> None:
    lines = code_lines(SOURCES[name])
    assert len(lines) <= MAX_MODULE_LINES
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = lines & set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            assert len(body) <= MAX_FUNCTION_LINES, node.name
