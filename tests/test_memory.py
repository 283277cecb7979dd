"""What a process keeps in memory of what it has read, and what it gives back."""

import gc
import json
import os
import platform
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from generative.checkpoints import save_ebm
from generative.ebm import EBM as EnergyNetwork
from generative.ebm import EBMConfig
from harness.cluster.worker import begin
from harness.core.errors import DataError
from harness.core.records import TrialRecord
from harness.recent import Recent
from harness.run import run_study
from harness.study import Resources, read_study
from harness.training import fit
from harness.work import workshop_for, workshop_of
from harness.workshop import networks, poisons
from tests.tiny import EBM, component, in_process, run, workshop, write_study

SHAPES: dict[str, Any] = {"name": "shapes", "train": 60, "test": 30}


def network(width: int, seed: int = 0) -> dict[str, Any]:
    """Return a reference to a network of about 6,500 bytes times the square of the width."""
    spec = component("classifier", {"name": "resnet9", "width": width, "recipe": {"epochs": 1}})
    data = component("dataset", SHAPES)
    return {**spec.to_json(), "dataset": data.to_json(), "seed": seed}


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with each training of a network."""
    begun: list[int] = []
    monkeypatch.setattr(networks, "fit", lambda *a, **k: begun.append(1) or fit(*a, **k))
    return begun


def test_what_was_not_asked_for_for_longest_goes_first() -> None:
    made: list[str] = []
    recent = Recent(6, len)

    def get(name: str) -> str:
        return recent.get(name, lambda: made.append(name) or name)

    for name in ("aa", "bb", "aa", "ccc"):
        assert get(name) == name
    assert ("aa" in recent, "bb" in recent, "ccc" in recent) == (True, False, True)
    get("larger than room")  # is needed all the same, alone
    assert ("aa" in recent, "larger than room" in recent) == (False, True)
    get("aa")
    assert made == ["aa", "bb", "ccc", "larger than room", "aa"]


def test_networks_that_were_not_used_lately_are_freed_and_read_again(
    tmp_path, monkeypatch, trainings
) -> None:
    monkeypatch.setattr(networks, "KEPT_NETWORK_BYTES", 250_000)
    shop, images = workshop(tmp_path), workshop(tmp_path).dataset(component("dataset", SHAPES))
    first = shop.resource("classifier", network(4, seed=0))
    said = first.logits(images.test.images)
    weights, held = weakref.ref(first.model), first
    shop.resource("classifier", network(4, seed=1))
    assert shop.resource("classifier", network(4, seed=0)) is first  # there is room for two
    shop.resource("classifier", network(8))
    del first
    gc.collect()
    assert weights() is held.model  # whoever uses it keeps it
    del held
    gc.collect()
    assert weights() is None
    assert len(trainings) == 3
    again = shop.resource("classifier", network(4, seed=0))
    assert len(trainings) == 3
    assert (again.logits(images.test.images) == said).all()


def test_generators_and_published_networks_are_freed_as_well(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(networks, "KEPT_NETWORK_BYTES", 0)
    shop = workshop(tmp_path)
    spec = component("defense", {"name": "puregen_ebm", "steps": 1, "ebm": EBM})
    ebm = shop.resource("generator", spec.params["ebm"])
    published = next((tmp_path / "store" / "generator").glob("*/model.safetensors")).parent
    gone = [weakref.ref(ebm)]
    del ebm
    gone.append(weakref.ref(shop.resource("generator", {"name": "ebm", "path": str(published)})))
    shop.resource("classifier", network(4))
    gc.collect()
    assert [one() for one in gone] == [None, None]


def test_a_dataset_goes_with_its_blocks_and_keeps_its_identity(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(networks, "KEPT_DATASETS", 1)
    shop, spec = workshop(tmp_path), component("dataset", SHAPES)
    data = shop.dataset(spec)
    assert shop.blocks(data.train) is shop.blocks(data.train)
    identity = shop.identity("dataset", spec.to_json())
    gone = [weakref.ref(x) for x in (data, data.train, shop.blocks(data.train)[0])]
    shop.dataset(component("dataset", {**SHAPES, "train": 80}))
    del data
    gc.collect()
    assert [one() for one in gone] == [None, None, None]
    with monkeypatch.context() as patch:
        patch.setattr(networks, "load_dataset", None)  # a digest is not worth reading it again
        assert shop.identity("dataset", spec.to_json()) == identity


def test_records_do_not_depend_on_what_is_kept(tmp_path, monkeypatch) -> None:
    narcissus = {
        "name": "narcissus", "class_share": 0.5, "eps_255": 16, "surrogate": network(4),
        "pood": SHAPES, "search": {"class_epochs": 1, "warmup_epochs": 0, "steps": 40},
    }  # fmt: skip
    study: dict[str, Any] = {
        "attacks": [narcissus, {"name": "badnets", "budget": 0.2, "size_px": 6}],
        "defenses": [
            {"name": "puregen_ebm", "steps": 2, "ebm": EBM},
            {"name": "puregen_ebm", "steps": 2, "ebm": {**EBM, "nf": 16}},
        ],
    }
    found = []
    for room in (2**30, 0):
        monkeypatch.setattr(networks, "KEPT_NETWORK_BYTES", room)
        monkeypatch.setattr(networks, "KEPT_DATASETS", room)
        monkeypatch.setattr(poisons, "KEPT_POISONED_SETS", room)
        folder = tmp_path / str(room)
        summary = run(folder, **study)
        assert not summary.errors
        records = [TrialRecord.read(p) for p in sorted((folder / "run" / "records").iterdir())]
        found.append([(r.spec_id, r.outcomes, r.natural_accuracy, r.curves) for r in records])
    assert len(found[0]) == 9
    assert found[0] == found[1]


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no arenas")
def test_what_a_trials_thread_has_freed_is_given_back_before_the_next_piece(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as this piece does
    kept: list[bytearray] = []

    def trial() -> None:
        blocks = [bytearray(2**16) for _ in range(2000)]
        kept.extend(blocks[::100])  # so that no part of the thread's heap is free from end to end

    thread = threading.Thread(target=trial)
    thread.start()
    thread.join()
    before = resident_mib()
    begin(Resources(cpus=1))
    assert before - resident_mib() > 60  # of 125


@pytest.mark.parametrize("kind", ["classifier", "generator"])
def test_a_worker_reads_no_data_for_a_network_that_is_there(tmp_path, monkeypatch, kind) -> None:
    defense = component("defense", {"name": "puregen_ebm", "steps": 2, "ebm": EBM})
    reference = network(4) if kind == "classifier" else defense.params["ebm"]
    driver = workshop(tmp_path)
    driver.prepare(kind, reference)
    told = driver.for_workers()
    assert len(told["outlines"]) == 1
    workshop_of.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(networks, "load_dataset", None)
        worker = workshop_for(json.loads(json.dumps(told)))
        assert worker is not driver and worker.resource(kind, reference) is not None


def test_a_worker_that_sees_other_data_says_so(tmp_path) -> None:
    spec = component("dataset", SHAPES)
    driver = workshop(tmp_path)
    driver.dataset(spec)
    told = driver.for_workers()
    (outline,) = told["outlines"].values()
    outline["digest"] = "another"
    workshop_of.cache_clear()
    worker = workshop_for(told)
    with pytest.raises(DataError, match="dataset 'shapes' is not what was read when the study was"):
        worker.dataset(spec)


def write_inputs(folder: Path, train: int, test: int, weights: int) -> None:
    """Write a dataset and the weights of an energy network, each from a seed."""
    arrays = {}
    for part, seed in (("train", train), ("test", test)):
        rng = np.random.default_rng(seed)
        arrays[f"x_{part}"] = rng.integers(0, 256, (40, 16, 16, 3), np.uint8)
        arrays[f"y_{part}"] = rng.integers(0, 4, 40)
    np.savez(folder / "data.npz", **arrays)
    torch.manual_seed(weights)
    save_ebm(folder / "ebm", EnergyNetwork(EBMConfig(nf=8)), {})


@pytest.mark.parametrize("changed", ["train", "test", "weights"])
def test_what_changed_on_disk_between_two_runs_of_a_process_is_read_anew(tmp_path, changed) -> None:
    seeds = {"train": 0, "test": 1, "weights": 2}
    data = {"name": "npz", "path": str(tmp_path / "data.npz")}
    purified = {"name": "puregen_ebm", "steps": 2, "ebm": {"path": str(tmp_path / "ebm")}}
    path = write_study(tmp_path, dataset=data, defenses=[purified])

    def measured(store: str, name: str) -> list[Any]:
        write_inputs(tmp_path, **seeds)
        shop, folder = workshop(tmp_path / store), tmp_path / name
        assert run_study(read_study(path), shop, folder, in_process).complete
        records = [TrialRecord.read(p) for p in sorted((folder / "records").iterdir())]
        return [(r.spec_id, r.test_correct, r.movement, r.curves) for r in records]

    first = measured("shared", "first")
    seeds[changed] += 10
    second = measured("shared", "second")
    assert second == measured("own", "alone")
    assert second != first
