"""The reading process: ``python -m harness.interop._read REQUEST`` (see :mod:`isolated`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from harness.core.errors import DataError
from harness.interop.limits import Limits

REFUSED = 3  # exit status: error.txt says why


def set_limits(limits: Limits) -> list[str]:
    """Limit this process; return a note on each limit that this system does not set."""
    try:
        import resource
    except ImportError:
        return ["this system sets no limits on processes; the reader ran without them."]
    wanted = {
        "CPU": limits.seconds,
        "AS": limits.memory_bytes,
        "FSIZE": limits.image_bytes + limits.file_bytes,
        "CORE": 0,
    }
    notes = []
    for name, value in wanted.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):
            notes.append(f"this system does not limit {name} of a process; the reader ran without.")
    return notes


def main(request: str) -> int:
    """Read one source within limits and leave arrays and facts in a folder."""
    given = json.loads(request)
    limits = Limits(**given["limits"])
    notes = set_limits(limits)
    from harness.interop.formats import FORMATS

    out = Path(given["out"])
    companion = Path(given["companion"]) if given["companion"] else None
    try:
        found = FORMATS[given["format"]].read(Path(given["source"]), companion, limits)
        np.savez(out / "arrays.npz", **found.arrays)  # type: ignore[arg-type]
    except (DataError, MemoryError, OSError) as error:
        text = str(error) or f"{given['source']!r} is refused: it needs too much memory."
        (out / "error.txt").write_text(text, encoding="utf-8")
        return REFUSED
    (out / "facts.json").write_text(json.dumps({"facts": found.facts, "notes": notes}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
