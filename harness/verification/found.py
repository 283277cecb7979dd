"""What a check found, line by line."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Found:
    """Lines of a check.

    Attributes:
        checked: What was looked at.
        wrong: What is not as it should be.
        unchecked: What could not be looked at, and why.
    """

    checked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
