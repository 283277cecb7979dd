"""What commands that train one network share: a folder of one training, and several workers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.core.errors import DataError, UsageError
from harness.core.files import write_text
from harness.core.parallel import Workers
from harness.core.params import ComponentSpec, complete, complete_dataset, construct
from harness.core.paths import check_writable
from harness.core.registry import Registry
from harness.core.values import Json
from harness.core.yaml_text import read_yaml
from harness.study import Resources

NOTE, CHECKPOINT = "training.json", "training.safetensors"
Share = Callable[[dict[str, Json], Workers, str, Callable[[str], None]], None]


def parse_assignments(assignments: tuple[str, ...]) -> dict[str, Json]:
    """Turn ``recipe.lr=3e-4`` and the like into nested parameters.

    Raises:
        UsageError: If one is no KEY=VALUE, or gives a part of what another gives as a whole.
    """
    params: dict[str, Json] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        *parents, last = key.split(".")
        if not equals or not all((*parents, last)):
            raise UsageError(f"--set takes KEY=VALUE, for example nf=32; got {text!r}.")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UsageError(f"--set {text}: {parent!r} is {node!r}, which has no parts.")
        node[last] = read_yaml(value, f"the value of --set {key}")
    return params


def read_specs(
    registry: Registry[Any], name: str, assignments: tuple[str, ...], dataset: str
) -> tuple[ComponentSpec, ComponentSpec]:
    """Return what to train and on what, as specs of a component and of a dataset.

    Args:
        registry: Of the component.
        name: Of the component.
        assignments: ``key=value`` parameters of it.
        dataset: Name or YAML mapping.

    Raises:
        UsageError: If one is unknown, or has parameters that it cannot have.
    """
    given = parse_assignments(assignments)
    if "name" in given:
        raise UsageError(
            f"the {registry.kind} is {name!r}, given as an argument; leave out --set name."
        )
    spec = complete(registry, {"name": name, **given}, registry.kind)
    source = complete_dataset(read_yaml(dataset, "--dataset"), "--dataset")
    construct(registry, spec, {})
    return spec, source


def open_folder(out: Path) -> Path:
    """Make the folder of a training, and return it as an absolute path.

    Raises:
        UsageError: If it cannot be written.
    """
    out = out.expanduser().resolve()
    check_writable(out, "--out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {str(out)!r} cannot be written: {error.strerror}.") from error
    return out


@contextmanager
def same_training(path: Path, what: dict[str, Json]) -> Iterator[None]:
    """Note what a folder's training is of, and refuse a folder that is of another one.

    A checkpoint does not know its images: it would go on with others without a word. A training
    that fails before its first checkpoint leaves no note: the folder is free for a corrected one.
    """
    if path.exists():
        try:
            earlier = json.loads(path.read_text())
            differing = [k for k in sorted({*earlier, *what}) if earlier.get(k) != what.get(k)]
        except (ValueError, TypeError, AttributeError, OSError) as error:
            raise DataError(f"{str(path)!r} is damaged: {error}; give another --out.") from error
        if differing:
            raise UsageError(
                f"{str(path.parent)!r} holds a training with another {' and '.join(differing)}; "
                "give another --out, or the same settings to go on."
            )
    write_text(path, json.dumps(what, indent=1, sort_keys=True) + "\n")
    try:
        yield
    except BaseException:
        if not (path.parent / CHECKPOINT).exists():
            path.unlink(missing_ok=True)
        raise


def check_workers(workers: int, device: str, address: str | None) -> None:
    """Refuse options that contradict each other, before anything is started.

    Raises:
        UsageError: If they do.
    """
    if workers == 1 and address:
        raise UsageError("--address is for several workers; give --workers too.")
    if workers > 1 and ":" in device:
        raise UsageError(f"--device {device} is one GPU; for several workers give cuda or cpu.")


def on_ray(
    share: Share,
    what: dict[str, Json],
    workers: int,
    threads: int,
    device: str,
    address: str | None,
    tell: Callable[[str], None],
) -> None:
    """Let several workers of a Ray do their shares of a training; ``what`` names its ``out``."""
    from harness.cluster.session import require_shared, session

    with session(address):
        from harness.cluster.train import has_gpus, train_together

        gpus = device == "cuda" or (device == "auto" and has_gpus())
        require_shared({"output": Path(what["out"])})
        train_together(
            share,
            what,
            workers=workers,
            resources=Resources(cpus=threads, gpus=float(gpus)),
            folder=Path(what["out"]),
            tell=tell,
        )
