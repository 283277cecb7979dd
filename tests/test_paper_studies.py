"""The studies that repeat the paper: valid, with a twin, and in the published settings."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts import Store
from harness.classifiers._base import CIFAR_MEAN
from harness.core.errors import UsageError
from harness.core.params import construct, references
from harness.core.protocols import ATTACKS, CLASSIFIERS, DEFENSES
from harness.core.spec import TrialSpec, digest
from harness.paper import ITEMS, without_study
from harness.plan import make_plan
from harness.report.published import closest, items, published
from harness.study import StudySpec, read_study
from harness.study_trials import expand
from harness.sweeps import is_name, names, path_of
from harness.trajectory_plan import plan_trajectories
from harness.workshop import Deferred, Workshop
from tests.tiny import CommandLine, write_study

FULL = [name for name in names() if name.startswith("paper/")]
TWINS = [name for name in names() if name.startswith("cpu/")]
DOC = Path(__file__).resolve().parents[1] / "docs" / "paper.md"


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUREGEN_BENCH_HOME", str(tmp_path / "home"))
    return CommandLine(monkeypatch, capsys)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    """One for all plans: each data set is read once."""
    return Workshop(Store(tmp_path_factory.mktemp("store")), "cpu")


@cache
def study_of(name: str) -> StudySpec:
    return read_study(path_of(name))


@cache
def trials_of(name: str) -> tuple[TrialSpec, ...]:
    study = study_of(name)
    return tuple(expand(study, {digest(d.to_json()): 10 for d in study.datasets}))


def twin_of(name: str) -> str:
    return name.replace("paper/", "cpu/")


def on_real_images(name: str, shared_data: Path) -> list[str]:
    """Return what gives a twin its data."""
    files = {"cifar": "cifar10_mini.npz", "pood": "pood32.npz"}
    used = study_of(name).raw["vars"]
    return [f"vars.{k}={shared_data / 'data' / file}" for k, file in files.items() if k in used]


def ids_of(study: StudySpec) -> list[str]:
    return [t.spec_id for t in expand(study, {digest(d.to_json()): 10 for d in study.datasets})]


def construct_all(trials: tuple[TrialSpec, ...]) -> None:
    """Build every component, without the data and networks that it names."""
    seen = set()
    for trial in trials:
        for registry, spec in ((ATTACKS, trial.attack), (DEFENSES, trial.defense)):
            if (key := digest(spec.to_json())) not in seen:
                seen.add(key)
                found = {}
                for one in references(registry.get(spec.name), spec):
                    many = (*found.get(one.parameter, ()), Deferred()) if one.many else Deferred()
                    found[one.parameter] = many
                construct(registry, spec, found)
        if (key := digest(trial.classifier.to_json())) not in seen:
            seen.add(key)
            construct(CLASSIFIERS, trial.classifier, {})


@pytest.mark.parametrize("name", [*FULL, *TWINS])
def test_each_is_valid_and_says_what_it_repeats_and_costs(name) -> None:
    study = study_of(name)
    assert study.name == name.replace("/", "_")
    assert study.title and "an estimate" in study.cost
    assert bool(trials_of(name)) is not bool(study.trajectories)
    construct_all(trials_of(name))
    if study.reproduces and study.reproduces.reference:
        assert study.reproduces.reference.removesuffix(".csv") in (*items(), "table_5")


@pytest.mark.parametrize("name", FULL)
def test_each_has_a_twin_of_the_same_item_that_is_smaller(name) -> None:
    twin = twin_of(name)
    assert study_of(twin).reproduces == study_of(name).reproduces
    assert len(trials_of(twin)) <= len(trials_of(name))
    followed = [[one.name for one in study_of(n).trajectories] for n in (twin, name)]
    assert followed[0] == followed[1]
    images = [sum(one.count for one in study_of(n).trajectories) for n in (twin, name)]
    assert images[0] <= images[1]
    assert {s.name for s in study_of(twin).datasets} == {"npz"}
    assert list(map(twin_of, FULL)) == TWINS


def test_every_table_and_figure_has_a_study_or_a_reason() -> None:
    named = [item.name for item in ITEMS]
    for wanted in (*(f"Table {i}" for i in range(1, 14)), *(f"Figure {i}" for i in range(1, 13))):
        assert named.count(wanted) == 1
    for item in ITEMS:
        assert (item.study in FULL) is (not item.instead), item.name
        if not item.instead:
            assert study_of(item.study).reproduces.item == item.name


@pytest.mark.parametrize("item", items())
def test_a_full_study_has_a_trial_in_the_very_setting_of_each_published_row(item) -> None:
    specs = {}
    for trial in trials_of(f"paper/{item}"):
        spec = trial.to_json()
        roles = ("dataset", "scenario", "defense", "classifier")
        untargeted = {k: v for k, v in spec["attack"].items() if k not in ("target", "adv_label")}
        specs[digest([untargeted, *(spec[role] for role in roles)])] = spec
    for row in published(item):
        assert any(row.differences(spec) == () for spec in specs.values()), row
    for spec in specs.values():
        found = closest(published(item), spec)
        assert found is None or found[0].other_differences(spec) == ()


# What the studies themselves are held against: arXiv 2405.18627's code trains plain networks with
# torch's SGD and crops with a black border, and arXiv 2009.02276's takes 0.1 of normalised units as
# the step, which is (0.1 / 4.05) / (8 / 255) = 0.79 of a bound of 8 grey levels.
PLAIN = {"optimizer": "sgd", "momentum": 0.9, "nesterov": False, "border": "black", "lr": 0.1}
PLAIN |= {"batch_size": 128, "weight_decay": 5e-4, "label_smoothing": 0.0, "crop_pad": 4}
NARCISSUS = PLAIN | {"batch_size": 350, "epochs": 200, "schedule": "cosine", "warmup": 0.0}
STEPS = {8: 0.8, 16: 0.4}
# Clean networks of the latter, but for shifts by parts of pixels over its mean colour.
BREW = PLAIN | {"nesterov": True, "epochs": 40, "milestones": [14, 24, 35]}


@pytest.mark.parametrize("name", FULL)
def test_victims_and_poisons_of_the_paper_are_made_as_its_code_makes_them(name) -> None:
    for trial in trials_of(name):
        classifier, attack = trial.classifier, trial.attack
        hlb = "hlb" in classifier.name
        if trial.scenario.name == "from_scratch" and not hlb and classifier.name != "vit":
            recipe = classifier.params["recipe"]
            assert {key: recipe[key] for key in PLAIN} == PLAIN, classifier.name
        if attack.name == "narcissus":
            recipe = attack.params["surrogate"]["recipe"]
            assert {key: recipe[key] for key in NARCISSUS} == NARCISSUS
        if attack.name == "gradient_matching":
            assert attack.params["matching"]["step"] == STEPS[attack.params["eps_255"]]
            for network in attack.params["surrogates"]:
                assert {key: network["recipe"][key] for key in BREW} == BREW


# Victims that start from 4,800 images of each class: arXiv 2005.00191 trains their networks, as the
# surrogates of its attack, in 300 epochs with torch's SGD and crops with a black border.
PRETRAINED = PLAIN | {"epochs": 300, "milestones": [150, 225], "schedule": "multistep"}
MOST_OF_CIFAR = {"name": "cifar10", "root": None, "train_per_class": 4800}


def of_transfer() -> Iterator[tuple[TrialSpec, Mapping[str, Any]]]:
    """Yield each trial that starts from such a network, with that network."""
    for trial in chain.from_iterable(map(trials_of, FULL)):
        start = trial.classifier.params.get("pretrained")
        if start and start["dataset"] == MOST_OF_CIFAR:
            yield trial, start


def test_networks_of_transfer_are_trained_as_the_published_ones() -> None:
    networks = {}
    for trial, start in of_transfer():
        for network in (start, *trial.attack.params.get("surrogates", ())):
            networks[digest(network)] = network
    assert {"resnet18", "mobilenet_v2", "densenet121"} < {n["name"] for n in networks.values()}
    for network in networks.values():
        assert {key: network["recipe"][key] for key in PRETRAINED} == PRETRAINED, network["name"]


def test_a_victim_of_transfer_in_a_black_box_starts_from_no_surrogate() -> None:
    for trial, start in of_transfer():
        assert start not in trial.attack.params.get("surrogates", ()), trial.classifier.name


def test_batch_norm_in_fine_tuning_is_the_papers() -> None:
    """Fixed in all its parts for Bullseye Polytope, trained for Narcissus."""
    papers = {"bullseye_polytope": "fixed", "narcissus": "trained"}
    tuned = [trial for trial, _ in of_transfer() if trial.scenario.name == "fine_tune"]
    seen = {(t.attack.name, t.scenario.params["batch_norm"]) for t in tuned}
    assert {pair for pair in seen if pair[0] != "none"} == set(papers.items())


def test_the_trigger_in_fine_tuning_is_sought_on_the_whole_class() -> None:
    """The victims adapt to 50 images of it."""
    tuned = [trial for trial, _ in of_transfer() if trial.attack.name == "narcissus"]
    assert tuned
    for trial in tuned:
        assert trial.scenario.name == "fine_tune"
        assert trial.attack.params["seen"] == {"name": "cifar10", "root": None}


@pytest.mark.parametrize("name", [n for n in TWINS if not study_of(n).before])
def test_twins_can_be_planned_on_real_images(name, shared_data, workshop) -> None:
    study = read_study(path_of(name), on_real_images(name, shared_data))
    if study.trajectories:
        planned = plan_trajectories(study, workshop)
        assert [one.spec for one in planned] == list(study.trajectories)
        return
    plan = make_plan(study, workshop)
    assert len(plan.trials) == len(trials_of(name))
    assert any(unit.stage == "poisons" for unit in plan.units)


@pytest.mark.parametrize("names", [("figure_1", "figure_3", "figure_5"), ("figure_6", "figure_7")])
def test_figures_of_one_trajectory_share_it(names, shared_data, workshop) -> None:
    keys = []
    for name in (f"cpu/{name}" for name in names):
        study = read_study(path_of(name), on_real_images(name, shared_data))
        keys.append({one.spec.name: one.identity for one in plan_trajectories(study, workshop)})
    assert len({key["ebm"] for key in keys}) == 1
    full = [study_of(f"paper/{name}").trajectories[0] for name in names]
    assert full.count(full[0]) == len(full)


def test_a_study_that_needs_another_first_says_so(shared_data, workshop) -> None:
    study = study_of("cpu/table_3")
    [command] = study.before
    assert command.startswith("puregen-bench craft cpu/table_3_poisons --out ")
    ready = read_study(path_of("cpu/table_3"), on_real_images("cpu/table_3", shared_data))
    with pytest.raises(UsageError, match="holds no set of poisons"):
        make_plan(ready, workshop)


# Names


@pytest.mark.parametrize(
    ("text", "named"),
    [("smoke", True), ("smoek", True), ("paper/table_1", True), ("paper/tabel_1", True),
     ("smoke.yaml", False), ("mine/table_1", False), ("/paper/table_1", False)],
)  # fmt: skip
def test_what_is_taken_for_a_name(text, named) -> None:
    assert is_name(text) is named


def test_names_stand_in_the_order_of_the_paper() -> None:
    tables = [name for name in FULL if name.startswith("paper/table_") and "poisons" not in name]
    assert [int(name.rpartition("_")[2]) for name in tables] == [*range(1, 6), *range(7, 14)]
    assert "/" not in names()[0]


def test_the_command_line_finds_them_by_name(cli) -> None:
    assert cli("describe", "study", "cpu/table_3") == 0
    for text in (
        "cpu/table_3 (study, 4 trials)", "Reproduces: Table 3 of arXiv:2405.18627",
        "Before: puregen-bench craft cpu/table_3_poisons", "Costs: about ", "  pood: ../../data",
    ):  # fmt: skip
        assert text in cli.out
    assert cli("validate", "paper/tabel_1") == 2
    assert "unknown study 'paper/tabel_1'. Did you mean 'paper/table_1'?" in cli.err
    assert cli("validate", "cpu/table_5", "--set", "vars.cifar=nowhere.npz") == 2
    assert "nowhere.npz" in cli.err


def test_ls_says_what_each_repeats_and_what_none_does(cli) -> None:
    assert cli("ls", "studies") == 0
    lines = cli.out.splitlines()
    [table_1] = [line for line in lines if line.startswith("paper/table_1 ")]
    assert f" Table 1 {len(trials_of('paper/table_1'))} about " in " ".join(table_1.split())
    assert "Of arXiv:2405.18627 no study repeats:" in lines
    assert all(any(line.startswith(f"{i.name} (") for line in lines) for i in without_study())
    assert cli("ls", "studies", "--json") == 0
    listed = {item["name"]: item for item in json.loads(cli.out)}
    assert listed["cpu/table_10"]["reproduces"] == "Table 10"
    assert listed["cpu/table_10"]["trials"] == len(trials_of("cpu/table_10"))
    assert listed["paper/table_13"]["trials"] == len(trials_of("paper/table_13"))  # crossed seeds
    assert listed["smoke"]["cost"] == ""


def test_the_page_on_the_paper_names_all() -> None:
    text = DOC.read_text()
    assert all(f"`{name}`" in text for name in (*FULL, *TWINS))
    assert all(f"{item.name} " in text for item in ITEMS)


def test_the_page_tells_whose_statistics_networks_for_tiny_imagenet_have() -> None:
    trial = next(t for t in trials_of("paper/table_1") if t.dataset.name == "tiny_imagenet")
    model = construct(CLASSIFIERS, trial.classifier, {}).build(200, (3, 64, 64))
    assert model.mean.flatten().tolist() == pytest.approx(CIFAR_MEAN)
    assert "- Networks for Tiny-ImageNet, victims and surrogates, normalise" in DOC.read_text()


@pytest.mark.parametrize("name", TWINS)
def test_each_twin_stands_there_as_it_is_with_its_report(name) -> None:
    [line] = [x for x in DOC.read_text().splitlines() if f"| `{name}` |" in x]
    trials, _, measured = (cell.strip() for cell in line.split("|")[-4:-1])
    followed = len(study_of(name).trajectories)
    size = f"{followed} trajector{'ies' if followed != 1 else 'y'}"
    assert trials.replace(",", "") == (size if followed else str(len(trials_of(name))))
    if name == "cpu/table_3_poisons":  # poisons alone: what they do stands in Table 3's
        assert re.match(r"crafted, \d+ min, for \[Table 3\]\(reports/table_3\.html\)$", measured)
        return
    link = re.match(r"\[report\]\((reports/\w+\.html)\), \d+ min$", measured)
    assert link is not None, measured
    page = (DOC.parent / link[1]).read_text()
    assert f"Study <code>{study_of(name).name}</code>" in page
    assert f"{size} followed." in page or f"{len(trials_of(name))} trials measured." in page


# The keys for people


def test_what_is_said_of_a_study_changes_no_trial(tmp_path) -> None:
    said = {
        "reproduces": {"paper": "arXiv:1", "item": "Table 1"}, "cost": "little", "before": ["wait"],
    }  # fmt: skip
    for folder in ("plain", "said"):
        (tmp_path / folder).mkdir()
    plain = read_study(write_study(tmp_path / "plain"))
    study = read_study(write_study(tmp_path / "said", **said))
    assert ids_of(study) == ids_of(plain)
    assert (study.reproduces.item, study.cost, study.before) == ("Table 1", "little", ("wait",))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reproduces": "Table 1"}, "reproduces has a paper and an item"),
        ({"reproduces": {"paper": "a", "item": "b", "refrence": "c"}}, "Did you mean 'reference'"),
        ({"cost": 5}, "cost is text, in quotes if need be; got 5"),
        ({"before": "wait"}, "before is a list of commands; got 'wait'"),
    ],
)
def test_what_is_no_such_key(given, message, tmp_path) -> None:
    with pytest.raises(UsageError, match=message):
        read_study(write_study(tmp_path, **given))
