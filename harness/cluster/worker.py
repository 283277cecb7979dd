"""What a process of a cluster does before each piece of work; it does many, one after the other."""

from __future__ import annotations

import ctypes
import gc
import logging
import os

import torch

from harness.core.device import use_threads
from harness.study import Resources

logger = logging.getLogger(__name__)


def begin(resources: Resources) -> None:
    """Use what a piece of work was given, and nothing else; give back what an earlier one left.

    Ray tells a process which GPU is its own only where it has one: one that has none would find
    all of them, and ``auto`` would take the first, in as many processes as there are processors.
    """
    use_threads(resources.cpus)
    _trim_heap()
    if not resources.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray sets it again where it lends a GPU
    elif torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        _clear_gpu()


def _trim_heap() -> None:
    """Free what malloc keeps: on a cluster of small nodes, a part of each earlier trial's memory.

    See MALLOC_ARENA_MAX in :mod:`harness.cluster.environment`, which such a cluster need not have.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)


def _clear_gpu() -> None:
    """Free what no tensor uses: torch would keep it, out of reach of others on the same card.

    After an error of a kernel (not one of memory) CUDA fails in this process for ever, and would
    fail all pieces that are still to come. The piece that failed has been told of: it ends here.
    """
    gc.collect()
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as error:
        logger.error("this process ends: an earlier piece has broken its GPU's context: %s", error)
        os._exit(1)
