"""What a page says besides its numbers: chains, oracles, cost, and the calls that made a run."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import DataError
from harness.core.records import Stage
from harness.flat_record import metrics_of
from harness.report.chains import chain_notes
from harness.report.collect import read_run
from harness.report.components import component_table
from harness.report.effort import effort_table
from harness.report.flags import ORACLE
from harness.report.summary import summarise
from harness.report.trials import Trial
from harness.run_folder import open_run
from harness.run_sessions import session
from tests.report_runs import record, write_run


def walked(steps: int, temperature: float, **given: Any) -> Trial:
    made = record("narcissus", f"puregen_ebm steps={steps}", goal="triggered", **given)
    made.spec["defense"] |= {"steps": steps, "temperature": temperature}
    return Trial.of(made)


def test_defenses_that_differ_in_steps_alone_are_told_as_one_chain() -> None:
    [note] = chain_notes([walked(50, 1e-4), walked(100, 1e-4), walked(70, 2e-4)])
    assert note.startswith("puregen_ebm steps=50, puregen_ebm steps=100: snapshots of one chain")
    assert "steps=70" not in note
    assert chain_notes([walked(50, 1e-4), walked(50, 2e-4)]) == []


def test_an_oracle_is_flagged_and_never_the_best() -> None:
    records = [record("narcissus", d, goal="triggered", target=2, probes={"x1": (hits, 100)})
               for d, hits in {"none": 90, "perfect_filter": 0, "jpeg": 20}.items()]  # fmt: skip
    rows = {r.defense: r for r in summarise([Trial.of(r) for r in records]).rows}
    assert rows["perfect_filter"].flags[-1] == ORACLE and not rows["perfect_filter"].best
    assert ORACLE not in rows["jpeg"].flags and "success" in rows["jpeg"].best


def test_what_trials_share_is_counted_once() -> None:
    seconds = {"poison": 60.0, "purify": 120.0, "train": 30.0}
    cost = {name: Stage(spent, 2048.0) for name, spent in seconds.items()}
    trials = [Trial.of(record("narcissus", d, target=2, victim=v, stages=cost))
              for d in ("jpeg", "puregen_ebm") for v in (0, 1)]  # fmt: skip
    rows = [[e.text for e in row] for row in effort_table(trials).rows]
    assert rows == [
        ["Crafting poisons", "1", "1.0", "2.0"],
        ["Purification", "2", "4.0", "2.0"],
        ["Training classifiers", "4", "2.0", "2.0"],
    ]


def test_memory_of_gpus_has_a_column_where_there_was_one() -> None:
    cost = {"train": Stage(60.0, 1024.0, gpu_peak_mib=1536.0), "evaluate": Stage(6.0, 1024.0)}
    here = Trial.of(record("narcissus", "jpeg", target=2, stages=cost))
    table = effort_table([here])
    assert table.heads[-1].title == "GPU memory (GiB)"
    assert [row[-1].text for row in table.rows] == ["1.5", ""]
    assert metrics_of(here.record)["gpu_peak_mib_train"] == 1536.0
    assert "gpu_peak_mib_evaluate" not in metrics_of(here.record)


def test_of_a_chain_the_longest_alone_is_counted() -> None:
    chains = [(50, 1e-4, 60.0), (100, 1e-4, 120.0), (100, 2e-4, 90.0)]
    trials = [walked(n, t, stages={"purify": Stage(s, 1024.0)}) for n, t, s in chains]
    assert [[e.text for e in row] for row in effort_table(trials).rows] == [
        ["Purification", "2", "3.5", "1.0"]
    ]


def test_components_stand_with_all_parameters_and_their_identity(tmp_path: Path) -> None:
    made = record("narcissus", "jpeg", target=2)
    made.spec["defense"] |= {"quality": 75, "subsampling": "4:2:0"}
    made.spec["attack"] |= {"eps_255": 8, "target": 2}
    run = write_run(tmp_path / "run", [made], {"inputs": {"defense jpeg": "ab" * 32}})
    rows = {e[0].text: [x.text for x in e] for e in component_table(read_run(run)).rows}
    assert rows["defense"][3:] == ["quality: 75, subsampling: '4:2:0'", ("ab" * 32)[:16]]
    assert rows["attack"][3] == "eps_255: 8"  # the target is of each trial
    assert "1,000 test images, 10 classes." in rows["dataset"][2]


def test_a_call_is_noted_however_it_ends_and_the_next_keeps_it(tmp_path: Path) -> None:
    open_run(tmp_path, {"name": "mine"})
    counts = iter((3, 5, 5, 5))
    with (
        pytest.raises(KeyboardInterrupt),
        session(tmp_path, {"cpus": 2}, lambda: next(counts)),
    ):
        raise KeyboardInterrupt
    open_run(tmp_path, {"name": "mine", "title": "A title"})
    with session(tmp_path, {"cpus": 4}, lambda: next(counts)):
        said = json.loads((tmp_path / "study.json").read_text())
        assert "seconds" not in said["sessions"][1]  # what a killed one leaves
    said = json.loads((tmp_path / "study.json").read_text())
    assert said["title"] == "A title"
    assert [(s["cpus"], s["trials"]) for s in said["sessions"]] == [(2, 2), (4, 0)]
    assert all(s["started"].endswith("UTC") and s["seconds"] >= 0 for s in said["sessions"])


def test_a_note_that_a_full_disk_does_not_take_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    open_run(tmp_path, {"name": "mine"})
    with (
        pytest.raises(DataError, match="the record cannot be written"),
        session(tmp_path, {"cpus": 2}, lambda: 3),
    ):
        monkeypatch.setattr("harness.run_sessions.write_text", full)
        raise DataError("the record cannot be written")
    assert "is not noted" in caplog.text and "No space left" in caplog.text
