"""The command that shows where in a triggered image the attacker's class comes from."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli_options import (
    OnDisk,
    device_option,
    open_workshop,
    set_option,
    store_option,
    study_argument,
)


@click.command()
@study_argument
@click.option("--attack", required=True, help="Its label in the study's tables, or its name.")
@click.option("--defense", "defenses", required=True, multiple=True, help="Likewise. Repeatable.")
@click.option("--target", type=int, help="Attacked target. Default: the study's first.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the victim. Default: the first.")
@click.option("--images", "count", type=click.IntRange(1, 16), default=4, show_default=True)
@click.option(
    "--window", type=click.IntRange(min=1), default=8, show_default=True,
    help="Side of the occluded square, in pixels.",
)  # fmt: skip
@click.option("--out", required=True, type=OnDisk(), help="Folder to write.")
@set_option
@store_option
@device_option
def explain(
    study: Path,
    attack: str,
    defenses: tuple[str, ...],
    target: int | None,
    seed: int | None,
    count: int,
    window: int,
    out: Path,
    overrides: tuple[str, ...],
    store: str | None,
    device: str,
) -> None:
    """Train a clean, an undefended and a defended victim again, and map what they see.

    Occlusion and integrated gradients on triggered images; needs captum.
    """
    from harness.explain import explain as show
    from harness.study import read_study

    lines = show(
        read_study(study, overrides), open_workshop(store, device), out.expanduser(),
        attack=attack, defenses=defenses, target=target, seed=seed, count=count, window=window,
    )  # fmt: skip
    for line in lines:
        click.echo(line)


COMMANDS = (explain,)
