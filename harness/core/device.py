"""Where to compute, and in which precision."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from harness.core.errors import UsageError

# On CPUs, images go through a network in multiples of this number: oneDNN convolves fewer of them,
# or an odd number, in other ways, which round otherwise, and the result of a row must not depend on
# the rows beside it.
ALIKE_ROWS = 16

logger = logging.getLogger(__name__)

_automatic = "auto"

M = TypeVar("M", bound=nn.Module)
Precision = Literal["auto", "fp32", "bf16"]


def use_device(name: str) -> None:
    """Say what ``auto`` is from now on in this process: a device, or again ``auto``."""
    global _automatic
    _automatic = name


def pick_device(name: str = "auto") -> torch.device:
    """Return the named device; ``auto`` is that of :func:`use_device`, or the GPU where one is.

    Raises:
        UsageError: If a GPU is named and none is there.
    """
    name = _automatic if name == "auto" else name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {name!r} was asked for, and torch finds no GPU; allowed: 'cpu'.")
    return torch.device(name)


def _has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 in hardware; without it bf16 is slower than fp32."""
    if device.type == "cuda":  # this card, which need not be the process's current one
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and _cpu_has_bf16()


@cache
def _cpu_has_bf16() -> bool:
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    capability = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(capability and capability())


def pick_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type that networks compute in; ``auto`` is bf16 where the hardware has it."""
    if precision == "auto":
        return torch.bfloat16 if _has_bf16(device) else torch.float32
    if precision == "bf16" and not _has_bf16(device):
        _warn_of_emulation()
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


@cache  # once in a process
def _warn_of_emulation() -> None:
    logger.warning("bf16 was asked for, which this hardware emulates: many times slower than fp32")


@contextmanager
def true_float32(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Let a GPU compute in float32 where ``dtype`` is float32; elsewhere change nothing.

    Unless it is told otherwise, torch lets cuDNN round the factors of float32 convolutions to TF32,
    which has ten bits of mantissa. The setting is the process's, so the first of several threads
    sets it, and the last one puts it back.
    """
    if dtype != torch.float32:
        yield
        return
    with _setting:
        _before.append(_before[0] if _before else tuple(k.fp32_precision for k in _KINDS))
        for kind in _KINDS:
            kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        with _setting:
            precisions = _before.pop()
            if not _before:
                for kind, precision in zip(_KINDS, precisions, strict=True):
                    kind.fp32_precision = precision


_KINDS = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
_setting = Lock()
_before: list[tuple[str, ...]] = []  # one entry per user at this moment


def on_device(values: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor of the processor's memory on a device; a GPU's copy is not waited for.

    Such a copy needs memory that is pinned to its place, which torch keeps until it has been read.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def use_threads(count: int) -> None:
    """Let torch use exactly ``count`` threads: two that fight over a core are far slower."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch.set_num_threads(max(1, count))


def channels_last(model: M) -> M:
    """Put a network's weights into channels-last order, in place, and return it."""
    model.to(memory_format=torch.channels_last)
    return model
