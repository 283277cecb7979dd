"""What the harness costs per trial, and how well a second worker is used.

Trials that do nothing, so many at once: as plain Ray tasks, as tasks of the harness (units), as its
trials (Ray Tune), and as a whole study, whose records are planned, written, read back and, with
--tracking, logged to MLflow. Then a study of real trials on one and on two CPUs. Each case runs in
a process of its own with a Ray of its own, whose start does not count. Run it on a quiet machine:

    OMP_NUM_THREADS=1 python benchmarks/harness_overhead.py --tracking --out harness_overhead.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.artifacts import Store
from harness.cluster.executor import RayExecutor
from harness.cluster.session import session
from harness.core.files import write_text
from harness.core.records import TrialRecord
from harness.core.spec import TrialSpec
from harness.execution import Done, InProcess
from harness.run import run_study
from harness.study import Resources, check_study
from harness.work import record_path
from harness.workshop import Workshop

ONE = Resources(cpus=1)
SIDES = ("plain tasks", "units", "trials", "study")
IDLE: dict[str, Any] = {
    "name": "idle",
    "dataset": {"name": "shapes", "train": 60, "test": 30},
    "attacks": ["none"],
    "defenses": ["none"],
    "classifiers": [{"name": "hlb_xs", "widths": [8, 8, 8], "recipe": {"epochs": 1}}],
}
REAL: dict[str, Any] = {
    **IDLE,
    "name": "real",
    "dataset": {"name": "shapes", "train": 2000, "test": 500},
    "attacks": [{"name": "badnets", "budget": 0.05}],
    "targets": [0, 1, 2],
    "defenses": [{"name": "jpeg", "quality": 75}],
    "classifiers": [{"name": "hlb_xs", "recipe": {"epochs": 12}}],
    "seeds": [0, 1],
}


def nothing(payload: dict[str, Any]) -> dict[str, Any]:
    """Do nothing."""
    return {}


def write_record(payload: dict[str, Any]) -> dict[str, Any]:
    """Write the record of a trial that was run before the clock, as if it were that of another."""
    canned = TrialRecord.read(Path(payload["canned"]))
    for each in payload["trials"]:
        spec = TrialSpec.from_json(each["trial"])
        record = canned.with_values(spec=each["trial"], spec_id=spec.spec_id)
        write_text(record_path(Path(payload["run"]), spec.spec_id), record.to_json())
    return {"errors": {}}


class Idle(RayExecutor):
    """The executor of a cluster, whose trials write the record that they are given."""

    def __init__(self, canned: Path) -> None:
        self.canned = canned

    def trials(
        self, function: object, payloads: Sequence[dict[str, Any]], resources: Resources
    ) -> Iterator[Done]:
        """Run trials that do nothing."""
        given = [{**payload, "canned": str(self.canned)} for payload in payloads]
        return super().trials(write_record, given, resources)


def plain_tasks(count: int) -> None:
    """Run tasks that do nothing as Ray's own documentation does."""
    import ray  # noqa: TID251 - what the harness is held against

    task = ray.remote(num_cpus=1)(nothing)
    ray.get([task.remote({}) for _ in range(count)])


def study(count: int, folder: Path, tracking: bool) -> None:
    """Run a study whose trials do nothing, from its plan to the last record."""
    spec = check_study({**IDLE, "seeds": list(range(count))}, folder)
    workshop = Workshop(Store(folder / "store"), "cpu")
    [canned] = (folder / "one" / "records").glob("*.json")

    @contextmanager
    def services(work: bool) -> Iterator[Any]:
        if not tracking:
            yield Idle(canned), None
            return
        from harness.tracking import Tracker

        tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}", spec.name, folder / "run")
        tracker.start(spec.raw)
        yield Idle(canned), tracker
        tracker.finish({}, "FINISHED")

    summary = run_study(spec, workshop, folder / "run", services)
    if summary.done != count:
        raise SystemExit(f"{summary.done} of {count} trials: {summary.errors[:1]}")


def idle(side: str, count: int, folder: Path, tracking: bool) -> dict[str, Any]:
    """Measure one side; a first few trials start workers and load modules before the clock."""
    if side == "study":
        one = check_study({**IDLE, "seeds": [0]}, folder)
        run_study(one, Workshop(Store(folder / "store"), "cpu"), folder / "one", _alone)
    if side == "study" and tracking:  # the database is made once, whatever the number of trials
        from harness.tracking import Tracker

        tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}", "warm", folder / "warm")
        tracker.start({})
        tracker.finish({}, "FINISHED")
    executor = RayExecutor()
    run: dict[str, Callable[[], object]] = {
        "plain tasks": lambda: plain_tasks(count),
        "units": lambda: list(executor.units(nothing, [{}] * count, ONE)),
        "trials": lambda: list(executor.trials(nothing, [{}] * count, ONE)),
        "study": lambda: study(count, folder, tracking),
    }
    with session(cpus=2):
        list(executor.units(nothing, [{}] * 20, ONE))
        _forget_peak()
        before, began = _memory("VmRSS"), time.perf_counter()
        run[side]()
        seconds = time.perf_counter() - began
        peak = _memory("VmHWM")
    files = sum(path.is_file() for path in (folder / "run").rglob("*"))
    return {
        "side": side, "count": count, "seconds": seconds, "ms_each": 1000 * seconds / count,
        "each_per_s": count / seconds, "driver_mib": before, "driver_grew_mib": peak - before,
        "files_each": files / count,
    }  # fmt: skip


@contextmanager
def _alone(work: bool) -> Iterator[Any]:
    yield InProcess(), None


def real(cpus: int, folder: Path) -> dict[str, Any]:
    """Run a study of real trials with a store of its own."""
    spec = check_study(REAL, folder)
    workshop = Workshop(Store(folder / "store"), "cpu")
    with session(cpus=cpus):
        list(RayExecutor().units(nothing, [{}] * 20, ONE))

        @contextmanager
        def services(work: bool) -> Iterator[Any]:
            yield RayExecutor(), None

        began = time.perf_counter()
        summary = run_study(spec, workshop, folder / "run", services)
        seconds = time.perf_counter() - began
    if not summary.complete:
        raise SystemExit(str(summary.errors[:1]))
    records = [TrialRecord.read(p) for p in (folder / "run" / "records").glob("*.json")]
    inside = sum(stage.seconds for r in records for stage in r.stages.values() if not stage.reused)
    return {"cpus": cpus, "trials": summary.done, "seconds": seconds, "seconds_in_trials": inside}


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024  # MiB


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def apart(*arguments: str) -> dict[str, Any]:
    """Run one case in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--many", action="store_true", help="5,000 trials as well")
    parser.add_argument("--tracking", action="store_true", help="log the study to MLflow (sqlite)")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--no-scaling", action="store_true", help="leave out one and two CPUs")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(_case(arguments.case, Path(folder), arguments.tracking)))
        return
    flags = ["--tracking"] if arguments.tracking else []
    counts = [*arguments.counts, *([5000] if arguments.many else [])]
    result: dict[str, Any] = {"machine": _machine(), "tracking": arguments.tracking, "idle": []}
    for count in counts:
        print(f"\n{count} trials that do nothing, 2 CPUs (load {os.getloadavg()[0]:.1f})")
        for side in arguments.sides:
            found = apart(*flags, "--case", f"{side}:{count}")
            result["idle"].append(found)
            print(
                f"  {side:12} {found['seconds']:8.2f} s, {found['ms_each']:8.2f} ms each, "
                f"{found['each_per_s']:7.1f} per s, driver {found['driver_mib']:.0f} + "
                f"{found['driver_grew_mib']:.0f} MiB, {found['files_each']:.1f} files each"
            )
    if not arguments.no_scaling:
        one, two = (apart("--case", f"real:{cpus}") for cpus in (1, 2))
        efficiency = one["seconds"] / two["seconds"] / 2
        result["scaling"] = {"runs": [one, two], "efficiency": efficiency}
        print(
            f"\n{one['trials']} real trials: {one['seconds']:.1f} s on 1 CPU, "
            f"{two['seconds']:.1f} s on 2: efficiency {efficiency:.0%}"
        )
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def _case(case: str, folder: Path, tracking: bool) -> Mapping[str, Any]:
    side, _, number = case.rpartition(":")
    return (
        real(int(number), folder) if side == "real" else idle(side, int(number), folder, tracking)
    )


def _machine() -> dict[str, Any]:
    import ray  # noqa: TID251 - what the harness is held against

    return {
        "ray": ray.__version__, "python": platform.python_version(), "cpus": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }  # fmt: skip


if __name__ == "__main__":
    main()
