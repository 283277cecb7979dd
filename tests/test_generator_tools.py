"""What there is of generators, whether one purifies, and what is written of a trajectory."""

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats

from defenses.puregen_ebm import PuregenEbm
from generative.checkpoints import save_ebm
from generative.ddpm import DDPM, SAMPLERS, alpha_bar
from generative.ddpm_checkpoints import save_ddpm
from generative.ebm import EBM, EBMConfig
from generative.unet import UNetConfig
from harness import sweeps
from harness.artifacts import Store
from harness.core.errors import DataError, UsageError
from harness.core.files import file_digest
from harness.core.seeds import stream
from harness.datasets.shapes import Shapes
from harness.generator_check import Measured, noise_losses, verify_generator
from harness.generator_samplers import _differences, compare_samplers
from harness.generator_tools import (
    describe_generator,
    generator_text,
    generators_table,
    generators_used,
    list_generators,
    load_generator,
)
from harness.generator_trajectory import trajectory
from harness.poisons import changed_rows
from tests.report_runs import record, write_run
from tests.tiny import EBM as TINY_EBM
from tests.tiny import CommandLine, component, workshop

COME_WITH_THE_PACKAGE = ["shapes_24px_ebm", "shapes_ebm"]
SHIPPED = sweeps.folder() / "weights" / "shapes_ebm"
SHAPES = "{name: shapes, train: 60, test: 40}"
SMALL = UNetConfig(block_out_channels=(8, 16, 16), norm_num_groups=4, attention_head_dim=8)


def untrained(folder: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_ebm(folder, EBM(EBMConfig(nf=8)), {"name": "ebm", "dataset": {"name": "shapes"}})
    return folder


def ddpm(folder: Path, note: dict) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_ddpm(folder, DDPM(SMALL, horizon=30), note)
    return folder


def noisy_ddpm(folder: Path) -> Path:
    """A noise predictor none of whose weights is zero, as the last ones are before a training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DDPM(SMALL, horizon=30)
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    save_ddpm(folder, model, {"name": "ddpm"})
    return folder


# Which there are


def test_those_in_the_store_and_those_shipped_are_listed(tmp_path: Path) -> None:
    made = workshop(tmp_path)
    made.resource("generator", {**TINY_EBM, "patch_size": 1, "seed": 0})
    broken = tmp_path / "store" / "generator" / "broken"
    broken.mkdir()
    (broken / "artifact.json").write_text("{}")
    found = list_generators(Store(tmp_path / "store"))
    assert [item["origin"] for item in found] == ["store", "store", "shipped", "shipped"]
    here, bad, *shipped = sorted(found[:2], key=lambda i: "error" in i) + found[2:]
    assert (here["kind"], here["dataset"], here["trained"]["nf"]) == ("ebm", "shapes", 8)
    assert here["digest"] == file_digest(Path(here["path"]))
    assert "is no trained generator" in bad["error"]
    assert [item["name"] for item in shipped] == COME_WITH_THE_PACKAGE
    assert [item["parameters"] for item in shipped] == [37_848, 66_848]
    json.dumps(found)
    assert generators_table(found).row_count == 4
    assert [i["name"] for i in list_generators(Store(tmp_path / "none"))] == COME_WITH_THE_PACKAGE


def test_a_description_says_what_it_is_and_on_what_it_was_trained(tmp_path: Path) -> None:
    note = {"name": "ddpm", "dataset": {"name": "npz", "path": "data/pood.npz"}, "seed": 4}
    found = describe_generator(ddpm(tmp_path / "d", note))
    assert (found["kind"], found["dataset"]) == ("ddpm", "npz pood.npz")
    assert found["config"]["horizon"] == 30 and found["trained"]["seed"] == 4
    assert found["parameters"] == sum(p.numel() for p in DDPM(SMALL).parameters())
    assert found["files"]["config.json"] == file_digest(tmp_path / "d" / "config.json")
    text = generator_text(found)
    assert "trained on: npz pood.npz" in text and "horizon: 30" in text


def test_without_a_note_the_files_tell_the_kind(tmp_path: Path) -> None:
    save_ebm(tmp_path / "e", EBM(EBMConfig(nf=8)), {})
    assert load_generator(ddpm(tmp_path / "d", {}))[0] == "ddpm"
    found = describe_generator(tmp_path / "e")
    assert (found["kind"], found["dataset"]) == ("ebm", "unknown")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (None, "", "does not exist"),
        ("config.json", "{", "is no valid configuration"),
        ("model.safetensors", "none", "is no trained generator. ddpm: .* ebm: .*safetensors"),
    ],
)
def test_what_is_no_generator(tmp_path: Path, name, content, why) -> None:
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=why):
        describe_generator(tmp_path if name else tmp_path / "none")


# Whether it purifies

WANTED = {"retention_fine": 0.7, "energy_gap": 1000.0, "psnr_gain": 0.5}


def test_a_trained_network_passes_and_an_untrained_one_fails(tmp_path: Path) -> None:
    good = verify_generator(
        SHIPPED, SHAPES, steps=30, count=12, thresholds=WANTED, digest=file_digest(SHIPPED)
    )
    assert good.ok, good.lines
    bad = verify_generator(
        untrained(tmp_path), SHAPES, steps=30, count=12, thresholds=WANTED, digest="0"
    )
    assert not bad.ok and bad.problems[0].startswith("its digest is")
    assert bad.measured == ()
    bad = verify_generator(tmp_path, SHAPES, steps=30, count=12, thresholds=WANTED)
    failing = {m.name for m in bad.measured if not m.ok}
    assert not bad.ok and {"retention_fine", "energy_gap"} <= failing <= set(WANTED)
    assert any("FAILS retention_fine" in line and "<= 0.7" in line for line in bad.lines)
    values = [{m.name: m.value for m in v.measured} for v in (good, bad)]
    assert values[0]["psnr"] > values[1]["psnr"]
    assert values[0]["feature_distance"] < values[1]["feature_distance"]


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    weights = untrained(tmp_path) / "model.safetensors"
    tensors = load_file(weights)
    tensors["block3.c1.bias"][2] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(DataError, match=r"'block3\.c1\.bias' holds values that are not finite"):
        verify_generator(tmp_path, SHAPES, count=2)


def test_an_artefact_that_is_not_what_was_stored(tmp_path: Path) -> None:
    folder = untrained(tmp_path)
    stored = {"model.safetensors": file_digest(folder / "model.safetensors"), "config.json": "0"}
    (folder / "artifact.json").write_text(json.dumps({"files": stored}))
    found = verify_generator(folder, SHAPES, count=2)
    assert found.problems == ("config.json is not what was stored.",)


def test_a_diffusion_model_is_measured_by_noise_level(tmp_path: Path) -> None:
    path = ddpm(tmp_path, {"name": "ddpm"})
    found = verify_generator(path, SHAPES, steps=5, count=4, thresholds={"loss": 5})
    names = {m.name: m for m in found.measured}
    assert {"loss_t0", "loss_t10", "loss_t25", "loss_t29", "loss", "psnr"} <= set(names)
    assert names["loss"].value == pytest.approx(
        np.mean([m.value for n, m in names.items() if n.startswith("loss_t")])
    )
    with pytest.raises(UsageError, match="Did you mean 'loss_t10'"):
        verify_generator(path, SHAPES, steps=5, count=4, thresholds={"loss_t1O": 1})
    with pytest.raises(DataError, match="horizon of 30"):
        verify_generator(path, SHAPES, steps=31, count=4)


@dataclass
class Knows:
    """A perfect network, or one that says a share of the truth."""

    x0: torch.Tensor
    share: float
    horizon: int = 60

    def noise(self, x: torch.Tensor, t: int) -> torch.Tensor:
        level = alpha_bar(t)
        return self.share * (x - np.sqrt(level) * self.x0) / np.sqrt(1 - level)


def test_noise_losses() -> None:
    x0 = torch.rand(8, 3, 32, 32) * 2 - 1
    assert list(noise_losses(Knows(x0, 1), x0)) == [0, 10, 25, 50, 59]
    assert max(noise_losses(Knows(x0, 1), x0).values()) < 1e-6
    for loss in noise_losses(Knows(x0, 0.5), x0).values():
        assert loss == pytest.approx(0.25, rel=0.02)


def test_what_is_not_finite_keeps_no_bound() -> None:
    assert not Measured("psnr", float("nan")).ok
    assert not Measured("loss", float("inf"), 1).ok
    assert Measured("psnr", 20, 20).ok and not Measured("psnr", 19, 20).ok
    assert Measured("loss", 1, 1).ok and not Measured("loss", 2, 1).ok


# What it does to poisons


def test_a_trajectory_is_written(tmp_path: Path) -> None:
    done = trajectory(SHIPPED, SHAPES, tmp_path, steps=(3, 9), count=6, device="cpu")
    assert {f.name for f in done.files} == {p.name for p in tmp_path.iterdir()}
    assert {
        "trajectory.csv", "trajectory.json", "distances.svg", "energies.png", "images.png"
    } <= {f.name for f in done.files}  # fmt: skip
    assert done.found.pictures is not None and done.found.pictures.shape == (3, 6, 3, 32, 32)
    seen = (done.found.pictures / 255.0 - done.found.pictures[0] / 255.0).reshape(3, 6, -1)
    np.testing.assert_allclose(
        np.linalg.norm(seen, axis=2), done.found.poison_moved, rtol=0.02, atol=1e-6
    )  # but for rounding
    with (tmp_path / "trajectory.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [float(r["steps"]) for r in rows] == [0, 3, 9]
    assert float(rows[2]["poison_moved"]) == pytest.approx(done.found.poison_moved[2].mean())
    error = done.found.poison_moved[2].std(ddof=1) / np.sqrt(6)
    assert float(rows[2]["poison_moved_se"]) == pytest.approx(error, rel=1e-5)
    note = json.loads((tmp_path / "trajectory.json").read_text())
    assert note["generator"]["digest"] == file_digest(SHIPPED)
    assert note["poisons"] == "random ±8/255 pattern" and note["images"] == 6
    assert any("nearer to the clean images" in line for line in done.lines)
    distance = np.sqrt(3072) * 8 / 255  # clipped at black and white, so a little less
    assert done.found.clean_to_poison[0].mean() == pytest.approx(distance, rel=0.05)


def test_poisons_of_a_study_are_purified_as_in_the_study(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    attack = "{name: badnets, adv_label: 0, budget: 0.2, size_px: 6}"
    done = trajectory(
        untrained(tmp_path / "e"), SHAPES, tmp_path / "out", attack=attack, steps=(4,),
        seed=2, device="cpu", store=store,
    )  # fmt: skip
    data = Shapes(train=60, test=40).load()
    made = workshop(tmp_path)
    raw = {"name": "badnets", "adv_label": 0, "budget": 0.2, "size_px": 6}
    poisoned, cost = made.poisoned(data, component("attack", raw), 2)
    assert cost.reused
    rows = changed_rows(data.train, poisoned.train)
    ebm = load_generator(tmp_path / "e")[1]
    purified = PuregenEbm(ebm=ebm, steps=4).purify(poisoned.train.take(rows), stream(2, "defense"))
    moved = (purified.images.astype(float) - poisoned.train.images[rows]) / 255
    expected = np.linalg.norm(moved.reshape(len(rows), -1), axis=1)
    np.testing.assert_allclose(done.found.poison_moved[1], expected, rtol=0.01)  # but for rounding


def test_a_colder_chain_follows_the_energy_more(tmp_path: Path) -> None:
    cold, usual, named = (
        trajectory(
            SHIPPED, SHAPES, tmp_path / name, steps=(40,), count=6, temperature=value, device="cpu"
        ).found
        for name, value in (("cold", 2e-5), ("usual", None), ("named", 1e-4))
    )
    np.testing.assert_array_equal(usual.poison_moved, named.poison_moved)
    assert json.loads((tmp_path / "cold" / "trajectory.json").read_text())["temperature"] == 2e-5
    assert cold.energy_poison is not None and usual.energy_poison is not None
    assert (
        cold.energy_poison[1].mean() < usual.energy_poison[1].mean() < usual.energy_poison[0].mean()
    )


@pytest.mark.parametrize("value", [0.0, -1e-4, float("nan"), float("inf")])
def test_temperatures_that_are_none(tmp_path: Path, value: float) -> None:
    with pytest.raises(UsageError, match="above 0"):
        trajectory(SHIPPED, SHAPES, tmp_path, steps=(2,), count=4, temperature=value, device="cpu")


def test_a_published_trigger_and_a_set_of_poisons(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.full((1, 3, 32, 32), 8 / 127.5, np.float32))
    path = ddpm(tmp_path / "d", {"name": "ddpm"})
    done = trajectory(
        path, SHAPES, tmp_path / "a", trigger=tmp_path / "t.npy", steps=(2,), count=4,
        energy=untrained(tmp_path / "e"), device="cpu",
    )  # fmt: skip
    assert done.unit == "time steps" and done.found.energy_poison is not None
    example = Path(__file__).parents[1] / "attacks" / "_published_example"
    done = trajectory(
        path, "{name: shapes, train: 300, test: 40}", tmp_path / "b", poisons=example,
        steps=(2,), device="cpu",
    )  # fmt: skip
    assert done.found.energy_poison is None
    assert "energies.svg" not in {f.name for f in done.files}
    assert 0 < done.found.clean_to_poison[0].max() <= np.sqrt(3072) * 9 / 255


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"attack": "badnets", "poisons": Path("p")}, "one source of poisons; got attack and pois"),
        ({"attack": "{name: badnets, adv_label: 0}"}, "made in a store"),
        ({"eps_255": 0}, r"1\.\.255; got 0"),
        ({"energy": "ddpm"}, "is no energy network"),
        ({"steps": (31,)}, "horizon of 30"),
        ({"temperature": 1e-4}, "for the Langevin steps"),
    ],
)
def test_what_a_trajectory_refuses(tmp_path: Path, given, why) -> None:
    path = ddpm(tmp_path / "d", {"name": "ddpm"})
    given = {"steps": (2,), **given}
    if "energy" in given:
        given["energy"] = path
    with pytest.raises(UsageError, match=why):
        trajectory(path, SHAPES, tmp_path / "out", count=4, device="cpu", **given)


def test_faster_samplers_are_held_against_the_published_one(tmp_path: Path) -> None:
    path = ddpm(tmp_path / "d", {"name": "ddpm"})
    found = compare_samplers(
        path, "{name: shapes, test: 60}", steps=30, calls=(30, 3), count=48,
        energy=untrained(tmp_path / "e"),
    )  # fmt: skip
    named = {(c.sampler, c.calls): c for c in found[1:]}
    assert len(named) == 2 * len(SAMPLERS)
    assert set(found[0].measures) == {"l2", "pattern_left", "energy_shift"}
    # With other noise it does the same, with all its calls it is itself, without noise it is not.
    assert found[0].accepted and found[0].measures["l2"].mean != found[0].measures["l2"].reference
    itself = named["ancestral", 30]
    assert all(m.mean == m.reference for m in itself.measures.values()) and itself.accepted
    ddim = named["ddim", 30]
    l2 = ddim.measures["l2"]
    assert not ddim.accepted and f"DIFFERS, by {100 * ddim.most:.2g} % at most; l2" in ddim.line
    assert ddim.most >= abs(l2.mean - l2.reference) / l2.reference > 0
    assert itself.most == 0


def test_fewer_calls_of_an_energy_network_are_held_against_single_steps() -> None:
    weights = sweeps.folder() / "weights" / "shapes_ebm"
    found = compare_samplers(
        weights, "{name: shapes, test: 60}", steps=48, calls=(48, 24, 4), temperature=4e-5, count=32
    )
    assert [(c.sampler, c.calls) for c in found] == [
        ("single steps", 48),
        ("single steps", 48),
        ("2 steps per call", 24),
        ("12 steps per call", 4),
    ]
    other, itself, double, coarse = found
    assert other.most < 0.1 and other.measures["l2"].mean != other.measures["l2"].reference
    assert itself.most == 0
    # Two steps per call leave of a pattern what single ones leave; twelve are too many.
    assert double.measures["pattern_left"].mean == pytest.approx(
        double.measures["pattern_left"].reference, rel=0.02
    )
    assert not coarse.accepted and coarse.most > 5 * double.most


@pytest.mark.parametrize("kind", ["ebm", "ddpm"])
def test_bf16_is_held_against_float32(tmp_path: Path, kind: str) -> None:
    weights = sweeps.folder() / "weights" / "shapes_ebm"
    path, steps = (weights, 24) if kind == "ebm" else (noisy_ddpm(tmp_path / "d"), 8)
    given = {"steps": steps, "calls": (steps,), "count": 16, "energy": weights}
    plain = compare_samplers(path, "{name: shapes, test: 20}", **given)
    found = compare_samplers(path, "{name: shapes, test: 20}", bf16=True, **given)
    published = {"ebm": "single steps", "ddpm": "ancestral"}[kind]
    assert [c.sampler for c in found[:2]] == [published, f"{published} in bf16"]
    assert [found[0], *found[2:]] == plain  # where bf16 is emulated, all else is in float32 anyway
    for name in ("l2", "pattern_left"):  # other numbers, but hardly
        measure = found[1].measures[name]
        assert 0 < abs(measure.mean - measure.reference) < 1e-3 * measure.reference


def test_samplers_are_paired_by_image() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(3.0, 1.0, 40)
    after = before + 0.05 + rng.normal(0.0, 0.02, 40)
    found = _differences({"l2": before, "same": before}, {"l2": after, "same": before})
    further = found["l2"]
    # Among images that differ by 1, the 0.05 that each moves further is told all the same.
    assert not further.same and 0.04 < further.low < 0.05 < further.high < 0.07
    wanted = stats.ttest_1samp(after - before, 0).confidence_interval(0.95)
    assert (further.low, further.high) == pytest.approx((wanted.low, wanted.high))
    assert found["same"].same and (found["same"].low, found["same"].high) == (0, 0)
    noisy = _differences({"l2": before}, {"l2": before + rng.normal(0.0, 0.02, 40)})["l2"]
    assert noisy.same


def test_samplers_that_cannot_be_compared(tmp_path: Path) -> None:
    path, ebm = ddpm(tmp_path / "d", {"name": "ddpm"}), untrained(tmp_path / "e")
    with pytest.raises(UsageError, match="must divide the 10 Langevin steps; got 3"):
        compare_samplers(ebm, SHAPES, steps=10, calls=(5, 3))
    with pytest.raises(UsageError, match="for the Langevin steps"):
        compare_samplers(path, SHAPES, temperature=1e-4)
    with pytest.raises(UsageError, match="is no energy network"):
        compare_samplers(path, SHAPES, energy=path)
    with pytest.raises(UsageError, match="horizon of 30"):
        compare_samplers(path, SHAPES, steps=31)
    with pytest.raises(UsageError, match=r"1\.\.30"):
        compare_samplers(path, SHAPES, steps=30, calls=(31,))


def test_on_the_command_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    cli = CommandLine(monkeypatch, capsys)
    weights = sweeps.folder() / "weights" / "shapes_ebm"
    assert cli("generators", "ls", "--store", "store", "--json") == 0
    listed = json.loads(cli.out)
    assert [item["name"] for item in listed] == COME_WITH_THE_PACKAGE
    assert {(item["kind"], item["origin"]) for item in listed} == {("ebm", "shipped")}
    assert cli("generators", "describe", weights) == 0
    assert "shapes" in cli.out
    data = "{name: shapes, train: 60, test: 20}"
    arguments = (weights, "--dataset", data, "--count", 8, "--steps", 4)
    assert cli("generators", "verify", *arguments, "--want", "psnr=20") == 0
    assert cli("generators", "verify", *arguments, "--want", "psnr=99") == 1
    assert "FAILS psnr" in cli.out
    assert cli("generators", "verify", *arguments, "--want", "psnr") == 2
    looks = ("--steps", "2,4", "--out", "followed", "--store", "store")
    assert cli("generators", "trajectory", weights, "--dataset", data, "--count", 4, *looks) == 0
    assert (tmp_path / "followed" / "distances.svg").is_file()
    assert cli("generators", "describ") == 2
    assert "Did you mean 'describe'" in cli.err


def test_no_fid_where_there_is_none_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UsageError, match=r"pip install 'torchmetrics\[image\]'"):
        verify_generator(sweeps.folder() / "weights" / "shapes_ebm", "shapes", fid=True)


def test_the_trials_that_used_a_generator_in_whatever_part(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    defenses = {
        "none": {"name": "none"},
        "ebm": {"name": "puregen_ebm", "ebm": {"path": str(one)}},
        "ebm 2": {"name": "puregen_ebm", "ebm": {"path": str(other)}},
        "chain": {"name": "chain", "parts": [
            {"name": "jpeg"}, {"name": "puregen_ebm", "ebm": {"path": str(one)}},
        ]},
    }  # fmt: skip
    records = {}
    for label, spec in defenses.items():
        records[label] = record("narcissus", label, target=2)
        records[label].spec["defense"] = spec
        records[label].spec["attack"] = {"name": "none"}
    run = write_run(tmp_path / "run", records.values())
    (run / "records" / "broken.json").write_text("{")
    ids = {label: made.spec_id for label, made in records.items()}
    found = {path: sorted(trials) for path, trials in
             generators_used(run, workshop(tmp_path)).items()}  # fmt: skip
    assert found == {one: sorted([ids["ebm"], ids["chain"]]), other: [ids["ebm 2"]]}
