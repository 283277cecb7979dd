"""Figures: drawn where there are data, skipped where there are none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.core.records import TrialRecord
from harness.report.chart_curves import training_curves
from harness.report.chart_images import amplified
from harness.report.chart_magnification import magnification
from harness.report.chart_targets import per_target, target_squares
from harness.report.chart_tradeoff import tradeoff
from harness.report.figures import draw_all
from harness.report.inline import svg_element
from harness.report.panels import panels, titles
from harness.report.samples import galleries
from harness.report.style import UNDEFENDED, looks
from harness.report.summary import Summary, summarise
from harness.report.trials import Trial
from tests.report_runs import outcome, record, write_samples

STAGES = ("clean", "poisoned", "purified")
PROBES = {"none": (60, 90), "ebm": (5, 9), "jpeg $25_a$": (12, 30)}


def summary_of(records: Sequence[TrialRecord]) -> Summary:
    return summarise([Trial.of(r) for r in records])


def attacked(targets: Sequence[int] = (2, 7)) -> list[TrialRecord]:
    return [
        record("narcissus", defense, goal="triggered", target=t, victim=v, correct=740 + 3 * v + t,
               probes={"x1": (k1 + v + t, 110), "x2": (k2 + v, 110)},
               curves={"test_accuracy": [0.3, 0.5, 0.7 + v / 10], "loss": [2.0, 1.5, 1.0 + v],
                       "success_x1": [0.0, 0.1, 0.2]})
        for defense, (k1, k2) in PROBES.items() for t in targets for v in range(2)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def summary() -> Summary:
    floors = [outcome(p, 3, 110, "narcissus", t) for p in ("x1", "x2") for t in (2, 7)]
    return summary_of([record(floors=floors), *attacked()])


def test_nothing_is_drawn_without_data() -> None:
    clean = summary_of([record(), record(defense="jpeg")])
    assert tradeoff(clean) is per_target(clean) is magnification(clean) is None
    assert training_curves(clean) is None
    assert draw_all(clean, []) == []


def test_one_target_and_one_probe_need_no_chart_of_them() -> None:
    one = summary_of([record("badnets", goal="triggered", target=1, probes={"x1": (60, 90)})])
    assert tradeoff(one) is not None
    assert per_target(one) is None and magnification(one) is None


def test_tradeoff_draws_each_defense_at_its_numbers(summary: Summary) -> None:
    figure = tradeoff(summary)
    assert figure is not None
    points = {
        (round(float(c.lines[0].get_xdata()[0]), 4), round(float(c.lines[0].get_ydata()[0]), 4))
        for c in figure.axes[0].containers
    }
    expected = {
        (round(r.headline.success.value, 4), round(r.accuracy.value, 4))
        for r in summary.rows if r.headline and r.accuracy
    }  # fmt: skip
    assert points == expected and len(points) == 3
    low, high = figure.axes[0].get_xlim()
    assert low < 0 and high > 1  # 0 and 1 are both on the axis


def test_magnification_follows_the_probes(summary: Summary) -> None:
    figure = magnification(summary)
    assert figure is not None
    lines = [c.lines[0] for c in figure.axes[0].containers]
    heights = [[float(y) for y in line.get_ydata()] for line in lines]
    expected = [[p.success.value for p in r.probes] for r in summary.rows if r.probes]
    assert heights == expected


def test_curves_are_means_over_trials(summary: Summary) -> None:
    figure = training_curves(summary)
    assert figure is not None and len(figure.axes) == 2  # accuracy and success
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [0.3, 0.5, 0.75])
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), [1, 2, 3])


def test_targets_of_a_triggered_attack_are_named(summary: Summary) -> None:
    figure = per_target(summary)
    assert figure is not None
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["2 bird", "7 horse"]


def test_targets_of_a_targeted_attack_are_a_matrix() -> None:
    records = [
        record("bullseye", defense, goal="targeted", target=t, probes={"target": (hit, 1)})
        for defense, hits in {"none": (1, 1, 0), "ebm": (0, 1, 0)}.items()
        for t, hit in enumerate(hits)
    ]
    figure = target_squares(summary_of(records))
    assert figure is not None and per_target(summary_of(records)) is None
    values = np.asarray(figure.axes[0].collections[0].get_array()).reshape(2, 3)
    np.testing.assert_array_equal(values, [[1, 1, 0], [0, 1, 0]])


def test_looks_differ_and_the_undefended_is_black() -> None:
    names = ["none", *(f"d{i}" for i in range(20))]
    found = looks(names, {"none"})
    assert found["none"].colour == UNDEFENDED
    assert all(found[n].colour != UNDEFENDED for n in names[1:])
    assert len({(v.colour, v.marker, str(v.dash)) for v in found.values()}) == len(names)


def test_stored_figures_are_vector_png_and_the_same_again(summary: Summary) -> None:
    drawings = draw_all(summary, [])
    assert [d.name for d in drawings] == ["tradeoff", "cost", "targets", "magnification", "curves"]
    for drawing in drawings:
        assert drawing.png.startswith(b"\x89PNG") and "<svg" in drawing.svg
        assert len(drawing.caption) > 40 and not drawing.raster
    again = draw_all(summary, [])
    assert [d.svg for d in again] == [d.svg for d in drawings]


def test_ids_of_inlined_figures_do_not_collide() -> None:
    svg = '<?xml version="1.0"?>\n<svg width="9"><defs><path id="a"/></defs>' \
          '<g clip-path="url(#b)"><use xlink:href="#a"/></g></svg>'  # fmt: skip
    found = svg_element(svg, "f2", "A chart")
    assert found.startswith('<svg role="img" aria-label="A chart" width="9">')
    assert 'id="f2-a"' in found and "url(#f2-b)" in found and 'href="#f2-a"' in found


def test_amplified_difference_by_hand() -> None:
    clean = np.array([[10, 200, 0]], np.uint8)
    poisoned = np.array([[11, 190, 255]], np.uint8)
    assert amplified(clean, poisoned).tolist() == [[136, 48, 255]]


def test_galleries_put_only_the_same_rows_side_by_side(tmp_path: Path) -> None:
    records = attacked([2])
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    other = rng.integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    first = {r.labels["defense"]: r for r in reversed(records)}
    stages = {"clean": clean, "poisoned": 255 - clean, "purified": clean // 2}
    write_samples(tmp_path, first["none"].spec_id, {**stages, "purified": 255 - clean})
    write_samples(tmp_path, first["ebm"].spec_id, stages)
    write_samples(tmp_path, first["jpeg $25_a$"].spec_id, {**stages, "clean": other})
    found, problems = galleries(summary_of(records), tmp_path / "samples")
    assert len(found) == 1 and not problems
    assert list(found[0].purified) == ["ebm"]
    np.testing.assert_array_equal(found[0].purified["ebm"], clean // 2)
    (drawing,) = (d for d in draw_all(summary_of(records), found) if d.raster)
    assert drawing.name == "images_1" and "target 2" in drawing.caption


@pytest.mark.parametrize(
    ("stages", "why"),
    [
        ({"clean": np.zeros((1, 3, 4, 4), np.uint8)}, "lacks the array 'poisoned'"),
        (dict.fromkeys(STAGES, np.zeros((1, 3, 4, 4))), "must be uint8"),
        (dict.fromkeys(STAGES, np.zeros((1, 5, 4, 4), np.uint8)), "1 or 3 channels"),
        (dict.fromkeys(STAGES, np.array([{}], object)), "cannot be read as .npz"),
    ],
    ids=["missing", "float", "channels", "pickle"],
)  # fmt: skip
def test_unreadable_samples_are_listed(
    tmp_path: Path, stages: dict[str, np.ndarray], why: str
) -> None:
    records = attacked([2])[:1]
    write_samples(tmp_path, records[0].spec_id, stages)
    found, problems = galleries(summary_of(records), tmp_path / "samples")
    assert found == [] and why in problems[0].error


def test_no_samples_at_all(tmp_path: Path) -> None:
    assert galleries(summary_of(attacked()), tmp_path / "samples") == ([], [])


def test_the_report_needs_no_pyplot_and_no_cluster() -> None:
    code = (
        "import sys, harness.report.build; "
        "print({'matplotlib.pyplot', 'ray', 'mlflow', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


def test_long_settings_do_not_make_panels_narrow(summary: Summary) -> None:
    name = "npz train_per_class=50 train_skip_per_class=450 size=32 seed=0"
    (duel, *_) = (d for d in summary.duels if d.attack == "narcissus")
    figure, axes = panels(2)
    for ax in axes:
        titles(ax, replace(duel, setting=(name, *duel.setting[1:])), "x", "y")
    figure.draw_without_rendering()
    assert all(ax.get_position().width > 0.3 for ax in axes)
    lines = axes[0].texts[0].get_text().split("\n")
    assert len(lines) > 1 and lines[-1].endswith("n\u00a0=\u00a04")
