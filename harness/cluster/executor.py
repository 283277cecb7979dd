"""The executor of a cluster: units as plain tasks or through Ray Data, trials through Ray Tune."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.cluster.session import require, require_everywhere, require_shared
from harness.core.values import Json
from harness.execution import Done, Work
from harness.study import Resources

# Pieces per worker from which on it pays to start a pool of Ray Data for them. A task that has a
# GPU starts a process too, each anew.
MANY, MANY_ON_GPU = 8, 2


class RayExecutor:
    """Runs work on the Ray that this process is connected to (see :func:`session.session`).

    A piece whose process dies is run again: a unit twice, a trial once. What fails then is a
    :class:`Done` with an error, like a piece that raises, and the others go on.

    On Ctrl-C, running work is stopped, what has finished by then is still yielded, and
    ``KeyboardInterrupt`` is raised.
    """

    def check_folders(self, folders: Mapping[str, Path]) -> None:
        """Check that all nodes see these folders.

        Raises:
            UsageError: If one does not.
        """
        require_shared(folders)

    def check_nodes(self, check: Callable[[str], str], argument: str) -> None:
        """Check something on each other node of the cluster.

        Raises:
            UsageError: If something is wrong on one.
        """
        require_everywhere(check, argument)

    def where(self) -> dict[str, Json]:
        """Return what the cluster has: nodes, CPUs, GPUs, and the memory that Ray may use."""
        import ray

        there = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return {
            "executor": "Ray",
            "nodes": sum(node["Alive"] for node in ray.nodes()),  # type: ignore[no-untyped-call]
            "cpus": int(there.get("CPU", 0)),
            "gpus": int(there.get("GPU", 0)),
            "memory_gib": round(there.get("memory", 0) / 2**30, 1),
        }

    # The engines are imported where they are called, because Ray reads its environment while it
    # is imported, and the session has to set it first.

    def units(
        self, function: Work, payloads: Sequence[dict[str, Json]], resources: Resources
    ) -> Iterator[Done]:
        """Run many short pieces: a task costs milliseconds.

        Raises:
            UsageError: If no node has the resources of one piece.
        """
        from harness.cluster.tasks import run_tasks

        require(resources)
        return run_tasks(function, payloads, resources)

    def stream(
        self, function: Work, payloads: Sequence[dict[str, Json]], resources: Resources
    ) -> Iterator[Done]:
        """Run pieces that share networks, with Ray Data; few of them as units.

        Raises:
            UsageError: If no node has the resources of one piece.
        """
        from harness.cluster.tasks import slots

        require(resources)
        many = MANY_ON_GPU if resources.gpus else MANY
        if len(payloads) < many * slots(resources):
            return self.units(function, payloads, resources)
        from harness.cluster.streaming import run_stream

        return run_stream(function, payloads, resources)

    def trials(
        self, function: Work, payloads: Sequence[dict[str, Json]], resources: Resources
    ) -> Iterator[Done]:
        """Run the trials of a study, with Ray Tune.

        Raises:
            UsageError: If no node has the resources of one trial.
        """
        from harness.cluster.trials import run_trials

        require(resources)
        return run_trials(function, payloads, resources)
