"""Foreign files are read in a process of their own, with limits and without our environment.

The readers run nothing that a file holds (:mod:`harness.interop.safe_pickle`). This is the second
fence: a fault in zlib, Pillow or numpy, or an endless loop, ends that process and not ours, which
takes from it plain arrays alone. It does not cut the process off the network; where that is wanted,
import in a container without one.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import harness
from harness.core.errors import DataError
from harness.core.files import read_arrays
from harness.interop._read import REFUSED
from harness.interop.foreign import Foreign
from harness.interop.limits import Limits

log = logging.getLogger(__name__)
_KEPT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")  # what an interpreter may need to start


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    root = str(Path(harness.__file__).parents[1])
    # Each thread of a linear algebra library would reserve address space of its own.
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**kept, **threads, "PYTHONPATH": root, "PYTHONUTF8": "1"}


def read_isolated(
    source: Path, form: str, companion: Path | None = None, limits: Limits | None = None
) -> Foreign:
    """Read a source of a known format in a process of its own.

    Args:
        source: File or folder.
        form: Name of its format.
        companion: A second file that some formats need.
        limits: What it may cost.

    Raises:
        DataError: If it is refused, or the process ran into a limit or crashed.
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="puregen-import-") as folder:
        out = Path(folder)
        request = {
            "format": form,
            "source": str(source.resolve()),
            "companion": str(companion.resolve()) if companion else None,
            "out": folder,
            "limits": asdict(limits),
        }
        _run([sys.executable, "-s", "-P", "-m", "harness.interop._read", json.dumps(request)], out,
             str(source), limits)  # fmt: skip
        told = json.loads((out / "facts.json").read_text())
        for note in told["notes"]:
            log.warning("%s", note)
        return Foreign(read_arrays(out / "arrays.npz"), told["facts"])


def _run(command: list[str], out: Path, source: str, limits: Limits) -> None:
    try:
        ended = subprocess.run(
            command,
            cwd=out,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=10 * limits.seconds + 60,  # CPU time is what is limited; a disk may be slow
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{source!r} is refused: reading it did not end.") from None
    if ended.returncode == REFUSED:
        raise DataError((out / "error.txt").read_text(encoding="utf-8"))
    if ended.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise DataError(
            f"{source!r} is refused: reading it took more than {limits.seconds} s of CPU time, or "
            "more memory than this machine has."
        )
    if ended.returncode:
        last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise DataError(
            f"{source!r} is refused: reading it ended with status {ended.returncode} "
            f"({last[:200]!a})."
        )
