"""The command line: ``puregen-bench`` and ``python -m harness`` are the same program."""

from __future__ import annotations

import errno
import logging
import os
import sys

import click

from harness import (
    __version__,
    cluster_commands,
    component_commands,
    explain_command,
    poison_commands,
    purify_command,
    result_commands,
    search_command,
    study_commands,
    training_commands,
    ui_command,
)
from harness.cli_options import SuggestingGroup
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


for _commands in (
    study_commands, component_commands, result_commands, training_commands, purify_command,
    poison_commands, cluster_commands, explain_command, search_command, leaderboard_commands,
    ui_command,
):  # fmt: skip
    for _command in _commands.COMMANDS:
        cli.add_command(_command)
cli.add_command(generators)


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
