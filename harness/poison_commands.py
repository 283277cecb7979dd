"""Commands around published poisons: bring them in, check them, write ours for others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from harness.cli_options import OnDisk


@click.command(name="import-poisons")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=OnDisk(), help="Folder to write.")
@click.option("--dataset", help="The data they are for: name or YAML mapping, as in a study.")
@click.option("--format", "form", default="auto", help="auto, or see docs/poisons.md.")
@click.option(
    "--companion", type=click.Path(path_type=Path),
    help="The split (bullseye), the labels (ntga), the set before purification (puregen_purified).",
)  # fmt: skip
@click.option("--eps-255", type=float, help="Bound in grey levels, where the files do not say it.")
@click.option("--adv-label", type=int, help="The adversary's label, for a trigger alone.")
@click.option("--count", type=click.IntRange(min=1), help="Rows to poison with a trigger.")
@click.option("--select", type=click.Choice(["last", "first"]), default="last", help="Which rows.")
@click.option("--attack", default="", help="Name of the attack, for tables.")
@click.option(
    "--clean-label/--dirty-label", "clean_label", default=None,
    help="Whether the poisons keep the labels of their rows. Default: as the labels of --dataset "
    "say, and without it as is usual in the format.",
)  # fmt: skip
def import_poisons(
    source: Path,
    out: Path,
    dataset: str | None,
    form: str,
    companion: Path | None,
    eps_255: float | None,
    adv_label: int | None,
    count: int | None,
    select: Any,
    attack: str,
    clean_label: bool | None,
) -> None:
    """Read published poisons, running nothing that is in them, and check them.

    A study uses them with the attack 'published'. Exit status 1 if the linter finds an error.
    """
    from harness.interop.assemble import Choices
    from harness.interop.commands import import_poisons as bring_in

    choices = Choices(
        attack=attack, eps_255=eps_255, adv_label=adv_label, count=count, select=select,
        clean_label=clean_label,
    )  # fmt: skip
    lines, errors = bring_in(source, out, dataset, form, companion, choices)
    for line in lines:
        click.echo(line)
    sys.exit(1 if errors else 0)


@click.command(name="lint-poisons")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--dataset", help="The data they are for: name or YAML mapping, as in a study.")
def lint_poisons(folder: Path, dataset: str | None) -> None:
    """Check poison sets: bounds, labels, rows, duplicates, targets. Exit status 1 for an error."""
    from harness.interop.commands import lint_poisons as lint

    lines, errors = lint(folder, dataset)
    for line in lines:
        click.echo(line)
    sys.exit(1 if errors else 0)


@click.command(name="export-poisons")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=OnDisk(), help="Folder to write.")
@click.option("--format", "form", required=True, help="toxic, bullseye, numpy, narcissus or png.")
def export_poisons(folder: Path, out: Path, form: str) -> None:
    """Write poison sets in the formats that other tools read."""
    from harness.interop.commands import export_poisons as write

    for line in write(folder, out, form):
        click.echo(line)


COMMANDS = (import_poisons, lint_poisons, export_poisons)
