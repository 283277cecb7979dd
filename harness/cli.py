"""The command line: ``puregen-bench`` and ``python -m harness`` are the same program."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from harness import (
    __version__,
    cluster_commands,
    explain_command,
    poison_commands,
    result_commands,
    search_command,
    ui_command,
)
from harness.cli_execution import command_line, executor_of
from harness.cli_options import (
    OnDisk,
    SuggestingGroup,
    device_option,
    limit_option,
    open_console,
    open_workshop,
    out_option,
    set_option,
    store_option,
    study_argument,
    tell_unreadable,
    training_options,
)
from harness.core.errors import UsageError
from harness.generator_commands import generators
from harness.leaderboard import commands as leaderboard_commands

EXAMPLES = """
\b
Examples:
  puregen-bench demo                          a study in minutes, nothing to download
  puregen-bench ls attacks                    what there is
  puregen-bench describe attack narcissus     its parameters
  puregen-bench plan sweeps/narcissus_cpu.yaml
  puregen-bench run sweeps/narcissus_cpu.yaml --set vars.cifar=data/cifar.npz
  puregen-bench report runs/narcissus_cpu
  puregen-bench purify photos/ clean/ --defense '{name: puregen_ebm, ebm: {path: weights}}'
"""


@click.group(
    cls=SuggestingGroup,
    no_args_is_help=False,
    invoke_without_command=True,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="puregen-bench")
@click.pass_context
def cli(context: click.Context) -> None:
    """Measure how well defenses protect image classifiers against poisoned training data."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command()
@study_argument
@set_option
@store_option
@device_option
@limit_option
@out_option
@click.option("--in-process", is_flag=True, help="Without Ray, one trial after the other.")
@click.option("--address", help="A Ray cluster to run on: auto or HOST:PORT.")
@click.option("--cpus", type=click.IntRange(min=1), help="CPUs of the local Ray. Default: all.")
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
    _show_overrides(checked.overrides)
    folder = (out or Path("runs") / checked.name).expanduser().resolve()
    sys.exit(
        execute(
            checked,
            folder,
            open_workshop(store, device, here=in_process),
            limit=limit,
            executor=executor_of(in_process, address, cpus, checked.resources, device),
            joins=bool(address or os.environ.get("RAY_ADDRESS")) and not in_process,
            tracking=None if no_tracking else (tracking_uri or ""),
        )
    )


def _show_overrides(lines: tuple[str, ...]) -> None:
    for line in lines:
        click.echo(f"set {line}")


def execute(
    study: Any,
    folder: Path,
    workshop: Any,
    *,
    limit: int | None,
    executor: Callable[[], AbstractContextManager[Any]],
    tracking: str | None,
    joins: bool = False,
) -> int:
    """Run a checked study, report, and return the exit status.

    Args:
        study: What to run.
        folder: Of the run; absolute.
        workshop: Gives access to datasets and store.
        limit: Only so many trials.
        executor: Opens where work runs.
        tracking: A tracking URI, "" for the default store, or None for no tracking.
        joins: Whether the executor joins a cluster that others started.
    """
    from harness.generator_tools import (
        describe_generator,
        generators_followed,
        generators_of,
        generators_used,
    )
    from harness.progress import Progress
    from harness.run import run_study
    from harness.trajectory_run import run_trajectories

    console = open_console()
    tracker = None

    def open_tracker() -> Any:
        nonlocal tracker
        from harness.tracking import Tracker

        if tracking is not None:
            new = Tracker(tracking or None, study.name, folder)
            new.start(study.raw)
            new.sync(folder)
            tracker = new
        return tracker

    @contextmanager
    def services(work: bool) -> Iterator[Any]:
        # A cluster that cannot be joined is found before the tracker notes a run, and a server that
        # cannot be reached before a Ray of our own is started. A store in a file takes as many
        # seconds to import and to make as Ray to start: both at once.
        with ExitStack() as stack:
            running = stack.enter_context(executor()) if work and joins else None
            own = work and running is None
            if own and in_a_file(tracking):
                opening = stack.enter_context(ThreadPoolExecutor(1)).submit(open_tracker)
                running = stack.enter_context(executor())
                sink = opening.result()
            else:
                sink = open_tracker()
                running = stack.enter_context(executor()) if own else running
            yield running, sink

    status, numbers = "FAILED", {}
    try:
        run_all = run_trajectories if study.trajectories else run_study
        summary = run_all(
            study,
            workshop,
            folder,
            services,
            command=command_line(),
            limit=limit,
            progress=Progress(console),
        )
        noun = "trajectories" if study.trajectories else "trials"
        numbers = {noun: summary.planned, f"{noun}_done": summary.done}
        if tracker is not None:
            used = generators_used(folder, workshop)
            followed = generators_followed(folder)
            known = ((p, describe_generator(p)) for p in generators_of(study, workshop))
            tracker.register(
                (path, said, [*used.get(path, ()), *followed.get(said["digest"], ())])
                for path, said in known
            )
        # Of trajectories that failed there is no record, and none of other settings is shown.
        unmade = study.trajectories and not summary.done
        report = None if unmade else _report(folder, console)
        status = "FINISHED" if summary.complete else "FAILED"
    except KeyboardInterrupt:
        status = "KILLED"
        text = f"stopped; what is finished is in {folder}. The same command goes on."
        console.print(text, markup=False)
        return 130
    finally:
        if tracker is not None:
            tracker.finish(numbers, status)
    if tracker is not None:
        for name, link in tracker.links().items():
            console.print(f"{name}: {link}", markup=False)
    if report:
        console.print(f"page: {report.page}", markup=False)
    for error in summary.errors[:5]:
        console.print(f"failed: {error}", markup=False)
    if len(summary.errors) > 5:
        console.print(f"and {len(summary.errors) - 5} more; records/*.json have each in full")
    if not summary.complete:
        console.print(f"{summary.done} of {summary.planned} {noun} have a result.")
    return 0 if summary.complete else 1


def in_a_file(tracking: str | None) -> bool:
    """Whether runs are tracked, and by no server.

    >>> in_a_file("http://127.0.0.1:5000"), in_a_file("sqlite:///x.db"), in_a_file(None)
    (False, True, False)
    """
    if tracking is None:
        return False
    uri = tracking or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:"
    return uri.startswith(("sqlite:", "file:", "/"))


def _report(folder: Path, console: Console) -> Any:
    from harness.report.build import build_report
    from harness.report.render import console_table

    if any((folder / "trajectories").glob("*/trajectory.json")):
        return _trajectory_report(folder, console)
    if not any((folder / "records").glob("*.json")):
        return None
    report = build_report(folder)
    console.print(console_table(report.summary))
    tell_unreadable(report.problems)
    return report


def _trajectory_report(folder: Path, console: Console) -> Any:
    from harness.report.trajectory_page import build_trajectory_report

    report = build_trajectory_report(folder)
    for line in report.lines:
        console.print(line, markup=False)
    return report


@cli.command()
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


@cli.command()
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
    _show_overrides(checked.overrides)
    workshop = open_workshop(store, device)
    if checked.trajectories:
        click.echo(f"{study}: valid, {len(plan_trajectories(checked, workshop))} trajectories.")
        return
    plan = make_plan(checked, workshop)
    click.echo(f"{study}: valid, {len(plan.trials)} trials.")


@cli.command()
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
    _show_overrides(checked.overrides)
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


@cli.command()
@study_argument
@set_option
@store_option
@device_option
@click.option("--in-process", is_flag=True, help="Without Ray, one poison after the other.")
@click.option("--address", help="A Ray cluster to run on: auto or HOST:PORT.")
@click.option("--cpus", type=click.IntRange(min=1), help="CPUs of the local Ray. Default: all.")
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
    _show_overrides(checked.overrides)
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


@cli.command(name="ls")
@click.argument("kind")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_components(kind: str, as_json: bool) -> None:
    """List components: attacks, defenses, classifiers, datasets, generators, scenarios, studies."""
    from harness.catalogue import list_kind, list_table

    if as_json:
        click.echo(json.dumps(list_kind(kind), indent=1))
    else:
        open_console().print(list_table(kind))


@cli.command()
@click.argument("kind")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def describe(kind: str, name: str, as_json: bool) -> None:
    """Describe one component: what it does, its parameters, its paper.

    KIND is one of those that ls lists; a study is described by what it crosses, its costs and
    its variables.
    """
    from harness.catalogue import describe_component, describe_text

    if as_json:
        click.echo(json.dumps(describe_component(kind, name), indent=1))
    else:
        click.echo(describe_text(kind, name))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Make tables, figures and one page from the records or trajectories of a run."""
    from harness.report.build import build_report
    from harness.report.render import console_table
    from harness.report.trajectories import is_of_trajectories

    if is_of_trajectories(run):
        console = open_console()
        console.print(f"page: {_trajectory_report(run, console).page}", markup=False)
        return
    made = build_report(run)
    console = open_console()
    console.print(console_table(made.summary))
    tell_unreadable(made.problems)
    console.print(f"page: {made.page}", markup=False)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(run: Path, as_json: bool) -> None:
    """Show how far a run is, from another terminal. Exit status 1 while a trial has no result."""
    from dataclasses import asdict

    from harness.status import status_of, words

    found = status_of(run)
    if as_json:
        click.echo(json.dumps({**asdict(found), "run": str(found.run)}, indent=1))
    else:
        for line in words(found):
            click.echo(line)
    sys.exit(0 if found.complete else 1)


@cli.command(name="train-generator")
@click.argument("kind")
@training_options
def train_generator(
    kind: str,
    dataset: str,
    out: Path,
    overrides: tuple[str, ...],
    seed: int,
    threads: int,
    workers: int,
    address: str | None,
    device: str,
) -> None:
    """Train a generator on any dataset; go on where an earlier call was stopped."""
    from harness.generator_training import train

    train(
        kind, dataset, out, overrides, seed, threads, device, open_console(), workers, address
    )  # fmt: skip


@cli.command(name="train-classifier")
@click.argument("name")
@training_options
def train_classifier(
    name: str,
    dataset: str,
    out: Path,
    overrides: tuple[str, ...],
    seed: int,
    threads: int,
    workers: int,
    address: str | None,
    device: str,
) -> None:
    """Train a classifier on a whole dataset, to start transfer from; go on where it was stopped."""
    from harness.classifier_training import train

    train(name, dataset, out, overrides, seed, threads, device, open_console(), workers, address)


@cli.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=OnDisk())
@click.option(
    "--defense", required=True,
    help="Name, or YAML mapping: '{name: puregen_ebm, ebm: {path: weights}}'.",
)  # fmt: skip
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Change a parameter of the defense: steps=150. Repeatable.",
)  # fmt: skip
@click.option("--column", help="Which array (.npz) or column (.parquet) holds the images.")
@click.option("--seed", default=0, type=click.IntRange(min=0), show_default=True)
@click.option("--in-process", is_flag=True, help="Without Ray, in this process.")
@click.option("--address", help="A Ray cluster to run on: auto or HOST:PORT.")
@click.option("--cpus", type=click.IntRange(min=1), help="CPUs of the local Ray. Default: all.")
@store_option
@device_option
def purify(
    source: Path,
    out: Path,
    defense: str,
    overrides: tuple[str, ...],
    column: str | None,
    seed: int,
    in_process: bool,
    address: str | None,
    cpus: int | None,
    store: str | None,
    device: str,
) -> None:
    """Purify your own images: a folder of files, an .npz or a .parquet file, of any size.

    Names, labels and everything else are kept; images become PNG. A manifest says what was changed,
    by how much, with which weights. The same command goes on where an earlier one was stopped.
    """
    from harness.progress import Progress
    from harness.purify.job import Job, run_job
    from harness.purify.words import read_defense, summary
    from harness.study import Resources

    job = Job(
        source.expanduser().resolve(),
        out.expanduser().resolve(),
        read_defense(defense, overrides),
        seed,
        column,
    )
    console = open_console()
    asked = Resources(gpus=float(device == "cuda"))
    services = executor_of(in_process, address, cpus, asked, device)
    joins = bool(address or os.environ.get("RAY_ADDRESS")) and not in_process
    try:
        workshop = open_workshop(store, device, here=not joins)
        done = run_job(job, workshop, services, Progress(console))
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on.")
        sys.exit(130)
    if isinstance(done, list):
        for error in done[:5]:
            console.print(f"failed: {error}", markup=False)
        console.print(f"{len(done)} chunks failed; the same command tries them again.")
        sys.exit(1)
    for line in summary(job, done):
        console.print(line, markup=False)


@cli.command(name="check-plugin")
@click.argument("kind")
@click.argument("name")
def check_plugin(kind: str, name: str) -> None:
    """Hold one component to the rules that every component must keep."""
    from harness.conformance import check_component

    for rule in check_component(kind, name):
        click.echo(f"ok  {rule}")


for _command in (
    *poison_commands.COMMANDS, *cluster_commands.COMMANDS, *result_commands.COMMANDS,
    *explain_command.COMMANDS, *search_command.COMMANDS, *leaderboard_commands.COMMANDS,
    *ui_command.COMMANDS, generators,
):  # fmt: skip
    cli.add_command(_command)


def main() -> None:
    """Run the program; a usage error is one message and exit status 2, a full disk one and 1."""
    # Ray would otherwise build an environment of its own for workers under `uv run`.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        cli(prog_name="puregen-bench")
    except UsageError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        text = f"{error}. What is finished is kept; with space, the same command goes on."
        click.echo(f"error: {text}", err=True)
        sys.exit(1)
