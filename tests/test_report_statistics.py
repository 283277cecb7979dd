"""Intervals of the report: against scipy, against hand-made numbers, and by their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from harness.core.errors import DataError
from harness.report.statistics import (
    difference_interval,
    interval_of_printed,
    mean_interval,
    share_interval,
    wilson,
)

shares = st.lists(st.integers(0, 100).map(lambda k: k / 100), min_size=1, max_size=12)


def test_wilson_by_hand() -> None:
    # Centre (k + z^2/2) / (n + z^2), half width z sqrt(k (n-k)/n + z^2/4) / (n + z^2).
    z, k, n = stats.norm.ppf(0.975), 7, 20
    centre = (k + z * z / 2) / (n + z * z)
    half = z * math.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    found = wilson(k, n)
    assert (found.value, found.n, found.method) == (0.35, 20, "wilson")
    assert found.low == pytest.approx(centre - half)
    assert found.high == pytest.approx(centre + half)


def test_wilson_is_that_of_statsmodels() -> None:
    for n in range(1, 26):
        ends = proportion_confint(np.arange(n + 1), n, alpha=0.05, method="wilson")
        found = [wilson(k, n) for k in range(n + 1)]
        np.testing.assert_allclose([f.low for f in found], ends[0], atol=1e-9)
        np.testing.assert_allclose([f.high for f in found], ends[1], atol=1e-9)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=80, deadline=None)
def test_wilson_contains_the_share_and_stays_a_share(pair: tuple[int, int]) -> None:
    k, n = pair
    found = wilson(k, n)
    assert found.low is not None and found.high is not None
    assert 0 <= found.low <= k / n <= found.high <= 1
    assert found.high - found.low > 0


@given(st.integers(0, 20), st.integers(2, 9))
@settings(max_examples=40, deadline=None)
def test_wilson_shrinks_with_n(k: int, times: int) -> None:
    few, many = wilson(k, 20), wilson(k * times, 20 * times)
    assert few.value == many.value
    assert many.high - many.low < few.high - few.low  # type: ignore[operator]


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(k: int, n: int) -> None:
    with pytest.raises(DataError, match=f"k={k}, n={n}"):
        wilson(k, n)


@given(shares)
@settings(max_examples=40, deadline=None)
def test_mean_interval_contains_the_mean_and_stays_within_the_values(values: list[float]) -> None:
    found = mean_interval(values)
    assert found.value == pytest.approx(float(np.mean(values)))
    assert found.n == len(values)
    if len(set(values)) == 1:
        assert (found.low, found.high, found.method) == (None, None, "none")
    else:
        assert found.low is not None and found.high is not None
        assert min(values) - 1e-12 <= found.low <= found.value <= found.high
        assert found.high <= max(values) + 1e-12


@given(st.lists(st.integers(0, 100).map(lambda k: k / 100), min_size=4, max_size=8))
@settings(max_examples=15, deadline=None)
def test_mean_interval_shrinks_with_n(values: list[float]) -> None:
    values = [*values, 0.0, 1.0]  # never all equal
    few, many = mean_interval(values), mean_interval(values * 9)
    assert many.high - many.low < few.high - few.low  # type: ignore[operator]


def test_mean_interval_is_scipys_bca() -> None:
    values = [0.1, 0.15, 0.3, 0.32, 0.6]
    ends = stats.bootstrap(
        (values,), np.mean, n_resamples=9999, batch=1000, rng=np.random.default_rng(4)
    ).confidence_interval
    found = mean_interval(values, seed=4)
    assert found.method == "BCa"
    assert (found.low, found.high) == (ends.low, ends.high)
    assert found == mean_interval(values, seed=4)


def of_scipy(groups: list[list[float]], method: str, seed: int) -> tuple[float, float]:
    def mean_of(*values: np.ndarray, axis: int) -> np.ndarray:
        means = [v.mean(axis=axis) for v in values]
        return means[0] if len(means) == 1 else means[0] - means[1]

    ends = stats.bootstrap(
        [np.array(g) for g in groups], mean_of, method=method, vectorized=True, n_resamples=9_999,
        batch=1_000, rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(ends.low), float(ends.high)


spread_out = st.lists(
    st.integers(0, 100).map(lambda k: k / 100), min_size=2, max_size=12, unique=True
)


@given(spread_out, st.integers(0, 9))
@settings(max_examples=12, deadline=None)
def test_an_interval_of_a_mean_is_scipys(values: list[float], seed: int) -> None:
    found = mean_interval(values, seed)
    assert found.method == ("BCa" if len(values) > 2 else "percentile")
    low, high = of_scipy([values], found.method, seed)
    assert found.low == pytest.approx(min(low, found.value))
    assert found.high == pytest.approx(max(high, found.value))


@given(spread_out, spread_out, st.integers(0, 9))
@settings(max_examples=12, deadline=None)
def test_an_interval_of_a_difference_is_scipys(
    these: list[float], those: list[float], seed: int
) -> None:
    found = difference_interval(these, those, seed)
    assert found.value == pytest.approx(np.mean(these) - np.mean(those))
    assert found.method == ("BCa" if min(len(these), len(those)) > 2 else "percentile")
    low, high = of_scipy([these, those], found.method, seed)
    assert found.low == pytest.approx(min(low, found.value))
    assert found.high == pytest.approx(max(high, found.value))


@given(spread_out)
@settings(max_examples=50, deadline=None)
def test_of_a_printed_mean_the_t_interval_of_its_values_is_left(values: list[float]) -> None:
    ends = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    for ddof in (0, 1):
        found = interval_of_printed(
            float(np.mean(values)), float(np.std(values, ddof=ddof)), len(values),
            population=ddof == 0,
        )  # fmt: skip
        assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
        assert (found.n, found.method) == (len(values), "t")


@pytest.mark.parametrize(("deviation", "n"), [(0.0, 10), (0.2, 1)])
def test_a_printed_mean_without_a_spread_has_no_interval(deviation: float, n: int) -> None:
    assert interval_of_printed(0.4, deviation, n).low is None


@pytest.mark.parametrize(("deviation", "n"), [(-0.1, 10), (0.2, 0)])
def test_what_cannot_be_a_spread_is_refused(deviation: float, n: int) -> None:
    with pytest.raises(DataError, match=f"n={n}, deviation={deviation:g}"):
        interval_of_printed(0.4, deviation, n)


def test_two_values_span_their_range() -> None:
    found = mean_interval([0.2, 0.4])
    assert (found.low, found.high, found.method) == (0.2, 0.4, "percentile")


def test_rounding_is_no_spread() -> None:
    found = mean_interval([0.71 - 0.74, 0.70 - 0.73, 0.72 - 0.75])
    assert found.value == pytest.approx(-0.03) and found.low is None


def test_no_values_are_refused() -> None:
    with pytest.raises(DataError, match="no values"):
        mean_interval([])


def test_one_trial_is_judged_by_its_counts() -> None:
    assert share_interval([(60, 915)]) == wilson(60, 915)


def test_trials_that_agree_claim_no_more_than_one_of_them() -> None:
    # Three times 0 of 100 is no proof of 0 of 300: their images share three networks.
    assert share_interval([(0, 100)] * 3) == wilson(0, 100)


def test_trials_that_differ_are_bootstrapped() -> None:
    assert share_interval([(1, 10), (4, 10), (40, 100)]) == mean_interval([0.1, 0.4, 0.4])
