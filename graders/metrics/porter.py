"""Porter's stemmer with the extensions that NLTK 3.9.1 switches on by default.

METEOR's second stage compares stems, so the stems have to be NLTK's and not those of Porter's
paper: a table of irregular words, "ie" kept in four-letter words (dies, died), "y" to "i"
after any consonant, "alli", "fulli" and "logi" in step 2, and short "vc" stems treated like
"cvc". Words of one or two characters are left alone.

A word is read as a string of vowels (a, e, i, o, u, and y after a consonant) and consonants
(everything else, digits and other scripts included). Its *measure* is the number of times a
vowel is followed by a consonant; a suffix is only cut where enough measure remains. In each
step the first suffix that fits decides, even if its condition then fails.

Source: Porter 1980, "An algorithm for suffix stripping".
"""

from functools import lru_cache

__all__ = ["stem"]

_REMEMBERED_WORDS = 16_384
_REMEMBERED_LENGTH = 64  # characters; bounds the memory that hostile words can hold

_IRREGULAR = {
    "skies": "sky",
    "sky": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "news": "news",
    "innings": "inning",
    "inning": "inning",
    "outings": "outing",
    "outing": "outing",
    "cannings": "canning",
    "canning": "canning",
    "howe": "howe",
    "proceed": "proceed",
    "exceed": "exceed",
    "succeed": "succeed",
}

_DERIVED = (
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
)
_DERIVED_AGAIN = (
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
)
_ENDINGS = tuple(
    (suffix, "")
    for suffix in (
        *("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent"),
        *("ion", "ou", "ism", "ate", "iti", "ous", "ive", "ize"),
    )
)


def stem(word: str) -> str:
    """Return the stem of one word, lower-cased. The empty word is its own stem.

    Source: NLTK 3.9.1, ``PorterStemmer().stem`` in mode ``NLTK_EXTENSIONS``.
    """
    return _remembered_stem(word) if len(word) <= _REMEMBERED_LENGTH else _stem(word)


def _stem(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    lowered = word.lower()
    if len(word) <= 2:  # noqa: PLR2004 - too short to have a suffix
        return lowered
    root = _without_past(_without_plural(lowered))
    if root.endswith("y") and _shape(root)[1:-1].endswith("c"):
        root = f"{root[:-1]}i"
    root = _without_derivation(root)
    root = _replaced(root, _DERIVED_AGAIN, measure=1)
    if not root.endswith("ion") or root.endswith(("sion", "tion")):
        root = _replaced(root, _ENDINGS, measure=2)
    return _without_final_letter(root)


_remembered_stem = lru_cache(maxsize=_REMEMBERED_WORDS)(_stem)


def _shape(word: str) -> str:
    """Return ``word`` with every character replaced by "v" or "c", vowel or consonant."""
    shape = ""
    previous = "v"
    for letter in word:
        vowel = previous == "c" if letter == "y" else letter in "aeiou"
        previous = "v" if vowel else "c"
        shape += previous
    return shape


def _measure(word: str) -> int:
    return _shape(word).count("vc")


def _is_short(word: str) -> bool:
    """Say whether the word ends consonant, vowel, consonant (not w, x, y), or is "vc"."""
    shape = _shape(word)
    return shape == "vc" or (shape.endswith("cvc") and word[-1] not in "wxy")


def _replaced(word: str, rules: tuple[tuple[str, str], ...], *, measure: int) -> str:
    """Apply the first rule whose suffix fits, if ``measure`` remains without the suffix."""
    for suffix, replacement in rules:
        if word.endswith(suffix):
            root = word.removesuffix(suffix)
            return root + replacement if _measure(root) >= measure else word
    return word


def _without_plural(word: str) -> str:
    """Step 1a."""
    if word.endswith("ies"):
        return word[:-1] if len(word) == len("dies") else word[:-2]
    if word.endswith("sses"):
        return word[:-2]
    return word if word.endswith("ss") else word.removesuffix("s")


def _without_past(word: str) -> str:
    """Step 1b."""
    if word.endswith("ied"):
        return word[:-1] if len(word) == len("died") else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) else word
    root = word.removesuffix("ed" if word.endswith("ed") else "ing")
    if root == word or "v" not in _shape(root):
        return word
    if root.endswith(("at", "bl", "iz")):
        return f"{root}e"
    if root[-1:] == root[-2:-1] and _shape(root).endswith("c"):
        return root if root[-1] in "lsz" else root[:-1]
    return f"{root}e" if _measure(root) == 1 and _is_short(root) else root


def _without_derivation(word: str) -> str:
    """Step 2."""
    if word.endswith("alli"):
        if not _measure(word[:-4]):
            return word
        word = word[:-2]
    if word.endswith("logi"):
        # Its "l" belongs to the stem, so that geology is cut like archaeology.
        return word[:-1] if _measure(word[:-3]) else word
    return _replaced(word, _DERIVED, measure=1)


def _without_final_letter(word: str) -> str:
    """Step 5: a final "e", and one of two final "l"."""
    if word.endswith("e"):
        root = word[:-1]
        measure = _measure(root)
        if measure > 1 or (measure == 1 and not _is_short(root)):
            word = root
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
