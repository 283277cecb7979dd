"""Commands on components: list them, describe one, hold one to the rules."""

from __future__ import annotations

import json

import click

from harness.cli_options import open_console


@click.command(name="ls")
@click.argument("kind")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_components(kind: str, as_json: bool) -> None:
    """List components: attacks, defenses, classifiers, datasets, generators, scenarios, studies."""
    from harness.catalogue import list_kind, list_table

    if as_json:
        click.echo(json.dumps(list_kind(kind), indent=1))
    else:
        open_console().print(list_table(kind))


@click.command()
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


@click.command(name="check-plugin")
@click.argument("kind")
@click.argument("name")
def check_plugin(kind: str, name: str) -> None:
    """Hold one component to the rules that every component must keep."""
    from harness.conformance import check_component

    for rule in check_component(kind, name):
        click.echo(f"ok  {rule}")


COMMANDS = (list_components, describe, check_plugin)
