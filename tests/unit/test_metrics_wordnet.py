"""The WordNet reader, on databases of a few words."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from graders.metrics import WordNet, WordNetNotFoundError

LICENCE = "  1 This stands where the licence stands.  \n  2 It is indented.  \n"
PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}


def write_part(
    directory: Path, part: str, synsets: Sequence[Sequence[str]], exceptions: str = ""
) -> None:
    """Write the three files of one part of speech in the format of wndb(5WN)."""
    data = LICENCE
    offsets: dict[str, list[str]] = {}
    for names in synsets:
        offset = f"{len(data):08d}"
        for name in names:
            offsets.setdefault(name.partition("(")[0].lower(), []).append(offset)
        listed = " ".join(f"{name} 0" for name in names)
        data += f"{offset} 03 {PARTS[part]} {len(names):02x} {listed} 000 | a gloss (aside)  \n"
    index = LICENCE + "".join(
        f"{word} {PARTS[part]} {len(found)} 1 @ {len(found)} 0 {' '.join(found)}  \n"
        for word, found in sorted(offsets.items())
    )
    (directory / f"data.{part}").write_text(data)
    (directory / f"index.{part}").write_text(index)
    (directory / f"{part}.exc").write_text(exceptions)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    many = [f"kind{number}" for number in range(20)]
    write_part(
        tmp_path,
        "noun",
        [["dog", "domestic_dog", "Canis"], ["dog", "frump"], ["ox"], ["kind", *many]],
        "oxen ox\noxes unlisted\n",
    )
    write_part(tmp_path, "verb", [["chase", "dog"], ["hope"], ["hop"]])
    write_part(tmp_path, "adj", [["galore(ip)", "abundant"], ["big", "large(p)"], ["odd)"]])
    write_part(tmp_path, "adv", [["doggedly"]])
    return tmp_path


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        pytest.param("dog", {"dog", "Canis", "frump", "chase"}, id="all synsets and parts"),
        pytest.param("DOG", {"dog", "Canis", "frump", "chase"}, id="case is ignored"),
        pytest.param("dogs", {"dog", "Canis", "frump", "chase"}, id="ending cut"),
        pytest.param("oxen", {"ox"}, id="exception"),
        pytest.param("oxes", set(), id="an exception replaces the endings"),
        pytest.param("hoping", {"hope", "hop"}, id="every ending that fits"),
        pytest.param("bigest", {"big", "large"}, id="marker stripped"),
        pytest.param("galore", {"galore", "abundant"}, id="longer marker stripped"),
        pytest.param("odd)", {"odd)"}, id="parenthesis that is no marker"),
        pytest.param("kind", {"kind", *(f"kind{n}" for n in range(20))}, id="hexadecimal count"),
        pytest.param("domestic_dog", {"dog", "Canis"}, id="only single words come back"),
        pytest.param("zebra", set(), id="after the last word"),
        pytest.param("cat", set(), id="between words"),
        pytest.param("", set(), id="empty word is not the licence"),
        pytest.param("s", set(), id="nor is what an ending leaves of nothing"),
        pytest.param("h\ud800", set(), id="unpaired surrogate"),
        pytest.param("dog" * 40, set(), id="too long to remember"),
    ],
)
def test_synonyms_are_the_names_in_all_synsets(
    directory: Path, word: str, expected: set[str]
) -> None:
    assert WordNet(directory).synonyms(word) == expected


def test_answers_are_remembered(directory: Path) -> None:
    wordnet = WordNet(directory)
    assert wordnet.synonyms("dog") is wordnet.synonyms("dog")


def test_complete_directory_verifies(directory: Path) -> None:
    WordNet(directory).verify()


def test_missing_files_are_named_with_the_way_to_get_them(directory: Path) -> None:
    (directory / "data.verb").unlink()
    (directory / "noun.exc").unlink()
    with pytest.raises(WordNetNotFoundError) as caught:
        WordNet(directory).verify()
    assert caught.value.directory == directory
    assert caught.value.missing == ("noun.exc", "data.verb")
    assert str(caught.value) == (
        f"no WordNet in {directory} (missing: noun.exc, data.verb); METEOR needs it: run"
        " `make wordnet`, install the Debian packages wordnet-base and wordnet-sense-index, or"
        " unpack them without root by apt-get download and dpkg-deb -x, and point to the"
        " directory that holds index.noun"
    )


def test_nothing_is_read_before_the_first_question(tmp_path: Path) -> None:
    wordnet = WordNet(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"no WordNet in .*absent"):
        wordnet.synonyms("dog")
