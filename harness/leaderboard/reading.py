"""From a result file to a submission; whatever breaks a rule is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import DataError
from harness.core.spec import digest
from harness.leaderboard.consistency import check_attack_flags, check_claim, check_row
from harness.leaderboard.parsing import read_json
from harness.leaderboard.schema import check_schema
from harness.leaderboard.values import (
    ROLES,
    Claim,
    Measured,
    MeasuredRun,
    Origin,
    Probe,
    StudyFacts,
    Submission,
)
from harness.report.published import Wanted
from harness.report.statistics import Interval


def read_submission(path: Path) -> Submission:
    """Read a result file.

    Raises:
        DataError: If it breaks the limits, the schema, or says what its own counts do not give; one
            message with the place in the file, what was given and what is allowed.
    """
    return submission_of(read_json(path), f"result file {str(path)!r}")


def submission_of(raw: Any, where: str, origin: Origin = "file") -> Submission:
    """Read the plain values of a result file (see :func:`read_submission`)."""
    check_schema(raw, where)
    about, measured = raw["submission"], raw["measured"]
    if measured is None and not raw["claims"]:
        raise DataError(f"{where}, at the top: got neither a run nor a claim; needed: one of them.")
    found = Submission(
        key=digest(raw)[:12],
        name=about["name"], who=about["who"],
        url=about.get("url", ""), notes=about.get("notes", ""),
        run=_run(measured) if measured else None,
        claims=tuple(map(_claim, raw["claims"])),
        raw=raw, origin=origin,
    )  # fmt: skip
    rows = found.run.rows if found.run else ()
    for index, row in enumerate(rows):
        check_row(row, f"{where}, at measured.rows[{index}]")
    check_attack_flags(rows, f"{where}, at measured.rows")
    for index, claim in enumerate(found.claims):
        check_claim(claim, f"{where}, at claims[{index}]")
    return found


def _run(raw: Mapping[str, Any]) -> MeasuredRun:
    study, verified = raw["study"], raw["verified"]
    return MeasuredRun(
        study=StudyFacts(**{**study, "overrides": tuple(study["overrides"])}),
        rows=tuple(map(_row, raw["rows"])),
        spec_ids=tuple(raw["spec_ids"]),
        environment=tuple(raw["environment"]),
        checksums=raw["checksums"],
        version=verified["version"],
        checked=tuple(verified["checked"]),
        unchecked=tuple(verified["unchecked"]),
    )


def _row(raw: Mapping[str, Any]) -> Measured:
    return Measured(
        labels=raw["labels"], components={role: raw["components"][role] for role in ROLES},
        identities=raw["identities"], goal=raw["goal"],
        trials=int(raw["trials"]), failed=int(raw["failed"]),
        targets=tuple(map(int, raw["targets"])),
        accuracy=_interval(raw["accuracy"]), accuracy_counts=_counts(raw["accuracy_counts"]),
        probes=tuple(
            Probe(p["name"], Interval(**p["success"]), _counts(p["counts"]), p["floor"])
            for p in raw["probes"]
        ),
        flags=tuple(dict.fromkeys(raw["flags"])),
    )  # fmt: skip


def _counts(raw: list[list[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(hits), int(total)) for hits, total in raw)  # JSON takes 3.0 for an integer


def _interval(raw: Mapping[str, Any] | None) -> Interval | None:
    return None if raw is None else Interval(**raw)


def _claim(raw: Mapping[str, Any]) -> Claim:
    trials = None if raw["trials"] is None else int(raw["trials"])
    return Claim(
        dataset=raw["dataset"], scenario=raw["scenario"],
        **{role: _wanted(raw[role]) for role in ("classifier", "attack", "defense")},
        trials=trials,
        success=_printed(raw["success"], trials), accuracy=_printed(raw["accuracy"], trials),
        source=raw["source"], note=raw.get("note", ""),
    )  # fmt: skip


def _wanted(raw: Mapping[str, Any]) -> Wanted:
    return Wanted(raw["name"], tuple(raw["with"].items()))


def _printed(raw: Mapping[str, Any] | None, trials: int | None) -> Interval | None:
    if raw is None:
        return None
    return Interval(raw["value"], raw["low"], raw["high"], trials or 0, raw["spread"])
