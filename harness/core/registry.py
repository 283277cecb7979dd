"""Components by name: found on disk and in installed packages, imported when first asked for.

The name of a component is the name of its file. There is no list to edit: a new file in
``attacks/`` is a new attack, and a distribution adds one from outside with an entry point in the
group ``puregen_bench.attacks`` (likewise ``.defenses``, ``.classifiers``, ``.datasets``,
``.generators``) whose name is the component's and whose value is its class.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import traceback
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness.core.code import code_digest
from harness.core.errors import (
    FAILURES,
    UnknownComponent,
    UsageError,
    exit_message,
    first_line,
    nearest,
)

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

    @cached_property
    def code(self) -> str:
        """Digest of the code that it consists of; see :func:`harness.core.code.code_digest`."""
        source = inspect.getsourcefile(self.factory)
        return code_digest(Path(source), self.factory.__module__) if source else ""


def place_of(entry: Entry[Any], error: BaseException) -> str:
    """Return file and line of the component's own code that an error came through, if any."""
    frames = traceback.extract_tb(error.__traceback__)
    own = Path(inspect.getfile(entry.factory)).resolve()
    in_file = [f for f in frames if Path(f.filename).resolve() == own]
    beside = [f for f in frames if Path(f.filename).resolve().parent == own.parent]
    last = (in_file or beside)[-1:]
    return "".join(f" ({frame.filename}:{frame.lineno})" for frame in last)


def failure(label: str, entry: Entry[Any], error: BaseException) -> UsageError:
    """Return what to raise for an error of a component's code: it names it, file and line."""
    said = exit_message(error) if isinstance(error, SystemExit) else first_line(error)
    return UsageError(f"{label}: {said}{place_of(entry, error)}")


@contextmanager
def one_message(kind: str, entry: Entry[Any], of: str = "") -> Iterator[None]:
    """Raise whatever a component's code raises as a UsageError that names it, file and line.

    Args:
        kind: Of the component.
        entry: The component.
        of: What it works on, to be named too.
    """
    label = f"{kind} {entry.name!r}" + (f", {of!r}" if of else "")
    try:
        yield
    except UsageError as error:
        raise type(error)(f"{label}: {error}") from None
    except FAILURES as error:
        raise failure(label, entry, error) from error


def parameters_of(cls: type) -> dict[str, Parameter]:
    """Return the fields of a dataclass with their types, defaults and docstring entries.

    Raises:
        UsageError: If a type or a default cannot be had; names the parameter.
    """
    hints = _hints(cls)
    docs = attribute_docs(inspect.getdoc(cls) or "")
    found = {}
    for field in dataclasses.fields(cls):
        default = field.default
        if default is MISSING and field.default_factory is not MISSING:
            try:
                default = field.default_factory()
            except Exception as error:
                raise UsageError(
                    f"the default of parameter {field.name!r} cannot be made: {first_line(error)}"
                ) from error
        doc = docs.get(field.name, "")
        found[field.name] = Parameter(field.name, hints[field.name], default, doc)
    return found


def _hints(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, whose annotations may be text."""
    try:
        return typing.get_type_hints(cls)
    except Exception as error:
        unknown = getattr(error, "name", None) or ""  # of a NameError
        texts = {f.name: f.type for f in dataclasses.fields(cls) if isinstance(f.type, str)}
        named = [name for name, text in texts.items() if unknown and unknown in text]
        which = f"parameter {named[0]!r}" if named else "a field"
        raise UsageError(
            f"the annotation of {which} is no type that can be found: {first_line(error)}"
        ) from error


def undeclared(cls: type) -> list[str]:
    """Return names under ``Attributes:`` that are given a value without a type, so no fields.

    A ``ClassVar`` and a property are documented there on purpose.
    """
    known: set[str] = set()
    for base in cls.__mro__:
        known |= inspect.get_annotations(base).keys()
        known |= {name for name, value in vars(base).items() if isinstance(value, property)}
    documented = attribute_docs(inspect.getdoc(cls) or "")
    return [name for name in documented if hasattr(cls, name) and name not in known]


def attribute_docs(doc: str) -> dict[str, str]:
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
        self._papers: dict[type[T], str] = {}

    def register(self, *given: type[T], paper: str = "") -> Callable[[type[T]], type[T]]:
        """Return a decorator that registers a dataclass under the name of its file.

        A class from outside has the name of its entry point instead; the decorator notes its paper.

        Args:
            given: Nothing; a class where the parentheses were forgotten.
            paper: Where the method was published, ``"arXiv:…"`` or a citation; "" for none.

        Raises:
            UsageError: If it is given a class.
        """
        if given:
            decorator = f"@{self.kind.upper()}S.register"
            raise UsageError(
                f"{given[0].__module__} has {decorator} without parentheses; "
                f"write {decorator}() or {decorator}(paper=...)."
            )

        def decorate(factory: type[T]) -> type[T]:
            self._papers[factory] = paper
            package, _, name = factory.__module__.rpartition(".")
            if package == self.package:
                earlier = self._entries.get(name)
                if earlier and earlier.factory.__qualname__ != factory.__qualname__:
                    del self._entries[name]
                    raise UsageError(
                        f"{factory.__module__} registers "
                        f"{earlier.factory.__qualname__} and {factory.__qualname__}; "
                        "one file is one component."
                    )
                self._entries[name] = Entry(name, factory, paper, factory.__module__)
            return factory

        return decorate

    def names(self) -> list[str]:
        """Return all names, sorted; nothing is imported."""
        return sorted({*self._on_disk(), *(point.name for point in self._outside())})

    def _on_disk(self) -> Iterator[str]:
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                yield module.name

    def _outside(self) -> list[EntryPoint]:
        return list(entry_points(group=self.group))

    def get(self, name: str) -> Entry[T]:
        """Import the component and return its entry.

        Raises:
            UnknownComponent: If there is none of that name; names the nearest one.
            UsageError: If two claim the name, its file cannot be imported, it registers nothing
                under that name, or what it registers has no parameters that can be read.
        """
        if name not in self._entries:
            here = name in set(self._on_disk())
            outside = [point for point in self._outside() if point.name == name]
            if not here and not outside:
                allowed = self.names()
                raise UnknownComponent(
                    f"unknown {self.kind} {name!r}.{nearest(name, allowed)} "
                    f"Allowed: {', '.join(allowed)}."
                )
            if here + len(outside) > 1:
                claims = [f"{self.package}.{name}"] * here + [point.value for point in outside]
                raise UsageError(
                    f"{self.kind} {name!r} is claimed by {' and '.join(claims)}; rename one."
                )
            self._import(name, outside)
        self._check(self._entries[name])
        return self._entries[name]

    def _import(self, name: str, outside: list[EntryPoint]) -> None:
        try:
            if outside:
                factory = outside[0].load()
                paper = self._papers.get(factory, "")
                self._entries[name] = Entry(name, factory, paper, factory.__module__)
            else:
                importlib.import_module(f"{self.package}.{name}")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a file's own code raises anything, SystemExit too
            self._entries.pop(name, None)  # it may have been registered before it failed
            if isinstance(error, UsageError):
                raise type(error)(f"{self.kind} {name!r}: {error}") from error
            why = exit_message(error) if isinstance(error, SystemExit) else first_line(error)
            raise UsageError(f"{self.kind} {name!r} cannot be imported: {why}") from error
        if name not in self._entries:
            raise UsageError(
                f"the file of {self.kind} {name!r} registers no component of that name: decorate "
                f"its class with @{self.kind.upper()}S.register(...)."
            )

    def _check(self, entry: Entry[T]) -> None:
        """Raise unless an entry is a dataclass whose parameters can be read."""
        if not isinstance(entry.factory, type) or not dataclasses.is_dataclass(entry.factory):
            raise UsageError(
                f"{self.kind} {entry.name!r} must be a dataclass: its fields are its parameters."
            )
        try:
            _ = entry.parameters
        except UsageError as error:
            raise UsageError(f"{self.kind} {entry.name!r}: {error}") from error

    def __iter__(self) -> Iterator[Entry[T]]:
        for name in self.names():
            yield self.get(name)
