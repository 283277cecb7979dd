"""What the test of the store runs in other processes; it imports little, to start quickly."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from harness.artifacts import LABEL, Store
from harness.remote_store import CACHE_VARIABLE, RemoteStore, open_store


def read(folder: Path) -> str:
    return (folder / "text").read_text()


def slowly(root: str, key: dict[str, Any], log: str, text: str) -> None:
    """Make an artefact and note that it was made; ``die`` is killed half-way through."""

    def make(folder: Path) -> None:
        with Path(log).open("a") as handle:
            handle.write(f"{text}\n")
        (folder / "text").write_text("half")
        if text == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.5)  # the other one comes by now
        (folder / "text").write_text(text)

    Store(Path(root)).recall(key, make, read)


def killed_while_it_sends(address: str, cache: str, key: dict[str, Any]) -> None:
    """Make an artefact on a node of its own, which is killed once all but the label is sent."""
    os.environ[CACHE_VARIABLE] = cache
    put = RemoteStore._put

    def put_or_die(self: RemoteStore, source: Any, path: str) -> None:
        if path.endswith(LABEL):
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, source, path)

    RemoteStore._put = put_or_die  # type: ignore[method-assign]
    open_store(address).recall(key, lambda folder: (folder / "text").write_text("half"), read)
