"""From plain values to components: types, ranges, defaults, identity."""

import json
from dataclasses import MISSING, dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import DataError, UnknownComponent, UsageError
from harness.core.params import (
    ComponentSpec,
    Reference,
    complete_classifier,
    construct,
    networks,
    references,
)
from harness.core.protocols import ATTACKS, CLASSIFIERS, DATASETS, DEFENSES
from harness.core.recipe import Recipe
from harness.core.registry import Parameter
from harness.core.spec import Seeds, TrialSpec, digest
from harness.core.values import check_value, typed
from harness.core.yaml_text import read_yaml
from tests.tiny import EBM, component

# Values against types


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, "8", "valid integer; got '8'"),
        (int, True, "valid integer; got True"),
        (int, 8.5, "valid integer.* got 8.5"),
        (int, None, "got None"),
        (float, "1e-3", "valid number; got '1e-3'"),
        (float, [0.1], r"valid number; got \[0.1\]"),
        (float, True, "valid number; got True"),
        (float, float("nan"), "finite number; got nan"),
        (float, float("inf"), "finite number; got inf"),
        (bool, 1, "valid boolean; got 1"),
        (str, 1, "valid string; got 1"),
        (tuple[int, ...], 3, "got 3"),
        (tuple[int, ...], [1, "2"], r"valid integer at \[1\]"),
        (tuple[int, int], [1], r"got \[1\]"),
        (float | None, float("nan"), "finite"),
        (Path, 3, "is a path, in quotes if need be; got 3"),
        (Path, "", "is a path"),
    ],
)
def test_a_value_of_another_type_is_refused(annotation, value, message) -> None:
    parameter = Parameter("x", annotation, None, "")
    with pytest.raises(UsageError, match=f"^jpeg.x.*{message}"):
        check_value(parameter, value, "jpeg.x", None)


@pytest.mark.parametrize(
    ("annotation", "value", "canonical"),
    [
        (float, 1, 1.0),
        (float, 5e-4, 5e-4),
        (int, 2**60, 2**60),
        (tuple[int, ...], [], []),
        (tuple[int, ...], [1, 2], [1, 2]),
        (int | None, None, None),
        (Path | None, None, None),
        (Path, "a/../b.npz", "/study/b.npz"),
        (Path, "/elsewhere/b.npz", "/elsewhere/b.npz"),
    ],
)
def test_a_value_gets_its_canonical_form(annotation, value, canonical) -> None:
    checked = check_value(Parameter("x", annotation, None, ""), value, "x", Path("/study"))
    assert (checked, type(checked)) == (canonical, type(canonical))
    assert check_value(Parameter("x", annotation, None, ""), checked, "x", None) == canonical


@dataclass(frozen=True)
class Inner:
    """Nested.

    Attributes:
        share: In [0, 1].
        file: A file.
    """

    share: float
    file: Path = Path("/default")

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise DataError(f"share must lie in [0, 1]; got {self.share}.")


def test_a_nested_mapping_is_checked_like_a_component() -> None:
    def check(value):
        return check_value(Parameter("x", Inner, MISSING, ""), value, "x", Path("/study"))

    assert check({"share": 1}) == {"share": 1.0}
    assert check({"share": 0, "file": "f"}) == {"share": 0.0, "file": "/study/f"}
    assert typed(Inner, check({"share": 0, "file": "f"})) == Inner(0.0, Path("/study/f"))
    for value, message in (
        ({}, r"^x needs 'share'"),
        ({"share": 2}, r"^x: share must lie in \[0, 1\]; got 2.0"),
        ({"shar": 1}, r"^x has no parameter 'shar'. Did you mean 'share'\? Allowed: file, share"),
        (3, "^x is given as a mapping; got 3"),
    ):
        with pytest.raises(UsageError, match=message):
            check(value)


# Components


@pytest.mark.parametrize(
    ("kind", "raw", "message"),
    [
        ("attack", "badnet", "unknown attack 'badnet'. Did you mean 'badnets'"),
        ("attack", {"budget": 1}, r"attack is a name, or a mapping with a name; got \{'budget'"),
        ("attack", 3, "got 3"),
        ("attack", {"name": "badnets", "budgt": 1}, "'budgt'. Did you mean 'budget'. Allowed: adv"),
        ("defense", {"name": "jpeg", "quality": 50.5}, r"defense \(jpeg\).quality: .*got 50.5"),
        ("defense", {"name": "jpeg", "subsampling": "4:1:1"}, "'4:4:4', '4:2:2' or '4:2:0'"),
        ("classifier", {"name": "hlb_xs", "recipe": {"epochs": 0}}, r"recipe: epochs must be at"),
        ("classifier", {"name": "hlb_xs", "recipe": {"lrr": 1}}, "'lrr'. Did you mean 'lr'"),
        ("defense", {"name": "puregen_ebm", "ebm": {"pat": "x"}}, "mapping with a name"),
        ("defense", {"name": "puregen_ebm", "ebm": {"name": "ebm"}}, "needs a 'dataset'"),
        ("defense", {"name": "puregen_ebm", "ebm": {"path": 1}}, "is a path"),
        ("defense", {"name": "puregen_ebm", "ebm": {"path": "x", "nf": 1}}, "no parameter 'nf'"),
        ("defense", {"name": "puregen_ebm", "ebm": {**EBM, "seed": "0"}}, r"ebm.seed: .*got '0'"),
        ("dataset", {"name": "shapes", "train_per_class": 0}, "must be at least 1; got 0"),
        ("dataset", {"name": "shapes", "train_per_clas": 1}, "Did you mean 'train_per_class'"),
    ],
)
def test_what_a_component_refuses(kind, raw, message) -> None:
    with pytest.raises(UsageError, match=message):
        component(kind, raw)


def test_defaults_are_filled_in_and_written_ones_change_nothing() -> None:
    short = component("defense", "jpeg")
    assert short.params == {"quality": 75, "subsampling": "4:2:0"}
    assert component("defense", {"name": "jpeg", "quality": 75}) == short
    recipe = component("classifier", {"name": "hlb_xs", "recipe": {"epochs": 3}}).params["recipe"]
    assert (recipe["epochs"], recipe["lr"], recipe["batch_size"]) == (3, 0.3, 64)
    attack = component("attack", {"name": "badnets", "budget": 1})
    assert "adv_label" not in attack.params  # a study's targets fill it


def test_a_recipe_by_name() -> None:
    def recipe(**given):
        return component("classifier", {"name": "hlb_xs", "recipe": given}).params["recipe"]

    named = recipe(preset="scratch_80", batch_size=64)
    assert "preset" not in named
    assert (named["milestones"], named["batch_size"], named["lr"]) == ([30, 50, 70], 64, 0.1)
    assert recipe(**named) == named  # the same trial, whether by name or in full
    assert set(Recipe.presets) > {"scratch_200", "linear_40", "fine_tune_60"}
    for name, preset in Recipe.presets.items():
        assert max(preset.milestones, default=0) < preset.epochs, name
    scratch, epic = Recipe.presets["scratch_80"], Recipe.presets["epic_200"]
    assert (scratch.nesterov, scratch.border, scratch.decayed) == (False, "black", "all")
    assert (epic.nesterov, epic.milestones, epic.decayed) == (True, (100, 150), "weights")
    assert epic.border == "reflect"
    with pytest.raises(UsageError, match=r"no preset 'scratch_8'\. Did you mean 'scratch_80'"):
        recipe(preset="scratch_8")


def test_references_are_completed_too() -> None:
    spec = component("defense", {"name": "puregen_ebm", "ebm": EBM})
    reference = spec.params["ebm"]
    assert reference["seed"] == 0
    assert reference["recipe"]["flip"] is True
    assert reference["dataset"]["size"] == 32
    [found] = references(DEFENSES.get("puregen_ebm"), spec)
    assert found == Reference("ebm", "generator", reference)
    spec = component("defense", {"name": "puregen_ebm", "ebm": {"path": "/w"}})
    [found] = references(DEFENSES.get("puregen_ebm"), spec)
    assert found == Reference("ebm", "generator", {"name": "ebm", "path": "/w"})


def test_a_chain_refers_to_defenses_and_what_they_refer_to() -> None:
    parts = ["jpeg", {"name": "puregen_ebm", "ebm": EBM}]
    spec = component("defense", {"name": "chain", "parts": parts})
    entry = DEFENSES.get("chain")
    kinds = [(r.parameter, r.kind, r.raw["name"], r.many) for r in references(entry, spec)]
    names = ("jpeg", "puregen_ebm")
    assert kinds == [("parts", "defense", name, True) for name in names]
    [network] = networks(entry, spec)
    assert (network.kind, network.raw["nf"]) == ("generator", EBM["nf"])
    with pytest.raises(UsageError, match=r"parts\[1\]: unknown defense 'jpg'.* 'jpeg'"):
        component("defense", {"name": "chain", "parts": ["jpeg", "jpg"]})
    with pytest.raises(UsageError, match=r"parts is a list; got 'jpeg'"):
        component("defense", {"name": "chain", "parts": "jpeg"})


CLASSIFIER = {"name": "hlb_xs", "widths": [8, 8, 8]}
START = {"dataset": "shapes", "recipe": {"epochs": 2}}


def test_what_a_victim_starts_from() -> None:
    spec = complete_classifier({**CLASSIFIER, "pretrained": START}, "here")
    start = spec.params["pretrained"]
    assert (start["name"], start["widths"], start["seed"]) == ("hlb_xs", [8, 8, 8], 0)
    assert (start["recipe"]["epochs"], spec.params["recipe"]["epochs"]) == (2, 12)
    assert [r.parameter for r in networks(CLASSIFIERS.get("hlb_xs"), spec)] == ["pretrained"]
    spec = complete_classifier({**CLASSIFIER, "pretrained": {"path": "w.npz"}}, "here", Path("/x"))
    assert spec.params["pretrained"]["path"] == "/x/w.npz"
    for refused, message in [
        ({"name": "resnet18", **START}, "own architecture, 'hlb_xs'; got 'resnet18'"),
        ({"widths": [8, 8, 9], **START}, r"widths differs: \[8, 8, 9\] and \[8, 8, 8\]"),
        ({}, "pretrained needs a 'dataset'"),
        ("w.npz", "pretrained is given as a mapping; got 'w.npz'"),
    ]:
        with pytest.raises(UsageError, match=message):
            complete_classifier({**CLASSIFIER, "pretrained": refused}, "here")


def test_building_a_component() -> None:
    jpeg = construct(DEFENSES, component("defense", "jpeg"), {})
    assert (jpeg.quality, jpeg.subsampling) == (75, "4:2:0")
    net = construct(
        CLASSIFIERS, component("classifier", {"name": "hlb_xs", "widths": [1, 2, 3]}), {}
    )
    assert net.widths == (1, 2, 3)
    assert isinstance(
        construct(DATASETS, component("dataset", {"name": "npz", "path": "x"}), {}).path, Path
    )
    with pytest.raises(UsageError, match="attack 'badnets' needs 'adv_label'"):
        construct(ATTACKS, component("attack", "badnets"), {})
    with pytest.raises(DataError, match=r"^defense 'jpeg': quality must lie in 1\.\.100; got 0\."):
        construct(DEFENSES, ComponentSpec("jpeg", {"quality": 0}), {})


# Registries


def test_registries_find_files_and_name_the_nearest() -> None:
    assert {"badnets", "narcissus", "none"} <= set(ATTACKS.names())
    assert not [name for name in ATTACKS.names() if name.startswith("_")]
    entry = ATTACKS.get("badnets")
    assert (entry.name, entry.paper, entry.origin) == (
        "badnets", "arXiv:1708.06733", "attacks.badnets",
    )  # fmt: skip
    assert entry.summary == entry.doc.splitlines()[0]
    assert list(entry.parameters) == ["adv_label", "budget", "size_px", "margin_px"]
    assert entry.parameters["adv_label"].required
    assert all(p.doc for p in entry.parameters.values())
    with pytest.raises(UnknownComponent, match="Did you mean 'badnets'"):
        ATTACKS.get("badnest")


# Trial specs

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.text(min_size=1, max_size=8)
params = st.dictionaries(st.text(max_size=8).filter(lambda k: k != "name"), plain, max_size=4)
components = st.builds(ComponentSpec, names, params)
seeds = st.builds(Seeds, *[st.integers(0, 2**40)] * 3)
trials = st.builds(
    TrialSpec, *[components] * 5, seeds,
    st.none() | st.integers(0, 999), st.lists(components, max_size=2).map(tuple),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(trials)
def test_a_trial_goes_through_json_and_back(trial) -> None:
    text = json.dumps(trial.to_json(), allow_nan=True)
    again = TrialSpec.from_json(json.loads(text))
    assert again == trial
    if "Infinity" not in text:
        assert again.spec_id == trial.spec_id


TRIAL = TrialSpec(
    ComponentSpec("shapes", {"train": 60, "test": 30}),
    ComponentSpec("from_scratch"),
    ComponentSpec("badnets", {"budget": 0.2, "adv_label": 0}),
    ComponentSpec("jpeg", {"quality": 25}),
    ComponentSpec("hlb_xs", {"recipe": {"epochs": 1, "lr": 0.1}}),
    Seeds(0, 1, 2),
    0,
)


def test_the_hash_does_not_know_the_order_of_keys() -> None:
    def turned(value):
        if isinstance(value, dict):
            return {k: turned(value[k]) for k in reversed(value)}
        return value

    assert TrialSpec.from_json(turned(TRIAL.to_json())).spec_id == TRIAL.spec_id
    assert len(TRIAL.spec_id) == 12


def test_the_hash_knows_every_field() -> None:
    changed = [
        TRIAL,
        replace(TRIAL, dataset=TRIAL.dataset.with_params(train=61)),
        replace(TRIAL, scenario=ComponentSpec("linear_transfer")),
        replace(TRIAL, scenario=TRIAL.scenario.with_params(head="new")),
        replace(TRIAL, attack=TRIAL.attack.with_params(adv_label=1)),
        replace(TRIAL, defense=TRIAL.defense.with_params(quality=26)),
        replace(TRIAL, defense=ComponentSpec("gif", TRIAL.defense.params)),
        replace(TRIAL, classifier=TRIAL.classifier.with_params(recipe={"epochs": 2, "lr": 0.1})),
        *(replace(TRIAL, seeds=Seeds(*s)) for s in ((1, 1, 2), (0, 0, 2), (0, 1, 0))),
        replace(TRIAL, target=None),
        replace(TRIAL, floor_of=(TRIAL.attack,)),
        replace(TRIAL, floor_seeds=(1,)),
        replace(TRIAL, floor_pairs=((TRIAL.attack, 1),)),
    ]
    assert len({t.spec_id for t in changed}) == len(changed)


def test_what_has_no_hash() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"x": float("nan")})


# YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{a: 1e-3, b: -2.5E+4, c: .5e2}", {"a": 0.001, "b": -25000.0, "c": 50.0}),
        ("[1e, 0x10, 1_000]", ["1e", 16, 1000]),
        ("2024-01-31", "2024-01-31"),
        ("{1: x}", {"1": "x"}),
        ("base: &b {x: 1}\nown: {<<: *b, x: 2}\nlike: {<<: *b}",
         {"base": {"x": 1}, "own": {"x": 2}, "like": {"x": 1}}),
        ("", None),
    ],
)  # fmt: skip
def test_yaml_as_people_write_it(text, value) -> None:
    assert read_yaml(text, "it") == value


def test_anchors_share_nothing() -> None:
    read = read_yaml("{a: &x {n: 1}, b: *x}", "it")
    read["a"]["n"] = 2
    assert read["b"] == {"n": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "line 2, column 11: the key 'c' stands twice"),
        ("a: [1", "it is no valid YAML: line 1, column 6"),
        ("!!python/object/apply:os.system [touch x]", "could not determine a constructor"),
        ("a: &x [*x]", "more than mappings"),
        ("!!set {a, b}", "more than mappings"),
        ("\0", "no valid YAML"),
    ],
)
def test_what_is_no_plain_yaml(text, message) -> None:
    with pytest.raises(UsageError, match=message):
        read_yaml(text, "it")
