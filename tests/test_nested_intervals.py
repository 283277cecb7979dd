"""Intervals of trials that hang together: a few targets with many seeds each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import DataError
from harness.core.records import TrialRecord
from harness.leaderboard.consistency import _check_estimate
from harness.report.build import build_report
from harness.report.collect import read_run
from harness.report.how_sure import how_sure, to_markdown
from harness.report.nested import Nest, drawn_means, is_flat, nested_ends, tree_of
from harness.report.statistics import (
    Interval,
    difference_interval,
    mean_interval,
    share_interval,
)
from harness.report.summary import any_nested, summarise
from harness.report.trials import Trial
from harness.verification.verify import verify
from tests.report_runs import record, write_run

TARGETS, SEEDS = 20, 5


def simulated(rng: np.random.Generator, between: float, within: float) -> list[float]:
    """Values of 20 targets with 5 seeds each; the true mean is 0."""
    targets = np.repeat(rng.normal(0, between, TARGETS), SEEDS)
    return list((targets + rng.normal(0, within, TARGETS * SEEDS)).tolist())


def nests(targets: int = TARGETS, seeds: int = SEEDS) -> list[Nest]:
    return [(target, 0, 0, seed) for target in range(targets) for seed in range(seeds)]


def coverage(between: float, within: float, of: list[Nest]) -> float:
    rng = np.random.default_rng(7)
    hits = 0
    for seed in range(200):
        tree = tree_of(simulated(rng, between, within), of)
        assert isinstance(tree, list)
        _, (low, high) = nested_ends(tree, 999, 0.95, seed)
        hits += low <= 0 <= high
    return hits / 200


def test_the_interval_covers_where_targets_differ_and_the_plain_one_does_not() -> None:
    alone = [(index,) for index in range(TARGETS * SEEDS)]
    assert coverage(0.2, 0.05, nests()) >= 0.88
    assert coverage(0.2, 0.05, alone) < 0.75


def test_it_covers_too_where_targets_do_not_differ() -> None:
    assert coverage(0.0, 0.1, nests()) >= 0.93


def test_poison_seeds_hold_together_within_one_target() -> None:
    of = [(3, poison, 0, victim) for poison in range(TARGETS) for victim in range(SEEDS)]
    assert coverage(0.2, 0.05, of) >= 0.88  # the target that is alone is no level


@given(st.lists(st.integers(0, 100).map(lambda k: k / 100), min_size=1, max_size=9))
@settings(max_examples=20, deadline=None)
def test_with_one_seed_of_each_target_it_is_the_plain_bootstrap(values: list[float]) -> None:
    seeds_alike = [(target, 0, 0, 0) for target in range(len(values))]
    assert mean_interval(values, nests=seeds_alike) == mean_interval(values)
    one_target = [(4, seed, seed, seed) for seed in range(len(values))]
    assert mean_interval(values, nests=one_target) == mean_interval(values)
    counts = [(round(100 * value), 100) for value in values]
    assert share_interval(counts, nests=one_target) == share_interval(counts)
    both = difference_interval(values, values[:2], nests=(seeds_alike, one_target[:2]))
    assert both == difference_interval(values, values[:2])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 100)), min_size=1))
@settings(max_examples=30, deadline=None)
def test_it_holds_the_mean_and_stays_within_the_values(
    trials: list[tuple[int, int, int]],
) -> None:
    values = [share / 100 for *_, share in trials]
    found = mean_interval(values, nests=[(t, s, i) for i, (t, s, _) in enumerate(trials)])
    assert found.value == pytest.approx(float(np.mean(values)))
    if found.low is not None and found.high is not None:
        assert min(values) - 1e-9 <= found.low <= found.value <= found.high
        assert found.high <= max(values) + 1e-9


def test_draws_spread_as_two_stages_of_drawing_do() -> None:
    values = np.random.default_rng(1).normal(size=(6, 4))
    tree = tree_of(values.ravel().tolist(), nests(6, 4))
    draws = drawn_means(tree, 40_000, np.random.default_rng(2))
    between, within = values.mean(axis=1).var() / 6, values.var(axis=1).mean() / 24
    assert draws.mean() == pytest.approx(values.mean(), abs=0.01)
    assert draws.var() == pytest.approx(between + within, rel=0.03)


def test_targets_with_other_numbers_of_seeds_keep_their_weight() -> None:
    tree = tree_of([0.0, 0.0, 0.0, 1.0], [(1, 0), (1, 1), (1, 2), (2, 0)])
    assert tree == [[0.0, 0.0, 0.0], 1.0] and not is_flat(tree)
    found = mean_interval([0.0, 0.0, 0.0, 1.0], nests=[(1, 0), (1, 1), (1, 2), (2, 0)])
    assert (found.value, found.method) == (0.25, "nested percentile")


def test_two_groups_are_drawn_each_by_its_own_nest() -> None:
    rng = np.random.default_rng(3)
    these, those = simulated(rng, 0.2, 0.02), simulated(rng, 0.2, 0.02)
    found = difference_interval(these, those, nests=(nests(), nests()))
    plain = difference_interval(these, those)
    assert found.method == "nested percentile" and found.value == plain.value
    assert found.high - found.low > 1.5 * (plain.high - plain.low)  # type: ignore[operator]


def trials(seeds: int) -> list[TrialRecord]:
    return [
        record(
            "narcissus", defense, goal="triggered",
            target=target, poison=seed, purify=seed, victim=seed,
            correct=700 + 9 * target + seed + 5 * target * (defense == "jpeg"),
            probes={"x1": (40 + 6 * target + 2 * seed - 9 * target * (defense == "jpeg"), 110)},
        )
        for defense in ("none", "jpeg") for target in range(3) for seed in range(seeds)
    ]  # fmt: skip


def test_the_report_says_how_its_intervals_are_made(tmp_path: Path) -> None:
    for seeds, nested in ((1, False), (2, True)):
        run = read_run(write_run(tmp_path / f"run_{seeds}", trials(seeds)))
        summary = summarise(run.trials)
        sure = how_sure(run, summary)
        assert any_nested(summary) is nested
        assert ("nested bootstrap" in to_markdown(sure)) is nested
        assert ("seed that moves all targets alike" in to_markdown(sure)) is nested
        assert all(pair.difference.nested is nested for pair in sure.pairs)


def test_a_report_of_an_earlier_version_is_checked_as_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", trials(2))
    of = Trial.of
    with monkeypatch.context() as earlier:
        flat = lambda *given: dataclasses.replace(of(*given), nested=False)  # noqa: E731
        earlier.setattr(Trial, "of", flat)
        build_report(folder)
    assert ",nested " not in (folder / "report" / "table.csv").read_text()
    found = verify(folder)
    assert [line for line in found.discrepancies if line.startswith("report/")] == []
    assert any(line.startswith("the intervals of a nested bootstrap") for line in found.unchecked)
    build_report(folder)
    found = verify(folder)
    assert [line for line in found.discrepancies if line.startswith("report/")] == []
    assert not any("nested" in line for line in found.unchecked)
    assert ",nested " in (folder / "report" / "table.csv").read_text()


def test_a_result_file_may_hold_what_its_counts_alone_do_not_give() -> None:
    counts = ((10, 100), (20, 100), (30, 100), (40, 100))
    _check_estimate(Interval(0.25, 0.1, 0.4, 4, "nested percentile"), counts, "x", pooled=False)
    with pytest.raises(DataError, match="its counts allow"):
        said = Interval(0.25, 0.05, 0.4, 4, "nested percentile")
        _check_estimate(said, counts, "x", pooled=False)
