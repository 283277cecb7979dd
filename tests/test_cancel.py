"""A run that is ended: by Ctrl-C, by SIGTERM, and from elsewhere."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny import CommandLine, run, write_study

CHECKOUT = Path(__file__).resolve().parents[1]
LONG = {"targets": list(range(10)), "seeds": list(range(20))}  # far more than the test waits for


def records(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (folder / "run" / "records").glob("*.json")}


@pytest.fixture
def running(tmp_path: Path):
    """A run in a process of its own, with two records."""
    study = write_study(tmp_path, **LONG)
    command = [
        sys.executable, "-m", "harness", "run", str(study), "--in-process", "--no-tracking",
        "--store", str(tmp_path / "store"), "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    until = time.monotonic() + 120
    while len(records(tmp_path)) < 2:
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            pytest.fail(process.communicate()[0])
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "cancel"])
def test_it_ends_with_what_is_finished(running, tmp_path, monkeypatch, capsys, how) -> None:
    cli = CommandLine(monkeypatch, capsys)
    if how == "cancel":
        assert cli("cancel", tmp_path / "run") == 0
        assert f"process {running.pid} on {socket.gethostname()} has ended it." in cli.out
        assert "trials have a result" in cli.out
    else:
        running.send_signal(signal.Signals[how])
    told, _ = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert told.splitlines()[-1].startswith("stopped; what is finished is in")
    assert "Traceback" not in told
    left = {p.name for p in (tmp_path / "run").iterdir()}
    assert left <= {"study.json", "records", "samples"}
    before = records(tmp_path)
    assert run(tmp_path, **LONG, limit=len(before) + 1).done == len(before) + 1
    after = records(tmp_path)
    assert {name: after[name] for name in before} == before
    assert cli("cancel", tmp_path / "run") == 0
    assert cli.out.startswith("nobody runs it.")


def test_who_ran_it_is_gone(running, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("harness.run_control.SILENT_SECONDS", 3.0)
    running.kill()
    running.communicate()
    cli = CommandLine(monkeypatch, capsys)
    assert cli("cancel", tmp_path / "run") == 0
    assert f"process {running.pid} on {socket.gethostname()}, which ran it, is gone." in cli.out
    assert not (tmp_path / "run" / "running.json").exists()


def test_what_cannot_be_ended(tmp_path, monkeypatch, capsys) -> None:
    cli = CommandLine(monkeypatch, capsys)
    assert cli("cancel", tmp_path) == 2
    assert "is no run folder" in cli.err
    (tmp_path / "study.json").write_text("{}")
    (tmp_path / "running.json").write_text(json.dumps({"id": "x", "host": "h", "pid": 1}))
    assert cli("cancel", tmp_path, "--patience", "0.1") == 2
    assert "process 1 on h has not ended" in cli.err
