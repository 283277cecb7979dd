"""The C library's memory: tensors of some megabytes are not to be fetched from the kernel anew."""

from __future__ import annotations

from functools import cache

import torch

_LARGEST = 31 * 2**20  # bytes; above 32 MiB glibc always asks the kernel


@cache
def keep_freed_blocks() -> None:
    """Let glibc keep what is freed, up to 64 MiB, instead of giving it back to the kernel.

    Memory that comes from the kernel is zeroed and mapped page by page when it is first written,
    which can take several times as long as the convolution that writes it. glibc takes the
    largest block that was ever freed, up to 32 MiB, for the size from which it asks the kernel,
    and twice that for what it keeps. So one such block is taken and freed, untouched: that costs
    nothing. Other C libraries do not mind.
    """
    torch.empty(_LARGEST, dtype=torch.uint8)
