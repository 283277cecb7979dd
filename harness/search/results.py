"""What a search has found, as tables and as text to paste."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import yaml

from harness.core.files import write_text
from harness.core.values import Json
from harness.report.collect import read_run
from harness.report.statistics import Interval
from harness.report.summary import summarise
from harness.search.measured import Measured
from harness.search.standing import Found, Standing
from harness.search.words import honesty

FOLDER = "search"


def write_results(found: Found, run: Path) -> Path:
    """Write ``RUN/search``: ``configurations.csv`` and ``.md``, and ``chosen.yaml``."""
    folder = run / FOLDER
    write_text(folder / "configurations.csv", to_csv(found))
    write_text(folder / "configurations.md", to_markdown(found))
    if found.chosen:
        write_text(folder / "chosen.yaml", to_yaml(found))
    return folder


def to_yaml(found: Found) -> str:
    """Return what was chosen as a study file's ``defenses``."""
    defenses = [found.search.given(one.configuration.values) for one in found.chosen]
    lines = "".join(f"# {line}\n" for line in honesty(found))
    return lines + yaml.safe_dump({"defenses": defenses}, sort_keys=False, allow_unicode=True)


def header(found: Found) -> list[str]:
    """Return the names of the table's columns."""
    names = [d.name for d in found.search.space]
    metrics = [name.replace("_", " ") for name in found.search.objective.shown]
    return ["configuration", *names, "trials", *metrics, "bounds", "what became of it"]


def rows(found: Found) -> list[list[str]]:
    """Return the table's rows, the undefended first, then the best first."""
    width = len(found.search.space)
    none = ["none", *[""] * width, "", *_shown(found, found.undefended), "", "without a defense"]
    ordered = sorted(found.standings, key=lambda s: _rank(found, s))
    return [none, *([*_row(found, one)] for one in ordered)]


def _row(found: Found, one: Standing) -> list[str]:
    values = [_text(one.configuration.values[d.name]) for d in found.search.space]
    bounds = "" if not one.violations else ("kept" if one.keeps else "missed")
    measured = _shown(found, one.measured)
    number = str(one.configuration.number)
    return [number, *values, str(one.trials), *measured, bounds, became(found, one)]


def became(found: Found, one: Standing) -> str:
    """Return what became of a configuration, in a few words."""
    if one.numbers is None:
        return "a trial failed"
    if one in found.chosen:
        return "chosen"
    if not one.whole:
        return f"dropped after {one.trials} trial{'s' if one.trials > 1 else ''}"
    return "on the front" if one.configuration.number in found.front else ""


def _rank(found: Found, one: Standing) -> tuple[object, ...]:
    numbers = one.numbers or ()
    return (
        one.numbers is None, one not in found.chosen, not one.whole, -one.trials, not one.keeps,
        numbers, one.configuration.number,
    )  # fmt: skip


def _shown(found: Found, measured: Measured | None) -> list[str]:
    return [
        "" if measured is None else percent(measured[name]) for name in found.search.objective.shown
    ]


def percent(interval: Interval) -> str:
    """Return a share and its interval in percent: ``12.3 [10.1, 14.8]``."""
    text = f"{100 * interval.value:.1f}"
    if interval.low is None or interval.high is None:
        return text
    return f"{text} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _text(value: Json) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value.get("name", value)) if isinstance(value, dict) else str(value)


def to_markdown(found: Found) -> str:
    """Return the table in Markdown, with what its numbers may be used for."""
    lines = [header(found), ["---"] * len(header(found)), *rows(found)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    notes = "\n".join(f"{line}  " for line in honesty(found))
    return (
        f"{found.search.objective}; shares in percent with 95 % intervals.\n\n{table}\n\n{notes}\n"
    )


def to_csv(found: Found) -> str:
    """Return the table as CSV: shares in [0, 1], the ends of each interval apart."""
    metrics = found.search.objective.shown
    names = [d.name for d in found.search.space]
    ends = [f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["configuration", *names, "trials", *ends, "keeps", "on_front", "chosen", "became"]
    )
    for one in found.standings:
        values = [one.configuration.values[name] for name in names]
        number = one.configuration.number
        state = [one.keeps, number in found.front, one in found.chosen, became(found, one)]
        cells = _cells(one.measured, metrics)
        writer.writerow([number, *values, one.trials, *cells, *state])
    return out.getvalue()


def _cells(measured: Measured | None, metrics: Sequence[str]) -> list[float | None]:
    cells: list[float | None] = []
    for metric in metrics:
        interval = None if measured is None else measured[metric]
        cells += [None] * 3 if interval is None else [interval.value, interval.low, interval.high]
    return cells


def held_out_rows(run: Path) -> list[list[str]]:
    """Return attack, defense, trials, success and accuracy of each row of the report's run."""
    return [
        [
            row.attack, row.defense, str(row.trials),
            percent(row.headline.success) if row.headline else "",
            percent(row.accuracy) if row.accuracy else "",
        ]
        for row in summarise(read_run(run).trials).rows
        if row.attack != "none"
    ]  # fmt: skip
