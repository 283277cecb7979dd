"""Commands on runs: how far one is, its report, two side by side, whether its tables are true."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from harness.cli_options import open_console, open_workshop, store_option, tell_unreadable
from harness.report_shown import show_report


@click.command()
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option(
    "--format", "form", default="text", show_default=True,
    type=click.Choice(["text", "markdown", "csv", "latex"]), help="How to write it.",
)  # fmt: skip
def compare(run_a: Path, run_b: Path, form: str) -> None:
    """Compare two runs: rows with the same setting, attack and defense, and how sure each is.

    Trials are paired where the runs share targets and seeds. What one run alone has is listed, and
    so are the settings in which the two differ; beside CSV they go to standard error.
    """
    from harness.comparison.output import render
    from harness.comparison.runs import compare_runs
    from harness.report.collect import read_run

    first, second = read_run(run_a), read_run(run_b)
    compared = compare_runs(first, second)
    click.echo(render(compared, form), nl=False)
    for differing in compared.settings if form == "csv" else ():
        click.echo(f"{differing.setting}: {differing.first} | {differing.second}", err=True)
    for run in (first, second):
        tell_unreadable(run.problems, run.path)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--inputs", is_flag=True, help="Read data and weights again: are they those of the study?"
)
@store_option
def verify(run: Path, inputs: bool, store: str | None) -> None:
    """Derive every number of a run's report again from its records.

    Exit status: 0 if all is well, 1 if something is not (a line for each), 2 for bad input.
    """
    from harness.verification.verify import verify as check

    found = check(run, open_workshop(store, "cpu") if inputs else None)
    for line in found.checked:
        click.echo(f"checked: {line}")
    for line in found.unchecked:
        click.echo(f"not checked: {line}")
    for line in found.discrepancies:
        click.echo(f"WRONG {line}")
    count = len(found.discrepancies)
    click.echo(f"{count} discrepanc{'y' if count == 1 else 'ies'}")
    sys.exit(1 if found.discrepancies else 0)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Make tables, figures and one page from the records or trajectories of a run."""
    console = open_console()
    console.print(f"page: {show_report(run, console)}", markup=False)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(run: Path, as_json: bool) -> None:
    """Show how far a run is, from another terminal. Exit status 1 while a trial has no result."""
    from harness.status import status_of, words

    found = status_of(run)
    if as_json:
        click.echo(json.dumps({**asdict(found), "run": str(found.run)}, indent=1))
    else:
        for line in words(found):
            click.echo(line)
    sys.exit(0 if found.complete else 1)


COMMANDS = (report, status, compare, verify)
