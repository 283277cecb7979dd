"""Defenses that differ in how far they walk along a chain: one walk, the bytes of many."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from defenses.puregen_ebm import PuregenEbm
from defenses.puregen_reps import PuregenReps
from generative.checkpoints import save_ebm
from generative.ddpm import DDPM
from generative.ebm import EBM, EBMConfig, FoldedEnergy
from generative.unet import UNetConfig
from harness.core.device import ALIKE_ROWS
from harness.core.files import file_digest
from harness.core.seeds import stream
from harness.datasets.shapes import Shapes
from harness.estimate import overview
from harness.execution import InProcess
from harness.making import make_units
from harness.plan import Plan, make_plan
from harness.progress import Progress
from harness.study import StudySpec, read_study
from harness.units import Unit
from harness.work import make_unit
from tests.tiny import workshop, write_study

STEPS = [2, 4, 9]
ROWS, POISONS = 30, 6  # of the study, in one block
DATA = {"name": "shapes", "train": ROWS, "test": 20}
TRAIN = Shapes(train=23, test=10).load().train
SMALL = UNetConfig(
    block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8, sample_size=32,
    down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
)  # fmt: skip


def energy() -> EBM:
    torch.manual_seed(0)
    return EBM(EBMConfig(nf=4)).eval()


def filled(rows: int) -> int:
    """Rows in flight: the last batch is filled up."""
    return -(-rows // ALIKE_ROWS) * ALIKE_ROWS


@pytest.fixture(scope="module")
def networks() -> tuple[EBM, DDPM]:
    torch.manual_seed(0)
    return energy(), DDPM(SMALL, horizon=20)


@pytest.mark.parametrize("name", ["ebm", "reps"])
def test_what_a_chain_passes_is_what_each_value_gives_alone(networks, name: str) -> None:
    ebm, ddpm = networks
    # Batches of 11: the last of 23 rows is alone.
    defense: Any = PuregenEbm(ebm=ebm, temperature=1e-3, batch_size=11)
    values = [1, 3, 18]  # more than a draw of noise holds
    if name == "reps":
        defense = PuregenReps(ebm=ebm, ddpm=ddpm, ebm_steps=2, ddpm_steps=2, batch_size=11)
        values = [1, 2, 4]
    passed = list(defense.snapshots(TRAIN, stream(1, "defense"), values))
    for value, rows in zip(values, passed, strict=True):
        alone = replace(defense, **{defense.snapshots_over: value})
        wanted = alone.purify(TRAIN, stream(1, "defense"))
        assert np.array_equal(rows.images, wanted.images)
        assert np.array_equal(rows.ids, wanted.ids)
    assert len({rows.digest for rows in passed}) == len(values)


@pytest.fixture
def calls(monkeypatch) -> Iterator[list[int]]:
    """Rows of each call of the energy network's gradient, in this process."""
    seen: list[int] = []
    gradient = FoldedEnergy.input_gradient

    def counted(self: FoldedEnergy, x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return gradient(self, x)

    monkeypatch.setattr(FoldedEnergy, "input_gradient", counted)
    yield seen


def reference(place: Path) -> dict[str, str]:
    """Write the energy network, the same each time, and return what a study says of it."""
    save_ebm(place / "ebm", energy(), {})
    return {"path": str(place / "ebm")}


def study_of(place: Path, steps: list[int], **changes: Any) -> StudySpec:
    grid = {"steps": steps}
    defense = {"name": "puregen_ebm", "ebm": reference(place), "grid": grid}
    return read_study(write_study(place, **{"dataset": DATA, "defenses": [defense], **changes}))


def make(place: Path, steps: list[int], executor: Any = None) -> set[str]:
    """Make what the study's trials need, and return the ids of those that cannot run."""
    study, shop = study_of(place, steps), workshop(place)
    plan = make_plan(study, shop)
    wanted = {t.spec_id for t in plan.trials}
    lost = make_units(
        plan.units, wanted, shop, executor or InProcess(), study.resources, Progress.silent(), []
    )
    return set(lost.doomed)


def purified(folder: Path) -> dict[str, str]:
    """Digest of each artefact of purified rows, by its folder's name, which is its key."""
    return {p.parent.name: file_digest(p) for p in folder.glob("store/purified/*/rows.npz")}


def seconds(plan: Plan, folder: Path) -> dict[int, float]:
    """What the store says each number of steps took, for the clean rows."""
    unit = plan.of_stage("clean rows", {t.spec_id for t in plan.trials})[0]
    shop = workshop(folder)
    found = {}
    for part in unit.parts:
        assert part.key is not None
        _, made = shop.store.recall(part.key, no_make, lambda _: None)
        found[part.payload["defense"]["steps"]] = made.seconds
    return found


def no_make(folder: Path) -> None:
    raise AssertionError(folder)


def purifying(plan: Plan) -> list[Unit]:
    return [u for u in plan.units if u.purifies]


def test_a_sweep_costs_its_longest_chain_and_stores_what_separate_runs_store(
    tmp_path: Path, calls: list[int]
) -> None:
    make(tmp_path / "sweep", STEPS)
    assert sum(calls) == max(STEPS) * (filled(ROWS) + filled(POISONS))
    calls.clear()
    for count in STEPS:
        make(tmp_path / "alone", [count])
    assert sum(calls) == sum(STEPS) * (filled(ROWS) + filled(POISONS))
    assert purified(tmp_path / "sweep") == purified(tmp_path / "alone")
    assert len(purified(tmp_path / "sweep")) == 2 * len(STEPS)


def test_each_snapshot_is_charged_for_the_chain_up_to_it(tmp_path: Path, monkeypatch) -> None:
    gradient = FoldedEnergy.input_gradient

    def slow(self: FoldedEnergy, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return gradient(self, x)

    monkeypatch.setattr(FoldedEnergy, "input_gradient", slow)
    make(tmp_path, [2, 12])
    took = seconds(make_plan(study_of(tmp_path, [2, 12]), workshop(tmp_path)), tmp_path)
    assert took[2] >= 0.1
    assert took[12] >= took[2] + 0.5


def test_the_plan_shows_one_chain(tmp_path: Path) -> None:
    study = study_of(tmp_path, STEPS)
    plan = make_plan(study, workshop(tmp_path))
    clean, poisoned = purifying(plan)
    assert clean.label == "puregen_ebm steps=9 seed 0 block 0, passing 2, 4"
    assert clean.payload["earlier"] == poisoned.payload["earlier"] == [2, 4]
    # Each of its trials needs it: all but those without a defense.
    assert len(clean.trials) == len(plan.trials) - 2
    console = Console(width=120, record=True, file=StringIO())
    console.print(overview(plan, study))
    assert "one chain    puregen_ebm steps 2, 4, 9" in console.export_text()


def test_chains_part_where_anything_else_differs(tmp_path: Path) -> None:
    grid = {"steps": [3, 7], "temperature": [1e-4, 2e-4]}
    defenses = [{"name": "puregen_ebm", "ebm": reference(tmp_path), "grid": grid}, "jpeg"]
    study = study_of(tmp_path, [], defenses=defenses, seeds=[0, 1])
    plan = make_plan(study, workshop(tmp_path))
    clean = [u for u in purifying(plan) if u.stage == "clean rows"]
    of_ebm = [u for u in clean if u.payload["defense"]["name"] == "puregen_ebm"]
    kinds = {(u.payload["defense"]["temperature"], u.payload["seed"]) for u in of_ebm}
    assert len(of_ebm) == len(kinds) == 4
    assert all(len(u.parts) == 2 for u in of_ebm)
    assert all(not u.parts for u in clean if u not in of_ebm)


def test_only_what_the_store_lacks_is_made(tmp_path: Path, calls: list[int]) -> None:
    make(tmp_path, [4])
    before = purified(tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("store/purified/*/rows.npz")}
    calls.clear()
    make(tmp_path, STEPS)
    assert sum(calls) == 9 * (filled(ROWS) + filled(POISONS))
    assert before.items() < purified(tmp_path).items()
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())
    # Then all but the shortest: the chain goes no further than that one.
    plan = make_plan(study_of(tmp_path, STEPS), workshop(tmp_path))
    clean = purifying(plan)[0].parts[0]
    assert clean.key is not None
    shutil.rmtree(workshop(tmp_path).store.folder(clean.key))
    calls.clear()
    whole = purified(tmp_path)
    make(tmp_path, STEPS)
    assert sum(calls) == 2 * filled(ROWS)
    assert len(purified(tmp_path)) == len(whole) + 1


def test_what_a_chain_passed_before_it_failed_is_kept(tmp_path: Path, monkeypatch) -> None:
    gradient, left = FoldedEnergy.input_gradient, [5]

    def failing(self: FoldedEnergy, x: torch.Tensor) -> torch.Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("no memory")
        return gradient(self, x)

    monkeypatch.setattr(FoldedEnergy, "input_gradient", failing)
    doomed = make(tmp_path, [3, 7])
    assert len(purified(tmp_path)) == 1
    monkeypatch.setattr(FoldedEnergy, "input_gradient", gradient)
    trials = make_plan(study_of(tmp_path, [3, 7]), workshop(tmp_path)).trials
    of_seven = {t.spec_id for t in trials if t.defense.params.get("steps") == 7}
    assert of_seven <= doomed
    assert make(tmp_path, [3, 7]) == set()


def test_another_process_that_has_the_longest_leaves_the_rest_to_do(tmp_path: Path) -> None:
    plan = make_plan(study_of(tmp_path, STEPS), workshop(tmp_path))
    common = {"store": str(tmp_path / "store"), "device": "cpu"}
    clean = purifying(plan)[0]
    make_unit({**common, **clean.parts[-1].payload})
    make_unit({**common, **clean.payload})
    assert clean.there(workshop(tmp_path))
