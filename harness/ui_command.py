"""The command that shows runs in MLflow's pages."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from harness.core.errors import UsageError

SHOWN = 10  # studies whose links are printed; a store may have many


@click.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option(
    "--tracking-uri",
    help="MLflow store. Default: $MLFLOW_TRACKING_URI, or mlflow.db beside RUN, or in runs/.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(run: Path | None, tracking_uri: str | None, port: int) -> None:
    """Show the runs in MLflow's pages, on this machine only.

    The address is printed once the server answers, which takes it some seconds; then, for RUN or
    for each study of the store, links to its runs and to the comparison of its defenses. A store
    that is a server has pages already: nothing is started, and the links are into those.

    Exit status: the server's; 130 after Ctrl-C; 2 for bad input, for example a port that is taken.
    """
    from harness.local_server import HOST, serve
    from harness.tracking_store import check_uri, out_of_reach, public, served, uri_of

    folder = run.expanduser().resolve() if run else None
    runs = folder.parent if folder else Path("runs").resolve()
    uri = uri_of(tracking_uri, runs)
    check_uri(uri)
    if served(uri):
        if trouble := out_of_reach(uri):
            raise UsageError(f"MLflow store {public(uri)!r} cannot be reached: {trouble}.")
        click.echo(f"{public(uri)}  (a server; nothing was started)")
        _print_links(uri, folder, public(uri).rstrip("/"))
        return
    if folder and not (folder / "study.json").is_file():
        raise UsageError(f"{str(run)!r} is no run folder: it holds no study.json.")
    _check_opens(uri)
    address = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    click.echo("starting MLflow's server; its address follows", err=True)

    def ready() -> None:
        click.echo(f"{address}  (store: {public(uri)}; Ctrl-C ends it)")
        _print_links(uri, folder, address)

    sys.exit(serve(command, port, "/health", ready))


def _check_opens(uri: str) -> None:
    """Refuse a store that the server would end at with a traceback, or would make anew."""
    from harness.tracking_store import (
        database_file,
        first_line,
        open_client,
        out_of_reach,
        public,
        troubles,
    )

    path = database_file(uri)
    if path and not path.is_file():
        raise UsageError(
            f"there is no MLflow store {str(path)!r}; "
            "give RUN or --tracking-uri, or set MLFLOW_TRACKING_URI."
        )
    if trouble := out_of_reach(uri):
        raise UsageError(f"MLflow store {public(uri)!r} cannot be reached: {trouble}.")
    if path:  # what else could be wrong with a file, the server says
        return
    try:
        open_client(uri).search_experiments(max_results=1)
    except (*troubles(), ImportError) as error:
        raise UsageError(
            f"MLflow store {public(uri)!r} cannot be used: {first_line(error)}"
        ) from error


def _print_links(uri: str, folder: Path | None, base: str) -> None:
    """Print the links of each study; the pages are there without them, so nothing ends here."""
    from harness.tracking_links import studies_in
    from harness.tracking_store import first_line, open_client, troubles

    try:
        client = open_client(uri)
        studies = studies_in(client, folder)
        if folder and not studies:
            click.echo(f"the store has no study of {str(folder)!r}; its others:", err=True)
            studies = studies_in(client)
    except troubles() as error:
        click.echo(f"the store's studies cannot be listed: {first_line(error)}", err=True)
        return
    for study in studies[:SHOWN]:
        click.echo(f"{study.name}  ({study.folder})")
        for name, link in study.links(base).items():
            click.echo(f"  {name}: {link}")
    if len(studies) > SHOWN:
        click.echo(f"and {len(studies) - SHOWN} older ones; RUN shows one of them")


COMMANDS = (ui,)
