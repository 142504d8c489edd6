"""What every grader type uses to become executable: options, compiled templates, findings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec

from graders.errors import TemplateSyntaxError
from graders.findings import Findings
from graders.sample import Sample
from graders.template import Path, Template, compile_template

Item: TypeAlias = dict[str, Any]
Score: TypeAlias = Callable[[Item, Sample], float]
Rendering: TypeAlias = Literal["json", "python"]

MAX_SOURCE_BYTES = 256 * 1024  # OpenAI's limit (spec §3.5)
DEFAULT_IMAGE_TAG = "2025-05-08"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How definitions are compiled in this process.

    Attributes:
        rendering: How templates render what is not a string; part of the signature (spec §9.5).
        max_rendered_chars: Longest text that one template may render to.
        max_fuzzy_chars: Longest input or reference of ``fuzzy_match``, which is quadratic.
        max_metric_chars: Longest input or reference of every other text metric.
        synonyms: WordNet's synonyms of a word for METEOR; None when the data is not installed.
        synonyms_hint: How to get the data, for the finding.
        image_tags: Python grader images known here.
        embedding_model: Model behind ``cosine``.
    """

    rendering: Rendering = "json"
    max_rendered_chars: int = 4_000_000
    max_fuzzy_chars: int = 20_000
    max_metric_chars: int = 100_000
    synonyms: Callable[[str], frozenset[str]] | None = None
    synonyms_hint: str = ""
    image_tags: tuple[str, ...] = (DEFAULT_IMAGE_TAG,)
    embedding_model: str = "text-embedding-3-large"


class Builder(Findings):
    """Compiles the pieces of one definition and remembers what is wrong with them.

    Attributes:
        options: How to compile.
        paths: Every template variable the definition reads; None once it needs the whole item.
        checked_bytes: How much Python source was checked so far.
    """

    def __init__(self, options: Options) -> None:
        """Start with no findings."""
        super().__init__()
        self.options = options
        self.paths: list[Path] | None = []
        self.checked_bytes = 0

    def template(self, source: str, pointer: str) -> Template:
        """Return ``source`` compiled; an empty template after recording why it does not compile."""
        options = self.options
        try:
            template = compile_template(
                source, style=options.rendering, max_output_chars=options.max_rendered_chars
            )
        except TemplateSyntaxError as error:
            self.error(pointer, str(error), "invalid_template")
            return compile_template("", style=options.rendering, max_output_chars=0)
        if self.paths is not None:
            self.paths.extend(template.paths)
        return template

    def needs_whole_item(self) -> None:
        """Note that the whole item is handed on, so nothing of it may be left undecoded."""
        self.paths = None
