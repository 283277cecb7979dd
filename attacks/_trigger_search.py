"""The search for an additive trigger that means a class to a surrogate network.

Narcissus (arXiv 2204.05255): teach a network that knows public images one more class, then find
the one small pattern that, added to images of this class, makes the network surest of it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks._aware import Aware, fresh_noise, purified, purifier
from harness.core.augment import random_crop, random_flip
from harness.core.data import ImageSet
from harness.core.device import on_device
from harness.core.errors import DataError
from harness.core.optimizers import RAdam
from harness.core.recipe import Recipe
from harness.core.seeds import stream, subseed
from harness.training import Predictor, fit


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerSearch:
    """How the surrogate learns the class and how the trigger is sought.

    The published code differs in ways that are kept as values here: it trains the surrogate on
    public and class images together for 200 epochs (``class_epochs=200, class_lr=0.1``), warms up
    with the logit number ``adv_label``, which belongs to a public class (``warmup_logit``), leaves
    batch normalisation in training mode (``bn_mode``), never projects the pattern it optimises
    (``project``), and makes 15,000 steps of 0.005 on 350 images each. And in ways that are not: it
    warms up with RAdam, where this does with SGD; its crops have a black border, here a reflected
    one; it trains with plain momentum, along a cosine and without label smoothing, where this
    takes what a recipe has by default (:class:`harness.core.recipe.Recipe`).

    Attributes:
        class_epochs: Epochs in which the surrogate learns the class beside public images.
        class_lr: Peak learning rate of these.
        class_repeat: How often each class image stands in that training set.
        pood_rows: Public images in it, at most.
        warmup_epochs: Epochs on class images alone (the paper's poi-warm-up).
        warmup_lr: Peak learning rate of these.
        warmup_logit: ``own``, or ``adv_label`` as in the published code.
        steps: Updates of the trigger.
        lr: Step of RAdam, in units of [0, 1].
        batch_size: Images per update.
        pood_share: Share of public images in each batch, in [0, 1); 0 as published.
        trigger_on: The trigger is added to ``augmented`` images, as published, or to ``stored``
            ones, which are then augmented: what happens to the poisons in the victim's training.
        bn_mode: ``eval`` (running statistics) or ``train`` (of the batch).
        project: Clip the pattern to its bound after each step.
    """

    class_epochs: int = 4
    class_lr: float = 0.05
    class_repeat: int = 2
    pood_rows: int = 4000
    warmup_epochs: int = 2
    warmup_lr: float = 0.01
    warmup_logit: Literal["own", "adv_label"] = "own"
    steps: int = 200
    lr: float = 0.01
    batch_size: int = 96
    pood_share: float = 0.0
    trigger_on: Literal["augmented", "stored"] = "augmented"
    bn_mode: Literal["eval", "train"] = "eval"
    project: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.pood_share < 1:
            raise DataError(f"pood_share must lie in [0, 1); got {self.pood_share}.")
        if min(self.steps, self.batch_size, self.class_repeat) < 1:
            raise DataError("steps, batch_size and class_repeat must be at least 1.")


@dataclass(frozen=True, slots=True)
class FoundTrigger:
    """A trigger and how sure of the class it made the surrogate.

    Attributes:
        delta: float32 (C, H, W) in units of [0, 1], within the bound.
        loss_before, loss_after: Cross-entropy of the class without and with it; of purified
            images, where the search knows the defense.
    """

    delta: NDArray[np.float32]
    loss_before: float
    loss_after: float


def find_trigger(
    class_images: ImageSet,
    pood: ImageSet,
    surrogate: Predictor,
    adv_label: int,
    eps: float,
    search: TriggerSearch,
    rng: np.random.Generator,
    aware: Aware | None = None,
) -> FoundTrigger:
    """Return the trigger of one class.

    Args:
        class_images: Training images of ``adv_label``; the only private data that are used.
        pood: Public out-of-distribution images with the surrogate's classes.
        surrogate: Network trained on ``pood``; it is copied.
        adv_label: The class.
        eps: Linf bound in units of [0, 1].
        search: Settings.
        rng: Source of all draws.
        aware: The defense, if the attacker knows it. It shifts no draw of ``rng``, so that two
            searches that differ in it alone see the same batches.
    """
    model = teach_class(surrogate.model, class_images, pood, search, rng, aware)
    logit = pood.num_classes if search.warmup_logit == "own" else adv_label
    return optimise_trigger(
        model, class_images, pood, logit, eps, search, rng, surrogate.dtype, aware
    )


def with_new_class(model: nn.Module, known: int, rng: np.random.Generator) -> nn.Module:
    """Return a copy of a classifier of ``known`` classes with one more logit, the last.

    Its weights are small and fresh.

    Raises:
        DataError: If the classifier has another number of classes.
    """
    model = copy.deepcopy(model)
    old = model.head
    if not isinstance(old, nn.Linear):
        raise DataError("the surrogate must have a linear layer 'head'.")
    if old.out_features != known:
        raise DataError(
            f"the surrogate knows {old.out_features} classes and pood has {known}; "
            "give the public images that it was trained on."
        )
    fresh = nn.Linear(old.in_features, old.out_features + 1, bias=old.bias is not None)
    row = rng.standard_normal(old.in_features) / np.sqrt(old.in_features)
    with torch.no_grad():
        fresh.weight[:-1] = old.weight
        fresh.weight[-1] = torch.from_numpy(row)
        if old.bias is not None:
            fresh.bias[:-1] = old.bias
            fresh.bias[-1] = 0
    model.head = fresh.to(old.weight.device)
    return model


def teach_class(
    surrogate: nn.Module,
    class_images: ImageSet,
    pood: ImageSet,
    search: TriggerSearch,
    rng: np.random.Generator,
    aware: Aware | None = None,
) -> nn.Module:
    """Return a copy of a network of public images that knows the class too, as its last logit.

    An attacker who knows the defense lets it learn what a victim would: images that were purified
    once, then augmented.
    """
    device = next(surrogate.parameters()).device
    model, own = with_new_class(surrogate, pood.num_classes, rng), pood.num_classes
    private, rows = class_images.images, rng.permutation(len(pood))[: search.pood_rows]
    public = pood.images[rows]
    if aware is not None and aware.in_surrogate:
        seed = subseed(rng.spawn(1)[0])
        both = purified(np.concatenate([public, private]), aware, seed)
        public, private = both[: len(public)], both[len(public) :]
    repeated = np.tile(private, (search.class_repeat, 1, 1, 1))
    together = _image_set(
        np.concatenate([public, repeated]),
        np.concatenate([pood.labels[rows], np.full(len(repeated), own)]),
        own + 1,
    )
    if search.class_epochs:
        learn = Recipe(epochs=search.class_epochs, lr=search.class_lr, batch_size=128)
        fit(model, together, learn, rng, device=device)
    if search.warmup_epochs:
        label = own if search.warmup_logit == "own" else int(class_images.labels[0])
        only = _image_set(private, np.full(len(private), label), own + 1)
        warm = Recipe(epochs=search.warmup_epochs, lr=search.warmup_lr, batch_size=128)
        fit(model, only, warm, rng, device=device)
    return model


def _image_set(
    images: NDArray[np.uint8], labels: NDArray[np.integer], num_classes: int
) -> ImageSet:
    ids = np.arange(len(images), dtype=np.int64)
    return ImageSet(images, labels.astype(np.int64), ids, num_classes)


def optimise_trigger(
    model: nn.Module,
    class_images: ImageSet,
    pood: ImageSet,
    logit: int,
    eps: float,
    search: TriggerSearch,
    rng: np.random.Generator,
    dtype: torch.dtype,
    aware: Aware | None = None,
) -> FoundTrigger:
    """Return the pattern within ``eps`` that makes a network surest of a logit.

    With a defense that is known to the search, the network sees purified images, and the pattern's
    gradient comes through the purification.
    """
    device = next(model.parameters()).device
    model.train(search.bn_mode == "train").requires_grad_(False)
    delta = torch.zeros((1, *class_images.image_shape), device=device, requires_grad=True)
    radam = RAdam([delta], lr=search.lr)
    from_pood = min(round(search.pood_share * search.batch_size), len(pood))
    from_class = min(search.batch_size - from_pood, len(class_images))
    private, public = torch.tensor(class_images.images), torch.tensor(pood.images)
    seed = int(rng.integers(2**62))
    purify = purifier(aware) if aware is not None and aware.in_search else None
    losses: list[Tensor] = []
    for step in range(search.steps):
        draw = stream(seed, "step", step)
        parts = [private[draw.choice(len(private), from_class, replace=False)]]
        if from_pood:
            parts.append(public[draw.choice(len(public), from_pood, replace=False)])
        x = on_device(torch.cat(parts), device).float().div_(255)
        if search.trigger_on == "augmented":
            x = random_crop(random_flip(x, draw), 4, draw)
        x = (x + delta.clamp(-eps, eps)).clamp(0, 1)
        if purify is not None:
            x = purify(x, fresh_noise(x.shape, device, seed, "langevin", step))
        if search.trigger_on == "stored":
            x = random_crop(random_flip(x, draw), 4, draw)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = model(x)
        label = torch.full((len(x),), logit, device=device)
        loss = F.cross_entropy(logits.float(), label)
        (delta.grad,) = torch.autograd.grad(loss, [delta])
        radam.step()
        if search.project:
            with torch.no_grad():
                delta.clamp_(-eps, eps)
        losses = [*losses[:1], loss.detach()]
    found = delta.detach().clamp(-eps, eps)[0].cpu().numpy()
    return FoundTrigger(found, float(losses[0]), float(losses[-1]))
