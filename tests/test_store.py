"""The store, and what is made through it: once, whole, and never taken for something else."""

import json
import multiprocessing
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from attacks.badnets import BadNets
from attacks.gradient_matching import GradientMatching
from defenses import puregen_ebm
from defenses.jpeg import Jpeg
from defenses.puregen_ebm import PuregenEbm
from harness.artifacts import LABEL, Store
from harness.core import code
from harness.core.code import code_digest
from harness.core.data import ImageSet, PoisonedSet
from harness.core.errors import DataError, NoEffect
from harness.core.protocols import ATTACKS, DEFENSES, Bounds
from harness.core.registry import Entry
from harness.core.seeds import stream
from harness.core.spec import Seeds, TrialSpec
from harness.poisons import check_poison, pack, unpack
from harness.units import units_of
from harness.work import make_unit
from harness.workshop import Workshop
from tests.store_functions import read, slowly
from tests.tiny import EBM, add_distribution, component, workshop

KEY = {"kind": "text", "seed": 0}


DEFENSE = '''
    """A defense from outside."""
    from dataclasses import dataclass
    import numpy as np
    from harness.core.data import ImageSet
    @dataclass(frozen=True)
    class It:
        """It."""
        rowwise = {rowwise}
        example = {{}}
        def check(self, train): pass
        def purify(self, train, rng):
            return {result}
        def hooks(self): return {hooks}
'''
SAME, FEWER = "train", "train.take(np.arange(len(train) - 1))"
RELABELLED = "ImageSet(train.images // 2, train.labels * 0, train.ids, train.num_classes)"
INVENTED = "ImageSet(train.images, train.labels, train.ids + 1, train.num_classes)"
SMALLER = "train.with_images(train.images[:, :, ::2])"
ANY = {"rowwise": False, "result": FEWER, "hooks": ()}


def write(text: str):
    return lambda folder: (folder / "text").write_text(text)


def broken(folder: Path) -> None:
    raise AssertionError("made although it is there")


# One artefact


def test_made_once_and_then_recalled(tmp_path) -> None:
    store = Store(tmp_path)
    assert not store.has(KEY)
    text, made = store.recall(KEY, write("a"), read)
    assert (text, made.reused) == ("a", False)
    text, again = store.recall(KEY, broken, read)
    assert (text, again.reused, again.seconds) == ("a", True, made.seconds)
    other, _ = store.recall({**KEY, "seed": 1}, write("b"), read)
    assert other == "b"


def test_two_processes_at_once_and_one_that_is_killed(tmp_path) -> None:
    spawn, log, half = multiprocessing.get_context("spawn"), tmp_path / "log", {**KEY, "seed": 9}
    processes = {}
    for text, key in (("one", KEY), ("two", KEY), ("die", half)):
        arguments = (str(tmp_path / "store"), key, str(log), text)
        processes[text] = spawn.Process(target=slowly, args=arguments)
        processes[text].start()
    for process in processes.values():
        process.join()
    assert [p.exitcode for p in processes.values()] == [0, 0, -signal.SIGKILL]
    store = Store(tmp_path / "store")
    [winner] = set(log.read_text().split()) - {"die"}
    assert store.recall(KEY, broken, read)[0] == winner
    assert not store.has(half)
    assert store.recall(half, write("whole"), read)[0] == "whole"


def test_a_make_that_fails_leaves_nothing(tmp_path) -> None:
    def fails(folder: Path) -> None:
        (folder / "text").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        Store(tmp_path).recall(KEY, fails, read)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name == "text"]
    assert Store(tmp_path).recall(KEY, write("a"), read)[0] == "a"


def damage_file(folder: Path) -> None:
    (folder / "text").write_text("b")


def damage_label(folder: Path) -> None:
    (folder / LABEL).write_text("{")


def take_file_away(folder: Path) -> None:
    (folder / "text").unlink()


def put_under_another_key(folder: Path) -> None:
    label = json.loads((folder / LABEL).read_text())
    label["key"]["seed"] = 1
    (folder / LABEL).write_text(json.dumps(label))


@pytest.mark.parametrize(
    "damage", [damage_file, damage_label, take_file_away, put_under_another_key]
)
def test_what_is_not_what_was_stored_is_refused(tmp_path, damage) -> None:
    store = Store(tmp_path)
    store.recall(KEY, write("a"), read)
    damage(store.folder(KEY))
    with pytest.raises(DataError, match=f"remove this folder.*|{store.folder(KEY)}"):
        store.recall(KEY, broken, broken)


def test_one_that_lost_its_label_is_made_again(tmp_path) -> None:
    store = Store(tmp_path)
    store.recall(KEY, write("a"), read)
    (store.folder(KEY) / LABEL).unlink()
    assert store.recall(KEY, write("b"), read)[0] == "b"


# Poisons


def data_of(shop: Workshop, train: int = 60):
    return shop.dataset(component("dataset", {"name": "shapes", "train": train, "test": 30}))


def assert_same(a: PoisonedSet, b: PoisonedSet) -> None:
    assert a.train.digest == b.train.digest
    assert a.poison_ids.tolist() == b.poison_ids.tolist()
    assert (a.goal, a.details) == (b.goal, b.details)
    for one, other in zip(a.probes, b.probes, strict=True):
        assert (one.name, one.images.digest) == (other.name, other.images.digest)
        np.testing.assert_array_equal(one.adv_labels, other.adv_labels)
    if a.trigger is None:
        assert b.trigger is None
    else:
        np.testing.assert_array_equal(a.trigger, b.trigger, strict=True)


def test_poisons_go_through_the_store_with_probes_trigger_and_details(tmp_path) -> None:
    trigger = tmp_path / "trigger.npy"
    np.save(trigger, stream(0).uniform(-0.06, 0.06, (1, 3, 32, 32)).astype(np.float32))
    raw = {"name": "narcissus", "adv_label": 1, "trigger": str(trigger), "class_share": 0.5}
    attack = component("attack", raw)
    shop = workshop(tmp_path)
    data = data_of(shop)
    crafted = shop.component(ATTACKS, attack).poison(data.train, data.test, stream(0, "attack"))
    first, made = shop.poisoned(data, attack, 0)
    from_memory, again = shop.poisoned(data, attack, 0)
    from_disk, elsewhere = workshop(tmp_path).poisoned(data, attack, 0)
    for one in (first, from_memory, from_disk):
        assert_same(one, crafted)
    assert [m.reused for m in (made, again, elsewhere)] == [False, True, True]
    np.save(trigger, np.zeros((1, 3, 32, 32), np.float32))  # another content under the same name
    with pytest.raises(DataError, match=r"reaches 0\.00 grey levels"):
        workshop(tmp_path).poisoned(data, attack, 0)


def test_details_and_unusual_sets_are_packed_whole() -> None:
    data = workshop(Path("/nowhere")).dataset(component("dataset", {"name": "shapes", "train": 60}))
    crafted = BadNets(adv_label=0).poison(data.train, data.test, stream(0))
    unusual = PoisonedSet(
        crafted.train, crafted.poison_ids, (), "availability", {"a": 0.1, "b": -2.0}
    )
    assert_same(unpack(pack(unusual), data.train), unusual)


def test_the_key_of_poisons_knows_data_seed_and_parameters(tmp_path) -> None:
    shop = workshop(tmp_path)
    attack = component("attack", {"name": "badnets", "adv_label": 0})
    keys = [
        shop.poison_key(data_of(shop), attack, 0),
        shop.poison_key(data_of(shop), attack, 1),
        shop.poison_key(data_of(shop, 61), attack, 0),
        shop.poison_key(data_of(shop), attack.with_params(size_px=4), 0),
    ]
    assert len({shop.store.folder(key) for key in keys}) == 4


def test_the_key_knows_the_components_code(tmp_path, monkeypatch) -> None:
    add_distribution(tmp_path, "defense", "edited", DEFENSE.format(**ANY), "It")
    monkeypatch.syspath_prepend(tmp_path)
    shop, spec = workshop(tmp_path), component("defense", "edited")
    entry = DEFENSES.get("edited")
    assert shop.component_identity(entry, spec)["code"] == entry.code
    with (tmp_path / "outside_edited.py").open("a") as handle:
        handle.write("# another version")
    assert Entry("edited", entry.factory, "", entry.origin).code != entry.code


@pytest.mark.parametrize(
    "line", ["from . import b", "from .b import X", "import pack.b", "from pack import b as other"]
)
def test_the_code_of_a_component_is_all_that_it_imports_of_its_package(
    tmp_path, monkeypatch, line
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "pack"
    folder.mkdir()
    files = {"__init__": "", "a": f"import numpy\n{line}", "b": "from pack import c", "c": "X = 1"}
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    sys.modules.pop("pack", None)
    digests = [code_digest(folder / "a.py", "pack.a")]
    for name in "bca":
        with (folder / f"{name}.py").open("a") as handle:
            handle.write("\n# another version")
        digests.append(code_digest(folder / "a.py", "pack.a"))
    (folder / "d.py").write_text("which nothing imports")
    assert len(set(digests)) == 4 and digests[-1] == code_digest(folder / "a.py", "pack.a")


def test_the_code_of_a_component_is_that_of_the_folders_above_it_too(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in {
        "nest/__init__": "", "nest/attacks/__init__": "", "nest/shared": "",
        "nest/attacks/a": "from nest.shared import x\nfrom ..also import y", "nest/also": "",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.py").write_text(text)
    file = tmp_path / "nest/attacks/a.py"
    digests = {code_digest(file, "nest.attacks.a")}
    for name in ("shared", "also"):
        (tmp_path / f"nest/{name}.py").write_text("# another version")
        digests.add(code_digest(file, "nest.attacks.a"))
    assert len(digests) == 3


def test_the_code_of_a_purification_is_its_network_too() -> None:
    followed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "file_digest", lambda file: followed.append(file.name) or "")
        code_digest(Path(puregen_ebm.__file__), puregen_ebm.__name__)
    assert {"puregen_ebm.py", "_purify.py", "ebm.py", "langevin.py", "noise.py"} <= set(followed)
    assert "params.py" not in followed  # of the harness the protocol's number speaks


CLEAN = ImageSet(
    np.zeros((4, 1, 2, 2), np.uint8), np.zeros(4, np.int64), np.arange(4, dtype=np.int64), 2
)


def as_is(data) -> PoisonedSet:
    return PoisonedSet(data.train, np.empty(0, np.int64), (), "none")


def poisons(*, ids=(0,), rows=(0,), step=2, relabelled=(), order=(0, 1, 2, 3)) -> PoisonedSet:
    images, labels = CLEAN.images.copy(), CLEAN.labels.copy()
    images[list(rows)] += np.uint8(step)
    labels[list(relabelled)] = 1
    train = ImageSet(images, labels, CLEAN.ids, 2).take(order)
    return PoisonedSet(train, np.array(ids, np.int64), (), "availability")


@pytest.mark.parametrize(
    ("crafted", "error", "message"),
    [
        (poisons(rows=()), NoEffect, "changed no row"),
        (poisons(rows=(0, 3)), DataError, "changed 1 rows that are not in poison_ids"),
        (poisons(relabelled=(0, 1)), DataError, "1 rows that are not in poison_ids"),
        (poisons(ids=(0, 1, 2), rows=(0, 1, 2)), DataError, "made 3 poisons; its budget is 2"),
        (poisons(relabelled=(0,)), DataError, "changed 1 labels, and says that it keeps them"),
        (poisons(step=3), DataError, "moved a byte by 3; its bound is 2"),
        (poisons(order=(1, 0, 2, 3)), DataError, "keep the rows and their order"),
        (poisons(order=(0, 1, 2)), DataError, "keep the rows and their order"),
    ],
)
def test_an_attack_is_held_to_what_it_declares(crafted, error, message) -> None:
    check_poison(CLEAN, poisons(), Bounds(rows=2, eps_255=2, keeps_labels=True))
    with pytest.raises(error, match=message):
        check_poison(CLEAN, crafted, Bounds(rows=2, eps_255=2, keeps_labels=True))


# Purified rows


@pytest.mark.parametrize(
    "defense",
    [
        {"name": "jpeg", "quality": 30},
        {"name": "puregen_ebm", "ebm": EBM, "steps": 3},
        {"name": "chain", "parts": ["jpeg", {"name": "puregen_ebm", "ebm": EBM, "steps": 2}]},
    ],
    ids=lambda d: d["name"],
)
def test_purified_block_by_block_is_purified_at_once(tmp_path, monkeypatch, defense) -> None:
    monkeypatch.setattr("harness.workshop.purified.BLOCK", 48)
    shop, spec = workshop(tmp_path), component("defense", defense)
    data = data_of(shop, 110)
    poisoned, _ = shop.poisoned(data, component("attack", {"name": "badnets", "adv_label": 2}), 0)
    pieces, made = shop.purified(data, poisoned, spec, 5)
    whole = shop.component(DEFENSES, spec).purify(poisoned.train, stream(5, "defense"))
    assert pieces.digest == whole.digest
    assert len(shop.blocks(data.train)) == 3
    again, reused = workshop(tmp_path).purified(data, poisoned, spec, 5)
    assert again.digest == whole.digest
    assert (made.reused, reused.reused) == (False, True)
    clean, _ = shop.purified(data, as_is(data), spec, 5)
    untouched = ~np.isin(data.train.ids, poisoned.poison_ids)
    np.testing.assert_array_equal(clean.images[untouched], pieces.images[untouched])


@pytest.mark.parametrize(
    ("name", "rowwise", "result", "hooks", "message"),
    [
        ("same_row", True, SAME, (), "changed no byte and dropped no row"),
        ("same_set", False, SAME, (), "changed no byte and dropped no row"),
        ("fewer_row", True, FEWER, (), "is row-wise, and did not keep the rows"),
        ("relabels", False, RELABELLED, (), "changed labels"),
        ("invents", False, INVENTED, (), "made up rows"),
        ("smaller", False, SMALLER, (), "changed the images' shape"),
        ("fewer_set", False, FEWER, (), ""),
        ("hooks_row", True, SAME, ("h",), ""),
    ],
)
def test_a_defense_is_held_to_its_rules(
    tmp_path, monkeypatch, name, rowwise, result, hooks, message
) -> None:
    source = DEFENSE.format(rowwise=rowwise, result=result, hooks=hooks)
    name = f"ruled_{name}"  # no other test's
    add_distribution(tmp_path, "defense", name, source, "It")
    monkeypatch.syspath_prepend(tmp_path)
    shop = workshop(tmp_path)
    data = data_of(shop)
    if message:
        with pytest.raises(DataError if "no byte" not in message else NoEffect, match=message):
            shop.purified(data, as_is(data), component("defense", name), 0)
    else:
        purified, _ = shop.purified(data, as_is(data), component("defense", name), 0)
        assert len(purified) == len(data.train) - (result == FEWER)


def test_the_published_defenses_are_built_from_their_specs(tmp_path) -> None:
    shop = workshop(tmp_path)
    jpeg = shop.component(DEFENSES, component("defense", {"name": "jpeg", "quality": 30}))
    assert jpeg == Jpeg(quality=30)
    spec = component("defense", {"name": "puregen_ebm", "ebm": EBM, "steps": 3})
    built = shop.component(DEFENSES, spec)
    assert isinstance(built, PuregenEbm)
    assert built.ebm is shop.component(DEFENSES, spec).ebm  # trained once, read once


def test_an_oracle_is_told_and_nobody_else_is(tmp_path) -> None:
    shop = workshop(tmp_path)
    data, spec = data_of(shop, 110), component("defense", "perfect_filter")
    poisoned, _ = shop.poisoned(data, component("attack", {"name": "badnets", "adv_label": 2}), 0)
    assert not shop.has_purified(data, poisoned, spec, 0)
    kept, _ = shop.purified(data, poisoned, spec, 0)
    assert set(data.train.ids) - set(kept.ids) == set(poisoned.poison_ids)
    assert shop.has_purified(data, poisoned, spec, 0)
    clean, _ = shop.purified(data, as_is(data), spec, 0)  # nothing to drop is no fault of its own
    assert len(clean) == len(data.train)
    everything = PoisonedSet(poisoned.train, data.train.ids, (), "availability")
    with pytest.raises(DataError, match="every row is poisoned"):
        shop.purified(data, everything, spec, 0)
    chain = component("defense", {"name": "chain", "parts": ["jpeg", "perfect_filter"]})
    with pytest.raises(DataError, match="an oracle stands alone"):
        shop.purified(data, poisoned, chain, 0)


def test_tries_are_units_of_their_own_and_the_best_is_kept(tmp_path) -> None:
    raw = {"name": "gradient_matching", **GradientMatching.example, "target": 1}
    spec, shop = component("attack", raw), workshop(tmp_path)
    data = data_of(shop, 110)
    trial = TrialSpec(
        component("dataset", {"name": "shapes", "train": 110, "test": 30}),
        component("scenario", "from_scratch"), spec, component("defense", "none"),
        component("classifier", "hlb_xs"), Seeds(),
    )  # fmt: skip
    units = units_of([trial], shop, {})
    assert [(u.stage, u.wave) for u in units] == [
        ("networks", 0), ("tries", 1), ("tries", 1), ("poisons", 2),
    ]  # fmt: skip
    for unit in units[:3]:
        assert not unit.there(shop)
        make_unit({"store": str(shop.store.root), "device": "cpu", **unit.payload})
        assert unit.there(shop)
    tries = [shop.attempt(data, spec, 0, n) for n in range(2)]
    assert all(made.reused for _, made in tries)
    losses = [crafted.details["matching_loss"] for crafted, _ in tries]
    assert losses[0] != losses[1]
    kept, _ = shop.poisoned(data, spec, 0)
    assert kept.details["matching_loss"] == min(losses)
    alone = shop.component(ATTACKS, spec).poison(data.train, data.test, stream(0, "attack"))
    assert kept.train.digest == alone.train.digest
    shutil.rmtree(shop.store.root / "try")
    assert all(unit.there(shop) for unit in units)


def test_an_attack_and_a_defense_of_one_name_are_two(tmp_path) -> None:
    shop = workshop(tmp_path)
    attack, defense = (
        shop.component_identity(registry.get("none"), component(registry.kind, "none"))
        for registry in (ATTACKS, DEFENSES)
    )
    assert attack["code"] != defense["code"]
