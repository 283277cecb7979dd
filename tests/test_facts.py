"""What a run notes of its components, and what a report takes from there."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.core.facts import Fact, Facts, facts_json
from harness.core.protocols import DEFENSES
from harness.core.registry import Entry
from harness.report.build import build_report
from harness.report.collect import read_run
from harness.report.flags import is_oracle
from harness.verification.verify import verify
from tests.report_runs import record, write_run
from tests.tiny import run, workshop

REPORT = """
import sys
from pathlib import Path
from harness.report.build import build_report
from harness.verification.verify import verify

build_report(Path(sys.argv[1]))
assert verify(Path(sys.argv[1])).discrepancies == ()
loaded = {"torch", "attacks", "defenses", "ray", "mlflow"} & set(sys.modules)
assert not loaded, loaded
"""


def parts_of(folder: Path) -> str:
    """The page's section on what was run."""
    return (folder / "report" / "index.html").read_text().partition('<section id="run">')[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    assert run(folder, defenses=["jpeg", "perfect_filter"]).complete
    return folder


def test_a_run_notes_what_a_report_says_of_its_components(made: Path) -> None:
    said = json.loads((made / "run" / "study.json").read_text())["components"]
    assert list(said) == ["attack", "classifier", "dataset", "defense", "scenario"]
    assert said["defense"]["perfect_filter"]["oracle"] is True
    summary = DEFENSES.get("jpeg").summary
    expected = {"summary": summary, "oracle": False, "chain": None, "target": None}
    assert said["defense"]["jpeg"] == expected
    assert said["attack"]["badnets"]["target"] == "adv_label"


def test_a_report_of_such_a_run_needs_neither_torch_nor_the_components(made: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPORT, str(made / "run")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = parts_of(made / "run")
    assert DEFENSES.get("jpeg").summary in page
    with_torch = verify(made / "run", workshop(made))
    assert with_torch.discrepancies == ()
    oracles = {t.defense for t in read_run(made / "run").trials if is_oracle(t)}
    assert oracles == {"perfect_filter"}


def test_an_oracle_that_is_said_to_be_none_is_found_with_its_code(made: Path) -> None:
    path = made / "run" / "study.json"
    text = path.read_text()
    said = json.loads(text)
    said["components"]["defense"]["perfect_filter"]["oracle"] = False
    try:
        path.write_text(json.dumps(said))
        lines = verify(made / "run", workshop(made)).discrepancies
        assert any(line.startswith("defense perfect_filter: study.json says") for line in lines)
    finally:
        path.write_text(text)


def test_a_plug_in_that_is_gone_still_has_its_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass
    class Sieve:
        """Shakes the images."""

        rowwise = True
        snapshots_over = "shakes"

    entry = Entry("sieve", Sieve, "", __name__)
    monkeypatch.setitem(DEFENSES._entries, "sieve", entry)
    said = facts_json([("defense", "sieve")])
    monkeypatch.delitem(DEFENSES._entries, "sieve")
    folder = write_run(tmp_path / "run", [record(), record(defense="sieve")], {"components": said})
    build_report(folder)
    assert "Shakes the images." in parts_of(folder)
    fact = read_run(folder).study.facts.of("defense", "sieve")
    assert fact == Fact("Shakes the images.", chain="shakes")
    (folder / "study.json").unlink()  # an older run says nothing, and nobody knows it here
    build_report(folder)
    assert "Shakes the images." not in parts_of(folder)


def test_an_older_run_is_asked_for_in_the_registries(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [record(), record(defense="jpeg")], {"name": "old"})
    build_report(folder)
    assert DEFENSES.get("jpeg").summary in parts_of(folder)


def test_what_is_no_fact_is_left_out() -> None:
    fact = {"summary": "It cuts.", "oracle": False, "chain": None, "target": None}
    raw = {"defense": {"cut": fact, "bad": {**fact, "oracle": "no"}, "none": 3}, "attack": [1]}
    assert dict(Facts.from_json(raw).said) == {("defense", "cut"): Fact("It cuts.")}
