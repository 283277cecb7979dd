"""Errors whose message is all that a user needs to see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# What ends a piece of work and nothing else: also a component's `sys.exit`, which would otherwise
# end the run with the status of a good one. Ctrl-C is none of them.
FAILURES = (Exception, SystemExit)


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


def first_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of its text.

    >>> first_line(RuntimeError("no memory\\nsee the log"))
    'RuntimeError: no memory'
    """
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def no_exit(what: str) -> Iterator[None]:
    """Raise a UsageError where code that is not the command line's would end the program.

    Args:
        what: Whose code it is, for the message.
    """
    try:
        yield
    except SystemExit as error:
        raise UsageError(f"{what}: {exit_message(error)}") from error


def exit_message(error: SystemExit) -> str:
    """Return what to say of a component that ends the program."""
    return f"it ends the program (SystemExit: {error.code}); a component raises an error instead."


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest allowed name, or ``""``.

    >>> nearest("narcisus", ["narcissus", "badnets"])
    " Did you mean 'narcissus'?"
    >>> nearest("zzz", ["narcissus"])
    ''
    """
    matches = difflib.get_close_matches(str(given), list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""
