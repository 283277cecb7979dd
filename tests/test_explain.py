"""Explanations: attributions from the mathematics, victims that are those of the records."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from harness.core.errors import UsageError
from harness.core.records import TrialRecord
from harness.explain import attribute, explain
from harness.report.chart_explain import Explained, VictimMaps, explained_caption, explanation
from harness.study import read_study
from tests.tiny import run, workshop, write_study

needs_captum = pytest.mark.skipif(
    importlib.util.find_spec("captum") is None, reason="captum is not installed"
)


def linear(classes: int = 3, side: int = 8) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, classes))
    weights = np.random.default_rng(0).standard_normal((classes, 3 * side * side))
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(weights))
    return model.eval()


@needs_captum
def test_a_linear_network_owes_each_pixel_its_weight_times_its_change() -> None:
    model, rng = linear(), np.random.default_rng(1)
    images = rng.integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    base = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    true, wanted = np.array([0, 1, 2, 0, 1]), np.array([2, 2, 0, 1, 0])
    found = attribute(model, images, base, true, wanted, window=1)
    weight = model[1].weight.detach().reshape(3, 3, 8, 8).numpy()
    owed = (weight[wanted] - weight[true]) * (images / 255 - base.numpy())
    np.testing.assert_allclose(found.gradients, owed.sum(1), atol=1e-4)
    np.testing.assert_allclose(found.occlusion, owed.sum(1), atol=1e-4)
    np.testing.assert_allclose(found.margins - found.base_margins, owed.sum((1, 2, 3)), atol=1e-3)
    assert found.gap < 1e-3


@needs_captum
def test_where_nothing_differs_nothing_is_owed() -> None:
    images = np.full((2, 3, 8, 8), 51, np.uint8)
    base = torch.full((2, 3, 8, 8), 0.2)
    base[:, :, 6:, 6:] = 1
    found = attribute(linear(), images, base, np.array([0, 0]), np.array([1, 1]), window=2)
    far = np.zeros((8, 8), bool)
    far[:5, :5] = True
    assert np.abs(found.occlusion[:, far]).max() < 1e-5
    assert np.abs(found.gradients[:, far]).max() < 1e-5
    assert np.abs(found.gradients[:, 6:, 6:]).max() > 0.1


@needs_captum
def test_the_victims_are_those_of_the_run(tmp_path: Path) -> None:
    made = run(tmp_path)
    assert not made.failed
    lines = explain(
        read_study(write_study(tmp_path)), workshop(tmp_path), tmp_path / "out", attack="badnets",
        defenses=["jpeg"], count=3,
    )  # fmt: skip
    note = json.loads((tmp_path / "out" / "explain.json").read_text())
    records = [TrialRecord.read(p) for p in (tmp_path / "run" / "records").glob("*.json")]
    known = {r.spec_id: r for r in records}
    names = [v["victim"] for v in note["victims"]]
    assert names == ["trained on clean data", "undefended", "jpeg"]
    for victim in note["victims"][1:]:
        record = known[victim["spec_id"]]
        [outcome] = [o for o in record.outcomes if o.probe == "x1"]
        assert (victim["successes"], victim["trials"]) == (outcome.successes, outcome.trials)
        assert victim["natural_accuracy"] == record.natural_accuracy
        assert victim["completeness_gap"] < 0.05
    assert note["baseline"] == "the image without its trigger"
    arrays = np.load(tmp_path / "out" / "explain.npz")
    assert arrays["occlusion"].shape == arrays["gradients"].shape == (3, 3, 32, 32)
    untouched = np.all(arrays["images"] == arrays["baselines"], axis=1)
    assert untouched.mean() > 0.9
    assert np.abs(arrays["gradients"][:, untouched]).max() < 1e-6
    assert (tmp_path / "out" / "explain.png").read_bytes().startswith(b"\x89PNG")
    assert lines[1].startswith("undefended: success")


@needs_captum
@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"attack": "badnet"}, "no attack 'badnet'. Did you mean 'badnets'"),
        ({"defenses": ["jpg"]}, "no defense 'jpg'. Did you mean 'jpeg'"),
        ({"target": 7}, "no target 7. Allowed: 0"),
        ({"seed": 5}, "no victim seed 5. Allowed: 0"),
        ({"window": 40}, "--window is in pixels, 1..32; got 40"),
    ],
)
def test_what_the_study_has_not(tmp_path: Path, given: dict[str, object], why: str) -> None:
    study = read_study(write_study(tmp_path))
    asked = {"attack": "badnets", "defenses": ["jpeg"], **given}
    with pytest.raises(UsageError) as error:
        explain(study, workshop(tmp_path), tmp_path / "out", **asked)
    assert why in str(error.value)


def test_without_captum_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    study = read_study(write_study(tmp_path))
    with pytest.raises(UsageError, match=r"need captum.*pip install 'puregen-bench\[explain\]'"):
        explain(study, workshop(tmp_path), tmp_path, attack="badnets", defenses=["jpeg"])


def test_the_figure_shows_the_maps() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 2, 3, 8, 8), dtype=np.uint8)
    victims = tuple(
        VictimMaps(
            name, *np.float32(rng.standard_normal((2, 2, 8, 8))), np.float32([1, -2]),
            np.float32([-3, -4]), (0, 1), hits, 90, 0.75,
        )
        for name, hits in (("undefended", 80), ("puregen_ebm", 2))
    )  # fmt: skip
    found = Explained(
        "narcissus", "x1", "grey", images[0], images[1], np.array([2, 3]), np.array([0, 0]),
        victims, ("plane", "car", "bird", "cat"), 4,
    )  # fmt: skip
    figure = explanation(found)
    shown = [ax.images[0] for ax in figure.axes if ax.images]
    assert len(shown) == 2 * (3 + 2 * 2)
    np.testing.assert_array_equal(shown[3].get_array(), victims[0].occlusion[0])
    np.testing.assert_array_equal(shown[4].get_array(), victims[0].gradients[0])
    np.testing.assert_array_equal(shown[7 + 6].get_array(), victims[1].gradients[1])
    assert shown[3].get_clim() == shown[5].get_clim()  # one scale for all victims
    said = [t.get_text() for ax in figure.axes for t in ax.texts]
    assert "margin -3 → +1, says plane" in said and "bird; the attacker wants: plane" in said
    caption = explained_caption(found)
    assert "undefended: success 80 of 90" in caption and "puregen_ebm: success 2 of 90" in caption
