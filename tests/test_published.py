"""Published results: what is read, what it is compared with, and what the section says."""

from pathlib import Path

import pytest

from harness.core.errors import UnknownComponent
from harness.report.build import build_report
from harness.report.collect import Run, Study
from harness.report.published import Wanted, closest, compare, items, published
from harness.report.published_panel import published_section
from harness.report.statistics import Interval
from harness.report.summary import summarise
from harness.report.table import markdown
from harness.report.trials import Trial
from harness.verification.verify import verify
from tests.report_runs import record, write_run


def rows(item: str, **wanted: str):
    return [
        row
        for row in published(item)
        if all(getattr(getattr(row, k), "name", getattr(row, k)) == v for k, v in wanted.items())
    ]


# Reading


def test_shares_and_intervals_of_the_main_table() -> None:
    [ebm] = rows("table_1", attack="narcissus", dataset="cifar10", scenario="from_scratch",
                 defense="puregen_ebm")  # fmt: skip
    assert (ebm.success.value, ebm.success.method) == (pytest.approx(0.0139), "std")
    assert (ebm.success.low, ebm.success.high) == (pytest.approx(0.0059), pytest.approx(0.0219))
    assert ebm.worst == pytest.approx(0.025)
    assert ebm.accuracy.value == pytest.approx(0.9292)
    [bare] = rows("table_1", attack="gradient_matching", dataset="cifar10", defense="none")
    # 44 of 100: Wilson's interval by hand
    assert bare.success.method == "wilson"
    assert bare.success.low == pytest.approx(0.3467, abs=5e-4)
    assert bare.success.high == pytest.approx(0.5377, abs=5e-4)


def test_a_spread_never_leaves_the_shares() -> None:
    [none] = rows("table_1", attack="narcissus", scenario="fine_tune", defense="none")
    assert (none.success.low, none.success.high) == (0.0, pytest.approx(0.6731))


def test_standard_deviations_printed_as_fractions() -> None:
    [none] = rows("table_2", classifier="mobilenet_v2", attack="narcissus", defense="none")
    [again] = rows("table_8", scenario="from_scratch", attack="narcissus", defense="none")
    assert none.success.low == pytest.approx(again.success.low, abs=0.01)
    assert none.success.high == pytest.approx(again.success.high, abs=0.01)
    [jpeg] = rows("table_1", dataset="cinic10", defense="jpeg")  # in percent there
    assert jpeg.success.high == pytest.approx(0.4635)


def test_an_availability_attack_has_an_accuracy_alone() -> None:
    [avatar] = rows("table_2", attack="ntga", defense="avatar")
    assert avatar.success is None
    assert avatar.accuracy.value == pytest.approx(0.8622)


def test_tables_that_repeat_each_other_agree() -> None:
    for defense in ("none", "puregen_ebm", "puregen_ddpm"):
        for attack in ("narcissus", "gradient_matching"):
            [one] = rows("table_1", attack=attack, dataset="cifar10", scenario="from_scratch", defense=defense)  # fmt: skip  # noqa: E501
            [other] = rows("appendix_e1", attack=attack, scenario="from_scratch", defense=defense)
            assert (one.success, one.accuracy) == (other.success, other.accuracy)
    shared = rows("figure_10", defense="puregen_filt")
    [table] = [r for r in rows("table_10", defense="puregen_filt") if r.attack.params[0][1] == "16"
               and r.attack.params[1][1] == "0.1"]  # fmt: skip
    [cell] = [r for r in shared if r.defense == table.defense or set(r.defense.params) == set(table.defense.params)]  # fmt: skip  # noqa: E501
    assert cell.success.value == pytest.approx(table.success.value, abs=0.01)  # another run


def test_numbers_of_rows() -> None:
    counts = {item: len(published(item)) for item in items()}
    assert (counts["table_1"], counts["table_10"], counts["figure_2"]) == (48, 60, 20)
    assert counts["figure_8"] == 3 * 40 + 32


def test_what_there_is_not() -> None:
    with pytest.raises(UnknownComponent, match=r"Did you mean 'table_1'"):
        published("tabel_1.csv")


# Matching


SPEC = {
    "dataset": {"name": "cifar10"},
    "scenario": {"name": "from_scratch"},
    "attack": {"name": "narcissus", "adv_label": 3, "eps_255": 8, "class_share": 0.1},
    "defense": {"name": "jpeg", "quality": 75},
    "classifier": {"name": "hlb_s", "recipe": {"epochs": 15}},
    "seeds": {"poison": 0, "purify": 0, "victim": 0},
    "target": 3,
}


def changed(**roles: dict) -> dict:
    return {**SPEC, **{role: {**SPEC[role], **given} for role, given in roles.items()}}


def test_the_very_setting_and_others() -> None:
    row, differences = closest(published("table_10"), SPEC)
    assert differences == ()
    assert (dict(row.defense.params), row.success.value) == ({"quality": "75"}, 0.0166)
    row, differences = closest(published("table_10"), changed(attack={"class_share": 1.0}))
    assert (differences, row.success.value) == ((), pytest.approx(0.5699))
    _, differences = closest(published("table_10"), changed(defense={"quality": 60}))
    assert differences == ("quality 60, published 25",)
    _, differences = closest(published("table_10"), changed(classifier={"name": "hlb_xs"}))
    assert differences == ("classifier hlb_xs, published hlb_s",)
    assert closest(published("table_10"), changed(defense={"name": "tvm"})) is None


def test_text_may_leave_room() -> None:
    wanted = Wanted("puregen_ebm", (("ebm.dataset.poisons", "*eps_255=8-*"),))
    poisons = "/x/narcissus_all_eps_255=8-seed0/0"
    assert wanted.differences({"ebm": {"dataset": {"poisons": poisons}}}) == ()
    assert wanted.differences({"ebm": {"dataset": {"name": "cifar10"}}}) == (
        "ebm.dataset.poisons none, published *eps_255=8-*",
    )


# Verdicts


def interval(value: float, low: float | None = None, high: float | None = None) -> Interval:
    return Interval(value, low, high, 10, "BCa")


@pytest.mark.parametrize(
    ("theirs", "ours", "verdict"),
    [
        (interval(0.5, 0.4, 0.6), interval(0.7, 0.58, 0.8), "agrees"),
        (interval(0.5, 0.4, 0.6), interval(0.7, 0.61, 0.8), "higher"),
        (interval(0.5, 0.4, 0.6), interval(0.2, 0.1, 0.39), "lower"),
        (interval(0.5, 0.4, 0.6), interval(0.39), "lower"),
        (interval(0.5), interval(0.2, 0.1, 0.5), "agrees"),
        (interval(0.5), interval(0.2), "unknown"),
        (interval(0.5), interval(0.5), "agrees"),
        (None, interval(0.2), "unknown"),
        (interval(0.5), None, "unknown"),
    ],
)
def test_verdicts(theirs, ours, verdict) -> None:
    assert compare(theirs, ours) == verdict


# The section


def run_of(hits: dict[int, int], reference: str = "table_10.csv", **changes: dict):
    """Trials of JPEG-75 on several classes, each with so many of 1000 triggered images fooled."""
    trials = []
    for target, count in hits.items():
        spec = {**changed(**changes), "target": target}
        one = record(
            "narcissus", "jpeg <75>", goal="triggered", target=target, correct=907,
            probes={"x1": (count, 1000)}, spec=spec, spec_id=f"id{target}",
        )  # fmt: skip
        trials.append(Trial.of(one))
    clean = {**SPEC, "attack": {"name": "none"}, "target": None}
    trials.append(Trial.of(record(defense="jpeg <75>", spec=clean, spec_id="clean")))
    said = {"reproduces": {"paper": "arXiv:2405.18627", "item": "Table 10", "reference": reference}}
    study = Study(name="x", study=said)
    return Run(path=None, study=study, trials=tuple(trials)), summarise(trials)


def test_the_same_setting_gets_a_verdict() -> None:
    section = published_section(*run_of({0: 10, 1: 20, 2: 15, 3: 30}))
    [pair] = section.pairs  # the row without an attack has none
    assert (pair.differences, pair.success, pair.accuracy) == ((), "agrees", "agrees")
    assert section.source == "Table 10 of arXiv:2405.18627"
    assert "| 1.7 [0.7, 2.6] |" in markdown(section.table)
    section = published_section(*run_of({0: 100, 1: 200, 2: 150, 3: 300}))
    assert section.pairs[0].success == "higher"
    assert "ours is higher" in markdown(section.table)


def test_another_setting_gets_none_and_says_in_what() -> None:
    section = published_section(*run_of({0: 10, 1: 20}, classifier={"name": "hlb_xs"}))
    [pair] = section.pairs
    assert (pair.success, pair.accuracy) == (None, None)
    assert "another setting" in markdown(section.table)
    assert "classifier hlb\\_xs, published hlb\\_s" in markdown(section.table)


def test_it_stands_in_the_report_and_is_verified(tmp_path: Path) -> None:
    run, _ = run_of({0: 10, 1: 20})
    folder = write_run(
        tmp_path / "run", [t.record for t in run.trials], study={"study": run.study.study}
    )
    page = build_report(folder).page.read_text()
    assert '<section id="published">' in page
    assert "Table 10 of arXiv:2405.18627" in page
    assert "jpeg &lt;75&gt;" in page and "<75>" not in page
    table = folder / "report" / "published.md"
    assert not _wrong_in(folder, "report/published.md")
    table.write_text(table.read_text().replace("[0.7, 2.6]", "[0.7, 9.6]"))
    assert _wrong_in(folder, "report/published.md, ")


def _wrong_in(folder: Path, start: str) -> list[str]:
    return [line for line in verify(folder).discrepancies if line.startswith(start)]


def test_no_section_without_published_numbers() -> None:
    run, summary = run_of({0: 10, 1: 20}, reference="table_99.csv")
    assert published_section(run, summary) is None
    assert published_section(Run(None, Study(), run.trials), summary) is None
    other = run_of({0: 10, 1: 20}, defense={"name": "tvm"})
    assert published_section(*other) is None
