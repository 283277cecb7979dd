"""Commands around trained generators: what there is, whether it is sound, what it does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from harness.cli_options import (
    OnDisk,
    SuggestingGroup,
    device_option,
    open_console,
    open_workshop,
    store_option,
)
from harness.core.errors import UsageError


@click.group(cls=SuggestingGroup)
def generators() -> None:
    """List, describe and verify trained generators; follow images through one."""


@generators.command(name="ls")
@store_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_all(store: str | None, as_json: bool) -> None:
    """List the generators of the store, and those that come with the package."""
    from harness.generator_tools import generators_table, list_generators

    found = list_generators(open_workshop(store, "cpu").store)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        open_console().print(generators_table(found))


@generators.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def describe(path: Path, as_json: bool) -> None:
    """Describe a generator: architecture, what it was trained on and how, files and digest."""
    from harness.generator_tools import describe_generator, generator_text

    found = describe_generator(path)
    click.echo(json.dumps(found, indent=1) if as_json else generator_text(found))


@generators.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--dataset", required=True, help="Images to try it on: name or YAML, as in a study.")
@click.option("--steps", type=click.IntRange(min=1), help="Purification steps.")
@click.option("--count", type=click.IntRange(min=2), default=64, show_default=True)
@click.option("--digest", help="What its files must hash to (see: generators describe).")
@click.option(
    "--want", "wanted", multiple=True, metavar="NAME=NUMBER",
    help="A bound: psnr=27 or psnr_gain=3 at least, retention_fine=0.3 at most. Repeatable.",
)  # fmt: skip
@click.option("--fid", is_flag=True, help="The FID too: needs torchmetrics and its weights.")
@device_option
def verify(
    path: Path,
    dataset: str,
    steps: int | None,
    count: int,
    digest: str | None,
    wanted: tuple[str, ...],
    fid: bool,
    device: str,
) -> None:
    """Load a generator and measure what it does to images. Exit status 1 if something is wrong."""
    from harness.generator_check import verify_generator

    found = verify_generator(
        path, dataset, steps=steps, count=count, thresholds=_bounds(wanted), digest=digest,
        fid=fid, device=device,
    )  # fmt: skip
    for line in found.lines:
        click.echo(line)
    sys.exit(0 if found.ok else 1)


def _bounds(wanted: tuple[str, ...]) -> dict[str, float]:
    bounds = {}
    for text in wanted:
        name, _, number = text.partition("=")
        try:
            bounds[name] = float(number)
        except ValueError:
            raise UsageError(f"--want takes NAME=NUMBER, as psnr=27; got {text!r}.") from None
    return bounds


@generators.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--dataset", required=True, help="Clean images: name or YAML, as in a study.")
@click.option("--out", required=True, type=OnDisk(), help="Folder to write.")
@click.option("--attack", help="As in a study, YAML; without a source: a random ±eps pattern.")
@click.option("--trigger", type=click.Path(path_type=Path), help="Published trigger, .npy.")
@click.option("--poisons", type=click.Path(path_type=Path), help="Imported poison set.")
@click.option("--eps-255", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--steps", help="Where to look besides the start, as 10,50,100.")
@click.option("--temperature", type=float, help="Of the Langevin steps of an EBM. Default: 1e-4.")
@click.option("--count", type=click.IntRange(min=2), default=128, show_default=True)
@click.option("--energy", type=click.Path(path_type=Path), help="EBM that judges a DDPM's images.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@store_option
@device_option
def trajectory(
    path: Path,
    dataset: str,
    out: Path,
    attack: str | None,
    trigger: Path | None,
    poisons: Path | None,
    eps_255: int,
    steps: str | None,
    temperature: float | None,
    count: int,
    energy: Path | None,
    seed: int,
    store: str | None,
    device: str,
) -> None:
    """Follow clean and poisoned images through one purification: distances, energies, figures."""
    from harness.generator_trajectory import trajectory as follow

    looks = _whole_numbers("--steps", steps) if steps else None
    found = follow(
        path, dataset, out, attack=attack, trigger=trigger, poisons=poisons, eps_255=eps_255,
        steps=looks, temperature=temperature, count=count, energy=energy, seed=seed, device=device,
        store=open_workshop(store, device).store,
    )  # fmt: skip
    for line in found.lines:
        click.echo(line)


@generators.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--dataset", required=True, help="Clean images: name or YAML, as in a study.")
@click.option("--steps", type=click.IntRange(min=1), help="Default: 75; of an EBM 150.")
@click.option("--calls", help="Network calls, as 5,8,15. Default: 8; of an EBM steps / 2 and / 3.")
@click.option("--temperature", type=float, help="Of the Langevin steps of an EBM. Default: 1e-4.")
@click.option("--bf16", is_flag=True, help="Hold the published sampler in bf16 against float32.")
@click.option("--count", type=click.IntRange(min=2), default=256, show_default=True)
@click.option("--energy", type=click.Path(path_type=Path), help="EBM that judges the images.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@device_option
def samplers(
    path: Path,
    dataset: str,
    steps: int | None,
    calls: str | None,
    temperature: float | None,
    bf16: bool,
    count: int,
    energy: Path | None,
    seed: int,
    device: str,
) -> None:
    """Hold a generator's faster samplers against the published one, before a study does."""
    from harness.core.device import pick_device
    from harness.generator_samplers import compare_samplers

    found = compare_samplers(
        path, dataset, steps=steps, calls=_whole_numbers("--calls", calls) if calls else None,
        temperature=temperature, bf16=bf16, count=count, energy=energy, seed=seed,
        device=str(pick_device(device)),
    )  # fmt: skip
    published = found[0]
    click.echo(f"against {published.sampler} with {published.calls} calls, which comes first,")
    click.echo("with other noise:")
    for one in found:
        click.echo(f"  {one.line}")


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(s) for s in text.split(",")}))
    except ValueError:
        raise UsageError(f"{option} are whole numbers, as 10,50,100; got {text!r}.") from None
