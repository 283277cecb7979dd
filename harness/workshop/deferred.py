"""What stands for a network that is not trained yet, when a study is checked."""

from __future__ import annotations

from typing import Any

from harness.core.errors import UsageError


class NotTrainedYet(UsageError, AttributeError):
    """A component looks at a network before it is there; an AttributeError for ``hasattr``."""


class Deferred:
    """Stands for a network of which nothing is known yet: when the driver checks a component."""

    def __getattr__(self, name: str) -> Any:
        raise NotTrainedYet(
            f"it asks for {name!r} of a network that is not trained yet when a study is checked: "
            "construction, check() and hooks() do without; poison() and purify() may ask."
        )

    def __call__(self, *_: Any) -> Any:
        """Refuse to be called, as a network that is not there."""
        return self.__getattr__("__call__")
