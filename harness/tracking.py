"""Trials as MLflow runs: the only code that imports mlflow, and only once a tracker starts."""

from __future__ import annotations

import hashlib
import logging
import shlex
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from harness.core.errors import DataError, UsageError
from harness.core.files import read_arrays
from harness.core.records import TrialRecord
from harness.core.values import Json
from harness.flat_record import curves_of, metrics_of, params_of, run_name, study_tags, tags_of
from harness.local_server import HOST
from harness.sample_grid import sample_grid
from harness.tracking_inputs import image_digests, log_dataset, register_generator
from harness.tracking_links import study_of
from harness.tracking_store import (
    check_uri,
    default_uri,
    first_line,
    key,
    log_batch,
    open_client,
    out_of_reach,
    public,
    search,
    served,
    troubles,
    uri_of,
)
from harness.tracking_trajectories import log_trajectory, note_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

UI_PORT = 5000
GENERATOR = "puregen.generator"  # tag: the model versions that a run used, "puregen-ebm/3"
STAGES = ("clean", "poisoned", "purified")


class Tracker:
    """One study's run in MLflow: a parent run, a child run per trial, and one per row at the end.

    The rows are those of the main table: an attack and a defense, with means and intervals. They
    stand beside the parent, not below it, where MLflow's table would fold them.

    A trial is on disk before it comes here, so trouble with the store loses nothing: it is noted
    (``missed``), and :meth:`sync` logs what lacks.

    Attributes:
        uri: The store: what was given, else ``$MLFLOW_TRACKING_URI``, else a database file beside
            the run's folder, made by the first run there.
        missed: Ids of trials that could not be logged.
    """

    def __init__(self, uri: str | None, study_name: str, run_folder: Path) -> None:
        self.run_folder = run_folder.resolve()
        runs = self.run_folder.parent
        self.uri = uri_of(uri, runs)
        self.missed: set[str] = set()
        self._study_name = study_name
        # A database holds no files, and MLflow would put them into the current folder.
        server = self.uri.startswith(("http", "databricks"))
        self._artifacts = None if server else (runs / "mlartifacts" / study_name).as_uri()
        self._logged: dict[str, tuple[str, str]] = {}  # trial id: run id, digest of the record
        self._study_tags: dict[str, str] = {}
        self._generators: dict[str, set[str]] = {}  # trial id or trajectory: versions
        self._images: dict[str, str] = {}

    def start(self, study: Mapping[str, Json]) -> None:
        """Open the store and create the parent run, or find that of an earlier call.

        Args:
            study: The study as it was given, kept as an artifact.

        Raises:
            UsageError: If the store cannot be used.
        """
        check_uri(self.uri)
        if trouble := out_of_reach(self.uri):
            raise UsageError(
                f"MLflow store {public(self.uri)!r} cannot be reached: {trouble}. Start a server "
                "with 'mlflow server', or give no tracking URI, which keeps runs in a file."
            )
        self._study_tags = study_tags(study)
        try:
            self._client: MlflowClient = open_client(self.uri)
            self._troubles = troubles()
            self._experiment = self._find_experiment()
            self._parent = self._find_parent()
            text = yaml.safe_dump(dict(study), sort_keys=False, allow_unicode=True)
            self._client.log_text(self._parent, text, "study.yaml")
            self._tag_parent(self._study_tags)
            self._logged = self._children()
        except (*troubles(), ImportError) as error:
            raise UsageError(
                f"MLflow store {public(self.uri)!r} cannot be used: {first_line(error)}"
            ) from error

    def log(self, record: TrialRecord, samples: Path | None) -> None:
        """Log a trial, unless this very record is logged already; never raises for the store.

        Args:
            record: Finished or failed.
            samples: Its ``.npz`` with ``clean``, ``poisoned``, ``purified``, if there is one.
        """
        if self.missed and (trouble := out_of_reach(self.uri)):
            self._miss(record.spec_id, trouble)
            return
        try:
            self._log(record, samples)
            self.missed.discard(record.spec_id)
        except self._troubles as error:
            self._miss(record.spec_id, first_line(error))

    def log_trajectory(self, folder: Path) -> None:
        """Log a trajectory, unless it is logged as it is; never raises for the store.

        Args:
            folder: What was written of it.
        """
        name, digest = folder.name, note_digest(folder)
        earlier, its_digest = self._logged.get(name, ("", ""))
        if its_digest == digest:
            return
        try:
            if earlier:  # of other settings
                self._client.delete_run(earlier)
            tags = self._study_tags | self._generator_tag([name])
            run = log_trajectory(self._client, self._experiment, self._parent, folder, tags)
            self._logged[name] = run, digest
            self.missed.discard(name)
        except self._troubles as error:
            self._miss(name, first_line(error))

    def tag(self, spec_id: str, name: str, value: str) -> None:
        """Note something on a trial that is logged; never raises for the store."""
        run = self._logged.get(spec_id, ("", ""))[0]
        if not run or spec_id in self.missed:
            return
        try:
            self._client.set_tag(run, key(name), value)
        except self._troubles as error:
            logger.warning("MLflow takes no tag: %s", first_line(error))

    def sync(self, run_folder: Path) -> None:
        """Log each record and trajectory of a run's folder that is not logged yet."""
        try:
            self._logged = self._children()
        except self._troubles as error:
            logger.warning("MLflow cannot be asked what it has: %s", first_line(error))
            return
        for path in sorted((run_folder / "records").glob("*.json")):
            try:
                record = TrialRecord.read(path)
            except DataError as error:
                logger.warning("%s", error)
                continue
            samples = run_folder / "samples" / f"{record.spec_id}.npz"
            self.log(record, samples if samples.is_file() else None)
        for note in sorted((run_folder / "trajectories").glob("*/trajectory.json")):
            self.log_trajectory(note.parent)

    def register(self, generators: Iterable[tuple[Path, dict[str, Json], Collection[str]]]) -> None:
        """Put generators into the model registry, and tag what used them with versions.

        Never raises for the store.

        Args:
            generators: Path of each, what is known of it, and the ids of the trials, or the
                names of the trajectories, that used it.
        """
        for path, description, trials in generators:
            try:
                version = register_generator(self._client, self._parent, path, description)
            except self._troubles as error:
                logger.warning("MLflow has no model of %s: %s", path, first_line(error))
                continue
            for spec_id in trials:
                self._generators.setdefault(spec_id, set()).add(version)
        for spec_id in self._generators:
            for name, text in self._generator_tag([spec_id]).items():
                self.tag(spec_id, name, text)

    def _generator_tag(self, trials: Iterable[str]) -> dict[str, str]:
        """Return the tag with the model versions that any of these trials used; empty for none."""
        used = {version for trial in trials for version in self._generators.get(trial, ())}
        return {GENERATOR: ", ".join(sorted(used))} if used else {}

    def finish(self, summary_metrics: Mapping[str, float], status: str) -> None:
        """Log the rows of the main table and close the parent run, with the report if there is one.

        Args:
            summary_metrics: Numbers on the study as a whole.
            status: ``FINISHED``, ``FAILED`` or ``KILLED``; a run that was stopped keeps the rows
                that an earlier call has logged.
        """
        if self.missed:
            self.sync(self.run_folder)
        report = self.run_folder / "report"
        try:
            log_batch(self._client, self._parent, _points(summary_metrics), {})
            if report.is_dir():
                self._client.log_artifacts(self._parent, str(report), "report")
            if status != "KILLED":
                self._log_rows()
            self._client.set_terminated(self._parent, status)
        except self._troubles as error:
            logger.warning("MLflow has no end of this study: %s", first_line(error))

    def links(self) -> dict[str, str]:
        """Return where to look: the store, how to show it, and the page that compares the rows."""
        base = public(self.uri).rstrip("/") if served(self.uri) else f"http://{HOST}:{UI_PORT}"
        show = ["puregen-bench", "ui", str(self.run_folder)]
        if self.uri != default_uri(self.run_folder.parent):
            show += ["--tracking-uri", public(self.uri)]
        found = {"store": public(self.uri)}
        if not served(self.uri):
            found["ui"] = shlex.join(show)
        try:
            place = str(self.run_folder)
            study = study_of(self._client, self._study_name, place, self._experiment, self._parent)
        except self._troubles as error:
            logger.warning("MLflow has no links to this study: %s", first_line(error))
            return found
        return found | study.links(base)

    def _log_rows(self) -> None:
        # Tables take seconds to import, and only the end of a run needs them.
        from harness.tracking_summary import joined_tags, log_summaries, summary_runs

        self._tag_parent(self._generator_tag(self._generators))
        try:
            rows = summary_runs(self.run_folder, self._generator_tag)
        except UsageError:  # no trial has a record
            return
        log_summaries(
            self._client, self._experiment, self._parent, rows, self._study_tags, self._log_dataset
        )
        self._tag_parent(joined_tags(row.trial for row in rows))

    def _log_dataset(self, run: str, record: TrialRecord) -> None:
        self._images = self._images or image_digests(self.run_folder)
        log_dataset(self._client, run, record, self._images)

    def _tag_parent(self, tags: Mapping[str, str]) -> None:
        for name, text in tags.items():
            self._client.set_tag(self._parent, name, text)

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._study_name)
        if found is None:
            return str(self._client.create_experiment(self._study_name, self._artifacts))
        if found.lifecycle_stage == "deleted":  # its name stays taken
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _find_parent(self) -> str:
        place = str(self.run_folder)
        for run in search(self._client, [self._experiment], "tags.`puregen.kind` = 'study'"):
            if run.data.tags["puregen.run"] == place:
                self._client.update_run(run.info.run_id, status="RUNNING")
                return str(run.info.run_id)
        run = self._client.create_run(
            self._experiment,
            run_name=f"{self._study_name} · {self.run_folder.name}",
            tags={"puregen.kind": "study", "puregen.run": place},
        )
        return str(run.info.run_id)

    def _children(self) -> dict[str, tuple[str, str]]:
        """Return run and digest of each trial logged, and delete those logged only in part."""
        found: dict[str, tuple[str, str]] = {}
        query = f"tags.`mlflow.parentRunId` = '{self._parent}'"
        for run in search(self._client, [self._experiment], query):
            spec_id, digest = (run.data.tags.get(f"puregen.{k}", "") for k in ("spec_id", "record"))
            if digest and run.info.status != "RUNNING" and spec_id not in found:
                found[spec_id] = run.info.run_id, digest
            else:
                self._client.delete_run(run.info.run_id)
        return found

    def _log(self, record: TrialRecord, samples: Path | None) -> None:
        text = record.to_json()
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        earlier, its_digest = self._logged.get(record.spec_id, ("", ""))
        if its_digest == digest:
            return
        if earlier:  # it failed, and was run again
            self._client.delete_run(earlier)
        seconds = sum(stage.seconds for stage in record.stages.values() if not stage.reused)
        tags = {
            "mlflow.parentRunId": self._parent,
            "puregen.kind": "trial",
            "puregen.spec_id": record.spec_id,
            "puregen.goal": record.goal,
            "puregen.partial": str(record.partial).lower(),
            **tags_of(record),
            **self._generator_tag([record.spec_id]),
            **self._study_tags,
        }
        run = self._client.create_run(
            self._experiment,
            start_time=int(1000 * (time.time() - seconds)),
            tags=tags,
            run_name=run_name(record),
        ).info.run_id
        self._logged[record.spec_id] = run, ""
        points = [*_points(metrics_of(record)), *curves_of(record)]
        log_batch(self._client, run, points, params_of(record))
        self._log_dataset(run, record)
        self._client.log_text(run, text, "record.json")
        if record.error:
            self._client.log_text(run, record.error, "error.txt")
        if samples is not None:
            self._log_samples(run, samples)
        self._client.set_tag(run, "puregen.record", digest)
        self._client.set_terminated(run, "FINISHED" if record.status == "ok" else "FAILED")
        self._logged[record.spec_id] = run, digest

    def _log_samples(self, run: str, path: Path) -> None:
        try:
            arrays = read_arrays(path)
            picture = sample_grid({stage: arrays[stage] for stage in STAGES if stage in arrays})
        except DataError as error:
            logger.warning("no picture of %s: %s", path.name, error)
            return
        self._client.log_image(run, picture, artifact_file="samples.png")

    def _miss(self, spec_id: str, why: str) -> None:
        if not self.missed:
            logger.warning("MLflow takes no runs, which stay on disk until it does: %s", why)
        self.missed.add(spec_id)


def _points(metrics: Mapping[str, float]) -> Iterator[tuple[str, int, float]]:
    return ((name, 0, value) for name, value in metrics.items())
