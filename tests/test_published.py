"""Published results: what is read, what it is compared with, and what the section says."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.core.errors import UnknownComponent
from harness.report.build import build_report
from harness.report.collect import Run, Study
from harness.report.published import Wanted, closest, compare, items, published
from harness.report.published_panel import SHOWN, published_section
from harness.report.published_settings import ROLES, settings, unlike
from harness.report.statistics import Interval
from harness.report.summary import summarise
from harness.report.table import markdown
from harness.report.trials import Trial
from harness.verification.verify import verify
from tests.published_settings import FILE, settings_text
from tests.report_runs import record, write_run

NOTE_START = "the printed mean ± the standard deviation of one victim"


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
    assert (ebm.success.value, ebm.success.method) == (pytest.approx(0.0139), "t")
    # 0.8 points over ten classes: 2.262 x 0.8 / sqrt(10) = 0.572 around the mean
    assert ebm.success_std == pytest.approx(0.008)
    assert ebm.success.low == pytest.approx(0.0139 - 0.00572, abs=1e-5)
    assert ebm.success.high == pytest.approx(0.0139 + 0.00572, abs=1e-5)
    assert ebm.worst == pytest.approx(0.025)
    assert ebm.accuracy.value == pytest.approx(0.9292)
    [bare] = rows("table_1", attack="gradient_matching", dataset="cifar10", defense="none")
    # 44 of 100: Wilson's interval by hand
    assert bare.success.method == "wilson"
    assert bare.success.low == pytest.approx(0.3467, abs=5e-4)
    assert bare.success.high == pytest.approx(0.5377, abs=5e-4)


def test_a_spread_never_leaves_the_shares() -> None:
    [none] = rows("table_1", attack="narcissus", scenario="fine_tune", defense="none")
    assert (none.success.value, none.success_std) == pytest.approx((0.3341, 0.339))
    assert none.success.low == pytest.approx(0.0916, abs=1e-4)
    [few] = [r for r in rows("table_11", defense="none") if ("aware", "no") in r.attack.params]
    assert (few.success.low, few.success.high) == (0.0, 1.0)  # three classes, 31 ± 49


def test_a_spread_over_seeds_is_not_one_over_targets() -> None:
    [bare] = rows("table_13", attack="gradient_matching", defense="none")
    assert (bare.trials, bare.success.n, bare.success_std) == (100, 3, pytest.approx(0.0217))
    # The printed one divides by 3: 4.303 x 2.17 / sqrt(2) = 6.60
    assert bare.success.high - bare.success.value == pytest.approx(0.066, abs=1e-4)
    [ddpm] = rows("table_13", attack="gradient_matching", defense="puregen_ddpm")  # 0 ± 0
    assert (ddpm.success.method, ddpm.success.n) == ("wilson", 100)
    assert ddpm.success.high == pytest.approx(0.037, abs=1e-3)


def test_a_spread_of_untold_size_has_no_interval() -> None:
    [avatar] = rows("table_2", attack="ntga", defense="avatar")
    assert avatar.accuracy_std == pytest.approx(0.0038) and avatar.accuracy.low is None
    assert compare(avatar.accuracy, interval(0.5, 0.4, 0.6)) == "unknown"
    [jpeg] = rows("table_2", attack="ntga", defense="jpeg")  # the paper's own, of eight seeds
    assert jpeg.accuracy.n == 8 and jpeg.accuracy.low is not None


def test_standard_deviations_printed_as_fractions() -> None:
    [none] = rows("table_2", classifier="mobilenet_v2", attack="narcissus", defense="none")
    [again] = rows("table_8", scenario="from_scratch", attack="narcissus", defense="none")
    assert none.success_std == pytest.approx(again.success_std, abs=0.01)
    [jpeg] = rows("table_1", dataset="cinic10", defense="jpeg")  # in percent there
    assert jpeg.success_std == pytest.approx(0.2746)


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


def test_versions_of_baselines_are_those_of_the_full_tables() -> None:
    for classifier, item in (("mobilenet_v2", "table_8"), ("densenet121", "table_9")):
        for defense in ("epic", "friends", "jpeg"):
            for row in rows("table_2", classifier=classifier, defense=defense):
                alike = [
                    full.defense
                    for full in rows(item, scenario=row.scenario, attack=row.attack.name)
                    if full.success.value == pytest.approx(row.success.value)
                    and full.accuracy.value == pytest.approx(row.accuracy.value)
                ]
                assert alike == [row.defense]


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


# What the tables do not tell


def defended(item: str, name: str, **roles: dict) -> dict:
    """A trial of the study that repeats a table, against Narcissus from scratch, with changes."""
    [part] = [
        part
        for part in settings(item)
        if {"from_scratch", "narcissus", "cifar10"}
        <= {one["name"] for group in part.components.values() for one in group}
    ]
    picks = {"attack": "narcissus", "defense": name}
    spec = {
        role: next(c for c in group if c["name"] == picks.get(role, c["name"]))
        for role, group in part.components.items()
    }
    spec["attack"] = {**spec["attack"], "adv_label": 3}
    return {role: {**given, **roles.get(role, {})} for role, given in spec.items()}


def differences(item: str, spec: dict) -> tuple[str, ...]:
    return closest(published(item), spec)[1]


def test_the_settings_are_those_of_the_studies() -> None:
    assert FILE.read_text("utf-8") == settings_text(), "run python -m tests.published_settings"


def test_a_shorter_purification_of_fewer_images_is_another_setting() -> None:
    assert differences("table_1", defended("table_1", "puregen_ddpm")) == ()
    spec = defended(
        "table_1", "puregen_ddpm",
        dataset={"train_per_class": 50},
        defense={"steps": 2, "network_calls": 1, "sampler": "ddim"},
    )  # fmt: skip
    assert differences("table_1", spec) == (
        "dataset.train_per_class 50, full study none",
        "defense.steps 2, full study 75",
        "defense.sampler ddim, full study ancestral",
        "defense.network_calls 1, full study none",
    )


def test_networks_that_are_trained_otherwise_are_another_setting() -> None:
    ebm = defended("table_1", "puregen_ebm")["defense"]["ebm"]
    spec = defended("table_1", "puregen_ebm", defense={"ebm": {**ebm, "nf": 16, "seed": 5}})
    assert differences("table_1", spec) == ("defense.ebm.nf 16, full study 128",)
    surrogate = {**defended("table_1", "none")["attack"]["surrogate"], "name": "resnet9"}
    spec = defended("table_1", "none", attack={"surrogate": surrogate})
    assert differences("table_1", spec) == (
        "attack.surrogate.name resnet9, full study resnet18",
    )  # fmt: skip


def test_a_number_of_poisons_is_no_place() -> None:
    [part] = [
        p for p in settings("table_1") if p.components["dataset"][0].get("train_per_class") == 250
    ]
    given = {role: group[-1] for role, group in part.components.items()}
    wanted = tuple(Wanted(given[role]["name"]) for role in ROLES)
    given["attack"] = {**given["attack"], "poisons": 1}
    assert unlike("table_1", wanted, given) == ("attack.poisons 1, full study 25",)


@pytest.mark.parametrize(
    ("defense", "roles"),
    [
        ("puregen_ebm", {"defense": {"ebm": {"path": "/weights/ebm"}, "batch_size": 64}}),
        ("puregen_ddpm", {"defense": {"ddpm": {"hub": "a/b", "revision": "main"}}}),
        ("none", {"dataset": {"root": "/data"}}),
        ("none", {"attack": {"trigger": "/narcissus.npy", "surrogate": None, "pood": None}}),
        ("epic", {"defense": {"memory_mib": 10}}),
    ],
)
def test_where_something_is_and_what_is_speed_alone_is_no_other_setting(defense, roles) -> None:
    assert differences("table_1", defended("table_1", defense, **roles)) == ()


def test_restarts_that_share_a_pass_are_no_other_setting() -> None:
    part = next(
        p
        for p in settings("table_1")
        if any(a["name"] == "gradient_matching" for a in p.components["attack"])
    )
    given = {role: group[-1] for role, group in part.components.items()}
    attack = next(a for a in part.components["attack"] if a["name"] == "gradient_matching")
    for changed, told in (
        ({"restarts_at_once": 8}, ()),
        ({"restarts": 2}, ("attack.matching.restarts 2, full study 8",)),
    ):
        given["attack"] = {**attack, "matching": {**attack["matching"], **changed}}
        wanted = tuple(Wanted(given[role]["name"]) for role in ROLES)
        assert unlike("table_1", wanted, given) == told


def test_a_table_shows_the_first_differences_and_the_numbers_all() -> None:
    recipe = {"epochs": 1, "lr": 1, "momentum": 1, "weight_decay": 1, "flip": 1, "crop_pad": 1,
              "batch_size": 1, "warmup": 9}  # fmt: skip
    section = published_section(*run_of({0: 10}, classifier={"recipe": recipe}))
    [pair] = section.pairs
    assert len(pair.differences) == SHOWN + 1
    assert "and 1 more" in markdown(section.table)
    assert section.frame["differs_in"][0] == "; ".join(pair.differences)


# Verdicts


def interval(value: float, low: float | None = None, high: float | None = None) -> Interval:
    return Interval(value, low, high, 10, "BCa")


@pytest.mark.parametrize(
    ("theirs", "ours", "verdict"),
    [
        (interval(0.5, 0.4, 0.6), interval(0.7, 0.58, 0.8), "agrees"),
        (interval(0.5, 0.4, 0.6), interval(0.7, 0.61, 0.8), "higher"),
        (interval(0.5, 0.4, 0.6), interval(0.2, 0.1, 0.39), "lower"),
        (interval(0.5, 0.4, 0.6), interval(0.39), "unknown"),
        (interval(0.5), interval(0.2, 0.1, 0.4), "unknown"),
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
    assert "| 1.7 ± 0.9 [1.0, 2.3] |" in markdown(section.table)
    section = published_section(*run_of({0: 100, 1: 200, 2: 150, 3: 300}))
    assert section.pairs[0].success == "higher"
    assert "ours is higher" in markdown(section.table)


def test_a_mean_beyond_theirs_is_not_excused_by_the_spread_of_their_classes() -> None:
    # 2.3 % on every class lies within 1.66 ± 0.92, and beyond what ten classes leave of the mean.
    section = published_section(*run_of(dict(enumerate((23, 24, 25, 24, 23, 24, 25, 24)))))
    assert section.pairs[0].success == "higher"
    assert "1.7 ± 0.9 [1.0, 2.3]" in markdown(section.table)


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
    numbers, tex = table.with_suffix(".csv"), table.with_suffix(".tex")
    assert all(NOTE_START in text for text in (page, table.read_text())) and tex.is_file()
    [row] = pd.read_csv(numbers).to_dict("records")
    assert (row["published_success"], row["published_success_std"]) == (0.0166, 0.0092)
    assert (row["success"], row["success_verdict"]) == (0.015, "agrees")
    assert (row["defense"], row["published_accuracy_method"]) == ("jpeg <75>", "t")
    assert not _wrong_in(folder, "report/published")
    table.write_text(table.read_text().replace("[1.0, 2.0]", "[1.0, 9.0]"))
    numbers.write_text(numbers.read_text().replace(",0.015,", ",0.025,"))
    assert _wrong_in(folder, "report/published.md, ")
    assert _wrong_in(folder, "report/published.csv, row 1 (narcissus / jpeg <75>), column success:")


def test_published_seconds_stand_beside_ours_without_a_verdict() -> None:
    section = published_section(*run_of({0: 10, 1: 20}, reference="table_5.csv"))
    assert "TPU v3, which is other hardware than ours: no verdict" in section.source
    clean, attacked = section.frame.to_dict("records")
    assert (clean["attack"], attacked["attack"]) == ("none", "narcissus")
    for row in (clean, attacked):
        assert (row["defense"], row["published_single"]) == ("jpeg <75>", 3690)
        ours = [row[f"seconds_{part}"] for part in ("train", "purify", "together")]
        assert ours == [40, 20, 60]
    assert (attacked["published_each"], attacked["published_each_std"]) == (5288, 29)
    assert np.isnan(clean["published_each"])
    text = markdown(section.table)
    assert "| 3690 | 5288 ± 29 | 40 | 20 | 60 |" in text and "agrees" not in text


def _wrong_in(folder: Path, start: str) -> list[str]:
    return [line for line in verify(folder).discrepancies if line.startswith(start)]


def test_no_section_without_published_numbers() -> None:
    run, summary = run_of({0: 10, 1: 20}, reference="table_99.csv")
    assert published_section(run, summary) is None
    assert published_section(Run(None, Study(), run.trials), summary) is None
    other = run_of({0: 10, 1: 20}, defense={"name": "tvm"})
    assert published_section(*other) is None
