"""Searching: on a victim whose best parameters are known, in milliseconds per trial."""

from __future__ import annotations

import csv
import json
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from harness.core.errors import UsageError
from harness.core.records import TrialRecord
from harness.core.seeds import stream
from harness.execution import InProcess
from harness.plan import make_plan
from harness.report.collect import read_run
from harness.search.configuration import rungs
from harness.search.loop import run_search
from harness.search.propose import Tried, propose
from harness.search.results import to_yaml, write_results
from harness.search.space import Dimension
from harness.search.standing import Found
from harness.search.words import honesty
from harness.study import read_study
from harness.sweeps import path_of
from harness.verification.verify import verify
from tests.tiny import STUDY, CommandLine, add_distribution, workshop, write_study

DIAL = '''
    """A defense that writes its two parameters into every image."""
    from dataclasses import dataclass

    @dataclass(frozen=True, slots=True, kw_only=True)
    class It:
        """It."""
        x: float = 0.0
        y: int = 0
        rowwise = True
        example = {}

        def check(self, train):
            if self.y > 20:
                from harness.core.errors import DataError
                raise DataError(f"y is at most 20; got {self.y}.")

        def purify(self, train, rng):
            images = train.images.copy()
            images[:, :, 0, 0] = int(round(self.x * 250))
            images[:, :, 0, 1] = self.y
            images[:, :, 0, 2] = 201
            return train.with_images(images)

        def hooks(self):
            return ()
'''
READER = '''
    """Victims that fall for the share of triggered images that the dial stands on."""
    from dataclasses import dataclass

    import numpy as np
    import torch

    def share(x, y):
        return min(1.0, 0.05 + (x - 0.3) ** 2 + ((y - 11) / 15) ** 2)

    class Victim:
        dtype = torch.float32

        def __init__(self, share, price=0.0):
            self.share, self.price = share, price

        def __call__(self, images):
            labels = np.arange(len(images)) % 10
            if len(images) == 200:  # the test set, whose classes take turns
                labels[: round(self.price * 200)] += 1
                return labels % 10
            labels[:] = 1
            labels[: round(self.share * len(images))] = 0
            return labels

    @dataclass(frozen=True)
    class It:
        """It."""
        pretrained = False
        example = {}

        def train(self, classifier, start, train, rng, *, hooks=(), device="cpu", on_epoch=None):
            first = train.images[0, 0, 0]
            if first[2] != 201:
                return Victim(0.9)
            if first[1] == 13:
                raise RuntimeError("thirteen")
            return Victim(share(first[0] / 250, int(first[1])), price=first[0] / 500)
'''
SPACE = {"x": {"float": [0.0, 1.0]}, "y": {"int": [0, 12]}}
SEARCH: dict[str, Any] = {
    "space": SPACE,
    "configurations": 6,
    "objective": {"minimise": "poison_success"},
}
SEARCHED = {
    "dataset": {"name": "shapes", "train": 60, "test": 200},
    "scenario": "reader",
    "defenses": [{"name": "dial"}],
    "controls": "undefended",
}


@pytest.fixture(autouse=True)
def outside(tmp_path_factory, monkeypatch) -> None:
    folder = tmp_path_factory.mktemp("outside")
    add_distribution(folder, "defense", "dial", DIAL, "It")
    add_distribution(folder, "scenario", "reader", READER, "It")
    monkeypatch.syspath_prepend(folder)


def search(folder: Path, *overrides: str, executor: Any = None, **changes: Any) -> Found:
    """Search in this process; the section is that above with some keys changed."""
    section = {**SEARCH, **changes.pop("search", {})}
    path = write_study(folder, **{**SEARCHED, "search": section, **changes})
    return run_search(
        read_study(path, overrides), workshop(folder), folder / "run",
        lambda: nullcontext(executor or InProcess()),
    )  # fmt: skip


def values_of(found: Found) -> list[dict[str, Any]]:
    return [s.configuration.values for s in found.standings]


def records_of(folder: Path) -> list[TrialRecord]:
    return [TrialRecord.read(p) for p in (folder / "run" / "records").glob("*.json")]


def written_at(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (folder / "run" / "records").iterdir()}


# It finds what is best


def test_optuna_finds_the_best_with_a_fraction_of_the_grid(tmp_path) -> None:
    pytest.importorskip("optuna")
    found = search(tmp_path, search={"algorithm": "optuna", "configurations": 36})
    [chosen] = found.chosen
    assert chosen.numbers[0] == min(s.numbers[0] for s in found.standings)
    assert abs(chosen.configuration.values["x"] - 0.3) < 0.12
    assert abs(chosen.configuration.values["y"] - 11) <= 1
    assert chosen.numbers[0] < 0.075  # 0.05 is the least there is; the grid of 0.1 by 1 has 143
    later = [s.numbers[0] for s in found.standings[20:]]
    assert np.mean(later) < 0.6 * np.mean([s.numbers[0] for s in found.standings[:10]])


def test_the_grid_tries_all_and_agrees_with_the_formula(tmp_path) -> None:
    space = {"x": {"grid": [0.1, 0.3, 0.7]}, "y": {"choice": [3, 11]}}
    section = {"space": space, "algorithm": "grid", "configurations": None}
    section = {k: v for k, v in {**SEARCH, **section}.items() if v is not None}
    path = write_study(tmp_path, **{**SEARCHED, "search": section})
    found = run_search(
        read_study(path), workshop(tmp_path), tmp_path / "run", lambda: nullcontext(InProcess())
    )
    assert len(found.standings) == 6
    for standing in found.standings:
        x, y = (standing.configuration.values[k] for k in "xy")
        expected = 0.05 + (x - 0.3) ** 2 + ((y - 11) / 15) ** 2
        assert standing.numbers[0] == pytest.approx(expected, abs=0.01)
    assert found.chosen[0].configuration.values == {"x": 0.3, "y": 11}


def test_a_bound_keeps_what_is_best_but_too_dear_from_being_chosen(tmp_path) -> None:
    free = search(tmp_path / "free", search={"configurations": 12})
    dear = free.chosen[0].measured["natural_accuracy"].value  # accuracy is 1 - x / 2
    keep = {"natural_accuracy": {"at_least": f"undefended - {1 - dear - 0.02:.4f}"}}
    objective = {"minimise": "poison_success", "keep": keep}
    kept = search(tmp_path / "kept", search={"configurations": 12, "objective": objective})
    assert values_of(kept) == values_of(free)
    within = [s for s in kept.standings if s.keeps]
    assert 0 < len(within) < 12
    assert kept.chosen[0] in within
    assert kept.chosen[0].configuration.values != free.chosen[0].configuration.values
    assert kept.chosen[0].numbers[0] == min(s.numbers[0] for s in within)


def test_bounds_that_nobody_keeps_are_said(tmp_path) -> None:
    keep = {"poison_success": {"at_most": "undefended - 0.89"}}
    found = search(tmp_path, search={"objective": {"minimise": "poison_success", "keep": keep}})
    assert not found.chosen[0].keeps
    assert found.chosen[0].violations[0] == pytest.approx(
        found.chosen[0].numbers[0] - (found.undefended["poison_success"].value - 0.89)
    )
    assert any("no configuration keeps every bound" in line for line in honesty(found))


def test_two_aims_give_a_front_that_nobody_beats(tmp_path) -> None:
    objective = {"minimise": "poison_success", "maximise": "natural_accuracy"}
    found = search(tmp_path, search={"configurations": 12, "objective": objective})
    assert {s.configuration.number for s in found.chosen} == found.front
    for one in found.chosen:
        for other in found.standings:
            better = all(a <= b for a, b in zip(other.numbers, one.numbers, strict=True))
            assert not (better and other.numbers != one.numbers)


# Configurations are ordinary trials


def test_configurations_are_trials_that_report_and_verify_take(tmp_path) -> None:
    found = search(tmp_path, targets=[0, 1])
    run = read_run(tmp_path / "run")
    assert not run.missing and not run.problems
    assert len(run.trials) == 1 + 2 + 6 * 2  # the floor, the undefended, each configuration
    assert "selected by these very trials" in run.study.title
    number = found.chosen[0].configuration
    labels = {t.defense for t in run.trials}
    assert number.label == f"dial x={number.values['x']:g} y={number.values['y']}"
    assert number.label in labels and len(labels) == 7
    # The very trials of a study that names the defense outright.
    spec = {"name": "dial", **number.values}
    plain = read_study(write_study(tmp_path / "plain", **{**SEARCHED, "defenses": [spec]}))
    ids = {t.spec_id for t in make_plan(plain, workshop(tmp_path)).trials}
    assert {t.spec_id for t in number.trials[:1]} < ids


def test_what_was_chosen_can_be_pasted_and_says_how_it_was_chosen(tmp_path) -> None:
    found = search(tmp_path)
    text = to_yaml(found)
    assert "# SELECTED ON THE TEST SET" in text
    chosen = found.chosen[0].configuration
    assert yaml.safe_load(text)["defenses"] == [{"name": "dial", **chosen.values}]
    folder = write_results(found, tmp_path / "run")
    rows = list(csv.DictReader((folder / "configurations.csv").read_text().splitlines()))
    assert [float(r["poison_success"]) for r in rows] == [s.numbers[0] for s in found.standings]
    assert [r["chosen"] for r in rows].count("True") == 1
    table = (folder / "configurations.md").read_text()
    assert table.count("| chosen |") == 1 and "without a defense" in table


def test_the_report_is_on_other_seeds_and_no_trial_is_shared(tmp_path) -> None:
    found = search(tmp_path, search={"report": {"seeds": [7, 8]}})
    assert found.held_out is not None
    reported = read_run(found.held_out)
    assert {t.seeds["victim"] for t in reported.trials} == {7, 8}
    selected = {r.spec_id for r in records_of(tmp_path)}
    assert selected.isdisjoint(t.record.spec_id for t in reported.trials)
    assert {t.defense for t in reported.trials} == {"none", "dial"}
    assert any("none of which it was chosen by" in line for line in honesty(found))


# Stopping and going on


class Stops(InProcess):
    """Is interrupted after some trials, as by Ctrl-C."""

    def __init__(self, after: int) -> None:
        self.left = after

    def trials(self, function, payloads, resources):
        for done in InProcess.units(self, function, payloads, resources):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield done


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_a_search_that_was_stopped_tries_what_it_would_have_tried(tmp_path, algorithm) -> None:
    if algorithm == "optuna":
        pytest.importorskip("optuna")
    keep = {"natural_accuracy": {"at_least": "undefended - 0.2"}}
    objective = {"minimise": "poison_success", "keep": keep}
    section = {
        "algorithm": algorithm, "configurations": 14, "at_once": 3, "objective": objective,
    }  # fmt: skip
    whole = search(tmp_path / "whole", search=section)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "cut", search=section, executor=Stops(12))
    before = written_at(tmp_path / "cut")
    assert 10 < len(before) < 16
    resumed = search(tmp_path / "cut", search=section)
    after = written_at(tmp_path / "cut")
    assert {name: after[name] for name in before} == before  # nothing ran twice
    assert values_of(resumed) == values_of(whole)
    assert [s.numbers for s in resumed.standings] == [s.numbers for s in whole.standings]


def test_a_search_that_was_stopped_before_it_proposed_goes_on(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, executor=Stops(1))
    assert len(search(tmp_path).standings) == 6


def test_a_finished_search_runs_nothing_and_can_be_made_longer(tmp_path) -> None:
    first = search(tmp_path)
    before = written_at(tmp_path)

    def refuses():
        raise AssertionError("opened")

    study = read_study(tmp_path / "tiny.yaml")
    again = run_search(study, workshop(tmp_path), tmp_path / "run", refuses)
    assert values_of(again) == values_of(first)
    longer = search(tmp_path, search={"configurations": 9})
    assert values_of(longer)[:6] == values_of(first) and len(longer.standings) == 9
    assert before.items() <= written_at(tmp_path).items()


def test_a_folder_of_another_search_or_of_a_run_is_refused(tmp_path) -> None:
    search(tmp_path)
    with pytest.raises(UsageError, match="holds another search: search of the study differ"):
        search(tmp_path, search={"seed": 1})
    with pytest.raises(UsageError, match="holds another search: seeds of the study differ"):
        search(tmp_path, seeds=[3])
    (tmp_path / "run" / "search.json").unlink()
    with pytest.raises(UsageError, match="holds a run that is no search"):
        search(tmp_path)


def test_a_configuration_that_fails_is_not_chosen_and_takes_no_other_with_it(tmp_path) -> None:
    found = search(
        tmp_path,
        search={"space": {"y": {"grid": [9, 13, 10]}}, "configurations": 3},
    )
    failed = [s for s in found.standings if s.numbers is None]
    assert [s.configuration.values for s in failed] == [{"y": 13}]
    assert found.chosen[0].configuration.values == {"y": 10}
    assert len(found.errors) == 1 and "thirteen" in found.errors[0]


# Successive halving


def test_halving_gives_the_worse_ones_their_first_trials_only(tmp_path) -> None:
    section = {"configurations": 9, "early_stop": "halving"}
    changes = {"targets": [0], "seeds": [0, 1, 2]}
    halved = search(tmp_path / "halved", search=section, **changes)
    full = search(tmp_path / "full", search={"configurations": 9}, **changes)
    assert rungs(3, halving=True) == (1, 3)
    assert sorted(s.trials for s in halved.standings) == [1] * 6 + [3] * 3
    assert len(records_of(tmp_path / "halved")) == len(records_of(tmp_path / "full")) - 12
    assert halved.chosen[0].configuration.values == full.chosen[0].configuration.values
    whole = [s for s in halved.standings if s.whole]
    dropped = [s for s in halved.standings if not s.whole]
    assert max(s.numbers for s in whole) <= min(s.numbers for s in dropped)


# What is proposed


def test_numbers_are_drawn_within_their_range_and_by_their_logarithm() -> None:
    rng = stream(0, "draws")
    log = Dimension(name="k", kind="int", low=1, high=1000, log=True)
    drawn = np.array([log.draw(rng) for _ in range(2000)])
    assert drawn.min() >= 1 and drawn.max() <= 1000
    assert 0.45 < np.mean(drawn < 31.6) < 0.55
    real = Dimension(name="t", kind="float", low=2e-5, high=3e-4, log=True)
    shown = [real.draw(rng) for _ in range(200)]
    assert all(2e-5 <= value <= 3e-4 and float(f"{value:g}") == value for value in shown)


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_no_configuration_is_proposed_twice_and_a_used_up_space_ends(tmp_path, algorithm) -> None:
    if algorithm == "optuna":
        pytest.importorskip("optuna")
    section = {**SEARCH, "space": {"y": {"int": [0, 4]}}, "algorithm": algorithm}
    study = read_study(write_study(tmp_path, **{**SEARCHED, "search": section}))
    tried: list[Tried] = []
    while batch := propose(study.search, tried, 2):
        tried += [Tried(values, (float(values["y"]),)) for values in batch]
    assert sorted(one.values["y"] for one in tried) == [0, 1, 2, 3, 4]


def test_every_number_of_a_proposal_depends_on_the_seed(tmp_path) -> None:
    sections = [{**SEARCH, "seed": seed} for seed in (0, 0, 1)]
    studies = [
        read_study(write_study(tmp_path, **{**SEARCHED, "search": section})) for section in sections
    ]
    first, same, other = (propose(study.search, [], 5) for study in studies)
    assert first == same
    assert all(a["x"] != b["x"] for a, b in zip(first, other, strict=True))


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spac": {}}, "search has no 'spac'. Did you mean 'space'"),
        ({"space": {}}, "search.space maps parameters"),
        ({"space": {"z": {"int": [1, 2]}}}, r"defenses\[0\] \(dial\) has no parameter 'z'"),
        ({"space": {"x": {"floot": [0, 1]}}}, "x has no 'floot'. Did you mean 'float'"),
        ({"space": {"x": {"float": [1, 0]}}}, r"\[LOW, HIGH\], two numbers"),
        ({"space": {"x": {"float": [0, 1], "log": True}}}, "log: true starts above 0"),
        ({"space": {"y": {"int": [0.5, 2]}}}, "two whole numbers"),
        ({"space": {"y": {"choice": [1, 1]}}}, "a list of different values"),
        ({"space": {"y": {"choice": [1, "a"]}}}, r"\(dial\).y: .* got 'a'"),
        ({"configurations": 0}, "search.configurations is a whole number from 1 on; got 0"),
        ({"algorithm": "optun"}, "search.algorithm is 'optun'. Did you mean 'optuna'"),
        ({"algorithm": "grid"}, "grid needs a list for each parameter .*; x, y are ranges"),
        ({"defense": 3}, "the place of one of the 1 defenses, from 0 on; got 3"),
        ({"early_stop": "asha"}, "halving drops configurations after their first whole trials"),
        ({"objective": "success"}, "search.objective has minimise or maximise"),
        ({"objective": {"minimise": "poison"}}, "no metric 'poison'. Did you mean"),
        ({"objective": {"minimise": "poison_success", "keep": {"natural_accuracy": {
            "at_least": "undefended minus 2"}}}}, "a share in .* got 'undefended minus 2'"),
        ({"report": {"seeds": [-1]}}, "search.report: seeds is a list of different integers"),
        ({"report": {"images": 2}}, "search.report takes targets and seeds"),
    ],
)  # fmt: skip
def test_a_section_that_cannot_be_used_is_said_when_the_study_is_read(
    tmp_path, changes, message
) -> None:
    section = {**SEARCH, **changes}
    with pytest.raises(UsageError, match=message):
        read_study(write_study(tmp_path, **{**SEARCHED, "search": section}))


@pytest.mark.parametrize(
    ("section", "study", "message"),
    [
        ({"space": {"y": {"int": [0, 30]}}}, {}, "defense 'dial': y is at most 20; got 30"),
        ({"early_stop": "halving"}, {}, "needs two or more trials per configuration"),
        ({"report": {"seeds": [1, 0]}}, {}, "target 0 with poison seed 0 and victim seed 0 is one"),
        ({"objective": {"minimise": "poison_success", "keep": {"natural_accuracy": {
            "at_least": "undefended - 0.02"}}}}, {"controls": False}, "compares with undefended"),
    ],
)  # fmt: skip
def test_a_search_that_cannot_work_starts_nothing(tmp_path, section, study, message) -> None:
    with pytest.raises(UsageError, match=message):
        search(tmp_path, search=section, **study)
    assert not (tmp_path / "run").exists()


def test_a_study_of_parts_or_without_attacks_is_refused(tmp_path) -> None:
    changes = {**SEARCHED, "search": SEARCH}
    with pytest.raises(UsageError, match="without 'parts'"):
        read_study(write_study(tmp_path, **changes, parts=[{"seeds": [0]}]))
    with pytest.raises(UsageError, match="the study has none"):
        read_study(write_study(tmp_path, **{**changes, "attacks": ["none"], "targets": None}))


# The command, the package's study, Ray


def test_the_command_searches_tracks_and_shows(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    cli = CommandLine(monkeypatch, capsys)
    section = {**SEARCH, "configurations": 2, "report": {"targets": [1]}}
    path = write_study(tmp_path, **{**SEARCHED, "search": section})
    options = ("--in-process", "--store", tmp_path / "store", "--device", "cpu")
    assert cli("search", path, *options) == 0
    assert "SELECTED ON THE TEST SET" in cli.out and "name: dial" in cli.out
    folder = tmp_path / "runs" / "tiny-search"
    assert (folder / "search" / "chosen.yaml").is_file()
    assert (folder / "report" / "index.html").is_file()
    assert not verify(folder, None).discrepancies
    from mlflow import MlflowClient  # noqa: TID251

    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny-search").experiment_id
    tags = [r.data.tags.get("search.configuration") for r in client.search_runs([experiment])]
    assert sorted(t for t in tags if t is not None) == ["0", "1"]
    assert cli("search", write_study(tmp_path, **SEARCHED), *options) == 2
    assert "has no section 'search'" in cli.err


def test_the_study_of_the_package_has_a_search_that_is_reported_elsewhere() -> None:
    study = read_study(path_of("search_langevin_cpu"))
    assert study.search is not None and study.search.report
    assert [d.name for d in study.search.space] == ["steps", "temperature"]


def test_a_search_on_ray_finds_what_it_finds_in_process(local_ray, tmp_path) -> None:
    from harness.cluster.executor import RayExecutor

    changes = {**STUDY, "controls": "undefended", "search": {
        "space": {"quality": {"int": [10, 90]}}, "configurations": 2,
        "objective": {"minimise": "poison_success"},
    }}  # fmt: skip

    @contextmanager
    def on_ray():
        yield RayExecutor()

    study = read_study(write_study(tmp_path, **changes))
    here = run_search(
        study, workshop(tmp_path / "a"), tmp_path / "a" / "run", lambda: nullcontext(InProcess())
    )
    there = run_search(study, workshop(tmp_path / "b"), tmp_path / "b" / "run", on_ray)
    assert values_of(here) == values_of(there)
    assert [s.numbers for s in here.standings] == [s.numbers for s in there.standings]
    proposed = json.loads((tmp_path / "b" / "run" / "search.json").read_text())["brackets"]
    assert [values for bracket in proposed for values in bracket] == values_of(there)
