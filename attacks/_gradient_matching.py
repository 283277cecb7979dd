"""Poisons whose training gradient points where an attacker's would: the crafting of Witches' Brew.

Gradient Matching (arXiv 2009.02276): the gradient of the loss "target image, adversary's label" is
what would make a network err; perturb training images so that training on them takes that step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from attacks._diff_augment import DiffAugment
from harness.core.errors import DataError
from harness.core.optimizers import Adam
from harness.core.pixels import add_within, to_bytes
from harness.core.seeds import stream, subseed

_SCORES = 4  # augmentations of all poisons in a score


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """How poisons are crafted.

    Attributes:
        iterations: Steps of signed Adam: Adam that is fed the gradient's sign.
        restarts: Random starts; the poisons of the one with the smallest loss are kept.
        restarts_at_once: Restarts that share each pass through a network: what fills a GPU, and is
            slower on a CPU. They are as ever up to rounding. Two take about 6 times the memory of
            one, four 12 times (ResNet-18, 16 poisons, on a CPU).
        step: Step in shares of the bound. Published code has 0.1 of normalised units over the
            number of networks: 0.4 of a bound of 16/255, 0.8 of one of 8/255.
        milestones: Shares of the iterations after which the step is multiplied by ``decay``.
        decay: See ``milestones``.
        batch_size: Poisons whose common gradient is matched; several batches make one step.
        score_every: Iterations between two scores (see :func:`craft`); the last is always scored.
        augment: What is done to the poisons before each gradient; not to the target.
    """

    iterations: int = 250
    restarts: int = 8
    restarts_at_once: int = 1
    step: float = 0.4
    milestones: tuple[float, ...] = (0.375, 0.625, 0.875)
    decay: float = 0.1
    batch_size: int = 512
    score_every: int = 25
    augment: DiffAugment = DiffAugment()

    def __post_init__(self) -> None:
        counts = (
            self.iterations, self.restarts, self.restarts_at_once, self.batch_size,
            self.score_every,
        )  # fmt: skip
        if min(counts) < 1:
            raise DataError(
                "iterations, restarts, restarts_at_once, batch_size and score_every are at least 1."
            )
        if not self.step > 0:
            raise DataError(f"step is in shares of the bound, above 0; got {self.step}.")

    def groups(self) -> list[range]:
        """Return the numbers of the restarts that are made at once.

        >>> Matching(restarts=5, restarts_at_once=2).groups()
        [range(0, 2), range(2, 4), range(4, 5)]
        """
        numbers, size = range(self.restarts), self.restarts_at_once
        return [numbers[start : start + size] for start in numbers[::size]]

    def rate(self, iteration: int) -> float:
        """Return the step of an iteration, in shares of the bound.

        >>> [round(Matching().rate(i), 5) for i in (92, 93, 156, 218)]
        [0.4, 0.04, 0.004, 0.0004]
        """
        passed = sum(iteration >= int(m * self.iterations) for m in self.milestones)
        return self.step * self.decay**passed


@dataclass(frozen=True, slots=True, eq=False)
class Surrogate:
    """A network and the gradient that its training shall be made to take.

    Attributes:
        model: In evaluation mode, float32 or float64.
        parameters: All that are trained; the gradients are those of these.
        wanted: Gradient of the target's loss with the adversary's label, scaled to norm 1.
    """

    model: nn.Module
    parameters: tuple[nn.Parameter, ...]
    wanted: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Crafted:
    """Perturbed images and how well they match.

    Attributes:
        images: uint8 (P, C, H, W), within the bound of the base images.
        loss_before: Matching loss of the random start of the same restart, meaned over networks
            and augmentations, in [0, 2].
        loss_after: That of ``images``, under the same augmentations.
        restart: Which one it is, from 0.
    """

    images: NDArray[np.uint8]
    loss_before: float
    loss_after: float
    restart: int


def prepare(model: nn.Module, target: Tensor, adv_label: int) -> Surrogate:
    """Return a copy of a network with the gradient that the attacker wants.

    Args:
        model: Float (B, C, H, W) in [0, 1] → logits.
        target: (C, H, W), of the type and on the device of the network's weights.
        adv_label: Label that the attacker wants for it.
    """
    model = copy.deepcopy(model).eval().requires_grad_(True)
    parameters = tuple(model.parameters())
    label = torch.tensor([adv_label], device=target.device)
    loss = F.cross_entropy(model(target[None]), label)
    gradient = torch.autograd.grad(loss, parameters)
    norm = _norm(gradient)
    return Surrogate(model, parameters, tuple(g / norm for g in gradient))


def _norm(gradient: Sequence[Tensor]) -> Tensor:
    squares = torch.stack([g.pow(2).sum() for g in gradient]).sum()
    return squares.clamp_min(1e-30).sqrt()  # an image without loss has no direction, not nan


def matching_loss(surrogate: Surrogate, x: Tensor, y: Tensor, *, graph: bool = True) -> Tensor:
    """Return 1 - cosine between the gradient of a batch and the wanted one, over all parameters.

    Args:
        surrogate: Network.
        x: Augmented poisons, float (B, C, H, W).
        y: Their labels.
        graph: Whether the result shall be differentiable in ``x``.
    """
    loss = F.cross_entropy(surrogate.model(x), y)
    return _mismatch(surrogate, torch.autograd.grad(loss, surrogate.parameters, create_graph=graph))


def _mismatch(surrogate: Surrogate, gradient: Sequence[Tensor]) -> Tensor:
    dot = torch.stack([(g * w).sum() for g, w in zip(gradient, surrogate.wanted, strict=True)])
    return 1 - dot.sum() / _norm(gradient)


def matching_gradients(surrogate: Surrogate, x: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of :func:`matching_loss` in each of several batches, in one pass.

    Args:
        surrogate: Network.
        x: Augmented poisons, float (R, B, C, H, W): R batches, each with a gradient of its own.
        y: Their labels, int64 (B,), the same for every batch.

    Returns:
        Of the shape of ``x``.
    """
    names = [name for name, _ in surrogate.model.named_parameters()]
    weights: dict[str, Tensor] = dict(zip(names, surrogate.parameters, strict=True))

    def mismatch(batch: Tensor) -> Tensor:
        def loss(at: dict[str, Tensor]) -> Tensor:
            return F.cross_entropy(functional_call(surrogate.model, at, (batch,)), y)

        return _mismatch(surrogate, list(grad(loss)(weights).values()))

    found: Tensor = vmap(grad(mismatch))(x)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What is optimised: base images, and the networks whose training they shall mislead.

    Attributes:
        surrogates: Networks on one device; their losses are added.
        base: Base images, float (P, C, H, W) in [0, 1].
        labels: int64 (P,).
        mean: Mean colour of the data, (C, 1, 1) in [0, 1].
        augment: What is done to the images before each gradient.
        batch_size: Poisons whose common gradient is matched.
    """

    surrogates: tuple[Surrogate, ...]
    base: Tensor
    labels: Tensor
    mean: Tensor
    augment: DiffAugment
    batch_size: int

    def _parts(self) -> list[slice]:
        starts = range(0, len(self.base), self.batch_size)
        return [slice(start, start + self.batch_size) for start in starts]

    def _shown(self, delta: Tensor, part: slice, draws: Tensor) -> Tensor:
        """Return augmented poisons as a network is shown them."""
        x = self.augment.apply(self.base[part] + delta, draws[part], self.mean)
        return x.contiguous(memory_format=torch.channels_last)

    def gradient(self, deltas: Tensor, draws: Tensor) -> Tensor:
        """Return the gradient of the loss of each run in its own ``delta``, summed over networks.

        Args:
            deltas: (R, P, C, H, W), of R runs.
            draws: (R, P, 3), of the augmentation.
        """
        total = torch.zeros_like(deltas)
        for part in self._parts():
            pieces = deltas[:, part].detach().requires_grad_(True)
            for which in self.surrogates:  # one at a time: only one graph in memory
                total[:, part] += self._slope(which, pieces, part, draws)
        return total

    def _slope(self, which: Surrogate, pieces: Tensor, part: slice, draws: Tensor) -> Tensor:
        pairs = zip(pieces, draws, strict=True)
        shown = [self._shown(piece, part, each) for piece, each in pairs]
        if len(shown) == 1:
            loss = matching_loss(which, shown[0], self.labels[part])
            return torch.autograd.grad(loss, pieces)[0]
        batches = torch.stack(shown)
        slopes = matching_gradients(which, batches.detach(), self.labels[part])
        return torch.autograd.grad(batches, pieces, slopes)[0]

    def score(self, delta: Tensor, draws: Tensor) -> float:
        """Return the loss of the images as they are stored, meaned over networks and draws.

        Args:
            delta: (P, C, H, W).
            draws: (D, P, 3): each augmentation of all images is one draw.
        """
        stored = (delta * 255).round() / 255
        losses = [
            matching_loss(
                which, self._shown(stored[part], part, each), self.labels[part], graph=False
            )
            for which in self.surrogates
            for part in self._parts()
            for each in draws
        ]
        return float(torch.stack(losses).mean())


def craft(
    problem: Problem,
    eps_255: int,
    matching: Matching,
    rng: np.random.Generator,
    restarts: Sequence[int] | None = None,
) -> Crafted:
    """Return the poisons of one target: of all restarts' iterates, the one with the best score.

    Scores are of the images as they are stored, under augmentations that are drawn once and shared
    by all. (The published code compares the last losses of the restarts, each under augmentations
    of its own and from before the last step.)

    Args:
        problem: Images and networks.
        eps_255: Linf bound in grey levels.
        matching: Settings.
        rng: Source of all draws.
        restarts: Numbers of the restarts to make, at once; all by default, in their groups.

    Raises:
        DataError: If no score is finite.
    """
    seed = subseed(rng)
    fixed = matching.augment.draw((_SCORES, len(problem.base)), stream(seed, "score"))
    fixed = fixed.to(problem.base.device)
    numbers = matching.groups() if restarts is None else [restarts]
    runs = (
        run for group in numbers for run in _runs(problem, eps_255, matching, fixed, seed, group)
    )
    best = min(runs, key=lambda crafted: crafted.loss_after)
    if not math.isfinite(best.loss_after):  # what is left then is a random start
        raise DataError("the matching loss is not finite; look at the networks.")
    return best


def _runs(
    problem: Problem,
    eps_255: int,
    matching: Matching,
    fixed: Tensor,
    seed: int,
    restarts: Sequence[int],
) -> list[Crafted]:
    base, eps = problem.base, eps_255 / 255
    starts, chosen = [], []
    for restart in restarts:
        source = stream(seed, "restart", restart)
        starts.append(torch.from_numpy(source.standard_normal(base.shape, np.float32)).to(base))
        chosen.append(problem.augment.draw((matching.iterations, len(base)), source))
    delta = (torch.stack(starts) * eps).clamp(-eps, eps)
    delta = (base + delta).clamp(0, 1) - base
    draws = torch.stack(chosen, 1).to(base.device)
    adam = Adam([delta])
    before = [problem.score(one, fixed) for one in delta]
    best, best_scores = delta.clone(), [float("inf")] * len(delta)
    for iteration in range(matching.iterations):
        delta.grad = problem.gradient(delta, draws[iteration]).sign()
        adam.param_groups[0]["lr"] = eps * matching.rate(iteration)
        adam.step()
        delta.clamp_(-eps, eps)
        delta.copy_((base + delta).clamp(0, 1) - base)
        last = iteration + 1 == matching.iterations
        if last or (iteration + 1) % matching.score_every == 0:
            for run, one in enumerate(delta):
                score = problem.score(one, fixed)
                if score < best_scores[run]:
                    best[run], best_scores[run] = one, score
    bytes_ = to_bytes(base)
    return [
        Crafted(add_within(bytes_, found.float().cpu().numpy(), eps_255), first, score, restart)
        for found, first, score, restart in zip(best, before, best_scores, restarts, strict=True)
    ]
