"""A newcomer's components: from another distribution, and as one file in the tree."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import attacks
import defenses
from harness.conformance import check_behaviour
from harness.core.protocols import ATTACKS, DEFENSES
from harness.core.records import TrialRecord
from tests.test_conformance import ATTACK, DEFENSE
from tests.tiny import CommandLine, add_distribution, run, write_study

CHECKOUT = Path(__file__).resolve().parents[1]
GUIDE = CHECKOUT / "docs" / "adding_a_component.md"
NEWCOMER = ATTACK.replace("BREAK", "pass").replace("MORE", "pass").replace("LAST", "pass")
DARKER = DEFENSE.replace("BREAK", "pass")


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> CommandLine:
    monkeypatch.setenv("PUREGEN_BENCH_HOME", str(tmp_path / "home"))
    return CommandLine(monkeypatch, capsys)


def test_a_distribution_of_a_newcomer(cli, tmp_path, monkeypatch) -> None:
    add_distribution(tmp_path, "attack", "brighten", NEWCOMER, "It")
    add_distribution(tmp_path, "defense", "darken", DARKER, "It")
    monkeypatch.syspath_prepend(tmp_path)
    for kind, name, summary in (
        ("attack", "brighten", "Brightens the first rows of a class."),
        ("defense", "darken", "Darkens images."),
    ):
        assert cli("ls", f"{kind}s") == 0
        assert re.search(rf"^{name} +{summary}", cli.out, re.MULTILINE)
        assert cli("describe", kind, name) == 0
        assert f"{name} ({kind})" in cli.out
        assert f"Defined in outside_{name}" in cli.out
        assert cli("check-plugin", kind, name) == 0
        assert "ok  the same seed, the same bytes" in cli.out


def test_its_study_in_a_process_of_its_own(tmp_path) -> None:
    add_distribution(tmp_path, "attack", "brighten", NEWCOMER, "It")
    add_distribution(tmp_path, "defense", "darken", DARKER, "It")
    study = write_study(tmp_path, attacks=["brighten"], defenses=["darken"])
    env = {
        **os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{CHECKOUT}", "OMP_NUM_THREADS": "1",
        "PUREGEN_BENCH_HOME": str(tmp_path / "home"),
    }  # fmt: skip
    start = [sys.executable, "-m", "harness", "run", str(study), "--in-process", "--no-tracking"]
    done = subprocess.run(
        start, capture_output=True, text=True, check=False, env=env, cwd=tmp_path
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    table = done.stdout[done.stdout.index("attack brighten") :]
    assert re.search(r"^darken +\| ", table, re.MULTILINE)
    page = (tmp_path / "runs/tiny/report/index.html").read_text()
    assert "brighten" in page
    assert "darken" in page


def first_code_block(page: Path) -> str:
    found = re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert found
    return found[1]


def test_the_guides_attack_dropped_into_the_tree(tmp_path, monkeypatch) -> None:
    """The guide's code is run as it stands, so that it cannot grow old."""
    folder = tmp_path / "attacks"
    folder.mkdir()
    name = re.search(r"`attacks/(\w+)\.py`", GUIDE.read_text())[1]
    (folder / f"{name}.py").write_text(first_code_block(GUIDE))
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(folder)])
    assert name in ATTACKS.names()
    assert ATTACKS.get(name).origin == f"attacks.{name}"
    assert list(check_behaviour("attack", name))
    assert run(tmp_path, attacks=[{"name": name, "poisons": 20}]).complete
    found = [TrialRecord.read(p) for p in (tmp_path / "run" / "records").iterdir()]
    attacked = [r for r in found if r.labels["attack"] == name]
    assert [(r.poisons, r.goal) for r in attacked] == [(20, "triggered")] * 2


def test_the_guides_defense_dropped_into_the_tree(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "defenses"
    folder.mkdir()
    text = GUIDE.read_text()
    name = re.search(r"`defenses/(\w+)\.py`", text)[1]
    [code] = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "DEFENSES" in b]
    (folder / f"{name}.py").write_text(code)
    monkeypatch.setattr(defenses, "__path__", [*defenses.__path__, str(folder)])
    assert DEFENSES.get(name).origin == f"defenses.{name}"
    assert list(check_behaviour("defense", name))
    sweep = {"name": name, "grid": {"share": [0.25, 0.5]}}
    assert run(tmp_path, defenses=[sweep]).complete
    found = [TrialRecord.read(p) for p in (tmp_path / "run" / "records").iterdir()]
    made = [r for r in found if r.labels["defense"].startswith(name)]
    assert len(made) == 4 and not any(r.movement.nothing_moved for r in made)


def test_the_guides_hook(tmp_path, monkeypatch) -> None:
    [code] = [
        b for b in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL) if "on_b" in b
    ]
    imports = (
        "import torch\nimport torch.nn.functional as F\nfrom numpy.typing import NDArray\n"
        "from torch import Tensor, nn\n"
    )
    defense = DARKER.replace("@dataclass", f"{code}\n\n@dataclass", 1)
    source = imports + defense.replace("return ()", "return (DropHardest(),)")
    add_distribution(
        tmp_path, "defense", "guides_hook", source.replace("images // 2", "images"), "It"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "it does something" in list(check_behaviour("defense", "guides_hook"))


def test_a_file_that_registers_nothing_or_twice(tmp_path, monkeypatch, cli) -> None:
    folder = tmp_path / "attacks"
    folder.mkdir()
    code = first_code_block(GUIDE)
    twice = code + code[code.index("@ATTACKS") :].replace("class Inverted", "class Twice")
    (folder / "silent.py").write_text('"""Nothing."""\n')
    (folder / "twice.py").write_text(twice)
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(folder)])
    assert cli("describe", "attack", "silent") == 2
    assert "the file of attack 'silent' registers no component" in cli.err
    for _ in range(2):
        assert cli("describe", "attack", "twice") == 2
    assert "registers InvertedCorner and TwiceCorner; one file is one component" in cli.err
    assert cli("ls", "attacks") == 0  # one broken file does not hide the others
    assert re.search(r"^badnets +Stamps", cli.out, re.MULTILINE)
    assert re.search(r"^silent +\(the file of", cli.out, re.MULTILINE)


def test_a_plugin_cannot_take_the_place_of_what_is_there(tmp_path, monkeypatch) -> None:
    jpeg = DEFENSES.get("jpeg")
    add_distribution(tmp_path, "defense", "better", DARKER, "It")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "jpeg.py").write_text(
        "from harness.core.protocols import DEFENSES\n"
        + DARKER.replace("@dataclass", '@DEFENSES.register(paper="a paper")\n@dataclass')
    )
    info = tmp_path / "outside_better-1.0.dist-info" / "entry_points.txt"
    info.write_text("[puregen_bench.defenses]\nbetter = elsewhere.jpeg:It\n")
    monkeypatch.syspath_prepend(tmp_path)
    better = DEFENSES.get("better")
    assert (better.origin, better.paper) == ("elsewhere.jpeg", "a paper")
    assert DEFENSES.get("jpeg") is jpeg
