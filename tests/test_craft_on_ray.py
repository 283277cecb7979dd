"""The same study and seeds give the same poison bytes, by however many workers they are made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from harness.core.protocols import ATTACKS
from tests.tiny import write_study

NAMES = ("narcissus", "gradient_matching", "bullseye_polytope", "ntga", "badnets")
CHECKOUT = Path(__file__).resolve().parents[1]


def crafted(folder: Path, study: Path, *how: str) -> dict[str, dict[str, bytes]]:
    """Craft in a process of its own; return the arrays of each artefact, by its key."""
    store = folder / "-".join(how).strip("-")
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "harness", "craft", str(study), "--store", str(store), *how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for path in sorted((store / "poison").glob("*/poison.npz")):
        with np.load(path) as arrays:
            found[path.parent.name] = {name: arrays[name].tobytes() for name in arrays.files}
    return found


def test_poisons_do_not_depend_on_who_makes_them(tmp_path) -> None:
    examples = {name: ATTACKS.get(name).factory for name in NAMES}
    attacks = [
        {"name": name, **{k: v for k, v in a.example.items() if k != a.target_field}}
        for name, a in examples.items()
    ]
    dataset = {"name": "shapes", "train": 200, "test": 60}
    study = write_study(tmp_path, dataset=dataset, attacks=attacks, targets=[0, 1])
    alone = crafted(tmp_path, study, "--in-process")
    assert len(alone) == 2 * (len(NAMES) - 1) + 1  # ntga has no target
    assert crafted(tmp_path, study, "--cpus", "1") == alone
    assert crafted(tmp_path, study, "--cpus", "2") == alone
