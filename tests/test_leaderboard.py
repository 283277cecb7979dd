"""The leaderboard: what a result file holds, what is refused, what is ranked, what is escaped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from harness.core.errors import DataError, UsageError
from harness.leaderboard.boards import Board, boards_of
from harness.leaderboard.parsing import MAX_BYTES, MAX_DEPTH
from harness.leaderboard.reading import read_submission, submission_of
from harness.leaderboard.schema import schema_text
from harness.leaderboard.site import build_site
from harness.leaderboard.values import Submission
from harness.leaderboard.writing import (
    SCHEMA,
    About,
    make_submission,
    plain_run,
    write_submission,
)
from harness.report.collect import read_run
from harness.verification.verify import Verification
from tests.leaderboard_runs import make_run
from tests.test_report_page import Page
from tests.tiny import CommandLine

HOSTILE = "\"><script>alert(1)</script>'{{7*7}}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def plain(run: Path) -> str:
    raw, wrong = make_submission(run, About("PureGen", "Ada", "https://example.org/x", "n"))
    assert wrong == ()
    return json.dumps(raw)


@pytest.fixture
def raw(plain: str) -> dict[str, Any]:
    return json.loads(plain)


def made(folder: Path, name: str = "one", **changes: Any) -> dict[str, Any]:
    """A result file without the seconds that report and verification cost."""
    run = read_run(make_run(folder, name, report=False, **changes))
    return {
        "schema": SCHEMA, "submission": {"name": name, "who": "Ada"}, "claims": [],
        "measured": plain_run(run, Verification((), (), ())),
    }  # fmt: skip


def submitted(folder: Path, name: str, **changes: Any) -> Submission:
    return submission_of(made(folder, name, **changes), name)


def attacked(boards: tuple[Board, ...]) -> list[Board]:
    return [b for b in boards if b.goal == "triggered"]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(json.loads(schema_text()))


def test_what_a_result_file_holds(run: Path, raw: dict[str, Any]) -> None:
    found = submission_of(raw, "it")
    assert found.run is not None and found.claims == ()
    rows = {(r.labels["attack"], r.labels["defense"]): r for r in found.run.rows}
    ebm = rows["narcissus", "puregen_ebm"]
    # Targets 2 and 7: 22 and 27 of 1000; two values have their range as interval.
    assert ebm.probes[0].counts == ((22, 1000), (27, 1000))
    assert ebm.success is not None and ebm.success.value == pytest.approx(0.0245)
    assert (ebm.success.low, ebm.success.high) == pytest.approx((0.022, 0.027))
    assert ebm.accuracy_counts == ((738, 1000), (733, 1000)) and ebm.targets == (2, 7)
    assert ebm.components["attack"] == {"name": "narcissus", "eps_255": 8}  # without its target
    assert set(found.run.spec_ids) == {p.stem for p in (run / "records").iterdir()}
    assert {f"records/{s}.json" for s in found.run.spec_ids} <= set(found.run.checksums)
    assert "report/table.csv" in found.run.checksums and "study.json" in found.run.checksums
    assert found.run.environment == ({"python": "3.11.7", "torch": "2.11.0", "threads": 1},)


def test_only_a_run_that_verifies_is_written(tmp_path: Path, run: Path) -> None:
    run, out = shutil.copytree(run, tmp_path / "run"), tmp_path / "result.json"
    assert write_submission(run, About("a", "b"), (), out) == () and out.is_file()
    table = run / "report" / "table.csv"
    table.write_text(table.read_text().replace("0.0245", "0.0145"))
    other = tmp_path / "other.json"
    wrong = write_submission(run, About("a", "b"), (), other)
    assert any("0.0145" in line for line in wrong) and not other.exists()
    with pytest.raises(DataError, match="does not verify"):
        build_site([run], tmp_path / "site", "t")
    (run / "report" / "SHA256SUMS").unlink()
    with pytest.raises(UsageError, match="puregen-bench report"):
        write_submission(run, About("a", "b"), (), other)


def change(*place: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(raw: dict[str, Any]) -> None:
        item: Any = raw
        for part in place[:-1]:
            item = item[part]
        item[place[-1]] = to

    return apply


ROW = ("measured", "rows", 1)


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (change("schema", to="x"), ["at schema: got \"x\"", "'puregen-bench/result/1'"]),
        (change("submission", "who", to=""), ["at submission.who", "at least 1 character"]),
        (change("submission", "url", to="javascript:alert(1)"), ["submission.url", "https?"]),
        (change("submission", "nmae", to="x"), ["at submission", "'nmae'", "Did you mean 'name'?"]),
        (change("submission", "name", to="a\u202eb"), ["at submission.name", "U+202E"]),
        (change("submission", "notes", to="\ud800"), ["at submission.notes", "U+D800"]),
        (change(*ROW, "accuracy", "value", to=1.5),
         ["measured.rows[1].accuracy.value: got 1.5", "at most 1"]),
        (change(*ROW, "accuracy", "value", to=0.99), ["accuracy: got", "low ≤ value ≤ high"]),
        (change(*ROW, "probes", 0, "counts", 0, 0, to=3),
         ["rows[1].probes[0].success.value: got 0.6045; its counts give"]),
        (change(*ROW, "probes", 0, "counts", 0, to=[7, 6]), ["got 7 of 6"]),
        (change(*ROW, "probes", 0, "success", "low", to=0.1), ["success.low: got 0.1; its counts"]),
        (change(*ROW, "flags", to=["best"]), ["rows[1].flags[0]: got \"best\"", "'dead attack'"]),
        (change(*ROW, "trials", to=3), ["accuracy_counts: got 2 pairs", "one per trial, 3"]),
        (change(*ROW, "goal", to="none"), ["rows[1].goal: got 'none'"]),
        (change("measured", "spec_ids", 0, to="../../etc"), ["measured.spec_ids[0]"]),
        (change("measured", to=None), ["neither a run nor a claim"]),
        (lambda raw: raw["measured"].pop("checksums"), ["at measured: got no 'checksums'"]),
    ],
)  # fmt: skip
def test_what_is_refused(
    raw: dict[str, Any], tmp_path: Path, breaks: Callable[[Any], Any], said: list[str]
) -> None:
    breaks(raw)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(DataError) as refused:
        read_submission(path)
    for words in [*said, str(path)]:
        assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b" " * (MAX_BYTES + 1), "larger than allowed: at most 5 MB"),
        (b"[" * 100_000, f"nested too deeply; allowed: {MAX_DEPTH} levels"),
        (b"[" * 30 + b"]" * 30, "nested too deeply"),
        (b'{"schema": NaN}', "NaN is no number"),
        (b'{"a": 1, "a": 2}', "the key 'a' stands twice"),
        (b"\xff", "no JSON"),
        (b"{", "no JSON"),
        (b"[]", "at the top: got []; allowed: a value of type object"),
    ],
)
def test_what_is_no_result_file(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.json") as refused:
        read_submission(path)
    assert said in str(refused.value)


def test_a_dead_attack_cannot_be_hidden(tmp_path: Path) -> None:
    hits = {"none": 60, "jpeg": 20}
    raw = made(tmp_path, hits=hits)
    [board] = attacked(boards_of([submission_of(raw, "it")]))
    assert [s.rank for s in board.standings] == [None, None]
    for row in raw["measured"]["rows"]:
        row["flags"] = []
    with pytest.raises(DataError, match="needed: 'dead attack'"):
        submission_of(raw, "it")


def test_what_is_said_of_an_attack_is_said_in_each_of_its_rows(tmp_path: Path) -> None:
    raw = made(tmp_path, hits={"none": 60, "jpeg": 20})
    rows = raw["measured"]["rows"]
    [index] = [i for i, row in enumerate(rows) if row["labels"]["defense"] == "jpeg"]
    rows[index]["flags"] = []
    with pytest.raises(DataError, match=rf"rows\[{index}\].flags: got none.*'dead attack'"):
        submission_of(raw, "it")
    raw["measured"]["rows"] = [row for row in rows if row["labels"]["defense"] != "none"]
    with pytest.raises(DataError, match=r"rows\[0\].flags: got none.*'unverified attack'"):
        submission_of(raw, "it")


def test_ranks_and_ties(tmp_path: Path) -> None:
    one = submitted(tmp_path, "one")
    # 18..28 overlaps with the 22..27 of the first; 300 is clearly worse than all.
    two = submitted(tmp_path, "two", hits={"none": 610, "puregen_ebm": 21, "jpeg": 300})
    [board] = attacked(boards_of([one, two]))
    shown = [(s.submission.name, s.defense, s.rank and (s.rank.best, s.rank.worst))
             for s in board.standings]  # fmt: skip
    assert shown == [
        ("one", "none", None), ("two", "none", None),
        ("one", "puregen_ebm", (1, 2)), ("two", "puregen_ebm", (1, 2)),
        ("one", "jpeg", (3, 3)), ("two", "jpeg", (4, 4)),
    ]  # fmt: skip


def test_what_may_not_stand_in_one_table(tmp_path: Path) -> None:
    one = submitted(tmp_path, "one")
    stronger = submitted(tmp_path, "stronger", eps_255=16)
    boards = attacked(boards_of([one, stronger]))
    assert {b.differing for b in boards} == {("attack.eps_255 16",), ("attack.eps_255 8",)}
    later = made(tmp_path, "later")
    later["measured"]["study"]["protocol"] = "9.9"
    boards = attacked(boards_of([one, submission_of(later, "later")]))
    assert {b.differing for b in boards} == {("protocol 0.1",), ("protocol 9.9",)}
    moved = made(tmp_path, "moved")
    for row in moved["measured"]["rows"]:
        row["identities"] = {"dataset": "a" * 64}  # the same words, other images behind a path
    assert len(attacked(boards_of([one, submission_of(moved, "moved")]))) == 2
    others = submitted(tmp_path, "others", targets=(1, 3))
    [board] = attacked(boards_of([one, others]))
    assert board.targets_differ
    partial = submitted(tmp_path, "partial", partial=True)
    [board] = attacked(boards_of([partial]))
    assert all(s.partial and s.rank is None for s in board.standings)


def claim(**changes: Any) -> dict[str, Any]:
    return {
        "dataset": "cifar10_mini", "scenario": "from_scratch",
        "classifier": {"name": "hlb_xs", "with": {}},
        "attack": {"name": "narcissus", "with": {"eps_255": "8"}},
        "defense": {"name": "jpeg", "with": {}}, "trials": 10,
        "success": {"value": 0.01, "low": None, "high": None, "spread": "none"},
        "accuracy": None, "source": "A paper", **changes,
    }  # fmt: skip


def claims(*items: dict[str, Any]) -> Any:
    about = {"name": "paper", "who": "its authors"}
    return submission_of(
        {
            "schema": "puregen-bench/result/1",
            "submission": about,
            "measured": None,
            "claims": [*items],
        },
        "claims",
    )


def test_claims_stand_beside_measurements_without_a_rank(tmp_path: Path) -> None:
    one = submitted(tmp_path, "one")
    epic = claim(defense={"name": "epic", "with": {}})
    stronger = claim(attack={"name": "narcissus", "with": {"eps_255": "16"}})
    found = boards_of([one, claims(claim(), epic, stronger)])
    [board] = attacked(found)
    rows = {s.defense: s for s in board.standings}
    assert [c.source for _, c in rows["jpeg"].claims] == ["A paper"]
    assert rows["jpeg"].measured is not None and rows["jpeg"].rank is not None
    assert rows["jpeg"].rank.best == 2  # the claimed 1 % did not move it
    assert rows["epic"].measured is None and rows["epic"].rank is None
    assert rows["puregen_ebm"].claims == ()
    alone = found[-1]
    assert alone.goal == "" and alone.labels["attack"] == "narcissus eps_255=16"
    with pytest.raises(DataError, match="neither success nor accuracy"):
        claims(claim(success=None))


def test_the_published_numbers_are_claims(tmp_path: Path) -> None:
    out = tmp_path / "paper.json"
    assert write_submission(None, About("PureGen", "its authors"), ["table_1"], out) == ()
    found = read_submission(out)
    assert found.run is None and len(found.claims) > 20
    assert all(c.source == "arXiv:2405.18627, table 1" for c in found.claims)
    [ebm] = [c for c in found.claims if c.dataset == "cifar10" and c.scenario == "from_scratch"
             and (c.attack.name, c.defense.name) == ("narcissus", "puregen_ebm")]  # fmt: skip
    said = ebm.success
    assert said is not None and said.method == "std"  # 1.39 ± 0.8, as printed
    assert (said.low, said.high) == (pytest.approx(0.0059), pytest.approx(0.0219))


def test_the_site(tmp_path: Path, run: Path, raw: dict[str, Any]) -> None:
    file, paper = tmp_path / "ada.json", tmp_path / "paper.json"
    file.write_text(json.dumps(raw))
    other = make_run(tmp_path, "second", hits={"none": 580, "jpeg": 200}, report=False)
    write_submission(None, About("Paper", "its authors"), ["table_1"], paper)
    out = tmp_path / "site"
    (out / "submissions").mkdir(parents=True)
    (out / "schema.json").write_text("{}")
    for name in ("0123456789ab.html", "mine.html"):
        (out / "submissions" / name).write_text("of before")
    site = build_site([file, other, paper, file], out, "Board")
    assert site.submissions == 3 and len(site.notes) == 1
    assert not (out / "submissions" / "0123456789ab.html").exists()
    assert (out / "submissions" / "mine.html").exists()
    (out / "submissions" / "mine.html").unlink()
    pages = {p.relative_to(out).as_posix(): Page(p.read_text()) for p in out.rglob("*.html")}
    assert len(pages) == 5
    for name, page in pages.items():
        assert page.loads == [] and len(page.ids) == len(set(page.ids))
        for link in page.links:
            path, _, place = link.partition("#")
            if path.startswith("https://example.org"):
                continue
            there = ((out / name).parent / path).resolve() if path else out / name
            assert there.is_file(), link
            if place:
                assert place in pages[there.relative_to(out.resolve()).as_posix()].ids
    text = pages["index.html"].text
    assert "verified here" in text and "claims alone" in text and "Claimed success (%)" in text
    key = submission_of(raw, "it").key
    details = pages[f"submissions/{key}.html"].text
    assert "puregen-bench run first.yaml" in details and "torch" in details
    assert raw["measured"]["checksums"]["study.json"] in details
    assert read_submission(out / "submissions" / f"{key}.json").raw == raw
    assert json.loads((out / "schema.json").read_text()) == json.loads(schema_text())


def test_what_a_file_says_is_text_and_never_code(tmp_path: Path, raw: dict[str, Any]) -> None:
    for row in raw["measured"]["rows"]:
        row["labels"] = {role: f"{label}{HOSTILE}" for role, label in row["labels"].items()}
        row["components"]["classifier"][HOSTILE] = HOSTILE
    raw["submission"] |= {"name": f"../../x{HOSTILE}", "who": HOSTILE, "notes": HOSTILE}
    raw["submission"]["url"] = 'https://x/"onmouseover=alert(1)><script>'
    raw["measured"]["study"] |= {"command": HOSTILE, "title": HOSTILE, "file": {HOSTILE: HOSTILE}}
    raw["measured"]["environment"] = [{HOSTILE: HOSTILE}]
    raw["measured"]["checksums"][f"../{HOSTILE}"] = "0" * 64
    raw["claims"] = [claim(source=HOSTILE, note=HOSTILE, dataset=HOSTILE)]
    path = tmp_path / "hostile.json"
    path.write_text(json.dumps(raw))
    build_site([path], tmp_path / "site", HOSTILE)
    files = [f for f in tmp_path.rglob("*") if f.is_file() and f != path]
    assert {f.relative_to(tmp_path / "site").parts[0] for f in files} == {
        "index.html", "submit.html", "schema.json", "submissions",
    }  # fmt: skip
    for file in files:
        if file.suffix != ".html":
            continue
        text = file.read_text()
        page = Page(text)
        assert HOSTILE in page.text
        assert "<script>alert" not in text and "onmouseover=alert(1)>" not in text
        assert text.count("<script") == text.count("sha256-")
        assert all(not link.startswith("javascript:") for link in page.links)


def test_the_folder_of_the_site_is_looked_at_first(tmp_path: Path, raw: dict[str, Any]) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(UsageError, match="holds something else"):
        build_site([file], tmp_path, "t")
    with pytest.raises(UsageError, match="is a file"):
        build_site([file], file, "t")
    assert file.read_text() == json.dumps(raw)


def test_from_the_command_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = CommandLine(monkeypatch, capsys)
    out, site = tmp_path / "r.json", tmp_path / "site"
    about = ("--name", "N", "--who", "W")
    assert cli("submission", run, *about, "--out", out) == 0
    assert cli("leaderboard", out, "--out", site) == 0
    assert cli.out.splitlines() == ["1 submission, 2 tables", f"page: {site / 'index.html'}"]
    assert cli("submission", *about, "--out", out) == 2 and "nothing to submit" in cli.err
    assert cli("submission", *about, "--claims", "table_l", "--out", out) == 2
    assert "Did you mean 'table_" in cli.err
    out.write_text("{}")
    assert cli("leaderboard", out, "--out", site) == 2
    assert f"result file {str(out)!r}, at the top: got no 'schema'" in cli.err
    assert cli("leaderboard", tmp_path / "none.json", "--out", site) == 2
    assert "cannot be read" in cli.err
