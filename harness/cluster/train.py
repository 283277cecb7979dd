"""One training by several workers, through Ray Train; imported once a session has been opened."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.exceptions import RayError

from harness.cluster.tasks import slots
from harness.core.device import use_threads
from harness.core.errors import UsageError
from harness.core.files import write_text
from harness.core.parallel import ProcessGroup, Workers
from harness.core.values import Json
from harness.study import Resources

RESTARTS = 3  # of all workers after one was lost; each goes on from the last checkpoint
GLANCE_SECONDS = 0.3

Share = Callable[[dict[str, Json], Workers, str, Callable[[str], None]], None]
"""What each worker calls: ``payload``, its place among the workers, its device, ``tell``."""


def train_together(
    function: Share,
    payload: dict[str, Json],
    *,
    workers: int,
    resources: Resources,
    folder: Path,
    tell: Callable[[str], None],
) -> None:
    """Run a training in several processes at once, and again if one of them dies.

    They are joined by NCCL where each has a GPU, else by gloo. What the function raises as
    :class:`UsageError` is final.

    Args:
        function: Module-level; has to go on from its last checkpoint when it is called again.
        payload: Plain values.
        workers: How many processes; each gets ``resources``.
        resources: ``gpus`` is 0 or 1.
        folder: Shared by all nodes; what the workers tell passes through it.
        tell: Is called here with each line that a worker tells.

    Raises:
        UsageError: If the cluster has no room for the workers, the function raised one, or workers
            failed too often.
    """
    require_room(workers, resources)
    passing = Path(tempfile.mkdtemp(prefix=".train-", dir=folder))
    trainer = ray.train.torch.TorchTrainer(
        _loop,
        train_loop_config={
            "function": function,
            "payload": payload,
            "cpus": resources.cpus,
            "passing": str(passing),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": resources.cpus, "GPU": int(resources.gpus)},
        ),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=str(passing),
            failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
        ),
    )
    try:
        trouble = _watch(trainer, passing, tell)
        said = passing / "error"
        if said.exists():
            raise UsageError(said.read_text())
    finally:
        shutil.rmtree(passing, ignore_errors=True)
    if trouble:
        raise UsageError(
            f"the workers failed {RESTARTS + 1} times; the same command goes on from the last "
            f"checkpoint. The last failure: {trouble}"
        )


def has_gpus() -> bool:
    """Whether any node has a GPU."""
    return ray.cluster_resources().get("GPU", 0) > 0  # type: ignore[no-untyped-call, no-any-return]


def require_room(workers: int, resources: Resources) -> None:
    """Check that all workers can run at once: they would wait for each other for ever.

    Raises:
        UsageError: If they cannot; names both numbers.
    """
    room = slots(resources)
    if room < workers:
        raise UsageError(
            f"{workers} workers of {resources.cpus} CPUs and {resources.gpus:g} GPUs were asked "
            f"for; the nodes of this Ray have room for {room}."
        )


def _watch(
    trainer: ray.train.torch.TorchTrainer, passing: Path, tell: Callable[[str], None]
) -> str:
    """Train in a thread, hand on what workers tell, and return why they failed, if they did.

    Ctrl-C is this thread's, and ends the session with all that runs in it; Ray Train in the main
    thread would take it away from the command line.
    """
    trouble: list[str] = []

    def fit() -> None:
        try:
            trainer.fit()
        except (ray.train.TrainingFailedError, RayError, RuntimeError, OSError) as error:
            trouble.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=fit, name="train", daemon=True)
    thread.start()
    lines, told = passing / "lines", 0
    while True:
        going = thread.is_alive()
        if lines.exists():
            *whole, _ = lines.read_text().split("\n")
            for line in whole[told:]:
                tell(line)
            told = len(whole)
        if not going:
            return trouble[0] if trouble else ""
        thread.join(GLANCE_SECONDS)


def _loop(config: dict[str, Any]) -> None:
    """Do one worker's share; called again, in a new process, after a worker was lost."""
    passing = Path(config["passing"])
    said = passing / "error"
    if said.exists():
        raise UsageError(said.read_text())  # another try would end the same way
    use_threads(config["cpus"])

    def tell(line: str) -> None:
        with (passing / "lines").open("a") as lines:
            lines.write(line + "\n")

    device = str(ray.train.torch.get_device())
    try:
        config["function"](config["payload"], ProcessGroup.here(), device, tell)
    except UsageError as error:
        write_text(said, str(error))
        raise
