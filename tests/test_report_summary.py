"""The main table: every number by hand, and who earns no credit."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import pytest

from harness.core.records import Movement, TrialRecord
from harness.report import flags
from harness.report.pairs import compare_pairs
from harness.report.statistics import mean_interval, wilson
from harness.report.summary import Row, Summary, summarise
from harness.report.trials import Trial
from tests.report_runs import outcome, record

STILL = Movement(500, 500, 0, 0.0, 0.0, 50)


def summary_of(records: Sequence[TrialRecord]) -> Summary:
    return summarise([Trial.of(r) for r in records])


def row_of(summary: Summary, attack: str, defense: str) -> Row:
    return next(r for r in summary.rows if (r.attack, r.defense) == (attack, defense))


def triggered(defense: str, target: int, victim: int, hits: int, **changes: object) -> TrialRecord:
    return record(
        "narcissus", defense, goal="triggered", target=target, victim=victim,
        probes={"x1": (hits, 100), "x2": (min(100, 2 * hits), 100)}, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def study() -> Summary:
    """Two targets and two victim seeds, undefended and under two defenses, with a clean floor."""
    records = [
        record(victim=0, correct=800, floors=[
            outcome("x1", 2, 100, "narcissus", 2), outcome("x1", 4, 100, "narcissus", 7),
            outcome("x2", 6, 100, "narcissus", 2), outcome("x1", 90, 100, "narcissus", 5),
            outcome("x1", 80, 100, "badnets", 2),
        ]),
        record(defense="ebm", victim=0, correct=780, floors=[
            outcome("x1", 50, 100, "narcissus", 2),
        ]),
        triggered("ebm", 2, 0, 10, correct=700), triggered("ebm", 2, 1, 20, correct=720),
        triggered("ebm", 7, 0, 4, correct=710), triggered("ebm", 7, 1, 6, correct=690),
        triggered("jpeg", 2, 0, 40), triggered("jpeg", 7, 1, 30),
        triggered("none", 2, 0, 60, correct=730, class_correct=10),
        triggered("none", 2, 1, 80, correct=750, class_correct=20),
        triggered("none", 7, 0, 50, correct=740, class_correct=30),
        triggered("none", 7, 1, 50, correct=720, class_correct=40),
    ]  # fmt: skip
    return summary_of(records)


def test_rows_stand_in_the_promised_order(study: Summary) -> None:
    found = [(r.attack, r.defense) for r in study.rows]
    assert found == [
        ("none", "none"), ("none", "ebm"),
        ("narcissus", "none"), ("narcissus", "ebm"), ("narcissus", "jpeg"),
    ]  # fmt: skip
    assert study.defenses == ("none", "ebm", "jpeg")


def test_triggered_success_is_the_mean_over_targets_and_seeds(study: Summary) -> None:
    row = row_of(study, "narcissus", "none")
    assert [p.name for p in row.probes] == ["x1", "x2"]
    assert row.headline is not None
    nests = [(2, 0, 0), (2, 0, 1), (7, 0, 0), (7, 0, 1)]  # two seeds of each target
    assert row.headline.success == mean_interval([0.6, 0.8, 0.5, 0.5], nests=nests)
    assert row.headline.success.method == "crossed percentile"
    assert row.headline.success.value == pytest.approx(0.6)
    assert row.accuracy == mean_interval([0.73, 0.75, 0.74, 0.72], nests=nests)
    assert row.class_accuracy == mean_interval([0.1, 0.2, 0.3, 0.4], nests=nests)
    assert (row.trials, row.targets) == (4, (2, 7))


def test_the_worst_target_is_a_mean_over_seeds(study: Summary) -> None:
    row = row_of(study, "narcissus", "none")
    assert (row.worst_target, row.worst_name) == (2, "bird")
    assert row.worst == pytest.approx(0.7)  # not the 0.8 of one seed


def test_the_clean_floor_is_that_of_the_same_attack_targets_and_probe(study: Summary) -> None:
    probes = {p.name: p.floor for p in row_of(study, "narcissus", "ebm").probes}
    # Not target 5, not another attack's, not that of the defended clean training.
    assert probes == {"x1": pytest.approx(0.03), "x2": pytest.approx(0.06)}


def test_deltas_are_paired(study: Summary) -> None:
    ebm = row_of(study, "narcissus", "ebm")
    assert ebm.accuracy_delta is not None
    assert ebm.accuracy_delta.value == pytest.approx(-0.03) and ebm.accuracy_delta.low is None
    assert ebm.headline is not None and ebm.headline.delta is not None
    assert ebm.headline.delta.value == pytest.approx(-0.5)
    low, high = ebm.headline.delta.low, ebm.headline.delta.high
    assert low is not None and high is not None
    assert -0.6 - 1e-9 <= low < -0.5 < high <= -0.44 + 1e-9
    jpeg = row_of(study, "narcissus", "jpeg")
    assert jpeg.headline is not None and jpeg.headline.delta is not None
    # Two of its trials have a twin: 0.4 - 0.6 and 0.3 - 0.5. The difference of all means is -0.25.
    assert jpeg.headline.delta.value == pytest.approx(-0.2)
    assert row_of(study, "narcissus", "none").accuracy_delta is None
    assert row_of(study, "none", "ebm").accuracy_delta is not None


def test_purification_seeds_share_one_undefended_twin() -> None:
    records = [triggered("none", 2, 0, 60), triggered("ebm", 2, 0, 10)]
    records.append(triggered("ebm", 2, 0, 30, purify=1))
    row = row_of(summary_of(records), "narcissus", "ebm")
    assert row.headline is not None
    assert row.headline.delta == mean_interval([-0.5, -0.3])


def test_a_difference_is_the_same_in_the_table_and_among_the_pairs() -> None:
    seeds = list(itertools.product(range(4), (0, 1), (0, 1)))  # target, victim, purification
    records = [triggered("none", t, v, 60 + 3 * t - v) for t, v, p in seeds if p == 0]
    records += [triggered("ebm", t, v, 10 + 5 * t + 2 * p + v, purify=p) for t, v, p in seeds]
    records += [triggered("jpeg", t, v, 20 + 7 * p * t - v, purify=p) for t, v, p in seeds]
    summary = summary_of(records)
    pairs = {
        (pair.defense, pair.against): pair.difference
        for pair in compare_pairs(summary)
        if pair.measure.startswith("success")
    }
    for defense in ("ebm", "jpeg"):
        row = row_of(summary, "narcissus", defense)
        assert row.headline is not None and row.headline.delta is not None
        assert pairs[defense, "none"] == row.headline.delta
        assert row.headline.delta.tied == "crossed"
    # Two purified sets of the same seed are compared with each other, not with the mean of both.
    apart = pairs["jpeg", "ebm"]
    means = [(20 + 7 * p * t - v) - (10 + 5 * t + 2 * p + v) for t, v, p in seeds]
    assert apart.value == pytest.approx(sum(means) / len(means) / 100)
    assert apart.n == len(seeds)


def test_costs_and_movement_are_means(study: Summary) -> None:
    row = row_of(study, "narcissus", "ebm")
    assert (row.seconds_train, row.seconds_purify) == (40.0, 20.0)
    assert (row.clean_l2, row.poison_l2) == (1.5, 3.0)


def test_best_is_marked_among_those_with_credit(study: Summary) -> None:
    assert row_of(study, "narcissus", "ebm").best == {"success"}
    assert row_of(study, "narcissus", "jpeg").best == {"accuracy"}
    assert row_of(study, "narcissus", "none").best == frozenset()
    assert row_of(study, "narcissus", "none").flags == ()


def test_targeted_success_is_k_of_n_with_wilson() -> None:
    hits = (1, 1, 0, 1, 1, 0, 1)
    records = [
        record("bullseye", goal="targeted", target=t, probes={"target": (hit, 1)})
        for t, hit in enumerate(hits)
    ]
    row = row_of(summary_of(records), "bullseye", "none")
    assert row.headline is not None
    assert row.headline.success == wilson(5, 7)
    assert row.worst is None and row.class_accuracy is None
    assert row.headline.floor is None and row.flags == (flags.NO_FLOOR,)


def test_one_trial_has_the_wilson_interval_of_its_counts() -> None:
    row = row_of(summary_of([triggered("none", 2, 0, 60, correct=700)]), "narcissus", "none")
    assert row.headline is not None
    assert row.headline.success == wilson(60, 100)
    assert row.accuracy == wilson(700, 1000)
    assert row.worst is None  # of one target there is no worst


@pytest.mark.parametrize(("hits", "dead"), [(12, True), (13, False)])
def test_a_dead_attack_gives_no_credit(hits: int, dead: bool) -> None:
    records = [
        record(floors=[outcome("x1", 2, 100, "narcissus", 2)]),
        triggered("none", 2, 0, hits), triggered("ebm", 2, 0, 0),
    ]  # fmt: skip
    summary = summary_of(records)
    undefended, ebm = (row_of(summary, "narcissus", d) for d in ("none", "ebm"))
    assert (flags.DEAD in undefended.flags) is dead and (flags.DEAD in ebm.flags) is dead
    assert ebm.credit is not dead
    assert ebm.best == (frozenset() if dead else {"accuracy", "success"})
    assert ebm.headline is not None and ebm.headline.success.value == 0  # shown all the same


@pytest.mark.parametrize(("correct", "dead"), [(760, True), (750, False)])
def test_an_availability_attack_must_cost_accuracy(correct: int, dead: bool) -> None:
    records = [
        record(correct=800),
        record("ntga", goal="availability", correct=correct),
        record("ntga", "ebm", goal="availability", correct=790),
    ]
    row = row_of(summary_of(records), "ntga", "ebm")
    assert row.flags == ((flags.DEAD,) if dead else ())
    assert row.best == (frozenset() if dead else {"accuracy"})


def test_an_attack_without_an_undefended_trial_is_unverified() -> None:
    row = row_of(summary_of([triggered("ebm", 2, 0, 0)]), "narcissus", "ebm")
    assert row.flags == (flags.UNVERIFIED,) and not row.credit and not row.best


def test_a_defense_that_did_nothing_is_flagged() -> None:
    bare = triggered("none", 2, 0, 60)
    idle = dataclasses.replace(bare, **_as(triggered("identity", 2, 0, 60)), movement=STILL)
    row = row_of(summary_of([bare, idle, triggered("ebm", 2, 0, 90)]), "narcissus", "identity")
    assert flags.NO_OP in row.flags and not row.credit and not row.best


def test_without_a_twin_movement_alone_tells() -> None:
    row = row_of(summary_of([triggered("identity", 2, 0, 6, movement=STILL)]), "narcissus",
                 "identity")  # fmt: skip
    assert flags.NO_OP in row.flags


@pytest.mark.parametrize(
    "changes",
    [
        {"movement": Movement(500, 490, 0, 0.0, 0.0, 41)},  # dropped rows
        {"movement": STILL, "curves": {"loss": [2.0, 1.0], "rows": [500, 430]}},  # while training
        {"movement": STILL, "curves": {"loss": [2.3, 1.4], "rows": [500, 500]}},  # noise on batches
        {"movement": Movement(500, 500, 3, 0.1, None, 50)},  # moved pixels
    ],
    ids=["rows", "hook-rows", "hook-batch", "pixels"],
)
def test_a_defense_that_acts_is_not_flagged(changes: dict[str, object]) -> None:
    records = [triggered("none", 2, 0, 60), triggered("other", 2, 0, 60, **changes)]
    assert row_of(summary_of(records), "narcissus", "other").flags == (flags.NO_FLOOR,)


def test_failed_trials_are_counted_and_left_out() -> None:
    failed = triggered("ebm", 7, 0, 0, status="failed", error="boom", test_rows=0, test_correct=0)
    lost = dataclasses.replace(failed, **_as(triggered("epic", 2, 0, 0)), outcomes=(), goal="none")
    summary = summary_of([triggered("none", 2, 0, 60), triggered("ebm", 2, 0, 10), failed, lost])
    ebm, epic = row_of(summary, "narcissus", "ebm"), row_of(summary, "narcissus", "epic")
    assert (ebm.trials, ebm.failed) == (1, 1)
    assert ebm.headline is not None and ebm.headline.success == wilson(10, 100)
    assert (epic.trials, epic.failed, epic.accuracy, epic.probes) == (0, 1, None, ())
    assert not epic.best and not epic.credit


def test_settings_are_not_mixed() -> None:
    records = [triggered("none", 2, 0, 60), triggered("none", 2, 0, 20, classifier="resnet9")]
    rows = summary_of(records).rows
    assert [(r.classifier, r.trials) for r in rows] == [("hlb_xs", 1), ("resnet9", 1)]


def _as(other: TrialRecord) -> dict[str, object]:
    """Identity of another trial, for a copy of this one's results."""
    return {"spec": other.spec, "spec_id": other.spec_id, "labels": other.labels}


def test_a_class_that_is_named_by_its_number_is_not_named_twice() -> None:
    def worst(*names: str) -> str:
        records = [
            record("narcissus", goal="triggered", target=t, probes={"x1": (50 + t, 90)},
                   class_names=names)
            for t in (0, 1)
        ]  # fmt: skip
        (row,) = summarise([Trial.of(r) for r in records]).rows
        return row.worst_name

    assert (worst("0", "1"), worst("cat", "dog")) == ("", "dog")
