"""The report folder and its page: complete, self-contained, and honest about what is missing."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from harness.core.errors import UsageError
from harness.core.records import Movement
from harness.report.build import Report, build_report
from tests.report_runs import outcome, record, write_run, write_samples

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Elements, text and what would be loaded; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.rows: list[dict[str, str | None]] = []
        self.headers: list[dict[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [v for k, v in attrs if k == "id" and v]
        self.loads += [v or "" for k, v in attrs if k in ("src", "srcset", "data", "poster")]
        if tag == "link" or (tag in ("use", "image") and "xlink:href" in found):
            self.loads.append(found.get("href") or found.get("xlink:href") or "")
        if tag == "a":
            self.links.append(found.get("href") or "")
        if tag == "tr":
            self.rows.append(found)
        if tag == "th" and "aria-sort" in found:
            self.headers.append(found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A run with everything: two targets, a dead attack, a no-op, a failure, a broken file."""
    floors = [outcome("x1", 2, 100, "narcissus", t) for t in (2, 7)]
    floors += [outcome("x1", 3, 100, "badnets", 0)]
    records = [record(floors=floors, environment={"python": "3.11.7", "threads": 2})]
    for defense, hits in {"none": 60, "ebm": 5, "jpeg": 12}.items():
        records += [
            record("narcissus", defense, goal="triggered", target=t, correct=740 - t,
                   probes={"x1": (hits + t, 100), "x2": (hits + 20, 100)},
                   curves={"loss": [2.0, 1.0], "test_accuracy": [0.4, 0.7], "rows": [500, 500]})
            for t in (2, 7)
        ]  # fmt: skip
        records.append(
            record("badnets", defense, goal="triggered", target=0, probes={"x1": (hits // 20, 100)})
        )
    still = Movement(500, 500, 0, 0.0, 0.0, 50)
    records.append(record("narcissus", "identity", goal="triggered", target=3,
                          probes={"x1": (1, 100)}, movement=still))  # fmt: skip
    failed = record("narcissus", "epic", goal="triggered", target=2, status="failed",
                    error="DataError: <diverged> & lost", test_rows=0, test_correct=0)  # fmt: skip
    planned = [{"spec_id": r.spec_id} for r in [*records, failed]] + [{"spec_id": "absent123"}]
    study = {
        "name": "demo", "title": "A <b>demo</b> & more", "partial": True, "trials": planned,
        "command": "puregen-bench run demo.yaml --limit 2", "overrides": ["seeds=1"],
        "study": {"name": "demo", "attacks": ["narcissus", {"name": "badnets", "budget": 0.01}],
                  "vars": {"cifar": "/mine/cifar.npz", "share": 0.5}},
        "sessions": [
            {"started": "2026-01-02 03:04:05 UTC", "seconds": 90.0, "trials": 20, "cpus": 2,
             "executor": "Ray", "nodes": 1, "memory_gib": 23.5},
            {"started": "2026-01-03 00:00:00 UTC", "seconds": 3.0, "trials": 0},
            {"started": "2026-01-04 00:00:00 UTC", "executor": "Ray"},
        ],
        "inputs": {"dataset npz": "ab" * 32, "defense jpeg": "cd" * 32},
    }  # fmt: skip
    run = write_run(tmp_path_factory.mktemp("runs") / "demo", [*records, failed], study)
    (run / "records" / "broken.json").write_text("{")
    clean = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    for one in records:
        if one.labels["attack"] == "narcissus" and one.labels["defense"] in ("none", "ebm"):
            write_samples(
                run, one.spec_id, {"clean": clean, "poisoned": clean // 2, "purified": clean // 3}
            )
    return build_report(run)


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return report.page.read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_every_file_is_there(report: Report) -> None:
    folder = report.page.parent
    names = {str(f.relative_to(folder)) for f in report.files}
    assert names == {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}
    charts = ("tradeoff", "cost", "targets", "magnification", "curves", "images_1")
    assert names == {
        "index.html", "how_sure.md", "SHA256SUMS",
        *(f"{t}.{kind}" for t in ("table", "trials", "pairs", "variance")
          for kind in ("md", "csv", "tex")),
        *(f"figures/{c}.{kind}" for c in charts for kind in ("svg", "png")),
    }  # fmt: skip
    assert len(pd.read_csv(folder / "table.csv")) == len(report.frame) == len(report.summary.rows)
    assert len(pd.read_csv(folder / "trials.csv")) == 3 + 6 * 2 + 3 + 1 + 1


def test_the_page_loads_nothing(html: str, page: Page) -> None:
    assert page.loads and all(v.startswith(("data:image/png;base64,", "#")) for v in page.loads)
    assert "@import" not in html and not re.search(r"url\(\s*['\"]?(?!#)", html)
    assert "default-src 'none'" in html  # and the browser is told to refuse
    assert not re.search(r"\b(fetch|XMLHttpRequest|importScripts)\b", html)


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    inside = [x for x in page.links if not x.startswith("data:text/yaml;base64,")]  # the study
    assert inside and all(x.startswith("#") and x[1:] in page.ids for x in inside)


def test_tables_sort_and_filter(html: str, page: Page) -> None:
    assert page.headers and all(h["aria-sort"] == "none" for h in page.headers)
    assert 'setAttribute("aria-sort"' in html and 'addEventListener("input", filter)' in html
    assert {"main", "each"} <= set(page.ids)
    lines = [r for r in page.rows if "data-attack" in r]
    attacks = {r["data-attack"] for r in lines}
    assert attacks == {"none", "narcissus", "badnets"}
    for attack in attacks:
        assert f"<option>{attack}</option>" in html


def test_flags_are_marked_and_explained(page: Page) -> None:
    rows = [r for r in page.rows if "data-attack" in r and "data-defense" in r]
    credit = {(r["data-attack"], r["data-defense"]): "nocredit" in (r["class"] or "") for r in rows}
    assert credit["narcissus", "ebm"] is False
    for flag, rule in (("dead attack", "by more than 10 points"), ("no-op", "moved no pixel")):
        assert flag in page.text and rule in page.text
    main = [r for r in rows if r["data-defense"] == "identity"]
    assert "nocredit" in (main[0]["class"] or "")


def test_numbers_reach_the_page(html: str, page: Page) -> None:
    # ebm: (7 + 12) / 2 of 100 over two targets; percentile interval of two values is their range.
    assert "9.5 [7.0, 12.0]" in page.text
    assert 'data-sort="0.095"' in html
    assert "Without a defense the poison succeeds on 64.5 [62.0, 67.0] %" in page.text


def test_text_of_the_user_is_escaped(html: str, page: Page) -> None:
    assert "A <b>demo</b> & more" in page.text and "<b>demo" not in html
    assert "DataError: <diverged> & lost" in page.text


def test_what_is_missing_is_said(page: Page) -> None:
    assert "Partial run." in page.text
    assert "11 trials measured, 1 failed, 1 of 13 planned without a record" in page.text
    assert "absent123" in page.text
    assert "records/broken.json" in page.text


def test_what_is_needed_to_run_it_again(page: Page) -> None:
    assert "puregen-bench run demo.yaml --limit 2" in page.text
    assert "budget: 0.01" in page.text and "seeds=1" in page.text
    assert "torch" in page.text and "2.11.0" in page.text
    assert "1 | 2 differs between trials" in page.text  # threads


def test_one_who_has_the_page_alone_can_run_it_again(html: str, page: Page) -> None:
    [link] = re.findall(r'href="data:text/yaml;base64,([^"]+)" download="demo.yaml"', html)
    assert yaml.safe_load(base64.b64decode(link)) == {
        "name": "demo", "attacks": ["narcissus", {"name": "badnets", "budget": 0.01}],
        "vars": {"cifar": "/mine/cifar.npz", "share": 0.5},
    }  # fmt: skip
    assert "puregen-bench run demo.yaml --set vars.cifar=PATH" in page.text
    assert "For vars.cifar give your copy of cifar.npz" in page.text
    assert "vars.share" not in page.text


def test_what_was_run_is_told_with_hashes(report: Report, page: Page) -> None:
    assert "Encodes every training image once as JPEG and decodes it again." in page.text
    assert ("cd" * 32)[:16] in page.text
    records = sorted((report.page.parents[1] / "records").glob("*.json"))
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in records]
    assert hashlib.sha256("".join(lines).encode()).hexdigest() in page.text


def test_when_and_where_it_was_run(page: Page) -> None:
    assert "2026-01-02 03:04:05 UTC 1.5 20 Ray, 1 nodes, 2 CPUs, 23.5 GiB" in page.text
    assert "2026-01-03" not in page.text  # nothing was done in that call
    assert "2026-01-04 00:00:00 UTC killed Ray" in page.text


def test_building_again_replaces_and_leaves_no_rest(report: Report) -> None:
    run = report.page.parents[1]
    stale = run / "report" / "figures" / "images_9.png"
    stale.write_bytes(b"of an earlier run")
    before = {f: f.read_bytes() for f in report.files}
    again = build_report(run)
    assert again.files == report.files and not stale.exists()
    assert {f: f.read_bytes() for f in again.files} == before
    assert not [f for f in (run / "report").rglob(".*") if f.is_file()]


def test_a_run_of_one_failed_trial_still_has_a_page(tmp_path: Path) -> None:
    failed = record("narcissus", goal="triggered", status="failed", error="boom", test_rows=0,
                    test_correct=0, outcomes=(), movement=None, curves={}, stages={},
                    class_rows=(), class_correct=())  # fmt: skip
    report = build_report(write_run(tmp_path / "run", [failed]))
    page = Page(report.page.read_text())
    assert "Every trial failed" in page.text and "boom" in page.text
    assert "The run did not note its command." in page.text
    assert not (tmp_path / "run" / "report" / "figures").exists()


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_no_run_no_report(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=name):
        build_report(tmp_path / name)
    assert not (tmp_path / name / "report").exists()


@pytest.mark.parametrize(
    ("victims", "said"),
    [
        ({}, "none was made."),
        ({"a": 1}, "none was made: the clean floor is of 1 training without attack and defense."),
        ({"a": 3}, ": the clean floor is of 3 trainings without attack and defense."),
        (
            {"a": 1, "b": 1},
            ": the clean floor is of 1 training without attack and defense in each setting.",
        ),
        (
            {"a": 1, "b": 3},
            ": the clean floor is of 1 to 3 trainings without attack and defense in each setting.",
        ),
    ],
)
def test_how_many_trainings_a_clean_floor_is_of(tmp_path: Path, victims, said) -> None:
    records = [
        record(classifier=name, victim=seed)
        for name, count in victims.items()
        for seed in range(count)
    ]
    records.append(record("narcissus", goal="triggered", target=2, probes={"x1": (9, 10)}))
    page = build_report(write_run(tmp_path / "run", records)).page.read_text()
    assert said in page
