"""A table of words and numbers, and the three forms in which people take tables away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Value = float | str | None

_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Head:
    """The heading of a column.

    Attributes:
        title: With the unit.
        help: What the column means, in one sentence.
        numeric: Whether it is aligned to the right.
    """

    title: str
    help: str = ""
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """One cell: its text, and the value that it is sorted by (None is last)."""

    text: str
    value: Value = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table, before any form.

    Attributes:
        heads: One per column.
        rows: One entry per column each.
        starts: Positions of rows before which a group ends.
    """

    heads: tuple[Head, ...]
    rows: tuple[tuple[Entry, ...], ...]
    starts: frozenset[int] = frozenset()

    def texts(self) -> list[list[str]]:
        """Return the cells as text, row by row."""
        return [[entry.text for entry in row] for row in self.rows]


def without_empty(table: Table) -> Table:
    """Drop the columns in which no row has anything to say."""
    keep = [i for i in range(len(table.heads)) if any(row[i].text for row in table.rows)]
    return Table(
        tuple(table.heads[i] for i in keep),
        tuple(tuple(row[i] for i in keep) for row in table.rows),
        table.starts,
    )


def markdown(table: Table) -> str:
    """Return a table in GitHub's Markdown."""
    rows = [[escape_markdown(text) for text in row] for row in table.texts()]
    return markdown_lines([h.title for h in table.heads], [h.numeric for h in table.heads], rows)


def latex(table: Table) -> str:
    r"""Return a table for LaTeX with ``\usepackage{booktabs}``."""
    rows = [[escape_latex(text) for text in row] for row in table.texts()]
    heads = [escape_latex(h.title) for h in table.heads]
    return latex_lines(heads, [h.numeric for h in table.heads], rows, table.starts)


def markdown_lines(
    titles: Sequence[str], numeric: Sequence[bool], rows: Iterable[Sequence[str]]
) -> str:
    """Put cells that are Markdown already into a table."""
    lines = [_bar(titles), _bar(["---:" if n else "---" for n in numeric]), *map(_bar, rows)]
    return "\n".join(lines) + "\n"


def latex_lines(
    titles: Sequence[str],
    numeric: Sequence[bool],
    rows: Sequence[Sequence[str]],
    starts: Iterable[int] = (),
) -> str:
    """Put cells that are LaTeX already into a table; a little space stands before ``starts``."""
    lines = [
        rf"\begin{{tabular}}{{{''.join('r' if n else 'l' for n in numeric)}}}",
        r"\toprule", _ampersands(titles), r"\midrule",
    ]  # fmt: skip
    spaced = set(starts)
    for index, row in enumerate(rows):
        if index and index in spaced:
            lines.append(r"\addlinespace")
        lines.append(_ampersands(row))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def escape_markdown(text: str) -> str:
    """Return text as itself in a cell of a Markdown table."""
    for mark in "\\|*_<>":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")


def escape_latex(text: str) -> str:
    """Return text as itself in LaTeX."""
    return text.translate(_LATEX)


def _bar(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ampersands(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"
