"""How MLflow's page of runs opens for a study: its table's columns, and its charts.

The page reads this from a tag of the experiment, as its own menu "Share view" writes it. A version
that knows another form says that the view is not there, and shows every run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from harness.tracking_summary import SummaryRun

SUCCESS, ACCURACY = "poison_success", "natural_accuracy"
COST = ("seconds_purify", "seconds_train")
AXES = 3  # parameters beside attack and defense; more cannot be read in one figure


def view_key(parent: str) -> str:
    """Return the name of a study's view, by the id of its run."""
    return f"puregen-{parent[:12]}"


def share_view(
    client: MlflowClient, experiment: str, parent: str, rows: Sequence[SummaryRun]
) -> None:
    """Let the page of runs open with the rows of a study, its numbers and its charts."""
    text = json.dumps(view_of(parent, rows))
    client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{view_key(parent)}", text)


def view_of(parent: str, rows: Sequence[SummaryRun]) -> dict[str, Any]:
    """Return the state of the page: filter, columns and charts."""
    varied = varied_params(rows)
    ends = [name + end for name in (ACCURACY, SUCCESS) for end in ("", "_low", "_high")]
    columns = [f"params.`{name}`" for name in varied]
    columns += [f"metrics.`{name}`" for name in (*ends, *COST, "trials")]
    section = "puregen"
    charts = [
        {"uuid": f"{section}-{index}", "metricSectionId": section, "runsCountToCompare": 100,
         "deleted": False, "isGenerated": False, **card}
        for index, card in enumerate(_charts(varied))
    ]  # fmt: skip
    return {
        "searchFilter": f"tags.`puregen.study_run` = '{parent}'",
        "selectedColumns": [*columns, "tags.`puregen.flags`"],
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": section, "name": "Defenses", "display": True, "isReordered": False,
             "deleted": False, "isGenerated": False}
        ],
        "runsHiddenMode": "SHOW_ALL",
    }  # fmt: skip


def varied_params(rows: Sequence[SummaryRun]) -> list[str]:
    """Return the parameters worth an axis: attack, defense, and the numbers in which these differ.

    Of the numbers, those with the most values come first: ``defense.steps`` of a sweep.
    """
    values: dict[str, set[str]] = {}
    for row in rows:
        for name, text in row.params.items():
            values.setdefault(name, set()).add(text)
    roles = [name for name in ("attack", "defense") if name in values]
    numbers = [
        name
        for name, texts in values.items()
        if len(texts) > 1
        and name.startswith(("attack.", "defense.", "classifier."))
        and all(map(_is_number, texts))
    ]
    return roles + sorted(numbers, key=lambda name: -len(values[name]))[:AXES]


def _charts(varied: Sequence[str]) -> Iterator[dict[str, Any]]:
    def axis(name: str) -> dict[str, str]:
        return {"key": name, "type": "METRIC"}

    for across in (ACCURACY, COST[0]):
        yield {"type": "SCATTER", "xaxis": axis(across), "yaxis": axis(SUCCESS)}
    for name in (SUCCESS, ACCURACY):
        yield {"type": "BAR", "metricKey": name}
    metrics = [COST[0], ACCURACY, SUCCESS]
    yield {"type": "PARALLEL", "selectedParams": list(varied), "selectedMetrics": metrics}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
