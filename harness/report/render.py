"""The main table as console text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.report import format as fmt
from harness.report import table
from harness.report.columns import Column, main_columns
from harness.report.statistics import Interval
from harness.report.summary import Duel, Row, Summary


def to_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Return the main table as numbers: shares in [0, 1], seconds, L2; one row per row."""
    return pd.DataFrame([_flat(row) for row in rows])


def to_csv(rows: Iterable[Row]) -> str:
    """Return :func:`to_frame` as CSV."""
    return to_frame(rows).to_csv(index=False, lineterminator="\n")


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the main table in GitHub's Markdown; the best of those with credit is bold."""
    columns = main_columns(rows)
    cells = [
        [_bold(table.escape_markdown(c.text(row)), c, row, "**{}**") for c in columns]
        for row in rows
    ]
    return table.markdown_lines([c.title for c in columns], [c.numeric for c in columns], cells)


def to_latex(rows: Sequence[Row]) -> str:
    r"""Return the main table for LaTeX with ``\usepackage{booktabs}``."""
    columns = main_columns(rows)
    cells = [
        [_bold(table.escape_latex(c.text(row)), c, row, r"\textbf{{{}}}") for c in columns]
        for row in rows
    ]
    titles = [table.escape_latex(c.title) for c in columns]
    groups = [(row.setting, row.attack) for row in rows]
    starts = [i for i in range(1, len(rows)) if groups[i] != groups[i - 1]]
    return table.latex_lines(titles, [c.numeric for c in columns], cells, starts)


def console_table(summary: Summary, width: int = 100) -> Text:
    """Return the results in plain ASCII, one table per setting and attack.

    Args:
        summary: What to show.
        width: Columns of the terminal.

    Returns:
        Text that rich prints as it is; ``.plain`` is the string.
    """
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, force_terminal=False, emoji=False)
    for duel in summary.duels:
        console.print(_console_table(duel), "")
    console.print("95 % intervals; success and accuracy in %. * best of the defenses with credit.")
    lines = (line.rstrip() for line in out.getvalue().splitlines())
    return Text("\n".join(lines).encode("ascii", "replace").decode(), no_wrap=True)


def _console_table(duel: Duel) -> Table:
    setting = ", ".join(part for part in duel.setting if part)
    shown = Table(
        title=escape(f"attack {duel.attack} | {setting}"), title_justify="left", title_style="",
        box=box.ASCII2, show_edge=False, pad_edge=False,
    )  # fmt: skip
    extra = list(dict.fromkeys(p.name for r in duel.rows for p in r.probes[1:]))
    headline = next((r.headline.name for r in duel.rows if r.headline), None)
    floored = any(r.headline and r.headline.floor is not None for r in duel.rows)
    shown.add_column("defense", overflow="fold")
    shown.add_column("accuracy", justify="right", no_wrap=True)
    if headline:
        shown.add_column(f"success {headline}", justify="right", no_wrap=True)
        for name in extra:
            shown.add_column(name, justify="right", no_wrap=True)
    if floored:
        shown.add_column("floor", justify="right", no_wrap=True)
    shown.add_column("n", justify="right", no_wrap=True)
    shown.add_column("flags", overflow="fold")
    for row in duel.rows:
        shown.add_row(*_console_cells(row, bool(headline), extra, floored))
    return shown


def _console_cells(row: Row, probed: bool, extra: Sequence[str], floored: bool) -> list[str]:
    cells = [row.defense, _star(fmt.percent_interval(row.accuracy), "accuracy", row)]
    success = {p.name: fmt.percent(p.success.value) for p in row.probes}
    if probed:
        headline = row.headline.success if row.headline else None
        cells.append(_star(fmt.percent_interval(headline), "success", row))
        cells += [success.get(name, fmt.MISSING) for name in extra]
    if floored:
        cells.append(fmt.percent(row.headline.floor if row.headline else None))
    failed = [f"{row.failed} failed"] if row.failed else []
    cells += [str(row.trials), ", ".join([*row.flags, *failed])]
    return [escape(cell) for cell in cells]  # a label such as [bold] is text, no markup


def _star(text: str, mark: str, row: Row) -> str:
    return f"{text}{'*' if mark in row.best else ' '}"


def _bold(text: str, column: Column, row: Row, pattern: str) -> str:
    return pattern.format(text) if column.best and column.best in row.best else text


def _flat(row: Row) -> dict[str, object]:
    flat: dict[str, object] = {
        "dataset": row.dataset,
        "scenario": row.scenario,
        "classifier": row.classifier,
        "attack": row.attack,
        "defense": row.defense,
        "goal": row.goal,
        "trials": row.trials,
        "failed": row.failed,
        "targets": " ".join(map(str, row.targets)),
        **_ends("accuracy", row.accuracy),
        **_ends("accuracy_delta", row.accuracy_delta),
        **_ends("class_accuracy", row.class_accuracy),
        "headline": row.headline.name if row.headline else "",
    }
    for probe in row.probes:
        flat |= _ends(f"success_{probe.name}", probe.success)
        flat |= _ends(f"success_{probe.name}_delta", probe.delta)
        flat[f"floor_{probe.name}"] = probe.floor
    return flat | {
        "worst_success": row.worst,
        "worst_target": row.worst_target,
        "seconds_train": row.seconds_train,
        "seconds_purify": row.seconds_purify,
        "clean_l2": row.clean_l2,
        "poison_l2": row.poison_l2,
        "flags": "; ".join(row.flags),
        "best": "; ".join(sorted(row.best)),
    }


def _ends(name: str, interval: Interval | None) -> dict[str, object]:
    found = interval or Interval(float("nan"), None, None, 0, "")
    return {
        name: found.value,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        f"{name}_method": found.method,
    }
