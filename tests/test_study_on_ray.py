"""One study, in process and on Ray: the same records."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from harness.artifacts import Store
from harness.cluster.executor import RayExecutor
from harness.core.files import file_digest
from harness.core.records import TrialRecord
from harness.execution import InProcess
from harness.making import make_units
from harness.plan import make_plan
from harness.progress import Progress
from harness.run import run_study
from harness.study import read_study
from harness.sweeps import folder as sweeps
from harness.sweeps import path_of
from harness.workshop import Workshop
from tests.tiny import write_study


def records(folder: Path, executor: Any) -> dict[str, TrialRecord]:
    """Run the smoke study with a store of its own and return its records."""
    study = read_study(path_of("smoke"))
    workshop = Workshop(Store(folder / "store"), "cpu")
    summary = run_study(study, workshop, folder / "run", lambda _: nullcontext((executor, None)))
    assert summary.complete and summary.planned == 6
    paths = (folder / "run" / "records").glob("*.json")
    return {path.stem: TrialRecord.read(path) for path in paths}


def measured(record: TrialRecord) -> TrialRecord:
    """A record without what a clock or a machine decides."""
    return record.with_values(stages={}, environment={})


def test_a_study_gives_equal_records_in_process_and_on_ray(local_ray: None, tmp_path: Path) -> None:
    here = records(tmp_path / "here", InProcess())
    there = records(tmp_path / "there", RayExecutor())
    assert here.keys() == there.keys()
    for spec_id, record in here.items():
        assert measured(there[spec_id]) == measured(record)
        assert there[spec_id].environment["threads"] == 1


def snapshots(folder: Path, executor: Any) -> dict[str, str]:
    """Make what a sweep over steps needs; return the digests of the purified rows, by key."""
    ebm = {"path": str(sweeps() / "weights" / "shapes_ebm")}
    defense = {"name": "puregen_ebm", "ebm": ebm, "grid": {"steps": [1, 2]}}
    data = {"name": "shapes", "train": 20, "test": 10}
    study = read_study(write_study(folder, dataset=data, defenses=[defense]))
    workshop = Workshop(Store(folder / "store"), "cpu")
    plan = make_plan(study, workshop)
    wanted = {t.spec_id for t in plan.trials}
    silent = Progress.silent()
    make_units(plan.units, wanted, workshop, executor, study.resources, silent, [])
    rows = folder.glob("store/purified/*/rows.npz")
    return {path.parent.name: file_digest(path) for path in rows}


def test_a_chain_passes_the_same_in_process_and_on_ray(local_ray: None, tmp_path: Path) -> None:
    here = snapshots(tmp_path / "here", InProcess())
    assert snapshots(tmp_path / "there", RayExecutor()) == here
    assert len(here) == 4
