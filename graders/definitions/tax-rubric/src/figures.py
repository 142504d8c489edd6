"""Which share of the figures is exactly right."""

import re
from decimal import Decimal
from typing import Any

AMOUNT = re.compile(r"-?\$?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?", re.ASCII)


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return the share; 0.0 when nothing is given, and when nothing is asked for."""
    answer = sample.get("output_json")
    wanted = named(item.get("figures"))
    given = named(answer.get("figures") if isinstance(answer, dict) else None)
    right = [is_right(given.get(name), figure) for name, figure in wanted.items()]
    return sum(right) / len(right) if right else 0.0


def is_right(given: object, wanted: object) -> bool:
    """Say whether two amounts are equal; what is no amount equals nothing."""
    amount = amount_of(given)
    return amount is not None and amount == amount_of(wanted)


def amount_of(value: object) -> Decimal | None:
    """Return a number, or a text such as ``$5,830.00``, as an amount."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return Decimal(value) if isinstance(value, int) else Decimal(repr(value))
    if isinstance(value, str) and AMOUNT.fullmatch(value.strip()):
        return Decimal(value.strip().replace("$", "").replace(",", ""))
    return None


def named(value: object) -> dict[str, Any]:
    """Return ``value`` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}
