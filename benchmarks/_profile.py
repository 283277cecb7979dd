"""Where the time of a form goes: the operations that take most of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

MOST = 10


def profile(work: Callable[[], object], device: torch.device) -> dict[str, list[dict[str, Any]]]:
    """Return the ten operations with the most time of their own, as shares of all operations.

    On a GPU that is the time of the kernels that an operation starts, on a CPU its own; and there
    are the ten kernels too, whose names say which of several implementations a library chose.
    """
    gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu
    with torch.profiler.profile(activities=activities) as found:
        work()
        if gpu:
            torch.cuda.synchronize(device)
    own = "self_device_time_total" if gpu else "self_cpu_time_total"
    # Kernels are listed beside the operations that start them.
    events = found.key_averages()
    shares = {"profile": costliest(events, DeviceType.CPU, own)}
    return shares | ({"kernels": costliest(events, DeviceType.CUDA, own)} if gpu else {})


def costliest(events: Iterable[Any], kind: Any, own: str) -> list[dict[str, Any]]:
    """Return the ten events of a kind with the most time ``own``, as shares of all of them."""
    events = sorted(
        (event for event in events if event.device_type == kind),
        key=lambda event: getattr(event, own),
        reverse=True,
    )
    total = sum(getattr(event, own) for event in events) or 1.0
    return [
        {"operation": event.key, "calls": event.count, "share": getattr(event, own) / total}
        for event in events[:MOST]
    ]
