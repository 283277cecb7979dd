"""The schema of result files, and what it refuses in one sentence."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from harness.core.errors import DataError, nearest
from harness.leaderboard.parsing import spot_of

NAME = "schema.json"


def schema_text() -> str:
    """Return the schema as it is shipped (JSON Schema, draft 2020-12)."""
    return files("harness.leaderboard").joinpath(NAME).read_text("utf-8")


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema_text()))


def check_schema(value: Any, where: str) -> None:
    """Hold plain values to the schema.

    Args:
        value: What a file says.
        where: What to call it in messages.

    Raises:
        DataError: For the first thing that breaks it: its place, what was given, what is allowed.
    """
    error = next(_validator().iter_errors(value), None)
    if error is None:
        return
    while error.context:  # of several allowed forms, the one that was meant
        meant = [e for e in error.context if e.schema != {"type": "null"}]
        error = best_match(meant) or meant[0]
    raise DataError(f"{where}, at {spot_of(error.absolute_path)}: {_words(error)}")


def _words(error: ValidationError) -> str:
    given, rule, limit = error.instance, error.validator, error.validator_value
    if rule == "required":
        lacking = [key for key in limit if key not in given]
        return f"got no {lacking[0]!r}; needed: {', '.join(limit)}."
    if rule == "additionalProperties" and limit is False:
        known = list(error.schema.get("properties", {}))
        unknown = next(key for key in given if key not in known)
        return (
            f"got the key {unknown[:60]!r}.{nearest(unknown, known)} Allowed: {', '.join(known)}."
        )
    return f"got {_brief(given)}; allowed: {_allowed(rule, limit, error.schema)}."


def _allowed(rule: str, limit: Any, schema: dict[str, Any]) -> str:
    words = {
        "type": "a value of type {}", "const": "{!r}", "minimum": "at least {}",
        "maximum": "at most {}", "maxLength": "at most {} characters",
        "minLength": "at least {} character", "maxItems": "at most {} items",
        "minItems": "at least {} items", "maxProperties": "at most {} keys",
        "minProperties": "at least {} key", "uniqueItems": "items that all differ",
    }  # fmt: skip
    if rule == "enum":
        return ", ".join(map(repr, limit))
    if rule == "pattern":
        return f"{schema.get('description', 'text').rstrip('.').lower()} that matches {limit}"
    return words.get(rule, f"what the schema's {rule} says: {{}}").format(limit)


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
