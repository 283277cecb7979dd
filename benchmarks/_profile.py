"""Where the time of a form goes: the operations that take most of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

MOST = 10


def profile(work: Callable[[], object], device: torch.device) -> list[dict[str, Any]]:
    """Return the ten operations with the most time of their own, as shares of all operations.

    On a GPU that is the time of the kernels that an operation starts, on a CPU its own.
    """
    gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu
    with torch.profiler.profile(activities=activities) as found:
        work()
        if gpu:
            torch.cuda.synchronize(device)
    own = "self_device_time_total" if gpu else "self_cpu_time_total"
    # Kernels are listed beside the operations that start them; only the latter are counted.
    events = [event for event in found.key_averages() if event.device_type == DeviceType.CPU]
    total = sum(getattr(event, own) for event in events) or 1.0
    events.sort(key=lambda event: getattr(event, own), reverse=True)
    return [
        {"operation": event.key, "calls": event.count, "share": getattr(event, own) / total}
        for event in events[:MOST]
    ]
