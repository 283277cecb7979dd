"""Handing a study to a cluster as a Ray job: the command as a value, and its run to the end."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.core.errors import UsageError
from harness.core.values import Json
from harness.study import StudySpec
from harness.sweeps import folder as packaged_studies

PACKAGES = ("harness", "attacks", "defenses", "generative", "sweeps")
# Anchored to the working directory: a package may hold a folder called data.
EXCLUDES = ("/.git/", "/.venv/", "/runs/", "/data/", "/mlruns/", "/mlartifacts/", "/mlflow.db")
REACH_SECONDS = 5.0
POLL_SECONDS = 2.0
STOPPED = 130  # exit status of a job that was stopped, as of one that got Ctrl-C
REFUSED = "the cluster did not take the job; what Ray said of it stands above."


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A study on its way to a cluster.

    Attributes:
        study: File, or name of a study that comes with the package.
        address: Of the cluster's dashboard: ``http://HOST:PORT``.
        working_dir: Folder that goes along; the job starts in a copy of it. Absolute.
        options: Further arguments of ``puregen-bench run``.
        python: Interpreter on the cluster that has the package's dependencies.
        job_id: Name of the job on the cluster.
        code: Checkout whose code goes along, or None for a package that the cluster has installed.
    """

    study: str
    address: str
    working_dir: Path
    options: tuple[str, ...]
    python: str
    job_id: str
    code: Path | None


def new_job_id(study: str) -> str:
    """Return a name that no other job of the cluster has."""
    return f"{study}-{secrets.token_hex(4)}"


def checkout() -> Path | None:
    """Return the clone that this code runs from, or None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() else None


def runtime_env(submission: Submission) -> dict[str, Json]:
    """Return what the job's processes need beyond what the cluster has.

    The code of a clone goes along: within the working directory if that is the clone, else beside
    it. An interpreter's packages never do: uploading or building them costs minutes per node.
    """
    env: dict[str, Json] = {"excludes": list(EXCLUDES)}
    code = submission.code
    if code is not None and code != submission.working_dir:
        env["py_modules"] = [str(code / name) for name in PACKAGES]
    return env


def job_command(submission: Submission) -> list[str]:
    """Return the ``ray job submit`` command."""
    return [
        "ray", "job", "submit",
        "--address", submission.address,
        "--submission-id", submission.job_id,
        "--working-dir", str(submission.working_dir),
        "--runtime-env-json", json.dumps(runtime_env(submission)),
        "--", submission.python, "-m", "harness", "run", submission.study, *submission.options,
    ]  # fmt: skip


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the command; a token in it is used, and the mode is explicit.

    Ray sends no token unless told the mode, not even one that is there.
    """
    token = "RAY_AUTH_TOKEN" in given or "RAY_AUTH_TOKEN_PATH" in given
    mode = given.get("RAY_AUTH_MODE") or ("token" if token else "disabled")
    return {**given, "RAY_AUTH_MODE": mode, "RAY_USAGE_STATS_ENABLED": "0"}


def pasteable(command: Sequence[str], given: Mapping[str, str]) -> str:
    """Return the command as a shell takes it; a token stays where it is, and is named only."""
    mode = environment(given)["RAY_AUTH_MODE"]
    hint = "  # the token: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
    return f"RAY_AUTH_MODE={mode} {shlex.join(command)}" + (hint if mode == "token" else "")


def study_on_cluster(study: Path, working_dir: Path) -> str:
    """Return by what name the job finds the study's file.

    Raises:
        UsageError: If the file does not go along.
    """
    full, packaged = study.resolve(), packaged_studies().resolve()
    if full.is_relative_to(packaged) and full.suffix == ".yaml":
        return full.relative_to(packaged).with_suffix("").as_posix()
    _check_travels(f"study {str(study)!r}", full, working_dir)
    return str(full.relative_to(working_dir))


def check_paths(study: StudySpec, working_dir: Path) -> tuple[list[Path], list[Path]]:
    """Check that what the study's paths mean here, they mean in the job.

    Absolute paths are the cluster's: they need not exist on the machine that submits.

    Returns:
        Those that do not, and those that lead into the working directory.

    Raises:
        UsageError: If a relative path leads to what does not go along.
    """
    absolute = {Path(text).expanduser() for text in _texts(study.raw)}
    components = (*study.datasets, *study.attacks, *study.defenses, *study.classifiers)
    found = {Path(t) for c in components for t in _texts(c.to_json()) if t.startswith("/")}
    along = sorted(found - absolute)
    packaged = packaged_studies().resolve()  # goes along with the code, or is there with it
    for path in along:
        if not path.resolve().is_relative_to(packaged):
            _check_travels(f"path {str(path)!r} of the study", path.resolve(), working_dir)
    return sorted(path for path in found if not path.exists()), along


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def _check_travels(what: str, path: Path, working_dir: Path) -> None:
    if not path.is_relative_to(working_dir):
        raise UsageError(
            f"{what} lies outside the working directory {str(working_dir)!r}, which alone goes to "
            "the cluster. Give another --working-dir, or the absolute path of a file on storage "
            "that the nodes share."
        )
    top = path.relative_to(working_dir).parts[:1]
    if top and any(top[0] == pattern.strip("/") for pattern in EXCLUDES):
        raise UsageError(
            f"{what} lies in {top[0]!r}, which does not go to the cluster with the rest of "
            f"{str(working_dir)!r}. Put it on storage that the nodes share, and give its absolute "
            "path (--set vars.NAME=/shared/…)."
        )


def check_address(address: str) -> None:
    """Check that somebody listens at a dashboard's address.

    Raises:
        UsageError: If nobody does, or the address is of another kind.
    """
    parts = urlsplit(address)
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        host = parts.hostname or ""
    except (KeyError, ValueError):
        host = ""
    if not host:
        raise UsageError(
            f"--address is that of the cluster's dashboard, such as http://127.0.0.1:8265; "
            f"got {address!r}."
        )
    try:
        socket.create_connection((host, port), REACH_SECONDS).close()
    except OSError as error:
        raise UsageError(
            f"no dashboard of Ray answers at {address!r}: {error}. 'ray start --head' starts one "
            'where "ray[default]" is installed; forward its port with ssh -L 8265:127.0.0.1:8265.'
        ) from error


def submit(submission: Submission) -> int:
    """Hand the job in, show its log until it ends, and return its own exit status.

    Raises:
        UsageError: If the cluster does not take the job.
        KeyboardInterrupt: On Ctrl-C; the job goes on.
    """
    given = environment(os.environ)
    # What a token is for is decided while ray is imported, in this process too.
    os.environ["RAY_AUTH_MODE"] = given["RAY_AUTH_MODE"]
    command = [sys.executable, "-m", "ray.scripts.scripts", *job_command(submission)[1:]]
    subprocess.run(command, env=given, check=False)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(submission.address)
        info = client.get_job_info(submission.job_id)
        while not info.status.is_terminal():  # the log broke off, and the job did not
            time.sleep(POLL_SECONDS)
            info = client.get_job_info(submission.job_id)
    except (AuthenticationError, ConnectionError, RuntimeError) as error:
        raise UsageError(REFUSED) from error
    return exit_status(str(info.status), info.driver_exit_code)


def exit_status(status: str, code: int | None) -> int:
    """Return the exit status of a job: Ray's own command knows 0 and 1 only, and 0 for a stop.

    Args:
        status: As Ray calls it.
        code: Exit status of the job's process, negative for a signal, if it is known.
    """
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        return STOPPED
    return (128 - code if code < 0 else code) if code else 1


def run_options(**given: Any) -> tuple[str, ...]:
    """Return options of ``puregen-bench run`` as words; what is None, False or () is left out."""
    words: list[str] = []
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif isinstance(value, tuple):
            words += [word for item in value for word in (option, str(item))]
        elif value is not None and value is not False:
            words += [option, str(value)]
    return tuple(words)
