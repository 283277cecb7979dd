from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from generative.checkpoints import save_ebm
from generative.ebm import EBM, EBMConfig
from harness import sweeps
from harness.core.errors import DataError, UsageError
from harness.core.records import TrialRecord
from harness.flat_record import params_of, run_name
from harness.generator_tools import describe_generator
from harness.sample_grid import sample_grid
from harness.tracking import Tracker
from harness.tracking_store import open_client
from tests.report_runs import record, write_run, write_samples

STUDY = {"name": "small", "attacks": ["narcissus"], "defenses": [{"name": "jpeg", "quality": 50}]}


def attacked(target: int = 2, **changes: Any) -> TrialRecord:
    one = record(
        "narcissus eps_255=8",
        "jpeg",
        goal="triggered",
        target=target,
        probes={"x1": (30, 40), "x2": (38, 40)},
        details={"best=loss": 0.25},
    )
    spec = one.spec | {
        "attack": {"name": "narcissus", "eps_255": 8, "surrogate": {"name": "hlb_xs", "seed": 0}},
        "defense": {"name": "jpeg", "quality": 50},
    }
    return dataclasses.replace(one, spec=spec, **changes)


FINE = attacked(curves={"loss": [2.0, 1.5, 1.25], "test_accuracy": [0.1, 0.2, 0.4]})
FAILED = attacked(3, status="failed", error="ValueError: no\nTraceback …", outcomes=(), curves={})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one store for all tests of this file: it takes seconds to make."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def run(runs: Path, request: pytest.FixtureRequest) -> Path:
    return write_run(runs / request.node.name, [])


@pytest.fixture
def tracker(run: Path) -> Tracker:
    return opened(run)


def opened(run: Path, study_name: str = "small", **study: Any) -> Tracker:
    tracker = Tracker(None, study_name, run)
    tracker.start({**STUDY, **study})
    return tracker


class Store:
    """What a reader who knows nothing of the tracker finds in the store."""

    def __init__(self, runs: Path) -> None:
        from mlflow import MlflowClient  # noqa: TID251

        self.client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")

    def parents(self, run: Path) -> list[Any]:
        return [r for r in self._all() if r.data.tags.get("puregen.run") == str(run)]

    def children(self, run: Path) -> dict[str, Any]:
        (parent,) = self.parents(run)
        wanted = parent.info.run_id
        found = [r for r in self._all() if r.data.tags.get("mlflow.parentRunId") == wanted]
        by_id = {r.data.tags["puregen.spec_id"]: r for r in found}
        assert len(by_id) == len(found)
        return by_id

    def rows(self, run: Path) -> list[Any]:
        """The rows of the main table, as MLflow lists runs: the newest first."""
        (parent,) = self.parents(run)
        wanted = parent.info.run_id
        found = [r for r in self._all() if r.data.tags.get("puregen.study_run") == wanted]
        assert all("mlflow.parentRunId" not in r.data.tags for r in found)
        return found

    def artifacts(self, run: Any, folder: str | None = None) -> set[str]:
        return {f.path for f in self.client.list_artifacts(run.info.run_id, folder)}

    def _all(self) -> list[Any]:
        experiments = [e.experiment_id for e in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, max_results=1000))


@pytest.fixture
def store(runs: Path, tracker: Tracker) -> Store:
    return Store(runs)


def test_a_trial_is_a_child_of_the_study(tracker: Tracker, store: Store, run: Path) -> None:
    tracker.log(FINE, None)
    tracker.finish({"trials": 1.0}, "FINISHED")
    (parent,) = store.parents(run)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == {"trials": 1.0}
    assert store.client.get_experiment(parent.info.experiment_id).name == "small"
    text = Path(store.client.download_artifacts(parent.info.run_id, "study.yaml")).read_text()
    assert "quality: 50" in text
    (child,) = store.children(run).values()
    assert child.info.status == "FINISHED"
    assert child.info.run_name == "narcissus eps_255=8 → jpeg · target 2 · seed 0"
    assert child.info.end_time - child.info.start_time >= 60_000  # what the stages took


def test_a_trial_says_what_it_was_trained_on(tracker: Tracker, store: Store, run: Path) -> None:
    tracker.log(FINE, None)
    [given] = store.children(run)[FINE.spec_id].inputs.dataset_inputs
    assert given.dataset.name == "cifar10_mini"
    assert json.loads(given.dataset.source)["name"] == FINE.spec["dataset"]["name"]
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]


def test_a_generator_is_a_version_of_a_model_once(
    tracker: Tracker, store: Store, run: Path, tmp_path: Path
) -> None:
    weights = sweeps.folder() / "weights" / "shapes_ebm"
    said = [(weights, describe_generator(weights), [])]
    tracker.register(said)
    tracker.register(said)
    [version] = store.client.search_model_versions("name='puregen-ebm'")
    assert version.tags["puregen.digest"] == said[0][1]["digest"]
    there = store.client.download_artifacts(
        version.run_id, f"generators/{said[0][1]['digest'][:12]}", str(tmp_path)
    )
    assert describe_generator(Path(there))["digest"] == said[0][1]["digest"]
    other = tmp_path / "other"
    save_ebm(other, EBM(EBMConfig(nf=2)), {})
    tracker.register([(other, describe_generator(other), [])])
    assert len(store.client.search_model_versions("name='puregen-ebm'")) == 2


def test_a_trial_and_its_row_name_the_version_of_the_generator_they_used(
    tracker: Tracker, store: Store, run: Path, tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    save_ebm(one, EBM(EBMConfig(nf=3)), {})
    save_ebm(other, EBM(EBMConfig(nf=4)), {})
    both = attacked(3, spec_id="both00000000")
    add_records(run, [FINE, both])
    tracker.log(FINE, None)
    tracker.register([
        (one, describe_generator(one), [FINE.spec_id, both.spec_id]),
        (other, describe_generator(other), [both.spec_id]),
    ])  # fmt: skip
    tracker.log(both, None)  # a store that was down takes a trial later than its generators
    tracker.finish({}, "FINISHED")
    digests = {describe_generator(path)["digest"]: path for path in (one, other)}
    found = store.client.search_model_versions("name='puregen-ebm'")
    names = {
        digests[v.tags["puregen.digest"]]: f"puregen-ebm/{v.version}" for v in found
        if v.tags["puregen.digest"] in digests
    }  # fmt: skip
    (parent,) = store.parents(run)
    experiments = [parent.info.experiment_id]

    def having(query: str, kind: str) -> list[str]:
        asked = f"tags.`puregen.generator` {query} and tags.`puregen.kind` = '{kind}'"
        return [
            r.data.tags["puregen.generator"]
            for r in store.client.search_runs(experiments, asked)
            if parent.info.run_id
            in (
                r.data.tags.get("mlflow.parentRunId"),
                r.data.tags.get("puregen.study_run"),
                r.info.run_id,
            )
        ]

    together = ", ".join(sorted(names.values()))
    assert having(f"= '{names[one]}'", "trial") == [names[one]]
    assert sorted(having(f"LIKE '%{names[one]}%'", "trial")) == sorted([names[one], together])
    assert having(f"LIKE '%{names[other]}%'", "summary") == [together]  # a row of both trials
    assert having(f"LIKE '%{names[other]}%'", "study") == [together]
    assert "puregen.generator" not in store.children(run)[FINE.spec_id].data.params


def test_params_and_metrics_come_back(tracker: Tracker, store: Store, run: Path) -> None:
    tracker.log(FINE, None)
    child = store.children(run)[FINE.spec_id]
    assert child.data.params == {
        "dataset": "cifar10_mini",
        "attack": "narcissus",
        "attack.eps_255": "8",
        "attack.surrogate.name": "hlb_xs",
        "attack.surrogate.seed": "0",
        "defense": "jpeg",
        "defense.quality": "50",
        "classifier": "hlb_xs",
        "scenario": "from_scratch",
        "target": "2",
        "seed.poison": "0",
        "seed.purify": "0",
        "seed.victim": "0",
    }
    assert child.data.metrics == {
        "natural_accuracy": 0.75,
        "attacked_class_accuracy": 0.6,
        "poison_success": 0.75,
        "poison_success_x2": 0.95,
        "poisons": 50,
        "l2_clean": 1.5,
        "l2_poison": 3.0,
        "rows_kept": 500,
        "rows_changed": 500,
        "poison_kept": 50,
        "poison_changed": 50,
        "seconds_train": 40,
        "seconds_purify": 20,
        "peak_mib_train": 900,
        "peak_mib_purify": 100,
        "detail.best_loss": 0.25,
        "loss": 1.25,
        "test_accuracy": 0.4,
    }
    history = store.client.get_metric_history(child.info.run_id, "loss")
    assert [(p.step, p.value) for p in history] == [(1, 2.0), (2, 1.5), (3, 1.25)]


def test_without_an_attack_there_is_no_poison_success(
    tracker: Tracker, store: Store, run: Path
) -> None:
    control = record(floors=attacked().outcomes)
    tracker.log(control, None)
    child = store.children(run)[control.spec_id]
    assert child.data.metrics["natural_accuracy"] == 0.75
    assert not [name for name in child.data.metrics if "success" in name]
    assert "target" not in child.data.params


def test_artifacts(tracker: Tracker, store: Store, run: Path) -> None:
    images = np.arange(2 * 3 * 8 * 8, dtype=np.uint8).reshape(2, 3, 8, 8)
    stages = {"clean": images, "poisoned": images + 1, "purified": images}
    write_samples(run, FINE.spec_id, stages)
    (run / "report").mkdir()
    (run / "report" / "index.html").write_text("<p>report</p>")
    tracker.log(FINE, run / "samples" / f"{FINE.spec_id}.npz")
    tracker.finish({}, "FAILED")
    (parent,) = store.parents(run)
    assert parent.info.status == "FAILED"
    assert store.artifacts(parent, "report") == {"report/index.html"}
    child = store.children(run)[FINE.spec_id]
    assert store.artifacts(child) == {"record.json", "samples.png"}
    path = store.client.download_artifacts(child.info.run_id, "record.json")
    assert TrialRecord.read(Path(path)) == FINE
    with Image.open(store.client.download_artifacts(child.info.run_id, "samples.png")) as picture:
        assert picture.width > 2 * 32
        assert picture.height > 3 * 32
    assert (run.parent / "mlartifacts" / "small" / child.info.run_id).is_dir()


def test_a_trial_is_logged_once(tracker: Tracker, store: Store, run: Path) -> None:
    tracker.log(FINE, None)
    before = store.children(run)[FINE.spec_id].info.run_id
    tracker.log(FINE, None)
    again = opened(run)
    again.log(FINE, None)
    assert store.children(run)[FINE.spec_id].info.run_id == before


def test_a_failed_trial_gives_way_to_its_repetition(
    tracker: Tracker, store: Store, run: Path
) -> None:
    tracker.log(FAILED, None)
    child = store.children(run)[FAILED.spec_id]
    assert child.info.status == "FAILED"
    assert child.data.metrics == {}
    assert child.data.params["attack"] == "narcissus"
    assert "error.txt" in store.artifacts(child)
    repeated = attacked(3)
    assert repeated.spec_id == FAILED.spec_id
    opened(run).log(repeated, None)
    assert store.children(run)[FAILED.spec_id].info.status == "FINISHED"


def test_going_on_finds_the_parent(tracker: Tracker, store: Store, run: Path) -> None:
    tracker.log(FINE, None)
    tracker.finish({}, "FAILED")
    (before,) = store.parents(run)
    other = opened(write_run(run.parent / "another_run_of_it", []))
    again = opened(run)
    (now,) = store.parents(run)
    assert now.info.run_id == before.info.run_id
    assert now.info.status == "RUNNING"
    again.log(attacked(5), None)
    assert set(store.children(run)) == {FINE.spec_id, attacked(5).spec_id}
    assert store.children(other.run_folder) == {}


def test_a_run_logged_in_part_is_logged_again(
    tracker: Tracker, store: Store, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(store.client), "log_text", full_disk)
        tracker.log(FINE, None)
    assert tracker.missed == {FINE.spec_id}
    assert store.children(run)[FINE.spec_id].info.status == "RUNNING"
    opened(run).log(FINE, None)
    assert store.children(run)[FINE.spec_id].info.status == "FINISHED"


def test_a_store_that_breaks_loses_nothing(
    tmp_path: Path, runs: Path, tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes((runs / "mlflow.db").read_bytes())  # sparing its creation
    records = [attacked(target) for target in range(4)]
    run = write_run(tmp_path / "run", records)
    tracker = opened(run)
    tracker.log(records[0], None)
    whole = database.read_bytes()
    database.write_bytes(b"this is no database " * 1000)
    tracker.log(records[1], None)
    tracker.log(records[2], None)
    tracker.finish({}, "FAILED")
    assert tracker.missed == {records[1].spec_id, records[2].spec_id}
    assert len([r for r in caplog.records if "MLflow takes no runs" in r.message]) == 1
    database.write_bytes(whole)
    tracker.log(records[3], None)
    assert len(Store(tmp_path).children(run)) == 2
    tracker.sync(run)
    assert tracker.missed == set()
    assert set(Store(tmp_path).children(run)) == {r.spec_id for r in records}
    assert {r.info.status for r in Store(tmp_path).children(run).values()} == {"FINISHED"}


def test_sync_passes_over_a_damaged_record(tracker: Tracker, store: Store, run: Path) -> None:
    (run / "records" / "damaged.json").write_text("{")
    (run / "records" / f"{FINE.spec_id}.json").write_text(FINE.to_json())
    tracker.sync(run)
    assert set(store.children(run)) == {FINE.spec_id}


def test_each_row_of_the_table_is_a_run(store: Store, run: Path) -> None:
    records = [
        record(floors=attacked().outcomes),
        attacked(2, labels={"dataset": "cifar10_mini", "attack": "n", "defense": "jpeg"}),
        attacked(3, labels={"dataset": "cifar10_mini", "attack": "n", "defense": "jpeg"}),
    ]
    add_records(run, records)
    tracker = opened(run)
    tracker.sync(run)
    tracker.finish({}, "FINISHED")
    clean, row = store.rows(run)
    assert (clean.info.run_name, row.info.run_name) == ("none / none", "n / jpeg")
    assert row.data.tags["puregen.kind"] == "summary"
    assert row.data.tags["puregen.flags"] == "unverified attack"
    numbers = row.data.metrics
    assert numbers["natural_accuracy"] == 0.75 and numbers["poison_success"] == 0.75
    for name in ("natural_accuracy", "poison_success"):
        assert numbers[f"{name}_low"] <= numbers[name] <= numbers[f"{name}_high"]
    assert (numbers["trials"], numbers["trials_failed"]) == (2, 0)
    assert (numbers["seconds_purify"], numbers["seconds_train"]) == (20, 40)
    assert "poison_success" not in clean.data.metrics
    assert row.data.params["defense.quality"] == "50"
    assert not {"target", "seed.victim"} & set(row.data.params)
    assert row.inputs.dataset_inputs[0].dataset.name == "cifar10_mini"
    assert len(store.children(run)) == 3

    opened(run).finish({}, "FINISHED")  # nothing is new: links to the rows still hold
    assert [r.info.run_id for r in store.rows(run)] == [clean.info.run_id, row.info.run_id]

    add_records(run, [attacked(4, labels=records[1].labels)])
    again = opened(run)
    again.finish({}, "KILLED")
    assert [r.info.run_id for r in store.rows(run)] == [clean.info.run_id, row.info.run_id]
    again.finish({}, "FINISHED")
    same, replaced = store.rows(run)
    assert same.info.run_id == clean.info.run_id
    assert replaced.info.run_id != row.info.run_id and replaced.data.metrics["trials"] == 3


def test_the_page_of_runs_opens_with_what_a_study_varies(store: Store, run: Path) -> None:
    records = []
    for steps in (50, 100):
        one = attacked(labels={"attack": "narcissus", "defense": f"puregen_ebm steps={steps}"})
        ebm = {"name": "puregen_ebm", "ebm": {"recipe": {"lr": 0.1}}, "steps": steps}
        records.append(
            dataclasses.replace(one, spec=one.spec | {"defense": ebm}, spec_id=str(steps))
        )
    add_records(run, records)
    tracker = opened(run)
    tracker.finish({}, "FINISHED")
    (parent,) = store.parents(run)
    link = tracker.links()["study"]
    tags = store.client.get_experiment(parent.info.experiment_id).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{link.partition('viewStateShareKey=')[2]}"])
    found = store.client.search_runs([parent.info.experiment_id], view["searchFilter"])
    assert {r.info.run_id for r in found} == {r.info.run_id for r in store.rows(run)}
    assert {r.data.params["defense.steps"] for r in found} == {"50", "100"}
    parallel = view["compareRunCharts"][-1]
    assert parallel["selectedParams"] == ["attack", "defense", "defense.steps"]
    numbers = set(parallel["selectedMetrics"])
    numbers |= {card["metricKey"] for card in view["compareRunCharts"] if "metricKey" in card}
    assert all(numbers <= set(r.data.metrics) for r in found)


def add_records(run: Path, records: list[TrialRecord]) -> None:
    for one in records:
        (run / "records" / f"{one.spec_id}.json").write_text(one.to_json())


def test_what_a_trial_ran_on_and_what_the_study_repeats_are_tags(store: Store, run: Path) -> None:
    ran_on = {"commit": "abc+", "device": "NVIDIA H100", "processor": "AMD EPYC", "threads": 1}
    add_records(run, [attacked(environment=ran_on)])
    tracker = opened(run, reproduces={"paper": "arXiv:2405.18627", "item": "Table 2"})
    tracker.sync(run)
    tracker.finish({}, "FINISHED")
    expected = {
        "puregen.commit": "abc+",
        "puregen.device": "NVIDIA H100",
        "puregen.processor": "AMD EPYC",
        "puregen.reproduces": "Table 2",
        "puregen.paper": "arXiv:2405.18627",
    }
    for found in (*store.parents(run), *store.children(run).values(), *store.rows(run)):
        assert expected.items() <= found.data.tags.items()


def test_other_images_at_the_same_path_are_another_dataset(store: Store, run: Path) -> None:
    found = []
    for images in ("a" * 64, "b" * 64):
        folder = write_run(
            run.parent / f"{run.name}_{images[0]}",
            [FINE],
            {"inputs": {"dataset cifar10_mini": images, "attack x": "c"}},
        )
        tracker = opened(folder)
        tracker.sync(folder)
        [given] = store.children(folder)[FINE.spec_id].inputs.dataset_inputs
        found.append(given.dataset.digest)
    assert found == ["a" * 32, "b" * 32]


def test_links(tracker: Tracker, store: Store, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.tracking_links.COMPARED", 2)
    tracker.log(FINE, None)
    links = tracker.links()
    (child,) = store.children(run).values()
    assert links["store"] == f"sqlite:///{run.parent / 'mlflow.db'}"
    assert links["ui"] == f"puregen-bench ui {run}"
    assert compared(links["compare"]) == [child.info.run_id]  # no rows yet
    others = [attacked(target, labels={"attack": str(target)}) for target in range(3)]
    add_records(run, [record(), *others])
    tracker.finish({}, "FINISHED")
    rows = {r.info.run_id: r for r in store.rows(run)}
    links = tracker.links()
    assert list(links) == [
        "store", "ui", "study", "charts", "every run", "compare 1-2 of 3", "compare 3-3 of 3",
        "compare without attack",
    ]  # fmt: skip
    names = [rows[i].info.run_name for i in compared(links["compare 1-2 of 3"])]
    assert names == ["0 / jpeg", "1 / jpeg"]
    [clean] = compared(links["compare without attack"])
    assert rows[clean].info.run_name == "none / none"


def compared(link: str) -> list[str]:
    page, runs, _ = unquote(link).replace("&experiments", "?runs").split("?runs=")
    assert page == "http://127.0.0.1:5000/#/compare-runs"
    found: list[str] = json.loads(runs)
    return found


def test_a_long_curve_and_a_long_value(tracker: Tracker, store: Store, run: Path) -> None:
    spec = FINE.spec | {"defense": {"name": "jpeg", "text": "x" * 9000}}
    spec["defense"] |= {f"value_{i}": i for i in range(150)}
    spec["defense"]["parts"] = [{"ddpm": {"k" * 300: {"steps": 5}, "k" * 300 + "l": 6}}]
    long = dataclasses.replace(
        FINE, spec=spec, spec_id="long", curves={"loss": [1 / (1 + i) for i in range(2500)]}
    )
    tracker.log(long, None)
    assert tracker.missed == set()
    child = store.children(run)["long"]
    assert child.data.params["defense.text"] == "x" * 6000
    assert child.data.params["defense.value_149"] == "149"
    nested = [k for k in child.data.params if k.startswith("defense.parts.0.ddpm.kkk")]
    assert sorted(child.data.params[k] for k in nested) == ["5", "6"]
    assert all(len(name) <= 250 for name in nested)
    history = store.client.get_metric_history(child.info.run_id, "loss")
    assert len(history) == 2500


def test_nothing_is_printed(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tracker = opened(run, "another_study")
    tracker.log(FINE, None)
    tracker.finish({}, "FINISHED")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqlit:///x.db", "scheme 'sqlit'. Did you mean 'sqlite'"),
        ("gopher://u:secret@host", r"'gopher://u:\*\*\*@host' has the scheme 'gopher'. Allowed:"),
        ("sqlite:////", "'sqlite:////' cannot be reached: unable to open database file"),
        ("http://127.0.0.1:99999", "cannot be reached: Port out of range"),
        ("some/folder", "'some/folder' cannot be used: .*file"),
    ],
)
def test_a_store_that_cannot_be_used(uri: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        Tracker(uri, "small", tmp_path / "run").start(STUDY)


OPEN = """
import sys, time
from pathlib import Path
import mlflow, mlflow.store.tracking.sqlalchemy_store
from harness.tracking_store import open_client
folder = Path(sys.argv[1])
(folder / sys.argv[2]).touch()
while len(list(folder.glob("ready*"))) < 2:
    time.sleep(0.01)
open_client(f"sqlite:///{folder / 'mlflow.db'}").create_experiment(sys.argv[2])
"""


def test_two_runs_may_make_a_store_at_the_same_moment(tmp_path: Path) -> None:
    names = ["ready0", "ready1"]
    both = [subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path), n]) for n in names]
    assert [process.wait(120) for process in both] == [0, 0]
    client = open_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert {e.name for e in client.search_experiments()} == {"Default", *names}


def test_no_server_at_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, so that nobody else takes the port, and not listening
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(UsageError, match=f"store '{uri}' cannot be reached: .*refused"):
            Tracker(None, "small", tmp_path / "run").start(STUDY)


def test_mlflow_is_loaded_only_when_used() -> None:
    code = "import sys, harness.tracking; print('mlflow' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


def test_names_of_runs() -> None:
    other = record("narcissus", "none", target=None, poison=1, purify=2, victim=3)
    assert run_name(other) == "narcissus → none · seed 1/2/3"
    assert "target" not in params_of(other)


def test_a_grid_shows_the_pixels() -> None:
    images = np.zeros((3, 1, 5, 6), np.uint8)
    images[1] = 200
    grid = np.asarray(sample_grid({"clean": images, "poisoned": images}, magnify=4))
    # Two rows of images of which the second is grey; text may have single pixels of that grey.
    left = grid.shape[1] - 3 * (6 * 4 + 4)
    assert (grid[:, left:] == 200).all(axis=2).sum() == 2 * 5 * 6 * 16
    colours = np.zeros((1, 3, 2, 2), np.uint8)
    colours[0, 0] = 250
    grid = np.asarray(sample_grid({"clean": colours}, magnify=1))
    assert (grid == (250, 0, 0)).all(axis=2).sum() == 4


@pytest.mark.parametrize(
    "stages",
    [
        {},
        {"clean": np.zeros((0, 3, 4, 4), np.uint8)},
        {"clean": np.zeros((1, 2, 4, 4), np.uint8)},
        {"clean": np.zeros((1, 3, 4, 4), np.float32)},
        {"clean": np.zeros((1, 3, 4, 4), np.uint8), "poisoned": np.zeros((2, 3, 4, 4), np.uint8)},
    ],
)
def test_a_grid_of_something_else(stages: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        sample_grid(stages)
