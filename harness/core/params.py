"""From a study's plain values to components with typed parameters.

A parameter whose type is a *resource* is written in a study as a reference, and is loaded, trained
or taken from the store only where it is needed:

==================  ===============================================================================
type                reference
==================  ===============================================================================
``ImageSet``        ``{name: DATASET, …}``: the training rows of a dataset
``Predictor``       ``{name: CLASSIFIER, …, dataset: {…}, seed: 0}``: a classifier trained on it
a generator         ``{path: FOLDER}``, or ``{name: GENERATOR, …, dataset: {…}, seed: 0}``
==================  ===============================================================================

A dataset takes the further keys ``train_per_class`` and ``test_per_class``: the first so many rows
of each class.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.core.data import ImageSet
from harness.core.errors import UnknownComponent, UsageError
from harness.core.protocols import (
    CLASSIFIERS,
    DATASETS,
    GENERATORS,
    Attack,
    Classifier,
    DatasetSource,
    Defense,
    Generator,
)
from harness.core.registry import Entry, Parameter, Registry
from harness.core.values import Json, check_value, is_optional, plain, reject_unknown, typed

ResourceKind = Literal["dataset", "classifier", "generator"]
SUBSET_KEYS = ("train_per_class", "test_per_class")
_CONTRACTS: dict[str, type] = {
    "attack": Attack,
    "defense": Defense,
    "classifier": Classifier,
    "dataset": DatasetSource,
    "generator": Generator,
}


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """A component by name, with every parameter as a plain value, defaults filled in."""

    name: str
    params: dict[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Return the flat form that a study file has too."""
        return {"name": self.name, **self.params}

    @classmethod
    def from_json(cls, raw: Mapping[str, Json]) -> ComponentSpec:
        """Read the flat form back."""
        return cls(raw["name"], {k: v for k, v in raw.items() if k != "name"})

    def with_params(self, **changes: Json) -> ComponentSpec:
        """Return the same component with some parameters replaced."""
        return ComponentSpec(self.name, {**self.params, **changes})


def resource_of(annotation: Any) -> tuple[ResourceKind, type] | None:
    """Return the kind and the type of resource that an annotation asks for, or None."""
    options = typing.get_args(annotation) if is_optional(annotation) else (annotation,)
    for option in options:
        if option is ImageSet:
            return "dataset", option
        kind = getattr(option, "resource_kind", None)
        if kind is not None:
            return kind, option
    return None


def check_offers(kind: str, entry: Entry[Any]) -> None:
    """Raise for a component that lacks something of its kind's contract.

    Raises:
        UsageError: Names what it lacks, and the protocol that says what it is.
    """
    contract = _CONTRACTS[kind]
    wanted = {*vars(contract), *contract.__annotations__}
    lacking = [
        name
        for name in sorted(wanted)
        if not name.startswith("_")
        and not hasattr(entry.factory, name)
        and name not in entry.parameters
    ]
    if lacking:
        raise UsageError(
            f"{kind} {entry.name!r} ({entry.origin}) lacks {', '.join(lacking)}; "
            f"{contract.__module__}.{contract.__name__} says what each is."
        )


def complete(
    registry: Registry[Any],
    raw: Json,
    where: str,
    base: Path | None = None,
    extra: tuple[str, ...] = (),
) -> ComponentSpec:
    """Check a component as a study gives it and fill in its defaults.

    Args:
        registry: Where its name is looked up.
        raw: A name, or a mapping with ``name`` and parameters.
        where: What to call it in messages, for example ``attacks[0]``.
        base: Folder that relative paths start from.
        extra: Further keys that are allowed and left out of the result.

    Raises:
        UsageError: If the name or a parameter is unknown, or a value of another type.
    """
    if isinstance(raw, str):
        raw = {"name": raw}
    if not isinstance(raw, Mapping) or not isinstance(raw.get("name"), str):
        raise UsageError(f"{where} is a name, or a mapping with a name; got {raw!r}.")
    try:
        entry = registry.get(raw["name"])
    except UnknownComponent as error:
        raise UnknownComponent(f"{where}: {error}") from None
    check_offers(registry.kind, entry)
    label = f"{where} ({entry.name})"
    given = {k: v for k, v in raw.items() if k != "name" and k not in extra}
    reject_unknown(dict.fromkeys((*entry.parameters, *extra)), given, label)
    params: dict[str, Json] = {}
    for name, parameter in entry.parameters.items():
        if name in given:
            params[name] = _check(parameter, given[name], f"{label}.{name}", base)
        elif not parameter.required:
            params[name] = plain(parameter.default)
    return ComponentSpec(entry.name, params)


def _check(parameter: Parameter, value: Json, where: str, base: Path | None) -> Json:
    resource = resource_of(parameter.type)
    if resource is None:
        return check_value(parameter, value, where, base)
    if value is None and is_optional(parameter.type):
        return None
    return complete_reference(*resource, value, where, base)


def complete_dataset(raw: Json, where: str, base: Path | None = None) -> ComponentSpec:
    """Check a dataset with its subset keys (see :func:`complete`)."""
    spec = complete(DATASETS, raw, where, base, extra=SUBSET_KEYS)
    for key in SUBSET_KEYS:
        count = raw.get(key) if isinstance(raw, Mapping) else None
        if count is not None:
            parameter = Parameter(key, int, None, "")
            spec.params[key] = check_value(parameter, count, f"{where}.{key}", base)
            if count < 1:
                raise UsageError(f"{where}.{key} must be at least 1; got {count}.")
    return spec


def complete_reference(
    kind: ResourceKind, wanted: type, raw: Json, where: str, base: Path | None
) -> Json:
    """Check a reference to a resource and fill in its defaults (see :func:`complete`)."""
    if kind == "dataset":
        return complete_dataset(raw, where, base).to_json()
    if kind == "generator" and isinstance(raw, Mapping) and "path" in raw:
        reject_unknown({"path": None}, raw, where)
        return {"path": check_value(Parameter("path", Path, None, ""), raw["path"], where, base)}
    registry: Registry[Any] = CLASSIFIERS if kind == "classifier" else GENERATORS
    spec = complete(registry, raw, where, base, extra=("dataset", "seed"))
    if kind == "generator" and registry.get(spec.name).factory.produces is not wanted:
        raise UsageError(
            f"{where} must be a {wanted.__name__}; {spec.name!r} is another generator."
        )
    if not isinstance(raw, Mapping) or "dataset" not in raw:
        raise UsageError(f"{where} needs a 'dataset' to be trained on.")
    seed = check_value(Parameter("seed", int, 0, ""), raw.get("seed", 0), f"{where}.seed", base)
    dataset = complete_dataset(raw["dataset"], f"{where}.dataset", base)
    return {**spec.to_json(), "dataset": dataset.to_json(), "seed": seed}


def references(
    entry: Entry[Any], spec: ComponentSpec
) -> dict[str, tuple[ResourceKind, dict[str, Json]]]:
    """Return kind and reference of each resource that a component's spec names, by parameter.

    A path to a trained generator comes with the ``name`` of the generator that reads it.
    """
    found = {}
    for name, parameter in entry.parameters.items():
        resource = resource_of(parameter.type)
        if resource is not None and spec.params.get(name) is not None:
            kind, wanted = resource
            reference = spec.params[name]
            if kind == "generator" and not is_trained(reference):
                reference = {"name": _producer(wanted), **reference}
            found[name] = (kind, reference)
    return found


def is_trained(reference: Mapping[str, Json]) -> bool:
    """Whether a reference asks for a training; it then says on which data."""
    return "dataset" in reference


def _producer(wanted: type) -> str:
    """Return the name of the generator whose training gives such a model."""
    for entry in GENERATORS:
        if entry.factory.produces is wanted:
            return entry.name
    raise UsageError(f"no generator makes a {wanted.__name__}.")


def absent(entry: Entry[Any], spec: ComponentSpec) -> list[str]:
    """Return the names of required parameters that the spec lacks."""
    return [n for n, p in entry.parameters.items() if p.required and n not in spec.params]


def construct(registry: Registry[Any], spec: ComponentSpec, resources: Mapping[str, Any]) -> Any:
    """Build a component from its checked spec and its loaded resources, by parameter name.

    Raises:
        UsageError: If a required parameter is missing or the class refuses a value.
    """
    entry = registry.get(spec.name)
    label = f"{registry.kind} {spec.name!r}"
    lacking = absent(entry, spec)
    if lacking:
        raise UsageError(f"{label} needs {' and '.join(map(repr, lacking))}.")
    values = {
        name: resources[name] if name in resources else typed(entry.parameters[name].type, value)
        for name, value in spec.params.items()
        if name in entry.parameters
    }
    try:
        return entry.factory(**values)
    except UsageError as error:
        raise type(error)(f"{label}: {error}") from None
