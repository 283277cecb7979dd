from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.cluster.executor import RayExecutor
from harness.cluster.session import session
from harness.core.errors import UsageError
from harness.execution import Done, InProcess
from harness.study import Resources
from tests.cluster_functions import misbehave, square, use_memory

ONE, TWO = Resources(cpus=1), Resources(cpus=2)


@pytest.fixture(scope="module")
def executor(local_ray: None) -> RayExecutor:
    return RayExecutor()


def by_index(results: list[Done]) -> list[Done]:
    ordered = sorted(results, key=lambda d: d.index)
    assert [d.index for d in ordered] == list(range(len(results)))
    return ordered


def values(results: list[Done]) -> list[object]:
    assert not [d.error for d in results if d.error]
    return [d.value for d in by_index(results)]


def troubles(folder: Path) -> list[dict[str, str]]:
    # The two that die come first: their processes are started again side by side.
    return [
        {"do": "die once", "marker": str(folder / "died")},
        {"do": "die"},
        {"do": "raise"},
        {"do": "nothing"},
    ]


def check_troubles(results: list[Done]) -> None:
    once, dead, raised, fine = by_index(results)
    assert raised.value is None
    assert raised.error.startswith("ValueError: this piece always raises\nTraceback")
    assert dead.value is None
    assert "died" in dead.error
    assert once.error == fine.error == ""
    assert once.value == fine.value == {"threads": 1, "cwd": str(Path.cwd())}


def test_units_equal_those_in_process(executor: RayExecutor) -> None:
    payloads = [{"x": x} for x in range(30)]
    expected = values(list(InProcess().units(square, payloads, ONE)))
    assert values(list(executor.units(square, payloads, ONE))) == expected


def test_a_unit_that_fails_takes_no_other_with_it(executor: RayExecutor, tmp_path: Path) -> None:
    check_troubles(list(executor.units(misbehave, troubles(tmp_path), ONE)))


def test_a_trial_that_fails_takes_no_other_with_it(
    executor: RayExecutor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check_troubles(list(executor.trials(misbehave, troubles(tmp_path), ONE)))
    out, err = capfd.readouterr()
    # Progress is the command line's to show; Ray itself tells of processes that died, at leisure.
    assert [line for line in (out + err).splitlines() if "(raylet)" not in line] == []


def test_nothing_to_do(executor: RayExecutor) -> None:
    assert list(executor.units(square, [], ONE)) == []
    assert list(executor.trials(square, [], ONE)) == []


def end_after_first(results: list[Done], how: signal.Signals) -> None:
    if len(results) == 1:
        threading.Timer(0.5, os.kill, (os.getpid(), how)).start()


def test_interrupted_units(executor: RayExecutor) -> None:
    payloads = [{"do": "nothing"}, *[{"do": "sleep"}] * 5]
    results: list[Done] = []
    with pytest.raises(KeyboardInterrupt):
        for done in executor.units(misbehave, payloads, ONE):
            results.append(done)
            end_after_first(results, signal.SIGINT)
    assert [d.index for d in results] == [0]
    # The processors are free again, or this would wait for the sleepers.
    assert len(list(executor.units(square, [{"x": 1}], TWO))) == 1


def test_trials_come_as_they_finish_and_can_be_ended(executor: RayExecutor) -> None:
    payloads = [{"x": 2, "do": "nothing"}, *[{"do": "sleep"}] * 3]
    results: list[Done] = []
    with pytest.raises(KeyboardInterrupt):
        for done in executor.trials(misbehave, payloads, TWO):
            results.append(done)
            end_after_first(results, signal.SIGTERM)  # as schedulers end a job
    assert values(results) == [{"threads": 2, "cwd": str(Path.cwd())}]
    assert len(list(executor.units(square, [{"x": 1}], TWO))) == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no arenas")
def test_a_trial_uses_the_memory_that_the_last_one_has_freed(executor: RayExecutor) -> None:
    told = values(list(executor.trials(use_memory, [{}] * 12, TWO)))
    used = {one["pid"]: one["arenas"] for one in told}  # of the last trial in each process
    assert max(used.values()) <= 4


def test_more_than_any_node_has(executor: RayExecutor) -> None:
    with pytest.raises(UsageError, match=r"asks for 3 CPUs and 0 GPUs .* have 2 CPUs"):
        executor.units(square, [{"x": 1}], Resources(cpus=3))
    with pytest.raises(UsageError, match=r"asks for 1 CPUs and 0.5 GPUs"):
        executor.trials(square, [{"x": 1}], Resources(gpus=0.5))


def test_ray_is_loaded_only_when_used() -> None:
    code = (
        "import sys, harness.cluster.executor, harness.cluster.session; print('ray' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


def test_nobody_at_the_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, so that nobody else takes the port, and not listening
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        message = rf"no Ray answers at '{address}'.*: .*refused\. Start one with 'ray start --head'"
        with pytest.raises(UsageError, match=message), session(address):
            pass
        # What a Ray that was killed leaves behind.
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        with (
            pytest.raises(UsageError, match=r"which 'auto' stands for\): .*refused"),
            session("auto"),
        ):
            pass
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UsageError, match=message), session():
            pass


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "somewhere", "host:port"])
def test_an_address_of_another_kind(address: str) -> None:
    with pytest.raises(UsageError, match=f"{address}.*'auto'"), session(address):
        pass
