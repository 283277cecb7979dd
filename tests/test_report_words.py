"""The result in sentences: who wins, who ties, and when nobody does."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.records import TrialRecord
from harness.report.how_sure import verdict
from harness.report.pairs import compare_pairs
from harness.report.summary import summarise
from harness.report.trials import Trial
from harness.report.words import verdicts
from tests.report_runs import outcome, record

HITS = {"none": (600, 650, 620), "ebm": (60, 70, 65), "jpeg": (50, 80, 66), "epic": (10, 9, 12)}
CORRECT = {"none": 740, "ebm": 730, "jpeg": 735, "epic": 640}


def study(
    hits: dict[str, Sequence[int]] = HITS, correct: dict[str, int] = CORRECT
) -> list[TrialRecord]:
    records = [record(floors=[outcome("x1", 20, 1000, "narcissus", 2)])]
    for defense, found in hits.items():
        for victim, k in enumerate(found):
            records.append(
                record("narcissus", defense, goal="triggered", target=2, victim=victim,
                       correct=correct[defense] + victim, probes={"x1": (k, 1000)})
            )  # fmt: skip
    return records


def text_of(records: Sequence[TrialRecord]) -> str:
    (verdict,) = verdicts(summarise([Trial.of(r) for r in records]))
    assert verdict.heading == "narcissus on cifar10_mini, from_scratch, hlb_xs"
    return verdict.text


def test_the_winner_the_tie_and_the_costly_one_are_named() -> None:
    text = text_of(study())
    assert "Without a defense the poison succeeds on 62.3 [" in text
    assert "(clean floor 2.0 %; 3 trials)" in text
    assert "no more than 2 points of accuracy, ebm has the lowest success: 6.5 [" in text
    assert "cannot tell it from jpeg (6.5 %)" in text
    assert "epic (1.0 %) goes lower, but costs 10.0 points." in text


def test_a_clear_winner_has_no_ties() -> None:
    text = text_of(study({**HITS, "jpeg": (200, 220, 210)}))
    assert "ebm has the lowest success" in text and "cannot tell" not in text


BETTER = (20, 20, 20, 20, 20, 20, -10, -10)
"""Eight differences of which the bootstrap interval leaves 0 out, and the exact test has p 0.08."""


def test_the_lead_tells_apart_what_the_table_of_pairs_does() -> None:
    ebm = (60, 70, 65, 61, 64, 66, 62, 68)
    jpeg = tuple(k + more for k, more in zip(ebm, BETTER, strict=True))
    records = study({"none": range(600, 680, 10), "ebm": ebm, "jpeg": jpeg, "tvm": range(300, 308)},
                    {**CORRECT, "tvm": 735})  # fmt: skip
    summary = summarise([Trial.of(r) for r in records])
    [pair] = [p for p in compare_pairs(summary) if (p.defense, p.against) == ("jpeg", "ebm")
              and p.measure == "success x1"]  # fmt: skip
    assert pair.difference.low > 0 and verdict(pair).startswith("no difference seen")
    text = text_of(records)
    assert "cannot tell it from jpeg (7.7 %): tested in pairs and corrected" in text
    assert "tvm" not in text  # shown, as in the table
    assert text == verdicts(summary, compare_pairs(summary))[0].text


def test_a_difference_from_the_undefended_is_judged_by_its_test() -> None:
    jpeg = range(600, 680, 10)
    none = [k + more for k, more in zip(jpeg, BETTER, strict=True)]
    assert "not clearly below the undefended" in text_of(study({"none": none, "jpeg": jpeg}))
    none = [k + 20 for k in jpeg]
    assert "not clearly" not in text_of(study({"none": none, "jpeg": jpeg}))


def test_a_costly_defense_that_may_be_lower_by_chance() -> None:
    epic = (60, 70, 65, 61, 64, 66, 62, 68)
    ebm = [k + more for k, more in zip(epic, BETTER, strict=True)]
    text = text_of(study({"none": range(600, 680, 10), "ebm": ebm, "epic": epic}))
    assert "goes lower, which may be chance, but costs 10.0 points." in text


def test_too_few_pairs_for_a_test_are_said() -> None:
    text = text_of(study())
    assert "Against the others there are too few pairs for a test: intervals alone decide." in text


def test_single_trials_tie_when_their_intervals_overlap() -> None:
    assert "cannot tell it from jpeg" in text_of(
        study({"none": (600,), "ebm": (60,), "jpeg": (70,)})
    )
    assert "cannot tell" not in text_of(study({"none": (600,), "ebm": (60,), "jpeg": (170,)}))


def test_a_single_trial_is_below_the_undefended_when_their_intervals_are_apart() -> None:
    assert "not clearly below the undefended" in text_of(study({"none": (600,), "jpeg": (590,)}))
    assert "not clearly" not in text_of(study({"none": (600,), "jpeg": (400,)}))


def test_no_defense_within_the_tolerated_loss() -> None:
    text = text_of(study(correct={"none": 740, "ebm": 700, "jpeg": 690, "epic": 640}))
    assert "No defense stays within 2 points of accuracy" in text
    assert "Lowest success: epic (1.0 %), at a cost of 10.0 points." in text


def test_a_lone_defense_is_not_called_best_of_many() -> None:
    text = text_of(study({k: HITS[k] for k in ("none", "ebm", "epic")}))
    assert "Only ebm loses no more than 2 points of accuracy; success is 6.5" in text


def test_a_defense_that_does_not_help_is_said_not_to() -> None:
    text = text_of(study({"none": (600, 650, 620), "jpeg": (640, 610, 622)}))
    assert "not clearly below the undefended" in text


def test_a_dead_attack_crowns_nobody() -> None:
    text = text_of(study({"none": (80, 70, 75), "ebm": (1, 0, 2)}))
    assert "the attack is dead in this run, and no defense earns credit" in text
    assert "ebm" not in text


def test_an_availability_attack_is_judged_by_accuracy() -> None:
    records = [record(correct=800 + v, victim=v) for v in range(2)]
    for defense, correct in {"none": 320, "ebm": 610, "jpeg": 640}.items():
        records += [
            record("narcissus", defense, goal="availability", victim=v, correct=correct + 2 * v)
            for v in range(2)
        ]
    text = text_of(records)
    assert "natural accuracy is 32.1 [32.0, 32.2] %, after a clean training 80.0" in text
    assert "highest under jpeg: 64.1 [64.0, 64.2] % (+32.0 points)." in text


def test_a_run_without_attack_says_so() -> None:
    (verdict,) = verdicts(summarise([Trial.of(record()), Trial.of(record(defense="jpeg"))]))
    assert verdict.text.startswith("No attack ran. Natural accuracy: none 75.0 [")


def test_nothing_but_failures() -> None:
    failed = record("narcissus", status="failed", test_rows=0, test_correct=0)
    assert text_of([failed]) == "Every trial failed; see the list of failed trials."
