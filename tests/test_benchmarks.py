"""The benchmarks run, their forms agree, and they import nothing heavy; no figure is asserted."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_all_benchmarks_run_and_agree(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    command = [
        sys.executable, str(BENCHMARKS / "run_all.py"), "--size", "tiny", "--device", "cpu",
        "--repeats", "1", "--threads", "1", "--no-memory", "--out", str(tmp_path), "--page",
        str(page),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert len(results) == 5
    for result in results:
        assert result["imported"] == []
        for case in result["cases"]:
            assert case["agrees"]
            assert {form["side"] for form in case["forms"]} > {"straightforward"}
            assert all(form["median_s"] > 0 for form in case["forms"])
    assert page.read_text().count("straightforward, ") >= 4
