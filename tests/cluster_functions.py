"""Work for the tests of executors, at module level as the contract asks."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
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


_kept: list[bytearray] = []


def use_memory(payload: dict[str, Any]) -> dict[str, Any]:
    """Use 64 MiB and keep 2; tell in how many of glibc's arenas this process has used so much."""
    blocks = [bytearray(2**16) for _ in range(1024)]
    _kept.extend(blocks[::32])
    with tempfile.NamedTemporaryFile("r") as told:
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        file = ctypes.c_void_p(libc.fopen(told.name.encode(), b"w"))
        libc.malloc_info(0, file)
        libc.fclose(file)
        heaps = told.read().split("</heap>")[:-1]
    sizes = [int(n) for h in heaps for n in re.findall('"current" size="([0-9]+)"', h)]
    return {"pid": os.getpid(), "arenas": sum(size > 2**25 for size in sizes)}
