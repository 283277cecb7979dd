"""Trials as MLflow runs: the only code that imports mlflow, and only once a tracker starts."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shlex
import socket
import sqlite3
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import yaml

from harness.core.errors import DataError, UsageError, nearest
from harness.core.files import read_arrays
from harness.core.records import TrialRecord
from harness.core.values import Json
from harness.flat_record import curves_of, metrics_of, params_of, run_name
from harness.sample_grid import sample_grid
from harness.tracking_inputs import log_dataset, register_generator

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
REACH_SECONDS = 5.0
UI_PORT = 5000
COMPARED = 100  # runs in the link to the page that compares; more make no readable figure
STAGES = ("clean", "poisoned", "purified")
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that goes away costs seconds, not minutes, per trial; sync() catches up.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class Tracker:
    """One study's run in MLflow: a parent run, and a child run per trial.

    A trial is on disk before it comes here, so trouble with the store loses nothing: it is noted
    (``missed``), and :meth:`sync` logs what lacks.

    Attributes:
        uri: The store: what was given, else ``$MLFLOW_TRACKING_URI``, else a database file beside
            the run's folder, made by the first run there.
        missed: Ids of trials that could not be logged.
    """

    def __init__(self, uri: str | None, study_name: str, run_folder: Path) -> None:
        self.run_folder = run_folder.resolve()
        given = uri or os.environ.get("MLFLOW_TRACKING_URI")
        runs = self.run_folder.parent
        self.uri = given or f"sqlite:///{runs / 'mlflow.db'}"
        self.missed: set[str] = set()
        self._study_name = study_name
        # A database holds no files, and MLflow would put them into the current folder.
        server = self.uri.startswith(("http", "databricks"))
        self._artifacts = None if server else (runs / "mlartifacts" / study_name).as_uri()
        self._logged: dict[str, tuple[str, str]] = {}  # trial id: run id, digest of the record

    def start(self, study: Mapping[str, Json]) -> None:
        """Open the store and create the parent run, or find that of an earlier call.

        Args:
            study: The study as it was given, kept as an artifact.

        Raises:
            UsageError: If the store cannot be used.
        """
        _check_uri(self.uri)
        if trouble := _out_of_reach(self.uri):
            raise UsageError(
                f"MLflow store {_public(self.uri)!r} cannot be reached: {trouble}. Start a server "
                "with 'mlflow server', or give no tracking URI, which keeps runs in a file."
            )
        os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SADeprecationWarning, SQLAlchemyError

        for name in ("mlflow", "alembic"):  # after the import, which sets them itself
            logging.getLogger(name).setLevel(logging.ERROR)
        warnings.simplefilter("ignore", SADeprecationWarning)  # MLflow's to heed, not our users'
        self._troubles = (MlflowException, SQLAlchemyError, OSError)
        try:
            self._client: MlflowClient = MlflowClient(tracking_uri=self.uri)
            self._experiment = self._find_experiment()
            self._parent = self._find_parent()
            text = yaml.safe_dump(dict(study), sort_keys=False, allow_unicode=True)
            self._client.log_text(self._parent, text, "study.yaml")
            self._logged = self._children()
        except (*self._troubles, ImportError) as error:
            raise UsageError(
                f"MLflow store {_public(self.uri)!r} cannot be used: {_first_line(error)}"
            ) from error

    def log(self, record: TrialRecord, samples: Path | None) -> None:
        """Log a trial, unless this very record is logged already; never raises for the store.

        Args:
            record: Finished or failed.
            samples: Its ``.npz`` with ``clean``, ``poisoned``, ``purified``, if there is one.
        """
        if self.missed and (trouble := _out_of_reach(self.uri)):
            self._miss(record.spec_id, trouble)
            return
        try:
            self._log(record, samples)
            self.missed.discard(record.spec_id)
        except self._troubles as error:
            self._miss(record.spec_id, _first_line(error))

    def tag(self, spec_id: str, name: str, value: str) -> None:
        """Note something on a trial that is logged; never raises for the store."""
        run = self._logged.get(spec_id, ("", ""))[0]
        if not run or spec_id in self.missed:
            return
        try:
            self._client.set_tag(run, _key(name), value)
        except self._troubles as error:
            logger.warning("MLflow takes no tag: %s", _first_line(error))

    def sync(self, run_folder: Path) -> None:
        """Log each record of a run's folder that is not logged yet."""
        try:
            self._logged = self._children()
        except self._troubles as error:
            logger.warning("MLflow cannot be asked what it has: %s", _first_line(error))
            return
        for path in sorted((run_folder / "records").glob("*.json")):
            try:
                record = TrialRecord.read(path)
            except DataError as error:
                logger.warning("%s", error)
                continue
            samples = run_folder / "samples" / f"{record.spec_id}.npz"
            self.log(record, samples if samples.is_file() else None)

    def register(self, generators: Iterable[tuple[Path, dict[str, Json]]]) -> None:
        """Put generators into the model registry; never raises for the store.

        Args:
            generators: Path of each, and what is known of it.
        """
        for path, description in generators:
            try:
                register_generator(self._client, self._parent, path, description)
            except self._troubles as error:
                logger.warning("MLflow has no model of %s: %s", path, _first_line(error))

    def finish(self, summary_metrics: Mapping[str, float], status: str) -> None:
        """Close the parent run, with the report of the run's folder if there is one.

        Args:
            summary_metrics: Numbers on the study as a whole.
            status: ``FINISHED``, ``FAILED`` or ``KILLED``.
        """
        if self.missed:
            self.sync(self.run_folder)
        report = self.run_folder / "report"
        try:
            self._log_batch(self._parent, list(_points(summary_metrics)), {})
            if report.is_dir():
                self._client.log_artifacts(self._parent, str(report), "report")
            self._client.set_terminated(self._parent, status)
        except self._troubles as error:
            logger.warning("MLflow has no end of this study: %s", _first_line(error))

    def links(self) -> dict[str, str]:
        """Return where to look: the store, how to show it, and the page that compares trials."""
        remote = self.uri.startswith("http")
        base = _public(self.uri).rstrip("/") if remote else f"http://127.0.0.1:{UI_PORT}"
        ui = ("mlflow", "ui", "--backend-store-uri", _public(self.uri), "--host", "127.0.0.1")
        runs = [run for run, digest in self._logged.values() if digest][:COMPARED]
        pair = [quote(json.dumps(ids)) for ids in (runs, [self._experiment])]
        return {
            "store": _public(self.uri),
            **({} if remote else {"ui": shlex.join([*ui, "--port", str(UI_PORT)])}),
            # Without this word MLflow 3 may open its page for language models, which has no runs.
            "study": f"{base}/#/experiments/{self._experiment}/runs?workflowType=machine_learning",
            "compare": f"{base}/#/compare-runs?runs={pair[0]}&experiments={pair[1]}",
        }

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._study_name)
        if found is None:
            return str(self._client.create_experiment(self._study_name, self._artifacts))
        if found.lifecycle_stage == "deleted":  # its name stays taken
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _find_parent(self) -> str:
        place = str(self.run_folder)
        for run in self._search("tags.`puregen.kind` = 'study'"):
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
        for run in self._search(f"tags.`mlflow.parentRunId` = '{self._parent}'"):
            spec_id, digest = (run.data.tags.get(f"puregen.{k}", "") for k in ("spec_id", "record"))
            if digest and run.info.status != "RUNNING" and spec_id not in found:
                found[spec_id] = run.info.run_id, digest
            else:
                self._client.delete_run(run.info.run_id)
        return found

    def _search(self, query: str) -> Iterator[Run]:
        token = None
        while True:
            page = self._client.search_runs([self._experiment], query, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

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
            **{f"puregen.{role}": label for role, label in record.labels.items()},
        }
        run = self._client.create_run(
            self._experiment,
            start_time=int(1000 * (time.time() - seconds)),
            tags=tags,
            run_name=run_name(record),
        ).info.run_id
        self._logged[record.spec_id] = run, ""
        points = [*_points(metrics_of(record)), *curves_of(record)]
        self._log_batch(run, points, params_of(record))
        log_dataset(self._client, run, record)
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

    def _log_batch(
        self, run: str, points: list[tuple[str, int, float]], params: Mapping[str, str]
    ) -> None:
        """Log everything at once, as far as MLflow's limits of a batch allow."""
        from mlflow.entities import Metric, Param
        from mlflow.utils.validation import (
            MAX_ENTITIES_PER_BATCH,
            MAX_PARAM_VAL_LENGTH,
            MAX_PARAMS_TAGS_PER_BATCH,
        )

        now = int(1000 * time.time())
        metrics = [Metric(_key(name), value, now, step) for name, step, value in points]
        rest = [Param(_key(name), text[:MAX_PARAM_VAL_LENGTH]) for name, text in params.items()]
        while metrics or rest:
            some, rest = rest[:MAX_PARAMS_TAGS_PER_BATCH], rest[MAX_PARAMS_TAGS_PER_BATCH:]
            space = MAX_ENTITIES_PER_BATCH - len(some)
            self._client.log_batch(run, metrics=metrics[:space], params=some)
            metrics = metrics[space:]

    def _miss(self, spec_id: str, why: str) -> None:
        if not self.missed:
            logger.warning("MLflow takes no runs, which stay on disk until it does: %s", why)
        self.missed.add(spec_id)


def _check_uri(uri: str) -> None:
    """Refuse a scheme that MLflow has no store for; a path is left to MLflow's own message."""
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme and scheme != "file" and scheme not in SCHEMES:
        raise UsageError(
            f"tracking URI {_public(uri)!r} has the scheme {scheme!r}.{nearest(scheme, SCHEMES)} "
            f"Allowed: {', '.join(SCHEMES)}; for example sqlite:////absolute/path/mlflow.db."
        )


def _out_of_reach(uri: str) -> str:
    """Return why a server or a database file cannot be opened, or "": MLflow tries for minutes."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    try:
        if scheme == "sqlite" and len(parts.path) > 1:
            path = Path(parts.path[1:])  # after three slashes: relative, or absolute with a fourth
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA schema_version")
        elif scheme in PORTS:
            address = parts.hostname or "", parts.port or PORTS[scheme]
            socket.create_connection(address, REACH_SECONDS).close()
    except (OSError, OverflowError, ValueError, sqlite3.Error) as error:
        return str(error)
    return ""


def _points(metrics: Mapping[str, float]) -> Iterator[tuple[str, int, float]]:
    return ((name, 0, value) for name, value in metrics.items())


def _key(name: str) -> str:
    """Return a name with the characters that MLflow allows in names."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _public(uri: str) -> str:
    """Return the URI without its password."""
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@") if password else uri


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
