"""Studies that follow images through purifications: checked, run, gone on with, reported."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import sweeps
from harness.artifacts import Store
from harness.core.errors import UsageError
from harness.report.trajectory_page import build_trajectory_report
from harness.run import RunSummary
from harness.study import read_study
from harness.trajectory_run import run_trajectories
from harness.trajectory_spec import TrajectorySpec
from harness.workshop import Workshop
from tests.tiny import EBM, CommandLine, in_process

SHIPPED = str(sweeps.folder() / "weights" / "shapes_ebm")
PATTERN: dict[str, Any] = {
    "name": "pattern", "generator": {"path": SHIPPED}, "temperature": 2e-5, "steps": [4, 40],
    "count": 8,
}  # fmt: skip
ATTACKED: dict[str, Any] = {
    "name": "attacked", "generator": EBM, "energy": {"path": SHIPPED}, "steps": [2], "count": 6,
    "attack": {"name": "badnets", "adv_label": 0, "budget": 0.2, "size_px": 6}, "seed": 1,
}  # fmt: skip
STUDY: dict[str, Any] = {
    "name": "followed",
    "title": "Two ways",
    "reproduces": {"paper": "arXiv:0", "item": "Figure 1"},
    "dataset": {"name": "shapes", "train": 60, "test": 30},
    "trajectories": [PATTERN, ATTACKED],
}


def write(folder: Path, *changed: dict[str, Any], **changes: Any) -> Path:
    """Write the study with keys of the study changed, or of its trajectories, one by one."""
    listed = [one | new for one, new in zip(STUDY["trajectories"], changed, strict=False)]
    raw = STUDY | ({"trajectories": listed} if changed else {}) | changes
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "followed.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def run(folder: Path, *changed: dict[str, Any], out: str = "run") -> RunSummary:
    study = read_study(write(folder, *changed))
    workshop = Workshop(Store(folder / "store"), "cpu")
    return run_trajectories(study, workshop, folder / out, in_process, command="this")


def written(run: Path) -> dict[str, int]:
    """When each trajectory was written."""
    notes = run.glob("trajectories/*/trajectory.json")
    return {note.parent.name: note.stat().st_mtime_ns for note in notes}


def table(file: Path) -> list[dict[str, float]]:
    with file.open() as handle:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(handle)]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, and its store."""
    folder = tmp_path_factory.mktemp("done")
    assert run(folder).complete
    build_trajectory_report(folder / "run")
    return folder


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUREGEN_BENCH_HOME", str(tmp_path / "home"))
    return CommandLine(monkeypatch, capsys)


# What it does


def test_a_working_network_leads_poisons_back(done: Path) -> None:
    rows = table(done / "run/trajectories/pattern/trajectory.csv")
    assert [row["steps"] for row in rows] == [0, 4, 40]
    before, early, late = (row["clean_to_poison"] for row in rows)
    assert early < before
    assert late < rows[2]["poison_moved"]  # nearer to the clean image than to the poison
    assert rows[0]["energy_poison"] > rows[1]["energy_poison"] > rows[2]["energy_poison"]
    note = json.loads((done / "run/trajectories/pattern/trajectory.json").read_text())
    assert 0 < note["freed"] < 40 and note["nearest"] in (4, 40)
    assert note["generator"]["kind"] == "ebm" and note["images"] == 8


def test_an_attack_is_followed_and_another_network_judges(done: Path) -> None:
    folder = done / "run/trajectories/attacked"
    note = json.loads((folder / "trajectory.json").read_text())
    assert note["poisons"] == "attack badnets" and note["images"] == 6
    assert note["energy"]["digest"] != note["generator"]["digest"]
    assert table(folder / "trajectory.csv")[0]["clean_to_poison"] > 1
    kinds = sorted(path.name for path in (done / "store").iterdir())
    assert kinds == ["generator", "poison", "trajectory"]


def test_the_spec_can_be_handed_on(done: Path) -> None:
    for spec in read_study(write(done / "spec")).trajectories:
        assert TrajectorySpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


# Going on


def test_nothing_is_made_again_unless_it_changed(done: Path) -> None:
    before = written(done / "run")
    assert run(done).complete
    assert written(done / "run") == before
    run(done, {}, {"steps": [2, 3]})
    after = written(done / "run")
    assert after["pattern"] == before["pattern"] and after["attacked"] != before["attacked"]
    run(done)


def test_what_was_damaged_is_written_again_and_not_measured_again(done: Path) -> None:
    measured = {p: p.stat().st_mtime_ns for p in (done / "store/trajectory").glob("*/*.npz")}
    file = done / "run/trajectories/attacked/trajectory.csv"
    good = file.read_text()
    file.write_text(good.replace("0", "1"))
    assert run(done).complete
    assert file.read_text() == good
    again = {p: p.stat().st_mtime_ns for p in (done / "store/trajectory").glob("*/*.npz")}
    assert again == measured


def test_another_study_takes_the_trajectory_from_the_store(done: Path) -> None:
    (done / "store/generator").rename(done / "store/away")  # it needs no network any more
    try:
        assert run(done, {}, {"name": "renamed"}, out="other").complete
    finally:
        (done / "store/away").rename(done / "store/generator")
    tables = [done / f"run/trajectories/attacked/{n}" for n in ("trajectory.csv", "trajectory.npz")]
    for file in tables:
        other = done / "other/trajectories/renamed" / file.name
        assert other.read_bytes() == file.read_bytes()


def test_one_that_fails_takes_no_other_with_it(done: Path, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("no such image")

    monkeypatch.setattr("harness.trajectory_work.poisoned_pair", broken)
    summary = run(done, {}, {"steps": [5]})
    assert (summary.done, summary.failed) == (1, 1)
    assert summary.errors == ("attacked: ValueError: no such image",)
    page = build_trajectory_report(done / "run").page.read_text()  # of what there is
    assert "1 trajectory followed, 1 missing." in page and "Not written: attacked." in page
    assert "badnets" not in page.partition('id="reproduce"')[0]  # an earlier one is no result
    monkeypatch.undo()
    run(done)


def test_a_folder_of_something_else_is_refused(done: Path, tmp_path: Path) -> None:
    study = read_study(write(tmp_path, name="another"))
    workshop = Workshop(Store(tmp_path / "store"), "cpu")
    with pytest.raises(UsageError, match="holds a run of study 'followed'"):
        run_trajectories(study, workshop, done / "run", in_process)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/study.json").write_text('{"name": "another", "trials": []}')
    with pytest.raises(UsageError, match="holds a run of a study with trials"):
        run_trajectories(study, workshop, tmp_path / "run", in_process)
    with pytest.raises(UsageError, match="--limit counts trials"):
        run_trajectories(study, workshop, tmp_path / "new", in_process, limit=1)
    assert not (tmp_path / "new").exists()


# The report


def test_the_page_has_the_figures_and_the_numbers(done: Path) -> None:
    report = build_trajectory_report(done / "run")
    page = report.page.read_text()
    assert page.count("<svg ") == 4 and page.count("data:image/png;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    text = re.sub(r"<[^>]+>", " ", page)
    for name in ("pattern", "attacked"):
        for row in table(done / f"run/trajectories/{name}/trajectory.csv"):
            for key in ("clean_to_poison", "poison_moved", "energy_poison"):
                assert f"{row[key]:.3f} ± {row[f'{key}_se']:.3f}" in text
    for said in ("2 trajectories followed.", "It asks what Figure 1 of arXiv:0 asks", "badnets",
                 "puregen-bench run followed.yaml", "random ±8/255 pattern", "torch"):  # fmt: skip
        assert said in text
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    markdown = (done / "run/report/pattern.md").read_text()
    assert markdown.startswith("| Langevin steps | Clean → purified clean |")
    assert (done / "run/report/overview.csv").read_text().count("\n") == 3


def test_a_report_of_fewer_trajectories_has_no_files_of_the_others(done: Path) -> None:
    one = read_study(write(done, {}))
    run_trajectories(one, Workshop(Store(done / "store"), "cpu"), done / "run", in_process)
    build_trajectory_report(done / "run")
    assert not list((done / "run/report").rglob("attacked*"))
    run(done)
    build_trajectory_report(done / "run")
    assert (done / "run/report/attacked.csv").is_file()


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": [3]}, r"trajectories\[0\] has no key 'step'. Did you mean 'steps'?"),
        ({"generator": {"name": "emb", "dataset": "shapes"}}, "Did you mean 'ebm'?"),
        ({"generator": {"name": "ebm"}}, "generator needs a 'dataset'"),
        ({"generator": {"path": "/nowhere"}}, "'/nowhere' does not exist"),
        ({"energy": {"name": "ddpm", "dataset": "shapes"}}, "energy must be an energy network"),
        ({"trigger": "t.npy", "attack": {"name": "badnets", "adv_label": 0}},
         "give one source of poisons; got attack and trigger"),
        ({"attack": {"name": "badnet", "adv_label": 0}}, "Did you mean 'badnets'?"),
        ({"attack": "badnets"}, "needs 'adv_label'"),
        ({"attack": "none"}, "must poison something"),
        ({"attack": {"name": "badnets", "adv_label": 0}, "eps_255": 4}, "attack has its own"),
        ({"attack": {"name": "badnets", "adv_label": 77}}, "77"),
        ({"trigger": "nowhere.npy"}, "nowhere.npy"),
        ({"steps": 3}, "steps: input should be a valid"),
        ({"steps": [3, 3]}, "steps are different integers from 1 on"),
        ({"steps": []}, "steps are different integers from 1 on"),
        ({"count": 1}, "count must be at least 2; got 1"),
        ({"count": "many"}, "count: input should be a valid integer"),
        ({"eps_255": 256}, "1..255; got 256"),
        ({"temperature": -1.0}, "temperature must be a number above 0"),
        ({"name": "../up"}, "name is made of letters"),
        ({"name": "attacked"}, "the name 'attacked' stands twice"),
        ({"dataset": {"name": "shaeps"}}, "Did you mean 'shapes'?"),
        ({"generator": {"name": "ddpm", "recipe": {"horizon": 30}, "dataset": "shapes"},
          "temperature": None, "steps": [31]}, "horizon is 30 time steps; 31 are too many"),
        ({"generator": {"name": "ddpm", "dataset": "shapes"}}, "temperature is for the Langevin"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed(cli, tmp_path, change, message) -> None:
    path = write(tmp_path, change, {})
    assert cli("run", path, "--in-process", "--no-tracking") == 2
    found = re.sub(r"\s+", " ", cli.err)
    assert found.startswith("error: ") and message.replace("\\", "") in found
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("key", ["attacks", "defenses", "classifiers", "seeds", "search", "parts"])
def test_trajectories_stand_alone(tmp_path, key) -> None:
    with pytest.raises(UsageError, match=f"trajectories cannot stand beside '{key}'"):
        read_study(write(tmp_path, **{key: []}))


def test_what_is_no_list(tmp_path) -> None:
    for given in ({}, [], "one"):
        with pytest.raises(UsageError, match="trajectories is a list of mappings"):
            read_study(write(tmp_path, trajectories=given))
    with pytest.raises(UsageError, match=r"Did you mean 'trajectories'\?"):
        read_study(write(tmp_path, trajectoires=[]))


# The command line


def test_the_commands(cli, tmp_path, done) -> None:
    path, store = write(tmp_path), ("--store", done / "store")
    assert cli("validate", path, *store) == 0
    assert "valid, 2 trajectories." in cli.out
    assert cli("plan", path, "--store", "empty") == 0
    assert "ebm (networks), badnets (poisons)" in cli.out and not (tmp_path / "runs").exists()
    assert cli("run", path, *store, "--in-process", "--no-tracking") == 0
    assert "pattern: purified poisons are nearer to the clean images than to" in cli.out
    assert cli("plan", path, *store) == 0
    assert cli.out.count("written") == 2
    folder = tmp_path / "runs/followed"
    assert cli("status", folder) == 0
    assert "2 of 2 trajectories have a result" in cli.out
    page = folder / "report/index.html"
    before = page.read_text()
    page.unlink()
    assert cli("report", folder) == 0
    assert page.read_text() == before
    assert cli("verify", folder) == 0
    assert "0 discrepancies" in cli.out
    table = folder / "report/pattern.csv"
    table.write_text(table.read_text().replace("4.0,", "5.0,"))
    assert cli("verify", folder) == 1
    assert "WRONG report/pattern.csv" in cli.out
    for command in (
        ("search", path),
        ("craft", path),
        ("run", path, "--limit", 1, "--no-tracking"),
        ("plan", path, "--limit", 1),
        ("explain", path, "--attack", "badnets", "--defense", "jpeg", "--out", "e"),
        ("compare", folder, folder),
    ):
        assert cli(*command) == 2, command
        assert "trajectories" in cli.err and "Traceback" not in cli.err
    changed = ("--set", "trajectories.0.count=5")
    assert cli("run", path, *store, *changed, "--in-process", "--no-tracking") == 0
    note = json.loads((folder / "trajectories/pattern/trajectory.json").read_text())
    assert note["images"] == 5


def test_mlflow_has_the_curves_and_the_figures(cli, tmp_path, done) -> None:
    from mlflow import MlflowClient  # noqa: TID251

    path = write(tmp_path)
    for _ in range(2):  # the second time nothing is new
        assert cli("run", path, "--store", done / "store", "--in-process") == 0
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs/mlflow.db'}")
    experiment = client.get_experiment_by_name("followed").experiment_id
    query = "tags.`puregen.kind` = 'trajectory'"
    found = {r.info.run_name: r for r in client.search_runs([experiment], query)}
    assert sorted(found) == ["attacked", "pattern"]
    pattern = found["pattern"]
    rows = table(tmp_path / "runs/followed/trajectories/pattern/trajectory.csv")
    history = client.get_metric_history(pattern.info.run_id, "clean_to_poison")
    assert [(m.step, m.value) for m in history] == [
        (row["steps"], pytest.approx(row["clean_to_poison"])) for row in rows
    ]
    assert pattern.data.params["temperature"] == "2e-05"
    files = {file.path for file in client.list_artifacts(pattern.info.run_id)}
    assert {"distances.svg", "energies.png", "images.png", "trajectory.csv"} <= files


def test_mlflow_knows_a_trajectorys_images_and_its_generators(cli, tmp_path, done) -> None:
    from mlflow import MlflowClient  # noqa: TID251

    command = ("run", write(tmp_path), "--store", done / "store", "--in-process")
    assert cli(*command) == 0
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs/mlflow.db'}")
    versions = {
        version.tags["puregen.digest"]: f"{version.name}/{version.version}"
        for version in client.search_model_versions("name='puregen-ebm'")
    }
    assert len(versions) == 2

    def check() -> None:
        experiment = client.get_experiment_by_name("followed").experiment_id
        runs = client.search_runs([experiment])
        followed = [one for one in runs if one.data.tags["puregen.kind"] == "trajectory"]
        assert len(followed) == 2
        for one in followed:
            folder = tmp_path / "runs/followed/trajectories" / one.info.run_name
            note = json.loads((folder / "trajectory.json").read_text())
            [given] = one.inputs.dataset_inputs
            assert given.dataset.name == "shapes"
            assert given.dataset.digest == note["identities"]["dataset"][:32]
            assert json.loads(given.dataset.source) == note["spec"]["dataset"]
            assert [(t.key, t.value) for t in given.tags] == [("mlflow.data.context", "evaluation")]
            networks = [note[key] for key in ("generator", "energy") if note[key] is not None]
            used = sorted(versions[network["digest"]] for network in networks)
            assert one.data.tags["puregen.generator"] == ", ".join(used)
        [study] = [one for one in runs if one.data.tags["puregen.kind"] == "study"]
        assert study.data.tags["puregen.generator"] == ", ".join(sorted(versions.values()))

    check()
    changed = ("--set", "trajectories.0.count=5")  # logged anew, in place of the earlier one
    assert cli(*command, *changed) == 0
    check()
