"""Features of a frozen surrogate: before its head, from within it, and under dropout."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from harness.core.device import channels_last
from harness.core.errors import DataError, nearest
from harness.training import Predictor


class FeatureReader:
    """Reads the features of a copy of a surrogate, in evaluation mode; gradients reach the input.

    Args:
        surrogate: The network; it is not changed.
        with_map: Whether a map (C, H, W) from within is read as well, before the features.
        layer: Submodule whose output is that map; empty: what the last convolution reads.
        dropout: Rate before each convolution but the first. The networks have none of their own;
            published surrogates have it before the last convolution of each block.
        repeats: Passes under different dropout, whose features are averaged.

    Raises:
        DataError: If the network has no such layer, or too few convolutions for a map or for
            dropout.
    """

    def __init__(
        self, surrogate: Predictor, *, with_map: bool, layer: str, dropout: float, repeats: int
    ) -> None:
        self._model = channels_last(copy.deepcopy(surrogate.model)).eval().requires_grad_(False)
        self.device = next(self._model.parameters()).device
        self._dtype = surrogate.dtype
        self._dropout, self._repeats = dropout, repeats
        self._maps: list[Tensor] = []
        self._masks: Sequence[torch.Generator] | None = None
        convolutions = [m for m in self._model.modules() if isinstance(m, nn.Conv2d)]
        if with_map and layer:
            self._submodule(layer).register_forward_hook(self._note_output)
        elif with_map:
            if len(convolutions) < 2:  # a single one reads the image itself
                raise DataError(
                    "the surrogate has no convolution behind another; name the 'layer' to be "
                    "matched, one that gives maps (C, H, W)."
                )
            convolutions[-1].register_forward_pre_hook(self._note_input)
        if dropout:
            if len(convolutions) < 2:
                raise DataError(
                    f"dropout {dropout} goes before each convolution but the first; the surrogate "
                    f"has {len(convolutions)}. Give dropout 0."
                )
            for convolution in convolutions[1:]:
                convolution.register_forward_pre_hook(self._drop)

    def _submodule(self, layer: str) -> nn.Module:
        named: dict[str, nn.Module] = dict(self._model.named_modules())
        if layer not in named:
            raise DataError(f"the surrogate has no layer {layer!r}.{nearest(layer, named)}")
        return named[layer]

    def _note_output(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.ndim != 4:
            raise DataError(f"the layer must give maps (B, C, H, W); it gives {output.ndim} axes.")
        self._maps.append(output)

    def _note_input(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._maps.append(inputs[0])

    def _drop(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._masks is None:
            return None
        x = inputs[0]
        shape = (len(x) // len(self._masks), *x.shape[1:])
        drawn = [torch.rand(shape, generator=g, device=x.device) for g in self._masks]
        kept = torch.cat(drawn) >= self._dropout
        return (x * kept / (1 - self._dropout),)

    def read(
        self, x: Tensor, groups: int, masks: Sequence[torch.Generator] | None = None
    ) -> list[Tensor]:
        """Return the features of each layer, float32, the ones before the head last.

        Args:
            x: (groups * k, C, H, W) in [0, 1], channels-last.
            groups: Targets; their images stand one after another.
            masks: Source of each group's dropout, or None for no dropout and one pass.

        Returns:
            Of each layer (groups, k, D) or (groups, k, C, H, W).
        """
        repeats = self._repeats if masks else 1
        size = len(x) // groups
        if repeats > 1:
            grouped = x.view(groups, 1, size, *x.shape[1:])
            x = grouped.expand(-1, repeats, *grouped.shape[2:]).reshape(-1, *x.shape[1:])
            x = x.contiguous(memory_format=torch.channels_last)
        self._masks = masks
        self._maps.clear()
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32):
            features = cast(Callable[[Tensor], Tensor], self._model.features)(x)
        layers = [layer.float() for layer in (*self._maps, features)]
        return [f.view(groups, repeats, size, *f.shape[1:]).mean(1) for f in layers]
