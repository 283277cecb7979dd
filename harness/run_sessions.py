"""When and where a run was worked on: what its folder says besides what it is of."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from harness.core.files import write_text
from harness.core.values import Json

logger = logging.getLogger(__name__)

KEY = "sessions"


def this_machine() -> dict[str, Json]:
    """Return how many ``cpus`` this machine has, and how much ``memory_gib``."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpus": os.cpu_count() or 1, "memory_gib": round(memory / 2**30, 1)}


@contextmanager
def session(run: Path, where: dict[str, Json], done: Callable[[], int]) -> Iterator[None]:
    """Note a call that works on a run in its ``study.json``, however the call ends.

    An entry of ``sessions`` has ``started`` (UTC), ``seconds`` of wall time and ``trials`` finished
    in them, and what the executor says of its machines. One that was killed has no seconds.

    Args:
        run: Folder of the run, with its ``study.json``.
        where: What the work runs on.
        done: Counts the finished trials of the run.
    """
    path = run / "study.json"
    began, before = time.perf_counter(), done()
    entry: dict[str, Json] = {
        "started": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"), **where,
    }  # fmt: skip
    earlier = json.loads(path.read_text())
    sessions = [*earlier.get(KEY, []), entry]

    def write() -> None:
        said = {**json.loads(path.read_text()), KEY: sessions}
        write_text(path, json.dumps(said, indent=1, sort_keys=True) + "\n")

    write()
    try:
        yield
    finally:
        entry |= {"seconds": round(time.perf_counter() - began, 1), "trials": done() - before}
        try:
            write()
        except OSError as error:  # a full disk; why the call ended is worth more than this note
            logger.warning("what this call took is not noted: %s", error)
