"""What several commands of the command line share: options, the console, the workshop."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from harness.core.errors import UsageError, nearest
from harness.core.paths import is_uri

if TYPE_CHECKING:
    from harness.report.collect import Problem
    from harness.study import StudySpec

WIDTH = 200  # of tables in pipes and files


class SuggestingGroup(click.Group):
    """A group that names the nearest command when one is mistyped, and tells when it is stopped."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; Ctrl-C, where it has not said more itself, is exit status 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(130)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or fail with the nearest one."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            names = self.list_commands(ctx)
            ctx.fail(
                f"unknown command {args[0]!r}.{nearest(args[0], names)} "
                f"Allowed: {', '.join(names)}."
            )
        return super().resolve_command(ctx, args)


def open_console() -> Console:
    """Return where to write: lines are not broken, and tables are wide where no person looks."""
    width = None if sys.stdout.isatty() else WIDTH
    return Console(highlight=False, soft_wrap=True, width=width)


def show_overrides(study: StudySpec) -> None:
    """Say what ``--set`` has changed in a study."""
    for line in study.overrides:
        click.echo(f"set {line}")


def tell_unreadable(problems: Sequence[Problem], run: Path | None = None) -> None:
    """Say on standard error which files of a run are in no table, since they cannot be read."""
    for problem in problems:
        file = problem.file if run is None else run / problem.file
        click.echo(f"not read, and in no table: {file}: {problem.error}", err=True)


# Arguments and options that several commands share


def _study_file(context: click.Context, parameter: click.Parameter, value: Path) -> Path:
    """Take ``smoke`` or ``paper/table_1`` for the name of a study that comes with the package."""
    from harness.sweeps import is_name, path_of

    return path_of(str(value)) if not value.is_file() and is_name(str(value)) else value


def _device_name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise UsageError(f"unknown device {value!r}. Allowed: auto, cpu, cuda, cuda:0, cuda:1, ….")
    return value


study_argument = click.argument("study", type=click.Path(path_type=Path), callback=_study_file)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Change a value of the study: attacks.0.eps_255=16, vars.cifar=data/c.npz. Repeatable.",
)  # fmt: skip
store_option = click.option(
    "--store", metavar="FOLDER_OR_URI",
    help="Where poisons, networks and purified rows are kept: a folder, or s3://BUCKET/PREFIX and "
    "the like. Default: store/ in $PUREGEN_BENCH_HOME or ~/.cache/puregen-bench.",
)  # fmt: skip
device_option = click.option(
    "--device", default="auto", callback=_device_name, help="auto, cpu or cuda[:i].",
    show_default=True,
)  # fmt: skip


class OnDisk(click.Path):
    """A path to write to; a URI, of which a path would make a folder named ``s3:``, is refused."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> Any:
        """Convert what was given to a path."""
        if isinstance(value, str) and is_uri(value):
            raise UsageError(
                f"{value!r} is a URI; what is written here is kept in a folder: give a path, for "
                "several nodes one that all of them see. The store may be a URI (--store)."
            )
        return super().convert(value, param, ctx)


out_option = click.option("--out", type=OnDisk(), help="Folder of the run. Default: runs/NAME.")
limit_option = click.option(
    "--limit", type=click.IntRange(min=1), help="Only the first N trials; marked as partial."
)


def open_workshop(store: str | None, device: str, *, here: bool = True) -> Any:
    """Return the workshop on a store that can be written.

    Args:
        store: Folder or URI, or None for the usual one.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        here: Whether networks run on this machine; the head of a cluster may have no GPU.

    Raises:
        UsageError: If it cannot, or there is no such device here.
    """
    from harness.core.device import pick_device
    from harness.core.paths import store_dir
    from harness.remote_store import address_of, open_store
    from harness.workshop import Workshop

    index = pick_device(device).index if here else None
    if index is not None and index >= (count := _gpus()):
        raise UsageError(
            f"device {device!r} was asked for; there are {count} GPUs, from cuda:0 on."
        )
    opened = open_store(address_of(store or str(store_dir())))
    opened.check()
    return Workshop(opened, device, here=here)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that trains one network its options."""
    for option in reversed(
        (
            click.option(
                "--dataset", required=True,
                help="Name, or YAML mapping: '{name: npz, path: x.npz}'.",
            ),
            click.option("--out", required=True, type=OnDisk(), help="Folder for the result."),
            click.option(
                "--set", "overrides", multiple=True, metavar="KEY=VALUE",
                help="Change a parameter of the network, as describe lists them: recipe.lr=3e-4. "
                "Repeatable.",
            ),
            click.option("--seed", default=0, type=click.IntRange(min=0), show_default=True),
            click.option("--threads", default=1, type=click.IntRange(min=1), show_default=True),
            click.option(
                "--workers", default=1, type=click.IntRange(min=1), show_default=True,
                help="Processes that share each update, each with its threads or a GPU; "
                "several run on Ray.",
            ),
            click.option(
                "--address", help="A Ray cluster for several workers: auto or HOST:PORT."
            ),
            device_option,
        )
    ):  # fmt: skip
        command = option(command)
    return command


def ray_options(*, alone: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what gives a command its options of where it runs.

    Args:
        alone: Help of ``--in-process``: what the command does without Ray.
    """

    def give(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(
            (
                click.option("--in-process", is_flag=True, help=alone),
                click.option("--address", help="A Ray cluster to run on: auto or HOST:PORT."),
                click.option(
                    "--cpus", type=click.IntRange(min=1),
                    help="CPUs of the local Ray. Default: all.",
                ),
            )
        ):  # fmt: skip
            command = option(command)
        return command

    return give
