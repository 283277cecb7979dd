"""Where work runs: the contract of an executor, and the one that needs no cluster."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.core.device import use_threads
from harness.core.errors import FAILURES, exit_message
from harness.core.values import Json
from harness.run_sessions import this_machine
from harness.study import Resources

Work = Callable[[dict[str, Json]], dict[str, Json]]


@dataclass(frozen=True, slots=True)
class Done:
    """One finished piece of work.

    Attributes:
        index: Position in the list that was handed in.
        value: What the function returned, or None if it failed.
        error: Message and traceback of the failure, or "".
        seconds: Wall time of the piece, as far as known.
    """

    index: int
    value: dict[str, Json] | None
    error: str = ""
    seconds: float = 0.0


class Executor(Protocol):
    """Runs a module-level function over plain payloads; a failure never takes another with it.

    Results come back in the order in which they finish.
    """

    def check_folders(self, folders: Mapping[str, Path]) -> None:
        """Check that work can hand files on through these folders, given by what to call them.

        Raises:
            UsageError: If some part of a cluster does not see one.
        """
        ...

    def check_nodes(self, check: Callable[[str], str], argument: str) -> None:
        """Call a module-level function on each other node; it returns what is wrong, or "".

        Raises:
            UsageError: If something is wrong on one; says what, and on which.
        """
        ...

    def where(self) -> dict[str, Json]:
        """Return on what it runs: its name, nodes, ``cpus``, ``gpus``, ``memory_gib``."""
        ...

    def units(
        self, function: Work, payloads: Sequence[dict[str, Json]], resources: Resources
    ) -> Iterator[Done]:
        """Run few pieces, or many short ones: trainings of networks."""
        ...

    def stream(
        self, function: Work, payloads: Sequence[dict[str, Json]], resources: Resources
    ) -> Iterator[Done]:
        """Run units of which many use the same networks: poisons, blocks of rows to purify."""
        ...

    def trials(
        self, function: Work, payloads: Sequence[dict[str, Json]], resources: Resources
    ) -> Iterator[Done]:
        """Run the trainings of a study."""
        ...


class InProcess:
    """Runs one piece after the other in this process, with the threads that a trial is given."""

    def check_folders(self, folders: Mapping[str, Path]) -> None:
        """Nothing to check: there is one process."""

    def check_nodes(self, check: Callable[[str], str], argument: str) -> None:
        """No other node: there is one process."""

    def where(self) -> dict[str, Json]:
        """Return what this machine has."""
        return {"executor": "one process, one trial after the other", **this_machine()}

    def units(
        self, function: Work, payloads: Sequence[dict[str, Json]], resources: Resources
    ) -> Iterator[Done]:
        """Run the pieces in order."""
        use_threads(resources.cpus)
        for index, payload in enumerate(payloads):
            began = time.perf_counter()
            value, error = attempt(function, payload)
            yield Done(index, value, error, time.perf_counter() - began)

    trials = stream = units


def attempt(function: Work, payload: dict[str, Json]) -> tuple[dict[str, Json] | None, str]:
    """Call the function and return its value, or None and the error with its traceback."""
    try:
        return function(payload), ""
    except FAILURES as error:  # the one place where a trial's failure is contained
        return None, described(error)


def described(error: BaseException) -> str:
    """Return an error's message, and its traceback below that."""
    trace = "".join(traceback.format_exception(error))
    said = exit_message(error) if isinstance(error, SystemExit) else str(error)
    return f"{type(error).__name__}: {said}\n{trace}"
