"""A run's tables against its records: whatever is changed by hand is found, and only that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.core.records import TrialRecord
from harness.report.build import build_report
from harness.verification.tables import wrong_cells
from harness.verification.verify import verify
from tests.tiny import CommandLine, run, workshop


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run with its report."""
    folder = tmp_path_factory.mktemp("made")
    assert run(folder).complete
    build_report(folder / "run")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be tampered with."""
    return shutil.copytree(made / "run", tmp_path / "run")


def attacked(folder: Path) -> Path:
    return next(
        path for path in sorted((folder / "records").glob("*.json"))
        if TrialRecord.read(path).labels == {**TrialRecord.read(path).labels,
                                             "attack": "badnets", "defense": "jpeg"}
    )  # fmt: skip


def wrong(folder: Path) -> tuple[str, ...]:
    return verify(folder).discrepancies


def without_checksums(folder: Path) -> Path:
    """As one who tampers would leave it: the hashes made to fit, or gone."""
    (folder / "report" / "SHA256SUMS").unlink()
    return folder


def change(path: Path, key: str, value: object) -> None:
    raw = json.loads(path.read_text())
    raw[key] = value
    path.write_text(json.dumps(raw))


def test_a_run_as_it_was_made_is_right(made: Path) -> None:
    found = verify(made / "run", workshop(made))
    assert found.discrepancies == ()
    assert found.unchecked == ("figures",)
    assert "4 records against study.json, their ids and themselves" in found.checked
    assert "report/table.tex against the records" in found.checked


@pytest.mark.parametrize("name", ["table.csv", "table.md", "table.tex", "trials.csv", "index.html"])
def test_a_number_changed_in_a_table(folder: Path, name: str) -> None:
    record = TrialRecord.read(attacked(folder))
    share = record.natural_accuracy
    said = str(share) if name.endswith(".csv") else f"{100 * share:.1f}"
    file = without_checksums(folder) / "report" / name
    text = file.read_text()
    assert said in text
    file.write_text(text.replace(said, said.replace("0.", "0.9") if "csv" in name else "99.9", 1))
    lines = wrong(folder)
    assert lines and all(line.startswith(f"report/{name}, ") for line in lines)
    assert "the records give" in lines[0]


def test_the_line_names_row_and_column() -> None:
    derived = "attack,defense,accuracy\nbadnets,none,0.5\nbadnets,ebm,0.25\n"
    [line] = wrong_cells("t.csv", derived.replace("0.25", "0.75"), derived)
    assert line == (
        "t.csv, row 2 (badnets / ebm), column accuracy: says '0.75', the records give '0.25'"
    )
    assert list(wrong_cells("t.csv", derived.replace("0.25", "0.250"), derived)) == []
    [line] = wrong_cells("t.md", "| a | 1.0 |\n", "| a | 2.0 |\n")
    assert line == "t.md, line 1, says '1.0', the records give '2.0'"


def test_a_count_changed_in_a_record(folder: Path) -> None:
    path = attacked(folder)
    change(path, "test_correct", TrialRecord.read(path).test_correct + 1)
    lines = wrong(folder)
    where = f"records/{path.name}"
    assert f"{where}: changed since the report was made (SHA-256 differs)" in lines
    assert any(line.startswith(f"{where}: test_correct is") for line in lines)
    assert any(line.startswith("report/table.csv, row 4 (badnets / jpeg") for line in lines)
    assert any(line.startswith("report/index.html, section results") for line in lines)


def test_a_spec_changed_in_a_record(folder: Path) -> None:
    path = attacked(folder)
    spec = TrialRecord.read(path).spec
    change(path, "spec", {**spec, "defense": {**spec["defense"], "quality": 26}})
    lines = wrong(without_checksums(folder))
    assert f"records/{path.name}: its spec is not the one that its id is the hash of" in lines
    page = [line for line in lines if line.startswith("report/index.html, section run: ")]
    assert any("quality: 26" in line for line in page)
    assert not any(line.startswith("report/table.csv") for line in lines)  # no number differs


def test_a_record_deleted(folder: Path) -> None:
    path = attacked(folder)
    path.unlink()
    lines = wrong(folder)
    assert f"records/{path.name}: named in report/SHA256SUMS and not there" in lines
    missing = f"records/{path.name}: planned, not there, and no report names it as missing"
    assert missing in lines
    assert "report/table.csv, 4 rows, and the records give 3" in lines
    build_report(folder)  # which says what is missing
    assert wrong(folder) == ()


def test_a_record_of_another_run_and_a_broken_one(folder: Path) -> None:
    path = attacked(folder)
    stranger = path.with_name("0123456789ab.json")
    stranger.write_text(path.read_text().replace(path.stem, stranger.stem))
    path.write_text("{")
    lines = wrong(folder)
    assert f"records/{stranger.name}: of no trial of the study" in lines
    assert any(line.startswith(f"records/{path.name}: {path.name} is no record") for line in lines)


def test_data_that_changed_since(made: Path, folder: Path) -> None:
    study = json.loads((folder / "study.json").read_text())
    study["inputs"]["dataset shapes"] = "0" * 64
    (folder / "study.json").write_text(json.dumps(study))
    lines = verify(without_checksums(folder), workshop(made)).discrepancies
    assert "dataset shapes: changed since the run: its code, its data or its weights" in lines
    assert all("section run" in line for line in lines if not line.startswith("dataset shapes"))


def test_verify_from_the_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = CommandLine(monkeypatch, capsys)
    assert cli("verify", folder) == 0
    assert cli.out.splitlines()[-1] == "0 discrepancies"
    sample = next((folder / "samples").iterdir())
    sample.write_bytes(sample.read_bytes()[:-1] + b"x")
    assert cli("verify", folder) == 1
    assert f"WRONG samples/{sample.name}: changed since the report was made" in cli.out
    assert cli("verify", folder.with_name("ran")) == 2
    assert "Did you mean 'run'?" in cli.err
