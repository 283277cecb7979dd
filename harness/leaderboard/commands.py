"""Commands of the leaderboard: a run's result file, and the site of many."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--name", required=True, help="What to call it on the leaderboard.")
@click.option("--who", required=True, help="Who answers for it: a person or a group.")
@click.option("--url", default="", help="A page about it: https://…")
@click.option("--notes", default="", help="What a reader should know.")
@click.option(
    "--claims", "items", multiple=True, metavar="ITEM",
    help="Add a paper's printed numbers as claims: table_1. Repeatable; RUN may be left out.",
)  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write.")
def submission(
    run: Path | None,
    name: str,
    who: str,
    url: str,
    notes: str,
    items: tuple[str, ...],
    out: Path,
) -> None:
    """Write the result file of a run, for a leaderboard. Only a run that verifies is written.

    Exit status: 0 if it was written, 1 if the run does not verify (a line for each discrepancy), 2
    for bad input.
    """
    from harness.leaderboard.writing import About, write_submission

    wrong = write_submission(run, About(name, who, url, notes), items, out)
    for line in wrong:
        click.echo(f"WRONG {line}")
    if wrong:
        click.echo("the run does not verify; nothing was written.", err=True)
        sys.exit(1)
    click.echo(f"result file: {out}")


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the site.")
@click.option("--title", default="Leaderboard", show_default=True)
def leaderboard(sources: tuple[Path, ...], out: Path, title: str) -> None:
    """Build a static site from result files, and from run folders, which are verified first.

    The pages load nothing, so they open from a disk and lie on any web server. SOURCES are files
    written by `puregen-bench submission`, or run folders.
    """
    from harness.leaderboard.site import build_site

    site = build_site(sources, out, title)
    for line in site.notes:
        click.echo(f"note: {line}")
    click.echo(
        f"{site.submissions} submission{'s' if site.submissions != 1 else ''}, "
        f"{site.tables} table{'s' if site.tables != 1 else ''}"
    )
    click.echo(f"page: {site.page}")


COMMANDS = (submission, leaderboard)
