"""A Ray that is told of a GPU which is not there: prints as JSON what its processes are lent."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from harness.cluster.session import session
from harness.study import Resources


def look(payload: dict[str, Any]) -> dict[str, Any]:
    """Return which process this is, and which GPUs it sees."""
    return {"pid": os.getpid(), "seen": os.environ.get("CUDA_VISIBLE_DEVICES")}


def main() -> None:
    """Run a piece without a GPU, then two with one."""
    with session(cpus=1, gpus=1):
        from harness.cluster.tasks import run_tasks

        without = list(run_tasks(look, [{}], Resources()))
        lent = list(run_tasks(look, [{}, {}], Resources(gpus=1.0)))
    json.dump([done.value for done in without + lent], sys.stdout)


if __name__ == "__main__":
    main()
