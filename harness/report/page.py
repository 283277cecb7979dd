"""One self-contained HTML page: opens from a disk, a mail or a ticket, and loads nothing."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from harness.report import flags
from harness.report import format as fmt
from harness.report.again import again
from harness.report.chains import chain_notes
from harness.report.checksums import records_digest
from harness.report.collect import Problem, Run
from harness.report.columns import Column, Value, main_columns
from harness.report.components import component_table
from harness.report.effort import NOTE as EFFORT_NOTE
from harness.report.effort import calls_table, effort_table
from harness.report.figures import Drawing
from harness.report.how_sure import HowSure
from harness.report.inline import png_uri, svg_element
from harness.report.published_panel import NOTE, Published
from harness.report.summary import Row, Summary
from harness.report.table import Entry, Head, Table
from harness.report.trial_table import trial_table
from harness.report.trials import Trial, labels_of
from harness.report.words import TOLERATED_LOSS, verdicts

_FEW = 10
"""Below so many trials the page warns of their bootstrap."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it shows.
        sort: The value it is sorted by; "" sorts last.
        classes: How it looks.
        note: What it says when pointed at.
        aside: Shown smaller below the text: an interval, a target.
        badges: Shown below the text: flags.
    """

    text: str
    sort: str
    classes: str = ""
    note: str = ""
    aside: str = ""
    badges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table; ``attack`` and ``defense`` are what the page filters by.

    A row that compares two defenses has both, with ``|`` between them.
    """

    cells: tuple[Cell, ...]
    attack: str
    defense: str
    classes: str = ""


def render_page(
    run: Run,
    summary: Summary,
    sure: HowSure,
    beside: Published | None,
    drawings: Sequence[Drawing],
    problems: Sequence[Problem],
) -> str:
    """Return the page.

    Args:
        run: What was read.
        summary: Its main table.
        sure: How sure its differences are.
        beside: Published results beside them, where there are any.
        drawings: Its figures.
        problems: Files that could not be read, records and samples alike.
    """
    # The flags stand with the defense, where a narrow screen shows them.
    columns = [c for c in main_columns(summary.rows) if c.key != "flags"]
    trials = run.trials
    each = trial_table(trials)
    parts, effort, calls = component_table(run), effort_table(trials), calls_table(run.study)
    return template("report.html.j2").render(
        title=run.study.title or run.study.name or run.path.resolve().name,
        name=run.study.name,
        partial=run.partial,
        counts=_counts(run),
        verdicts=verdicts(summary, sure.pairs),
        setting=_setting(trials),
        main_heads=[
            (c.title, f"{'num' if c.numeric else 'text'} c-{c.key}", c.help) for c in columns
        ],
        lines=_lines(summary.rows, columns),
        attacks=labels_of(trials, "attack"),
        defenses=summary.defenses,
        explained=_explained(summary.rows),
        tolerated=f"{100 * TOLERATED_LOSS:.0f}",
        single=any(r.trials == 1 and r.goal != "targeted" for r in summary.rows),
        few=any(1 < r.trials < _FEW and r.goal != "targeted" for r in summary.rows),
        figures=[(d, figure_element(d, f"f{i}")) for i, d in enumerate(drawings, 1)],
        beside=beside,
        beside_note=NOTE,
        beside_heads=heads(beside.table) if beside else (),
        beside_lines=table_lines(
            beside.table, [(p.ours.attack, p.ours.defense, "") for p in beside.pairs]
        )
        if beside
        else (),
        sure=sure,
        pair_heads=heads(sure.pair_table),
        pair_lines=table_lines(
            sure.pair_table,
            [
                (p.attack, f"{p.defense}|{p.against}", "shown" if p.shown else "")
                for p in sure.pairs
            ],
        ),
        split_heads=heads(sure.split_table),
        split_lines=table_lines(sure.split_table, [(s.attack, s.defense, "") for s in sure.splits])
        if any(s.parts for s in sure.splits)
        else (),
        unsplit=sorted({s.note for s in sure.splits if s.note}),
        chains=chain_notes(trials),
        floors=_floors(trials),
        repeats=_repeats(run, beside),
        trial_heads=heads(each),
        trial_lines=table_lines(
            each, [(t.attack, t.defense, "" if t.ok else "failed") for t in trials]
        ),
        failed=[t for t in trials if not t.ok],
        missing=run.missing,
        problems=problems,
        command=run.study.command,
        overrides=run.study.overrides,
        again=again(run.study, [t.record.environment for t in trials]),
        study=as_yaml(run.study.study),
        parts_heads=heads(parts),
        parts_lines=plain_lines(parts),
        effort_heads=heads(effort),
        effort_lines=plain_lines(effort),
        effort_note=EFFORT_NOTE,
        calls_heads=heads(calls),
        calls_lines=plain_lines(calls),
        records_digest=records_digest(run.path),
        environment=facts([t.record.environment for t in trials if t.record.environment]),
        seeds=_seeds(trials),
        spec_ids=[t.record.spec_id for t in trials],
    )


@cache
def template(name: str) -> Template:
    """Return a page's template; a value that it lacks is an error."""
    environment = Environment(
        loader=PackageLoader("harness.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(name)


def _setting(trials: Sequence[Trial]) -> str:
    """The one setting of all trials in words, or "" where there are several."""
    found = {t.setting for t in trials}
    return ", ".join(part for part in found.pop() if part) if len(found) == 1 else ""


def repeats(study: dict[str, Any]) -> str:
    """Return which table or figure of which paper a study repeats, or ""."""
    found = study.get("reproduces")
    if not isinstance(found, dict):
        return ""
    return f"It asks what {found.get('item')} of {found.get('paper')} asks"


def _repeats(run: Run, beside: Published | None) -> str:
    """Return what the study repeats, and whether it has published numbers."""
    said = repeats(run.study.study)
    return (
        said if beside or not said else f"{said}; that has no printed numbers to stand beside these"
    )


def _floors(trials: Sequence[Trial]) -> str:
    """Return in words how many trainings stand behind each setting's clean floor, or ""."""
    clean = Counter(t.setting for t in trials if t.ok and not t.attacked and not t.defended)
    if not clean:
        return ""
    few, many = min(clean.values()), max(clean.values())
    count = f"{few}" if few == many else f"{few} to {many}"
    noun = "training" if count == "1" else "trainings"
    where = " in each setting" if len(clean) > 1 else ""
    return f"the clean floor is of {count} {noun} without attack and defense{where}"


def _counts(run: Run) -> str:
    finished = sum(t.ok for t in run.trials)
    parts = [f"{finished} trial{'s' if finished != 1 else ''} measured"]
    failed = len(run.trials) - finished
    if failed:
        parts.append(f"{failed} failed")
    if run.missing:
        parts.append(f"{len(run.missing)} of {len(run.study.planned)} planned without a record")
    return ", ".join(parts)


def _lines(rows: Sequence[Row], columns: Sequence[Column]) -> list[Line]:
    lines = []
    for index, row in enumerate(rows):
        previous = rows[index - 1] if index else row
        starts = (row.setting, row.attack) != (previous.setting, previous.attack)
        classes = ["starts"] if starts else []
        if flags.NO_CREDIT.intersection(row.flags):
            classes.append("nocredit")
        if not row.defended:
            classes.append("bare")
        cells = tuple(_cell(row, column) for column in columns)
        lines.append(Line(cells, row.attack, row.defense, " ".join(classes)))
    return lines


def _cell(row: Row, column: Column) -> Cell:
    classes = ["num"] if column.numeric else ["text"]
    if column.best and column.best in row.best:
        classes.append("best")
    note = column.note(row)
    if "best" in classes:
        note = f"best of the defenses with credit; {note}"
    text, aside = column.text(row), ""
    if column.numeric:  # the estimate, and below it what stands in brackets
        text, _, aside = text.partition(" ")
    classes.append(f"c-{column.key}")
    badges = row.flags if column.key == "defense" else ()
    return Cell(text, _sortable(column.value(row)), " ".join(classes), note, aside, badges)


def _sortable(value: Value) -> str:
    return "" if value is None else str(value)


def _explained(rows: Sequence[Row]) -> dict[str, str]:
    raised = {flag for row in rows for flag in row.flags}
    return {flag: text for flag, text in flags.EXPLANATIONS.items() if flag in raised}


def figure_element(drawing: Drawing, prefix: str) -> Markup:
    """Return a figure as it stands in the page.

    Args:
        drawing: The figure.
        prefix: Of its ids, different for each figure.
    """
    label = html.escape(f"{drawing.title}. {drawing.caption}", quote=True)
    if drawing.raster:
        return Markup(
            f'<img alt="{label}" src="{png_uri(drawing.png)}" width="{drawing.width_px}">'
        )
    return Markup(svg_element(drawing.svg, prefix, label))


def heads(table: Table) -> list[tuple[str, str, str]]:
    """Return title, alignment and help of each column."""
    return [(h.title, "num" if h.numeric else "text", h.help) for h in table.heads]


def table_lines(table: Table, owners: Sequence[tuple[str, str, str]] | None = None) -> list[Line]:
    """Return the rows of a table, each with its owner, if any: attack, defense and classes."""
    lines = []
    if owners is None:
        owners = [("", "", "")] * len(table.rows)
    for index, (row, owner) in enumerate(zip(table.rows, owners, strict=True)):
        attack, defense, classes = owner
        cells = tuple(_entry(*pair) for pair in zip(table.heads, row, strict=True))
        starts = "starts " if index in table.starts else ""
        lines.append(Line(cells, attack, defense, f"{starts}{classes}".strip()))
    return lines


def plain_lines(table: Table) -> list[list[Cell]]:
    """Return the cells of a table without controls."""
    return [
        [
            Cell(entry.text, _sortable(entry.value), "num" if head.numeric else "text")
            for head, entry in zip(table.heads, row, strict=True)
        ]
        for row in table.rows
    ]


def _entry(head: Head, entry: Entry) -> Cell:
    text, bracket, ends = entry.text.partition(" [")  # the interval stands below its estimate
    kind = "num" if head.numeric else "text"
    return Cell(text, _sortable(entry.value), kind, aside=f"[{ends}" if bracket else "")


def facts(sources: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Every key with its distinct values, the most frequent first: trials may differ."""
    counts: dict[str, Counter[str]] = {}
    for source in sources:
        for key, value in _flattened(source):
            counts.setdefault(key, Counter())[value] += 1
    return [(key, [value for value, _ in seen.most_common()]) for key, seen in counts.items()]


def _flattened(source: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in source.items():
        if isinstance(value, dict):
            found += _flattened(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", str(value)))
    return found


def _seeds(trials: Sequence[Trial]) -> list[tuple[str, str]]:
    found = []
    for kind in ("poison", "purify", "victim"):
        values = sorted({t.seeds[kind] for t in trials if kind in t.seeds})
        found.append((kind, ", ".join(map(str, values)) or fmt.MISSING))
    return found


def as_yaml(study: dict[str, Any]) -> str:
    """Return a study as the text of a file."""
    return yaml.safe_dump(study, sort_keys=False, allow_unicode=True) if study else ""
