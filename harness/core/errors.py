"""Errors whose message is all that a user needs to see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Something the user gave cannot be used; the message says what, and what is allowed.

    The command line prints the message without a traceback and exits with status 2.
    """


class UnknownComponent(UsageError):
    """A name that no registry entry, parameter or key has."""


class DataError(UsageError):
    """Data (images, labels, a checkpoint) that breaks the rules of the type it is read into."""


class NoEffect(UsageError):
    """A stage that must change something changed nothing; doing nothing is an error."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest allowed name, or ``""``.

    >>> nearest("narcisus", ["narcissus", "badnets"])
    " Did you mean 'narcissus'?"
    >>> nearest("zzz", ["narcissus"])
    ''
    """
    matches = difflib.get_close_matches(str(given), list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""
