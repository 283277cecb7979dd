"""How a reader who has the page alone runs the study again."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import yaml

from harness import sweeps
from harness.report.collect import Study


@dataclass(frozen=True, slots=True)
class Again:
    """What to do, in order.

    Attributes:
        version: Version and commit of the program that measured, in words.
        file: Name to save the study as; empty for one that comes with the package.
        link: The study as a ``data:`` URI.
        needs: Per variable of the study that names a file or folder: its name, and which was used.
        before: Commands that have to run first.
        command: The command.
    """

    version: str
    file: str
    link: str
    needs: tuple[tuple[str, str], ...]
    before: tuple[str, ...]
    command: str


def again(said: Study, environments: Iterable[Mapping[str, Any]]) -> Again | None:
    """Return the steps, or None for a run that does not know its study.

    Args:
        said: What the run's folder says of it.
        environments: On what its parts ran.
    """
    study = said.study
    if not study:
        return None
    text = yaml.safe_dump(study, sort_keys=False, allow_unicode=True)
    packaged = [n for n in sweeps.names() if n in shlex.split(said.command)[2:3]]
    file = "" if packaged else f"{said.name or 'study'}.yaml"
    variables = study.get("vars")
    files = {k: v for k, v in variables.items() if isinstance(v, str) and _is_path(v)} \
        if isinstance(variables, dict) else {}  # fmt: skip
    return Again(
        version=_version(environments), file=file,
        link="data:text/yaml;base64," + base64.b64encode(text.encode()).decode(),
        needs=tuple((key, PurePath(path).name) for key, path in files.items()),
        before=tuple(map(str, study.get("before") or ())),
        command=shlex.join(["puregen-bench", "run", packaged[0] if packaged else file])
        + "".join(f" --set vars.{key}=PATH" for key in files),
    )  # fmt: skip


def _is_path(text: str) -> bool:
    return bool(PurePath(text).suffix) or "/" in text


def _version(environments: Iterable[Mapping[str, Any]]) -> str:
    for environment in environments:
        packages, commit = (environment.get(k) for k in ("packages", "commit"))
        if isinstance(packages, dict) and packages.get("puregen-bench"):
            said = f"puregen-bench {packages['puregen-bench']}"
            return f"{said}, commit {commit}" if commit else said
    return "puregen-bench"
