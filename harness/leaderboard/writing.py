"""From a run folder, or a paper's printed numbers, to a result file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import __version__
from harness.core.errors import UsageError
from harness.core.files import write_text
from harness.core.spec import PROTOCOL
from harness.leaderboard.parsing import MAX_BYTES, parse
from harness.leaderboard.reading import submission_of
from harness.leaderboard.values import ROLES
from harness.report import observations as obs
from harness.report.checksums import CHECKSUMS
from harness.report.collect import Run, read_run
from harness.report.published import PublishedRow, Wanted, published
from harness.report.statistics import Interval
from harness.report.summary import Duel, Row, summarise
from harness.report.trials import Trial
from harness.verification.verify import Verification, verify

SCHEMA = "puregen-bench/result/1"
PAPER = "arXiv:2405.18627"


@dataclass(frozen=True, slots=True)
class About:
    """Whose a submission is: its name, who answers for it, a page about it, notes."""

    name: str
    who: str
    url: str = ""
    notes: str = ""


def write_submission(
    run: Path | None, about: About, items: Sequence[str], out: Path
) -> tuple[str, ...]:
    """Write a result file.

    Args:
        run: Folder of a run, or None for claims alone.
        about: Whose it is.
        items: Tables of published numbers to add as claims.
        out: The file.

    Returns:
        What does not verify, a line each; then nothing is written.

    Raises:
        UsageError: If there is nothing to write, no such run, or it has no report.
    """
    raw, wrong = make_submission(run, about, items)
    if wrong:
        return wrong
    text = json.dumps(raw, indent=1, ensure_ascii=False) + "\n"
    if len(text.encode()) > MAX_BYTES:
        raise UsageError(
            f"the result file of {str(run)!r} would be larger than {MAX_BYTES / 1e6:.0f} MB; "
            "submit the parts of the study as runs of their own."
        )
    where = f"what {str(out)!r} is to say"
    submission_of(parse(text.encode(), where), where)
    try:
        write_text(out, text)
    except OSError as error:
        raise UsageError(f"{str(out)!r} cannot be written: {error.strerror}.") from error
    return ()


def make_submission(
    run: Path | None, about: About, items: Sequence[str] = ()
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the plain values of a result file, and what does not verify."""
    if run is None and not items:
        raise UsageError("nothing to submit: give RUN, or --claims ITEM, or both.")
    claims = [_claim(row) for item in items for row in published(item)]
    measured, wrong = (None, ()) if run is None else _measured(run)
    raw = {
        "schema": SCHEMA, "submission": asdict(about), "measured": measured, "claims": claims,
    }  # fmt: skip
    return raw, wrong


def _measured(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    run = read_run(folder)
    if not (folder / "report" / CHECKSUMS).is_file():
        raise UsageError(
            f"{str(folder)!r} has no report/{CHECKSUMS}, which names what is submitted; make its "
            f"report first: puregen-bench report {folder}"
        )
    found = verify(folder)
    return ({}, found.discrepancies) if found.discrepancies else (plain_run(run, found), ())


def plain_run(run: Run, found: Verification) -> dict[str, Any]:
    """Return what a result file says of a run that was verified."""
    study = run.study
    protocols = [t.record.environment["protocol"] for t in run.trials
                 if "protocol" in t.record.environment]  # fmt: skip
    environments = {json.dumps(e, sort_keys=True): e
                    for t in run.trials if (e := t.record.environment)}  # fmt: skip
    return {
        "study": {
            "name": study.name, "title": study.title, "partial": run.partial,
            "protocol": study.protocol or next(iter(protocols), PROTOCOL),
            "command": study.command, "overrides": list(study.overrides),
            "settings": _longest(study.sessions), "file": study.study,
        },
        "rows": [
            _row(run, duel, row) for duel in summarise(run.trials).duels for row in duel.rows
        ],
        "spec_ids": [t.record.spec_id for t in run.trials],
        "environment": list(environments.values()),
        "checksums": _checksums(run.path),
        "verified": {
            "version": __version__, "checked": list(found.checked),
            "unchecked": list(found.unchecked),
        },
    }  # fmt: skip


def _longest(sessions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return when and where the most trials of a run were finished."""
    found = max(sessions, key=lambda s: int(s.get("trials", 0)), default=None)
    return dict(found or {})


def _row(run: Run, duel: Duel, row: Row) -> dict[str, Any]:
    trials = duel.trials[row.defense]
    components = {role: _component(trials[0], role) for role in ROLES}
    labels = {role: getattr(row, role) for role in ROLES}
    return {
        "labels": labels,
        "components": {role: _portable(value) for role, value in components.items()},
        "identities": {
            role: said for role, value in components.items()
            if _has_path(value) and (said := run.study.inputs.get(f"{role} {labels[role]}"))
        },
        "goal": row.goal, "trials": row.trials, "failed": row.failed,
        "targets": list(row.targets),
        "accuracy": _interval(row.accuracy), "accuracy_counts": _counts(obs.accuracy(trials)),
        "probes": [
            {
                "name": p.name, "success": _interval(p.success), "floor": p.floor,
                "counts": _counts(obs.successes(trials, p.name)),
            }
            for p in row.probes
        ],
        "flags": list(row.flags),
    }  # fmt: skip


def _component(trial: Trial, role: str) -> dict[str, Any]:
    """A component of a trial's spec; of an attack without the target that the trial gave it."""
    found = dict(trial.record.spec[role])
    if role != "attack":
        return found
    field = trial.facts.of(role, found["name"]).target
    return {key: value for key, value in found.items() if key != field}


def _has_path(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_path, value.values()))
    if isinstance(value, list):
        return any(map(_has_path, value))
    return isinstance(value, str) and Path(value).is_absolute()


def _portable(value: Any) -> Any:
    """Take the folders off absolute paths: they differ between machines, and are nobody's affair.

    What lies behind such a path is told by its digest, among the identities.
    """
    if isinstance(value, Mapping):
        return {key: _portable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_portable(inner) for inner in value]
    return f"…/{Path(value).name}" if _has_path(value) else value


def _checksums(folder: Path) -> dict[str, str]:
    """Return the digests that the report names, by path from the run's folder."""
    lines = (folder / "report" / CHECKSUMS).read_text().splitlines()
    pairs = (line.partition("  ") for line in lines)
    return {
        name.removeprefix("../") if name.startswith("../") else f"report/{name}": digest
        for digest, _, name in pairs
    }


def _interval(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else asdict(interval)


def _counts(observations: Sequence[obs.Observation]) -> list[list[int]]:
    return [[o.hits, o.total] for o in observations]


def _claim(row: PublishedRow) -> dict[str, Any]:
    return {
        "dataset": row.dataset, "scenario": row.scenario,
        "classifier": _wanted(row.classifier), "attack": _wanted(row.attack),
        "defense": _wanted(row.defense), "trials": row.trials,
        "success": _printed(row.success, row.success_std),
        "accuracy": _printed(row.accuracy, row.accuracy_std),
        "source": f"{PAPER}, {row.item.replace('_', ' ')}", "note": row.note,
    }  # fmt: skip


def _wanted(wanted: Wanted) -> dict[str, Any]:
    return {"name": wanted.name, "with": dict(wanted.params)}


def _printed(interval: Interval | None, std: float | None) -> dict[str, Any] | None:
    """A claim is what is printed: with a standard deviation that, and no interval made from it."""
    if interval is None:
        return None
    if std is not None:
        low, high = max(0.0, interval.value - std), min(1.0, interval.value + std)
        return {"value": interval.value, "low": low, "high": high, "spread": "std"}
    return {
        "value": interval.value, "low": interval.low, "high": interval.high,
        "spread": interval.method,
    }  # fmt: skip
