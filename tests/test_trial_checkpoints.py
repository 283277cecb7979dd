"""A trial that is killed in its training goes on from there, and ends as if it had not been."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.checkpoint import TrainingFile
from harness.core.records import TrialRecord
from harness.core.spec import TrialSpec
from harness.plan import make_plan
from harness.study import read_study
from harness.work import checkpoint_path, do_trials, record_path
from harness.workshop import Workshop
from tests.tiny import workshop, write_study

MEASURED = ("test_correct", "class_correct", "outcomes", "curves", "movement")
STUDY = {
    "classifiers": [
        {"name": "hlb_xs", "widths": [8, 8, 8], "recipe": {"epochs": 5, "lr": 0.1, "crop_pad": 2}}
    ],
    "defenses": [{"name": "jpeg", "quality": 50}, {"name": "random_noise"}],
}


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[TrialSpec], Workshop]:
    monkeypatch.setattr("harness.trial.KEEP_SECONDS", 0.0)
    shop = workshop(tmp_path)
    plan = make_plan(read_study(write_study(tmp_path, **STUDY)), shop)
    return [t for t in plan.trials if t.attack.name != "none"], shop


def payload(run: Path, spec: TrialSpec, shop: Workshop) -> dict[str, Any]:
    trial = {"trial": spec.to_json(), "labels": {}, "names": {}}
    return {
        "store": shop.store.address, "device": "cpu", "run": str(run), "partial": False,
        "trials": [trial],
    }  # fmt: skip


def kept_epochs(monkeypatch: pytest.MonkeyPatch, killed_at: int | None = None) -> list[int]:
    """Note the epochs after which trainings are kept, and die after one of them."""
    epochs: list[int] = []
    keep = TrainingFile.keep

    def noted(self: TrainingFile, model: Any, optimizer: Any, done: int) -> None:
        keep(self, model, optimizer, done)
        epochs.append(done)
        if done == killed_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingFile, "keep", noted)
    return epochs


def test_it_goes_on_from_its_last_epoch(planned, tmp_path: Path, monkeypatch) -> None:
    specs, shop = planned
    spec = next(s for s in specs if s.defense.name == "jpeg")
    undisturbed = payload(tmp_path / "whole", spec, shop)
    assert do_trials(undisturbed) == {"errors": {}}
    stopped = payload(tmp_path / "stopped", spec, shop)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kept_epochs(patch, killed_at=3)
        do_trials(stopped)
    assert checkpoint_path(tmp_path / "stopped", spec.spec_id).is_file()
    with monkeypatch.context() as patch:
        epochs = kept_epochs(patch)
        assert do_trials(stopped) == {"errors": {}}
    assert epochs == [4, 5]
    whole, again = (
        TrialRecord.read(record_path(tmp_path / run, spec.spec_id)) for run in ("whole", "stopped")
    )
    assert [getattr(again, name) for name in MEASURED] == [getattr(whole, n) for n in MEASURED]
    assert len(again.curves["loss"]) == 5
    assert not list((tmp_path / "stopped" / "checkpoints").iterdir())


def test_a_damaged_file_or_that_of_another_trial_is_not_used(
    planned, tmp_path: Path, monkeypatch
) -> None:
    specs, shop = planned
    spec = next(s for s in specs if s.defense.name == "jpeg")
    path = checkpoint_path(tmp_path / "run", spec.spec_id)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half of a fil")
    epochs = kept_epochs(monkeypatch)
    assert do_trials(payload(tmp_path / "run", spec, shop)) == {"errors": {}}
    assert epochs == [1, 2, 3, 4, 5]
    other = replace(spec, seeds=replace(spec.seeds, victim=7))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kept_epochs(patch, killed_at=2)
        do_trials(payload(tmp_path / "run", other, shop))
    checkpoint_path(tmp_path / "run", other.spec_id).rename(path)
    record_path(tmp_path / "run", spec.spec_id).unlink()
    epochs.clear()
    assert do_trials(payload(tmp_path / "run", spec, shop)) == {"errors": {}}
    assert epochs == [1, 2, 3, 4, 5]


def test_what_a_hook_remembers_is_not_kept_so_its_training_begins_anew(
    planned, tmp_path: Path, monkeypatch
) -> None:
    specs, shop = planned
    spec = next(s for s in specs if s.defense.name == "random_noise")
    epochs = kept_epochs(monkeypatch)
    assert do_trials(payload(tmp_path / "run", spec, shop)) == {"errors": {}}
    assert epochs == [] and not (tmp_path / "run" / "checkpoints").exists()


def test_short_trainings_are_not_kept(planned, tmp_path: Path, monkeypatch) -> None:
    specs, shop = planned
    monkeypatch.setattr("harness.trial.KEEP_SECONDS", 30.0)
    spec = next(s for s in specs if s.defense.name == "jpeg")
    assert do_trials(payload(tmp_path / "run", spec, shop)) == {"errors": {}}
    assert not (tmp_path / "run" / "checkpoints").exists()
