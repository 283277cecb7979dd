"""Ending a run from elsewhere, through its folder: from another terminal, node or container."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.core.errors import UsageError
from harness.core.files import write_text

NOTE = "running.json"
REQUEST = "cancel.json"
BEAT_SECONDS = 1.0
SILENT_SECONDS = 15.0  # without a beat, who wrote the note is gone


@contextmanager
def controlled(run: Path) -> Iterator[None]:
    """Say in a run's folder that this process runs it, and let a request there act like Ctrl-C.

    SIGTERM acts like Ctrl-C too. In a thread, where no signal can be taken, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    mine = secrets.token_hex(8)
    note = {"id": mine, "host": socket.gethostname(), "pid": os.getpid()}
    write_text(run / NOTE, json.dumps(note))
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(run, mine, ended), name="control", daemon=True)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        signal.signal(signal.SIGTERM, previous)
        if _id(run / NOTE) == mine:
            (run / NOTE).unlink(missing_ok=True)
        (run / REQUEST).unlink(missing_ok=True)


def cancel(run: Path, patience: float) -> str:
    """Have whoever runs a run end it, wait until that is done, and say what was found.

    Args:
        run: Its folder.
        patience: Seconds to wait at most.

    Raises:
        UsageError: If the folder holds no run, or who runs it does not end in time.
    """
    if not (run / "study.json").is_file():
        raise UsageError(f"{str(run)!r} is no run folder: it holds no study.json.")
    whose = _id(run / NOTE)
    if not whose:
        return "nobody runs it."
    note = json.loads((run / NOTE).read_text())
    who = f"process {note['pid']} on {note['host']}"
    write_text(run / REQUEST, json.dumps({"id": whose}))
    until, beat, heard = time.monotonic() + patience, 0, time.monotonic()
    while _id(run / NOTE) == whose:
        now = time.monotonic()
        if (latest := _beat(run / NOTE)) != beat:
            beat, heard = latest, now
        if now - heard > SILENT_SECONDS:
            for left in (NOTE, REQUEST):
                (run / left).unlink(missing_ok=True)
            return f"{who}, which ran it, is gone."
        if now > until:
            raise UsageError(f"{who} has not ended {str(run)!r} within {patience:g} s.")
        time.sleep(BEAT_SECONDS / 4)
    return f"{who} has ended it."


def _watch(run: Path, mine: str, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(OSError):  # a folder that cannot be written ends nothing by itself
            os.utime(run / NOTE)
        if _id(run / REQUEST) == mine:
            with suppress(OSError):
                (run / REQUEST).unlink()
            os.kill(os.getpid(), signal.SIGTERM)


def _id(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _beat(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
