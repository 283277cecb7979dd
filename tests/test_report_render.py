"""The main table as text: console, Markdown, CSV, LaTeX."""

from __future__ import annotations

import io
import re

import pandas as pd
import pytest

from harness.report import format as fmt
from harness.report.render import console_table, to_csv, to_latex, to_markdown
from harness.report.statistics import Interval
from harness.report.summary import Summary, summarise
from harness.report.trials import Trial
from tests.report_runs import outcome, record


@pytest.fixture(scope="module")
def summary() -> Summary:
    records = [record(floors=[outcome("x1", 2, 100, "narcissus eps_255=8", 2)])]
    for defense, hits in {"none": 60, "ebm steps=100": 5, "jpeg [q|25] 50%": 12}.items():
        records += [
            record("narcissus eps_255=8", defense, goal="triggered", target=2, victim=v,
                   correct=740 - v, probes={"x1": (hits + v, 100), "x2": (2 * hits - 40, 100)
                                            if hits > 20 else (hits, 100)})
            for v in range(2)
        ]  # fmt: skip
    records += [record("bullseye", probes={"target": (1, 1)}, goal="targeted", target=1)]
    return summarise([Trial.of(r) for r in records])


def test_percent_only_at_the_end() -> None:
    interval = Interval(0.1234, 0.1, 0.15, 9, "BCa")
    assert fmt.percent_interval(interval) == "12.3 [10.0, 15.0]"
    assert fmt.points_interval(Interval(-0.0004, -0.02, 0.01, 9, "BCa")) == "+0.0 [-2.0, +1.0]"
    assert fmt.percent_interval(Interval(0.5, None, None, 1, "none")) == "50.0"
    assert fmt.percent_interval(None) == "-"


def test_console_is_plain_and_fits(summary: Summary) -> None:
    text = console_table(summary, width=100).plain
    assert text.isascii() and max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    line = next(x for x in text.splitlines() if x.startswith("ebm"))
    assert re.search(r"73\.9\d? \[73\.9, 74\.0\]|74\.0 \[73\.9, 74\.0\]", line)
    assert "5.5 [5.0, 6.0]*" in line
    assert "jpeg [q|25] 50%" in text  # a label is text, not markup


def test_markdown_has_one_cell_per_column(summary: Summary) -> None:
    lines = to_markdown(summary.rows).splitlines()
    assert len(lines) == 2 + len(summary.rows)
    counts = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert len(counts) == 1
    assert any(r"jpeg [q\|25] 50%" in line for line in lines)
    assert "**5.5 [5.0, 6.0]**" in next(x for x in lines if "steps=100" in x)


def test_csv_holds_shares(summary: Summary) -> None:
    frame = pd.read_csv(io.StringIO(to_csv(summary.rows)))
    row = frame[frame["defense"] == "ebm steps=100"].iloc[0]
    assert row["success_x1"] == pytest.approx(0.055)
    assert (row["success_x1_low"], row["success_x1_high"]) == (0.05, 0.06)
    assert row["floor_x1"] == 0.02
    assert row["success_x1_delta"] == pytest.approx(-0.55)
    assert row["best"] == "accuracy; success"
    assert set(frame["dataset"]) == {"cifar10_mini"}


def test_latex_is_escaped_booktabs(summary: Summary) -> None:
    text = to_latex(summary.rows)
    lines = text.splitlines()
    assert lines[0].startswith(r"\begin{tabular}{") and lines[-1] == r"\end{tabular}"
    assert [x for x in lines if "rule" in x] == [r"\toprule", r"\midrule", r"\bottomrule"]
    body = [x for x in lines if x.endswith(r"\\")]
    assert len(body) == 1 + len(summary.rows)
    assert len({len(re.findall(r"(?<!\\)&", x)) for x in body}) == 1
    assert r"narcissus eps\_255=8" in text and r"50\%" in text and r"\textbf{5.5" in text
    assert not re.search(r"(?<!\\)[%_#]", text)


def test_a_column_without_a_value_is_left_out(summary: Summary) -> None:
    clean = [r for r in summary.rows if r.attack == "none"]
    head = to_markdown(clean).splitlines()[0]
    assert "success" not in head.lower() and "Dataset" not in head and "Flags" not in head
    assert "Natural accuracy (%)" in head
