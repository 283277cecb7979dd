"""Commands around a cluster: hand a study in as a job, end a run from elsewhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from harness.cli_options import (
    OnDisk,
    device_option,
    limit_option,
    open_workshop,
    set_option,
    show_overrides,
    study_argument,
)
from harness.core.errors import UsageError


@click.command()
@study_argument
@set_option
@click.option(
    "--address", default="http://127.0.0.1:8265", show_default=True,
    envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard.",
)  # fmt: skip
@click.option(
    "--working-dir", type=click.Path(path_type=Path, exists=True, file_okay=False), default=".",
    show_default=True, help="Folder that goes to the cluster; the study lies in it.",
)  # fmt: skip
@click.option(
    "--out", type=OnDisk(),
    help="Folder of the run, on storage that all nodes share. Default: runs/NAME here.",
)  # fmt: skip
@click.option(
    "--store", metavar="FOLDER_OR_URI",
    help="Where poisons, networks and purified rows are kept, on storage that all nodes share, or "
    "a URI. "
    "Default: the cluster's own.",
)  # fmt: skip
@device_option
@limit_option
@click.option("--tracking-uri", help="MLflow store, as the cluster reaches it.")
@click.option("--no-tracking", is_flag=True, help="Keep records on disk only.")
@click.option(
    "--python", default="python", show_default=True,
    help="Interpreter on the cluster; the default is the first one where its head was started.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show the command; contact nobody.")
def submit(
    study: Path,
    overrides: tuple[str, ...],
    address: str,
    working_dir: Path,
    out: Path | None,
    store: str | None,
    device: str,
    limit: int | None,
    tracking_uri: str | None,
    no_tracking: bool,
    python: str,
    dry_run: bool,
) -> None:
    """Run a study as a job of a Ray cluster, and show its log until it ends.

    The study is checked here first. The same command goes on with a run that was stopped.

    Exit status: that of the run; 130 if the job was stopped; 2 for bad input.
    """
    from harness.cluster import submission as jobs
    from harness.plan import make_plan
    from harness.remote_store import address_of
    from harness.study import only_trials, read_study

    if no_tracking and tracking_uri:
        raise UsageError("--tracking-uri and --no-tracking contradict each other.")
    if tracking_uri and urlsplit(tracking_uri).password:
        raise UsageError(
            "a password in --tracking-uri would stand in the cluster's pages; set "
            "MLFLOW_TRACKING_URI where the cluster is started instead."
        )
    checked = read_study(study, overrides)
    only_trials(checked)
    show_overrides(checked)
    folder = working_dir.resolve()
    name = jobs.study_on_cluster(study, folder)
    elsewhere, along = jobs.check_paths(checked, folder)
    if along:
        click.echo(
            "goes along as a copy, whose place decides the trials' ids: "
            f"{', '.join(map(str, along))}. Another submission can go on with this run "
            "only while cluster and folder stay as they are; an absolute path on shared storage "
            "has no such limit."
        )
    if elsewhere:
        click.echo(f"not on this machine, so checked by the job: {', '.join(map(str, elsewhere))}")
    else:
        make_plan(checked, open_workshop(None, "auto"), limit)
    run = (out or Path("runs") / checked.name).expanduser().resolve()
    job = jobs.Submission(
        study=name,
        address=address,
        working_dir=folder,
        options=jobs.run_options(
            set=overrides,
            out=run,
            store=None if store is None else address_of(store),
            device=None if device == "auto" else device,
            limit=limit,
            tracking_uri=tracking_uri,
            no_tracking=no_tracking,
        ),
        python=python,
        job_id=jobs.new_job_id(checked.name),
        code=jobs.checkout(),
    )
    click.echo(jobs.pasteable(jobs.job_command(job), os.environ))
    if dry_run:
        return
    jobs.check_address(address)
    try:
        status = jobs.submit(job)
    except KeyboardInterrupt:
        at = f"--address {address} {job.job_id}"
        click.echo(f"the job goes on; follow it with: ray job logs -f {at}")
        click.echo(f"or end it with: ray job stop {at}")
        status = jobs.STOPPED
    sys.exit(status)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--patience", type=click.FloatRange(min=0), default=120, show_default=True,
    help="Seconds to wait for its end.",
)  # fmt: skip
def cancel(run: Path, patience: float) -> None:
    """End a run from another terminal or machine; what it has finished stays, and it can go on.

    Exit status: 0 once nobody runs it; 2 if there is no such run, or it does not end.
    """
    from harness.run_control import cancel as end
    from harness.status import status_of, words

    folder = run.expanduser().resolve()
    click.echo(end(folder, patience))
    for line in words(status_of(folder)):
        click.echo(line)


COMMANDS = (submit, cancel)
