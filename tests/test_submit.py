"""Studies as jobs of a real cluster, which wants a token."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.cluster.submission import (
    EXCLUDES,
    Submission,
    check_paths,
    exit_status,
    job_command,
    pasteable,
    run_options,
    study_on_cluster,
)
from harness.core.errors import UsageError
from harness.core.records import TrialRecord
from harness.study import read_study
from tests.test_run import EXPLODES
from tests.tiny import CommandLine, add_distribution, write_study

pytestmark = pytest.mark.cluster
CHECKOUT = Path(__file__).resolve().parents[1]
TOKEN = secrets.token_hex(16)
DASHBOARD = ("aiohttp_cors", "opencensus", "prometheus_client")  # of ray[default]


# The command, without a cluster


def submission(tmp_path: Path, code: Path | None) -> Submission:
    return Submission(
        study="a study.yaml", address="http://head:8265", working_dir=tmp_path,
        options=("--set", "seeds=[0, 1]"), python="/venv/bin/python", job_id="tiny-1", code=code,
    )  # fmt: skip


@pytest.mark.parametrize("how", ["the clone itself", "beside a clone", "an installed package"])
def test_what_goes_along(tmp_path, how) -> None:
    code = {"the clone itself": tmp_path, "beside a clone": CHECKOUT}.get(how)
    command = job_command(submission(tmp_path, code))
    assert command[:3] == ["ray", "job", "submit"]
    after = command[command.index("--") + 1 :]
    assert after == [
        "/venv/bin/python", "-m", "harness", "run", "a study.yaml", "--set", "seeds=[0, 1]",
    ]  # fmt: skip
    env = json.loads(command[command.index("--runtime-env-json") + 1])
    assert env["excludes"] == list(EXCLUDES)
    sent = [Path(p) for p in env.get("py_modules", [])]
    assert bool(sent) == (how == "beside a clone")
    assert all((p / "__init__.py").is_file() for p in sent)


def test_a_token_is_named_and_not_shown(tmp_path) -> None:
    command = job_command(submission(tmp_path, None))
    shown = pasteable(command, {"RAY_AUTH_TOKEN": TOKEN})
    assert shown.startswith("RAY_AUTH_MODE=token ray job submit ")
    assert "RAY_AUTH_TOKEN" in shown and TOKEN not in shown
    assert "'a study.yaml' --set 'seeds=[0, 1]'" in shown
    assert pasteable(command, {}).startswith("RAY_AUTH_MODE=disabled ray job submit ")


def test_exit_statuses() -> None:
    assert exit_status("SUCCEEDED", 0) == 0
    assert [exit_status("FAILED", code) for code in (1, 2, 130, -9, None)] == [1, 2, 130, 137, 1]
    assert exit_status("STOPPED", None) == 130


def test_options_as_words() -> None:
    given = run_options(set=("a=1", "b=2"), out=Path("/o"), limit=None, no_tracking=True, x=False)
    assert given == ("--set", "a=1", "--set", "b=2", "--out", "/o", "--no-tracking")


def test_what_the_job_could_not_find(tmp_path) -> None:
    study = write_study(tmp_path / "here", dataset={"name": "npz", "path": "x.npz"})
    inside = (tmp_path / "here").resolve()
    assert study_on_cluster(study, inside) == "tiny.yaml"
    assert study_on_cluster(CHECKOUT / "sweeps" / "smoke.yaml", inside) == "smoke"
    with pytest.raises(UsageError, match="lies outside the working directory"):
        study_on_cluster(study, tmp_path / "there")
    assert check_paths(read_study(study), inside) == ([inside / "x.npz"], [inside / "x.npz"])
    for given, message in (
        ("../x.npz", "lies outside the working directory"),
        ("data/x.npz", "lies in 'data', which does not go to the cluster"),
    ):
        with pytest.raises(UsageError, match=message):
            check_paths(read_study(study, [f"dataset.path={given}"]), inside)
    shared = read_study(study, ["dataset.path=/shared/x.npz"])
    assert check_paths(shared, inside) == ([Path("/shared/x.npz")], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiny.yaml", "--set", "attacks.0.budget=7"), "budget"),
        (("tiny.yaml", "--set", "attacks.0.name=badnet"), "Did you mean 'badnets'?"),
        (("tiny.yaml", "--tracking-uri", "http://u:secret@h"), "a password in --tracking-uri"),
        (("tiny.yaml", "--address", "127.0.0.1:6379"), "such as http://127.0.0.1:8265"),
        (("tiny.yaml", "--address", "http://127.0.0.1:9"), "no dashboard of Ray answers"),
        (("smoek",), "Did you mean 'smoke'?"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUREGEN_BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("harness.cluster.submission.submit", lambda _: pytest.fail("handed in"))
    write_study(tmp_path)
    cli = CommandLine(monkeypatch, capsys)
    assert cli("submit", *arguments) == 2
    assert message in cli.err


def test_a_dry_run_contacts_nobody(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUREGEN_BENCH_HOME", str(tmp_path / "home"))
    write_study(tmp_path)
    cli = CommandLine(monkeypatch, capsys)
    assert cli("submit", "tiny.yaml", "--dry-run", "--address", "http://127.0.0.1:9") == 0
    assert f"run tiny.yaml --out {tmp_path}/runs/tiny" in cli.out


# A cluster


@dataclass(frozen=True)
class Cluster:
    address: str
    home: Path

    def environment(self, token: str | None = TOKEN) -> dict[str, str]:
        drop = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_JOB_CONFIG_JSON_ENV_VAR")
        kept = {k: v for k, v in os.environ.items() if k not in drop}
        path = os.pathsep.join([str(CHECKOUT), kept.get("PYTHONPATH", "")])
        kept |= {"PYTHONPATH": path, "HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        return kept | ({"RAY_AUTH_TOKEN": token} if token else {})

    def start(self, study: Path, *arguments: str, token: str | None = TOKEN) -> subprocess.Popen:
        """Submit from the study's folder, which is all that goes along besides the code."""
        command = [
            sys.executable, "-m", "harness", "submit", study.name, "--address", self.address,
            "--python", sys.executable, "--store", str(self.home / "store"), *arguments,
        ]  # fmt: skip
        return subprocess.Popen(
            command, cwd=study.parent, env=self.environment(token), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def submit(self, study: Path, *arguments: str, token: str | None = TOKEN) -> tuple[int, str]:
        process = self.start(study, *arguments, token=token)
        told, _ = process.communicate(timeout=400)  # a slow, busy machine takes minutes
        assert TOKEN not in told
        return process.returncode, told


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head of two CPUs that listens on loopback only and wants a token."""
    lacking = [name for name in DASHBOARD if importlib.util.find_spec(name) is None]
    if lacking:
        pytest.skip(f'jobs need a dashboard, of "ray[default]"; not installed: {lacking}')
    home = Path(tempfile.mkdtemp(prefix="pg"))  # short: a socket's path has at most 107 bytes
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(5)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        port, dashboard, listen, grpc, metrics = (s.getsockname()[1] for s in sockets)
    self = Cluster(f"http://127.0.0.1:{dashboard}", home)
    environment = self.environment() | {
        "RAY_AUTH_MODE": "token",
        "RAY_TMPDIR": str(home),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every socket on loopback
    }
    environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")  # the code comes with the job
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2",
        "--disable-usage-stats", f"--port={port}", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={listen}", f"--dashboard-agent-grpc-port={grpc}",
        f"--metrics-export-port={metrics}", "--object-store-memory=100000000",
    ]  # fmt: skip
    log = (home / "head.log").open("w")
    head = subprocess.Popen(
        command, env=environment, cwd=home, stdout=log, stderr=log, start_new_session=True
    )
    try:
        _wait_for_agent(self.address, head, home / "head.log")
        yield self
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(30)
        log.close()
        shutil.rmtree(home, ignore_errors=True)


def _wait_for_agent(address: str, head: subprocess.Popen, log: Path) -> None:
    """Wait until the dashboard answers, and takes a token only."""
    until = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{address}/api/jobs/", timeout=5).close()
            pytest.fail("the dashboard answers to anybody")
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (401, 403):
                return
        except OSError:
            pass
        if head.poll() is not None or time.monotonic() > until:
            pytest.fail(log.read_text())
        time.sleep(0.5)


def records(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (folder / "records").glob("*.json")}


def test_a_study_as_a_job(cluster, tmp_path) -> None:
    status, told = cluster.submit(
        CHECKOUT / "sweeps" / "smoke.yaml",
        "--working-dir",
        str(CHECKOUT),
        "--out",
        str(tmp_path),
        "--no-tracking",
    )
    assert status == 0, told
    assert "ray job submit" in told and "trials 6/6" in told
    assert any(line.startswith("puregen_ebm") and "|" in line for line in told.splitlines())
    assert len(records(tmp_path)) == 6
    assert (tmp_path / "report" / "index.html").is_file()
    read = [TrialRecord.read(p) for p in (tmp_path / "records").iterdir()]
    assert {r.environment["commit"] for r in read} == {""}  # by the copy that went along


def test_a_trial_that_fails(cluster, tmp_path) -> None:
    add_distribution(tmp_path, "attack", "explodes_there", EXPLODES, "It")
    study = write_study(tmp_path, targets=[1], controls=False, defenses=["none"])
    given = ("--set", "attacks.0.name=explodes_there", "--no-tracking")
    status, told = cluster.submit(study, "--out", str(tmp_path / "run"), *given)
    assert status == 1, told
    assert "FAILED: RuntimeError: the fuse was lit" in told
    assert "0 of 1 trials have a result" in told


def test_a_job_that_was_stopped_and_one_that_goes_on(cluster, tmp_path) -> None:
    study = write_study(tmp_path, targets=list(range(10)))
    run = tmp_path / "run"
    arguments = ("--out", str(run), "--no-tracking", "--set", "classifiers.0.recipe.epochs=30")
    first = cluster.start(study, *arguments)
    until = time.monotonic() + 400  # a job of a slow, busy machine takes minutes to begin
    while len(records(run)) < 2 and first.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    name = next(line for line in iter(first.stdout.readline, "") if "--submission-id" in line)
    job = name.split("--submission-id ")[1].split()[0]
    ask = urllib.request.Request(  # what 'ray job stop' asks, without the seconds of its start
        f"{cluster.address}/api/jobs/{job}/stop", method="POST",
        headers={"Authorization": f"Bearer {TOKEN}"},
    )  # fmt: skip
    urllib.request.urlopen(ask, timeout=30).close()
    told, _ = first.communicate(timeout=60)
    before = records(run)
    assert first.returncode == 130, told
    assert 2 <= len(before) < 22
    assert not list(run.rglob("*.part*"))
    status, told = cluster.submit(study, *arguments)
    assert status == 0, told
    after = records(run)
    assert len(after) == 22
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("token", [None, "0" * 32])
def test_without_the_token_no_job_is_taken(cluster, tmp_path, token) -> None:
    study = write_study(tmp_path)
    status, told = cluster.submit(study, "--out", str(tmp_path / "run"), token=token)
    assert status == 2, told
    assert "error: the cluster did not take the job" in told
    assert not (tmp_path / "run").exists()
