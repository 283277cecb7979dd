"""Deriving every number of a run's report again, from nothing but its records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.report.build import tables_of
from harness.report.checksums import CHECKSUMS, wrong_files
from harness.report.collect import Run, read_run
from harness.report.figures import draw_all
from harness.report.how_sure import how_sure
from harness.report.nested import CROSSED, NESTED
from harness.report.page import render_page
from harness.report.published_panel import published_section
from harness.report.samples import galleries
from harness.report.summary import summarise, ties_of
from harness.report.trajectories import is_of_trajectories
from harness.report.trials import Ties
from harness.verification.figures import check_drawings_of_page, check_figures
from harness.verification.found import Found
from harness.verification.page import missing_sections, names_as_missing, wrong_words
from harness.verification.records import wrong_records
from harness.verification.tables import wrong_cells

if TYPE_CHECKING:
    from harness.workshop import Workshop

PAGE = "index.html"


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of a run found.

    Attributes:
        checked: What was looked at, in words.
        discrepancies: What is wrong, a line each.
        unchecked: What could not be looked at, and why.
    """

    checked: tuple[str, ...]
    discrepancies: tuple[str, ...]
    unchecked: tuple[str, ...]


def verify(path: Path, workshop: Workshop | None = None) -> Verification:
    """Check a run folder; nothing in it is changed.

    Args:
        path: The folder.
        workshop: Where given, data, weights and code are held against the digests of the study.

    Raises:
        UsageError: If there is no such folder, or no record in it that can be read.
    """
    if is_of_trajectories(path):
        from harness.verification.trajectories import wrong_trajectories  # with torch

        return Verification(*map(tuple, wrong_trajectories(path)))
    run = read_run(path)
    report = path / "report"
    found = Found([f"{len(run.trials)} records against study.json, their ids and themselves"])
    found.wrong += [*wrong_records(run), *_without_record(run, report / PAGE)]
    if not run.study.planned:
        found.unchecked.append("study.json names no trials; none can be missed")
    _check_inputs(found, run, workshop)
    if report.is_dir():
        _check_hashes(found, report)
        if newer := _not_reported(run, report / "trials.csv"):
            found.wrong.append(
                f"report: made when {newer} of the {len(run.trials)} records were not there; "
                f"make it again: puregen-bench report {path}"
            )
        else:
            _check_report(found, run, report)
    else:
        found.unchecked.append("there is no report, so no table to check")
    return Verification(tuple(found.checked), tuple(found.wrong), tuple(found.unchecked))


def _check_inputs(found: Found, run: Run, workshop: Workshop | None) -> None:
    if workshop is None:
        said = "whether data, weights and code are still those of study.json (--inputs)"
        found.unchecked.append(said)
    elif run.study.inputs:
        from harness.verification.inputs import wrong_inputs  # with torch: not before it is needed

        found.wrong += wrong_inputs(run, workshop)
        found.checked.append(f"{len(run.study.inputs)} digests of data, weights and code")
    else:
        found.unchecked.append("data, weights and code: study.json names no digest")


def _check_hashes(found: Found, report: Path) -> None:
    if (report / CHECKSUMS).is_file():
        found.wrong += wrong_files(report)
        found.checked.append(f"SHA-256 of each file that report/{CHECKSUMS} names")
    else:
        found.unchecked.append(
            f"hashes: there is no report/{CHECKSUMS}; an earlier version reported"
        )


def _check_report(found: Found, run: Run, report: Path) -> None:
    """Derive tables, figures and page again."""
    run, earlier = _as_reported(run, report / "table.csv")
    if earlier:
        found.unchecked.append(
            f"the intervals of today: an earlier version reported, which took {earlier} for "
            "independent; its own were checked"
        )
    summary = summarise(run.trials)
    sure, beside = how_sure(run, summary), published_section(run, summary)
    for name, text in tables_of(run, summary, sure, beside).items():
        if (report / name).is_file():
            found.wrong += wrong_cells(f"report/{name}", _read(report / name), text)
            found.checked.append(f"report/{name} against the records")
        else:
            found.unchecked.append(f"report/{name}: not there")
    shown, unreadable = galleries(summary, run.path / "samples")
    drawings = draw_all(summary, shown)
    check_figures(found, report, drawings, sampled=bool(shown))
    if not (report / PAGE).is_file():
        found.unchecked.append(f"report/{PAGE}: not there")
        return
    written = _read(report / PAGE)
    page = render_page(run, summary, sure, beside, [], [*run.problems, *unreadable])
    found.wrong += (f"report/{PAGE}, {what}" for what in wrong_words(written, page))
    found.checked.append(f"report/{PAGE} against the records")
    lacking = missing_sections(written, page)
    found.unchecked += (f"report/{PAGE}, section {name}: not there" for name in lacking)
    check_drawings_of_page(found, written, report, drawings)


def _as_reported(run: Run, table: Path) -> tuple[Run, str]:
    """Return the run as its report took it, and what an earlier version took for independent.

    The table says how each interval was made.
    """
    written = _read(table) if table.is_file() else ""
    said = {word for word in (NESTED, CROSSED) if f",{word} " in written}
    tied = ties_of(summarise(run.trials))
    if not written or CROSSED in said or tied <= said:
        return run, ""
    ties: Ties = "target" if NESTED in said else "none"
    took = "one seed of several targets" if said else "the seeds of one target"
    return replace(run, trials=tuple(replace(t, ties=ties) for t in run.trials)), took


def _not_reported(run: Run, table: Path) -> int:
    """Return how many planned trials have a record that is not among the trials of a report."""
    reported = (
        {line.split(",", 1)[0] for line in _read(table).splitlines()} if table.is_file() else set()
    )
    there = {trial.record.spec_id for trial in run.trials} & set(run.study.planned)
    return len(there - reported) if reported else 0


def _without_record(run: Run, page: Path) -> Iterator[str]:
    written = _read(page) if page.is_file() else ""
    for spec_id in run.missing:
        if not names_as_missing(written, spec_id):
            yield f"records/{spec_id}.json: planned, not there, and no report names it as missing"


def _read(file: Path) -> str:
    return file.read_bytes().decode(errors="replace")
