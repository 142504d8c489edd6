"""Whether an answer is in the language that was asked for, by script and stop words."""

# ruff: noqa: RUF001 - stop words of other scripts

import re
import unicodedata
from typing import Any

CHUNK = 20  # words that are decided together
CROWDED = 0.8  # share of stop words from which words are a list, not a text
CODE_FREE = 3  # times the bytes of letters outside of code, that may be in code
KANA = 0.1  # share of kana from which Han characters are Japanese

# Scripts by how Unicode names their letters; those that one language of ours alone writes in.
SCRIPTS = {
    "el": "GREEK",
    "he": "HEBREW",
    "ko": "HANGUL",
    "th": "THAI",
    "hi": "DEVANAGARI",
    "zh": "CJK",
    "ja": "CJK",
    "ar": "ARABIC",
    "ru": "CYRILLIC",
    "uk": "CYRILLIC",
}
STOP_WORDS = {
    "en": "the of and to in is was for that it with as on are this be by not you have or from at"
    " he she they we i an but what which will can if their has were yes no there been its who",
    "de": "der die das und ist nicht ein eine zu den von mit sich auf für im dem es auch als an"
    " werden aus er hat dass sie nach wird bei ich wir ja nein noch wie über so zum war haben",
    "fr": "le la les et de des un une est dans que qui pour pas sur au avec ce il elle sont par"
    " plus ne se en du nous vous je mais ou oui non cette être à ont comme leur aux",
    "es": "el la los las y de un una es en que por con para no se del al lo como más pero sus su"
    " este esta son fue ha yo sí muy también hay o ser cuando entre sin sobre",
    "it": "il la le gli lo di e un una è che in non per con sono del della si da al dei nel come"
    " più ma anche questo questa ha o se sì alla delle io suo quando hanno molto",
    "pt": "o a os as e de um uma é em que não por com para se do da no na dos das ao mais mas"
    " como foi são ele ela seu sua ou sim muito também há quando à pelo isso",
    "nl": "de het een en van in is dat niet op te zijn met voor die er aan om ook als bij maar"
    " was door naar heeft ik je wij zij of ja nee nog wel deze worden wordt uit",
    "sv": "och att det en ett som på är av för med den till inte om har de var jag men så från"
    " kan vi ja nej han hon eller när ska också efter mycket sig",
    "pl": "i w na z że się nie do to jest jak o co po ale za od przez są dla tak czy tym był"
    " tego może już jego być ma lub oraz który która",
    "ru": "и в не на что с он как это по но они мы из у за то все так его к же да нет вы от"
    " она было для я бы только или если есть быть до уже",
    "uk": "і в не на що з він як це по але вони ми із у за то все так його до та є ви від"
    " вона було для я би лише або якщо бути вже й ні",
}
WORD_LISTS = {language: set(words.split()) for language, words in STOP_WORDS.items()}
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return the share of the answer that is in the language."""
    language, text = item.get("language"), sample.get("output_text")
    if not isinstance(language, str) or not isinstance(text, str):
        return 0.0
    outside = CODE.sub(" ", text)
    plain = unicodedata.normalize("NFC", outside).lower()
    if language not in SCRIPTS and language not in WORD_LISTS:
        return 0.0
    seen, skipped = size(outside), size(text) - size(outside)
    share = share_of_script(plain, language) * min(1.0, CODE_FREE * seen / max(skipped, 1))
    return share * share_of_words(plain, language) if language in WORD_LISTS else share


def size(text: str) -> int:
    """Return the bytes of the letters: a Chinese character says more than a Latin one."""
    return len("".join(filter(str.isalpha, text)).encode())


def share_of_script(text: str, language: str) -> float:
    """Return the share of letters that are of the language's script."""
    names = [unicodedata.name(char, "").split(" ")[0] for char in text if char.isalpha()]
    if not names:
        return 0.0
    kana = sum(name in {"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"} for name in names)
    own = names.count(SCRIPTS.get(language, "LATIN"))
    if language == "ja":
        return (own + kana) / len(names) if kana >= KANA * len(names) else 0.0
    is_japanese = language == "zh" and kana >= KANA * len(names)
    return 0.0 if is_japanese else own / len(names)


def share_of_words(text: str, language: str) -> float:
    """Return the share of words in chunks whose stop words are the language's."""
    words = re.findall(r"[^\W\d_]+", text)
    last = max(len(words) // CHUNK - 1, 0)  # with what is left over
    chunks = [words[place * CHUNK : (place + 1) * CHUNK] for place in range(last)]
    chunks.append(words[last * CHUNK :])
    own = sum(len(chunk) for chunk in chunks if is_written_in(chunk, language))
    return own / len(words) if words else 0.0


def is_written_in(words: list[str], language: str) -> bool:
    """Say whether ``words`` have stop words of the language, as many as of others, in a text."""
    found = {
        other: sum(word in stop_words for word in words) for other, stop_words in WORD_LISTS.items()
    }
    most = found[language]
    return 0 < most == max(found.values()) and most < CROWDED * len(words)
