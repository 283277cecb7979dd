"""Running a study in this process: what is on disk after it, and what a second call does."""

import json
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from generative.checkpoints import save_ebm
from generative.ebm import EBM, EBMConfig
from harness.core.errors import DataError, UsageError
from harness.core.paths import check_writable
from harness.core.records import TrialRecord
from harness.execution import Done, InProcess, attempt
from harness.plan import make_plan
from harness.report.collect import read_run
from harness.report.summary import summarise
from harness.run import RunSummary, run_study
from harness.study import read_study
from harness.trial import prepare
from harness.units import STAGES
from harness.work import finished
from tests.tiny import STUDY, add_distribution, in_process, run, workshop, write_study

EXPLODES = '''
    """An attack from outside that fails on target 1."""
    from dataclasses import dataclass
    from attacks.badnets import BadNets

    @dataclass(frozen=True, slots=True, kw_only=True)
    class It(BadNets):
        """It."""

        def poison(self, train, test, rng):
            if self.adv_label == 1:
                raise RuntimeError("the fuse was lit")
            return BadNets.poison(self, train, test, rng)
'''
STUMBLES = '''
    """A defense from outside whose hook fails under one attack."""
    from dataclasses import dataclass

    class Hook:
        def before_epoch(self, epoch, train, model, rng):
            if (train.labels == 0).sum() > 6:
                raise RuntimeError("too many of one class")
            return train.labels * 0 + range(len(train))

        def on_batch(self, x, rows, rng):
            return x

    @dataclass(frozen=True)
    class It:
        """It."""
        rowwise = True
        example = {}
        def check(self, train): pass
        def purify(self, train, rng): return train
        def hooks(self): return (Hook(),)
'''


def records(folder: Path) -> dict[str, TrialRecord]:
    found = [TrialRecord.read(p) for p in (folder / "run" / "records").glob("*.json")]
    return {f"{r.labels['attack']}/{r.labels['defense']}/{r.spec['target']}": r for r in found}


def written_at(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (folder / "run" / "records").iterdir()}


# A whole run


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunSummary]:
    folder = tmp_path_factory.mktemp("done")
    return folder, run(folder)


def test_every_trial_has_a_record(done) -> None:
    folder, summary = done
    assert (summary.planned, summary.done, summary.failed, summary.errors) == (4, 4, 0, ())
    assert summary.complete
    found = records(folder)
    assert set(found) == {
        "none/none/None", "none/jpeg/None", "badnets/none/0", "badnets/jpeg/0",
    }  # fmt: skip
    for record in found.values():
        assert (record.status, record.partial, record.test_rows) == ("ok", False, 30)
        assert record.class_names[:2] == ("disc", "box")
        assert record.spec["classifier"]["recipe"]["epochs"] == len(record.curves["loss"]) == 1
    attacked = found["badnets/jpeg/0"]
    assert (attacked.goal, attacked.poisons) == ("triggered", 12)
    assert [o.trials for o in attacked.outcomes] == [27]
    assert attacked.movement.rows_changed == 60
    assert attacked.stages["poison"].reused
    control = found["none/none/None"]
    assert [(o.label, o.target) for o in control.outcomes] == [("badnets", 0)]
    assert control.movement.nothing_moved
    pictures = np.load(folder / "run" / "samples" / f"{attacked.spec_id}.npz")
    assert {k: v.shape for k, v in pictures.items()} == {
        stage: (8, 3, 32, 32) for stage in ("clean", "poisoned", "purified")
    }


def test_the_folder_says_what_was_run(done) -> None:
    folder, _ = done
    said = json.loads((folder / "run" / "study.json").read_text())
    assert said["study"] == STUDY
    assert [t["spec_id"] for t in said["trials"]] == [
        t.spec_id for t in make_plan(read_study(folder / "tiny.yaml"), workshop(folder)).trials
    ]
    assert not said["partial"]


def test_a_second_call_trains_nothing(done) -> None:
    folder, _ = done
    before = written_at(folder)
    summary = run(folder)
    assert (summary.complete, summary.done) == (True, 4)
    assert written_at(folder) == before


def test_a_second_call_with_another_title_goes_on(done) -> None:
    folder, _ = done
    before = written_at(folder)
    assert run(folder, ["title=another", "resources.cpus=2"]).complete
    assert written_at(folder) == before


@pytest.mark.parametrize("damage", ["deleted", "damaged", "failed", "another trial's"])
def test_only_the_trial_that_has_no_good_record_runs_again(done, damage) -> None:
    folder, _ = done
    before, first = written_at(folder), records(folder)
    victim, other = first["badnets/jpeg/0"], first["badnets/none/0"]
    path = folder / "run" / "records" / f"{victim.spec_id}.json"
    {
        "deleted": path.unlink,
        "damaged": lambda: path.write_text("{"),
        "failed": lambda: path.write_text(victim.with_values(status="failed").to_json()),
        "another trial's": lambda: path.write_text(other.to_json()),
    }[damage]()
    assert run(folder).complete
    after, again = written_at(folder), records(folder)
    assert {name for name in after if after[name] != before[name]} == {path.name}
    repeated = again["badnets/jpeg/0"]
    assert repeated.outcomes == victim.outcomes
    assert repeated.class_correct == victim.class_correct
    assert repeated.curves == victim.curves


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"seeds": [1]}, "seeds of the study differ"),
        ({"targets": [1], "controls": False}, "controls, targets of the study differ"),
    ],
)
def test_a_folder_of_another_study_is_refused(done, changes, differs) -> None:
    folder, _ = done
    before = (folder / "run" / "study.json").read_text()
    with pytest.raises(UsageError, match=f"holds a run of something else: {differs}"):
        run(folder, **changes)
    assert (folder / "run" / "study.json").read_text() == before
    write_study(folder)


def test_a_folder_of_other_images_is_refused(tmp_path) -> None:
    def write(level: int) -> None:
        rows = np.full((30, 16, 16, 3), level, np.uint8)
        labels = np.arange(30) % 3
        np.savez(tmp_path / "x.npz", x_train=rows, y_train=labels, x_test=rows, y_test=labels)

    changes = {"dataset": {"name": "npz", "path": "x.npz"}, "defenses": ["none"], "targets": None}
    write(3)
    assert run(tmp_path, attacks=["none"], **changes).complete
    write(4)
    with pytest.raises(UsageError, match="dataset npz changed: the code, or a file"):
        run(tmp_path, attacks=["none"], **changes)


def test_a_folder_of_other_weights_is_refused(tmp_path) -> None:
    changes = {"defenses": [{"name": "puregen_ebm", "steps": 1, "ebm": {"path": "w"}}]}
    save_ebm(tmp_path / "w", EBM(EBMConfig(nf=2)), {})
    assert run(tmp_path, **changes).complete
    save_ebm(tmp_path / "w", EBM(EBMConfig(nf=2)), {})
    with pytest.raises(UsageError, match="defense puregen_ebm changed"):
        run(tmp_path, **changes)


def test_a_folder_of_the_same_words_with_other_meaning_is_refused(done, tmp_path) -> None:
    folder, _ = done
    elsewhere = tmp_path / "run"
    elsewhere.mkdir()
    said = json.loads((folder / "run" / "study.json").read_text())
    said["trials"][2]["spec_id"] = "0" * 12
    (elsewhere / "study.json").write_text(json.dumps(said))
    with pytest.raises(UsageError, match="its trials differ"):
        run(tmp_path)
    (elsewhere / "study.json").write_text("{")
    with pytest.raises(DataError, match=r"study.json' is damaged: .*; give another --out"):
        run(tmp_path)


def test_a_limit_marks_records_until_the_rest_is_done(tmp_path) -> None:
    summary = run(tmp_path, limit=3)
    assert (summary.planned, summary.done) == (3, 3)
    assert [r.partial for r in records(tmp_path).values()] == [True] * 3
    assert json.loads((tmp_path / "run" / "study.json").read_text())["partial"]
    ends = {name: r.environment for name, r in records(tmp_path).items()}
    assert run(tmp_path).complete
    assert [r.partial for r in records(tmp_path).values()] == [False] * 4
    assert {n: r.environment for n, r in records(tmp_path).items() if n in ends} == ends


def test_a_run_equals_the_same_run_elsewhere(done, tmp_path) -> None:
    run(tmp_path)
    here, there = records(tmp_path), records(done[0])
    for name, record in here.items():
        assert record.spec_id == there[name].spec_id
        assert record.outcomes == there[name].outcomes
        assert record.class_correct == there[name].class_correct
        assert record.curves == there[name].curves


# Failures


def test_an_attack_that_fails_takes_along_only_what_needs_it(tmp_path, monkeypatch) -> None:
    add_distribution(tmp_path, "attack", "explodes", EXPLODES, "It")
    monkeypatch.syspath_prepend(tmp_path)
    attacks = [{"name": "badnets", "size_px": 6}, {"name": "explodes", "size_px": 6}]
    summary = run(tmp_path, attacks=attacks, targets=[0, 1], controls=False)
    assert summary.errors == ("explodes target 1 seed 0: RuntimeError: the fuse was lit",)
    assert (summary.planned, summary.done, summary.failed) == (4, 3, 1)
    failed = records(tmp_path)["explodes/jpeg/1"]
    assert failed.status == "failed"
    assert "Traceback" in failed.error
    assert failed.error.startswith("explodes target 1 seed 0: RuntimeError: the fuse was lit\n")
    assert np.isnan(failed.natural_accuracy) and failed.goal == "triggered"
    before = written_at(tmp_path)
    assert run(tmp_path, attacks=attacks, targets=[0, 1], controls=False).failed == 1
    changed = {n for n, at in written_at(tmp_path).items() if at != before[n]}
    assert changed == {f"{failed.spec_id}.json"}  # it alone is tried again


def test_a_clean_training_does_without_poisons_that_fail_until_they_are_there(
    tmp_path, monkeypatch
) -> None:
    fuse = tmp_path / "fuse"
    fuse.touch()
    source = EXPLODES.replace(
        "self.adv_label == 1", f"self.adv_label == 1 and Path({str(fuse)!r}).exists()"
    )
    source = source.replace("from dataclasses", "from pathlib import Path\n    from dataclasses")
    add_distribution(tmp_path, "attack", "fused", source, "It")
    monkeypatch.syspath_prepend(tmp_path)
    study = {
        "attacks": [{"name": "fused", "budget": 0.1}, {"name": "badnets", "budget": 0.1}],
        "targets": [0, 1], "defenses": ["jpeg"], "controls": True,
    }  # fmt: skip

    def clean() -> list[TrialRecord]:
        return [r for r in records(tmp_path).values() if r.spec["attack"]["name"] == "none"]

    def judged(record: TrialRecord) -> set[tuple[str, int | None]]:
        return {(o.label.split()[0], o.target) for o in record.outcomes}

    first = run(tmp_path, **study)
    assert first.planned - first.done == first.failed > 0
    assert all(
        r.status == "ok" or r.spec["attack"]["adv_label"] == 1 for r in records(tmp_path).values()
    )
    assert len(clean()) > 1
    for record in clean():
        assert len(record.unjudged) == 1 and ("fused", 1) not in judged(record)
        assert {("fused", 0), ("badnets", 0), ("badnets", 1)} == judged(record)
    before = written_at(tmp_path)
    assert run(tmp_path, **study).failed == first.failed
    changed = {name for name, at in written_at(tmp_path).items() if before[name] != at}
    assert not changed & {f"{r.spec_id}.json" for r in clean()}  # nothing is new to be judged on
    fuse.unlink()
    assert run(tmp_path, **study).failed == 0
    for record in clean():
        assert record.unjudged == () and ("fused", 1) in judged(record)


def test_a_trial_that_fails_is_recorded_and_the_others_finish(tmp_path, monkeypatch) -> None:
    add_distribution(tmp_path, "defense", "stumbles", STUMBLES, "It")
    monkeypatch.syspath_prepend(tmp_path)
    summary = run(tmp_path, defenses=["stumbles"])
    assert (summary.planned, summary.done, summary.failed) == (4, 3, 1)
    [error] = summary.errors
    assert (
        error == "badnets → stumbles, target 0, seed 0 FAILED: RuntimeError: too many of one class"
    )
    found = records(tmp_path)
    assert {name: r.status for name, r in found.items()} == {
        "none/none/None": "ok", "none/stumbles/None": "ok",
        "badnets/none/0": "ok", "badnets/stumbles/0": "failed",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "source", "error"),
    [
        ("attack", EXPLODES, "leaving_attack target 1 seed 0: SystemExit: it ends the program "),
        ("defense", STUMBLES,
         "badnets → leaving_defense, target 0, seed 0 FAILED: SystemExit: it ends the program "),
    ],
)  # fmt: skip
def test_a_component_that_ends_the_program_fails_alone(
    tmp_path, monkeypatch, kind, source, error
) -> None:
    source = source.replace("RuntimeError(", "SystemExit(0 and ")
    add_distribution(tmp_path, kind, f"leaving_{kind}", source, "It")
    monkeypatch.syspath_prepend(tmp_path)
    if kind == "attack":
        attacks = [{"name": "badnets", "size_px": 6}, {"name": "leaving_attack", "size_px": 6}]
        summary = run(tmp_path, attacks=attacks, targets=[0, 1], controls=False)
    else:
        summary = run(tmp_path, defenses=["leaving_defense"])
    assert (summary.planned, summary.done, summary.failed) == (4, 3, 1)
    assert summary.errors == (f"{error}(SystemExit: 0); a component raises an error instead.",)


def test_one_that_ends_the_program_when_it_is_checked_is_bad_input(tmp_path, monkeypatch) -> None:
    source = STUMBLES.replace("train): pass", "train): raise SystemExit(0)")
    add_distribution(tmp_path, "defense", "leaves_early", source, "It")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="defense 'leaves_early': it ends the program"):
        run(tmp_path, defenses=["leaves_early"])


def test_ctrl_c_is_no_failure_of_a_piece_of_work() -> None:
    def stopped(payload):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(stopped, {})


def test_a_defense_without_an_answer_on_hooks_is_named(tmp_path, monkeypatch) -> None:
    source = STUMBLES.replace("return (Hook(),)", "pass")
    source = source.replace("return train\n", "return train.with_images(255 - train.images)\n")
    add_distribution(tmp_path, "defense", "silent", source, "It")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match="defense 'silent': hooks returned None"):
        shop = workshop(tmp_path)
        plan = make_plan(read_study(write_study(tmp_path, defenses=["silent"])), shop)
        prepare(next(t for t in plan.trials if t.defense.name == "silent"), shop)


class Forgetful(InProcess):
    """Says that a trial is done that has left no record, like a node with a disk of its own."""

    def trials(self, function, payloads, resources):
        yield from (Done(i, {}) for i in range(len(payloads)))


def test_a_record_that_does_not_arrive_is_a_failure(tmp_path) -> None:
    @contextmanager
    def services(work: bool):
        yield Forgetful(), None

    study = read_study(write_study(tmp_path, controls=False))
    summary = run_study(study, workshop(tmp_path), tmp_path / "run", services)
    assert summary.failed == 1
    assert "all nodes must share the folders" in summary.errors[0]


# What is checked before anything is opened


def refuses_to_open(work: bool):
    raise AssertionError("opened")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": [99]}, r"attack 'badnets': adv_label is 99; the data have the classes 0\.\.9"),
        ({"attacks": [{"name": "badnets", "budget": 1.0}]}, "asks for 60 poisons; there are 54"),
        ({"dataset": {"name": "shapes", "test": 0}}, "dataset 'shapes' has no test rows"),
        ({"dataset": {"name": "shapes", "train": 5}}, "5 classes have no row"),
        ({"defenses": ["puregen_ebm"]}, "defense 'puregen_ebm' needs 'ebm'"),
        ({"defenses": [{"name": "chain", "parts": ["epic", "random_noise"]}]},
         "at most one part of a chain acts in the training; 2 do"),
        ({"defenses": [{"name": "puregen_ebm", "ebm": {"name": "ebm", "nf": 8, "dataset": {
            "name": "npz", "path": "no.npz"}}}]}, "no.npz does not exist"),
        ({"attacks": [{"name": "narcissus", "pood": "shapes", "surrogate": {
            "name": "resnet9", "dataset": {"name": "npz"}}}]},
         "attack 'narcissus'.surrogate: dataset 'npz' needs 'path'"),
        ({"classifiers": [{"name": "hlb_xs", "recipe": {"crop_pad": 32}}]},
         "classifier 'hlb_xs': crop_pad 32 needs images of more than 32 px"),
        ({"dataset": {"name": "shapes", "train": 60, "size": 8}},
         r"classifier 'hlb_xs' cannot take images of shape \(3, 8, 8\)"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_found_before_anything_is_opened(tmp_path, changes, message) -> None:
    study = read_study(write_study(tmp_path, **changes))
    with pytest.raises(UsageError, match=message):
        run_study(study, workshop(tmp_path), tmp_path / "run", refuses_to_open)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_opened(tmp_path) -> None:
    study = read_study(write_study(tmp_path))
    for run_folder in (tmp_path / "tiny.yaml", tmp_path / "tiny.yaml" / "run"):
        with pytest.raises(UsageError, match=r"cannot be written: '.*tiny.yaml' is no folder"):
            run_study(study, workshop(tmp_path), run_folder, refuses_to_open)
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(UsageError, match="may not be written"):
            run_study(study, workshop(Path("/nowhere")), tmp_path / "run", refuses_to_open)


def test_a_service_that_cannot_be_opened_leaves_no_folder(tmp_path) -> None:
    def no_cluster(work: bool):
        raise UsageError("no cluster")

    with pytest.raises(UsageError, match="no cluster"):
        study = read_study(write_study(tmp_path))
        run_study(study, workshop(tmp_path), tmp_path / "run", no_cluster)
    assert not (tmp_path / "run").exists()


def test_nothing_to_do_opens_no_executor(done) -> None:
    folder, _ = done
    asked: list[bool] = []

    def services(work: bool):
        asked.append(work)
        return in_process(work)

    study = read_study(write_study(folder))
    assert run_study(study, workshop(folder), folder / "run", services).complete
    assert asked == [False]


# The plan


def test_the_plan_has_each_artefact_once(tmp_path) -> None:
    study = read_study(write_study(tmp_path, targets=[0, 1], seeds=[0, 1]))
    plan = make_plan(study, workshop(tmp_path))
    assert len(plan.trials) == 12
    everything = {t.spec_id for t in plan.trials}
    assert [len(plan.of_stage(stage, everything)) for stage in STAGES] == [0, 0, 4, 2, 4]
    poison = plan.of_stage("poisons", everything)[0]
    assert poison.label == "badnets target 0 seed 0"
    needing = [t for t in plan.trials if t.spec_id in poison.trials]
    assert len(needing) == 4  # itself and the control, with and without the defense
    assert {t.seeds.poison for t in needing} == {0}
    assert plan.of_stage("clean rows", {needing[0].spec_id}) == []  # an undefended control


def test_a_unit_knows_whether_the_store_has_it(done, tmp_path) -> None:
    folder, _ = done
    study = read_study(write_study(folder))
    for shop, there in ((workshop(folder), True), (workshop(tmp_path), False)):
        assert [u.there(shop) for u in make_plan(study, shop).units] == [there] * 3


def test_a_record_of_another_trial_is_no_result(done) -> None:
    folder, _ = done
    assert finished(folder / "run", "0" * 12) is None


def test_the_floor_of_each_poison_seed_is_measured_on_its_own_probes(tmp_path) -> None:
    """One clean training is judged by the probes of each seed's poisons."""
    study = read_study(write_study(tmp_path, seeds={"poison": [0, 1], "victim": [0]}))
    assert run_study(study, workshop(tmp_path), tmp_path / "run", in_process).complete
    records = [TrialRecord.read(f) for f in (tmp_path / "run" / "records").glob("*.json")]
    (control,) = (
        r for r in records if r.spec["attack"]["name"] == r.spec["defense"]["name"] == "none"
    )
    assert control.spec["floor_seeds"] == [1]
    attack = next(r.outcomes[0] for r in records if r.spec["attack"]["name"] != "none")
    floors = [o for o in control.outcomes if o.attack == attack.attack and o.probe == attack.probe]
    assert len(floors) == 2


def test_parts_share_a_clean_victim_that_a_report_counts_once(tmp_path) -> None:
    parts = [{"attacks": [{"name": "badnets", "size_px": size}]} for size in (6, 4)]
    summary = run(tmp_path, attacks=None, parts=parts)
    assert (summary.planned, summary.done) == (6, 6)
    trials = read_run(tmp_path / "run").trials
    control = next(t for t in trials if not t.attacked and not t.defended)
    crafted = {t.record.outcomes[0].attack for t in trials if t.attacked}
    assert {o.attack for o in control.record.outcomes} == crafted and len(crafted) == 2
    rows = summarise(trials).rows
    assert [r.trials for r in rows if r.goal == "none"] == [1, 1]
    floors = [r.headline.floor for r in rows if r.headline]
    assert len(floors) == 4 and None not in floors


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    """The message names what is in the way; nothing is made to find out."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "file/x/y", "link", "link/x"):
        reason = rf"--out '.*{name}' cannot be written: '.*{name.partition('/')[0]}' is no folder"
        with pytest.raises(UsageError, match=reason):
            check_writable(tmp_path / name, "--out")
    check_writable(tmp_path / "new" / "folder")
    assert {p.name for p in tmp_path.iterdir()} == {"file", "link"}


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is closed to root")
def test_where_nothing_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "closed" / "in").mkdir(parents=True)
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(UsageError, match=r"closed' may not be written"):
            check_writable(tmp_path / "closed" / "in" / "x")
    finally:
        (tmp_path / "closed").chmod(0o755)
