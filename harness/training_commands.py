"""Commands that train one network: a generator, or a classifier to start transfer from."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli_options import open_console, training_options


@click.command(name="train-generator")
@click.argument("kind")
@training_options
def train_generator(
    kind: str,
    dataset: str,
    out: Path,
    overrides: tuple[str, ...],
    seed: int,
    threads: int,
    workers: int,
    address: str | None,
    device: str,
) -> None:
    """Train a generator on any dataset; go on where an earlier call was stopped."""
    from harness.generator_training import train

    train(
        kind, dataset, out, overrides, seed, threads, device, open_console(), workers, address
    )  # fmt: skip


@click.command(name="train-classifier")
@click.argument("name")
@training_options
def train_classifier(
    name: str,
    dataset: str,
    out: Path,
    overrides: tuple[str, ...],
    seed: int,
    threads: int,
    workers: int,
    address: str | None,
    device: str,
) -> None:
    """Train a classifier on a whole dataset, to start transfer from; go on where it was stopped."""
    from harness.classifier_training import train

    train(name, dataset, out, overrides, seed, threads, device, open_console(), workers, address)


COMMANDS = (train_generator, train_classifier)
