"""Whether a number with a unit is right, in whatever unit of the right kind it is given."""

import math
import re
from typing import Any, NamedTuple

HALF = 0.5  # for the right number without a unit, or a value that is nearly right
NEAR = 10  # tolerances within which a value is nearly right
TOLERANCE = 0.01  # of the reference, where the item has none
LARGEST = 1e300  # number
LONGEST = 200  # characters of the line with the answer

BASES = {"m", "kg", "s", "A", "K", "mol", "cd", "B"}
METRIC = {"m", "g", "s", "A", "K", "mol", "cd", "B", "Hz", "N", "Pa", "J", "W", "C", "V", "F", "Ω"}
METRIC |= {"S", "Wb", "T", "H", "L", "l", "eV", "bar", "Wh", "Ah", "Nm", "Ns", "cal", "bit", "M"}
METRIC |= {"Bq", "Gy", "Sv", "lm", "lx", "kat"}
PREFIXES = {"p": "1e-12", "n": "1e-9", "µ": "1e-6", "u": "1e-6", "m": "1e-3", "c": "1e-2"}
PREFIXES |= {"d": "1e-1", "h": "1e2", "k": "1e3", "M": "1e6", "G": "1e9", "T": "1e12"}
UNITS = {  # so many of what
    "g": "0.001 kg",
    "Hz": "1 s-1",
    "N": "1 kg m s-2",
    "Pa": "1 N m-2",
    "J": "1 N m",
    "W": "1 J s-1",
    "C": "1 A s",
    "V": "1 W A-1",
    "F": "1 C V-1",
    "Ω": "1 V A-1",
    "S": "1 A V-1",
    "Wb": "1 V s",
    "T": "1 Wb m-2",
    "H": "1 Wb A-1",
    "Bq": "1 s-1",
    "Gy": "1 J kg-1",
    "Sv": "1 J kg-1",
    "lm": "1 cd",
    "lx": "1 cd m-2",
    "kat": "1 mol s-1",
    "L": "0.001 m3",
    "l": "0.001 m3",
    "M": "1 mol L-1",
    "eV": "1.602176634e-19 J",
    "bar": "100000 Pa",
    "Nm": "1 N m",
    "Ns": "1 N s",
    "Wh": "3600 J",
    "Ah": "3600 C",
    "cal": "4.184 J",
    "bit": "0.125 B",
    "%": "0.01",
    "ppm": "0.000001",
    "rad": "1",
    "°": "0.017453292519943295",
    "deg": "0.017453292519943295",
    "min": "60 s",
    "h": "3600 s",
    "d": "86400 s",
    "wk": "604800 s",
    "yr": "31557600 s",
    "t": "1000 kg",
    "ha": "10000 m2",
    "Å": "1e-10 m",
    "in": "0.0254 m",
    "ft": "0.3048 m",
    "yd": "0.9144 m",
    "mi": "1609.344 m",
    "mph": "0.44704 m s-1",
    "kph": "0.2777777777777778 m s-1",
    "knot": "0.5144444444444445 m s-1",
    "oz": "0.028349523125 kg",
    "lb": "0.45359237 kg",
    "gal": "3.785411784 L",
    "atm": "101325 Pa",
    "mmHg": "133.322387415 Pa",
    "psi": "6894.757293168 Pa",
    "hp": "745.69987158227 W",
    "°C": "1 K",
    "°F": "0.5555555555555556 K",
}
ZEROS = {"°C": "273.15", "°F": "255.3722222222222"}  # in kelvin, when the unit stands alone
IN_WORDS = (  # a unit and the words for one of it
    "m metre meter; g gram gramme; s second sec; A ampere amp; K kelvin; mol mole; cd candela;"
    "B byte; bit bit; Hz hertz; N newton; Pa pascal; J joule; W watt; C coulomb; V volt; F farad;"
    "Ω ohm; S siemens; Wb weber; T tesla; H henry; Bq becquerel; Gy gray; Sv sievert; lm lumen;"
    "lx lux; kat katal; L litre liter; M molar; eV electronvolt; bar bar; cal calorie; Å angstrom;"
    "min minute min; h hour hr; d day; wk week wk; yr year yr; t tonne; ha hectare; % percent;"
    "° degree deg; rad radian; in inch; ft foot feet; yd yard; mi mile; knot knot; oz ounce oz;"
    "lb pound lb; kg kg; km km; gal gallon gal; atm atmosphere; hp horsepower; °C celsius;"
    "°F fahrenheit"
)
PREFIX_WORDS = {"pico": "p", "nano": "n", "micro": "µ", "milli": "m", "centi": "c", "deci": "d"}
PREFIX_WORDS |= {"hecto": "h", "kilo": "k", "mega": "M", "giga": "G", "tera": "T"}
WORDS = {word: name for name, *words in map(str.split, IN_WORDS.split(";")) for word in words}
WORDS |= {
    f"{prefix}{word}": f"{letter}{name}"
    for prefix, letter in PREFIX_WORDS.items()
    for word, name in WORDS.items()
    if name in METRIC
}
PHRASES = {  # as units are said, in any case
    r"\bper cent\b": "%",
    r"\s*(?:\bper\b|/)\s*": "/",
    r"(?:\bdeg(?:ree)?s?|°)\s*(?:celsius|centigrade|c)\b": "°C",
    r"(?:\bdeg(?:ree)?s?|°)\s*(?:fahrenheit|f)\b": "°F",
    r"\bdeg(?:ree)?s?\s*(?=kelvin\b)": "",
    r"\bmetric ton(?:ne)?s?\b": "t",
    r"\b(?:square|sq\.?) ([a-z]+)": r"\1^2",
    r"\bcubic ([a-z]+)": r"\1^3",
    r" squared\b": "^2",
    r" cubed\b": "^3",
    r"(?<=[a-z])-(?=[a-z])": " ",
}
NUMBER = re.compile(
    r"(?P<digits>[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|[-+]?\.[0-9]+)"
    r"(?:[eE](?P<e>[-+]?[0-9]{1,3})|\s?[\u00d7x*]\s?10\^?(?P<ten>[-+]?[0-9]{1,3}))?"
)
FACTOR = re.compile(r"(?P<sign>[/* ]?)(?P<name>[A-Za-zµΩÅ°%]+)(?:\^?(?P<power>-?[0-9]))?")
PREAMBLE = re.compile(
    r"\A(?:(?:so|thus|hence|therefore),?\s+)?(?:(?:the|my)\s+)?"
    r"(?:(?:final\s+)?(?:answer|result)\s*(?:is|:|=)+\s*)?(?:[a-z](?:_[a-z0-9]+)?\s*(?=[=≈]))?"
    r"(?:[:=≈~]\s*|(?:about|approximately|approx\.?|roughly)\s+)?",
    re.IGNORECASE,
)
PLAIN = str.maketrans("\u2212\u2013⁻⁰¹²³⁴⁵⁶⁷⁸⁹·⋅μ\u2126\u212b\u00a0\u202f", "---0123456789**µΩÅ  ")


class Unit(NamedTuple):
    """So many of the base units to their powers, from where zero is."""

    factor: float
    powers: dict[str, int]
    zero: float = 0.0


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return 1.0, 0.5 or 0.0."""
    wanted, tolerance = amount(item.get("value")), amount(item.get("tolerance", TOLERANCE))
    unit, text = unit_of(item.get("unit", "")), sample.get("output_text")
    if wanted is None or tolerance is None or unit is None or not isinstance(text, str):
        return 0.0
    line = answer_of(text).translate(PLAIN)
    match = NUMBER.match(line)
    number = amount(value_of(match)) if match else None
    name = line[match.end() :].strip() if match else ""
    given = unit_of(name)
    if number is None or given is None:
        return 0.0
    off = off_by(number, given, wanted, unit)
    if not name and item.get("unit", "").strip():  # in the item's own unit, or as a pure number
        return HALF * (min(off, error(number, wanted)) <= tolerance)
    return 1.0 if off <= tolerance else HALF * (off <= tolerance * NEAR)


def off_by(number: float, given: Unit, wanted: float, unit: Unit) -> float:
    """Return how far off ``number`` of one unit is; infinity for a unit of another kind."""
    if given.powers != unit.powers:
        return math.inf
    return error((number * given.factor + given.zero - unit.zero) / unit.factor, wanted)


def error(number: float, wanted: float) -> float:
    """Return how far off ``number`` is, of what is wanted; of one where that is zero."""
    return round(abs(number - wanted) / (abs(wanted) or 1), 12)


def answer_of(text: str) -> str:
    """Return the last line without "Answer:" and without emphasis; empty when it is long."""
    last = text.strip().rpartition("\n")[2]
    line = PREAMBLE.sub("", last.strip(" *`$\r")).lstrip(" *`$").rstrip(" *`$.")
    return line if len(line) <= LONGEST else ""


def value_of(match: re.Match[str]) -> float:
    """Return the number that is written; infinity for one too large."""
    exponent = match["e"] or match["ten"] or "0"
    return float(f"{match['digits'].replace(',', '')}e{exponent}")


def unit_of(text: object) -> Unit | None:
    """Return the unit that ``text`` names, such as ``m/s^2`` or ``kg m-3``; None for no unit."""
    if not isinstance(text, str):
        return None
    rest = text.translate(PLAIN)
    for phrase, plain in PHRASES.items():
        rest = re.sub(phrase, plain, rest, flags=re.IGNORECASE)
    rest = re.sub(
        r"/\(([^()]*)\)", lambda found: "/" + re.sub(r"[* ]", "/", found[1]), rest
    ).strip()
    alone = symbol_of(rest)
    if alone in ZEROS:
        return Unit(float(UNITS[alone].split()[0]), {"K": 1}, float(ZEROS[alone]))
    factor, powers = 1.0, dict.fromkeys(BASES, 0)
    while rest:
        match = FACTOR.match(rest)
        one = named(symbol_of(match["name"])) if match else None
        if match is None or one is None:
            return None
        power = int(match["power"] or 1)
        if match["sign"] == "/":
            power = -power
        factor *= one.factor**power
        for base, number in one.powers.items():
            powers[base] += number * power
        rest = rest[match.end() :]
    powers = {base: power for base, power in powers.items() if power}
    return Unit(factor, powers) if 0 < factor <= LARGEST else None


def named(name: str) -> Unit | None:
    """Return the unit of one name, with or without a prefix."""
    if name in BASES:
        return Unit(1.0, {name: 1})
    if name in UNITS:
        number, _, units = UNITS[name].partition(" ")
        unit = unit_of(units)
        return unit and unit._replace(factor=unit.factor * float(number))
    prefix, rest = name[:1], name[1:]
    unit = named(rest) if prefix in PREFIXES and rest in METRIC else None
    return unit and unit._replace(factor=unit.factor * float(PREFIXES[prefix]))


def symbol_of(name: str) -> str:
    """Return the symbol for an English word, one or many; anything else is one as it is."""
    word = name.lower()
    singular = (word, word.removesuffix("s"), word.removesuffix("es"))
    return next((WORDS[each] for each in singular if each in WORDS), name)


def amount(value: object) -> float | None:
    """Return ``value`` if it is a number, and not too large."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= LARGEST else None
