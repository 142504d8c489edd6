"""The packages a tier may hold: how each is imported and warmed up before the first fork.

A warm-up runs one fixed, trusted piece of work, so that caches that every grader would fill
(sympy's simplifier, NLTK's stemmer) are filled once; it may not depend on any call.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Order matters twice: it is the bit order of a tier's set, and cheap packages come first. Append
# only.
PACKAGES = (
    "numpy",
    "rapidfuzz",
    "yaml",
    "sqlparse",
    "ast_grep_py",
    "pydantic",
    "jsonschema",
    "sympy",
    "scipy",
    "pandas",
    "rdkit",
    "sklearn",
    "deepdiff",
    "nltk",
    "rouge_score",
    "skbio",
    "standard",
)

# Not a package: the slower modules of the standard library, as one. The faster ones are loaded in
# every zygote, because what a zygote holds costs every fork from it.
STANDARD = (
    "asyncio",
    "base64",
    "concurrent.futures",
    "copy",
    "csv",
    "dataclasses",
    "decimal",
    "difflib",
    "enum",
    "fractions",
    "hashlib",
    "heapq",
    "html",
    "inspect",
    "logging",
    "pathlib",
    "queue",
    "secrets",
    "shutil",
    "statistics",
    "subprocess",
    "tempfile",
    "textwrap",
    "threading",
    "unicodedata",
    "urllib.parse",
    "uuid",
)
EVERYWHERE = ("bisect", "datetime", "string", "traceback", "typing")

# Modules that graders reach through the package's name, or that a package loads on first use.
_SUBMODULES = {
    "numpy": ("numpy.random", "numpy.linalg"),
    "rapidfuzz": ("rapidfuzz.fuzz", "rapidfuzz.process", "rapidfuzz.utils", "rapidfuzz.distance"),
    "rdkit": ("rdkit.Chem", "rdkit.DataStructs"),
    "rouge_score": ("rouge_score.rouge_scorer",),
    "scipy": ("scipy.stats",),
    "sklearn": ("sklearn.metrics",),
}


def load(name: str) -> None:
    """Import package ``name`` and warm it up.

    Raises:
        ImportError: The image does not have it.
    """
    if name == "standard":
        for module in STANDARD:
            importlib.import_module(module)
        return
    importlib.import_module(name)
    for submodule in _SUBMODULES.get(name, ()):
        with contextlib.suppress(ImportError):
            importlib.import_module(submodule)
    _WARMUPS.get(name, lambda: None)()


def is_installed(name: str) -> bool:
    """Return whether the image has package ``name``."""
    return name == "standard" or importlib.machinery.PathFinder.find_spec(name) is not None


def _warm_sympy() -> None:
    sympy = importlib.import_module("sympy")
    x = sympy.Symbol("x")
    sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2)
    sympy.simplify(sympy.sympify("(x**2 - 1)/(x - 1)"))


def _warm_rouge() -> None:
    scorer = importlib.import_module("rouge_score.rouge_scorer")
    scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True).score(
        "the running cat", "a cat runs"
    )


def _warm_pandas() -> None:
    pandas = importlib.import_module("pandas")
    pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}).groupby("b")["a"].mean()


def _warm_sklearn() -> None:
    importlib.import_module("sklearn.metrics").f1_score([0, 1], [0, 1])


def _warm_rdkit() -> None:
    chem = importlib.import_module("rdkit.Chem")
    chem.MolToSmiles(chem.MolFromSmiles("CCO"))


def _warm_jsonschema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    importlib.import_module("jsonschema").validate({"a": 1}, schema)


_WARMUPS: dict[str, Callable[[], None]] = {
    "jsonschema": _warm_jsonschema,
    "pandas": _warm_pandas,
    "rdkit": _warm_rdkit,
    "rouge_score": _warm_rouge,
    "sklearn": _warm_sklearn,
    "sympy": _warm_sympy,
}
