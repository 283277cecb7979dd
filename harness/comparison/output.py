"""A comparison of two runs as text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from harness.comparison.runs import Comparison, Line, Match
from harness.report import format as fmt
from harness.report import significance as sig
from harness.report.how_sure import p_text
from harness.report.table import Entry, Head, Table, latex, markdown, without_empty


def verdict(match: Match) -> str:
    """Return in plain words what a line shows."""
    if match.shown:
        return "lower in B" if match.difference.value < 0 else "higher in B"
    if match.same:
        return "the same numbers"
    trials = "pairs" if match.pairs else "trials of each"
    needed = match.needed(match.difference.value)
    about = f" needs about {needed:,} {trials}" if needed else ""
    if not match.hopeless:
        return f"no difference can be seen{':' if about else ''}{about}"
    few = f"too few {'pairs' if match.pairs else 'trials'} to tell"
    return f"{few}; one this large{about}" if about else few


def render(comparison: Comparison, form: str) -> str:
    """Return a comparison in one of :data:`FORMS`."""
    return FORMS[form](comparison)


def lead(comparison: Comparison) -> list[str]:
    """Return a few sentences: what was compared, how, and what came of it."""
    matches = comparison.matches
    said = [
        f"A: {comparison.first.path} ({_count(len(comparison.first.trials), 'trial')}). "
        f"B: {comparison.second.path} ({_count(len(comparison.second.trials), 'trial')})."
    ]
    if not matches:
        said.append("No row has the same setting, attack and defense in both.")
        return said
    shown, tests = sum(m.shown for m in matches), matches[0].tests
    unpaired = sum(not m.pairs for m in matches)
    rest = f"{unpaired} are not, for want of common ones" if unpaired else ""
    said.append(
        f"{_count(len(matches), 'number')} in both, paired on target, poison seed and victim seed"
        f"{'; ' if rest else ''}{rest}. {shown or 'None'} of them "
        f"differ{'s' if shown < 2 else ''} with p (Holm, over {_count(tests, 'test')}) at most "
        f"{sig.ALPHA:g}. Differences are B minus A, in percentage points with 95 % bootstrap "
        "intervals. Trials needed are for the difference as seen, at 80 % power and p at most "
        f"{sig.ALPHA:g} before correction."
    )
    return said


def match_table(comparison: Comparison) -> Table:
    """Return the numbers that both runs have."""
    heads = (
        *_line_heads(), Head("A (%)"), Head("B (%)"), Head("B - A (points)"),
        Head("Trials", numeric=False), Head("Test", numeric=False), Head("p"), Head("p (Holm)"),
        Head("Verdict", numeric=False),
    )  # fmt: skip
    lines = [match.line for match in comparison.matches]
    rows = tuple(
        (
            *_line(match.line, lines), Entry(fmt.percent(match.means[0])),
            Entry(fmt.percent(match.means[1])), Entry(fmt.points_interval(match.difference)),
            Entry(_trials(match)), Entry(match.test), Entry(p_text(match.p)),
            Entry(p_text(match.p_holm)), Entry(verdict(match)),
        )
        for match in comparison.matches
    )  # fmt: skip
    groups = [(line.setting, line.attack) for line in lines]
    starts = frozenset(i for i in range(1, len(groups)) if groups[i] != groups[i - 1])
    return without_empty(Table(heads, rows, starts))


def only_table(comparison: Comparison) -> Table:
    """Return the numbers that one run alone has."""
    sided = [("A", x) for x in comparison.first_only] + [("B", x) for x in comparison.second_only]
    lines = [line for _, line in sided]
    rows = tuple((Entry(side), *_line(line, lines)) for side, line in sided)
    return without_empty(Table((Head("Only in", numeric=False), *_line_heads()), rows))


def settings_table(comparison: Comparison) -> Table:
    """Return the settings in which the runs differ."""
    heads = (Head("Setting", numeric=False), Head("A", numeric=False), Head("B", numeric=False))
    rows = tuple((Entry(d.setting), Entry(d.first), Entry(d.second)) for d in comparison.settings)
    return Table(heads, rows)


def to_frame(comparison: Comparison) -> pd.DataFrame:
    """Return every number of either run, one row each; shares are in [0, 1]."""
    rows = [_names("both", match.line) | _numbers(match) for match in comparison.matches]
    rows += [_names("A", line) for line in comparison.first_only]
    rows += [_names("B", line) for line in comparison.second_only]
    return pd.DataFrame(rows)


def _names(where: str, line: Line) -> dict[str, object]:
    dataset, scenario, classifier = line.setting
    return {
        "in": where, "dataset": dataset, "scenario": scenario, "classifier": classifier,
        "attack": line.attack, "defense": line.defense, "measure": line.measure,
    }  # fmt: skip


def _numbers(match: Match) -> dict[str, object]:
    difference = match.difference
    return {
        "a": match.means[0], "b": match.means[1], "difference": difference.value,
        "difference_low": difference.low, "difference_high": difference.high,
        "difference_method": difference.method, "trials_a": match.trials[0],
        "trials_b": match.trials[1], "pairs": match.pairs, "deviation": match.deviation,
        "test": match.test, "p": match.p, "p_holm": match.p_holm,
        "trials_needed": match.needed(difference.value), "verdict": verdict(match),
    }  # fmt: skip


def _line_heads() -> list[Head]:
    return [Head(t, numeric=False) for t in ("Setting", "Attack", "Defense", "Measure")]


def _line(line: Line, all_of: Iterable[Line]) -> list[Entry]:
    differ = len({one.setting for one in all_of}) > 1
    setting = ", ".join(part for part in line.setting if part) if differ else ""
    return [Entry(text) for text in (setting, line.attack, line.defense, line.measure)]


def _trials(match: Match) -> str:
    if match.pairs:
        return _count(match.pairs, "pair")
    return f"unpaired, {match.trials[0]} and {match.trials[1]}"


def _sections(comparison: Comparison) -> list[tuple[str, Table]]:
    titled = [
        ("", match_table(comparison)),
        ("Rows of one run alone", only_table(comparison)),
        ("Settings that differ", settings_table(comparison)),
    ]
    return [(title, table) for title, table in titled if table.rows]


def _no_settings(comparison: Comparison) -> str:
    return "" if comparison.settings else "No setting differs."


def _markdown(comparison: Comparison) -> str:
    parts = list(lead(comparison))
    for title, table in _sections(comparison):
        parts += [f"## {title}"] if title else []
        parts.append(markdown(table).rstrip())
    return "\n\n".join(filter(None, [*parts, _no_settings(comparison)])) + "\n"


def _latex(comparison: Comparison) -> str:
    """A comment before each table: what is not LaTeX of a table is for the reader of the file."""
    parts = ["\n".join(f"% {line}" for line in lead(comparison))]
    for title, table in _sections(comparison):
        parts.append((f"% {title}\n" if title else "") + latex(table).rstrip())
    return "\n\n".join(parts) + "\n"


def _csv(comparison: Comparison) -> str:
    return to_frame(comparison).to_csv(index=False, lineterminator="\n")


def _text(comparison: Comparison) -> str:
    out = io.StringIO()
    console = Console(file=out, width=180, color_system=None, force_terminal=False, emoji=False)
    for line in lead(comparison):
        console.print(line, markup=False, highlight=False)
    for title, table in _sections(comparison):
        console.print("", title, sep="\n", markup=False)
        console.print(_rich(table))
    console.print(_no_settings(comparison))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).rstrip() + "\n"


def _rich(table: Table) -> RichTable:
    shown = RichTable(box=box.ASCII2, show_edge=False, pad_edge=False)
    for head in table.heads:
        shown.add_column(
            head.title, justify="right" if head.numeric else "left", overflow="fold",
            no_wrap=head.numeric,
        )  # fmt: skip
    for row in table.texts():
        shown.add_row(*map(escape, row))
    return shown


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


FORMS: dict[str, Callable[[Comparison], str]] = {
    "text": _text, "markdown": _markdown, "csv": _csv, "latex": _latex,
}  # fmt: skip
"""How a comparison can be written."""
