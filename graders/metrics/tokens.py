"""The two tokenizers of the text metrics.

ROUGE counts runs of ASCII letters and digits; BLEU, GLEU and METEOR count Penn Treebank
words. Both give exactly the tokens of the reference implementations (rouge-score 0.1.2 and
``nltk.word_tokenize(text, preserve_line=True)`` of NLTK 3.9.1), since one token more or less
is another score. Sentences are not split and nothing is normalised beyond what these do.

Treebank rules, in the order that decides between them:

1. Opening marks stand alone; a double quote at the start of the text, after a space or after
   an opening bracket becomes two backticks; an apostrophe before a lone letter is cut off,
   unless the letter is one of the clitics m, t, s, d, n.
2. One period that ends the text stands alone, also before closing brackets and quotes.
3. A colon or comma stands alone unless a digit follows it; of two in a row the second counts
   as what follows the first.
4. Runs of periods, the marks ``;@#$%&?!*()[]{}<>`` and double dashes stand alone.
5. Closing quotes stand alone; clitics ('s 'm 'd 'll 're 've n't) and fused words (cannot,
   gonna, 'tis, ...) are cut.
"""

import re

__all__ = ["alphanumerics", "words"]

_ALPHANUMERICS = re.compile("[a-z0-9]+")

_OPENING = "«“„\N{LEFT SINGLE QUOTATION MARK}"
_CLOSING = "»”\N{RIGHT SINGLE QUOTATION MARK}"
_BACKTICKS = re.compile("``?")
_OPENING_QUOTE = re.compile(r"""(?:"(?<=[ (\[{<]")|''(?<=[ (\[{<]''))""")
# Case folding counts: LATIN SMALL LETTER LONG S is an "s" here.
_APOSTROPHE_BEFORE_LETTER = re.compile(r"(?i)'(?=(?![mtsdn])\w\b)")

_PERIOD_TAIL = "])}>\"' " + _CLOSING
_COLON_OR_COMMA = re.compile(r"([:,])(\D)")
_PERIODS = re.compile(r"\.{2,}")
_MARKS = ";@#$%&?!"
_LATE_MARKS = "*()[]{}<>"
_APOSTROPHE_AFTER_WORD = re.compile(r"'(?<=[^']') ")

# What precedes a clitic is checked last: a pattern that starts with plain characters is found
# several times faster.
_SHORT_CLITIC = re.compile("'(?<=[^' ]')[sSmMdD]? ")
_LONG_CLITIC = re.compile("(?:n't|N'T|'(?:ll|LL|re|RE|ve|VE))(?<=[^' ]...) ")
_FUSED_WORDS = ("cannot", "d'ye", "gimme", "gonna", "gotta", "lemme", "more'n", "wanna")
_FUSED = re.compile(
    r"(?i)\b(can(?=not\b)|d(?='ye\b)|gim(?=me\b)|gon(?=na\b)|got(?=ta\b)|lem(?=me\b)"
    r"|more(?='n\b)|wan(?=na\s))('?\w+)"
)
_FUSED_IT_IS = re.compile(r"(?i) ('t)(is)\b")
_FUSED_IT_WAS = re.compile(r"(?i) ('t)(was)\b")


def alphanumerics(text: str) -> list[str]:
    """Return the ROUGE tokens of ``text``: runs of a-z and 0-9 after lower-casing.

    Lower-casing is Unicode's, so the Kelvin sign yields a "k", while every other character
    outside ASCII separates tokens. Text without ASCII letters or digits gives no tokens.

    Source: rouge-score 0.1.2, default tokenizer without stemmer.
    """
    return _ALPHANUMERICS.findall(text.lower())


def words(text: str) -> list[str]:
    """Return the Treebank word tokens of ``text``, case kept; none for blank text.

    Source: NLTK 3.9.1, ``word_tokenize(text, preserve_line=True)``; rules in the module
    docstring.
    """
    text = _part_punctuation(_part_final_period(_part_opening_quotes(text)))
    text = text.replace("--", " -- ")
    if not text.isascii():
        text = _part_each(text, _CLOSING)
    text = text.replace("''", " '' ").replace('"', " '' ")
    # One space between chunks and around them lets the rules below see where chunks end.
    return _part_contractions(f" {' '.join(text.split())} ").split()


def _part_each(text: str, marks: str) -> str:
    for mark in marks:
        text = text.replace(mark, f" {mark} ")
    return text


def _part_opening_quotes(text: str) -> str:
    if not text.isascii():
        text = _part_each(text, _OPENING)
    if "`" in text:
        text = _BACKTICKS.sub(r" \g<0> ", text)
    if text.startswith('"'):
        text = f" `` {text[1:]}"
    if '"' in text or "''" in text:
        text = _OPENING_QUOTE.sub(" `` ", text)
    return _APOSTROPHE_BEFORE_LETTER.sub("' ", text)


def _part_final_period(text: str) -> str:
    dot = text.rfind(".")
    if dot < 1 or text[dot - 1] == ".":
        return text
    tail = text[dot + 1 :].rstrip()
    # By hand, as a pattern that ends in "closers, spaces, end" backtracks quadratically.
    if tail.strip(_PERIOD_TAIL):
        return text
    return f"{text[:dot]} . {tail} "


def _part_punctuation(text: str) -> str:
    if ":" in text or "," in text:
        text = _COLON_OR_COMMA.sub(r" \1 \2", text)
        if text.endswith((":", ",")):
            text = f"{text[:-1]} {text[-1]} "
    if ".." in text:
        text = _PERIODS.sub(r" \g<0> ", text)
    text = _part_each(text, _MARKS)
    # Between the two sets of marks: it may see the spaces of the first, not of the second.
    text = _APOSTROPHE_AFTER_WORD.sub(" ' ", text)
    return _part_each(text, _LATE_MARKS)


def _part_contractions(text: str) -> str:
    if "'" in text:
        text = _LONG_CLITIC.sub(r" \g<0>", _SHORT_CLITIC.sub(r" \g<0>", text))
    if _may_hold_fused_words(text):
        text = _FUSED.sub(r" \1 \2 ", text)
    # After the others, whose cuts add the space that these look for; and in this order.
    return _FUSED_IT_WAS.sub(r" \1 \2 ", _FUSED_IT_IS.sub(r" \1 \2 ", text))


def _may_hold_fused_words(text: str) -> bool:
    """Say whether the slow search is worth it; folding beyond ASCII is left to that."""
    if not text.isascii():
        return True
    lowered = text.lower()
    return any(word in lowered for word in _FUSED_WORDS)
