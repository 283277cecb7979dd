"""Intervals of trials that hang together: by their target, by a seed, or by both."""

from __future__ import annotations

import dataclasses
import itertools
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
from harness.report.nested import Nest, chains_of, drawn_means, is_flat, tied_ends
from harness.report.statistics import (
    Interval,
    difference_interval,
    mean_interval,
    share_interval,
)
from harness.report.summary import summarise, ties_of
from harness.report.trials import Ties, Trial
from harness.verification.verify import verify
from tests.report_runs import record, write_run

TARGETS, SEEDS = 20, 5


def simulated(rng: np.random.Generator, between: float, within: float) -> list[float]:
    """Values of 20 targets with 5 seeds each; the true mean is 0."""
    targets = np.repeat(rng.normal(0, between, TARGETS), SEEDS)
    return list((targets + rng.normal(0, within, TARGETS * SEEDS)).tolist())


def nests(targets: int = TARGETS, seeds: int = SEEDS) -> list[Nest]:
    """Targets whose seeds are their own."""
    each = itertools.product(range(targets), range(seeds))
    return [(target, 0, 0, (target, seed)) for target, seed in each]


def shared(targets: int, seeds: int) -> list[Nest]:
    """Targets that were all run with the same seeds."""
    return [(target, 0, 0, seed) for target in range(targets) for seed in range(seeds)]


def coverage(between: float, within: float, of: list[Nest]) -> float:
    rng = np.random.default_rng(7)
    hits = 0
    for seed in range(200):
        values = np.array(simulated(rng, between, within))
        _, (low, high) = tied_ends(values, chains_of(of), 999, 0.95, seed)
        hits += low <= 0 <= high
    return hits / 200


def seeds_coverage(of: list[Nest], targets: int, seeds: int, by_seed: float) -> float:
    """Of values that targets, seeds and chance move; the true mean is 0."""
    rng, hits = np.random.default_rng(8), 0
    chains = chains_of(of)
    for index in range(200):
        rows = rng.normal(0, 1, (targets, 1)) + rng.normal(0, by_seed, (1, seeds))
        values = (rows + rng.normal(0, 1, (targets, seeds))).ravel()
        _, (low, high) = tied_ends(values, chains, 999, 0.95, index)
        hits += low <= 0 <= high
    return hits / 200


def test_the_interval_covers_where_targets_differ_and_the_plain_one_does_not() -> None:
    alone = [(index,) for index in range(TARGETS * SEEDS)]
    assert coverage(0.2, 0.05, nests()) >= 0.88
    assert coverage(0.2, 0.05, alone) < 0.75


def test_it_covers_too_where_targets_do_not_differ() -> None:
    assert coverage(0.0, 0.1, nests()) >= 0.93


def test_poison_seeds_hold_together_within_one_target() -> None:
    each = itertools.product(range(TARGETS), range(SEEDS))
    of = [(3, poison, 0, (poison, victim)) for poison, victim in each]
    assert coverage(0.2, 0.05, of) >= 0.88  # the target that is alone is no level


def test_a_seed_that_moves_all_targets_alike_counts_once() -> None:
    """Who lets each target draw its seeds for itself takes ten targets for ten times the seeds."""
    assert seeds_coverage(shared(10, 10), 10, 10, by_seed=1.0) >= 0.9
    assert seeds_coverage(nests(10, 10), 10, 10, by_seed=1.0) < 0.87
    assert seeds_coverage(shared(30, 8), 30, 8, by_seed=3.0) >= 0.85
    assert seeds_coverage(nests(30, 8), 30, 8, by_seed=3.0) < 0.5
    assert seeds_coverage(shared(20, 5), 20, 5, by_seed=0.0) >= 0.9  # where it moves nothing


@pytest.mark.parametrize(
    ("of", "chains"),
    [
        (shared(3, 2), 2),
        (nests(3, 2), 1),
        ([(t, s, s, s) for t in range(3) for s in range(2)], 2),  # one seed for everything
        ([(t, 0, s, s) for t in range(3) for s in range(2)], 2),
        ([(t, 0, u, v) for t in range(3) for u in range(2) for v in range(2)], 3),
        ([(t, p, 0, v) for t in range(3) for p in range(2) for v in range(2)], 2),
        ([(1, p, 0, v) for p in range(3) for v in range(2)], 2),
        ([(None, 0, u, v) for u in range(3) for v in range(2)], 2),  # no attack
        ([(None, 0, u, (u, v)) for u in range(3) for v in range(2)], 1),
        ([(t, t, t, t) for t in range(3)], 1),
        ([(t, p, 0, 0) for t in range(3) for p in range(2)], 1),
    ],
)
def test_what_a_study_shares_is_drawn_for_itself(of: list[Nest], chains: int) -> None:
    assert len(chains_of(of)) == chains
    backwards = chains_of(of[::-1])
    assert len(backwards) == chains
    values = np.arange(float(len(of)))
    one, other = (
        drawn_means(v, c, 4000, np.random.default_rng(0))
        for v, c in ((values, chains_of(of)), (values[::-1], backwards))
    )
    assert one.std() == pytest.approx(other.std(), rel=0.06)


def test_one_seed_for_everything_is_drawn_as_one() -> None:
    """Its poisons are no level of their own: a draw of them would miss that of the victims."""
    values = np.random.default_rng(4).normal(size=(8, 4)).ravel()
    alike = [(t, s, s, s) for t in range(8) for s in range(4)]
    assert chains_of(alike)[0] == chains_of(shared(8, 4))[0]
    one, other = (
        drawn_means(values, chains_of(of), 999, np.random.default_rng(0))
        for of in (alike, shared(8, 4))
    )
    np.testing.assert_array_equal(one, other)


def test_crossed_draws_spread_as_drawing_rows_and_columns_does() -> None:
    """As Owen's bootstrap: of both, and what is left, of which a draw of both has its share too."""
    values = np.random.default_rng(1).normal(size=(6, 4)) + np.arange(4)
    draws = drawn_means(values.ravel(), chains_of(shared(6, 4)), 40_000, np.random.default_rng(2))
    rows, columns = values.mean(1) - values.mean(), values.mean(0) - values.mean()
    rest = values - values.mean() - rows[:, None] - columns
    expected = rows.var() / 6 + columns.var() / 4 + rest.var() / 24
    assert draws.mean() == pytest.approx(values.mean(), abs=0.01)
    assert draws.var() == pytest.approx(expected, rel=0.03)


def test_trials_that_are_missing_leave_the_mean_where_it_is() -> None:
    of = [nest for nest in shared(4, 3) if nest[0] != nest[3]]  # a seed of each target failed
    values = [0.1 * nest[0] + 0.02 * nest[3] for nest in of]
    found = mean_interval(values, nests=of)
    assert found.method == "crossed percentile"
    assert found.value == pytest.approx(np.mean(values)) and found.low < found.value < found.high
    rarely = [(0, 0, 0, 0), (1, 0, 0, 0), (1, 0, 0, 1)]  # a draw of 0 and 1 has no trial
    assert np.isfinite([mean_interval([0.0, 0.5, 1.0], nests=rarely).high]).all()


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
    draws = drawn_means(values.ravel(), chains_of(nests(6, 4)), 40_000, np.random.default_rng(2))
    between, within = values.mean(axis=1).var() / 6, values.var(axis=1).mean() / 24
    assert draws.mean() == pytest.approx(values.mean(), abs=0.01)
    assert draws.var() == pytest.approx(between + within, rel=0.03)


def test_targets_with_other_numbers_of_seeds_keep_their_weight() -> None:
    assert not is_flat(chains_of([(1, 0), (1, 1), (1, 2), (2, 0)]))
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
    for seeds, ties in ((1, set()), (2, {"crossed"})):
        run = read_run(write_run(tmp_path / f"run_{seeds}", trials(seeds)))
        summary = summarise(run.trials)
        sure = how_sure(run, summary)
        assert ties_of(summary) == ties
        assert ("for all targets at once" in to_markdown(sure)) is bool(ties)
        assert ("a seed moves all targets alike" in to_markdown(sure)) is bool(ties)
        assert {pair.difference.tied for pair in sure.pairs} - {""} == ties


@pytest.mark.parametrize(
    ("ties", "kept", "told"),
    [("none", "", "the seeds of one target"), ("target", "nested", "one seed of several targets")],
)
def test_a_report_of_an_earlier_version_is_checked_as_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ties: Ties, kept: str, told: str
) -> None:
    folder = write_run(tmp_path / "run", trials(2))
    of = Trial.of
    with monkeypatch.context() as earlier:
        as_then = lambda *given: dataclasses.replace(of(*given), ties=ties)  # noqa: E731
        earlier.setattr(Trial, "of", as_then)
        build_report(folder)
    table = folder / "report" / "table.csv"
    assert words_of(table) == {kept} - {""}
    found = verify(folder)
    assert [line for line in found.discrepancies if line.startswith("report/")] == []
    assert any(
        line.startswith("the intervals of today") and told in line for line in found.unchecked
    )
    build_report(folder)
    found = verify(folder)
    assert [line for line in found.discrepancies if line.startswith("report/")] == []
    assert not any("the intervals of today" in line for line in found.unchecked)
    assert words_of(table) == {"crossed"}


def words_of(table: Path) -> set[str]:
    return {word for word in ("nested", "crossed") if f",{word} " in table.read_text()}


def test_a_result_file_may_hold_what_its_counts_alone_do_not_give() -> None:
    counts = ((10, 100), (20, 100), (30, 100), (40, 100))
    _check_estimate(Interval(0.25, 0.1, 0.4, 4, "nested percentile"), counts, "x", pooled=False)
    with pytest.raises(DataError, match="its counts allow"):
        said = Interval(0.25, 0.05, 0.4, 4, "nested percentile")
        _check_estimate(said, counts, "x", pooled=False)
