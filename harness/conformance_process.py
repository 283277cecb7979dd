"""What belongs to a whole process: a component that changes it changes what runs there later."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from harness.conformance_rules import require


def process_wide() -> dict[str, str]:
    """Return the global seeds and settings, by name."""
    cudnn = torch.backends.cudnn
    drawn = str(np.random.get_state()).encode()  # noqa: NPY002
    found = {
        "numpy's global generator": hashlib.sha256(drawn).hexdigest()[:8],
        "numpy's handling of errors": np.geterr(),
        "torch's global seed": torch.initial_seed(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's gradients": torch.is_grad_enabled(),
        "torch's threads": torch.get_num_threads(),
        "torch's float32 products": torch.get_float32_matmul_precision(),
        "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn's settings": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
    }
    return {name: str(value) for name, value in found.items()}


def left_alone(before: dict[str, str], what: str) -> None:
    """Check that the process is as it was.

    Raises:
        Violation: If not; says what was changed, and by what.
    """
    now = process_wide()
    changed = [f"{k}: {before[k]}, then {now[k]}" for k in now if now[k] != before[k]]
    rule = f"{what} leaves the process's seeds and settings alone"
    require(not changed, rule, ", ".join(changed))
