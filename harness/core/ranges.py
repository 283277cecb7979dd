"""Ranges of numbers, checked with one wording wherever a dataclass is made."""

from __future__ import annotations

import math

from harness.core.errors import DataError

Number = float | tuple[float, ...]


def at_least(least: float, **numbers: Number) -> None:
    """Raise unless each number, or every entry of each tuple, is finite and ``least`` or more.

    Raises:
        DataError: Names the first that is not.

    >>> at_least(1, stem=24, widths=(8, 16))
    """
    for name, given in numbers.items():
        if not all(least <= number < math.inf for number in _each(given)):
            raise DataError(f"{name} must be at least {least}{_finite(given)}; got {given}.")


def positive(**numbers: Number) -> None:
    """Raise unless each number is finite and above 0.

    Raises:
        DataError: Names the first that is not.
    """
    for name, given in numbers.items():
        if not all(0 < number < math.inf for number in _each(given)):
            raise DataError(f"{name} must be positive{_finite(given)}; got {given}.")


def below_one(**numbers: Number) -> None:
    """Raise unless each number lies in [0, 1).

    Raises:
        DataError: Names the first that does not.
    """
    for name, given in numbers.items():
        if not all(0 <= number < 1 for number in _each(given)):
            raise DataError(f"{name} must lie in [0, 1); got {given}.")


def _each(given: Number) -> tuple[float, ...]:
    return given if isinstance(given, tuple) else (given,)


def _finite(given: Number) -> str:
    return "" if all(map(math.isfinite, _each(given))) else " and finite"
