"""How much of the spread of trials comes from the target and from each seed."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
import pandas as pd

from harness.report.summary import Duel, Summary
from harness.report.trials import Setting, Trial

SEEDS = {"poison": "poison seed", "purify": "purification seed", "victim": "victim seed"}
ALIKE = "shared seed"
REST = "rest"
PARTS = ("target", *SEEDS.values(), ALIKE, REST)

_Combination = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """The spread of one number over the trials of one defense under one attack.

    Attributes:
        setting, attack, defense: Whose trials.
        measure: ``accuracy``, or ``success`` and the name of the headline probe.
        trials: How many the split is of.
        design: What varied, in words: ``2 targets x 3 victim seeds``.
        deviation: Standard deviation of one trial, a share in [0, 1]; None without a split.
        parts: Share of the variance per source (of :data:`PARTS`); they sum to 1. Empty without a
            split.
        note: Why there is none, or what was left out; or "".
    """

    setting: Setting
    attack: str
    defense: str
    measure: str
    trials: int
    design: str
    deviation: float | None
    parts: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Design:
    """A balanced set of trials: each target with each combination of the seeds that varied."""

    frame: pd.DataFrame  # target, poison, purify, victim, value
    targets: int
    varied: dict[str, int]  # seeds that varied independently, with their number of values
    alike: bool  # one seed that drives all that varied
    words: str
    note: str


def split_variance(summary: Summary) -> tuple[Split, ...]:
    """Return a split per attack, defense and measure, in the order of the table."""
    found = []
    for duel in summary.duels:
        for row in duel.rows:
            if row.trials < 2:
                continue
            trials = [t for t in duel.trials[row.defense] if t.ok]
            if row.headline:
                name = row.headline.name
                found.append(_split(duel, row.defense, f"success {name}", _success(trials, name)))
            found.append(_split(duel, row.defense, "accuracy", _accuracy(trials)))
    return tuple(found)


def _accuracy(trials: Iterable[Trial]) -> pd.DataFrame:
    return _frame((t, t.target, t.record.natural_accuracy) for t in trials)


def _success(trials: Iterable[Trial], probe: str) -> pd.DataFrame:
    return _frame(
        (t, t.target if o.target is None else o.target, o.successes / o.trials)
        for t in trials
        for o in t.record.outcomes
        if o.probe == probe and o.trials
    )


def _frame(values: Iterable[tuple[Trial, int | None, float]]) -> pd.DataFrame:
    """One row per target and seeds; an undefended trial has no purification, so no seed of it."""
    rows = [
        {
            "target": -1 if target is None else target,
            **{name: trial.seeds.get(name, -1) for name in SEEDS},
            **({} if trial.defended else {"purify": -1}),
            "value": value,
        }
        for trial, target, value in values
    ]
    keys = ["target", *SEEDS]
    return pd.DataFrame(rows, columns=[*keys, "value"]).groupby(keys, as_index=False).mean()


def _split(duel: Duel, defense: str, measure: str, frame: pd.DataFrame) -> Split:
    design = _balanced(frame)
    names = (duel.setting, duel.attack, defense, measure)
    if isinstance(design, str):
        return Split(*names, len(frame), "", None, {}, design)
    values = design.frame["value"].to_numpy()
    if np.ptp(values) < 1e-12:
        said = "every trial showed the same"
        return Split(*names, len(values), design.words, 0.0, {}, said)
    found = {name: max(0.0, value) for name, value in _components(design).items()}
    total = sum(found.values())
    parts = {name: value / total for name, value in found.items()}
    return Split(*names, len(values), design.words, sqrt(total), parts, design.note)


def _balanced(frame: pd.DataFrame) -> _Design | str:
    """Keep the seeds that every target has, and find out what varied; or say why it cannot be."""
    by_target: dict[int, set[_Combination]] = {}
    for target, *seeds in frame[["target", *SEEDS]].itertuples(index=False, name=None):
        by_target.setdefault(target, set()).add(tuple(seeds))
    common = set.intersection(*by_target.values())
    if not common:
        return "no seed was run on every target"
    kept = frame[[c in common for c in frame[list(SEEDS)].itertuples(index=False, name=None)]]
    left = len(frame) - len(kept)
    note = f"without {left} trials whose seeds not every target has" if left else ""
    levels = {name: kept[name].nunique() for name in SEEDS}
    varied = {name: count for name, count in levels.items() if count > 1}
    targets = len(by_target)
    if not varied:
        many = targets > 1
        return (
            "one seed: what the target does and what chance does cannot be told apart"
            if many else "one trial"
        )  # fmt: skip
    alike = len(varied) > 1 and set(varied.values()) == {len(common)}
    if not alike and prod(varied.values()) != len(common):
        return "its seeds are neither one for all nor crossed"
    words = _words(0 if set(by_target) == {-1} else targets, varied, alike)
    return _Design(kept, targets, varied, alike, words, note)


def _words(targets: int, varied: Mapping[str, int], alike: bool) -> str:
    parts = [f"{targets} target{'s' if targets != 1 else ''}"] if targets else []
    if alike:
        count = next(iter(varied.values()))
        parts.append(f"{count} seeds, alike for {_listed(varied)}")
    else:
        parts += [f"{count} {SEEDS[name]}s" for name, count in varied.items()]
    return " x ".join(parts)


def _listed(varied: Iterable[str]) -> str:
    names = [SEEDS[name].removesuffix(" seed") for name in varied]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _components(design: _Design) -> dict[str, float]:
    """Return variance components of a balanced, nested design from its mean squares.

    A poison seed is nested in its target, purification and victim seeds in the poison: the trigger
    of seed 0 for one class has nothing in common with that of seed 0 for another. What is
    innermost is in the rest: with one seed that varied, that seed; with a purification and a
    victim seed crossed, what the two do together. Components may be negative; they are 0 then.

    Source: the expected mean squares of a balanced random model (Searle, Casella & McCulloch,
    Variance Components, 1992, chapter 4).
    """
    counts = dict.fromkeys(SEEDS, 1) | ({} if design.alike else design.varied)
    inner = [name for name in ("purify", "victim") if counts[name] > 1]
    nested = ["poison"] if inner and counts["poison"] > 1 else []
    outer = (["target"] if design.targets > 1 else []) + nested
    crossed = inner if len(inner) == 2 else []
    squares = _mean_squares(design.frame, outer, crossed)
    found: dict[str, float] = {}
    below = squares[REST]  # expected mean square of the next level without its own variance
    if crossed:
        for name in crossed:
            other = prod(counts[n] for n in crossed if n != name)
            found[SEEDS[name]] = (squares[name] - squares[REST]) / other
        found[REST] = squares[REST]
        below = sum(squares[name] for name in crossed) - squares[REST]
        repeats = prod(counts[name] for name in crossed)
    else:
        last = ALIKE if design.alike else SEEDS[(inner or list(design.varied))[0]]
        found[last] = squares[REST]
        repeats = len(design.frame) // prod([design.targets, *(counts[n] for n in nested)])
    for name in reversed(outer):
        title = SEEDS.get(name, name)
        found[title] = (squares[name] - below) / repeats
        below, repeats = squares[name], repeats * counts.get(name, 1)
    return {name: found[name] for name in PARTS if name in found}


def _mean_squares(
    frame: pd.DataFrame, outer: Sequence[str], crossed: Sequence[str]
) -> dict[str, float]:
    """Return the mean squares of the nested factors and of the rest, by statsmodels' ANOVA."""
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    nests = [":".join(f"C({n})" for n in outer[: i + 1]) for i in range(len(outer))]
    around = f"{nests[-1]}:" if nests else ""
    terms = dict(zip(outer, nests, strict=True)) | {n: f"{around}C({n})" for n in crossed}
    if not terms:
        return {REST: float(frame["value"].var(ddof=1))}
    with warnings.catch_warnings():
        # With so many factors as trials nothing is left for F; only mean squares are taken.
        warnings.simplefilter("ignore")
        table = anova_lm(ols(f"value ~ {' + '.join(terms.values())}", frame).fit(), typ=1)
    squares = {name: float(table.loc[term, "mean_sq"]) for name, term in terms.items()}
    return squares | {REST: float(table.loc["Residual", "mean_sq"])}


def to_frame(splits: Iterable[Split]) -> pd.DataFrame:
    """Return the splits as numbers: shares in [0, 1]."""
    return pd.DataFrame([
        {
            "dataset": s.setting[0], "scenario": s.setting[1], "classifier": s.setting[2],
            "attack": s.attack, "defense": s.defense, "measure": s.measure, "trials": s.trials,
            "design": s.design, "deviation": s.deviation,
            **{f"share_{name.replace(' ', '_')}": s.parts.get(name) for name in PARTS},
            "note": s.note,
        }
        for s in splits
    ])  # fmt: skip


def varied_seeds(trials: Iterable[Trial]) -> tuple[dict[str, int], bool]:
    """Return how many values each seed has in a run, and whether one seed drives all three."""
    combinations = {tuple(t.seeds.get(name, -1) for name in SEEDS) for t in trials}
    counts = {name: len({c[i] for c in combinations}) for i, name in enumerate(SEEDS)}
    alike = all(a == b for c in combinations for a, b in itertools.pairwise(c))
    return counts, alike
