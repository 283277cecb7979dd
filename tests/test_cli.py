"""The command line: what it shows, what it writes, and one message for what it cannot use."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import pytest
import torch

from generative.checkpoints import save_ebm
from generative.ebm import EBM, EBMConfig
from harness.cli import cli as program
from harness.cli import main
from harness.cli_options import ray_options
from harness.core.errors import UsageError
from harness.core.records import TrialRecord
from tests.test_run import EXPLODES
from tests.tiny import CommandLine, add_distribution, write_study

CHECKOUT = Path(__file__).resolve().parents[1]
COMMANDS = (
    "check-plugin", "demo", "describe", "ls", "plan", "report", "run", "train-generator",
    "validate",
)  # fmt: skip


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> CommandLine:
    """The program in an empty folder, with a store and a home of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUREGEN_BENCH_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return CommandLine(monkeypatch, capsys)


def run(cli: CommandLine, *arguments: object) -> int:
    return cli("run", *arguments, "--in-process", "--no-tracking")


# Help


def test_alone_it_shows_help_with_examples(cli) -> None:
    assert cli() == 0
    assert "puregen-bench ls attacks" in cli.out
    assert all(f"  {command} " in cli.out for command in COMMANDS)
    assert not cli.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli, command) -> None:
    assert cli(command, "--help") == 0
    assert cli.out.startswith(f"Usage: puregen-bench {command}")


def test_a_mistyped_command(cli) -> None:
    assert cli("rnu") == 2
    assert "unknown command 'rnu'. Did you mean 'run'? Allowed: c" in cli.err


def test_module_and_script_are_the_same_program() -> None:
    script = Path(sys.executable).with_name("puregen-bench")
    for start in ([sys.executable, "-m", "harness"], [str(script)]):
        done = subprocess.run(
            [*start, "--version"], capture_output=True, text=True, check=True, cwd=CHECKOUT
        )
        assert done.stdout.startswith("puregen-bench, version 0.")


@pytest.mark.parametrize(
    ("command", "alone"),
    [("run", "one trial after the other"), ("search", "one trial after the other"),
     ("craft", "one poison after the other"), ("purify", "in this process")],
)  # fmt: skip
def test_where_a_command_runs_is_asked_alike(command, alone) -> None:
    wanted = click.command()(ray_options(alone=f"Without Ray, {alone}.")(lambda: None)).params
    names = [option.name for option in wanted]
    assert names == ["in_process", "address", "cpus"]
    given = [p for p in program.commands[command].params if p.name in names]
    assert [p.to_info_dict() for p in given] == [p.to_info_dict() for p in wanted]


# What there is


@pytest.mark.parametrize(
    ("kind", "name"),
    [("attacks", "badnets"), ("defenses", "jpeg"), ("classifiers", "resnet18"),
     ("datasets", "shapes"), ("generators", "ebm"), ("studies", "smoke"), ("attack", "none")],
)  # fmt: skip
def test_ls(cli, kind, name) -> None:
    assert cli("ls", kind) == 0
    assert any(line.startswith(f"{name} ") for line in cli.out.splitlines())
    assert cli("ls", kind, "--json") == 0
    listed = {item["name"]: item for item in json.loads(cli.out)}
    assert listed[name]["summary"]


def test_describe(cli) -> None:
    assert cli("describe", "defense", "puregen_ebm") == 0
    for text in (
        "puregen_ebm (defense)", "Source: arXiv:2405.18627", "ebm: generator, required",
        "steps: int, default 150", "precision: auto | fp32 | bf16, default auto",
    ):  # fmt: skip
        assert text in cli.out
    assert cli("describe", "attack", "narcissus") == 0
    assert "pood: dataset or null, default null" in cli.out
    assert "      class_epochs: int" in cli.out  # of the nested search
    assert cli("describe", "attack", "none") == 0
    assert "No parameters." in cli.out
    assert cli("describe", "classifiers", "hlb_xs", "--json") == 0
    described = json.loads(cli.out)
    assert (described["kind"], described["module"]) == ("classifier", "harness.classifiers.hlb_xs")
    [widths, _, recipe] = described["parameters"]
    assert "scratch_200" in recipe["presets"]
    assert cli("describe", "classifier", "resnet18", "--json") == 0
    [its] = json.loads(cli.out)["parameters"]
    own = {p["name"]: p["default"] for p in its["parameters"]}  # its own, not those of any recipe
    assert own == its["default"] and (own["epochs"], own["nesterov"]) == (200, False)
    assert cli("describe", "classifier", "resnet18") == 0
    assert "epochs: int, default 200" in cli.out and "{preset: NAME, …}: scratch_200, " in cli.out
    assert widths["default"] == [32, 64, 64]
    assert {p["name"]: p["default"] for p in recipe["parameters"]}["epochs"] == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ls", "atacks"), "unknown kind 'atacks'. Did you mean 'attacks'? Allowed: attacks, "),
        (("describe", "attack", "badnet"), "unknown attack 'badnet'. Did you mean 'badnets'?"),
        (("describe", "atack", "badnets"), "unknown kind 'atack'. Did you mean 'attacks'?"),
        (("describe", "stdies", "smoke"), "unknown kind 'stdies'. Did you mean 'studies'?"),
        (("check-plugin", "defense", "jpg"), "unknown defense 'jpg'. Did you mean 'jpeg'?"),
        (
            ("validate", "smoek"),
            "unknown study 'smoek'. Did you mean 'smoke'? Allowed: attacks",
        ),
        (("report", "runs/none"), "'runs/none' is no run folder"),
    ],
)
def test_what_there_is_not(cli, arguments, message) -> None:
    assert cli(*arguments) == 2
    assert cli.err.startswith(f"error: {message}")


# A study from its file to its report


def test_validate_plan_run_report(cli, tmp_path) -> None:
    study = write_study(tmp_path)
    assert cli("validate", study, "--set", "defenses.0.quality=30") == 0
    assert cli.out.splitlines() == ["set defenses.0.quality: 25 → 30", f"{study}: valid, 4 trials."]
    assert cli("plan", study, "--set", "attacks.0.budget=0.3") == 0
    assert cli.out.startswith("set attacks.0.budget: 0.2 → 0.3\n4 trials, into ")
    assert not (tmp_path / "runs").exists()

    assert run(cli, study) == 0
    lines = cli.out.splitlines()
    assert any("trials 4/4: badnets → jpeg, target 0, seed 0: accuracy " in line for line in lines)
    assert any(line.startswith("jpeg ") and "|" in line for line in lines)
    assert lines[-1] == f"page: {tmp_path}/runs/tiny/report/index.html"
    assert (tmp_path / "runs/tiny/report/index.html").is_file()
    assert not list(tmp_path.rglob("mlflow.db"))
    said = json.loads((tmp_path / "runs/tiny/study.json").read_text())
    assert said["command"] == f"puregen-bench run {study} --in-process --no-tracking"

    assert run(cli, study) == 0
    assert "every trial of this run is done already" in cli.out
    assert cli("report", "runs/tiny") == 0
    assert cli.out.splitlines()[-1] == "page: runs/tiny/report/index.html"


def numbers(plan: str) -> dict[str, list[str]]:
    """Return the columns number, left and minutes of each stage that a plan shows."""
    stages = ("networks", "poisons", "clean rows", "poisoned rows", "trials")
    lines = plan.splitlines()
    found = {stage: [line for line in lines if line.startswith(f"{stage} ")] for stage in stages}
    return {s: rows[-1].removeprefix(s).split()[:3] for s, rows in found.items() if rows}


def test_plan_says_what_there_is_and_what_is_left(cli, tmp_path) -> None:
    study = write_study(tmp_path, targets=[0, 1])
    assert cli("plan", study) == 0
    shown = dict(line.split(maxsplit=1) for line in cli.out.splitlines()[1:5])
    assert {k: v.strip() for k, v in shown.items()} == {
        "dataset": "shapes", "attack": "none, badnets", "defense": "none, jpeg",
        "classifier": "hlb_xs",
    }  # fmt: skip
    assert "target       0, 1" in cli.out
    fresh = numbers(cli.out)
    assert {stage: row[:2] for stage, row in fresh.items()} == {
        "poisons": ["2", "2"], "clean rows": ["1", "1"], "poisoned rows": ["2", "2"],
        "trials": ["6", "6"],
    }  # fmt: skip
    assert fresh["poisons"][2] == "?"

    assert run(cli, study) == 0
    assert cli("plan", study) == 0
    assert {s: row[1:] for s, row in numbers(cli.out).items()} == {s: ["0", "0"] for s in fresh}
    assert "will refuse" not in cli.out
    assert cli("plan", study, "--out", "elsewhere") == 0
    assert {s: row[1] for s, row in numbers(cli.out).items()} == {
        "poisons": "0", "clean rows": "0", "poisoned rows": "0", "trials": "6",
    }  # fmt: skip
    assert cli("plan", study, "--set", "targets=[0, 2]") == 0  # priced by its like
    left = numbers(cli.out)
    assert "run will refuse this: " in cli.out and "targets of the study differ" in cli.out
    assert (left["poisons"][1], left["poisoned rows"][1]) == ("1", "1")
    assert "?" not in (left["poisons"][2], left["poisoned rows"][2])


def test_a_limited_run_is_partial(cli, tmp_path) -> None:
    assert run(cli, write_study(tmp_path), "--limit", "1", "--out", "out") == 0
    [record] = (tmp_path / "out" / "records").iterdir()
    assert TrialRecord.read(record).partial
    assert cli("run", "tiny.yaml", "--limit", "0") == 2
    assert "0 is not in the range x>=1" in cli.err


def test_a_failed_trial_is_told_and_is_no_success(cli, tmp_path, monkeypatch) -> None:
    add_distribution(tmp_path, "attack", "explodes_too", EXPLODES, "It")
    monkeypatch.syspath_prepend(tmp_path)
    attacks = ["badnets", "explodes_too"]
    study = write_study(tmp_path, attacks=attacks, targets=[1], controls=False)
    assert run(cli, study) == 1
    assert "FAILED: RuntimeError: the fuse was lit" in cli.out
    assert cli.out.splitlines()[-2:] == [
        "failed: explodes_too target 1 seed 0: RuntimeError: the fuse was lit",
        "1 of 2 trials have a result.",
    ]


def test_an_interrupted_run_says_how_to_go_on(cli, tmp_path, monkeypatch) -> None:
    source = EXPLODES.replace("RuntimeError", "KeyboardInterrupt")
    add_distribution(tmp_path, "attack", "interrupts", source, "It")
    monkeypatch.syspath_prepend(tmp_path)
    study = write_study(tmp_path, attacks=["interrupts"], targets=[0, 1])
    assert run(cli, study) == 130
    last = f"stopped; what is finished is in {tmp_path}/runs/tiny. The same command goes on."
    assert cli.out.splitlines()[-1] == last


def test_a_full_disk_is_one_message_and_another_fault_none(monkeypatch, capsys) -> None:
    def raising(number: int) -> Callable[..., None]:
        def command(**_: object) -> None:
            raise OSError(number, os.strerror(number), "records/x.json")

        return command

    monkeypatch.setattr("harness.cli.cli", raising(errno.ENOSPC))
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 1 and told.count("\n") == 1
    assert "No space left on device" in told and "the same command goes on" in told
    monkeypatch.setattr("harness.cli.cli", raising(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):  # nobody knows what is lost
        main()


def test_a_study_of_the_package_by_its_name(cli) -> None:
    assert cli("validate", "smoke") == 0
    assert cli.out.endswith("smoke.yaml: valid, 6 trials.\n")


def test_the_smoke_study(cli, tmp_path) -> None:
    assert run(cli, "smoke") == 0
    assert "networks: ebm on shapes" in cli.out
    assert len(list((tmp_path / "runs/smoke/records").iterdir())) == 6
    assert (tmp_path / "home/store").is_dir()


# What is told to a tracker, and when


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to a tracker and to Ray, in order; neither is there."""
    events: list[str] = []

    class Tracker:
        def __init__(self, uri: str | None, study: str, folder: Path) -> None:
            events.append(f"new {uri} {study} {folder.name}")

        def start(self, study: object) -> None:
            events.append("start")

        def sync(self, folder: Path) -> None:
            events.append("sync")

        def log(self, record: TrialRecord, samples: Path | None) -> None:
            events.append(f"log {record.status} {samples is not None and samples.is_file()}")

        def register(self, generators: Iterable[tuple[Path, object]]) -> None:
            events.append(f"register {len(list(generators))}")

        def finish(self, numbers: dict[str, float], status: str) -> None:
            events.append(f"finish {status} {numbers}")

        def links(self) -> dict[str, str]:
            return {"store": "somewhere"}

    @contextmanager
    def session(address: str | None, cpus: int | None) -> Iterator[None]:
        events.append(f"Ray at {address}")
        raise UsageError("no Ray today")
        yield

    monkeypatch.setattr("harness.tracking.Tracker", Tracker)
    monkeypatch.setattr("harness.cluster.session.session", session)
    return events


def test_a_tracker_is_told_of_every_trial(cli, told, tmp_path) -> None:
    study = write_study(tmp_path)
    assert cli("run", study, "--in-process", "--tracking-uri", "sqlite:///x") == 0
    opened = ["new sqlite:///x tiny tiny", "start", "sync"]
    closed = "finish FINISHED {'trials': 4, 'trials_done': 4}"
    registered = "register 0"  # this study names no generator
    assert told == [*opened, *["log ok True"] * 4, registered, closed]
    assert "store: somewhere" in cli.out
    told.clear()
    assert cli("run", study, "--in-process") == 0  # nothing to run; it may have missed something
    assert told == ["new None tiny tiny", "start", "sync", registered, closed]


def test_a_tracker_is_told_of_an_interruption(cli, told, tmp_path, monkeypatch) -> None:
    source = EXPLODES.replace("RuntimeError", "KeyboardInterrupt")
    add_distribution(tmp_path, "attack", "interrupts_too", source, "It")
    monkeypatch.syspath_prepend(tmp_path)
    study = write_study(tmp_path, attacks=["interrupts_too"], targets=[1])
    assert cli("run", study, "--in-process") == 130
    assert told[-1] == "finish KILLED {}"


def test_a_tracker_comes_before_a_ray_of_our_own_and_after_that_of_others(
    cli, told, tmp_path
) -> None:
    study = write_study(tmp_path)
    assert cli("run", study) == 2
    assert told == ["new None tiny tiny", "start", "sync", "Ray at None", "finish FAILED {}"]
    told.clear()
    assert cli("run", study, "--address", "auto") == 2
    assert told == ["Ray at auto"]
    assert not (tmp_path / "runs").exists()


# Generators


def test_train_generator_makes_what_a_study_can_use(cli, tmp_path) -> None:
    sets = ["nf=4", "recipe.iterations=3", "recipe.batch_size=8", "recipe.bank_size=8"]
    sets += ["recipe.chain_steps=1", "recipe.lr=1e-4"]
    options = [part for text in sets for part in ("--set", text)]
    options += ["--dataset", "{name: shapes, kind: pood, train: 30, test: 6}", "--out", "gen"]
    assert cli("train-generator", "ebm", *options) == 0
    assert cli.out.startswith("ebm on shapes: 30 images of 3 x 32 x 32\nupdate 3/3 (100%)")
    assert cli.out.endswith(f"written: {tmp_path}/gen. In a study: {{path: {tmp_path}/gen}}\n")
    weights = (tmp_path / "gen/model.safetensors").read_bytes()
    assert {p.name for p in (tmp_path / "gen").iterdir()} >= {
        "config.json", "data.png", "samples_000003.png",
    }  # fmt: skip

    assert cli("train-generator", "ebm", *options) == 0  # done already: nothing is trained again
    assert "update" not in cli.out
    assert (tmp_path / "gen/model.safetensors").read_bytes() == weights

    for change, differs in (
        (["--seed", "1"], "another seed"),
        (["--set", "recipe.lr=2e-4"], "another recipe"),
        (["--dataset", "{name: shapes, kind: pood, train: 31}"], "another dataset and images"),
    ):
        assert cli("train-generator", "ebm", *options, *change) == 2
        assert f"holds a training with {differs}" in cli.err

    study = write_study(tmp_path, defenses=[{"name": "puregen_ebm", "ebm": {"path": "gen"}}])
    assert cli("validate", study) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ebn", "--dataset", "shapes"), "generator: unknown generator 'ebn'. Did you mean 'ebm'?"),
        (
            ("ebm", "--dataset", "shape"),
            "--dataset: unknown dataset 'shape'. Did you mean 'shapes'",
        ),
        (("ebm", "--dataset", "{name: shapes"), "--dataset is no valid YAML"),
        (("ebm", "--dataset", "shapes", "--set", "nf"), "--set takes KEY=VALUE"),
        (("ebm", "--dataset", "shapes", "--set", "nf=4", "--set", "nf.x=3"), "has no parts"),
        (("ebm", "--dataset", "shapes", "--set", "nf=x"), "generator (ebm).nf: "),
        (("ebm", "--dataset", "shapes", "--set", "name=x"), "the generator is 'ebm'"),
        (("ebm", "--dataset", "shapes", "--set", "recipe.lrr=1"), "Did you mean 'lr'?"),
        (("ebm", "--dataset", "shapes", "--set", "nf=-8"), "nf must be at least 1; got -8"),
        (("ebm", "--dataset", "shapes", "--set", "recipe.lr=-1"), "lr must be positive; got -1.0"),
        (("ddpm", "--dataset", "shapes", "--set", "recipe.lr=-1"), "lr must be positive; got -1.0"),
    ],
)
def test_what_train_generator_refuses(cli, tmp_path, arguments, message) -> None:
    assert cli("train-generator", *arguments, "--out", "gen") == 2
    assert message in cli.err
    assert not (tmp_path / "gen").exists()


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("ebm", "train: 10", "10 images are fewer than a batch of 32"),
        ("ddpm", "train: 10", "10 images are fewer than a batch of 64"),
        ("ebm", "train: 100, size: 18", "sides divisible by 4"),
    ],
)
def test_a_generator_is_checked_before_its_folder_is_written(
    cli, tmp_path, kind, data, message
) -> None:
    given = ("--dataset", f"{{name: shapes, test: 10, {data}}}", "--out", "gen")
    assert cli("train-generator", kind, *given) == 2
    assert message in cli.err
    assert list((tmp_path / "gen").iterdir()) == []


def test_a_training_that_fails_before_a_checkpoint_leaves_its_folder_free(
    cli, tmp_path, monkeypatch
) -> None:
    """Whatever stopped it, nothing is trained that another training could go on with."""
    data = ("--dataset", "{name: shapes, train: 30, test: 6, size: 16}", "--out", "net")

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr("harness.generator_training.train_share", stop)
        assert cli("train-generator", "ebm", *data, "--set", "recipe.batch_size=8") == 130
    assert not (tmp_path / "net" / "training.json").exists()
    small = ("widths=[4, 4, 4]", "recipe.epochs=1")
    sets = [part for text in small for part in ("--set", text)]
    assert cli("train-classifier", "hlb_xs", *data, *sets) == 0


# Bad input: status 2, one message, nothing started


def arrays(rows: int = 30, classes: int = 3) -> dict[str, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (rows, 16, 16, 3), np.uint8)
    labels = np.arange(rows) % classes
    return {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Broken files of many kinds."""
    np.savez(tmp_path / "good.npz", **arrays())
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.npz").write_bytes(os.urandom(2000))
    (tmp_path / "empty.npz").touch()
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "pickled.npz", **{**arrays(), "x_train": objects})
    for name, width in (("narrow", 4), ("wide", 8)):
        save_ebm(tmp_path / name, EBM(EBMConfig(nf=width)), {})
    config = (tmp_path / "wide" / "config.json").read_text()
    (tmp_path / "narrow" / "config.json").write_text(config)
    (tmp_path / "corrupt").mkdir()
    (tmp_path / "corrupt" / "model.safetensors").write_bytes(b"\xff" * 100)
    torch.save({"a": 1}, tmp_path / "pickled.pth")
    return tmp_path


def npz(name: str, **more: object) -> dict[str, object]:
    return {"dataset": {"name": "npz", "path": name, **more}}


def ebm(path: str) -> dict[str, object]:
    return {"defenses": [{"name": "puregen_ebm", "ebm": {"path": path}}]}


def attack(**parameters: object) -> dict[str, object]:
    return {"attacks": [{"name": "badnets", **parameters}]}


def recipe(**numbers: object) -> dict[str, object]:
    return {"classifiers": [{"name": "hlb_xs", "recipe": numbers}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": ["badnet"]}, "attacks[0]: unknown attack 'badnet'. Did you mean 'badnets'?"),
        ({"defenses": ["jpg"]}, "defenses[0]: unknown defense 'jpg'. Did you mean 'jpeg'?"),
        ({"classifiers": ["resnet"]}, "unknown classifier 'resnet'. Did you mean 'resnet"),
        ({"dataset": "shape"}, "dataset: unknown dataset 'shape'. Did you mean 'shapes'?"),
        ({"defences": ["jpeg"]}, "unknown key 'defences'. Did you mean 'defenses'?"),
        (attack(bugdet=1), "no parameter 'bugdet'. Did you mean 'budget'? Allowed: adv_label"),
        (attack(size_px="3"), "attacks[0] (badnets).size_px: input should be a valid integer"),
        (attack(size_px=True), "got True"),
        (attack(budget=[0.1]), "got [0.1]"),
        (attack(budget=float("nan")), "attacks[0] (badnets).budget: input should be a finite"),
        (attack(budget=1.5), "attack 'badnets': budget is a share in (0, 1]; got 1.5"),
        (attack(budget=1.0), "asks for 60 poisons; there are 54 rows of other classes"),
        ({"targets": [10]}, "adv_label is 10; the data have the classes 0..9"),
        ({"targets": None}, "needs a target"),
        ({"defenses": ["puregen_ebm"]}, "defense 'puregen_ebm' needs 'ebm'"),
        (npz("absent.npz"), "absent.npz does not exist"),
        (npz("cut.npz"), "cut.npz cannot be read as an .npz file"),
        (npz("noise.npz"), "an .npz file of plain arrays: it is no whole zip of arrays"),
        (npz("empty.npz"), "empty.npz cannot be read as an .npz file"),
        (npz("pickled.npz"), "it holds Python objects"),
        (npz("good.npz", num_classes=5), "dataset 'npz': 2 classes have no row (3, 4)"),
        (npz("good.npz", num_classes=2), "labels of"),
        (npz("good.npz", train_per_class=-1), "dataset.train_per_class must be at least 1"),
        (
            npz("good.npz", train_per_class=3000),
            "'npz', train_per_class: cannot take 3000 rows",
        ),
        (recipe(lr=-1), "classifiers[0] (hlb_xs).recipe: lr must be positive; got -1.0"),
        (recipe(momentum=-1), "momentum must lie in [0, 1); got -1.0"),
        (recipe(cutout=40), "cutout 40 is larger than the images; they are (3, 32, 32)"),
        ({"classifiers": [{"name": "hlb_xs", "widths": [-8, 1, 2]}]}, "widths must be at least 1"),
        ({"classifiers": [{"name": "hlb_xs", "stem": -1}]}, "stem must be at least 1; got -1"),
        ({"classifiers": [{"name": "hlb_xs", "stem": 10**15}]}, "cannot take images of shape"),
        ({"classifiers": [{"name": "resnet9", "width": -1}]}, "width must be at least 1; got -1"),
        ({"defenses": [{"name": "chain", "parts": []}]}, "has at least two parts; got 0"),
        ({"name": "n" * 400}, "name takes at most 200 bytes, one for each ASCII letter; got 400"),
        (npz("good.npz", path_=1), "no parameter 'path_'. Did you mean 'path'?"),
        (ebm("absent"), "'puregen_ebm'.ebm: weights '"),
        (ebm("narrow"), "does not fit the network of nf=8, patch_size=1: tensor 'block1.c1.bias'"),
        (ebm("corrupt"), "is no safetensors file"),
        (ebm("pickled.pth"), "hold dict, no named tensors"),
        ({"resources": {"cpus": 100_000}}, "one trial asks for 100000 CPUs"),
    ],
)
def test_bad_studies(cli, files, changes, message) -> None:
    assert run(cli, write_study(files, **changes)) == 2
    assert cli.err.startswith("error: ")
    assert message in cli.err
    assert len(cli.err.splitlines()) == 1
    assert not (files / "runs").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"attacks: [", "is no valid YAML: line 1, column 11"),
        (b"attacks: !!python/object/apply:os.system ['touch harm']", "line 1, column 10"),
        (b"- 1", "must be a mapping; got list"),
        (b"\x80", "is no text in UTF-8"),
    ],
)
@pytest.mark.parametrize("command", ["run", "validate", "plan"])
def test_bad_study_files(cli, tmp_path, command, content, message) -> None:
    if content is not None:
        (tmp_path / "s.yaml").write_bytes(content)
    assert cli(command, "s.yaml") == 2
    assert cli.err.startswith("error: study 's.yaml' ")
    assert message in cli.err
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "attacks.5.budget=1"], "attacks is a list; it has no item '5'. Allowed: 0..0"),
        (["--set", "x"], "--set takes KEY=VALUE"),
        (["--in-process", "--no-tracking", "--out", "tiny.yaml/run"], "is no folder"),
        (["--in-process", "--no-tracking", "--out", "tiny.yaml"], "is no folder"),
        (["--store", "tiny.yaml/store"], "cannot be written: Not a directory"),
        (["--device", "gpu"], "unknown device 'gpu'. Allowed: auto, cpu, cuda"),
        (["--in-process", "--address", "auto"], "it cannot go with --address"),
        (["--in-process", "--cpus", "2"], "it cannot go with --cpus"),
        (["--address", "auto", "--cpus", "2"], "--cpus is for the local Ray"),
        (["--no-tracking", "--tracking-uri", "http://x"], "contradict each other"),
        (["--address", "127.0.0.1:1"], "no Ray answers at '127.0.0.1:1'"),
        (["--address", "nonsense"], "a Ray address is HOST:PORT or 'auto'"),
        (["--in-process", "--tracking-uri", "http://127.0.0.1:1"], "cannot be reached"),
        (["--tracking-uri", "http://127.0.0.1:1"], "cannot be reached"),
        (["--tracking-uri", "htp://x"], "'htp'. Did you mean 'http'? Allowed: sqlite"),
    ],
)  # fmt: skip
def test_bad_options(cli, tmp_path, monkeypatch, options, message) -> None:
    def started(*arguments: object, **settings: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", started)
    write_study(tmp_path)
    assert cli("run", "tiny.yaml", *options) == 2
    assert cli.err.startswith("error: ")
    assert message in cli.err
    assert len(cli.err.splitlines()) == 1
    assert {p.name for p in tmp_path.iterdir()} <= {"tiny.yaml", "home"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there(cli, tmp_path, device) -> None:
    assert cli("run", write_study(tmp_path), "--device", device, "--in-process") == 2
    assert cli.err == (
        f"error: device '{device}' was asked for, and torch finds no GPU; allowed: 'cpu'.\n"
    )


def test_a_folder_of_another_study(cli, tmp_path) -> None:
    study = write_study(tmp_path)
    assert run(cli, study, "--limit", 1) == 0
    assert run(cli, study, "--set", "attacks.0.size_px=5") == 2
    assert "holds a run of something else: attacks of the study differ" in cli.err


def test_a_damaged_artefact_is_named(cli, tmp_path) -> None:
    study = write_study(tmp_path)
    assert run(cli, study, "--limit", 3, "--store", "a") == 0
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    [poison] = (tmp_path / "b" / "poison").glob("*/poison.npz")
    poison.write_bytes(poison.read_bytes()[:-1])
    assert run(cli, study, "--store", "b") == 1
    assert f"'{poison.parent}' is not what was stored; remove this folder" in cli.out


def test_ctrl_c_is_status_130_wherever_it_comes(cli, tmp_path, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.study.read_study", interrupted)
    assert cli("validate", write_study(tmp_path)) == 130
    assert cli.err == "stopped\n"
