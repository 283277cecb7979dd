"""How far a run is, seen from elsewhere."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.core.records import TrialRecord
from harness.status import status_of, words
from tests.tiny import CommandLine, run, write_study


def test_a_run_in_the_middle_and_at_its_end(tmp_path) -> None:
    with pytest.raises(UsageError, match="no run folder: it holds no study"):
        status_of(tmp_path / "run")
    run(tmp_path)
    folder = tmp_path / "run"
    records = sorted((folder / "records").glob("*.json"))
    whole = status_of(folder)
    assert (whole.planned, whole.done, whole.failed, whole.complete) == (4, 4, 0, True)
    assert words(whole) == [f"{folder}: 4 of 4 trials have a result."]
    now = time.time()
    for index, path in enumerate(records):
        os.utime(path, (now - 300 + 60 * index,) * 2)
    records[0].unlink()
    text = records[1].read_text()
    failed = TrialRecord.from_json(text).with_values(status="failed", error="E: why\nmore")
    records[1].write_text(failed.to_json())
    os.utime(records[1], (now - 240,) * 2)
    status = status_of(folder)
    assert (status.done, status.failed, status.complete) == (2, 1, False)
    assert status.left_seconds == pytest.approx(60)
    assert status.idle_seconds == pytest.approx(120, abs=5)
    assert list(status.errors.values()) == ["E: why"]
    records[2].write_text("{")
    assert status_of(folder).done == 1


def test_on_the_command_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    cli = CommandLine(monkeypatch, capsys)
    study = write_study(tmp_path)
    arguments = ("--in-process", "--store", "store", "--no-tracking")
    assert cli("run", study, *arguments, "--limit", 1) == 0
    assert cli("status", "runs/tiny") == 0
    assert cli("run", study, *arguments) == 0
    assert cli("status", "runs/tiny", "--json") == 0
    assert json.loads(cli.out)["done"] == 4
    assert cli("status", "runs") == 2
    assert cli("ui") == 2
    assert "there is no MLflow store" in cli.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "'nothing' is no run folder: it holds no study.json."),
        (("--tracking-uri", "sqlite:///typed/wrongly.db"), "there is no MLflow store 'typed/wro"),
        (("--tracking-uri", "sqlite:///text.db"), "'sqlite:///text.db' cannot be reached: file is"),
        (("--tracking-uri", "folder"), "MLflow store 'folder' cannot be used: The filesystem"),
    ],
)
def test_pages_of_what_is_not_there(tmp_path, monkeypatch, capsys, arguments, message) -> None:
    """Nothing is started, and no store is made where a path was mistyped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("harness.local_server.serve", lambda *_: pytest.fail("a server starts"))
    Path("mlflow.db").touch()
    Path("text.db").write_text("no database")
    cli = CommandLine(monkeypatch, capsys)
    assert cli("ui", *arguments) == 2
    assert message in cli.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mlflow.db", "text.db"]


def test_the_pages_of_mlflow(tmp_path, monkeypatch, capsys) -> None:
    """The store is that of $MLFLOW_TRACKING_URI, as it is for `run`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere.db")
    cli = CommandLine(monkeypatch, capsys)
    study = write_study(tmp_path)
    assert cli("run", study, "--in-process", "--store", "store", "--limit", 1) == 0
    assert not (tmp_path / "runs" / "mlflow.db").exists()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-m", "harness", "ui", "--port", str(port)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True, text=True,
    ) as server:  # fmt: skip
        try:
            links = _links(server)
            answer = _asked(f"http://127.0.0.1:{port}/health", 10)
            found = _asked(
                f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name"
                "?experiment_name=tiny", 10,
            )  # fmt: skip
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            assert cli("ui") == 0  # a server has pages already
        finally:
            os.killpg(server.pid, 15)
    assert answer == b"OK"
    assert json.loads(found)["experiment"]["name"] == "tiny"
    assert links["study"].startswith(f"http://127.0.0.1:{port}/#/experiments/")
    assert links["compare"].startswith(f"http://127.0.0.1:{port}/#/compare-runs?runs=")
    assert "nothing was started" in cli.out
    assert all(f"{name}: {link}" in cli.out for name, link in links.items())


def _links(server: subprocess.Popen[str]) -> dict[str, str]:
    """What is printed up to the link that compares; MLflow's server writes there too."""
    found: dict[str, str] = {}
    for line in server.stdout or ():
        name, _, link = line.strip().partition(": ")
        if line.startswith("  ") and link.startswith("http://"):
            found[name] = link
        if name == "compare":
            break
    return found


def _asked(url: str, seconds: float) -> bytes:
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return reply.read()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
