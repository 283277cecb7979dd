"""From a run folder to its report folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harness.core.files import write_aside
from harness.report import render
from harness.report.collect import read_run, to_frame
from harness.report.figures import draw_all
from harness.report.page import render_page
from harness.report.samples import galleries
from harness.report.summary import Summary, summarise


@dataclass(frozen=True, eq=False)
class Report:
    """What was written.

    Attributes:
        page: The HTML page.
        files: Every file written, the page among them.
        frame: The main table: shares in [0, 1].
        summary: The same, with its trials; :func:`harness.report.render.console_table` shows it.
    """

    page: Path
    files: tuple[Path, ...]
    frame: pd.DataFrame
    summary: Summary


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
    contents: dict[str, bytes] = {
        "table.md": render.to_markdown(summary.rows).encode(),
        "table.csv": render.to_csv(summary.rows).encode(),
        "table.tex": render.to_latex(summary.rows).encode(),
        "trials.csv": to_frame(read.trials).to_csv(index=False, lineterminator="\n").encode(),
    }
    for drawing in drawings:
        contents[f"figures/{drawing.name}.svg"] = drawing.svg.encode()
        contents[f"figures/{drawing.name}.png"] = drawing.png
    page = render_page(read, summary, drawings, [*read.problems, *unreadable])
    contents["index.html"] = page.encode()  # last: who sees it finds the rest
    folder = run / "report"
    files = tuple(_write(folder / name, content) for name, content in contents.items())
    _remove_stale(folder / "figures", keep=set(files))
    return Report(folder / "index.html", files, render.to_frame(summary.rows), summary)


def _write(path: Path, content: bytes) -> Path:
    write_aside(path, lambda aside: aside.write_bytes(content))
    return path


def _remove_stale(figures: Path, keep: set[Path]) -> None:
    for pattern in ("*.svg", "*.png"):
        for file in figures.glob(pattern):
            if file not in keep:
                file.unlink()
