"""Links into MLflow's pages: the runs of a study, and its rows side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from harness.tracking_store import search
from harness.tracking_view import view_key

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

COMPARED = 100  # runs in one link to the page that compares; more make no readable figure


@dataclass(frozen=True)
class Study:
    """A run of a study, as a store has it.

    Attributes:
        name: Of the study and of the run's folder.
        folder: Of the run.
        experiment: Id.
        rows: Ids of the runs of its main table, in its order: those with an attack.
        clean: The same of those without one.
        trials: Ids of the runs of its trials, where there are no rows yet.
        view: Name of the view that shows its rows, or "" without them.
    """

    name: str
    folder: str
    experiment: str
    rows: tuple[str, ...]
    clean: tuple[str, ...]
    trials: tuple[str, ...] = ()
    view: str = ""

    def links(self, base: str) -> dict[str, str]:
        """Return the pages that show it, by what they are.

        Args:
            base: Address of the server, without a slash at its end.
        """
        # Without this word MLflow 3 may open its page for language models, which has no runs.
        page = f"{base}/#/experiments/{self.experiment}/runs?workflowType=machine_learning"
        found = {"study": page}
        if self.view:
            rows = f"{page}&viewStateShareKey={self.view}"
            found = {"study": rows, "charts": f"{rows}&compareRunsMode=CHART", "every run": page}
        # MLflow draws the numbers that all runs have: one without an attack would hide the success.
        groups = {"compare": self.rows, "compare without attack": self.clean}
        if not self.rows:
            groups = {"compare": self.clean or self.trials}
        for name, runs in groups.items():
            for part, ids in _parts(runs):
                found[f"{name}{part}"] = compare_url(base, self.experiment, ids)
        return found


def _parts(runs: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield so many runs as a page can show, and which they are where it is not all."""
    for first in range(0, len(runs), COMPARED):
        ids = runs[first : first + COMPARED]
        part = f" {first + 1}-{first + len(ids)} of {len(runs)}"
        yield part if len(runs) > COMPARED else "", ids


def compare_url(base: str, experiment: str, runs: Sequence[str]) -> str:
    """Return the page that compares runs."""
    ids, experiments = (quote(json.dumps(part)) for part in (list(runs), [experiment]))
    return f"{base}/#/compare-runs?runs={ids}&experiments={experiments}"


def studies_in(client: MlflowClient, folder: Path | None = None) -> list[Study]:
    """Return the runs of studies in a store, the newest first.

    Args:
        client: Of the store.
        folder: Of the one that is wanted; None for all.
    """
    experiments = [e.experiment_id for e in _experiments(client)]
    query = "tags.`puregen.kind` = 'study'"
    found = [(r, r.data.tags.get("puregen.run", "")) for r in search(client, experiments, query)]
    found = [(run, place) for run, place in found if folder is None or place == str(folder)]
    return [
        study_of(client, r.info.run_name, place, r.info.experiment_id, r.info.run_id)
        for r, place in found
    ]


def study_of(client: MlflowClient, name: str, folder: str, experiment: str, parent: str) -> Study:
    """Return one run of a study with the runs that belong to it."""
    rows = search(client, [experiment], f"tags.`puregen.study_run` = '{parent}'")
    logged = [run for run in rows if "puregen.record" in run.data.tags]
    logged.sort(key=lambda run: int(run.data.tags["puregen.row"]))
    trials = []
    if not logged:  # a run that was stopped, or is of a version that logged no rows
        found = search(client, [experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
        trials = [run.info.run_id for run in found if run.info.status == "FINISHED"]
    groups: dict[bool, list[str]] = {True: [], False: []}
    for run in logged:
        groups[run.data.params.get("attack") != "none"].append(run.info.run_id)
    view = view_key(parent) if logged else ""
    with_attack, clean = tuple(groups[True]), tuple(groups[False])
    return Study(name, folder, experiment, with_attack, clean, tuple(trials), view)


def _experiments(client: MlflowClient) -> list[Experiment]:
    found: list[Experiment] = []
    token = None
    while True:
        page = client.search_experiments(page_token=token)
        found += page
        token = page.token
        if not token:
            return found
