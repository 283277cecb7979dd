"""Work for the tests of executors, at module level as the contract asks."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch


def square(payload: dict[str, Any]) -> dict[str, Any]:
    """Return numbers, text, a list and None."""
    x = payload["x"]
    return {"square": x * x, "third": x / 3, "list": [x, [str(x)]], "none": None}


def misbehave(payload: dict[str, Any]) -> dict[str, Any]:
    """Do what ``payload["do"]`` says, and tell about the process otherwise."""
    match payload["do"]:
        case "raise":
            raise ValueError("this piece always raises")
        case "die":
            os._exit(3)
        case "die once":
            if not Path(payload["marker"]).exists():
                Path(payload["marker"]).touch()
                os._exit(3)
        case "sleep":
            time.sleep(600)
    return {"threads": torch.get_num_threads(), "cwd": str(Path.cwd())}
