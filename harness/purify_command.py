"""The command that purifies a person's own images."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from harness.cli_execution import executor_of, joins_cluster
from harness.cli_options import (
    OnDisk,
    device_option,
    open_console,
    open_workshop,
    ray_options,
    store_option,
)


@click.command()
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
@ray_options(alone="Without Ray, in this process.")
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
    asked = Resources(gpus=float(device.startswith("cuda")))
    services = executor_of(in_process, address, cpus, asked, device)
    here = not joins_cluster(in_process, address)
    try:
        workshop = open_workshop(store, device, here=here)
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


COMMANDS = (purify,)
