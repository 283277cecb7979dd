"""One call of ``run`` or ``demo``: where it works and logs, what it shows, its exit status."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.cli_execution import command_line
from harness.cli_options import open_console
from harness.report_shown import show_report

ERRORS_SHOWN = 5


def execute(
    study: Any,
    folder: Path,
    workshop: Any,
    *,
    limit: int | None,
    executor: Callable[[], AbstractContextManager[Any]],
    tracking: str | None,
    joins: bool = False,
) -> int:
    """Run a checked study, report, and return the exit status.

    Args:
        study: What to run.
        folder: Of the run; absolute.
        workshop: Gives access to datasets and store.
        limit: Only so many trials.
        executor: Opens where work runs.
        tracking: A tracking URI, "" for the default store, or None for no tracking.
        joins: Whether the executor joins a cluster that others started.
    """
    from harness.progress import Progress
    from harness.run import run_study
    from harness.trajectory_run import run_trajectories

    console = open_console()
    services = _Services(study, folder, executor, tracking, joins)
    run_all = run_trajectories if study.trajectories else run_study
    noun = "trajectories" if study.trajectories else "trials"
    status, numbers, page = "FAILED", {}, None
    try:
        summary = run_all(
            study, workshop, folder, services,
            command=command_line(), limit=limit, progress=Progress(console),
        )  # fmt: skip
        numbers = {noun: summary.planned, f"{noun}_done": summary.done}
        if services.tracker is not None:
            _register_generators(services.tracker, study, folder, workshop)
        if _has_results(folder, study, summary.done):
            page = show_report(folder, console)
        status = "FINISHED" if summary.complete else "FAILED"
    except KeyboardInterrupt:
        status = "KILLED"
        text = f"stopped; what is finished is in {folder}. The same command goes on."
        console.print(text, markup=False)
        return 130
    finally:
        if services.tracker is not None:
            services.tracker.finish(numbers, status)
    if services.tracker is not None:
        for name, link in services.tracker.links().items():
            console.print(f"{name}: {link}", markup=False)
    if page:
        console.print(f"page: {page}", markup=False)
    _show_errors(summary.errors, console)
    if not summary.complete:
        console.print(f"{summary.done} of {summary.planned} {noun} have a result.")
    return 0 if summary.complete else 1


@dataclass
class _Services:
    """Opens where a study's work runs and where it is logged (:data:`harness.run.Services`).

    A cluster that cannot be joined is found before the tracker notes a run, and a server that
    cannot be reached before a Ray of our own is started. A store in a file takes as many seconds to
    import and to make as Ray to start: both at once.

    Attributes:
        tracker: Set once the tracking store has been opened, and knows of the run.
    """

    study: Any
    folder: Path
    executor: Callable[[], AbstractContextManager[Any]]
    tracking: str | None
    joins: bool
    tracker: Any = None

    @contextmanager
    def __call__(self, work: bool) -> Iterator[tuple[Any, Any]]:
        """Yield the executor, if there is work, and the tracker, if there is one."""
        with ExitStack() as stack:
            running = stack.enter_context(self.executor()) if work and self.joins else None
            own = work and running is None
            if own and in_a_file(self.tracking):
                opening = stack.enter_context(ThreadPoolExecutor(1)).submit(self._open_tracker)
                running = stack.enter_context(self.executor())
                opening.result()
            else:
                self._open_tracker()
                running = stack.enter_context(self.executor()) if own else running
            yield running, self.tracker

    def _open_tracker(self) -> None:
        from harness.tracking import Tracker

        if self.tracking is not None:
            tracker = Tracker(self.tracking or None, self.study.name, self.folder)
            tracker.start(self.study.raw)
            tracker.sync(self.folder)
            self.tracker = tracker


def in_a_file(tracking: str | None) -> bool:
    """Whether runs are tracked, and by no server.

    >>> in_a_file("http://127.0.0.1:5000"), in_a_file("sqlite:///x.db"), in_a_file(None)
    (False, True, False)
    """
    if tracking is None:
        return False
    uri = tracking or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:"
    return uri.startswith(("sqlite:", "file:", "/"))


def _register_generators(tracker: Any, study: Any, folder: Path, workshop: Any) -> None:
    from harness.generator_tools import (
        describe_generator,
        generators_followed,
        generators_of,
        generators_used,
    )

    used, followed = generators_used(folder, workshop), generators_followed(folder)
    known = ((path, describe_generator(path)) for path in generators_of(study, workshop))
    tracker.register(
        (path, said, [*used.get(path, ()), *followed.get(said["digest"], ())])
        for path, said in known
    )


def _has_results(folder: Path, study: Any, done: int) -> bool:
    """Whether there is something to report.

    Of trajectories that failed there is no record, and none of other settings is shown; failed
    trials are counted in a report.
    """
    return done > 0 if study.trajectories else any((folder / "records").glob("*.json"))


def _show_errors(errors: tuple[str, ...], console: Console) -> None:
    for error in errors[:ERRORS_SHOWN]:
        console.print(f"failed: {error}", markup=False)
    if len(errors) > ERRORS_SHOWN:
        more = len(errors) - ERRORS_SHOWN
        console.print(f"and {more} more; records/*.json have each in full")
