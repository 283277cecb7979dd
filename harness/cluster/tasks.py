"""Many short pieces of work as plain Ray tasks; imported once a session has been opened."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence

import ray
from ray.exceptions import RayError

from harness.cluster.worker import begin
from harness.core.values import Json
from harness.execution import Done, Work, attempt
from harness.study import Resources

RETRIES = 2  # of a piece whose process or node died; what it raises itself is final

Result = tuple[dict[str, Json] | None, str, float]


def run_tasks(
    function: Work, payloads: Sequence[dict[str, Json]], resources: Resources
) -> Iterator[Done]:
    """Yield results in the order in which they finish (see :class:`RayExecutor`)."""
    # A process stays on the GPU that it used first, whichever Ray lends it next, and holds memory
    # there when it is idle. So one that had a GPU ends with its piece; others are kept.
    task = ray.remote(
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
        max_retries=RETRIES,
        max_calls=1 if resources.gpus else 0,
    )(_run)
    waiting = deque(range(len(payloads)))
    pending: dict[ray.ObjectRef[Result], int] = {}
    window = max(2, 2 * slots(resources))  # twice what runs, so that no core waits
    try:
        while waiting or pending:
            while waiting and len(pending) < window:
                index = waiting.popleft()
                pending[task.remote(function, payloads[index], resources)] = index
            ready, _ = ray.wait(list(pending), num_returns=1)
            yield _collect(ready[0], pending.pop(ready[0]))
    except KeyboardInterrupt:
        for ref in list(pending):
            if ray.wait([ref], timeout=0)[0]:
                yield _collect(ref, pending.pop(ref))
        raise
    finally:
        for ref in pending:
            ray.cancel(ref, force=True)


def _run(function: Work, payload: dict[str, Json], resources: Resources) -> Result:
    begin(resources)
    began = time.perf_counter()
    value, error = attempt(function, payload)
    return value, error, time.perf_counter() - began


def _collect(ref: ray.ObjectRef[Result], index: int) -> Done:
    try:
        value, error, seconds = ray.get(ref)
    except RayError as crash:
        return Done(index, None, f"{type(crash).__name__}: {crash}")
    return Done(index, value, error, seconds)


def slots(resources: Resources) -> int:
    """Return how many pieces the cluster can run at once: a piece is on one node, and one card."""
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]  # type: ignore[no-untyped-call]
    return sum(_room(node, resources) for node in nodes)


def _room(node: dict[str, float], resources: Resources) -> int:
    found = node.get("CPU", 0) // resources.cpus
    if resources.gpus:
        cards, share = node.get("GPU", 0), resources.gpus
        per_card = int(1 / share + 1e-9)  # 1 // 0.1 is 9
        found = min(found, cards // share if share >= 1 else cards * per_card)
    return int(found)
