"""What trials were given, as MLflow knows it: datasets as inputs, generators as model versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.records import TrialRecord
from harness.core.spec import digest
from harness.core.values import Json

if TYPE_CHECKING:
    from mlflow import MlflowClient

DIGEST = "puregen.digest"  # tag of a model version: what a study's identity has of the weights


def image_digests(run_folder: Path) -> dict[str, str]:
    """Return what a run's ``study.json`` has of the images of each dataset, by its label.

    Empty where there is none yet: it is written before the first trial of a run.
    """
    try:
        inputs = json.loads((run_folder / "study.json").read_text())["inputs"]
        kinds = [(*name.partition(" "), text) for name, text in inputs.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {label: str(text) for kind, _, label, text in kinds if kind == "dataset"}


def log_dataset(
    client: MlflowClient, run: str, record: TrialRecord, images: Mapping[str, str]
) -> None:
    """Log the training set of a trial, so that MLflow's pages list and filter by it.

    Args:
        client: Of the store.
        run: Id.
        record: Of the trial.
        images: Digests of the images by label: a path does not tell when the file behind it
            becomes another one. A dataset that is not in it has the hash of its spec, marked so.
    """
    spec: dict[str, Json] = record.spec["dataset"]
    label = record.labels.get("dataset") or str(spec["name"])
    profile = {"train_rows": record.train_rows, "test_rows": record.test_rows}
    content = images.get(label) or f"spec-{digest(spec)}"
    _log_input(client, run, label, content, spec, "training", json.dumps(profile))


def log_followed_dataset(client: MlflowClient, run: str, note: Mapping[str, Json]) -> None:
    """Log the dataset whose images a trajectory follows, with the digest of its images.

    Args:
        client: Of the store.
        run: Id.
        note: What was written of the trajectory.
    """
    spec = note["spec"]["dataset"]
    _log_input(client, run, str(spec["name"]), note["identities"]["dataset"], spec, "evaluation")


def _log_input(
    client: MlflowClient,
    run: str,
    name: str,
    content: str,
    spec: Mapping[str, Json],
    context: str,
    profile: str | None = None,
) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=name,
        digest=content[:32],
        source_type="puregen-bench",
        source=json.dumps(spec),
        profile=profile,
    )
    tag = InputTag("mlflow.data.context", context)
    client.log_inputs(run, [DatasetInput(dataset, [tag])])


def register_generator(
    client: MlflowClient, run: str, path: Path, description: dict[str, Json]
) -> str:
    """Register trained weights as a version of the model ``puregen-KIND``, once, and name it.

    The files are logged with the study's run, which is then the version's source. MLflow's own
    link from a run to a model is to a "logged model", which is no version of a registered one and
    would hold the files a second time; so trials are tagged with the name.

    Args:
        client: Of the store.
        run: The study's.
        path: Folder or weights file.
        description: What :func:`harness.generator_tools.describe_generator` says of it.

    Returns:
        Model and version: ``puregen-ebm/3``.
    """
    from mlflow.exceptions import MlflowException

    name, content = f"puregen-{description['kind']}", str(description["digest"])
    try:
        client.create_registered_model(name, description="Generators that purify training images.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for known in client.search_model_versions(f"name='{name}'"):
        if known.tags.get(DIGEST) == content:
            return f"{name}/{known.version}"
    folder = f"generators/{content[:12]}"
    log = client.log_artifact if path.is_file() else client.log_artifacts
    log(run, str(path), folder)
    source = f"{client.get_run(run).info.artifact_uri}/{folder}"
    made = json.dumps(description.get("trained") or description["config"], indent=1)
    said = {key: description[key] for key in ("dataset", "parameters", "bytes")}
    new = client.create_model_version(
        name,
        source,
        run_id=run,
        tags={DIGEST: content, **{key: str(value) for key, value in said.items()}},
        description=made[:4000],
    )
    return f"{name}/{new.version}"
