"""How nearly a JSON answer is valid by the item's schema."""

import itertools
import json
import re
from typing import Any

import jsonschema
import referencing
from jsonschema.exceptions import SchemaError, ValidationError
from referencing.exceptions import Unresolvable

PARSES = 0.1  # for JSON of any kind
IS_TYPE = 0.2  # for JSON of the type that the schema wants: an object, a list …
FIELDS = 0.6  # more, for all fields without errors; less than 1.0 together
MOST = 200_000  # characters of an answer
MOST_ERRORS = 1_000  # that are looked at


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return 1.0 for a valid answer, else the step of the ladder that it reaches."""
    answer, schema = sample.get("output_json"), item.get("schema")
    if answer is None or not isinstance(schema, dict):
        return 0.0
    if len(json.dumps(answer)) > MOST:
        return 0.0
    try:
        return step_of(answer, schema)
    except (SchemaError, Unresolvable, re.error, RecursionError, ArithmeticError):
        return 0.0


def step_of(answer: object, schema: dict[str, Any]) -> float:
    """Return what an answer earns by a schema; raise for one that is none."""
    errors = errors_of(answer, schema)
    if not errors:
        return 1.0
    if not isinstance(answer, dict | list) or any(is_wrong_type(error) for error in errors):
        return PARSES
    wrong = set(itertools.chain.from_iterable(map(fields_of, errors)))
    if isinstance(answer, dict):
        fields = wrong | set(schema.get("required", [])) | known_of(answer, schema)
    else:
        fields = wrong | set(range(len(answer)))
    return IS_TYPE + FIELDS * (1 - len(wrong) / len(fields))


def errors_of(answer: object, schema: dict[str, Any]) -> list[ValidationError]:
    """Return the errors; references stay within the schema, so nothing is fetched."""
    dialect = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    dialect.check_schema(schema)
    validator = dialect(schema, registry=referencing.Registry())
    return list(itertools.islice(validator.iter_errors(answer), MOST_ERRORS))


def is_wrong_type(error: ValidationError) -> bool:
    """Say whether the answer as a whole is of another type."""
    return error.validator == "type" and not error.absolute_path


def fields_of(error: ValidationError) -> set[object]:
    """Return which fields of the whole answer an error is about; None stands for all of it."""
    if error.absolute_path:
        return {error.absolute_path[0]}
    if error.validator == "required":
        return {name for name in error.validator_value if name not in error.instance}
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        return set(error.instance) - known_of(error.instance, error.schema)
    return {None}


def known_of(answer: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    """Return the keys that the schema names, by themselves or by a pattern."""
    patterns = schema.get("patternProperties", {})
    matched = (name for name in answer if any(re.search(each, name) for each in patterns))
    return (set(answer) & set(schema.get("properties", {}))) | set(matched)
