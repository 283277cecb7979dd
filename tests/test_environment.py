"""What a record says of the code that made it."""

import subprocess
from pathlib import Path

import pytest

from harness.environment import _commit


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("attacks", "docs", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "attacks" / "one.py").write_text("ONE = 1\n")
    (tmp_path / "docs" / "one.md").write_text("One.\n")
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "One"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "differs"),
    [
        ("attacks/one.py", True),
        ("attacks/new.py", True),
        ("docs/one.md", False),
        ("runs/mine.yaml", False),
    ],
)
def test_a_commit_is_marked_where_code_differs_from_it(
    checkout: Path, file: str, differs: bool
) -> None:
    _commit.cache_clear()
    clean = _commit(checkout)
    assert len(clean) == 12 and not clean.endswith("+")
    (checkout / file).write_text("TWO = 2\n")
    _commit.cache_clear()
    assert _commit(checkout) == clean + "+" * differs


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path) -> None:
    assert _commit(tmp_path) == ""
