"""Synonyms from WordNet's database files, as METEOR needs them.

Reads the ``index.*``, ``data.*`` and ``*.exc`` files of WordNet 3.0 (format: wndb(5WN)) from a
directory given by the caller; where it lies is not decided here. Nothing is read before the
first question. The large files are mapped, not loaded, and words are found by bisection: an
index is sorted by word, byte by byte.

Answers are those of NLTK 3.9.1's ``wordnet.synsets(word)``: a word is looked up in all four
parts of speech as it stands and in its base forms. Base forms are those the exception list
names, or else what the endings of the part of speech give, one ending cut once.
"""

import mmap
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path

__all__ = ["WordNet", "WordNetNotFoundError"]

_REMEMBERED_WORDS = 8_192
_REMEMBERED_LENGTH = 64  # characters; bounds the memory that hostile words can hold

_ENDINGS = {
    "noun": (
        *((b"s", b""), (b"ses", b"s"), (b"ves", b"f"), (b"xes", b"x"), (b"zes", b"z")),
        *((b"ches", b"ch"), (b"shes", b"sh"), (b"men", b"man"), (b"ies", b"y")),
    ),
    "verb": (
        *((b"s", b""), (b"ies", b"y"), (b"es", b"e"), (b"es", b""), (b"ed", b"e")),
        *((b"ed", b""), (b"ing", b"e"), (b"ing", b"")),
    ),
    "adj": ((b"er", b""), (b"est", b""), (b"er", b"e"), (b"est", b"e")),
    "adv": (),
}


class WordNetNotFoundError(FileNotFoundError):
    """Database files of WordNet are missing where they should be.

    Attributes:
        directory: Where they were looked for.
        missing: The names of the files that are not there.
    """

    def __init__(self, directory: Path, missing: tuple[str, ...]) -> None:
        """Say what is missing in ``directory`` and how to get it."""
        super().__init__(
            f"no WordNet in {directory} (missing: {', '.join(missing)}); METEOR needs it:"
            " run `make wordnet`, install the Debian packages wordnet-base and"
            " wordnet-sense-index, or unpack them without root by apt-get download and"
            " dpkg-deb -x, and point to the directory that holds index.noun"
        )
        self.directory = directory
        self.missing = missing


class WordNet:
    """The synonyms that one WordNet directory knows.

    Safe to share between threads. Keeps the last 8,192 answers and four line tables (0.6 MB).
    """

    def __init__(self, directory: Path) -> None:
        """Remember where the files are, without touching them."""
        self.directory = directory
        self._remembered = lru_cache(maxsize=_REMEMBERED_WORDS)(self._look_up)

    def verify(self) -> None:
        """Check that every file is there, so that a service can fail before it serves.

        Raises:
            WordNetNotFoundError: One or more are not.
        """
        names = (
            name for part in _ENDINGS for name in (f"index.{part}", f"data.{part}", f"{part}.exc")
        )
        missing = tuple(name for name in names if not (self.directory / name).is_file())
        if missing:
            raise WordNetNotFoundError(self.directory, missing)

    def synonyms(self, word: str) -> frozenset[str]:
        """Return every single-word name of every synset of ``word``, itself among them.

        Case is ignored in the question and kept in the answer; adjective markers such as
        "(p)" are stripped. A word that WordNet does not know gives the empty set.

        Raises:
            WordNetNotFoundError: The directory holds no complete WordNet.
        """
        lowered = word.lower()
        if len(lowered) <= _REMEMBERED_LENGTH:
            return self._remembered(lowered)
        return self._look_up(lowered)

    def _look_up(self, word: str) -> frozenset[str]:
        # Unpaired surrogates are legal in JSON and therefore in texts.
        key = word.encode(errors="surrogatepass")
        return frozenset(
            name.decode() for part in self._parts for name in part.names(key) if b"_" not in name
        )

    @cached_property
    def _parts(self) -> tuple["_PartOfSpeech", ...]:
        self.verify()
        return tuple(
            _PartOfSpeech(self.directory, part, endings) for part, endings in _ENDINGS.items()
        )


class _PartOfSpeech:
    """Index, synsets and exceptions of nouns, verbs, adjectives or adverbs."""

    def __init__(
        self, directory: Path, part: str, endings: tuple[tuple[bytes, bytes], ...]
    ) -> None:
        self._endings = endings
        self._index = _mapped(directory / f"index.{part}")
        self._synsets = _mapped(directory / f"data.{part}")
        self._exceptions = _exceptions(directory / f"{part}.exc")
        self._line_starts = _line_starts(self._index)

    def names(self, word: bytes) -> Iterator[bytes]:
        """Yield the names in all synsets of ``word`` and its base forms, repeats included."""
        for form in {word, *self._base_forms(word)}:
            for offset in self._synset_offsets(form):
                yield from self._synset_names(offset)

    def _base_forms(self, word: bytes) -> list[bytes]:
        if word in self._exceptions:
            return self._exceptions[word]
        return [
            word.removesuffix(ending) + base
            for ending, base in self._endings
            if word.endswith(ending)
        ]

    def _synset_offsets(self, word: bytes) -> list[int]:
        """Return where the synsets of ``word`` stand in the data file; none if unknown.

        Index line: word, part of speech, number of synsets, ..., offset of each synset.
        """
        line = bisect_left(self._line_starts, word, key=self._word_at)
        if line == len(self._line_starts) or self._word_at(self._line_starts[line]) != word:
            return []
        fields = _line(self._index, self._line_starts[line]).split()
        return [int(field) for field in fields[-int(fields[2]) :]]

    def _word_at(self, line_start: int) -> bytes:
        return self._index[line_start : self._index.find(b" ", line_start)]

    def _synset_names(self, offset: int) -> list[bytes]:
        """Return the names in one synset.

        Data line: offset, file number, type, number of names in hexadecimal, then each name
        followed by a number, ... An adjective's name may end in a marker in parentheses.
        """
        fields = _line(self._synsets, offset).split()
        names = fields[4 : 4 + 2 * int(fields[3], base=16) : 2]
        return [name.partition(b"(")[0] if name.endswith(b")") else name for name in names]


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _line_starts(index: mmap.mmap) -> "array[int]":
    """Return where each word's line starts, without the licence on top."""
    starts = array("I")
    position = 0
    for line in iter(index.readline, b""):
        if not line.startswith(b" "):
            starts.append(position)
        position += len(line)
    return starts


def _line(file: mmap.mmap, start: int) -> bytes:
    return file[start : file.find(b"\n", start)]


def _exceptions(path: Path) -> dict[bytes, list[bytes]]:
    """Read an exception list: an inflected form and its base forms on each line."""
    forms = (line.split() for line in path.read_bytes().splitlines())
    return {inflected: bases for inflected, *bases in forms}
