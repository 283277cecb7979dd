"""What a search keeps in its run's folder: which search it is, and what it has proposed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import DataError, UsageError
from harness.core.files import write_text
from harness.core.spec import PROTOCOL, TrialSpec
from harness.core.values import Json
from harness.run_folder import FREE
from harness.search.space import Values
from harness.study import StudySpec

NAME = "search.json"

Brackets = list[list[Values]]
"""Configurations in the order of proposal; those of a bracket were proposed together."""


def identity(
    study: StudySpec, references: Sequence[TrialSpec], inputs: dict[str, Json]
) -> dict[str, Json]:
    """Return what decides a search's numbers; how many configurations it tries is no part of it."""
    kept = {k: v for k, v in study.raw.items() if k not in FREE}
    kept["search"] = {k: v for k, v in study.raw["search"].items() if k != "configurations"}
    return {
        "study": kept,
        "protocol": PROTOCOL,
        "inputs": inputs,
        "references": [t.spec_id for t in references],
    }


def read_brackets(run: Path, now: dict[str, Json]) -> Brackets:
    """Return what an earlier call has proposed; nothing in a new folder.

    Raises:
        UsageError: If the folder holds something else; says of what.
    """
    path = run / NAME
    if not path.exists():
        if (run / "study.json").exists():
            raise UsageError(f"{str(run)!r} holds a run that is no search. Give another --out.")
        return []
    try:
        earlier = json.loads(path.read_text())
        differing = _differing(earlier["identity"], json.loads(json.dumps(now)))
        brackets: Brackets = [list(map(dict, bracket)) for bracket in earlier["brackets"]]
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"{str(path)!r} is damaged: {error}; give another --out.") from error
    if differing:
        raise UsageError(
            f"{str(run)!r} holds another search: {differing}. "
            "Give another --out, or the same study to go on with it."
        )
    return brackets


def write_brackets(run: Path, now: dict[str, Json], brackets: Brackets) -> None:
    """Write what has been proposed, before any of it runs."""
    text = json.dumps({"identity": now, "brackets": brackets}, indent=1, sort_keys=True)
    try:
        write_text(run / NAME, text + "\n")
    except OSError as error:
        raise UsageError(f"run folder {str(run)!r} cannot be written: {error.strerror}.") from error


def _differing(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    before, after = earlier["study"], now["study"]
    keys = [k for k in sorted({*before, *after}) if before.get(k) != after.get(k)]
    if keys:
        return f"{', '.join(keys)} of the study differ"
    if earlier["protocol"] != now["protocol"]:
        return f"its protocol is {earlier['protocol']}, and this version's is {now['protocol']}"
    others = [k for k, v in now["inputs"].items() if earlier["inputs"].get(k) != v]
    if others:
        return f"{', '.join(others)} changed: the code, or a file that it reads"
    return "" if earlier["references"] == now["references"] else "its trials differ"
