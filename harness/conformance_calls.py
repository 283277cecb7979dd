"""Calls into a component that is held to the rules: one message says what it raises, and where."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from harness.conformance_process import left_alone, process_wide
from harness.conformance_rules import Violation, require
from harness.core.errors import FAILURES, exit_message
from harness.core.registry import Entry, place_of

logger = logging.getLogger(__name__)


def call(
    entry: Entry[Any],
    function: Callable[..., Any],
    *arguments: Any,
    returns: Any = object,
    what: str = "",
) -> Any:
    """Return what a component's method returns.

    Args:
        entry: Whose method it is.
        function: The method, bound.
        arguments: What it is given.
        returns: Type that its value must have.
        what: What to call it; its name unless given.

    Raises:
        Violation: If it raises something, ends the program, returns another type, or changes what
            belongs to the whole process.
    """
    what = what or getattr(function, "__name__", type(function).__name__)
    before = process_wide()
    try:
        value = function(*arguments)
    except Violation:
        raise
    except FAILURES as error:
        logger.debug("%s of %s", what, entry.name, exc_info=True)
        said = exit_message(error) if isinstance(error, SystemExit) else str(error)
        place = place_of(entry, error)
        raise Violation(f"fails: {what} raises {type(error).__name__}: {said}{place}") from error
    left_alone(before, what)
    given = "None" if value is None else type(value).__name__
    require(isinstance(value, returns), f"{what} returns {_named(returns)}; it returned {given}")
    return value


def _named(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))
