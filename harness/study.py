"""Study files: YAML with names, parameters and lists of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.core.errors import UnknownComponent, UsageError, nearest
from harness.core.params import ComponentSpec
from harness.core.paths import check_name
from harness.core.spec import digest
from harness.core.values import Json, reject_unknown
from harness.core.yaml_text import read_yaml
from harness.labels import labels_of
from harness.overrides import set_value, substitute
from harness.search.section import Search, read_search
from harness.study_crossing import CROSSED, Crossing, read_crossings
from harness.trajectory_spec import TrajectorySpec, read_trajectories

KEYS = {
    "name": "short name; the folder of the run",
    "title": "one line on what the study is for",
    "reproduces": "the published table or figure that it repeats: paper, item, reference",
    "cost": "what it costs, in words, and how that is known",
    "before": "commands that have to run first, a list",
    "vars": "values that ${name} stands for elsewhere in the file",
    **CROSSED,
    "resources": "cpus and gpus of one trial",
    "search": "which parameters of a defense 'puregen-bench search' finds, and how",
    "parts": "a list of crossings, each with keys of its own that win over those beside 'parts'",
    "trajectories": "a list of purifications to follow images through, instead of any trials",
}
# What cannot stand beside trajectories, which say for themselves what they need.
OF_TRIALS = (*(key for key in CROSSED if key != "dataset"), "search", "parts")


@dataclass(frozen=True, slots=True)
class Source:
    """What was published, and a study repeats.

    Attributes:
        paper: Where, for example ``arXiv:2405.18627``.
        item: Which of its tables or figures: ``Table 1``.
        reference: File of its numbers in ``harness/report/published``, or "" for none.
    """

    paper: str
    item: str
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one trial may use: whole CPUs (one thread each), and GPUs, which may be a fraction."""

    cpus: int = 1
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class StudySpec:
    """A study, checked, with every default filled in.

    Attributes:
        parts: Its crossings; most studies are one.
        raw: The study as it was given, after overrides.
        overrides: What the command line changed, as ``key: old → new``.
        labels: Short name of each component, by the hash of its spec.
        reproduces: What it repeats, if anything; this and the next two are for people alone, and
            no trial's identity depends on them.
        cost: What it costs, in words.
        before: Commands that have to run first.
        search: Which parameters of a defense to find, if any; a plain run knows nothing of it.
        trajectories: Images to follow through purifications; a study has these or ``parts``.
    """

    name: str
    title: str
    parts: tuple[Crossing, ...]
    resources: Resources
    raw: dict[str, Json]
    overrides: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    reproduces: Source | None = None
    cost: str = ""
    before: tuple[str, ...] = ()
    search: Search | None = None
    trajectories: tuple[TrajectorySpec, ...] = ()

    @property
    def datasets(self) -> tuple[ComponentSpec, ...]:
        """The datasets of all parts or trajectories, each once; likewise the others."""
        followed = ((one.dataset,) for one in self.trajectories)
        return _once((*(part.datasets for part in self.parts), *followed))

    @property
    def scenarios(self) -> tuple[ComponentSpec, ...]:
        """The scenarios."""
        return _once((part.scenario,) for part in self.parts)

    @property
    def attacks(self) -> tuple[ComponentSpec, ...]:
        """The attacks, without the targets that the study gives them."""
        followed = ((one.attack,) for one in self.trajectories if one.attack)
        return _once((*(part.attacks for part in self.parts), *followed))

    @property
    def defenses(self) -> tuple[ComponentSpec, ...]:
        """The defenses."""
        return _once(part.defenses for part in self.parts)

    @property
    def classifiers(self) -> tuple[ComponentSpec, ...]:
        """The victims' classifiers."""
        return _once(part.classifiers for part in self.parts)


def _once(groups: Iterable[tuple[ComponentSpec, ...]]) -> tuple[ComponentSpec, ...]:
    found = {digest(spec.to_json()): spec for group in groups for spec in group}
    return tuple(found.values())


def read_study(path: Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read and check a study file.

    Args:
        path: YAML file; relative paths in it start from its folder.
        overrides: ``key=value`` with a dotted key (``attacks.0.eps_255=16``), value as YAML. They
            win over the file, which wins over defaults. A path that exists relative to the current
            folder is taken from there.

    Raises:
        UsageError: For anything that cannot be used; nothing has been started by then.
    """
    what = f"study {str(path)!r}"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{what} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} is no text in UTF-8: {error}.") from error
    raw = read_yaml(text, what)
    if not isinstance(raw, dict):
        raise UsageError(f"{what} must be a mapping; got {type(raw).__name__}.")
    raw.setdefault("name", path.stem)
    changed = tuple(set_value(raw, text) for text in overrides)
    try:
        return check_study(substitute(raw), path.parent, changed)
    except UsageError as error:
        raise type(error)(f"{path}: {error}") from None


def check_study(raw: dict[str, Json], base: Path, overrides: tuple[str, ...] = ()) -> StudySpec:
    """Check a study given as plain values (see :func:`read_study`)."""
    for key in raw:
        if key not in KEYS and not key.startswith("x-"):
            raise UnknownComponent(
                f"unknown key {key!r}.{nearest(key, KEYS)} Allowed: {', '.join(KEYS)}."
            )
    name = raw.get("name")
    study = StudySpec(
        name=check_name(name, "name"),
        title=_text(raw.get("title", ""), "title"),
        reproduces=_source(raw.get("reproduces")),
        cost=_text(raw.get("cost", ""), "cost"),
        before=_commands(raw.get("before", [])),
        parts=_crossings(raw, base),
        resources=_resources(raw.get("resources", {})),
        search=read_search(raw, base),
        trajectories=read_trajectories(raw, base) if "trajectories" in raw else (),
        raw=raw,
        overrides=overrides,
    )
    try:
        json.dumps(raw, allow_nan=False)
    except ValueError:
        raise UsageError("the study holds a number that is not finite.") from None
    if study.search is not None and study.search.report:
        _check_report({**raw, **study.search.report}, base)
    for group in (study.datasets, study.attacks, study.defenses, study.scenarios):
        study.labels.update(labels_of(group))
    for scenario in study.scenarios:  # with which a classifier's label stands in every table
        of = (part.classifiers for part in study.parts if part.scenario == scenario)
        study.labels.update(labels_of(_once(of)))
    return study


def only_trials(study: StudySpec) -> None:
    """Refuse a study of trajectories, where trials are wanted.

    Raises:
        UsageError: If the study has no trials, but follows images.
    """
    if study.trajectories:
        raise UsageError(
            f"study {study.name!r} has no trials: it follows images through purifications "
            "(trajectories). Allowed for it: run, validate, plan, describe."
        )


def _crossings(raw: Mapping[str, Json], base: Path) -> tuple[Crossing, ...]:
    if "trajectories" not in raw:
        return read_crossings(raw, base)
    beside = [key for key in OF_TRIALS if key in raw]
    if beside:
        raise UsageError(
            f"trajectories cannot stand beside {', '.join(map(repr, beside))}: a study follows "
            "images, or it has trials."
        )
    return ()


def _check_report(raw: dict[str, Json], base: Path) -> None:
    """Check the targets and seeds on which a search reports what it has found."""
    try:
        check_study({key: value for key, value in raw.items() if key != "search"}, base)
    except UsageError as error:
        raise type(error)(f"search.report: {error}") from None


def _text(value: Json, what: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{what} is text, in quotes if need be; got {value!r}.")
    return value


def _source(value: Json) -> Source | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not {"paper", "item"} <= set(value):
        raise UsageError(
            f"reproduces has a paper and an item, and may have a reference; got {value!r}."
        )
    reject_unknown(dict.fromkeys(("paper", "item", "reference")), value, "reproduces")
    return Source(**{key: _text(text, f"reproduces.{key}") for key, text in value.items()})


def _commands(value: Json) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise UsageError(f"before is a list of commands; got {value!r}.")
    return tuple(_text(command, "before, a list of commands: each") for command in value)


def _resources(value: Json) -> Resources:
    if not isinstance(value, Mapping) or set(value) - {"cpus", "gpus"}:
        raise UsageError(f"resources takes cpus and gpus; got {value!r}.")
    cpus, gpus = value.get("cpus", 1), value.get("gpus", 0)
    if type(cpus) is not int or cpus < 1:
        raise UsageError(f"resources.cpus is a whole number from 1 on; got {cpus!r}.")
    number = isinstance(gpus, int | float) and not isinstance(gpus, bool) and math.isfinite(gpus)
    if not number or gpus < 0:
        raise UsageError(f"resources.gpus is a number from 0 on; got {gpus!r}.")
    if gpus > 1 and gpus != int(gpus):
        raise UsageError(f"resources.gpus above 1 is a whole number; got {gpus!r}.")
    return Resources(cpus, float(gpus))
