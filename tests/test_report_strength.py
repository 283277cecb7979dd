"""Figures of varied parameters, cost and targets: the numbers drawn are those of the summary."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from harness.core.records import Stage, TrialRecord
from harness.report.chart_cost import cost, cost_caption, seconds
from harness.report.chart_power import power
from harness.report.chart_sweep import sweep_lines, sweep_maps
from harness.report.chart_targets import per_target, target_squares
from harness.report.chart_tradeoff import tradeoff
from harness.report.figures import draw_all
from harness.report.pareto import front
from harness.report.summary import Row, Summary, summarise
from harness.report.trials import Trial
from harness.report.varied import flat, grids, lines, shared
from tests.report_runs import outcome, record


def trial(
    attack: dict[str, Any], defense: dict[str, Any], hits: int, *, target: int = 2, victim: int = 0,
    **changes: Any,
) -> TrialRecord:  # fmt: skip
    """A triggered trial whose labels name all numbers."""

    def label(raw: dict[str, Any]) -> str:
        said = [f"{k}={v}" for k, v in flat(raw).items() if k not in ("name", "adv_label")]
        return " ".join([raw["name"], *said])

    given = {"goal": "triggered", "probes": {"x1": (hits + victim, 100)}}
    found = record(label(attack), label(defense), target=target, victim=victim,
                   **(given | {"correct": 700 - hits + victim} | changes))  # fmt: skip
    spec = {**found.spec, "attack": {**attack, "adv_label": target}, "defense": defense}
    return dataclasses.replace(found, spec=spec)


def summary_of(records: list[TrialRecord]) -> Summary:
    return summarise([Trial.of(r) for r in records])


ATTACK = {"name": "narcissus", "eps_255": 8}
NONE = {"name": "none"}


def swept(defenses: list[tuple[dict[str, Any], int]]) -> Summary:
    floors = [outcome("x1", 3, 100, "narcissus eps_255=8", 2)]
    return summary_of(
        [
            record(floors=floors),
            *(trial(ATTACK, d, hits, victim=v) for d, hits in [(NONE, 60), *defenses]
              for v in range(3)),
        ]
    )  # fmt: skip


def ebm(steps: int, temperature: float = 1e-4) -> dict[str, Any]:
    return {"name": "puregen_ebm", "steps": steps, "temperature": temperature}


def rows_of(summary: Summary, name: str) -> dict[str, Row]:
    return {r.defense: r for r in summary.rows if r.defense.split()[0] == name and r.headline}


def bars(figure: Figure, panel: int) -> list[np.ndarray]:
    """(x, estimate, low, high) of each line of a panel."""
    found = []
    for container in figure.axes[panel].containers:
        data, _, (sticks,) = container.lines
        ends = np.array(sticks.get_segments())[:, :, 1]
        found.append(np.stack([data.get_xdata(), data.get_ydata(), *ends.T], 1).astype(float))
    return found


def test_a_line_shows_the_one_varied_number() -> None:
    summary = swept([(ebm(k), hits) for k, hits in ((100, 10), (50, 30), (200, 4))])
    figure = sweep_lines(summary)
    assert figure is not None and sweep_maps(summary) is None
    rows = sorted(rows_of(summary, "puregen_ebm").values(), key=lambda r: -r.headline.success.value)
    for panel, estimates in enumerate(
        ([r.headline.success for r in rows], [r.accuracy for r in rows])
    ):
        [drawn] = bars(figure, panel)
        wanted = [(e.value, e.low, e.high) for e in estimates]
        np.testing.assert_allclose(drawn[:, 0], [50, 100, 200])
        np.testing.assert_allclose(drawn[:, 1:], wanted)
    bare = next(r for r in summary.rows if not r.defended and r.headline)
    levels = [line.get_ydata()[0] for line in figure.axes[0].lines if len(line.get_ydata()) == 2]
    assert levels == [bare.headline.success.value, bare.headline.floor] == [0.61, 0.03]
    assert figure.axes[0].get_xlabel() == "steps"


def test_a_map_shows_two_varied_numbers_and_leaves_gaps_white() -> None:
    given = {(50, 1e-4): 30, (100, 1e-4): 10, (50, 7e-5): 20}
    summary = swept([(ebm(*key), hits) for key, hits in given.items()])
    figure = sweep_maps(summary)
    assert figure is not None and sweep_lines(summary) is None
    [success, accuracy] = [ax for ax in figure.axes if ax.get_xlabel()]
    assert (success.get_xlabel(), success.get_ylabel()) == ("steps", "temperature")
    drawn = np.ma.masked_invalid(np.ma.asarray(success.collections[0].get_array()).reshape(2, 2))
    assert drawn.mask.tolist() == [[False, True], [False, False]]
    np.testing.assert_allclose(drawn.compressed(), [0.21, 0.31, 0.11])
    kept = np.ma.asarray(accuracy.collections[0].get_array()).compressed()
    np.testing.assert_allclose(kept, [0.681, 0.671, 0.691])
    said = [t.get_text() for t in success.texts]
    row = rows_of(summary, "puregen_ebm")["puregen_ebm steps=50 temperature=7e-05"]
    ends = row.headline.success
    assert f"21.0\n{100 * ends.low:.0f} to {100 * ends.high:.0f}" in said


def test_nothing_is_varied_by_names_seeds_and_targets() -> None:
    others = [
        ({"name": "noise", "kind": "a", "steps": 1}, 20),
        ({"name": "noise", "kind": "b", "steps": 2}, 30),
        ({"name": "epic", "net": {"seed": 0}}, 20),
        ({"name": "epic", "net": {"seed": 1}}, 9),
    ]
    summary = swept(others)
    assert sweep_lines(summary) is sweep_maps(summary) is power(summary) is None
    names = [d.name for d in draw_all(summary, [])]
    assert names == ["tradeoff", "cost"]


def test_families_of_varied_numbers() -> None:
    items = [
        (flat({"name": "r", "a": a, "b": b, "c": c, "d": 10 * a, "net": {"seed": a}}), (a, b, c))
        for a in (1, 2, 3) for b in (0.1, 0.2) for c in (5, 6)
    ]  # fmt: skip
    assert {f.keys for f in grids(items)} == {("b", "c")}  # a goes with a seed: no number varied
    for own, _ in items:
        own.pop("net.seed")
    found = grids(items)
    assert [(f.keys, f.fixed, len(f.members)) for f in found] == [
        (("a, with it d", "b"), "c=5", 6), (("a, with it d", "b"), "c=6", 6),
    ]  # fmt: skip
    assert found[1].members[2.0, 0.2] == (2, 0.2, 6)
    each = lines(items)
    assert [(f.keys, f.fixed) for f in each][:2] == [
        (("a, with it d",), "b=0.1, c=5"), (("a, with it d",), "b=0.1, c=6"),
    ]  # fmt: skip
    assert len(each) == 4 + 6 + 6
    attacks = [{"name": "x", "eps": 8, "target": t} for t in (1, 2)]
    assert shared(attacks) == {"name": "x", "eps": 8}


def test_power_follows_the_bound_with_one_line_per_defense() -> None:
    hits = {4: (30, 5), 8: (60, 20), 16: (90, 70)}
    records = [
        trial({"name": "narcissus", "eps_255": eps}, defense, count, target=t, victim=v)
        for eps, counts in hits.items()
        for defense, count in zip((NONE, {"name": "jpeg"}), counts, strict=True)
        for t in (2, 7) for v in range(2)
    ]  # fmt: skip
    summary = summary_of(records)
    figure = power(summary)
    assert figure is not None and len(figure.axes) == 1
    assert figure.axes[0].get_xlabel() == "eps_255"
    for defense, drawn in zip(("none", "jpeg"), bars(figure, 0), strict=True):
        rows = [r.headline.success for r in summary.rows if r.defense == defense]
        np.testing.assert_allclose(drawn[:, 0], [4, 8, 16], atol=0.3)
        np.testing.assert_allclose(drawn[:, 1:], [(r.value, r.low, r.high) for r in rows])
    assert "power" in [d.name for d in draw_all(summary, [])]


@pytest.mark.parametrize(
    ("hits", "said"),
    [((3, 60), ["no attack at 4"]), ((3, 4), ["(dead attack)"]), ((40, 60), [])],
)
def test_power_says_at_which_bounds_there_is_no_attack(hits, said: list[str]) -> None:
    records = [
        trial({"name": "narcissus", "eps_255": eps}, defense, count, target=t)
        for eps, count in zip((4, 8), hits, strict=True)
        for defense in (NONE, {"name": "jpeg"})
        for t in (2, 7)
    ]
    figure = power(summary_of(records))
    assert figure is not None
    (ax,) = figure.axes
    text = ax.get_title() + " ".join(note.get_text().replace("\n", " ") for note in ax.texts)
    assert [words for words in ("no attack at 4", "(dead attack)") if words in text] == said


def timed(purify: float) -> dict[str, Stage]:
    return {"train": Stage(40.0, 1), "purify": Stage(purify, 1)}


@pytest.fixture(scope="module")
def priced() -> Summary:
    """Cheap and weak, dear and strong, dear and weak, one that did nothing."""
    given = {"none": (60, 0.0), "cheap": (30, 20.0), "strong": (5, 200.0), "bad": (40, 300.0)}
    return summary_of(
        [
            trial(ATTACK, {"name": name}, hits, victim=v, stages=timed(purify),
                  correct=700 - int(purify) // 10 + v)
            for name, (hits, purify) in given.items() for v in range(3)
        ]
    )  # fmt: skip


def test_cost_shows_seconds_success_and_accuracy_lost(priced: Summary) -> None:
    figure = cost(priced)
    assert figure is not None
    rows = [r for r in priced.rows if r.headline]
    assert [seconds(r) for r in rows] == [40, 60, 240, 340]
    left = [tuple(b[0]) for b in bars(figure, 0)]
    np.testing.assert_allclose(
        left,
        [(seconds(r), r.headline.success.value, r.headline.success.low, r.headline.success.high)
         for r in rows],
    )  # fmt: skip
    lost = [b[0][1] for b in bars(figure, 1)]
    np.testing.assert_allclose(lost, [0, *(-r.accuracy_delta.value for r in rows[1:])])
    assert lost[2] == pytest.approx(0.02)
    steps = next(line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post")
    assert list(steps.get_xdata()) == [60, 240]  # nothing beats these two; 340 s buy nothing
    assert figure.axes[0].get_xscale() == "log"
    assert "Measured on" not in cost_caption(priced)
    one = dataclasses.replace(
        priced.duels[0].trials["none"][0].record,
        environment={"processor": "A", "device": "cpu", "threads": 1},
    )
    assert "Measured on A, 1 thread, under" in cost_caption(summary_of([one]))


def test_the_front_of_the_tradeoff_joins_what_none_beats(priced: Summary) -> None:
    figure = tradeoff(priced)
    assert figure is not None
    [line] = [
        x for x in figure.axes[0].lines if x.get_marker() == "None" and len(x.get_xdata()) > 1
    ]
    drawn = set(zip(line.get_xdata(), line.get_ydata(), strict=True))
    points = {(r.headline.success.value, r.accuracy.value) for r in priced.rows if r.headline}
    free = {
        p for p in points
        if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)
    }  # fmt: skip
    assert drawn == free and len(free) == 3  # "bad" loses to "cheap" in both


def test_front_keeps_equal_points() -> None:
    assert front([(1, 1), (1, 1), (1, 2)]) == [0, 1]
    assert front([]) == []


def test_many_targets_and_defenses_are_squares() -> None:
    rng = np.random.default_rng(0)
    names = ["none", *(f"defense_{i}" for i in range(18))]
    wanted = rng.integers(0, 2, (19, 20))
    records = [
        record("bullseye", name, goal="targeted", target=t, probes={"target": (int(hit), 1)})
        for name, hits in zip(names, wanted, strict=True) for t, hit in enumerate(hits)
    ]  # fmt: skip
    summary = summary_of(records)
    figure = target_squares(summary)
    assert figure is not None and per_target(summary) is None
    ax = figure.axes[0]
    drawn = np.asarray(ax.collections[0].get_array()).reshape(19, 20)
    np.testing.assert_array_equal(drawn, wanted)
    shown = [t.get_text() for t in ax.texts][-19:]
    assert shown == [f"{100 * r.headline.success.value:.0f}" for r in summary.rows]
    figure.canvas.draw()
    box = ax.get_window_extent()
    assert box.width / figure.dpi / 20 > 0.2 and box.height / figure.dpi / 19 > 0.18  # inches
