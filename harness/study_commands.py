"""Commands on a study: check it, say what it costs, run it, craft its poisons alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from harness.cli_execution import executor_of, joins_cluster
from harness.cli_options import (
    OnDisk,
    device_option,
    limit_option,
    open_console,
    open_workshop,
    out_option,
    ray_options,
    set_option,
    show_overrides,
    store_option,
    study_argument,
)
from harness.core.errors import UsageError
from harness.study_execution import execute


@click.command()
@study_argument
@set_option
@store_option
@device_option
@limit_option
@out_option
@ray_options(alone="Without Ray, one trial after the other.")
@click.option(
    "--tracking-uri", help="MLflow store. Default: $MLFLOW_TRACKING_URI, or RUNS/mlflow.db."
)
@click.option("--no-tracking", is_flag=True, help="Keep records on disk only.")
def run(
    study: Path,
    overrides: tuple[str, ...],
    store: str | None,
    device: str,
    limit: int | None,
    out: Path | None,
    in_process: bool,
    address: str | None,
    cpus: int | None,
    tracking_uri: str | None,
    no_tracking: bool,
) -> None:
    """Run a study, or go on with a run of it, and report.

    STUDY is a file, or the name of one that comes with the package (see: ls studies).

    Exit status: 0 if every trial has a result, 1 if one failed, 2 for bad input.
    """
    from harness.study import read_study

    if no_tracking and tracking_uri:
        raise UsageError("--tracking-uri and --no-tracking contradict each other.")
    checked = read_study(study, overrides)
    show_overrides(checked)
    folder = (out or Path("runs") / checked.name).expanduser().resolve()
    sys.exit(
        execute(
            checked,
            folder,
            open_workshop(store, device, here=in_process),
            limit=limit,
            executor=executor_of(in_process, address, cpus, checked.resources, device),
            joins=joins_cluster(in_process, address),
            tracking=None if no_tracking else (tracking_uri or ""),
        )
    )


@click.command()
@click.option("--out", type=OnDisk(), default="runs/demo", show_default=True)
@click.option("--train", is_flag=True, help="Train the energy network instead of loading it.")
@click.option("--in-process", is_flag=True, help="Without Ray, one trial after the other.")
@store_option
@click.option("--no-tracking", is_flag=True, help="Keep records on disk only.")
def demo(out: Path, train: bool, in_process: bool, store: str | None, no_tracking: bool) -> None:
    """Show the whole line in minutes: a clean-label backdoor, and purification against it.

    Narcissus against PureGen-EBM and JPEG on the embedded data set ``shapes``; nothing is
    downloaded. The energy network comes with the package together with its recipe; --train trains
    it here first.
    """
    from harness.study import read_study
    from harness.sweeps import path_of, trained_as

    retrained = (f"defenses.0.ebm={json.dumps(trained_as('shapes_24px_ebm'))}",) if train else ()
    study = read_study(path_of("demo"), retrained)
    sys.exit(
        execute(
            study,
            out.expanduser().resolve(),
            open_workshop(store, "cpu"),
            limit=None,
            executor=executor_of(in_process, None, None, study.resources, "cpu"),
            tracking=None if no_tracking else "",
        )
    )


@click.command()
@study_argument
@set_option
@store_option
@device_option
def validate(study: Path, overrides: tuple[str, ...], store: str | None, device: str) -> None:
    """Check a study, its data and its weights; start nothing."""
    from harness.plan import make_plan
    from harness.study import read_study
    from harness.trajectory_plan import plan_trajectories

    checked = read_study(study, overrides)
    show_overrides(checked)
    workshop = open_workshop(store, device)
    if checked.trajectories:
        click.echo(f"{study}: valid, {len(plan_trajectories(checked, workshop))} trajectories.")
        return
    plan = make_plan(checked, workshop)
    click.echo(f"{study}: valid, {len(plan.trials)} trials.")


@click.command()
@study_argument
@set_option
@store_option
@device_option
@limit_option
@out_option
def plan(
    study: Path,
    overrides: tuple[str, ...],
    store: str | None,
    device: str,
    limit: int | None,
    out: Path | None,
) -> None:
    """Show a study's trials, what is there already, and what the rest may cost."""
    from harness.estimate import estimate, overview
    from harness.plan import make_plan
    from harness.run_folder import check_run, describe_run
    from harness.study import read_study
    from harness.trajectory_overview import trajectory_overview
    from harness.trajectory_run import no_limit

    checked = read_study(study, overrides)
    show_overrides(checked)
    workshop = open_workshop(store, device)
    folder = (out or Path("runs") / checked.name).expanduser().resolve()
    console = open_console()
    if checked.trajectories:
        no_limit(checked, limit)
        console.print(f"{len(checked.trajectories)} trajectories, into {folder}", markup=False)
        console.print(trajectory_overview(checked, workshop, folder))
        return
    made = make_plan(checked, workshop, limit)
    console.print(f"{len(made.trials)} trials, into {folder}", markup=False)
    console.print(overview(made, checked))
    console.print()
    console.print(estimate(made, checked, workshop, folder))
    try:
        check_run(folder, describe_run(checked, made, workshop, "", partial=limit is not None))
    except UsageError as error:
        console.print(f"\nrun will refuse this: {error}", markup=False)


@click.command()
@study_argument
@set_option
@store_option
@device_option
@ray_options(alone="Without Ray, one poison after the other.")
@click.option(
    "--out", type=OnDisk(),
    help="Write the poisons here too, as attack 'published' and export-poisons read them.",
)  # fmt: skip
def craft(
    study: Path,
    overrides: tuple[str, ...],
    store: str | None,
    device: str,
    in_process: bool,
    address: str | None,
    cpus: int | None,
    out: Path | None,
) -> None:
    """Craft a study's poisons, and nothing else; the store keeps them for every defense."""
    from harness.craft import craft_study
    from harness.progress import Progress
    from harness.report.crafted import crafted_table
    from harness.study import read_study

    checked = read_study(study, overrides)
    show_overrides(checked)
    console = open_console()
    services = executor_of(in_process, address, cpus, checked.resources, device)
    folder = out.expanduser().resolve() if out else None
    try:
        workshop = open_workshop(store, device, here=in_process)
        crafted, errors = craft_study(checked, workshop, services, Progress(console), folder)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on.")
        sys.exit(130)
    console.print(crafted_table(crafted))
    for error in errors:
        console.print(f"failed: {error}", markup=False)
    sys.exit(1 if errors else 0)


COMMANDS = (run, demo, validate, plan, craft)
