"""What a process of a cluster does before each piece of work; it does many, one after the other."""

from __future__ import annotations

import os

from harness.core.device import use_threads
from harness.study import Resources


def begin(resources: Resources) -> None:
    """Use what a piece of work was given, and nothing else.

    Ray tells a process which GPU is its own only where it has one: one that has none would find
    all of them, and ``auto`` would take the first, in as many processes as there are processors.
    """
    use_threads(resources.cpus)
    if not resources.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray sets it again where it lends a GPU
