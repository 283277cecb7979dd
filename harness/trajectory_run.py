"""Running a study of trajectories: networks and poisons first, then each purification."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import DataError, UsageError
from harness.core.facts import facts_json
from harness.core.paths import check_writable
from harness.core.spec import PROTOCOL, digest
from harness.core.values import Json
from harness.execution import Executor
from harness.progress import Progress
from harness.run import RunSummary, Services
from harness.run_control import controlled
from harness.run_folder import open_run
from harness.run_sessions import session
from harness.study import StudySpec
from harness.trajectory_plan import Planned, needs_of, plan_trajectories
from harness.trajectory_work import folder_of, follow_trajectory, is_written
from harness.work import make_unit
from harness.workshop import Workshop


def run_trajectories(
    study: StudySpec,
    workshop: Workshop,
    run: Path,
    services: Services,
    *,
    command: str = "",
    limit: int | None = None,
    progress: Progress | None = None,
) -> RunSummary:
    """Make what is missing of a study's trajectories (see :func:`harness.run.run_study`).

    One that is written already is made again only if something it depends on has changed.
    """
    no_limit(study, limit)
    progress = progress or Progress.silent()
    planned = plan_trajectories(study, workshop)
    check_folder(run, study.name)
    missing = [one for one in planned if not is_written(run, one)]
    errors: list[str] = []

    def done() -> int:
        return sum(is_written(run, one) for one in planned)

    progress.note("starting" if missing else "every trajectory of this run is written already")
    with progress, services(bool(missing)) as (executor, sink):
        if executor is not None:
            workshop.store.check_nodes(executor, {"run folder": run})
        open_run(run, _described(study, planned, command))
        if executor is not None:
            with controlled(run), session(run, executor.where(), done):
                _make(missing, study, workshop, run, executor, progress, errors)
        if sink is not None:
            for one in planned:
                if is_written(run, one):
                    sink.log_trajectory(folder_of(run, one.spec.name))
    finished = done()
    return RunSummary(run, len(planned), finished, len(planned) - finished, tuple(errors))


def _make(
    missing: Sequence[Planned],
    study: StudySpec,
    workshop: Workshop,
    run: Path,
    executor: Executor,
    progress: Progress,
    errors: list[str],
) -> None:
    common = workshop.for_workers()
    unmeasured = [one for one in missing if not workshop.store.has(one.key)]
    needs = {one.identity: needs_of((one,), workshop) for one in unmeasured}
    wanted = [n for n in needs_of(tuple(unmeasured), workshop) if not workshop.store.has(n.key)]
    lost: dict[str, str] = {}
    progress.start("artefacts", len(wanted))
    for stage in ("networks", "poisons"):
        ready = [need for need in wanted if need.stage == stage]
        payloads = [{**common, **need.payload} for need in ready]
        for done in executor.units(make_unit, payloads, study.resources):
            need, first = ready[done.index], done.error.partition("\n")[0]
            progress.advance(f"{need.stage}: {need.label} {first and 'FAILED'}", done.seconds)
            if first:
                lost[digest(need.key)] = first
                errors.append(f"{need.label}: {first}")
    going = [
        one for one in missing
        if not any(digest(need.key) in lost for need in needs.get(one.identity, ()))
    ]  # fmt: skip
    progress.start("trajectories", len(going))
    payloads = [{**common, "run": str(run), "trajectory": one.spec.to_json()} for one in going]
    for done in executor.units(follow_trajectory, payloads, study.resources):
        name, first = going[done.index].spec.name, done.error.partition("\n")[0]
        progress.advance(f"{name} FAILED: {first}" if first else name, done.seconds)
        if first:
            errors.append(f"{name}: {first}")


def _described(study: StudySpec, planned: Sequence[Planned], command: str) -> dict[str, Json]:
    return {
        "name": study.name,
        "title": study.title,
        "study": study.raw,
        "overrides": list(study.overrides),
        "command": command,
        "partial": False,
        "protocol": PROTOCOL,
        "components": facts_json(named for one in planned for named in one.spec.components()),
        "trajectories": [{"name": one.spec.name, "key": one.identity} for one in planned],
    }


def no_limit(study: StudySpec, limit: int | None) -> None:
    """Refuse to follow only some trajectories, as ``--limit`` runs only some trials."""
    if limit is not None:
        raise UsageError(
            f"--limit counts trials, and study {study.name!r} has none; "
            "--set trajectories.0.count=N takes fewer images."
        )


def check_folder(run: Path, name: str) -> None:
    """Check that a study's trajectories can be kept in a folder; write nothing.

    Raises:
        UsageError: If the folder cannot be written, or holds a run of another study.
    """
    check_writable(run, "run folder")
    path = run / "study.json"
    if not path.exists():
        return
    try:
        earlier = json.loads(path.read_text())
        other = "" if "trajectories" in earlier else "a study with trials"
        if not other and earlier["name"] != name:
            other = f"study {earlier['name']!r}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{str(path)!r} is damaged: {error}; give another --out.") from error
    if other:
        raise UsageError(f"{str(run)!r} holds a run of {other}. Give another --out.")
