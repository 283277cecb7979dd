"""How sure a result is: tests against the libraries' own, effects found and not invented."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from harness.comparison.output import FORMS, render, to_frame, verdict
from harness.comparison.runs import Comparison, compare_runs
from harness.core.records import TrialRecord
from harness.report import significance as sig
from harness.report.collect import read_run
from harness.report.how_sure import how_sure, to_markdown
from harness.report.how_sure import verdict as pair_verdict
from harness.report.nested import independent
from harness.report.pairs import Pair, compare_pairs
from harness.report.pairs import to_frame as pairs_frame
from harness.report.statistics import difference_interval, mean_interval
from harness.report.summary import Summary, summarise
from harness.report.trials import Trial
from harness.report.variance import ALIKE, REST, Split, split_variance
from tests.report_runs import record, write_run
from tests.tiny import CommandLine

SHARES = st.lists(st.integers(0, 100), min_size=12, max_size=20)


def summary_of(records: Iterable[TrialRecord]) -> Summary:
    return summarise([Trial.of(r) for r in records])


def triggered(defense: str, hits: Sequence[int], **changes: object) -> list[TrialRecord]:
    """One trial per number of hits, on five targets in turn, with a new seed each time round."""
    return [
        record("narcissus", defense, goal="triggered", target=i % 5, poison=i // 5, victim=i // 5,
               probes={"x1": (n, 100)}, correct=700 + (7 * i) % 11, **changes)
        for i, n in enumerate(hits)
    ]  # fmt: skip


def targeted(defense: str, hits: Sequence[int]) -> list[TrialRecord]:
    return [
        record("bullseye", defense, goal="targeted", target=i, probes={"target": (n, 1)})
        for i, n in enumerate(hits)
    ]


def pair_of(summary: Summary, defense: str, against: str, measure: str) -> Pair:
    return next(
        p for p in compare_pairs(summary)
        if (p.defense, p.against, p.measure) == (defense, against, measure)
    )  # fmt: skip


# Against the libraries


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=6, max_size=9))
def test_the_permutation_test_counts_every_swap(values: list[tuple[int, int]]) -> None:
    differences = np.array([a - b for a, b in values])
    swaps = np.array(list(itertools.product((1, -1), repeat=len(values)))) @ differences
    seen = differences.sum()
    tail = min((swaps >= seen).mean(), (swaps <= seen).mean())
    p = sig.paired_permutation(*zip(*[(a / 100, b / 100) for a, b in values], strict=True))
    assert p == pytest.approx(min(1.0, 2 * tail))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_mcnemar_is_a_coin_on_the_discordant(values: list[tuple[bool, bool]]) -> None:
    more, less = (sum(v == w for v in values) for w in ((True, False), (False, True)))
    p = sig.mcnemar_exact(*zip(*values, strict=True))
    expected = stats.binomtest(more, more + less).pvalue if more + less else 1.0
    assert p == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.005, 1.0), st.floats(0.01, 0.5))
def test_so_many_pairs_have_the_power_and_no_fewer(difference: float, deviation: float) -> None:
    needed = sig.pairs_needed(difference, deviation)
    assert needed is not None and needed >= 6
    effect = difference / deviation
    if effect < 1.2:
        assert TTestPower().power(effect, needed, 0.05) >= 0.8 - 1e-6
        assert needed == 6 or TTestPower().power(effect, needed - 1, 0.05) < 0.8
    assert sig.pairs_needed(-difference, deviation) == needed


def test_no_number_of_pairs_without_a_difference_or_a_spread() -> None:
    assert sig.pairs_needed(0.0, 0.1) is None
    assert sig.pairs_needed(0.1, 0.0) is None
    assert sig.trials_needed(0.0, 0.1) is None
    assert sig.trials_needed(0.05, 0.1) == 64  # Cohen's effect .5
    assert sig.pairs_needed(0.05, 0.1) == 34


def test_the_unpaired_interval_is_scipys_bca() -> None:
    a, b = [0.1, 0.2, 0.5, 0.4], [0.3, 0.7, 0.6]
    found = difference_interval(a, b)
    ends = stats.bootstrap(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), method="BCa", vectorized=True,
        n_resamples=9_999, batch=1_000, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert (found.value, found.method, found.n) == (pytest.approx(-7 / 30), "BCa", 3)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert difference_interval([0.5], b).low is None


@pytest.mark.parametrize("pairs", [2, 5, 6, 9])
def test_the_smallest_p_is_that_of_pairs_that_agree(pairs: int) -> None:
    these, those = np.linspace(0.6, 0.7, pairs), np.linspace(0.1, 0.3, pairs)
    assert sig.paired_permutation(these, those) == sig.smallest_paired_p(pairs)
    assert sig.unpaired_permutation(these, those) == pytest.approx(
        sig.smallest_unpaired_p(pairs, pairs), rel=0.01
    )


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 200), max_size=12))
def test_holm_is_that_of_statsmodels_and_of_its_definition(thousandths: list[int]) -> None:
    given_p = [n / 1000 for n in thousandths]
    found = sig.holm(given_p)
    assert len(found) == len(given_p)
    if given_p:
        np.testing.assert_allclose(found, multipletests(given_p, method="holm")[1])
    worst = 0.0
    for rank, index in enumerate(np.argsort(given_p, kind="stable")):
        worst = max(worst, min(1.0, (len(given_p) - rank) * given_p[index]))
        assert found[index] == pytest.approx(worst)


@settings(max_examples=3, deadline=None)
@given(SHARES, SHARES, SHARES)
def test_holm_is_over_every_p_that_is_shown(
    one: list[int], two: list[int], three: list[int]
) -> None:
    records = triggered("none", one) + triggered("ebm", two) + triggered("jpeg", three)
    frame = pairs_frame(compare_pairs(summary_of(records)))
    assert len(frame) == 6 and set(frame["tests"]) == {3}  # of one measure under one attack
    for _, family in frame.groupby("measure"):
        np.testing.assert_allclose(family["p_holm"], multipletests(family["p"], method="holm")[1])
    row = frame[(frame["measure"] == "success x1") & (frame["defense"] == "ebm")].iloc[0]
    n = min(len(one), len(two))
    differences = np.subtract(two[:n], one[:n]) / 100
    assert (row["against"], row["pairs"]) == ("none", n)
    assert row["difference"] == pytest.approx(differences.mean())
    assert row["deviation"] == pytest.approx(differences.std(ddof=1))
    interval = mean_interval(
        [b / 100 - a / 100 for a, b in zip(one[:n], two[:n], strict=True)],
        nests=[(i % 5, i // 5, i // 5) for i in range(n)],
    )
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(
        (interval.low, interval.high), nan_ok=True
    )


# Effects


def hits(mean: float, count: int, seed: int, spread: float = 4) -> list[int]:
    drawn = np.random.default_rng(seed).normal(mean, spread, count).round().clip(0, 100)
    return [int(n) for n in drawn]


def test_a_better_defense_is_found_and_equals_are_not() -> None:
    records = [
        *triggered("none", hits(60, 15, 0)), *triggered("ebm", hits(20, 15, 1)),
        *triggered("jpeg", hits(20, 15, 2)),
    ]  # fmt: skip
    summary = summary_of(records)
    better = pair_of(summary, "ebm", "none", "success x1")
    assert better.shown and better.difference.value == pytest.approx(-0.4, abs=0.03)
    assert pair_verdict(better) == "lower" and better.test == "permutation"
    equal = pair_of(summary, "jpeg", "ebm", "success x1")
    assert not equal.shown and not equal.hopeless
    assert pair_verdict(equal).startswith("no difference seen; one this large needs about ")
    alike = pair_of(summary, "jpeg", "ebm", "accuracy")
    assert (alike.difference.value, alike.p, alike.p_holm) == (0.0, 1.0, 1.0)


def test_equals_are_told_apart_in_few_of_many_studies() -> None:
    found = [
        sig.paired_permutation(hits(30, 10, 2 * seed), hits(30, 10, 2 * seed + 1))
        for seed in range(100)
    ]
    assert sum(p <= 0.05 for p in found) <= 10  # 5 expected; 11 or more in 1.1 % of such tests


def test_targets_hit_or_not_are_held_against_a_coin() -> None:
    none, ebm = [1] * 14 + [0] * 2, [0] * 12 + [1] * 3 + [0]
    pair = pair_of(summary_of(targeted("none", none) + targeted("ebm", ebm)),
                   "ebm", "none", "success target")  # fmt: skip
    assert (pair.test, pair.pairs) == ("McNemar", 16)
    assert pair.p == pytest.approx(mcnemar([[2, 12], [1, 1]], exact=True).pvalue)
    assert pair.shown and pair.difference.value == pytest.approx(-11 / 16)


def test_six_pairs_of_one_question_can_show_and_five_cannot() -> None:
    def only(count: int) -> Pair:
        return pair_of(summary_of(triggered("none", [60 + i for i in range(count)])
                                  + triggered("ebm", range(count))),
                       "ebm", "none", "success x1")  # fmt: skip

    five, six = only(5), only(6)
    assert (five.p, five.p_holm, five.test) == (None, None, "")
    assert pair_verdict(five) == "too few pairs to test (6 at least)"
    assert six.p == six.p_holm == 2 / 2**6 and six.tests == 1
    assert pair_verdict(six) == "lower"


def test_victims_of_one_poison_are_one_pair() -> None:
    """Eighteen trainings on six poisons: p is that of six, however well the victims agree."""
    records = [
        record("narcissus", defense, goal="triggered", target=target, victim=victim,
               probes={"x1": (hits + victim, 100)})
        for defense, hits in (("none", 60), ("ebm", 5)) for target in range(6)
        for victim in range(3)
    ]  # fmt: skip
    pair = pair_of(summary_of(records), "ebm", "none", "success x1")
    assert (pair.pairs, pair.p) == (6, 2 / 2**6)
    # Of a single poison the victims are what there is.
    alone = [r for r in records if r.spec["target"] == 0]
    assert pair_of(summary_of(alone), "ebm", "none", "success x1").pairs == 3


def test_poisons_that_differ_are_not_told_apart_by_more_victims() -> None:
    """No difference, but each poison suits one defense: of 200 studies 5 % may show one."""
    rng, shown, naive = np.random.default_rng(0), 0, 0
    nests = [(target, 0, victim) for target in range(8) for victim in range(5)]
    for _ in range(200):
        values = np.repeat(rng.normal(0, 1, 8), 5) + rng.normal(0, 0.1, 40)
        zero = [0.0] * 40
        units = independent(values.tolist(), nests), independent(zero, nests)
        shown += sig.paired_permutation(*units) <= sig.ALPHA
        naive += stats.ttest_1samp(values, 0).pvalue <= sig.ALPHA
    assert shown <= 20 < 60 < naive


def test_six_pairs_of_three_questions_cannot_show() -> None:
    records = [
        *triggered("none", [60 + i for i in range(6)]), *triggered("ebm", range(6)),
        *triggered("jpeg", range(20, 26)),
    ]  # fmt: skip
    six = pair_of(summary_of(records), "ebm", "none", "success x1")
    assert six.tests == 3
    assert pair_verdict(six) == "too few pairs (7 at least)"  # .03125 x 3 > .05


def test_purification_seeds_are_no_pairs_of_their_own() -> None:
    none = triggered("none", [50, 60, 70, 80, 50, 60])
    ebm = [
        record("narcissus", "ebm", goal="triggered", target=i % 5, poison=i // 5, victim=i // 5,
               purify=u, probes={"x1": (10 + i + 2 * u, 100)})
        for i in range(6) for u in range(3)
    ]  # fmt: skip
    pair = pair_of(summary_of(none + ebm), "ebm", "none", "success x1")
    assert pair.pairs == 6
    assert pair.means[0] == pytest.approx(np.mean([12 + i for i in range(6)]) / 100)


# Where the spread comes from


def spread(
    seeds: Iterable[tuple[int, int, int]],
    effects: dict[str, float],
    targets: int = 6,
    draw: int = 0,
) -> tuple[Split, pd.DataFrame]:
    """Return the split of accuracy, and its trials; effects: deviation in images of 100,000."""
    rng = np.random.default_rng(draw)
    drawn: dict[tuple[object, ...], float] = {}

    def effect(name: str, *key: object) -> float:
        if (name, *key) not in drawn:
            drawn[name, *key] = rng.normal(0, effects.get(name, 0))
        return drawn[name, *key]

    rows, records = [], []
    for t, (p, u, v) in itertools.product(range(targets), seeds):
        correct = 50_000 + round(
            effect("target", t) + effect("poison", t, p) + effect("purify", t, p, u)
            + effect("victim", t, p, v) + effect("rest", t, p, u, v)
        )  # fmt: skip
        rows.append((t, p, u, v, correct / 100_000))
        records.append(
            record("narcissus", "ebm", goal="triggered", target=t, poison=p, purify=u, victim=v,
                   rows=100_000, correct=correct)
        )  # fmt: skip
    found = next(s for s in split_variance(summary_of(records)) if s.measure == "accuracy")
    return found, pd.DataFrame(rows, columns=["t", "p", "u", "v", "y"])


CROSSED = list(itertools.product(range(3), repeat=3))


def test_each_source_gets_its_share_of_a_crossed_study() -> None:
    effects = {"target": 4000.0, "poison": 2000.0, "purify": 1000.0, "victim": 3000.0, "rest": 500}
    found, _ = spread(CROSSED, effects, targets=40)
    total = sum(e**2 for e in effects.values())
    names = {"target": "target", "poison": "poison seed", "purify": "purification seed",
             "victim": "victim seed", "rest": REST}  # fmt: skip
    assert set(found.parts) == set(names.values())
    assert sum(found.parts.values()) == pytest.approx(1)
    for name, effect in effects.items():
        assert found.parts[names[name]] == pytest.approx(effect**2 / total, abs=0.12), name
    assert found.deviation == pytest.approx(total**0.5 / 100_000, rel=0.2)
    words = "40 targets x 3 poison seeds x 3 purification seeds x 3 victim seeds"
    assert found.design == words and found.trials == 40 * 27


def test_a_balanced_split_is_what_reml_says() -> None:
    seeds = [(0, 0, v) for v in range(4)]
    found, frame = spread(seeds, {"target": 3000, "victim": 2000}, targets=8)
    fit = MixedLM(frame["y"] * 100, np.ones(len(frame)), groups=frame["t"]).fit(reml=True)
    between, within = float(fit.cov_re.iloc[0, 0]), float(fit.scale)
    assert found.parts["target"] == pytest.approx(between / (between + within), abs=1e-3)
    assert found.parts["victim seed"] == pytest.approx(within / (between + within), abs=1e-3)


@pytest.mark.parametrize(
    ("targets", "purify", "victim"), [(8, 3, 4), (10, 4, 2), (6, 5, 3)]
)  # fmt: skip
def test_a_crossed_balanced_split_is_what_reml_says(
    targets: int, purify: int, victim: int
) -> None:  # fmt: skip
    seeds = [(0, u, v) for u in range(purify) for v in range(victim)]
    effects = {"target": 4000.0, "purify": 2500.0, "victim": 3000.0, "rest": 1500.0}
    found, frame = spread(seeds, effects, targets=targets, draw=targets)
    assert min(found.parts.values()) > 0  # where one is cut at 0, the two estimators differ
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its start; what it found is checked below
        fit = MixedLM.from_formula(
            "y ~ 1", frame.assign(y=100 * frame["y"]), groups="t", re_formula="1",
            vc_formula={"u": "0 + C(u)", "v": "0 + C(v)"},
        ).fit(reml=True)  # fmt: skip
    said = {
        "target": float(fit.cov_re.iloc[0, 0]), "purification seed": float(fit.vcomp[0]),
        "victim seed": float(fit.vcomp[1]), REST: float(fit.scale),
    }  # fmt: skip
    total = sum(said.values())
    for name, value in said.items():
        assert found.parts[name] == pytest.approx(value / total, abs=5e-3), name
    assert found.deviation == pytest.approx(total**0.5 / 100, rel=5e-3)


def test_one_seed_for_all_is_said_and_not_split() -> None:
    found, _ = spread([(s, s, s) for s in range(3)], {"target": 1000, "rest": 1000})
    assert set(found.parts) == {"target", ALIKE}
    assert found.design == "6 targets x 3 seeds, alike for poison, purification and victim"


@pytest.mark.parametrize(
    ("seeds", "note"),
    [
        ([(0, 0, 0)], "one seed: what the target does and what chance does cannot be told apart"),
        ([(0, 0, 0), (1, 0, 1), (1, 1, 1)], "its seeds are neither one for all nor crossed"),
    ],
)
def test_what_cannot_be_split_is_said(seeds: list[tuple[int, int, int]], note: str) -> None:
    found, _ = spread(seeds, {"target": 1000, "rest": 1000})
    assert (found.parts, found.note) == ({}, note)


def test_a_lost_trial_costs_its_seed_only() -> None:
    records = [r for r in triggered("ebm", hits(30, 15, 0)) if r.spec["target"] != 2
               or r.spec["seeds"]["victim"] != 1]  # fmt: skip
    found = split_variance(summary_of(records))[0]
    assert found.trials == 10 and found.note == "without 4 trials whose seeds not every target has"
    assert sum(found.parts.values()) == pytest.approx(1)


# Words


def test_the_words_say_what_is_not_varied(tmp_path: Path) -> None:
    records = triggered("none", hits(60, 10, 0)) + triggered("ebm", hits(20, 10, 1))
    read = read_run(write_run(tmp_path / "run", records))
    text = to_markdown(how_sure(read, summarise(read.trials)))
    assert "Of 2 comparisons, 1 shows a difference: narcissus: success x1 of ebm" in text
    assert "corrected for all p-values of one measure under one attack" in text
    assert "does not vary the purification seed" in text
    alike = [r.with_values(spec={**r.spec, "seeds": dict.fromkeys(("poison", "purify", "victim"),
             r.spec["seeds"]["victim"])}) for r in records]  # fmt: skip
    read = read_run(write_run(tmp_path / "alike", alike))
    text = to_markdown(how_sure(read, summarise(read.trials)))
    assert "one seed, which drives poison, purification and victim alike" in text


# Two runs


STUDY = {
    "protocol": "0.1", "inputs": {"dataset npz": "ab" * 32},
    "study": {"name": "x", "defenses": [{"name": "ebm", "steps": 100}], "seeds": [0, 1]},
}  # fmt: skip


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """B: better ebm on the same seeds, jpeg on other seeds, one defense of each run alone."""
    folder = tmp_path_factory.mktemp("two")
    other = json.loads(json.dumps(STUDY))
    other["study"]["defenses"][0]["steps"] = 150
    first = [
        *triggered("none", hits(60, 15, 0)), *triggered("ebm", hits(30, 15, 1)),
        *triggered("jpeg", hits(40, 10, 2)), *triggered("epic", hits(40, 10, 2)),
    ]  # fmt: skip
    second = [
        *triggered("none", hits(60, 15, 0)), *triggered("ebm", hits(15, 15, 3)),
        *triggered("friends", hits(40, 10, 2)),
        *(r.with_values(spec_id=f"{i:012x}", spec={**r.spec, "seeds": {"poison": 9, "victim": 9}})
          for i, r in enumerate(triggered("jpeg", hits(40, 5, 5)))),
    ]  # fmt: skip
    return compare_runs(
        read_run(write_run(folder / "a", first, STUDY)),
        read_run(write_run(folder / "b", second, other)),
    )


def test_rows_are_matched_and_paired_where_they_can_be(comparison: Comparison) -> None:
    found = {(m.line.defense, m.line.measure): m for m in comparison.matches}
    assert set(found) == {
        (d, m) for d in ("none", "ebm", "jpeg") for m in ("success x1", "accuracy")
    }  # fmt: skip
    assert {line.defense for line in comparison.first_only} == {"epic"}
    assert {line.defense for line in comparison.second_only} == {"friends"}
    better = found["ebm", "success x1"]
    assert better.pairs == 15 and better.shown and verdict(better) == "lower in B"
    same = found["none", "success x1"]
    assert same.same and verdict(same) == "the same numbers"
    unpaired = found["jpeg", "success x1"]
    assert (unpaired.pairs, unpaired.trials) == (0, (10, 5))
    assert verdict(unpaired).startswith("no difference can be seen: needs about ")
    low, high = unpaired.difference.low, unpaired.difference.high
    assert low is not None and high is not None and low < 0 < high
    tested = [m for m in comparison.matches if m.p is not None]
    expected = multipletests([m.p for m in tested], method="holm")[1]
    np.testing.assert_allclose([m.p_holm for m in tested], expected)


def test_equal_means_of_victims_that_differ_are_not_the_same_numbers(tmp_path: Path) -> None:
    """Each target was hit by one victim of two in both runs, and by another one."""
    runs = []
    for hit_by in (0, 1):
        records = [
            record("bullseye", goal="targeted", target=target, victim=victim,
                   probes={"target": (int(victim == hit_by), 1)})
            for target in (0, 1) for victim in (0, 1)
        ]  # fmt: skip
        runs.append(read_run(write_run(tmp_path / str(hit_by), records, STUDY)))
    success, accuracy = sorted(compare_runs(*runs).matches, key=lambda m: m.line.measure)[::-1]
    assert success.pairs == 2 and success.difference.value == 0
    assert verdict(success) == "too few pairs to tell"
    assert verdict(accuracy) == "the same numbers"


def test_the_unpaired_test_is_scipys(comparison: Comparison) -> None:
    found = next(m for m in comparison.matches if not m.pairs and m.line.measure != "accuracy")
    groups = tuple(np.array(hits(40, n, s)) for n, s in ((10, 2), (5, 5)))
    exact = stats.permutation_test(
        groups, lambda x, y, axis: x.sum(axis) - 2 * y.sum(axis), vectorized=True, n_resamples=3003
    )
    assert found.p == pytest.approx(float(exact.pvalue))


def test_differing_settings_are_shown(comparison: Comparison) -> None:
    [steps] = [d for d in comparison.settings if d.setting.startswith("study")]
    assert (steps.setting, steps.first, steps.second) == ("study defenses.0.steps", "100", "150")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_every_number(comparison: Comparison, form: str) -> None:
    text = render(comparison, form)
    for defense in ("ebm", "jpeg", "epic", "friends"):
        assert defense in text
    if form == "csv":
        assert text == to_frame(comparison).to_csv(index=False, lineterminator="\n")
        assert list(to_frame(comparison)["in"]).count("both") == 6
    else:
        assert "defenses.0.steps" in text and "lower in B" in text
    if form == "latex":
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == 3


def test_compare_from_the_command_line(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = CommandLine(monkeypatch, capsys)
    a, b = comparison.first.path, comparison.second.path
    assert cli("compare", a, b, "--format", "markdown") == 0
    assert cli.out == render(comparison, "markdown")
    assert cli("compare", a, b, "--format", "csv") == 0
    assert cli.out == render(comparison, "csv")
    assert cli.err == "study defenses.0.steps: 100 | 150\n"
    assert cli("compare", a, a) == 0
    assert "No setting differs." in cli.out and "lower in B" not in cli.out
    assert cli("compare", a, a.with_name("bb")) == 2
    assert cli.err.startswith(f"error: '{a.with_name('bb')}' is no run folder.")
    assert cli.err.count("\n") == 1 and not cli.out
    assert cli("compare", a.parent, b) == 2
    assert "holds no record" in cli.err
