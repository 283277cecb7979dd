"""Trials trained as one problem: each is what it is alone, and fails alone."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import together, work
from harness.core.protocols import CLASSIFIERS, SCENARIOS
from harness.core.recipe import Recipe
from harness.core.records import TrialRecord
from harness.core.seeds import stream
from harness.core.spec import TrialSpec
from harness.estimate import cheaper
from harness.plan import make_plan
from harness.study import read_study
from harness.together import MOST, groups, run_together
from harness.trial import judge, run_trial
from harness.work import do_trials
from harness.workshop import Workshop
from tests.tiny import run, workshop, write_study

NET = {"name": "hlb_xs", "widths": [16, 32, 32]}
HEAD = {"optimizer": "adam", "lr": 0.02, "epochs": 10, "flip": False, "crop_pad": 0}
STUDY = {
    "scenario": "linear_transfer",
    "dataset": {"name": "shapes", "train": 1000, "train_skip_per_class": 80, "test": 100},
    "classifiers": [
        {
            **NET,
            "recipe": HEAD,
            "pretrained": {
                "recipe": {"epochs": 12, "lr": 0.1, "batch_size": 32, "crop_pad": 2},
                "dataset": {"name": "shapes", "train": 1000, "train_per_class": 80, "test": 20},
            },
        }
    ],
    "attacks": [{"name": "badnets", "budget": 0.05, "size_px": 4}],
    "targets": [0, 1],
    "defenses": [{"name": "jpeg", "quality": 30}, "perfect_filter", {"name": "random_noise"}],
    "seeds": [0],
}
MEASURED = ("test_correct", "class_correct", "outcomes", "curves", "movement", "hooks")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[TrialSpec], Workshop]:
    folder = tmp_path_factory.mktemp("together")
    shop = workshop(folder)
    return list(make_plan(read_study(write_study(folder, **STUDY)), shop).trials), shop


def measured(record: TrialRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in MEASURED}


def test_each_trial_is_what_it_is_alone(planned) -> None:
    specs, shop = planned
    joint = {i: r.record for i, r in run_together(specs, shop, [{}] * len(specs))}
    assert sorted(joint) == list(range(len(specs)))
    for place, spec in enumerate(specs):
        [(_, alone)] = run_together([spec], shop, [{}])
        assert measured(alone.record) == measured(joint[place]), spec.defense
    by_defense = {s.defense.name: joint[i] for i, s in enumerate(specs)}
    assert by_defense["random_noise"].hooks == 1  # acts in the training: trained on images
    assert len(by_defense["random_noise"].curves["loss"]) == HEAD["epochs"]
    assert len(by_defense["jpeg"].curves["loss"]) == 1


def test_a_plan_prices_victims_of_fixed_features_as_one_pass(planned) -> None:
    specs, shop = planned
    times = {s.defense.name: cheaper(s, shop) for s in specs}
    assert times["jpeg"] == times["none"] == 3 * HEAD["epochs"]
    assert times["random_noise"] == 1  # acts in the training: trained on images


def test_the_features_give_nearly_what_the_images_give(planned) -> None:
    specs, shop = planned
    spec = next(s for s in specs if s.attack.name == s.defense.name == "none")
    [(_, fast)] = run_together([spec], shop, [{}])
    slow = run_trial(spec, shop)
    assert fast.record.natural_accuracy > 0.5  # chance: 0.1
    assert abs(fast.record.natural_accuracy - slow.record.natural_accuracy) < 0.05


def test_a_failure_takes_no_other_trial_with_it(planned, monkeypatch: pytest.MonkeyPatch) -> None:
    specs, shop = planned
    some = [s for s in specs if s.defense.name == "jpeg"][:3]
    whole = Workshop.purified

    def broken(self, data, poisoned, defense, seed):
        if poisoned.train is not data.train and len(broken.asked) == 0:
            broken.asked.append(seed)
            raise MemoryError("no room for this one")
        return whole(self, data, poisoned, defense, seed)

    broken.asked = []
    monkeypatch.setattr(Workshop, "purified", broken)
    found = dict(run_together(some, shop, [{}] * 3))
    failed = [r for r in found.values() if isinstance(r, Exception)]
    assert [str(e) for e in failed] == ["no room for this one"]
    assert len(found) == 3


def test_one_that_cannot_be_judged_is_the_only_one_and_none_comes_twice(
    planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs, shop = planned
    some = [s for s in specs if s.defense.name == "jpeg"][:3]

    def broken(prepared, *arguments):
        if prepared.spec == some[1]:
            raise ValueError("no such probe")
        return judge(prepared, *arguments)

    monkeypatch.setattr("harness.together.judge", broken)
    found = list(run_together(some, shop, [{}] * 3))
    assert sorted(place for place, _ in found) == [0, 1, 2]
    assert [str(r) for _, r in found if isinstance(r, Exception)] == ["no such probe"]


class Hungry:
    """Fails as where memory is too small, and says whether a later call finds it given back."""

    def __init__(self) -> None:
        self.kept: weakref.ref[torch.Tensor] | None = None
        self.free = list[bool]()

    def __call__(self, *_: object) -> None:
        if self.kept is not None:
            self.free.append(self.kept() is None)
        held = torch.zeros(1)  # as a network, held by the frame that the error remembers
        self.kept = weakref.ref(held)
        raise MemoryError("no room")


def test_trials_that_had_no_room_together_have_it_alone(
    planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs, shop = planned
    some, hungry = [s for s in specs if s.defense.name == "none"][:2], Hungry()
    monkeypatch.setattr(together, "_train_joint", hungry)
    for _, found in run_together(some, shop, [{}] * 2):
        assert isinstance(found, MemoryError)
        del found
    assert hungry.free == [True, True]


def test_a_trial_that_failed_leaves_its_memory_to_the_next(
    planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs, _ = planned
    hungry = Hungry()
    monkeypatch.setattr(together, "prepare", hungry)
    monkeypatch.setattr(work, "workshop_of", lambda *_: None)
    trials = [{"trial": spec.to_json(), "labels": {}, "names": {}} for spec in specs[:3]]
    payload = {
        "store": "", "device": "cpu", "run": str(tmp_path), "partial": False, "trials": trials,
    }  # fmt: skip
    assert len(do_trials(payload)["errors"]) == 3
    assert hungry.free == [True, True]


def test_a_head_that_diverges_fails_alone(planned) -> None:
    specs, shop = planned
    data = shop.dataset(specs[0].dataset)
    start = shop.start(specs[0].classifier)
    recipe = Recipe(**{**HEAD, "optimizer": "sgd", "lr": 1e30})
    classifier = CLASSIFIERS.get("hlb_xs").factory(widths=(16, 32, 32), recipe=recipe)
    scenario = SCENARIOS.get("linear_transfer").factory()
    with pytest.raises(Exception, match="diverged"):
        scenario.train_many(classifier, start, [data.train], [stream(0, "train")])


def test_pieces_of_work(planned) -> None:
    specs, _ = planned
    pieces = groups(specs)
    assert [s for piece in pieces for s in piece] == specs
    assert max(len(piece) for piece in pieces) <= MOST
    assert len(pieces) < len(specs) / 2


def test_what_a_crash_left_is_not_run_again(tmp_path: Path) -> None:
    summary = run(tmp_path, **{**STUDY, "attacks": ["badnets"], "defenses": ["jpeg"]})
    assert summary.done == summary.planned >= 4
    records = sorted((summary.run / "records").iterdir())
    before = {path: path.stat().st_mtime_ns for path in records}
    lost = records[0]
    again = TrialRecord.read(lost)
    lost.unlink()
    payload = {
        "store": str(tmp_path / "store"), "device": "cpu", "run": str(summary.run),
        "partial": False,
        "trials": [
            {"trial": TrialRecord.read(path).spec if path != lost else again.spec,
             "labels": {}, "names": {}}
            for path in records
        ],
    }  # fmt: skip
    assert do_trials(payload) == {"errors": {}}
    assert measured(TrialRecord.read(lost))["class_correct"] == again.class_correct
    assert all(path.stat().st_mtime_ns == when for path, when in before.items() if path != lost)


def test_shared_images_are_computed_once(planned) -> None:
    specs, shop = planned
    data = shop.dataset(specs[0].dataset)
    scenario = SCENARIOS.get("linear_transfer").factory()
    classifier = CLASSIFIERS.get("hlb_xs").factory(widths=(16, 32, 32), recipe=Recipe(**HEAD))
    rngs = [stream(seed, "train") for seed in (0, 1)]
    one, two = scenario.train_many(
        classifier, shop.start(specs[0].classifier), [data.train] * 2, rngs
    )
    first = one.features.of(data.test.images)
    assert two.features.of(data.test.images) is first
    assert not np.allclose(one.logits(data.test.images), two.logits(data.test.images))
