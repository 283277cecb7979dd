"""Calls ``purify`` on a cluster with a GPU that is not there: its workers take it to be there."""

from __future__ import annotations

import os
import sys
from typing import Any

from harness.cli import cli
from harness.purify import job


def purify_lent(payload: dict[str, Any]) -> dict[str, Any]:
    """Purify a chunk on the GPU that Ray lends: torch finds it, and the processor computes."""
    import torch

    from harness.purify.job import purify_chunk
    from harness.workshop import networks

    lent = os.environ["CUDA_VISIBLE_DEVICES"]
    assert lent, "Ray lent no GPU"
    torch.cuda.is_available = lambda: True
    torch.cuda.get_device_name = lambda device=None: f"Pretended GPU {lent}"
    torch.cuda.get_device_capability = lambda device=None: (8, 0)
    networks.pick_device = lambda name="auto": torch.device("cpu")
    return purify_chunk(payload)


if __name__ == "__main__":
    job.purify_chunk = purify_lent
    cli(["purify", *sys.argv[1:]])
