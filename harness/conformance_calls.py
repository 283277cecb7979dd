"""Calls into a component that is held to the rules: one message says what it raises, and where."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from harness.core.errors import FAILURES, UsageError, exit_message
from harness.core.registry import Entry, place_of

logger = logging.getLogger(__name__)


class Violation(UsageError):
    """A component breaks a rule."""


def require(holds: bool, rule: str) -> str:
    """Return a rule that holds.

    Raises:
        Violation: If it does not.
    """
    if not holds:
        raise Violation(f"violated: {rule}.")
    return rule


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
        Violation: If it raises something, ends the program, or returns another type.
    """
    what = what or getattr(function, "__name__", type(function).__name__)
    try:
        value = function(*arguments)
    except Violation:
        raise
    except FAILURES as error:
        logger.debug("%s of %s", what, entry.name, exc_info=True)
        said = exit_message(error) if isinstance(error, SystemExit) else str(error)
        place = place_of(entry, error)
        raise Violation(f"fails: {what} raises {type(error).__name__}: {said}{place}") from error
    given = "None" if value is None else type(value).__name__
    require(isinstance(value, returns), f"{what} returns {_named(returns)}; it returned {given}")
    return value


def _named(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))
