"""A run's report, made and shown on the console."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from harness.cli_options import tell_unreadable


def show_report(run: Path, console: Console) -> Path:
    """Make the report of a run, show its table or its lines, and return its page.

    Raises:
        UsageError: If the folder is none of a run.
    """
    from harness.report.build import build_report
    from harness.report.render import console_table
    from harness.report.trajectories import is_of_trajectories
    from harness.report.trajectory_page import build_trajectory_report

    if is_of_trajectories(run):
        followed = build_trajectory_report(run)
        for line in followed.lines:
            console.print(line, markup=False)
        return followed.page
    report = build_report(run)
    console.print(console_table(report.summary))
    tell_unreadable(report.problems)
    return report.page
