"""MLflow's store: where it is, whether it can be used, and what it takes at once."""

from __future__ import annotations

import logging
import os
import re
import socket
import sqlite3
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from harness.core.errors import UsageError, nearest
from harness.core.spec import digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
REACH_SECONDS = 5.0
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that goes away costs seconds, not minutes, per trial; sync() catches up.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def uri_of(given: str | None, runs: Path) -> str:
    """Return the store: what was given, else ``$MLFLOW_TRACKING_URI``, else a file in ``runs``."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(runs)


def default_uri(runs: Path) -> str:
    """Return the store that a folder of runs has where none is named."""
    return f"sqlite:///{runs / 'mlflow.db'}"


def check_uri(uri: str) -> None:
    """Refuse a scheme that MLflow has no store for; a path is left to MLflow's own message.

    Raises:
        UsageError: If the scheme is none of :data:`SCHEMES`.
    """
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme and scheme != "file" and scheme not in SCHEMES:
        raise UsageError(
            f"tracking URI {public(uri)!r} has the scheme {scheme!r}.{nearest(scheme, SCHEMES)} "
            f"Allowed: {', '.join(SCHEMES)}; for example sqlite:////absolute/path/mlflow.db."
        )


def out_of_reach(uri: str) -> str:
    """Return why a server or a database file cannot be opened, or "": MLflow tries for minutes."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    try:
        if path := database_file(uri):
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA schema_version")
        elif scheme in PORTS:
            address = parts.hostname or "", parts.port or PORTS[scheme]
            socket.create_connection(address, REACH_SECONDS).close()
    except (OSError, OverflowError, ValueError, sqlite3.Error) as error:
        return str(error)
    return ""


def database_file(uri: str) -> Path | None:
    """Return the file of a store that is a database in one."""
    parts = urlsplit(uri)
    if parts.scheme.partition("+")[0] != "sqlite" or len(parts.path) <= 1:
        return None
    return Path(parts.path[1:])  # after three slashes: relative, or absolute with a fourth


def served(uri: str) -> bool:
    """Whether a store is a server, which has pages of its own."""
    return uri.startswith(("http:", "https:"))


def troubles() -> tuple[type[Exception], type[Exception], type[OSError]]:
    """Return the errors by which a store may fail; only once MLflow may be imported."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError


def open_client(uri: str) -> MlflowClient:
    """Import MLflow, make it silent, and open a store."""
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
    from mlflow import MlflowClient
    from sqlalchemy.exc import SADeprecationWarning

    for name in ("mlflow", "alembic"):  # after the import, which sets them itself
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore", SADeprecationWarning)  # MLflow's to heed, not our users'
    if not (path := database_file(uri)):
        return MlflowClient(tracking_uri=uri)
    with ExitStack() as stack:
        # Two processes that make a new file's tables at once fail, both of them.
        with suppress(OSError):  # in a folder that is not ours to write in, they are there already
            stack.enter_context(FileLock(path.with_name(f"{path.name}.lock")))
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)  # makes them
    return client


def search(client: MlflowClient, experiments: Sequence[str], query: str) -> Iterator[Run]:
    """Yield every run that a query finds, the newest first."""
    token = None
    while experiments:
        page = client.search_runs(list(experiments), query, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def log_batch(
    client: MlflowClient,
    run: str,
    points: Iterable[tuple[str, int, float]],
    params: Mapping[str, str],
) -> None:
    """Log everything at once, as far as MLflow's limits of a batch allow.

    Args:
        client: Of the store.
        run: Id.
        points: Name, step and value.
        params: By name; a value is cut where it is longer than MLflow takes.
    """
    from mlflow.entities import Metric, Param
    from mlflow.utils.validation import (
        MAX_ENTITIES_PER_BATCH,
        MAX_PARAM_VAL_LENGTH,
        MAX_PARAMS_TAGS_PER_BATCH,
    )

    now = int(1000 * time.time())
    metrics = [Metric(key(name), value, now, step) for name, step, value in points]
    named = {key(name): text[:MAX_PARAM_VAL_LENGTH] for name, text in params.items()}
    rest = [Param(name, text) for name, text in named.items()]
    while metrics or rest:
        some, rest = rest[:MAX_PARAMS_TAGS_PER_BATCH], rest[MAX_PARAMS_TAGS_PER_BATCH:]
        space = MAX_ENTITIES_PER_BATCH - len(some)
        client.log_batch(run, metrics=metrics[:space], params=some)
        metrics = metrics[space:]


def key(name: str) -> str:
    """Return a name with the characters that MLflow allows in names, and no longer than it takes.

    What is cut ends in a hash, so that two long names that begin alike stay two.

    >>> key("best=loss"), len(key("a" * 300))
    ('best_loss', 250)
    """
    clean = re.sub(r"[^\w\-. :]", "_", name)
    longest = 250  # MLflow's MAX_ENTITY_KEY_LENGTH, which its own import would cost seconds
    return clean if len(clean) <= longest else f"{clean[: longest - 9]}-{digest(name)[:8]}"


def public(uri: str) -> str:
    """Return the URI without its password."""
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@") if password else uri


def first_line(error: BaseException) -> str:
    """Return what an error says in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)
