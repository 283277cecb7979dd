"""Deriving every number of a run's report again, from nothing but its records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.report.build import tables_of
from harness.report.checksums import CHECKSUMS, wrong_files
from harness.report.collect import Run, read_run
from harness.report.how_sure import how_sure
from harness.report.page import render_page
from harness.report.published_panel import published_section
from harness.report.samples import galleries
from harness.report.summary import summarise
from harness.report.trajectories import is_of_trajectories
from harness.verification.inputs import wrong_inputs
from harness.verification.page import missing_sections, names_as_missing, wrong_words
from harness.verification.records import wrong_records
from harness.verification.tables import wrong_cells
from harness.verification.trajectories import wrong_trajectories
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
        return Verification(*map(tuple, wrong_trajectories(path)))
    run = read_run(path)
    report = path / "report"
    checked = [f"{len(run.trials)} records against study.json, their ids and themselves"]
    wrong = [*wrong_records(run), *_without_record(run, report / PAGE)]
    unchecked = [] if run.study.planned else ["study.json names no trials; none can be missed"]
    unchecked.append("figures")
    if workshop is None:
        unchecked.append("whether data, weights and code are still those of study.json (--inputs)")
    elif run.study.inputs:
        wrong += wrong_inputs(run, workshop)
        checked.append(f"{len(run.study.inputs)} digests of data, weights and code")
    else:
        unchecked.append("data, weights and code: study.json names no digest")
    if not report.is_dir():
        unchecked.append("there is no report, so no table to check")
        return Verification(tuple(checked), tuple(wrong), tuple(unchecked))
    if (report / CHECKSUMS).is_file():
        wrong += wrong_files(report)
        checked.append(f"SHA-256 of each file that report/{CHECKSUMS} names")
    else:
        unchecked.append(f"hashes: there is no report/{CHECKSUMS}; an earlier version reported")
    summary = summarise(run.trials)
    sure, beside = how_sure(run, summary), published_section(run, summary)
    derived = tables_of(run, summary, sure, beside)
    for name, text in derived.items():
        file = report / name
        if not file.is_file():
            unchecked.append(f"report/{name}: not there")
            continue
        wrong += wrong_cells(f"report/{name}", _read(file), text)
        checked.append(f"report/{name} against the records")
    if (report / PAGE).is_file():
        _, unreadable = galleries(summary, path / "samples")
        page = render_page(run, summary, sure, beside, [], [*run.problems, *unreadable])
        written = _read(report / PAGE)
        wrong += (f"report/{PAGE}, {what}" for what in wrong_words(written, page))
        checked.append(f"report/{PAGE} against the records")
        lacking = missing_sections(written, page)
        unchecked += (f"report/{PAGE}, section {name}: not there" for name in lacking)
    else:
        unchecked.append(f"report/{PAGE}: not there")
    return Verification(tuple(checked), tuple(wrong), tuple(unchecked))


def _without_record(run: Run, page: Path) -> Iterator[str]:
    written = _read(page) if page.is_file() else ""
    for spec_id in run.missing:
        if not names_as_missing(written, spec_id):
            yield f"records/{spec_id}.json: planned, not there, and no report names it as missing"


def _read(file: Path) -> str:
    return file.read_bytes().decode(errors="replace")
