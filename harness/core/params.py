"""From a study's plain values to components with typed parameters.

A parameter whose type is a *resource* is written in a study as a reference, and is loaded, trained
or taken from the store only where it is needed:

==================  ===============================================================================
type                reference
==================  ===============================================================================
``ImageSet``        ``{name: DATASET, …}``: the training rows of a dataset
``Predictor``       ``{name: CLASSIFIER, …, dataset: {…}, seed: 0}``: a classifier trained on it, or
                    ``{name: CLASSIFIER, …, path: FILE}``: with weights from a file (see
                    :mod:`harness.classifier_weights`), ``mean`` and ``std`` if it has others
a generator         ``{path: FOLDER}``, or ``{name: GENERATOR, …, dataset: {…}, seed: 0}``
``Defense``         ``{name: DEFENSE, …}``: another defense
``tuple[X, ...]``   a list of references to X
==================  ===============================================================================

A dataset takes the further keys ``train_per_class`` and ``test_per_class``, the first so many rows
of each class, and ``train_skip_per_class``, which leaves out the first so many before: two halves
of a transfer split. A classifier takes ``pretrained``, the weights it starts from: a reference to a
classifier of the same architecture.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from harness.core.data import ImageSet
from harness.core.errors import UnknownComponent, UsageError
from harness.core.protocols import (
    CLASSIFIERS,
    DATASETS,
    DEFENSES,
    GENERATORS,
    Attack,
    Classifier,
    DatasetSource,
    Defense,
    Generator,
    Scenario,
)
from harness.core.registry import Entry, Parameter, Registry, one_message, undeclared
from harness.core.values import Json, check_value, is_optional, plain, reject_unknown, typed

ResourceKind = Literal["dataset", "classifier", "generator", "defense"]
SUBSET_KEYS = ("train_per_class", "train_skip_per_class", "test_per_class")
_CONTRACTS: dict[str, type] = {
    "attack": Attack,
    "defense": Defense,
    "classifier": Classifier,
    "dataset": DatasetSource,
    "generator": Generator,
    "scenario": Scenario,
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
        if is_many(option):
            return resource_of(typing.get_args(option)[0])
        if option is ImageSet:
            return "dataset", option
        if option is Defense:
            return "defense", option
        kind = getattr(option, "resource_kind", None)
        if kind is not None:
            return kind, option
    return None


def is_many(annotation: Any) -> bool:
    """Whether the type is ``tuple[X, ...]``."""
    return typing.get_origin(annotation) is tuple and Ellipsis in typing.get_args(annotation)


def check_offers(kind: str, entry: Entry[Any]) -> None:
    """Raise for a component that lacks something of its kind's contract, or whose fields are wrong.

    Raises:
        UsageError: Names what it lacks, and the protocol that says what it is; or the parameter
            that is wrong, see :func:`check_defaults`.
    """
    contract = _CONTRACTS[kind]
    wanted = _promised(kind)
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
    check_defaults(kind, entry)


def _promised(kind: str) -> set[str]:
    """Return the names in the contract of a kind."""
    contract = _CONTRACTS[kind]
    return {*vars(contract), *contract.__annotations__}


@cache
def check_defaults(kind: str, entry: Entry[Any]) -> None:
    """Raise for a component with defaults that no study could give, or a field without a type.

    Raises:
        UsageError: Names the component and the parameter.
    """
    label = f"{kind} {entry.name!r} ({entry.origin})"
    hidden = [name for name in undeclared(entry.factory) if name not in _promised(kind)]
    if hidden:
        raise UsageError(
            f"{label} documents {hidden[0]!r} under 'Attributes:', which is no parameter: annotate "
            f"it, {hidden[0]}: int = 2, or as a ClassVar where no study gives it."
        )
    for name, parameter in entry.parameters.items():
        where = f"{label}: the default of {name!r}"
        if not parameter.required:
            _check(parameter, plain(parameter.default), where, None)


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
    if not is_many(parameter.type):
        return complete_reference(*resource, value, where, base)
    if not isinstance(value, list):
        raise UsageError(f"{where} is a list; got {value!r}.")
    return [complete_reference(*resource, v, f"{where}[{i}]", base) for i, v in enumerate(value)]


def complete_classifier(raw: Json, where: str, base: Path | None = None) -> ComponentSpec:
    """Check a victim's classifier, with the weights that it starts from (see :func:`complete`)."""
    spec = complete(CLASSIFIERS, raw, where, base, extra=("pretrained",))
    given = raw.get("pretrained") if isinstance(raw, Mapping) else None
    if given is None:
        return spec
    if not isinstance(given, Mapping):
        raise UsageError(f"{where}.pretrained is given as a mapping; got {given!r}.")
    name = given.get("name", spec.name)
    if name != spec.name:
        raise UsageError(
            f"{where}.pretrained is of the classifier's own architecture, {spec.name!r}; "
            f"got {name!r}."
        )
    shape = {k: v for k, v in spec.params.items() if k != "recipe"}
    start = complete_reference(
        "classifier", Classifier, {**shape, "name": name, **given}, f"{where}.pretrained", base
    )
    differing = [k for k in shape if start[k] != shape[k]]
    if differing:
        raise UsageError(
            f"{where}.pretrained is of the classifier's own architecture; {differing[0]} differs: "
            f"{start[differing[0]]!r} and {shape[differing[0]]!r}."
        )
    return spec.with_params(pretrained=start)


def complete_dataset(raw: Json, where: str, base: Path | None = None) -> ComponentSpec:
    """Check a dataset with its subset keys (see :func:`complete`)."""
    spec = complete(DATASETS, raw, where, base, extra=SUBSET_KEYS)
    for key in SUBSET_KEYS:
        count = raw.get(key) if isinstance(raw, Mapping) else None
        if count is not None:
            parameter = Parameter(key, int, None, "")
            spec.params[key] = check_value(parameter, count, f"{where}.{key}", base)
            least = 0 if "skip" in key else 1
            if count < least:
                raise UsageError(f"{where}.{key} must be at least {least}; got {count}.")
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
    if kind == "generator" and isinstance(raw, Mapping) and "hub" in raw:
        return _hub_reference(raw, where)
    if kind == "defense":
        return complete(DEFENSES, raw, where, base).to_json()
    if kind == "classifier" and isinstance(raw, Mapping) and "path" in raw:
        return _weights_reference(raw, where, base)
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


def _hub_reference(raw: Mapping[str, Json], where: str) -> Json:
    """Check a generator that is a repository of the Hugging Face hub."""
    reject_unknown({"hub": None, "revision": None}, raw, where)
    repository, revision = raw["hub"], raw.get("revision", "main")
    if not isinstance(repository, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UsageError(f"{where}.hub is a repository, owner/name; got {repository!r}.")
    if not isinstance(revision, str) or not revision:
        raise UsageError(f"{where}.revision is a branch, a tag or a commit; got {revision!r}.")
    return {"hub": repository, "revision": revision}


def _weights_reference(raw: Mapping[str, Json], where: str, base: Path | None) -> Json:
    """Check a classifier with weights from a file, and the input statistics that go with them."""
    types: dict[str, Any] = {"path": Path, "mean": tuple[float, ...], "std": tuple[float, ...]}
    spec = complete(CLASSIFIERS, raw, where, base, extra=tuple(types))
    given = {
        key: check_value(Parameter(key, type_, None, ""), raw[key], f"{where}.{key}", base)
        for key, type_ in types.items()
        if key in raw
    }
    return {**spec.to_json(), **given}


@dataclass(frozen=True, slots=True)
class Reference:
    """A resource that a component's spec names.

    Attributes:
        parameter: Whose value it is.
        kind: What it is.
        raw: The reference. A path to a trained generator comes with the ``name`` of the generator
            that reads it.
        many: Whether the parameter holds a list, of which this is one.
    """

    parameter: str
    kind: ResourceKind
    raw: dict[str, Json]
    many: bool = False


def references(entry: Entry[Any], spec: ComponentSpec) -> list[Reference]:
    """Return the resources that a component's spec names, in order."""
    found = []
    for name, parameter in entry.parameters.items():
        resource, value = resource_of(parameter.type), spec.params.get(name)
        if resource is None or value is None:
            continue
        kind, wanted = resource
        many = is_many(parameter.type)
        for raw in value if many else [value]:
            reads = kind == "generator" and not is_trained(raw)
            found.append(
                Reference(name, kind, {"name": _producer(wanted), **raw} if reads else raw, many)
            )
    if "pretrained" in spec.params:  # not of the architecture, but of this victim
        found.append(Reference("pretrained", "classifier", spec.params["pretrained"]))
    return found


def networks(entry: Entry[Any], spec: ComponentSpec) -> list[Reference]:
    """Return the trained models that a component and the components it names refer to."""
    found = []
    for reference in references(entry, spec):
        if reference.kind == "defense":
            part = ComponentSpec.from_json(reference.raw)
            found += networks(DEFENSES.get(part.name), part)
        elif is_trained(reference.raw) and reference.kind != "dataset":
            found.append(reference)
    return found


def is_trained(reference: Mapping[str, Json]) -> bool:
    """Whether a reference asks for a training; it then says on which data."""
    return "dataset" in reference


def _producer(wanted: type) -> str:
    """Return the name of the generator whose training gives such a model."""
    for name in GENERATORS.names():
        try:
            factory = GENERATORS.get(name).factory
        except UsageError:  # one broken file does not hide the others
            continue
        if getattr(factory, "produces", None) is wanted:
            return name
    raise UsageError(f"no generator makes a {wanted.__name__}.")


def absent(entry: Entry[Any], spec: ComponentSpec) -> list[str]:
    """Return the names of required parameters that the spec lacks."""
    return [n for n, p in entry.parameters.items() if p.required and n not in spec.params]


def _typed(parameter: Parameter, value: Json) -> Any:
    """Return a checked value as its Python type; a list of no resources has none to be loaded."""
    if value == [] and resource_of(parameter.type) is not None:
        return ()
    return typed(parameter.type, value)


def construct(registry: Registry[Any], spec: ComponentSpec, resources: Mapping[str, Any]) -> Any:
    """Build a component from its checked spec and its loaded resources, by parameter name.

    Raises:
        UsageError: If a required parameter is missing, or the class refuses a value or fails.
    """
    entry = registry.get(spec.name)
    label = f"{registry.kind} {spec.name!r}"
    lacking = absent(entry, spec)
    if lacking:
        raise UsageError(f"{label} needs {' and '.join(map(repr, lacking))}.")
    values = {
        name: resources[name] if name in resources else _typed(entry.parameters[name], value)
        for name, value in spec.params.items()
        if name in entry.parameters
    }
    with one_message(registry.kind, entry):
        return entry.factory(**values)
