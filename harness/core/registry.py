"""Components by name: found on disk and in installed packages, imported when first asked for.

The name of a component is the name of its file. There is no list to edit: a new file in
``attacks/`` is a new attack, and a distribution adds one from outside with an entry point in the
group ``puregen_bench.attacks`` (likewise ``.defenses``, ``.classifiers``, ``.datasets``) whose name
is the component's and whose value is its class.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from harness.core.errors import UnknownComponent, UsageError, nearest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a component: a field of its dataclass."""

    name: str
    type: Any
    default: Any  # dataclasses.MISSING where the study must give it
    doc: str

    @property
    def required(self) -> bool:
        """Whether a study must give it."""
        return self.default is MISSING


@dataclass(frozen=True)
class Entry(Generic[T]):
    """What a registry knows of one component."""

    name: str
    factory: type[T]
    paper: str
    origin: str  # the module that defines it

    @cached_property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.factory) or "").split("\n", 1)[0]

    @cached_property
    def doc(self) -> str:
        """The whole docstring."""
        return inspect.getdoc(self.factory) or ""

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Parameters by name, in the order of their definition."""
        return parameters_of(self.factory)


def parameters_of(cls: type) -> dict[str, Parameter]:
    """Return the fields of a dataclass with their types, defaults and docstring entries."""
    hints = typing.get_type_hints(cls)
    docs = _attribute_docs(inspect.getdoc(cls) or "")
    found = {}
    for field in dataclasses.fields(cls):
        default = field.default
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        doc = docs.get(field.name, "")
        found[field.name] = Parameter(field.name, hints[field.name], default, doc)
    return found


def _attribute_docs(doc: str) -> dict[str, str]:
    """Return the text of each entry of the ``Attributes:`` section of a Google-style docstring."""
    found: dict[str, str] = {}
    inside, name = False, ""
    for line in doc.splitlines():
        if not line.startswith(" ") and line.strip():
            inside = line.strip() == "Attributes:"
        elif inside and line.strip():
            indent = len(line) - len(line.lstrip())
            if indent <= 4 and ":" in line:
                name, _, text = line.strip().partition(":")
                found[name] = text.strip()
            elif name:
                found[name] += " " + line.strip()
    return found


class Registry(Generic[T]):
    """The components of one kind.

    Args:
        kind: What a component is called in messages, singular: ``"attack"``.
        package: Package whose files are the components that come with the project.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self.group = f"puregen_bench.{kind}s"
        self._entries: dict[str, Entry[T]] = {}

    def register(self, *, paper: str = "") -> Callable[[type[T]], type[T]]:
        """Return a decorator that registers a dataclass under the name of its file.

        Args:
            paper: Where the method was published, ``"arXiv:…"`` or a citation; "" for none.
        """

        def decorate(factory: type[T]) -> type[T]:
            module = factory.__module__
            name = module.rpartition(".")[2]
            self._entries[name] = Entry(name, factory, paper, module)
            return factory

        return decorate

    def names(self) -> list[str]:
        """Return all names, sorted; nothing is imported."""
        return sorted({*self._on_disk(), *self._outside(), *self._entries})

    def _on_disk(self) -> Iterator[str]:
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                yield module.name

    def _outside(self) -> dict[str, Any]:
        return {point.name: point for point in entry_points(group=self.group)}

    def get(self, name: str) -> Entry[T]:
        """Import the component and return its entry.

        Raises:
            UnknownComponent: If there is none of that name; names the nearest one.
            UsageError: If its file registers nothing under that name.
        """
        if name not in self._entries:
            outside = self._outside()
            if name in set(self._on_disk()):
                importlib.import_module(f"{self.package}.{name}")
            elif name in outside:
                factory = outside[name].load()
                found = [e for e in self._entries.values() if e.factory is factory]
                paper = found[0].paper if found else ""
                self._entries[name] = Entry(name, factory, paper, factory.__module__)
            else:
                allowed = self.names()
                raise UnknownComponent(
                    f"unknown {self.kind} {name!r}.{nearest(name, allowed)} "
                    f"Allowed: {', '.join(allowed)}."
                )
        if name not in self._entries:
            raise UsageError(
                f"the file of {self.kind} {name!r} registers no component of that name: decorate "
                f"its class with @{self.kind.upper()}S.register(...)."
            )
        return self._entries[name]

    def __iter__(self) -> Iterator[Entry[T]]:
        for name in self.names():
            yield self.get(name)
