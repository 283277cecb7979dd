"""A study of seconds, and components from outside, for the tests of the core line."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.artifacts import Store
from harness.cli import main
from harness.core.params import ComponentSpec, complete, complete_dataset
from harness.core.protocols import REGISTRIES
from harness.execution import Executor, InProcess
from harness.run import RunSummary, run_study
from harness.study import read_study
from harness.workshop import Workshop

STUDY: dict[str, Any] = {
    "name": "tiny",
    "dataset": {"name": "shapes", "train": 60, "test": 30},
    "targets": [0],
    "attacks": [{"name": "badnets", "budget": 0.2, "size_px": 6}],
    "defenses": [{"name": "jpeg", "quality": 25}],
    "classifiers": [
        {"name": "hlb_xs", "widths": [8, 8, 8], "recipe": {"epochs": 1, "batch_size": 32}}
    ],
}
EBM: dict[str, Any] = {
    "name": "ebm",
    "nf": 8,
    "recipe": {"iterations": 4, "batch_size": 8, "bank_size": 16, "chain_steps": 2},
    "dataset": {"name": "shapes", "kind": "pood", "train": 48, "test": 6},
}


def write_study(folder: Path, **changes: Any) -> Path:
    """Write the study with some keys changed; None takes a key away."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = {k: v for k, v in {**STUDY, **changes}.items() if v is not None}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def workshop(folder: Path) -> Workshop:
    return Workshop(Store(folder / "store"), "cpu")


def component(kind: str, raw: Any) -> ComponentSpec:
    if kind == "dataset":
        return complete_dataset(raw, kind)
    return complete(REGISTRIES[kind], raw, kind)


@contextmanager
def in_process(work: bool) -> Iterator[tuple[Executor | None, None]]:
    yield (InProcess() if work else None), None


def run(
    folder: Path, overrides: Sequence[str] = (), *, limit: int | None = None, **changes: Any
) -> RunSummary:
    """Run the study in this process; study, store and run lie below the folder."""
    study = read_study(write_study(folder, **changes), overrides)
    return run_study(study, workshop(folder), folder / "run", in_process, limit=limit)


class CommandLine:
    """The program, called in this process; what it printed is kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.out = self.err = ""

    def __call__(self, *arguments: object) -> int:
        self._capsys.readouterr()
        self._monkeypatch.setattr("sys.argv", ["puregen-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        self.out, self.err = self._capsys.readouterr()
        return int(ended.value.code or 0)


def add_distribution(folder: Path, kind: str, name: str, source: str, attribute: str) -> None:
    """Lay down what ``pip install`` of a one-file distribution would: a module and its metadata."""
    module = f"outside_{name}"
    (folder / f"{module}.py").write_text(textwrap.dedent(source))
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    entry_point = f"[puregen_bench.{kind}s]\n{name} = {module}:{attribute}\n"
    (info / "entry_points.txt").write_text(entry_point)
