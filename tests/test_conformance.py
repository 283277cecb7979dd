"""The conformance kit: every component passes it, and each broken one breaks the right rule."""

import textwrap
from pathlib import Path

import pytest

from harness.conformance import Violation, check_behaviour, check_component, loads_alone
from harness.core.errors import UsageError
from harness.core.protocols import REGISTRIES
from tests.tiny import add_distribution

EVERYTHING = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_every_component_behaves(kind: str, name: str) -> None:
    assert list(check_behaviour(kind, name))


def test_no_component_needs_ray_or_mlflow() -> None:
    """All in one fresh interpreter: if none is loaded after all of them, none loads it."""
    assert loads_alone(*(REGISTRIES[kind].get(name).origin for kind, name in EVERYTHING))


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_every_component_is_documented(kind: str, name: str) -> None:
    entry = REGISTRIES[kind].get(name)
    assert 0 < len(entry.summary) < 100
    assert entry.summary.endswith(".")
    assert all(p.doc for p in entry.parameters.values())


def test_the_whole_kit_on_one_component() -> None:
    rules = list(check_component("defenses", "jpeg"))
    assert "it loads without ray and mlflow" in rules
    assert "row-wise: a row's bytes do not depend on the other rows" in rules


# Broken ones

ATTACK = '''
"""An attack from outside."""

from dataclasses import dataclass

import numpy as np

from attacks._triggered import triggered_probes
from harness.core.data import ImageSet, PoisonedSet, Probe
from harness.core.protocols import Bounds

CALLS = []


@dataclass(frozen=True, slots=True, kw_only=True)
class It:
    """Brightens the first rows of a class.

    Attributes:
        adv_label: The class.
    """

    adv_label: int

    goal = "triggered"
    target_field = "adv_label"
    example = {"adv_label": 0}

    def check(self, train, test):
        pass

    def bounds(self, train):
        return Bounds(rows=5, eps_255=4, keeps_labels=True)

    def poison(self, train, test, rng):
        rows = np.flatnonzero(train.labels == self.adv_label)[:5]
        images, labels, ids = train.images.copy(), train.labels.copy(), train.ids
        step = 4
        BREAK
        images[rows] += np.minimum(255 - images[rows], step).astype(np.uint8)
        MORE
        train = ImageSet(images, labels, ids, train.num_classes)
        probes = triggered_probes(test, self.adv_label, [("x1", lambda u8: u8 // 2)])
        LAST
        return PoisonedSet(train, ids[rows], probes, self.goal)
'''
DOC = '''"""Brightens the first rows of a class.

    Attributes:
        adv_label: The class.
    """'''
DEFENSE = '''
"""A defense from outside."""

from dataclasses import dataclass

import numpy as np

from harness.core.data import ImageSet

CALLS = []


@dataclass(frozen=True)
class It:
    """Darkens images."""

    rowwise = True
    example = {}

    def check(self, train):
        pass

    def purify(self, train, rng):
        images, labels, ids = train.images // 2, train.labels, train.ids
        BREAK
        return ImageSet(images, labels, ids, train.num_classes)

    def hooks(self):
        return ()
'''


def outside(folder: Path, monkeypatch, kind: str, name: str, source: str, **lines: str) -> None:
    """Install a component whose source has some lines replaced, or left out."""
    for mark in ("BREAK", "MORE", "LAST"):
        source = source.replace(mark, lines.get(mark, "pass"))
    add_distribution(folder, kind, name, source, "It")
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize("kind", ["attack", "defense"])
def test_the_unbroken_ones_pass(tmp_path, monkeypatch, kind) -> None:
    outside(tmp_path, monkeypatch, kind, f"fine_{kind}", ATTACK if kind == "attack" else DEFENSE)
    assert list(check_behaviour(kind, f"fine_{kind}"))


@pytest.mark.parametrize(
    ("name", "lines", "rule"),
    [
        ("too_far", {"BREAK": "step = 5"}, "it keeps its Linf bound"),
        ("strays", {"MORE": "images[-1] //= 2"}, "only poisons differ"),
        ("relabels_others", {"MORE": "labels[-1] = 0"}, "only poisons differ"),
        ("relabels", {"MORE": "labels[rows] = 1"}, "it keeps labels, as it says"),
        ("too_many", {"BREAK": "rows = np.arange(6)"}, "it keeps its budget"),
        ("idle", {"BREAK": "step = 0"}, "it changes something"),
        ("drops", {"MORE": "images, labels, ids = images[:99], labels[:99], ids[:99]"},
         "it keeps rows, order and ids"),
        ("writes", {"BREAK": "train.images[rows] = 0"}, "its input is untouched"),
        ("forces", {"BREAK": "train.images.base[rows] = 0"}, "its input is untouched"),
        ("unseeded", {"BREAK": "step = np.random.default_rng().integers(1, 5, (5, 3, 32, 32))"},
         "the same seed, the same bytes"),
        ("drifts", {"BREAK": "CALLS.append(1); step = len(CALLS)"},
         "the same seed, the same bytes"),
        ("false_labels", {"LAST": "p = probes[0].images; probes = (Probe('x1', ImageSet(p.images, "
         "(p.labels + 3) % 9 + 1, p.ids, 10), probes[0].adv_labels),)"},
         "its probes are test images with their true labels"),
    ],
)  # fmt: skip
def test_a_broken_attack_breaks_the_right_rule(tmp_path, monkeypatch, name, lines, rule) -> None:
    outside(tmp_path, monkeypatch, "attack", name, ATTACK, **lines)
    with pytest.raises(Violation, match=f"^violated: {rule}"):
        list(check_behaviour("attack", name))


@pytest.mark.parametrize(
    ("name", "line", "rule"),
    [
        ("does_nothing", "images = train.images", "it does something"),
        ("looks_around", "images = np.minimum(images, images.mean().astype(np.uint8))",
         "row-wise: a row's bytes do not depend on the other rows"),
        ("wanders", "CALLS.append(1); images = images // len(CALLS)",
         "the same seed, the same bytes"),
        ("relabels_all", "labels = labels * 0", "it keeps labels"),
        ("makes_up", "ids = ids + 10**6", "it makes up no row"),
        ("writes_too", "train.images.base[:] = 0", "its input is untouched"),
    ],
)  # fmt: skip
def test_a_broken_defense_breaks_the_right_rule(tmp_path, monkeypatch, name, line, rule) -> None:
    outside(tmp_path, monkeypatch, "defense", name, DEFENSE, BREAK=line)
    with pytest.raises(Violation, match=f"^violated: {rule}"):
        list(check_behaviour("defense", name))


def test_a_violation_names_the_component(tmp_path, monkeypatch) -> None:
    outside(tmp_path, monkeypatch, "defense", "lazy", DEFENSE, BREAK="images = train.images")
    with pytest.raises(Violation, match=r"^defense 'lazy' violated: it does something"):
        list(check_component("defense", "lazy"))


@pytest.mark.parametrize(
    ("name", "was", "becomes", "message"),
    [
        ("no_example", 'example = {"adv_label": 0}', "pass", "lacks example; "),
        ("no_contract", "def bounds", "def bound", "lacks bounds; "),
        ("no_summary", DOC, "", "violated: it has a one-line summary"),
        ("no_doc", "adv_label: The class.", "label: The class.",
         r"violated: each parameter is documented \['adv_label'\]"),
        ("no_dataclass", "@dataclass(frozen=True, slots=True, kw_only=True)", "",
         "must be a dataclass"),
        ("no_import", "import numpy as np", "import numpy as np, no_such_module",
         "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("no_syntax", "CALLS = []", "CALLS = [", "cannot be imported: SyntaxError"),
    ],
)  # fmt: skip
def test_what_is_no_component_gives_one_message(
    tmp_path, monkeypatch, name, was, becomes, message
) -> None:
    assert was in ATTACK
    outside(tmp_path, monkeypatch, "attack", name, ATTACK.replace(was, becomes))
    with pytest.raises(UsageError, match=f"^attack '{name}'.*{message}"):
        list(check_component("attack", name))


def test_a_component_that_loads_ray_is_found(tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray")  # with it in this process, a fresh one has to tell
    source = DEFENSE.replace("CALLS = []", "import ray")
    outside(tmp_path, monkeypatch, "defense", "distributed", source)
    with pytest.raises(Violation, match=r"it loads without ray and mlflow it loads \['ray'\]"):
        list(check_component("defense", "distributed"))


def test_a_name_that_two_claim(tmp_path, monkeypatch) -> None:
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        source = textwrap.dedent(DEFENSE)
        add_distribution(tmp_path / part, "defense", "claimed", source, "It")
        info = tmp_path / part / "outside_claimed-1.0.dist-info"
        metadata = (info / "METADATA").read_text()
        (info / "METADATA").write_text(metadata.replace("outside_claimed", f"dist_{part}"))
        info.rename(info.with_name(f"dist_{part}-1.0.dist-info"))
        monkeypatch.syspath_prepend(tmp_path / part)
    with pytest.raises(UsageError, match="'claimed' is claimed by outside_claimed:It and outside"):
        REGISTRIES["defense"].get("claimed")
