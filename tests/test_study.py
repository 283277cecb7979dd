"""Study files: what they expand to, what the command line changes, what is refused."""

import json
from pathlib import Path

import pytest
import yaml

from harness.core.errors import UsageError
from harness.core.spec import Seeds, TrialSpec, digest
from harness.labels import judged_labels, labels_of, names_of
from harness.study import StudySpec, read_study
from harness.study_trials import _cross, count_trials, expand
from harness.sweeps import names, path_of, trained_as
from tests.tiny import EBM, STUDY, component, write_study


def read(folder: Path, *overrides: str, **changes) -> StudySpec:
    return read_study(write_study(folder, **changes), overrides)


def trials_of(study: StudySpec, classes: int = 10):
    return expand(study, {digest(d.to_json()): classes for d in study.datasets})


def table(study: StudySpec, classes: int = 10) -> list[tuple[str, int | None, str, Seeds]]:
    trials = trials_of(study, classes)
    return [(t.attack.name, t.target, t.defense.name, t.seeds) for t in trials]


ZERO = Seeds(0, 0, 0)


# Expansion


def test_controls_are_added_and_come_first(tmp_path) -> None:
    assert table(read(tmp_path)) == [
        ("none", None, "none", ZERO),
        ("none", None, "jpeg", ZERO),
        ("badnets", 0, "none", ZERO),
        ("badnets", 0, "jpeg", ZERO),
    ]
    assert table(read(tmp_path, controls=False)) == [("badnets", 0, "jpeg", ZERO)]
    assert table(read(tmp_path, controls="undefended")) == [
        ("none", None, "none", ZERO),
        ("badnets", 0, "none", ZERO),
        ("badnets", 0, "jpeg", ZERO),
    ]
    own = read(tmp_path, defenses=["jpeg", "none"])
    assert [d.name for d in own.defenses] == ["jpeg", "none"]


def test_a_control_is_judged_by_the_probes_of_every_attack(tmp_path) -> None:
    study = read(tmp_path, targets=[0, 3])
    control, *_ = trials_of(study)
    assert [a.params["adv_label"] for a in control.floor_of] == [0, 3]
    assert all(not t.floor_of for t in trials_of(study) if t.attack.name != "none")


def test_all_targets_are_all_classes(tmp_path) -> None:
    study = read(tmp_path, targets="all", controls=False)
    assert [t.target for t in trials_of(study, classes=4)] == [0, 1, 2, 3]


def test_an_attack_with_a_target_of_its_own_keeps_it(tmp_path) -> None:
    own = {"name": "badnets", "adv_label": 7}
    study = read(tmp_path, attacks=[own, "badnets"], targets=[1], controls=False)
    assert [(t.attack.params["adv_label"], t.target) for t in trials_of(study)] == [(7, 7), (1, 1)]


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        ([0, 5], [Seeds(0, 0, 0), Seeds(5, 5, 5)]),
        ({"victim": [1, 2]}, [Seeds(0, 0, 1), Seeds(0, 0, 2)]),
        ({"poison": [1, 2], "victim": [3]}, [Seeds(1, 0, 3), Seeds(2, 0, 3)]),
        (None, [ZERO]),
    ],
)
def test_seeds(tmp_path, given, seeds) -> None:
    study = read(tmp_path, seeds=given, controls=False)
    assert [t.seeds for t in trials_of(study)] == seeds


def test_an_undefended_trial_does_not_stand_once_per_purification_seed(tmp_path) -> None:
    study = read(tmp_path, seeds={"purify": [4, 5], "victim": [0, 1]})
    found = [row for row in table(study) if row[0] == "badnets"]
    assert [seeds for *_, name, seeds in found if name == "none"] == [
        Seeds(0, 4, 0),
        Seeds(0, 4, 1),
    ]
    assert len([1 for *_, name, _ in found if name == "jpeg"]) == 4


def test_a_clean_training_stands_once_and_is_judged_on_the_probes_of_all_poison_seeds(
    tmp_path,
) -> None:
    """It does not depend on that seed: repeated, it would count as so many independent ones."""
    study = read(tmp_path, seeds={"poison": [7, 8, 9], "victim": [0, 1]})
    clean = [t for t in trials_of(study) if t.attack.name == "none"]
    assert [(t.defense.name, t.seeds) for t in clean] == [
        ("none", Seeds(7, 0, 0)), ("jpeg", Seeds(7, 0, 0)),
        ("none", Seeds(7, 0, 1)), ("jpeg", Seeds(7, 0, 1)),
    ]  # fmt: skip
    assert {t.floor_seeds for t in clean} == {(8, 9)}
    attacked = [t for t in trials_of(study) if t.attack.name != "none"]
    assert len(attacked) == 3 * 2 * 2
    assert {t.floor_seeds for t in attacked} == {()}
    for trial in (*clean, *attacked):
        assert TrialSpec.from_json(trial.to_json()) == trial
    # Seeds in step are repetitions of the whole, clean trainings and all.
    each = read(tmp_path, seeds=[3, 4])
    assert {t.floor_seeds for t in trials_of(each)} == {()}
    assert len(trials_of(each)) == 2 * len(trials_of(read(tmp_path)))


def test_a_grid_is_every_combination(tmp_path) -> None:
    grid = {"quality": [25, 50], "subsampling": ["4:4:4", "4:2:0"]}
    study = read(tmp_path, defenses=[{"name": "jpeg", "grid": grid}], controls=False)
    assert [(d.params["quality"], d.params["subsampling"]) for d in study.defenses] == [
        (25, "4:4:4"), (25, "4:2:0"), (50, "4:4:4"), (50, "4:2:0"),
    ]  # fmt: skip
    data = read(tmp_path, dataset={"name": "shapes", "grid": {"train": [60, 70]}})
    assert [d.params["train"] for d in data.datasets] == [60, 70]
    assert len(trials_of(data)) == 2 * len(trials_of(read(tmp_path)))


def test_short_forms_mean_the_long_ones(tmp_path) -> None:
    short = read(tmp_path / "a", dataset="shapes", attacks="badnets", classifiers="hlb_xs")
    full = read(
        tmp_path / "b", dataset=[{"name": "shapes"}], attacks=[{"name": "badnets"}],
        classifiers=[{"name": "hlb_xs"}],
    )  # fmt: skip
    assert [t.spec_id for t in trials_of(short)] == [t.spec_id for t in trials_of(full)]


# Values that are changed or stand for others


def test_variables(tmp_path) -> None:
    study = read(
        tmp_path, vars={"q": 30, "kind": "classes"}, defenses=[{"name": "jpeg", "quality": "${q}"}],
        dataset={"name": "shapes", "kind": "${kind}"}, title="quality ${q}",
    )  # fmt: skip
    assert study.defenses[1].params["quality"] == 30
    assert study.datasets[0].params["kind"] == "classes"
    assert study.title == "quality 30"


def test_default_then_file_then_command_line(tmp_path) -> None:
    study = read(
        tmp_path, "defenses.0.quality=80", "attacks.0.budget=1e-1", "classifiers.0.recipe.lr=0.2",
        "resources.cpus=2", "seeds.victim=[1, 2]", "name=other",
        seeds={"victim": [0]},
    )  # fmt: skip
    assert study.defenses[1].params == {"quality": 80, "subsampling": "4:2:0"}
    assert study.attacks[1].params["budget"] == 0.1
    recipe = study.classifiers[0].params["recipe"]
    assert (recipe["lr"], recipe["epochs"], recipe["momentum"]) == (0.2, 1, 0.9)
    assert study.resources.cpus == 2
    assert study.overrides == (
        "defenses.0.quality: 25 → 80",
        "attacks.0.budget: 0.2 → 0.1",
        "classifiers.0.recipe.lr: (default) → 0.2",
        "resources.cpus: (default) → 2",
        "seeds.victim: [0] → [1, 2]",
        "name: tiny → other",
    )


def test_setting_one_use_of_an_anchor_leaves_the_other(tmp_path) -> None:
    path = tmp_path / "a.yaml"
    text = yaml.safe_dump({**STUDY, "dataset": None, "defenses": None})
    text += "defenses: [&j {name: jpeg, quality: 30}, {name: jpeg, quality: 31}]\n"
    text = text.replace("dataset: null", "dataset: [&d {name: shapes}, {<<: *d, seed: 1}]")
    path.write_text(text.replace("defenses: null\n", ""))
    study = read_study(path, ["dataset.0.train=70"])
    assert [d.params["train"] for d in study.datasets] == [70, 2000]


def test_where_relative_paths_start(tmp_path, monkeypatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "mine.npz").touch()
    monkeypatch.chdir(here)
    npz = {"name": "npz", "path": "mine.npz"}
    assert read(there, dataset=npz).datasets[0].params["path"] == str(there / "mine.npz")
    found = read(there, "dataset.path=mine.npz", dataset=npz)
    assert found.datasets[0].params["path"] == str(here / "mine.npz")
    found = read(there, "vars.file=mine.npz", dataset={**npz, "path": "${file}"}, vars={"file": 0})
    assert found.datasets[0].params["path"] == str(here / "mine.npz")
    absent = read(there, "dataset.path=other.npz", dataset=npz)
    assert absent.datasets[0].params["path"] == str(there / "other.npz")
    whole = read(there, "dataset={name: npz, path: mine.npz}", dataset=npz)
    assert whole.datasets[0].params["path"] == str(here / "mine.npz")
    both = "vars.both=[{name: npz, path: mine.npz}, {name: npz, path: other.npz}]"
    listed = read(there, both, dataset="${both}", vars={"both": 0}).datasets
    assert [str(d.params["path"]) for d in listed] == [
        str(here / "mine.npz"), str(there / "other.npz"),
    ]  # fmt: skip
    (here / "jpeg").touch()
    assert read(there, "defenses.0.name=jpeg").defenses[1].name == "jpeg"
    assert read(there, "defenses.0={name: jpeg}").defenses[1].name == "jpeg"


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"atacks": 1}, "unknown key 'atacks'. Did you mean 'attacks'. Allowed: name, title"),
        ({"attacks": None}, "the study needs 'attacks': an attack, or a list of them"),
        ({"defenses": []}, "the study needs 'defenses'"),
        ({"scenario": "from_scrath"}, "Did you mean 'from_scratch'"),
        ({"name": ".."}, r"name is made of .* got '\.\.'"),
        ({"name": "a/b"}, "got 'a/b'"),
        ({"title": 3}, "title is text"),
        ({"controls": "no"}, "controls is true, undefended or false; got 'no'"),
        ({"seeds": []}, "seeds is a list of different integers"),
        ({"seeds": [0, 0]}, "seeds is a list of different integers"),
        ({"seeds": [True]}, "seeds is a list of different integers"),
        ({"seeds": [-1]}, "from 0 on"),
        ({"seeds": {"victm": [0]}}, "seeds has no 'victm'. Did you mean 'victim'"),
        ({"targets": 3}, "targets is a list of different integers"),
        ({"targets": ["0"]}, "targets is a list of different integers"),
        ({"resources": {"cpu": 1}}, "resources takes cpus and gpus"),
        ({"resources": {"cpus": 0}}, "from 1 on; got 0"),
        ({"resources": {"cpus": 1.5}}, "whole number"),
        ({"resources": {"gpus": float("nan")}}, "from 0 on; got nan"),
        ({"resources": {"gpus": 1.5}}, "above 1 is a whole number"),
        ({"x-note": float("inf")}, "a number that is not finite"),
        ({"vars": {"used": 1}}, "vars.used is used nowhere"),
        ({"vars": [1]}, "vars is a mapping"),
        ({"title": "${x}"}, r"\$\{x\} is not in vars"),
        ({"defenses": ["jpeg", {"name": "jpeg", "quality": 75}]},
         r"defenses\[0\] and defenses\[1\] \(jpeg\) are the same"),
        ({"dataset": ["shapes", "shapes"]}, r"dataset\[0\] and dataset\[1\] \(shapes\)"),
        ({"defenses": [{"name": "jpeg", "grid": {"quality": 3}}]}, "grid maps parameters to lists"),
        ({"defenses": [{"name": "jpeg", "grid": {"qualty": [3]}}]}, "Did you mean 'quality'"),
        ({"defenses": [{"name": "jpeg", "quality": 3, "grid": {"quality": [3]}}]},
         "'quality' is given, and in the grid as well"),
    ],
)  # fmt: skip
def test_what_a_study_refuses(tmp_path, changes, message) -> None:
    with pytest.raises(UsageError, match=f"^{tmp_path}/tiny.yaml: .*{message}"):
        read(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": None}, "needs a target: give 'targets' for the study, or 'adv_label'"),
        ({"attacks": [{"name": "badnets", "adv_label": 0}]}, "no attack of the study takes"),
        ({"attacks": ["badnets", {"name": "badnets", "adv_label": 0}]},
         "'badnets' on target 0 stands twice"),
    ],
)  # fmt: skip
def test_what_no_trial_can_be_made_of(tmp_path, changes, message) -> None:
    with pytest.raises(UsageError, match=message):
        trials_of(read(tmp_path, **changes))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("quality", "--set takes KEY=VALUE"),
        ("=3", "--set takes KEY=VALUE"),
        ("defenses..quality=3", "--set takes KEY=VALUE"),
        ("defenses.1.quality=3", r"defenses is a list; it has no item '1'. Allowed: 0\.\.0"),
        ("defenses.x.quality=3", "it has no item 'x'"),
        ("targets.0.x=3", "targets.0 is 0, which has no parts"),
        ("defenses.0.quality=[", "the value of --set defenses.0.quality is no valid YAML"),
        ("defenses.0.qualty=3", "Did you mean 'quality'"),
        ("defences.0.quality=3", "unknown key 'defences'. Did you mean 'defenses'"),
        ("classifiers.0.recipee.lr=3", "Did you mean 'recipe'"),
        ("vars.quality=3", "vars.quality is used nowhere"),
    ],
)
def test_what_the_command_line_cannot_set(tmp_path, override, message) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path, override)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b", "must be a mapping; got list"),
        (b"", "must be a mapping; got NoneType"),
        (b"name: [", "no valid YAML: line 1"),
        (b"\xff\xfe\x00x", "no text in UTF-8"),
        (b"name: a\nname: b", "'name' stands twice"),
    ],
)
def test_a_file_that_is_no_study(tmp_path, content, message) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_study(path)


def test_a_study_that_is_not_there(tmp_path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_study(tmp_path / "s.yaml")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_study(tmp_path)


# Labels


def test_labels_say_in_what_namesakes_differ() -> None:
    def labels(kind, *raws):
        return list(labels_of([component(kind, raw) for raw in raws]).values())

    assert labels("defense", "none", {"name": "jpeg", "quality": 25}) == ["none", "jpeg"]
    assert labels("defense", "jpeg", {"name": "jpeg", "quality": 25}) == [
        "jpeg quality=75", "jpeg quality=25",
    ]  # fmt: skip
    ebm, path = (
        {"name": "puregen_ebm", "ebm": EBM},
        {"name": "puregen_ebm", "ebm": {"path": "/a/w"}},
    )
    assert labels("defense", ebm, path) == ["puregen_ebm ebm=ebm", "puregen_ebm ebm=w"]
    other = {**ebm, "ebm": {**EBM, "nf": 16, "dataset": {**EBM["dataset"], "train": 60}}}
    assert labels("defense", ebm, other) == [
        "puregen_ebm nf=8 train=48", "puregen_ebm nf=16 train=60",
    ]  # fmt: skip
    assert labels("defense", ebm, other, path) == [
        "puregen_ebm ebm=ebm nf=8 train=48", "puregen_ebm ebm=ebm nf=16 train=60",
        "puregen_ebm ebm=w",
    ]  # fmt: skip
    wide = [
        {"name": "hlb_xs", "widths": w, "recipe": {"lr": r}}
        for w, r in (([8] * 3, 1e-3), ([9] * 3, 2))
    ]
    assert labels("classifier", *wide) == [
        "hlb_xs widths=8,8,8 lr=0.001",
        "hlb_xs widths=9,9,9 lr=2",
    ]


def test_labels_are_never_alike() -> None:
    close = (1e-4, 1.00000001e-4)
    twins = [{"name": "puregen_ebm", "ebm": {"path": "/w"}, "temperature": t} for t in close]
    one, other = labels_of([component("defense", t) for t in twins]).values()
    assert one != other
    assert one.startswith("puregen_ebm temperature=0.0001 #")


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        (["/a/w", "/b/w"], ["a", "b"]),
        (["/x/eps=8/0/w", "/x/eps=16/0/w"], ["eps=8", "eps=16"]),
        (["/a/v", "/a/w", "/b/w"], ["v", "a/w", "b/w"]),
        (["/w", "/a/w"], ["w", "a"]),
    ],
)
def test_of_paths_labels_have_what_tells_them_apart(paths: list[str], told: list[str]) -> None:
    group = [component("defense", {"name": "puregen_ebm", "ebm": {"path": p}}) for p in paths]
    assert list(labels_of(group).values()) == [f"puregen_ebm path={t}" for t in told]


def test_names_of_a_trial(tmp_path) -> None:
    attacks = [{"name": "badnets", "grid": {"budget": [0.1, 0.2]}}]
    study = read(tmp_path, attacks=attacks, targets=[0, 1])
    control, *_, last = trials_of(study)
    assert names_of(last, study.labels) == {
        "dataset": "shapes", "attack": "badnets budget=0.2", "defense": "jpeg",
        "classifier": "hlb_xs", "scenario": "from_scratch",
    }  # fmt: skip
    judged = list(judged_labels(control, study.labels).values())
    assert judged == ["none", *["badnets budget=0.1"] * 2, *["badnets budget=0.2"] * 2]


PARTS = [
    {"attacks": [{"name": "badnets", "adv_label": 1}], "classifiers": ["hlb_xs"]},
    {
        "scenario": "linear_transfer",
        "dataset": {"name": "shapes", "train": 60, "test": 30, "train_skip_per_class": 2},
        "attacks": [{"name": "badnets", "budget": 0.3}],
        "targets": [0, 2],
        "classifiers": [
            {"name": "hlb_xs", "recipe": {"epochs": 2}, "pretrained": {"dataset": "shapes"}}
        ],
    },
]


def test_a_study_in_parts_is_the_sum_of_them(tmp_path) -> None:
    study = read(tmp_path, parts=PARTS, targets=None, attacks=None, classifiers=None)
    trials = trials_of(study)
    assert len(trials) == 4 + 6
    found = {(t.scenario.name, t.attack.name, t.defense.name, t.target) for t in trials}
    assert ("from_scratch", "badnets", "jpeg", 1) in found
    assert ("linear_transfer", "badnets", "none", 2) in found
    assert ("from_scratch", "badnets", "none", 2) not in found
    controls = [t for t in trials if t.attack.name == "none"]
    assert [len(t.floor_of) for t in controls] == [1, 1, 2, 2]
    # The scenario stands beside it in every table.
    assert {names_of(t, study.labels)["classifier"] for t in trials} == {"hlb_xs"}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "parts is a list of mappings"),
        ([], "parts is a list of mappings"),
        (["x"], r"parts\[0\] is a mapping; got 'x'"),
        ([{"atacks": []}], r"parts\[0\] has no parameter 'atacks'. Did you mean 'attacks'"),
        ([{}, {"attacks": ["badnet"]}], r"parts\[1\]: attacks\[0\]: .*Did you mean 'badnets'"),
        ([{}, {"attacks": []}], r"parts\[1\]: the study needs 'attacks'"),
    ],
)
def test_parts_that_are_refused(tmp_path, parts, message) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path, parts=parts)


def test_parts_that_are_the_same(tmp_path) -> None:
    with pytest.raises(UsageError, match="attack 'badnets' on target 0 stands twice"):
        trials_of(read(tmp_path, parts=[{}, {}]))


def controls_of(study: StudySpec) -> list[TrialSpec]:
    return [t for t in trials_of(study) if t.attack.name == "none"]


def in_parts(folder: Path, *parts: dict[str, object]) -> StudySpec:
    """Parts that differ in their attacks, and in what is given."""
    attacks = ({"name": "badnets", "budget": 0.2, "size_px": size} for size in (6, 4, 2))
    own = [{"attacks": [attack], **part} for attack, part in zip(attacks, parts, strict=False)]
    return read(folder, parts=own, attacks=None)


def sizes(trial: TrialSpec) -> list[tuple[int, int]]:
    """Which attacks a control is judged on, by their size, and under which poison seeds."""
    return [(attack.params["size_px"], seed) for attack, seed in trial.floors]


def test_a_clean_training_of_several_parts_stands_once_judged_on_the_attacks_of_all(
    tmp_path,
) -> None:
    undefended, defended, other = controls_of(
        study := in_parts(tmp_path, {}, {}, {"defenses": ["median_blur"]})
    )
    assert [sizes(t) for t in (undefended, defended, other)] == [
        [(6, 0), (4, 0), (2, 0)], [(6, 0), (4, 0)], [(2, 0)],
    ]  # fmt: skip
    assert [len(t.floor_of) for t in (undefended, defended, other)] == [3, 2, 1]
    assert list(judged_labels(undefended, study.labels).values()) == [
        "none", *(f"badnets size_px={size}" for size in (6, 4, 2))
    ]  # fmt: skip
    assert len(trials_of(study)) == 3 + 3 * 2
    assert count_trials(study, {digest(d.to_json()): 10 for d in study.datasets}) == 9
    repeated = in_parts(tmp_path, {"seeds": [0, 1]}, {"seeds": [1, 2]}, {"seeds": [1, 3]})
    bare = [t for t in controls_of(repeated) if t.defense.name == "none"]
    assert [(t.seeds.victim, sizes(t)) for t in bare] == [
        (0, [(6, 0)]), (1, [(6, 1), (4, 1), (2, 1)]), (2, [(4, 2)]), (3, [(2, 3)]),
    ]  # fmt: skip


def test_clean_trainings_of_parts_with_other_poison_seeds_are_judged_on_what_there_is(
    tmp_path,
) -> None:
    """No attack is crafted under a seed for its floor alone."""
    study = in_parts(
        tmp_path,
        {"seeds": {"poison": [7, 8]}, "controls": "undefended"},
        {"seeds": {"poison": [8], "purify": [1]}},
    )
    undefended, defended = controls_of(study)
    assert sizes(undefended) == [(6, 7), (6, 8), (4, 8)]
    assert sizes(defended) == [(4, 8)]
    # The undefended twin of the defended one, to a report.
    assert [t.seeds for t in (undefended, defended)] == [Seeds(7, 0, 0), Seeds(7, 1, 0)]
    for trial in trials_of(study):
        assert TrialSpec.from_json(trial.to_json()) == trial
    same = in_parts(tmp_path, {"seeds": {"poison": [7, 8]}}, {"seeds": {"poison": [8, 7]}})
    assert {t.floor_seeds for t in controls_of(same)} == {(8,)}
    assert {t.floor_pairs for t in trials_of(same)} == {()}


@pytest.mark.parametrize("name", ["smoke", "demo", "cpu/variance", "paper/table_4"])
def test_a_study_of_one_part_has_the_trials_of_that_part(name) -> None:
    study = read_study(path_of(name))
    (part,) = study.parts
    crossed = _cross(part, {digest(d.to_json()): 10 for d in study.datasets})
    ids = [t.spec_id for t in sorted(crossed, key=lambda t: t.attack.name != "none")]
    assert [t.spec_id for t in trials_of(study)] == ids


def test_a_chain_is_called_by_its_parts(tmp_path) -> None:
    chains = [
        {"name": "chain", "parts": [{"name": "jpeg", "quality": q}, "jpeg"]} for q in (10, 20)
    ]
    labels = read(tmp_path, defenses=chains[:1], controls=False).labels.values()
    assert "jpeg + jpeg" in labels
    labels = read(tmp_path, defenses=chains, controls=False).labels.values()
    assert {"jpeg + jpeg quality=10", "jpeg + jpeg quality=20"} <= set(labels)


# What comes with the package


@pytest.mark.parametrize("name", names())
def test_studies_of_the_package_are_valid(name) -> None:
    study = read_study(path_of(name))
    assert study.title
    assert trials_of(study) or study.trajectories


def test_the_demo_can_train_its_generator() -> None:
    loaded, trained = (
        read_study(path_of("demo"), overrides)
        for overrides in ([], [f"defenses.0.ebm={json.dumps(trained_as('shapes_24px_ebm'))}"])
    )
    assert set(loaded.defenses[1].params["ebm"]) == {"path"}
    assert trained.defenses[1].params["ebm"]["name"] == "ebm"
    assert trained.defenses[2:] == loaded.defenses[2:]
