"""Reading a run folder: what is there, what is missing, what is broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.report.collect import read_run, to_frame
from tests.report_runs import outcome, record, write_run


def test_reads_records_in_the_order_of_the_study(tmp_path: Path) -> None:
    records = [record(defense=f"ebm steps={n}") for n in (100, 50, 5)]
    planned = [{"spec_id": r.spec_id, "labels": r.labels} for r in records]
    planned.append({"spec_id": "never-ran", "labels": {}})
    run = read_run(write_run(tmp_path / "run", records, {"name": "s", "trials": planned}))
    assert [t.record for t in run.trials] == records
    assert run.missing == ("never-ran",)
    assert run.study.name == "s"


def test_without_a_study_numbers_in_labels_are_in_order(tmp_path: Path) -> None:
    records = [record(defense=f"ebm steps={n}") for n in (100, 5, 50)]
    run = read_run(write_run(tmp_path / "run", records))
    assert [t.defense for t in run.trials] == ["ebm steps=5", "ebm steps=50", "ebm steps=100"]
    assert run.missing == () and not run.partial


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("half.json", '{"schema": 1, "spec', "no record of schema 1"),
        ("old.json", '{"schema": 0}', "another schema"),
        ("copy.json", None, "holds the record of trial"),
        ("bytes.json", b"\xff\xfe", "decode"),
    ],
)
def test_a_broken_record_is_listed(
    tmp_path: Path, name: str, text: str | bytes | None, why: str
) -> None:
    good = record()
    folder = write_run(tmp_path / "run", [good])
    content = good.to_json() if text is None else text
    file = folder / "records" / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    run = read_run(folder)
    assert [t.record for t in run.trials] == [good]
    assert [p.file for p in run.problems] == [f"records/{name}"]
    assert why in run.problems[0].error
    assert str(tmp_path) not in run.problems[0].error


def test_counts_that_contradict_each_other_are_a_broken_record(tmp_path: Path) -> None:
    wrong = record("badnets", goal="triggered", target=0, probes={"x1": (11, 10)})
    run = read_run(write_run(tmp_path / "run", [record(), wrong]))
    assert len(run.trials) == 1
    assert "counts 11 of 10 for probe 'x1'" in run.problems[0].error


@pytest.mark.parametrize("study", ["[1, 2]", "{", '{"trials": 7, "partial": "no", "title": null}'])
def test_an_odd_study_file_is_no_obstacle(tmp_path: Path, study: str) -> None:
    folder = write_run(tmp_path / "run", [record()])
    (folder / "study.json").write_text(study)
    run = read_run(folder)
    assert len(run.trials) == 1
    assert run.study.title == "" and run.study.planned == () and not run.partial


def test_partial_by_study_or_by_record(tmp_path: Path) -> None:
    assert read_run(write_run(tmp_path / "a", [record()], {"partial": True})).partial
    assert read_run(write_run(tmp_path / "b", [record(partial=True)])).partial


def test_no_such_run_names_the_nearest(tmp_path: Path) -> None:
    write_run(tmp_path / "quickstart", [record()])
    with pytest.raises(UsageError, match="Did you mean 'quickstart'"):
        read_run(tmp_path / "quikstart")


def test_a_run_without_a_readable_record_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [])
    with pytest.raises(UsageError, match=r"holds no record; allowed: .*records/\*\.json"):
        read_run(folder)
    (folder / "records" / "x.json").write_text("{}")
    with pytest.raises(UsageError, match=r"First of the unreadable ones: x\.json"):
        read_run(folder)


def test_frame_has_one_row_per_trial_and_probe(tmp_path: Path) -> None:
    records = [
        record("narcissus", goal="triggered", target=2, probes={"x1": (30, 90), "x2": (60, 90)}),
        record(floors=[outcome("x1", 1, 90, "narcissus", 2)]),
        record("ntga", goal="availability", victim=3),
    ]
    frame = to_frame(read_run(write_run(tmp_path / "run", records)).trials)
    assert len(frame) == 4
    attacked = frame[frame["attack"] == "narcissus"]
    assert list(attacked["probe"]) == ["x1", "x2"]
    assert list(attacked["success"]) == [30 / 90, 60 / 90]
    assert list(frame[frame["attack"] == "none"]["probe_attack"]) == ["narcissus"]
    lone = frame[frame["attack"] == "ntga"].iloc[0]
    assert lone["natural_accuracy"] == 0.75 and lone["seed_victim"] == 3
    assert lone["probe"] is None or lone.isna()["probe"]


def test_a_record_without_labels_goes_by_its_components(tmp_path: Path) -> None:
    bare = record("badnets", "jpeg quality=25", labels={})
    trial = read_run(write_run(tmp_path / "run", [bare])).trials[0]
    assert (trial.attack, trial.defense, trial.dataset) == ("badnets", "jpeg", "cifar10_mini")


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    # The helper's records are what the harness writes: the contract of this package.
    raw = json.loads(record("badnets", goal="triggered", probes={"x1": (1, 2)}).to_json())
    assert raw["outcomes"][0]["successes"] == 1 and raw["schema"] == 1
