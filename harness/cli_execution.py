"""What commands that run work share: where it runs, and how they were called."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from harness.core.errors import UsageError


def command_line() -> str:
    """Return how the program was called, to be pasted into a shell."""
    return shlex.join(["puregen-bench", *sys.argv[1:]])


def joins_cluster(in_process: bool, address: str | None) -> bool:
    """Whether a command works on a Ray that others started."""
    return bool(address or os.environ.get("RAY_ADDRESS")) and not in_process


def executor_of(
    in_process: bool, address: str | None, cpus: int | None, resources: Any, device: str
) -> Callable[[], AbstractContextManager[Any]]:
    """Return what opens the executor that a command was asked for.

    Raises:
        UsageError: If the options contradict each other, or ask for what is not there.
    """
    if in_process:
        if address or cpus:
            given = "--address" if address else "--cpus"
            raise UsageError(f"--in-process uses no Ray; it cannot go with {given}.")
        there = os.cpu_count() or 1
        if resources.cpus > there:
            raise UsageError(
                f"one trial asks for {resources.cpus} CPUs (resources in the study); "
                f"this machine has {there}."
            )
        from harness.execution import InProcess

        return lambda: nullcontext(InProcess())
    if device.startswith("cuda") and (":" in device or not resources.gpus):
        share = "" if resources.gpus else " and --set resources.gpus=1 (or a part of 1)"
        raise UsageError(
            f"--device {device} on Ray: give --device cuda{share}, so that Ray lends each piece of "
            "work its GPU; or --in-process."
        )
    if address and cpus:
        raise UsageError("--cpus is for the local Ray; a cluster given by --address has its own.")

    @contextmanager
    def on_ray() -> Iterator[Any]:
        from harness.cluster.executor import RayExecutor
        from harness.cluster.session import require, session

        with session(address, cpus):
            require(resources)
            yield RayExecutor()

    return on_ray
