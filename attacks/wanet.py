"""WaNet: a smooth warp that the eye does not see, and another label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from attacks._dirty_label import check_budget, check_rows, draw_rows, poison_count, relabelled
from attacks._triggered import choose_rows, triggered_probes
from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.pixels import to_bytes, to_float
from harness.core.protocols import ATTACKS, Bounds
from harness.core.seeds import stream, subseed

_BATCH = 2048  # images warped at once; it bounds the memory of their grids


def identity_grid(height: int, width: int) -> Tensor:
    """Return the grid (H, W, 2) that leaves an image as it is, in units of [-1, 1], x first."""
    y, x = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def draw_displacement(height: int, width: int, cells: int, rng: np.random.Generator) -> Tensor:
    """Return a smooth field of displacements, float32 (H, W, 2), about 1 in size.

    Uniform draws on ``cells`` x ``cells`` control points, divided by their mean absolute value, and
    enlarged by bicubic interpolation that keeps the corners.

    Source: WaNet, arXiv 2102.10369, section 3.2.
    """
    control = torch.from_numpy(rng.uniform(-1, 1, (1, 2, cells, cells))).float()
    control = control / control.abs().mean()
    field = F.interpolate(control, (height, width), mode="bicubic", align_corners=True)
    return field[0].permute(1, 2, 0).contiguous()


def warp_grid(displacement: Tensor, strength: float) -> Tensor:
    """Return the sampling grid ``identity + strength displacement / side``, within [-1, 1].

    Args:
        displacement: Float (..., H, W, 2); 1 is one unit of the grid, half an image, over the side.
        strength: Factor on it; 0.5 is published.
    """
    height, width = displacement.shape[-3:-1]
    sides = torch.tensor([width, height], dtype=displacement.dtype)
    moved = identity_grid(height, width) + strength * displacement / sides
    return moved.clamp(-1, 1)


def warp(images: NDArray[np.uint8], grids: Tensor) -> NDArray[np.uint8]:
    """Return images (N, C, H, W) sampled bilinearly at a grid (H, W, 2), or one each (N, H, W, 2).

    On the CPU, whatever there is: a trigger is the same bytes on every machine.
    """
    warped = np.empty_like(images)
    shared = grids.ndim == 3
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        x = to_float(images[part])
        grid = grids.expand(len(x), *grids.shape) if shared else grids[part]
        warped[part] = to_bytes(F.grid_sample(x, grid, align_corners=True))
    return warped


@ATTACKS.register(paper="arXiv:2102.10369")
@dataclass(frozen=True, slots=True, kw_only=True)
class Wanet:
    """Warps a share of the training set by one smooth field and gives these rows its label.

    Dirty-label: the poisons are random rows of the other classes. At test time every image that is
    warped by the same field shall get ``adv_label``. So that no other warp does the same, further
    rows, the *cover*, are warped by the field plus noise of their own, and keep their labels. The
    field is drawn once per seed of the poison and is the same in training and at test. (In the
    paper's own training the attacker trains the victim and draws poisons anew in each batch.)

    ``poison_ids`` holds all rows that the attacker changed: the poisons and the cover.

    Attributes:
        adv_label: Label that the attacker wants to see.
        budget: Share of the training set that is warped and relabelled, in (0, 1].
        cover_ratio: Cover rows per poison; 2 in the paper, 0 for none.
        strength: Factor on the field, above 0; at 0.5 pixels move by about a quarter of a pixel.
        cells: Control points of the field on each side, at least 2.
    """

    adv_label: int
    budget: float = 0.1
    cover_ratio: float = 2.0
    strength: float = 0.5
    cells: int = 4

    goal: ClassVar[Goal] = "triggered"
    target_field: ClassVar[str | None] = "adv_label"
    example: ClassVar[Mapping[str, Any]] = {"adv_label": 0}

    def __post_init__(self) -> None:
        check_budget(self.budget)
        if self.cover_ratio < 0 or not self.strength > 0 or self.cells < 2:
            raise DataError(
                "cover_ratio must not be negative, strength must be above 0, and cells at least 2; "
                f"got {self.cover_ratio}, {self.strength} and {self.cells}."
            )

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Check label and number of rows, of the cover too, against the data."""
        check_rows(self.adv_label, self.budget, train)
        poisons, cover = self._counts(train)
        if poisons + cover > len(train):
            raise DataError(
                f"{poisons} poisons and {cover} cover rows are more than the {len(train)} rows; "
                "lower budget or cover_ratio."
            )

    def _counts(self, train: ImageSet) -> tuple[int, int]:
        poisons = poison_count(self.budget, train)
        return poisons, round(self.cover_ratio * poisons)

    def bounds(self, train: ImageSet) -> Bounds:
        """Return the number of poisons and cover rows; a warp has no Linf bound."""
        return Bounds(rows=sum(self._counts(train)), eps_255=None, keeps_labels=False)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Draw the field, warp poisons and cover, relabel the poisons, probe the other classes."""
        self.check(train, test)
        seed = subseed(rng)
        height, width = train.image_shape[1:]
        field = draw_displacement(height, width, self.cells, stream(seed, "field"))
        grid = warp_grid(field, self.strength)
        rows = draw_rows(self.adv_label, self.budget, train, stream(seed, "rows"))
        poisoned = relabelled(train, rows, warp(train.images[rows], grid), self.adv_label)
        cover = self._cover_rows(train, rows, stream(seed, "cover"))
        images = poisoned.images.copy()
        images[cover] = warp_each(train.images[cover], grid, stream(seed, "noise"))
        probes = triggered_probes(test, self.adv_label, [("x1", lambda u8: warp(u8, grid))])
        changed = train.ids[np.union1d(rows, cover)]
        details = {"relabelled_rows": float(len(rows)), "cover_rows": float(len(cover))}
        return PoisonedSet(poisoned.with_images(images), changed, probes, self.goal, details)

    def _cover_rows(
        self, train: ImageSet, taken: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        left = np.setdiff1d(np.arange(len(train)), taken, assume_unique=True)
        return choose_rows(left, self._counts(train)[1], "random", rng)


def warp_each(
    images: NDArray[np.uint8], grid: Tensor, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return images (N, C, H, W) warped by a grid (H, W, 2) plus noise of their own.

    The noise is uniform in ± one over the side, at every pixel and drawn anew for each image.
    """
    height, width = images.shape[2:]
    warped = np.empty_like(images)
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        shape = (len(images[part]), height, width, 2)
        noise = torch.from_numpy(rng.uniform(-1, 1, shape)).float()
        noise /= torch.tensor([width, height], dtype=torch.float32)
        warped[part] = warp(images[part], (grid + noise).clamp(-1, 1))
    return warped
