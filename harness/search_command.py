"""The command that finds parameters of a defense."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from harness.cli_execution import command_line, executor_of
from harness.cli_options import (
    OnDisk,
    device_option,
    open_console,
    open_workshop,
    ray_options,
    set_option,
    show_overrides,
    store_option,
    study_argument,
)
from harness.core.errors import UsageError


@click.command()
@study_argument
@set_option
@store_option
@device_option
@click.option(
    "--out",
    type=OnDisk(),
    help="Folder of the search. Default: runs/NAME-search.",
)
@ray_options(alone="Without Ray, one trial after the other.")
@click.option(
    "--tracking-uri", help="MLflow store. Default: $MLFLOW_TRACKING_URI, or RUNS/mlflow.db."
)
@click.option("--no-tracking", is_flag=True, help="Keep records on disk only.")
def search(
    study: Path,
    overrides: tuple[str, ...],
    store: str | None,
    device: str,
    out: Path | None,
    in_process: bool,
    address: str | None,
    cpus: int | None,
    tracking_uri: str | None,
    no_tracking: bool,
) -> None:
    """Find parameters of a defense, as the study's section 'search' says.

    Every configuration is a set of ordinary trials; the same command goes on with a search that was
    stopped, or that --set search.configurations=N makes longer.

    Exit status: 0 if every trial has a result, 1 if one failed, 2 for bad input.
    """
    from harness.progress import Progress
    from harness.search.loop import run_search
    from harness.study import only_trials, read_study

    if no_tracking and tracking_uri:
        raise UsageError("--tracking-uri and --no-tracking contradict each other.")
    checked = read_study(study, overrides)
    only_trials(checked)
    if checked.search is None:
        raise UsageError(f"{study}: the study has no section 'search'; docs/search.md shows one.")
    show_overrides(checked)
    folder = (out or Path("runs") / f"{checked.name}-search").expanduser().resolve()
    workshop = open_workshop(store, device, here=in_process)
    executor = executor_of(in_process, address, cpus, checked.resources, device)
    console = open_console()
    tracker: Any = None

    def open_tracker() -> Any:
        nonlocal tracker
        from harness.tracking import Tracker

        if not no_tracking:
            new = Tracker(tracking_uri, f"{checked.name}-search", folder)
            new.start(checked.raw)
            new.sync(folder)
            tracker = new
        return tracker

    status, numbers = "FAILED", {}
    try:
        found = run_search(
            checked, workshop, folder, executor, open_tracker,
            command=command_line(), progress=Progress(console),
        )  # fmt: skip
        _show(found, folder, console)
        numbers = {"configurations": float(len(found.standings))}
        status = "FAILED" if found.errors else "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        text = f"stopped; what is finished is in {folder}. The same command goes on."
        console.print(text, markup=False)
        sys.exit(130)
    finally:
        if tracker is not None:
            tracker.finish(numbers, status)
    sys.exit(1 if found.errors else 0)


def _show(found: Any, folder: Path, console: Any) -> None:
    """Print the table, what was chosen and what may be claimed of it."""
    from rich.table import Table

    from harness.report.build import build_report
    from harness.search import results
    from harness.search.words import honesty

    written = results.write_results(found, folder)
    table = Table(title=f"{found.search.objective}; in percent, with 95 % intervals")
    for name in results.header(found):
        table.add_column(name)
    for row in results.rows(found):
        table.add_row(*row)
    console.print(table)
    if found.held_out is not None:
        beside = Table(title="on the targets and seeds of search.report")
        for name in ("attack", "defense", "trials", "poison success", "natural accuracy"):
            beside.add_column(name)
        for row in results.held_out_rows(found.held_out):
            beside.add_row(*row)
        console.print(beside)
        console.print(f"page: {build_report(found.held_out).page}", markup=False)
    if found.chosen:
        console.print(results.to_yaml(found), markup=False)
    else:
        console.print(" ".join(honesty(found)), markup=False)
    console.print(f"tables: {written}", markup=False)
    console.print(f"page: {build_report(folder).page}", markup=False)
    for error in found.errors[:5]:
        console.print(f"failed: {error}", markup=False)


COMMANDS = (search,)
