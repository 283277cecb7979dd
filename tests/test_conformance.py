"""The conformance kit: every component passes it, and each broken one breaks the right rule."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness.conformance import check_behaviour, check_component
from harness.conformance_fresh import Fresh, fresh_interpreter
from harness.conformance_rules import Violation
from harness.core.errors import UsageError
from harness.core.protocols import REGISTRIES
from tests.tiny import CommandLine, add_distribution

EVERYTHING = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]


@pytest.fixture(scope="module")
def fresh() -> Iterator[Fresh]:
    """All in one fresh interpreter: if nothing is loaded after all of them, none loads it."""
    with fresh_interpreter(EVERYTHING) as started:
        yield started


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_every_component_behaves(kind: str, name: str, fresh: Fresh) -> None:
    assert list(check_behaviour(kind, name, fresh))


def test_no_component_needs_ray_or_mlflow(fresh: Fresh) -> None:
    assert fresh.loads_alone()


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
        ("too_far", {"BREAK": "step = 5"},
         r"it keeps its Linf bound \(a byte moved by 5; its bounds say 4\)"),
        ("strays", {"MORE": "images[-1] //= 2"},
         r"only poisons differ \(1 rows do whose ids are not in poison_ids\)"),
        ("globally", {"BREAK": "step = np.random.randint(1, 4)"},
         r"poison leaves the process's seeds and settings alone \(numpy's global generator: "),
        ("relabels_others", {"MORE": "labels[-1] = 0"}, "only poisons differ"),
        ("relabels", {"MORE": "labels[rows] = 1"}, r"it keeps labels, as it says \(5 differ\)"),
        ("too_many", {"BREAK": "rows = np.arange(6)"},
         r"it keeps its budget \(6 poisons; its bounds say 5\)"),
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


ROWS = r"it changes pixels or leaves rows out, and nothing else \(it "


@pytest.mark.parametrize(
    ("name", "line", "rule"),
    [
        ("does_nothing", "images = train.images", "it does something"),
        ("looks_around", "images = np.minimum(images, images.mean().astype(np.uint8))",
         "row-wise: a row's bytes do not depend on the other rows"),
        ("wanders", "CALLS.append(1); images = images // len(CALLS)",
         "the same seed, the same bytes"),
        ("relabels_all", "labels = labels * 0", f"{ROWS}changed labels"),
        ("makes_up", "ids = ids + 10**6", f"{ROWS}is row-wise, and did not keep the rows"),
        ("reorders", "images, labels, ids = images[::-1], labels[::-1], ids[::-1]",
         f"{ROWS}is row-wise, and did not keep the rows and their order"),
        ("halves", "images = images[:, :, ::2, ::2]", f"{ROWS}changed the images' shape"),
        ("greys", "images = images[:, :1]", f"{ROWS}changed the images' shape"),
        ("adds_classes", "return ImageSet(images, labels, ids, train.num_classes + 3)",
         f"{ROWS}changed the images' shape or the number of classes"),
        ("empties", "images, labels, ids = images[:0], labels[:0], ids[:0]", f"{ROWS}left no row"),
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
        ("no_type", "    adv_label: int\n", "    adv_label: int\n    cell_px = 2\n",
         "documents 'cell_px' under 'Attributes:', which is no parameter: annotate it"),
        ("no_such", "    adv_label: int\n", "    adv_label: int\n",
         r"violated: each documented attribute is there \['cell_px'\]"),
        ("no_import", "import numpy as np", "import numpy as np, no_such_module",
         "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("quits_early", "CALLS = []", "raise SystemExit(0)",
         "cannot be imported: it ends the program .SystemExit: 0"),
        ("no_syntax", "CALLS = []", "CALLS = [", "cannot be imported: SyntaxError"),
    ],
)  # fmt: skip
def test_what_is_no_component_gives_one_message(
    tmp_path, monkeypatch, name, was, becomes, message
) -> None:
    assert was in ATTACK
    source = ATTACK.replace(was, becomes)
    if name in ("no_type", "no_such"):
        source = source.replace(
            "adv_label: The class.", "adv_label: The class.\n        cell_px: 2."
        )
    outside(tmp_path, monkeypatch, "attack", name, source)
    with pytest.raises(UsageError, match=f"^attack '{name}'.*{message}"):
        list(check_component("attack", name))


def test_a_component_that_loads_ray_is_found(tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray")  # with it in this process, a fresh one has to tell
    source = DEFENSE.replace("CALLS = []", "import ray")
    outside(tmp_path, monkeypatch, "defense", "distributed", source)
    with pytest.raises(Violation, match=r"it loads without ray and mlflow: it loads ray"):
        list(check_component("defense", "distributed"))


HOOK = """class Hook:
    def before_epoch(self, epoch, train, model, rng):
        rows = np.arange(len(train))
        ROWS
        return rows

    def on_batch(self, x, rows, rng):
        BATCH
        return x


@dataclass(frozen=True)"""


def hooked(rows: str = "pass", batch: str = "pass") -> str:
    """Return a defense from outside that acts in the training alone."""
    hook = HOOK.replace("ROWS", rows).replace("BATCH", batch)
    source = DEFENSE.replace("@dataclass(frozen=True)", hook).replace(
        "return ()", "return (Hook(),)"
    )
    return source.replace("train.images // 2", "train.images")


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("takes_ids", {"rows": "rows = rows + 150"},
         r"before_epoch raises DataError: hook outside_takes_ids\.Hook: .* 150 lie outside"),
        ("masks", {"rows": "rows = rows > 3"}, "np.flatnonzero makes positions of a mask"),
        ("repeats", {"rows": "rows[1] = 0"}, "1 stand there again"),
        ("leaves_none", {"rows": "rows = rows[:0]"}, "its hooks leave rows to train on"),
        ("bytes", {"batch": "x = x * 255"}, r"on_batch raises DataError: hook .*got 0\.\.255"),
        ("centred", {"batch": "x = x * 2 - 1"}, r"within \[-0\.5, 1\.5\]; got -1\.\.1"),
        ("not_a_number", {"batch": "x[0, 0, 0, 0] = float('nan')"}, "got nan"),
        ("crops", {"batch": "x = x[..., 1:]"}, r"got \(64, 3, 32, 31\)"),
        ("forgets", {"batch": "x = None"}, "must return a batch; got None"),
        ("dices", {"batch": "x = x * np.random.default_rng().random()"},
         "the same seed, the same batches"),
        ("idles", {}, r"it does something \(no pixel and no row; within 3 epochs of its example"),
        ("breaks", {"batch": "x = 1 / 0"},
         r"on_batch raises ZeroDivisionError: division by zero \(.*outside_breaks\.py:\d+\)"),
    ],
)  # fmt: skip
def test_a_hook_that_breaks_a_rule_is_found(tmp_path, monkeypatch, name, lines, message) -> None:
    outside(tmp_path, monkeypatch, "defense", name, hooked(**lines))
    with pytest.raises(Violation, match=message):
        list(check_behaviour("defense", name))


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("both", ("rows = rng.permutation(rows)[:50]", "x = x + float(rng.normal()) / 100")),
        ("late", ("rows = rows[:50] if epoch == 2 else rows", "pass")),
        ("gradients", ("[p.register_hook(lambda g: g / 2) for p in model.parameters()]", "pass")),
        ("weights", ("[p.data.mul_(0.9) for p in model.parameters()]", "pass")),
    ],
)
def test_a_good_hook_passes(tmp_path, monkeypatch, name, lines) -> None:
    outside(tmp_path, monkeypatch, "defense", f"good_{name}", hooked(*lines))
    rules = list(check_behaviour("defense", f"good_{name}"))
    assert "its hooks return positions of rows, and batches of images" in rules


CLASSIFIER = """
from dataclasses import dataclass, field

import torch

from harness.core.recipe import Recipe

START


class Net(torch.nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.head = torch.nn.Linear(channels, classes)
        BUILT

    def features(self, x):
        return x.mean((2, 3))

    def forward(self, x):
        y = self.head(self.features(x))
        CALLED
        return y


@dataclass(frozen=True, slots=True, kw_only=True)
class It:
    '''A linear network of the mean colour.

    Attributes:
        recipe: How it is trained.
    '''

    recipe: Recipe = field(default_factory=Recipe)

    example = {}

    def build(self, num_classes, image_shape):
        return Net(image_shape[0], num_classes)
"""


def classifier(*, start: str = "pass", built: str = "pass", called: str = "pass") -> str:
    return CLASSIFIER.replace("START", start).replace("BUILT", built).replace("CALLED", called)


def test_a_good_classifier_passes(tmp_path, monkeypatch) -> None:
    outside(tmp_path, monkeypatch, "classifier", "linear", classifier())
    assert "another seed, other first weights" in list(check_behaviour("classifier", "linear"))


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("softmax", {"called": "y = y.softmax(1)"},
         r"it returns logits, no probabilities \(leave softmax out\)"),
        ("batch", {"called": "y = y - y.mean(0)"},
         "in evaluation, an image's logits depend on that image alone"),
        ("dropout", {"called": "y = torch.nn.functional.dropout(y)"},
         "in evaluation, an image's logits depend on that image alone"),
        ("constant", {"built": "torch.nn.init.eye_(self.head.weight); self.head.bias.data.zero_()"},
         "another seed, other first weights"),
        ("seeds", {"built": "torch.manual_seed(0)"},
         r"build leaves the process's seeds and settings alone \(torch's global seed: "),
    ],
)  # fmt: skip
def test_a_broken_classifier_breaks_the_right_rule(
    tmp_path, monkeypatch, name, lines, message
) -> None:
    outside(tmp_path, monkeypatch, "classifier", f"its_{name}", classifier(**lines))
    with torch.random.fork_rng(devices=[]), pytest.raises(Violation, match=f"^violated: {message}"):
        torch.manual_seed(0)  # as another component may have left it
        list(check_behaviour("classifier", f"its_{name}"))


def test_an_import_that_changes_settings_is_found(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("torch.backends.cudnn.benchmark", False)  # to be put back
    source = classifier(start="torch.backends.cudnn.benchmark = True")
    outside(tmp_path, monkeypatch, "classifier", "hasty", source)
    message = r"'hasty' violated: its import leaves .* alone \(cudnn's settings: .*, then "
    with pytest.raises(Violation, match=message):
        list(check_component("classifier", "hasty"))


def test_what_looks_at_its_network_too_early_is_found(tmp_path, monkeypatch) -> None:
    reference = {"name": "hlb_xs", "widths": [8, 8, 8], "recipe": {"epochs": 1}}
    reference["dataset"] = {"name": "shapes", "train": 60}
    for name, line in (("early", "self.net.logits(train.images)"), ("patient", "pass")):
        source = f"from harness.training import Predictor\n{ATTACK}"
        source = source.replace("    adv_label: int\n", "    adv_label: int\n    net: Predictor\n")
        source = source.replace('{"adv_label": 0}', f'{{"adv_label": 0, "net": {reference!r}}}')
        source = source.replace("        pass\n", f"        {line}\n", 1)
        outside(tmp_path, monkeypatch, "attack", name, source)
    rules = list(check_behaviour("attack", "patient"))
    assert "a study can be checked before its networks are trained" in rules
    with pytest.raises(Violation, match=r"a study's check raises .* asks for 'logits' of a"):
        list(check_behaviour("attack", "early"))


@pytest.mark.parametrize(
    ("name", "kind", "was", "becomes", "message"),
    [
        ("raises", "defense", "BREAK", "raise ValueError('kaboom')",
         r"fails: purify raises ValueError: kaboom \(.*outside_raises\.py:\d+\)$"),
        ("lists", "defense", "return ImageSet", "return ids or ImageSet",
         r"fails: purify raises ValueError: The truth value .* \(.*outside_lists\.py:\d+\)$"),
        ("returns_none", "defense", "BREAK", "return",
         r"violated: purify returns ImageSet; it returned None\.$"),
        ("no_hooks", "defense", "return ()", "pass",
         r"violated: hooks returns Sequence; it returned None\.$"),
        ("checks", "defense", "        pass\n", "        train.nothing\n",
         "fails: check raises AttributeError: 'ImageSet' object has no attribute 'nothing'"),
        ("quits", "defense", "BREAK", "raise SystemExit(0)",
         "fails: purify raises SystemExit: it ends the program"),
        ("gone", "attack", "BREAK", "return", "poison returns PoisonedSet; it returned None"),
        ("unbound", "attack", "return Bounds(rows=5, eps_255=4, keeps_labels=True)", "pass",
         "violated: bounds returns Bounds; it returned None"),
        ("bad_bounds", "attack", "return Bounds(rows=5", "return Bounds(row=5",
         r"fails: bounds raises TypeError: .*'row'.* \(.*outside_bad_bounds\.py:\d+\)$"),
        ("array_detail", "attack", "self.goal)", "self.goal, {'loss': np.ones(3)})",
         "fails: poison raises DataError: details are plain numbers; 'loss' is ndarray"),
        ("wide_trigger", "attack", "self.goal)", "self.goal, {}, np.zeros((3, 32, 32)))",
         r"trigger must be float32 of shape \(3, 32, 32\); got float64"),
        ("flat_trigger", "attack", "self.goal)", "self.goal, {}, np.zeros((32, 32), np.float32))",
         r"trigger must be float32 of shape \(3, 32, 32\); got float32 \(32, 32\)"),
    ],
)  # fmt: skip
def test_a_component_that_fails_gives_one_message(
    tmp_path, monkeypatch, name, kind, was, becomes, message
) -> None:
    source = ATTACK if kind == "attack" else DEFENSE
    assert was in source
    outside(tmp_path, monkeypatch, kind, name, source.replace(was, becomes))
    with pytest.raises(UsageError, match=message):
        list(check_behaviour(kind, name))


def test_what_depends_on_the_hash_of_a_text_is_found(tmp_path, monkeypatch) -> None:
    seed = "hash('seed') % 97"
    hashing = {
        "hashed_poisons": ("attack", ATTACK.replace("eps_255=4", "eps_255=None").replace(
            "MORE", f"images[rows] = {seed}")),
        "hashed_pixels": ("defense", DEFENSE.replace("BREAK", f"images = images // (2 + {seed})")),
        "hashed_batches": ("defense", hooked(batch=f"x = x * {seed} / 97")),
    }  # fmt: skip
    components = [(kind, name) for name, (kind, _) in hashing.items()]
    for name, (kind, source) in hashing.items():
        outside(tmp_path, monkeypatch, kind, name, source)
    with fresh_interpreter(components) as fresh:
        for kind, name in components:
            with pytest.raises(Violation, match="the same seed, the same bytes in another interp"):
                list(check_behaviour(kind, name, fresh))


def test_a_failure_names_the_component_and_the_line(tmp_path, monkeypatch, capsys) -> None:
    source = DEFENSE.replace("BREAK", "raise ValueError('kaboom')")
    line = 1 + source[: source.index("raise ValueError")].count("\n")
    outside(tmp_path, monkeypatch, "defense", "explosive", source)
    cli = CommandLine(monkeypatch, capsys)
    assert cli("check-plugin", "defense", "explosive") == 2
    place = tmp_path / "outside_explosive.py"
    assert cli.err == (
        f"error: defense 'explosive' fails: purify raises ValueError: kaboom ({place}:{line})\n"
    )


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
