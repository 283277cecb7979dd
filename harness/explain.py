"""Where in a triggered image the attacker's class comes from, for victims trained with and without.

Records hold no weights, so the victims are trained again, from the study's own specs and seeds and
from what the store has of them. Attributions are captum's: occlusion (Zeiler & Fergus, arXiv
1311.2901) and integrated gradients (Sundararajan et al., arXiv 1703.01365).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.core.data import Dataset, Probe
from harness.core.device import pick_device
from harness.core.errors import UsageError, nearest
from harness.core.files import write_arrays, write_text
from harness.core.params import ComponentSpec
from harness.core.paths import check_writable
from harness.core.pixels import to_float
from harness.core.spec import TrialSpec, attack_id
from harness.evaluation import count_probes
from harness.labels import names_of
from harness.plan import make_plan
from harness.report.chart_explain import Explained, VictimMaps, explained_caption, explanation
from harness.report.figures import draw_one
from harness.report.trajectory_figure import write
from harness.study import StudySpec
from harness.training import Predictor
from harness.trial import prepare, train_victim
from harness.workshop import Workshop

GREY = 0.5
STEPS = 64
"""Points on the way of the integrated gradients."""

_BATCH = 64
_NONE = ComponentSpec("none")


@dataclass(frozen=True, slots=True)
class Attributions:
    """What a network's margin owes to each pixel, against a baseline.

    The margin is the logit of the adversary's label minus that of the true one.

    Attributes:
        occlusion: float32 (N, H, W): how far the margin falls when the window around a pixel shows
            the baseline; mean over the windows that hold it.
        gradients: float32 (N, H, W): integrated gradients from the baseline, summed over channels;
            they add up to ``margins - base_margins``.
        margins, base_margins: float32 (N,), of the images and of their baselines.
        gap: Largest miss of that sum, in units of the margin.
    """

    occlusion: NDArray[np.float32]
    gradients: NDArray[np.float32]
    margins: NDArray[np.float32]
    base_margins: NDArray[np.float32]
    gap: float


def attribute(
    model: nn.Module,
    images: NDArray[np.uint8],
    baselines: Tensor,
    labels: NDArray[np.int64],
    adv_labels: NDArray[np.int64],
    *,
    window: int = 8,
    device: torch.device | str = "cpu",
) -> Attributions:
    """Return what a network's margin owes to each pixel of some images.

    Args:
        model: Float (B, C, H, W) in [0, 1] → logits, in evaluation mode.
        images: uint8 (N, C, H, W).
        baselines: What stands for nothing, float32 (N, C, H, W) in [0, 1].
        labels, adv_labels: int64 (N,), true ones and the adversary's.
        window: Side of the occluded square, in pixels; it moves by half of it.
        device: Where the network is.

    Raises:
        UsageError: If captum is not installed.
    """
    captum = _captum()
    wanted = torch.from_numpy(np.stack([adv_labels, labels], 1)).to(device)

    def margin(x: Tensor, pair: Tensor) -> Tensor:
        picked = model(x.contiguous(memory_format=torch.channels_last)).float().gather(1, pair)
        return torch.sub(picked[:, 0], picked[:, 1])

    x, base = to_float(images, device), baselines.to(device)
    side, step = (x.shape[1], window, window), max(1, window // 2)
    with torch.no_grad():
        covered = captum.Occlusion(margin).attribute(
            x, sliding_window_shapes=side, strides=(x.shape[1], step, step), baselines=base,
            additional_forward_args=(wanted,),
        )  # fmt: skip
        margins, base_margins = margin(x, wanted), margin(base, wanted)
    flow = captum.IntegratedGradients(margin).attribute(
        x, baselines=base, additional_forward_args=(wanted,), n_steps=STEPS,
        internal_batch_size=_BATCH,
    )  # fmt: skip
    missed = flow.sum((1, 2, 3)) - (margins - base_margins)
    return Attributions(
        _plain(covered.mean(1)), _plain(flow.sum(1)), _plain(margins), _plain(base_margins),
        float(missed.abs().max()),
    )  # fmt: skip


def explain(
    study: StudySpec,
    workshop: Workshop,
    out: Path,
    *,
    attack: str,
    defenses: Sequence[str],
    target: int | None = None,
    seed: int | None = None,
    count: int = 4,
    window: int = 8,
) -> list[str]:
    """Train a clean, an undefended and the defended victims of a study, and explain what they see.

    Args:
        study: Checked study.
        workshop: Makes what is not in the store.
        out: Folder for figure, maps and numbers.
        attack: Its label or name in the study.
        defenses: Labels or names.
        target: Attacked target; the study's first of this attack unless given.
        seed: Of the victim; the study's first unless given.
        count: Images: the first of the attack's headline probe.
        window: See :func:`attribute`.

    Returns:
        What was found, in lines, and the files written.

    Raises:
        UsageError: If the study has no such trial, the attack has no probe, captum is missing, or
            ``out`` cannot be written.
    """
    check_writable(out, "--out")
    _captum()
    trials = make_plan(study, workshop).trials
    specs = [
        _find(trials, study.labels, attack, defense, target=target, seed=seed)
        for defense in defenses
    ]
    first = specs[0]
    clean = replace(first, attack=_NONE, defense=_NONE, floor_of=(), target=None)
    victims = {"trained on clean data": clean, "undefended": replace(first, defense=_NONE)}
    victims |= {names_of(s, study.labels)["defense"]: s for s in specs}
    data = workshop.dataset(first.dataset)
    poisoned = workshop.poisoned(data, first.attack, first.seeds.poison)[0]
    if not poisoned.probes:
        raise UsageError(f"attack {attack!r} has no probe: nothing is to be misclassified.")
    probe = poisoned.probes[0]
    shown = probe.images.take(np.arange(min(count, len(probe.images))))
    base, base_name = _baseline(data, probe, len(shown))
    size = min(shown.image_shape[1:])
    if not 1 <= window <= size:
        raise UsageError(f"--window is in pixels, 1..{size}; got {window}.")
    maps, notes = [], []
    for name, spec in victims.items():
        predict = _victim(spec, workshop)
        found = attribute(
            predict.model.requires_grad_(False), shown.images, base, shown.labels,
            probe.adv_labels[: len(shown)], window=window, device=pick_device(workshop.device),
        )  # fmt: skip
        [hits] = count_probes(
            predict, [probe], attack=attack_id(first.attack), label=attack, target=first.target
        )
        accuracy = float(np.mean(predict(data.test.images) == data.test.labels))
        maps.append(
            VictimMaps(
                name, found.occlusion, found.gradients, found.margins, found.base_margins,
                tuple(predict(shown.images).tolist()), hits.successes, hits.trials, accuracy,
            )
        )  # fmt: skip
        notes.append({"victim": name, "spec_id": spec.spec_id, "spec": spec.to_json(),
                      "successes": hits.successes, "trials": hits.trials,
                      "natural_accuracy": accuracy, "margins": found.margins.tolist(),
                      "baseline_margins": found.base_margins.tolist(),
                      "completeness_gap": found.gap})  # fmt: skip
    explained = Explained(
        attack=names_of(first, study.labels)["attack"], probe=probe.name, baseline=base_name,
        images=shown.images, baselines=np.rint(base.numpy() * 255).astype(np.uint8),
        labels=shown.labels, adv_labels=probe.adv_labels[: len(shown)], victims=tuple(maps),
        class_names=data.class_names, window=window,
    )  # fmt: skip
    caption = explained_caption(explained)
    drawing = draw_one(
        "explain", "What a victim sees in a trigger", caption, lambda: explanation(explained)
    )
    note = {"study": study.name, "target": first.target, "probe": probe.name, "window": window,
            "baseline": base_name, "caption": caption, "victims": notes}  # fmt: skip
    write_text(out / "explain.json", json.dumps(note, indent=1) + "\n")
    write_arrays(out / "explain.npz", _arrays(explained))
    files = [out / "explain.json", out / "explain.npz", *write([drawing], out)]
    return [
        *(f"{v.name}: success {v.successes}/{v.trials} on probe {probe.name}, natural accuracy "
          f"{100 * v.accuracy:.1f} %, mean margin {v.margins.mean():+.2f} "
          f"(baseline {v.base_margins.mean():+.2f})" for v in maps),
        *(f"written: {file}" for file in files),
    ]  # fmt: skip


def _captum() -> Any:
    try:
        return importlib.import_module("captum.attr")
    except ImportError:
        raise UsageError(
            "explanations need captum, which is not installed; pip install 'puregen-bench[explain]'"
        ) from None


def _plain(x: Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = x.detach().float().cpu().numpy()
    return values


def _find(
    trials: Sequence[TrialSpec],
    labels: Mapping[str, str],
    attack: str,
    defense: str,
    *,
    target: int | None,
    seed: int | None,
) -> TrialSpec:
    """Return the first trial of an attack and a defense, by label or, where it is clear, by name.

    Raises:
        UsageError: If there is none; it says which there are.
    """
    left = [t for t in trials if t.attack.name != "none" and t.defense.name != "none"]
    for role, given in (("attack", attack), ("defense", defense)):
        there = {names_of(t, labels)[role] for t in left}
        named = {names_of(t, labels)[role] for t in left if getattr(t, role).name == given}
        chosen = {given} if given in there else named
        if len(chosen) != 1:
            raise UsageError(
                f"the study has {'several' if named else 'no'} {role} {given!r}."
                f"{nearest(given, there)} Allowed: {', '.join(sorted(there))}."
            )
        left = [t for t in left if names_of(t, labels)[role] in chosen]
    for what, wanted, values in (
        ("target", target, [t.target for t in left]),
        ("victim seed", seed, [t.seeds.victim for t in left]),
    ):
        if wanted is not None and wanted not in values:
            allowed = ", ".join(map(str, dict.fromkeys(values)))
            raise UsageError(f"the study has no {what} {wanted}. Allowed: {allowed}.")
    left = [t for t in left if target in (None, t.target) and seed in (None, t.seeds.victim)]
    if not left:
        raise UsageError(f"the study has no trial with both target {target} and seed {seed}.")
    return left[0]


def _victim(spec: TrialSpec, workshop: Workshop) -> Predictor:
    predict, _ = train_victim(prepare(spec, workshop), workshop)
    if not isinstance(predict, Predictor):
        raise UsageError(f"scenario {spec.scenario.name!r} trains no network of its own.")
    return predict


def _baseline(data: Dataset, probe: Probe, count: int) -> tuple[Tensor, str]:
    """Return what stands for nothing: the images without their trigger, or grey without one."""
    ids, images = probe.images.ids[:count], probe.images.images[:count]
    if np.isin(ids, data.test.ids).all():
        before = data.test.images[data.test.positions(ids)]
        if before.shape == images.shape and not np.array_equal(before, images):
            return to_float(before), "the image without its trigger"
    return torch.full(images.shape, GREY), "grey"


def _arrays(found: Explained) -> dict[str, NDArray[Any]]:
    return {
        "images": found.images,
        "baselines": found.baselines,
        "labels": found.labels,
        "adv_labels": found.adv_labels,
        "victims": np.array([v.name for v in found.victims]),
        "occlusion": np.stack([v.occlusion for v in found.victims]),
        "gradients": np.stack([v.gradients for v in found.victims]),
    }
