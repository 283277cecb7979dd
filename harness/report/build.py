"""From a run folder to its report folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harness.core.files import write_aside
from harness.report import pairs, render, variance
from harness.report.checksums import CHECKSUMS, checksums
from harness.report.collect import Problem, Run, read_run, to_frame
from harness.report.figures import draw_all
from harness.report.how_sure import HowSure, how_sure
from harness.report.how_sure import to_markdown as how_sure_markdown
from harness.report.page import render_page
from harness.report.published_panel import NOTE, Published, published_section
from harness.report.samples import galleries
from harness.report.summary import Summary, summarise
from harness.report.table import latex, markdown
from harness.report.trial_table import trial_table


@dataclass(frozen=True, eq=False)
class Report:
    """What was written.

    Attributes:
        page: The HTML page.
        files: Every file written, the page among them.
        frame: The main table: shares in [0, 1].
        summary: The same, with its trials; :func:`harness.report.render.console_table` shows it.
        problems: Files of the run that could not be read.
    """

    page: Path
    files: tuple[Path, ...]
    frame: pd.DataFrame
    summary: Summary
    problems: tuple[Problem, ...]


def build_report(run: Path) -> Report:
    """Write ``RUN/report``: page, tables and figures, each file whole or not at all.

    ``report/figures`` belongs to the report: an SVG or PNG there of an earlier one, which this one
    no longer has, is removed, lest it be taken for a result.

    Args:
        run: A folder with ``records/*.json``, and optionally ``study.json`` and ``samples/*.npz``.

    Raises:
        UsageError: If there is no such folder, or no record in it that can be read.
    """
    read = read_run(run)
    summary = summarise(read.trials)
    shown, unreadable = galleries(summary, run / "samples")
    drawings = draw_all(summary, shown)
    sure, beside = how_sure(read, summary), published_section(read, summary)
    contents = {
        name: text.encode() for name, text in tables_of(read, summary, sure, beside).items()
    }
    for drawing in drawings:
        contents[f"figures/{drawing.name}.svg"] = drawing.svg.encode()
        contents[f"figures/{drawing.name}.png"] = drawing.png
    problems = (*read.problems, *unreadable)
    page = render_page(read, summary, sure, beside, drawings, problems)
    contents["index.html"] = page.encode()
    folder = run / "report"
    files = [_write(folder / name, content) for name, content in contents.items()]
    # Last: it vouches for the rest.
    files.append(_write(folder / CHECKSUMS, checksums(run, files).encode()))
    _remove_stale(folder / "figures", keep=set(files))
    frame = render.to_frame(summary.rows)
    return Report(folder / "index.html", tuple(files), frame, summary, problems)


def tables_of(
    run: Run, summary: Summary, sure: HowSure, beside: Published | None
) -> dict[str, str]:
    """Return every table of a report, by the name of its file."""
    each = trial_table(run.trials)
    frames = {
        "trials": to_frame(run.trials),
        "pairs": pairs.to_frame(sure.pairs),
        "variance": variance.to_frame(sure.splits),
    }
    tables = {"trials": each, "pairs": sure.pair_table, "variance": sure.split_table}
    found = {
        "table.md": render.to_markdown(summary.rows),
        "table.csv": render.to_csv(summary.rows),
        "table.tex": render.to_latex(summary.rows),
        "how_sure.md": how_sure_markdown(sure),
    }
    for name, table in tables.items():
        if table.rows:
            found[f"{name}.md"] = markdown(table)
            found[f"{name}.csv"] = frames[name].to_csv(index=False, lineterminator="\n")
            found[f"{name}.tex"] = latex(table)
    if beside is not None:
        found["published.md"] = f"{beside.source}.\n\n{markdown(beside.table)}\n{NOTE}\n"
        found["published.csv"] = beside.frame.to_csv(index=False, lineterminator="\n")
        found["published.tex"] = latex(beside.table)
    return found


def _write(path: Path, content: bytes) -> Path:
    write_aside(path, lambda aside: aside.write_bytes(content))
    return path


def _remove_stale(figures: Path, keep: set[Path]) -> None:
    for pattern in ("*.svg", "*.png"):
        for file in figures.glob(pattern):
            if file not in keep:
                file.unlink()
