"""What the author of a component gets wrong is one message that names component and parameter."""

import re
from pathlib import Path

import pytest

import attacks
from harness.core.errors import UsageError
from harness.core.protocols import ATTACKS
from tests.test_plugins import GUIDE, first_code_block
from tests.tiny import CommandLine, add_distribution, write_study

GOOD = first_code_block(GUIDE)
FIELD = "    poisons: int = 100\n"


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> CommandLine:
    monkeypatch.setenv("PUREGEN_BENCH_HOME", str(tmp_path / "home"))
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def broken(tmp_path, monkeypatch, request) -> str:
    """A file in the tree with the guide's attack and a mistake; each has a name of its own."""
    assert FIELD in GOOD
    folder: Path = tmp_path / "attacks"
    folder.mkdir()
    name = "broken_" + re.sub(r"\W", "_", request.node.callspec.id)[:40]
    (folder / f"{name}.py").write_text(request.param(GOOD))
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(folder)])
    return name


def field(line: str):
    """Return a change that adds a documented field."""
    name = re.match(r"\w+", line)[0]

    def change(code: str) -> str:
        documented = code.replace(
            "    Attributes:\n", f"    Attributes:\n        {name}: Cells.\n", 1
        )
        return documented.replace(FIELD, f"{FIELD}    {line}\n", 1)

    return change


AT_IMPORT = {
    "mutable": (field("cells: list = [1, 2]"), "mutable default .* for field cells"),
    "by_zero": (lambda code: f"{code}\n1 / 0\n", "cannot be imported: ZeroDivisionError: division"),
    "exits": (
        lambda code: f"{code}\nraise SystemExit(3)\n",
        "cannot be imported: it ends the program .SystemExit: 3",
    ),
    "bare": (
        lambda code: re.sub(r"@ATTACKS.register\(.*\)", "@ATTACKS.register", code),
        r"has @ATTACKS.register without parentheses; write @ATTACKS.register\(\)",
    ),
    "unknown": (field("cells: Foo = 2"), "the annotation of parameter 'cells' .* 'Foo' is not def"),
    "factory": (
        lambda code: field("cells: int = field(default_factory=lambda: 1 // 0)")(code).replace(
            "import dataclass\n", "import dataclass, field\n"
        ),
        "the default of parameter 'cells' cannot be made: ZeroDivisionError",
    ),
}
OF_FIELDS = {
    "complex": (field("cells: complex = 1j"), "the default of 'cells'.* is no plain value"),
    "frozenset": (
        field("cells: frozenset = frozenset({1})"), "the default of 'cells'.* is no plain value",
    ),
    "float": (field("cells: int = 16.5"), "the default of 'cells'.* valid integer.*got 16.5"),
    "dict": (field("cells: dict = 2"), "the default of 'cells'.* should be an object; got 2"),
    "nan": (field("cells: float = float('nan')"), "the default of 'cells'.* finite number"),
    "strange": (field("cells: np.random.Generator = 3"), "the default of 'cells'.* no study can"),
    "untyped": (field("cell_px = 2"), "documents 'cell_px' under 'Attributes:', which is no param"),
}  # fmt: skip


def cases(which):
    return pytest.mark.parametrize(
        ("broken", "message"), which.values(), ids=which.keys(), indirect=["broken"]
    )


@cases({**AT_IMPORT, **OF_FIELDS})
def test_it_is_one_message(cli, tmp_path, broken, message) -> None:
    study = write_study(tmp_path, attacks=[broken])
    for command in (
        ("describe", "attack", broken), ("check-plugin", "attack", broken), ("validate", study),
    ):  # fmt: skip
        assert cli(*command) == 2
        assert re.fullmatch(rf"error: .*{broken}.*{message}.*\n", cli.err), cli.err


def first_in_check(line: str):
    """Return a change that begins the attack's check with a line."""
    check = "        check_label(self.adv_label, train)\n"
    assert check in GOOD
    return lambda code: code.replace(check, f"        {line}\n{check}")


def first_built(code: str) -> str:
    """Return the attack with a construction that fails."""
    return code.replace(
        "    def check", "    def __post_init__(self):\n        1 / 0\n\n    def check", 1
    )


WHEN_CHECKED = {
    "check": (first_in_check("train.nothing"), r"AttributeError: 'ImageSet' .* \(.*\.py:\d+\)"),
    "quits": (first_in_check("raise SystemExit(0)"), "it ends the program .SystemExit: 0"),
    "built": (first_built, r"ZeroDivisionError: division by zero \(.*\.py:\d+\)"),
}


@cases(WHEN_CHECKED)
def test_what_it_raises_before_the_start_is_one_message(cli, tmp_path, broken, message) -> None:
    assert cli("validate", write_study(tmp_path, attacks=[broken])) == 2
    assert re.fullmatch(rf"error: attack '{broken}': {message}.*\n", cli.err), cli.err


@pytest.mark.parametrize("line", ["{}['absent']", "raise SystemExit(0)"])
def test_what_a_dataset_raises_is_one_message(cli, tmp_path, monkeypatch, line) -> None:
    name = "odd_data" if "absent" in line else "quitting_data"
    source = f"""
        from dataclasses import dataclass

        @dataclass(frozen=True)
        class It:
            example = None

            def load(self):
                {line}
        """
    add_distribution(tmp_path, "dataset", name, source, "It")
    monkeypatch.syspath_prepend(tmp_path)
    assert cli("validate", write_study(tmp_path, dataset=name)) == 2
    assert re.fullmatch(rf"error: dataset '{name}': .*(absent|ends).* \(.*\.py:\d+\)\n", cli.err)


def with_surrogate(line: str):
    """Return a change that adds a network, which is looked at in the attack's check."""

    def change(code: str) -> str:
        surrogate = field("surrogate: 'Predictor | None' = None")(first_in_check(line)(code))
        return f"{surrogate}\n\nfrom harness.training import Predictor\n"

    return change


UNTRAINED = {
    "asks": (with_surrogate("self.surrogate.logits(train.images)"), "asks for 'logits' of a netw"),
    "calls": (with_surrogate("self.surrogate(train.images)"), "asks for '__call__' of a network"),
    "has": (with_surrogate("assert not hasattr(self.surrogate, 'model')"), ""),
}


@cases(UNTRAINED)
def test_a_check_that_looks_at_a_network_says_when_it_may(cli, tmp_path, broken, message) -> None:
    surrogate = {"name": "hlb_xs", "widths": [8, 8, 8], "dataset": {"name": "shapes", "train": 60}}
    study = write_study(tmp_path, attacks=[{"name": broken, "surrogate": surrogate}])
    assert cli("validate", study) == (2 if message else 0), cli.err
    if message:
        assert re.fullmatch(rf"error: attack '{broken}': it {message}.*poison.*\n", cli.err)


@cases(AT_IMPORT)
def test_it_does_not_hide_the_others(cli, broken, message) -> None:
    for _ in range(2):  # nor does what was registered before it failed stay
        assert cli("ls", "attacks") == 0
        assert re.search(r"^badnets +Stamps", cli.out, re.MULTILINE)
        with pytest.raises(UsageError, match=message):
            ATTACKS.get(broken)


@pytest.mark.parametrize(
    ("broken", "message"),
    [(lambda code: f"{code}\nraise KeyboardInterrupt\n", "")],
    ids=["interrupt"],
    indirect=["broken"],
)
def test_an_interruption_is_no_mistake(broken, message) -> None:
    with pytest.raises(KeyboardInterrupt):
        ATTACKS.get(broken)


@pytest.mark.parametrize(
    ("broken", "message"),
    [(field("cells: ClassVar[int] = 2"), "")],
    ids=["constant"],
    indirect=["broken"],
)
def test_a_constant_may_be_documented(cli, broken, message) -> None:
    assert cli("describe", "attack", broken) == 0, cli.err


def test_what_hooks_raise_while_a_run_is_planned_is_one_message(cli, tmp_path, monkeypatch) -> None:
    source = """
        from dataclasses import dataclass
        from defenses.jpeg import Jpeg

        @dataclass(frozen=True, slots=True, kw_only=True)
        class It(Jpeg):
            def hooks(self):
                raise RuntimeError("no hooks today")
        """
    add_distribution(tmp_path, "defense", "hookless", source, "It")
    monkeypatch.syspath_prepend(tmp_path)
    assert cli("plan", write_study(tmp_path, defenses=["hookless"])) == 2
    expected = r"error: defense 'hookless': RuntimeError: no hooks today \(.*\.py:\d+\)\n"
    assert re.fullmatch(expected, cli.err), cli.err
