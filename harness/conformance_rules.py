"""A rule that holds is a line of the kit's answer; one that is broken ends it."""

from __future__ import annotations

from harness.core.errors import UsageError


class Violation(UsageError):
    """A component breaks a rule."""


def require(holds: bool, rule: str, but: str = "") -> str:
    """Return a rule that holds.

    Raises:
        Violation: If it does not; says ``but``: what was found instead, or what to do.
    """
    if not holds:
        raise Violation(f"violated: {rule}{f' ({but})' if but else ''}.")
    return rule
