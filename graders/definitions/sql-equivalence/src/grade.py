"""Whether a SQL query answers as the reference does: by its text, else by what it returns."""

import re
import sqlite3
from collections import Counter
from typing import Any

import sqlparse
from sqlparse.exceptions import SQLParseError
from sqlparse.tokens import Keyword

PARSES = 0.1  # for one SELECT
RUNS = 0.2  # for one that runs on the item's schema
ROWS = 0.5  # more, for the right rows, times their F1; with all of them in order it is 1.0
LONGEST = 5_000  # characters of an answer
DEEPEST = 250  # parentheses in a query
MOST_ROWS = 1_000  # of a result
STEPS = 200_000  # instructions of SQLite for a query
PLACES = 9  # digits after the point to which numbers are compared
LARGEST_VALUE = 100_000  # bytes of a text that a query may build
FENCE = re.compile(r"\A\s*```(?:sql)?\s*\n(.*?)\n?```\s*\Z", re.DOTALL | re.IGNORECASE)
ALLOWED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}

Row = tuple[object, ...]


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return the step of the ladder that the answer reaches; the least over all data sets."""
    wanted, text = item.get("query"), sample.get("output_text")
    if not isinstance(wanted, str) or not isinstance(text, str):
        return 0.0
    if len(text) > LONGEST:
        return 0.0
    fenced = FENCE.match(text)
    query = fenced[1] if fenced else text
    try:
        if not is_select(query):
            return 0.0
        if spelled(query) == spelled(wanted):
            return 1.0
    except (SQLParseError, RecursionError):  # too deep
        return 0.0
    schema, sets = item.get("schema"), item.get("rows")
    if not isinstance(schema, str):
        return PARSES
    sets = sets if isinstance(sets, list) and sets else [sets]
    return min(compared(query, wanted, schema, rows) for rows in sets)


def is_select(query: str) -> bool:
    """Say whether ``query`` is one statement that reads."""
    if query.count("(") > DEEPEST:
        return False
    found = [each for each in sqlparse.parse(query) if str(each).strip()]
    return len(found) == 1 and found[0].get_type() == "SELECT"


def spelled(query: str) -> str:
    """Return ``query`` with keywords in capitals, single spaces and no comments."""
    plain = sqlparse.format(query, strip_comments=True, keyword_case="upper", strip_whitespace=True)
    return plain.strip().rstrip(";").strip()


def compared(query: str, wanted: str, schema: str, rows: object) -> float:
    """Return what ``query`` earns on one data set; only PARSES when the item's own is broken."""
    right, given = result(wanted, schema, rows), result(query, schema, rows)
    if right is None or given is None:
        return PARSES
    if given == right:
        return 1.0
    one, other = Counter(right), Counter(given)
    if one == other and not is_ordered(wanted):
        return 1.0
    return RUNS + ROWS * 2 * (one & other).total() / max(len(right) + len(given), 1)


def is_ordered(query: str) -> bool:
    """Say whether ``query`` orders its rows, and not only those of a window or a subquery."""
    level = 0
    for token in sqlparse.parse(query)[0].flatten():
        level += {"(": 1, ")": -1}.get(token.value, 0)
        if level == 0 and token.ttype is Keyword and token.value.upper().startswith("ORDER"):
            return True
    return False


def result(query: str, schema: str, rows: object) -> list[Row] | None:
    """Return what ``query`` returns; None if it cannot be run, or not within the limits."""
    database = sqlite3.connect(":memory:")
    try:
        database.executescript(schema)
        for table, entries in rows.items() if isinstance(rows, dict) else ():
            for entry in entries:
                marks = ", ".join("?" * len(entry))
                database.execute(f'INSERT INTO "{table}" VALUES ({marks})', entry)  # noqa: S608
        guard(database)
        found = database.execute(query).fetchmany(MOST_ROWS + 1)
    except (sqlite3.Error, sqlite3.Warning, ValueError, TypeError, OverflowError, MemoryError):
        return None
    finally:
        database.close()
    return [tuple(map(plain, row)) for row in found] if len(found) <= MOST_ROWS else None


def guard(database: sqlite3.Connection) -> None:
    """Allow no more than reading, for so many steps, with values of moderate size."""
    if hasattr(database, "setlimit"):  # from Python 3.11
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
    database.set_authorizer(allowed)
    database.set_progress_handler(lambda: True, STEPS)


def allowed(action: int, table: str | None, *_: object) -> int:
    """Allow reading, but for SQLite's own tables, which hold the schema."""
    is_own = action == sqlite3.SQLITE_READ and str(table).lower().startswith("sqlite_")
    return sqlite3.SQLITE_OK if action in ALLOWED and not is_own else sqlite3.SQLITE_DENY


def plain(value: object) -> object:
    """Return a value such that 1.0 and 1 are equal, and sums in another order, too."""
    return round(value, PLACES) if isinstance(value, float) else value
