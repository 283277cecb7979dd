"""On what a trial ran: versions, commit, processor, device, threads."""

from __future__ import annotations

import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from harness.core.spec import PROTOCOL

PACKAGES = (
    "puregen-bench", "torch", "torchvision", "numpy", "pillow", "ray", "mlflow",
    "scipy", "statsmodels", "matplotlib", "captum",
)  # fmt: skip


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


# What numbers depend on. A new component is a file that git does not know yet.
CODE = ("attacks", "defenses", "generative", "harness", "sweeps", "pyproject.toml", "uv.lock")


@cache
def _commit(root: Path = Path(__file__).parents[1]) -> str:
    """Return the commit of a checkout, with ``+`` if its code is another one; "" outside one."""
    if not (root / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    dirty = "+" if git("status", "--porcelain", "--untracked-files=all", "--", *CODE) else ""
    return git("rev-parse", "--short=12", "HEAD") + dirty


@cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return what a record says of the machine and the software."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "protocol": PROTOCOL,
        "commit": _commit(),
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "processor": _processor(),
        "device": gpu or str(device),
        "threads": torch.get_num_threads(),
        "precision": str(dtype).removeprefix("torch."),
    }
