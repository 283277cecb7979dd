"""How sure a run's differences are: two tables and the words that go with them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report import format as fmt
from harness.report import significance as sig
from harness.report.collect import Run
from harness.report.pairs import POINTS, Pair, compare_pairs
from harness.report.summary import Summary, ties_of
from harness.report.table import Entry, Head, Table, markdown, without_empty
from harness.report.trials import Setting
from harness.report.variance import ALIKE, PARTS, REST, SEEDS, Split, split_variance, varied_seeds

_NAMED = 6
"""So many differences are named in the words; the table has them all."""


@dataclass(frozen=True, slots=True)
class HowSure:
    """What a report says of its own certainty.

    Attributes:
        pairs: Every two defenses against one attack.
        splits: Where the spread of trials comes from.
        pair_words, split_words: Paragraphs before the tables.
        interval_words: How intervals came about where trials hang together; else empty.
    """

    pairs: tuple[Pair, ...]
    splits: tuple[Split, ...]
    pair_words: tuple[str, ...]
    split_words: tuple[str, ...]
    interval_words: tuple[str, ...] = ()

    @property
    def pair_table(self) -> Table:
        """The pairs as a table."""
        return _pair_table(self.pairs)

    @property
    def split_table(self) -> Table:
        """The variance as a table."""
        return _split_table(self.splits)


def how_sure(run: Run, summary: Summary) -> HowSure:
    """Return what the records of a run say of how sure its differences are."""
    pairs, splits = compare_pairs(summary), split_variance(summary)
    split_words = _split_words(run, splits) if splits else ()
    pair_words = _pair_words(pairs) if pairs else ()
    return HowSure(pairs, splits, pair_words, split_words, _interval_words(summary))


def to_markdown(sure: HowSure) -> str:
    """Return the words and both tables in Markdown."""
    parts = ["# How sure", *sure.interval_words, *sure.pair_words]
    if sure.pairs:
        parts.append(markdown(sure.pair_table).rstrip())
    parts += sure.split_words
    if sure.splits:
        parts.append(markdown(sure.split_table).rstrip())
    if len(parts) == 1:
        parts.append("No two trials can be compared: nothing says how sure a number is.")
    return "\n\n".join(parts) + "\n"


def verdict(pair: Pair) -> str:
    """Return in a few words what a pair shows."""
    if pair.shown:
        return "lower" if pair.difference.value < 0 else "higher"
    if pair.p is None:
        return f"too few pairs to test ({sig.LEAST_PAIRS} at least)"
    if pair.hopeless:
        return f"too few pairs ({_least_pairs(pair.tests)} at least)"
    needed = pair.needed(pair.difference.value)
    if needed is None:
        return "no difference seen"
    return f"no difference seen; one this large needs about {needed:,} pairs"


def pair_words(pair: Pair) -> str:
    """Name the two of a pair with their difference."""
    return (
        f"{pair.attack}: {pair.measure} of {pair.defense} against {pair.against} "
        f"{fmt.points_interval(pair.difference)} points"
    )


def _interval_words(summary: Summary) -> tuple[str, ...]:
    """Say how intervals were made where a row has several trials of what it draws first."""
    if not ties_of(summary):
        return ()
    said = [
        "Trials of one target share its poison, and trials with one seed share what is drawn from "
        "it: a victim's first weights, or a purification's noise. So the 95 % intervals of means, "
        "and of their differences, are a bootstrap that draws, with replacement, targets, and "
        "within each its poison seeds; and, for all targets at once, the purification and victim "
        "seeds, as far as a study has several. A trial counts as often as its target and its "
        "seeds were drawn. What comes with a target counts as often as there are targets, however "
        "many seeds each has, and what comes with a seed as often as there are seeds, however "
        "many targets. With one trial of each target it is the plain bootstrap. Fewer than about "
        "ten targets, or, where a seed moves all targets alike, as few seeds, still make such "
        "intervals too narrow. The interval speaks of targets and seeds like these, p of these "
        "alone: the two may disagree."
    ]
    if any(r.goal == "targeted" and r.trials > len(r.targets) > 0 for r in summary.rows):
        said.append(
            "Where success is k of n targets, its Wilson interval takes all n for independent, "
            "several seeds of one target too; it is too narrow as far as these agree."
        )
    return tuple(said)


def _least_pairs(tests: int) -> int:
    """Pairs that, if all agree, pass the correction for so many tests: 2^(1 - n) tests <= alpha."""
    return max(sig.LEAST_PAIRS, math.ceil(1 + math.log2(tests / sig.ALPHA)))


def _pair_words(pairs: Sequence[Pair]) -> tuple[str, ...]:
    said = [_found(pairs)]
    untested = sum(pair.p is None for pair in pairs)
    if untested:
        said.append(
            f"{_count(untested, 'comparison')} {'have' if untested > 1 else 'has'} fewer than "
            f"{sig.LEAST_PAIRS} pairs and so no p: whatever so few show, it could not fall below "
            f"{sig.ALPHA:g}."
        )
    beyond = [pair for pair in pairs if pair.p is not None and pair.hopeless and not pair.shown]
    if beyond:
        least = min(beyond, key=lambda pair: pair.pairs)
        smallest, apart = p_text(least.smallest_p), sum(map(_apart, beyond))
        tests = least.tests
        said.append(
            f"{_count(len(beyond), 'comparison')} could not pass the correction alone, even if "
            f"every pair agreed: {least.pairs} pairs that do have p = {smallest}, and it is "
            f"multiplied by up to {tests}. With {_least_pairs(tests)} pairs one could. This is no "
            f"proof that two defenses are alike: in {apart} of them the interval leaves 0 out."
        )
    said += [
        "Each line compares two defenses that met the same attack, on the same targets with the "
        "same seeds. A pair is a target with a poison seed: its victims and purifications share a "
        "poison, and are averaged; of a single poison the victims are pairs. The difference is the "
        "defense's number minus the other's, in percentage points; its 95 % interval is a "
        "bootstrap. p says how often chance alone would give a difference at least as large: the "
        "two of each pair are swapped in every way, or in many random ones (permutation), or, "
        "where each target is hit or not, the targets on which the two disagree are held against a "
        "coin (McNemar's exact test). Who looks at many pairs finds one that differs by luck, so p "
        "(Holm) is corrected for all p-values of one measure under one attack. A difference counts "
        f"as shown where p (Holm) is at most {sig.ALPHA:g}. That holds for the targets and seeds "
        "that were run, not for others.",
        f"“Pairs for {100 * POINTS:.0f} points” is how many pairs would show a difference of "
        f"{100 * POINTS:.0f} points in {100 * sig.POWER:.0f} of 100 such studies (p at most "
        f"{sig.ALPHA:g}, before correction), if the differences of more pairs spread as these do.",
    ]
    return tuple(said)


def _apart(pair: Pair) -> bool:
    low, high = pair.difference.low, pair.difference.high
    return low is not None and high is not None and not low <= 0 <= high


def _found(pairs: Sequence[Pair]) -> str:
    shown = [pair for pair in pairs if pair.shown]
    if all(pair.p is None for pair in pairs):
        return f"None of {_count(len(pairs), 'comparison')} could be tested: too few pairs."
    if all(pair.hopeless for pair in pairs):
        return f"None of {_count(len(pairs), 'comparison')} could pass: too few pairs."
    lead = f"Of {_count(len(pairs), 'comparison')}, {len(shown) or 'none'} "
    lead += "shows" if len(shown) < 2 else "show"
    if not shown:
        return f"{lead} a difference."
    largest = sorted(shown, key=lambda pair: -abs(pair.difference.value))[:_NAMED]
    more = f"; and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return f"{lead} a difference: {'; '.join(map(pair_words, largest))}{more}."


def _pair_table(pairs: Sequence[Pair]) -> Table:
    heads = (
        *_group_heads(),
        Head("Measure", "Accuracy on clean test images, or success on the headline probe.", False),
        Head("Defense", numeric=False),
        Head("Against", "The other defense, on the same targets and seeds.", False),
        Head("Pairs", "Targets x poison seeds of both; of a single poison its victims."),
        Head("Difference (points)", "Mean of defense minus other, and its 95 % interval."),
        Head("Spread (points)", "Standard deviation of the paired differences."),
        Head("Test", numeric=False),
        Head("p", "Two-sided, of this line alone."),
        Head("p (Holm)", "Corrected for all p-values of this measure under this attack."),
        Head(f"Pairs for {100 * POINTS:.0f} points",
             "At 80 % power and p at most 0.05, before correction."),
        Head("Verdict", numeric=False),
    )  # fmt: skip
    rows = tuple(
        (
            *_group(pair.setting, pair.attack, pairs),
            _word(pair.measure), _word(pair.defense), _word(pair.against),
            Entry(str(pair.pairs), pair.pairs),
            Entry(fmt.points_interval(pair.difference), pair.difference.value),
            Entry(_spread(pair.deviation), pair.deviation),
            _word(pair.test),
            *(Entry(p_text(p), p) for p in (pair.p, pair.p_holm)),
            _needed(pair.needed(POINTS)), _word(verdict(pair)),
        )
        for pair in pairs
    )  # fmt: skip
    groups = [(pair.setting, pair.attack, pair.measure) for pair in pairs]
    return without_empty(Table(heads, rows, _starts(groups)))


def _split_words(run: Run, splits: Sequence[Split]) -> tuple[str, ...]:
    counts, alike = varied_seeds(run.trials)
    said = [
        "Trials of one defense against one attack differ. The table splits the variance of one "
        "trial (components of a random-effects analysis of variance) into what comes with the "
        "target and what comes with the seeds; a seed is counted within its target, because the "
        "poison of one target has nothing in common with that of another. With few targets or "
        "few seeds the shares are rough."
    ]
    still = [SEEDS[name] for name, count in counts.items() if count == 1]
    if alike and max(counts.values()) > 1:
        said.append(
            "This study gives each trial one seed, which drives poison, purification and victim "
            "alike. So what each of the three adds cannot be told apart: it stands together as "
            f"“{ALIKE}”. A study with a list of seeds for each of them crosses them and can."
        )
    elif len(still) == len(SEEDS):
        said.append(
            "This study has one seed for each of poison, purification and victim, so nothing "
            "here says what another seed would show."
        )
    elif still:
        said.append(
            f"This study does not vary the {' and the '.join(still)}: what another would change is "
            "in no number here."
        )
    if any(s.parts.get(REST) is not None for s in splits):
        said.append(
            f"“{REST.capitalize()}” is what purification seed and victim seed do together "
            "only; it holds chance that no seed fixes, too."
        )
    if any(name in s.parts for s in splits for name in SEEDS.values()):
        said.append("The innermost seed holds chance that no seed fixes, too.")
    return tuple(said)


def _split_table(splits: Sequence[Split]) -> Table:
    parts = [name for name in PARTS if any(name in s.parts for s in splits)]
    heads = (
        *_group_heads(), Head("Defense", numeric=False), Head("Measure", numeric=False),
        Head("Trials"), Head("What varied", numeric=False),
        Head("Spread (points)", "Standard deviation of one trial."),
        *(Head(f"{name.capitalize()} (%)", "Share of the variance.") for name in parts),
        Head("Note", numeric=False),
    )  # fmt: skip
    rows = tuple(
        (
            *_group(split.setting, split.attack, splits),
            _word(split.defense), _word(split.measure), Entry(str(split.trials), split.trials),
            _word(split.design), Entry(_spread(split.deviation), split.deviation),
            *(Entry(_share(split.parts.get(name)), split.parts.get(name)) for name in parts),
            _word(split.note),
        )
        for split in splits
    )  # fmt: skip
    groups = [(split.setting, split.attack) for split in splits]
    return without_empty(Table(heads, rows, _starts(groups)))


def _group_heads() -> list[Head]:
    return [Head("Setting", numeric=False), Head("Attack", numeric=False)]


def _group(setting: Setting, attack: str, all_of: Sequence[Pair | Split]) -> list[Entry]:
    """The setting, empty where all have the same, and the attack."""
    differ = len(Counter(one.setting for one in all_of)) > 1
    return [_word(", ".join(part for part in setting if part) if differ else ""), _word(attack)]


def _starts(groups: Sequence[object]) -> frozenset[int]:
    return frozenset(i for i in range(1, len(groups)) if groups[i] != groups[i - 1])


def _word(text: str) -> Entry:
    return Entry(text, text)


def _needed(count: int | None) -> Entry:
    return Entry(fmt.MISSING if count is None else f"{count:,}", count)


def _spread(deviation: float | None) -> str:
    return fmt.percent(deviation)


def _share(part: float | None) -> str:
    return fmt.MISSING if part is None else f"{100 * part:.0f}"


def p_text(p: float | None) -> str:
    """Two significant digits, and no p of 0."""
    if p is None:
        return fmt.MISSING
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
