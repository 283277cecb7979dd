"""What a run notes of its components, so that a report needs neither their code nor torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.core.errors import UsageError
from harness.core.values import Json


@dataclass(frozen=True, slots=True)
class Fact:
    """What a report says of a component, beside its name and parameters.

    Attributes:
        summary: First line of what it says of itself; "" if it is not known.
        oracle: Whether it is a defense that is told which rows are poisoned.
        chain: Parameter that grows along a defense's chain, see
            :class:`harness.core.protocols.Snapshots`; None for one without.
        target: Parameter of an attack that a study's targets fill; None for one without.
    """

    summary: str = ""
    oracle: bool = False
    chain: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class Facts:
    """What ``study.json`` says of a run's components.

    Attributes:
        said: By role (``defense``) and name.
    """

    said: Mapping[tuple[str, str], Fact] = field(default_factory=dict)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Facts:
        """Read what :func:`facts_json` returned; what has another form is left out."""
        return cls({
            (role, name): fact
            for role, named in raw.items() if isinstance(named, Mapping)
            for name, given in named.items()
            if isinstance(given, Mapping) and (fact := _read(given)) is not None
        })  # fmt: skip

    def of(self, role: str, name: str) -> Fact:
        """Return what the run noted; of a run that noted nothing, what the registry says now."""
        found = self.said.get((role, name))
        return registered(role, name) if found is None else found


def registered(role: str, name: str) -> Fact:
    """Return what the registry says of a component; an empty fact if it is not installed."""
    from harness.core.protocols import REGISTRIES, Oracle  # with torch: not before it is needed

    try:
        entry = REGISTRIES[role].get(name)
    except (KeyError, UsageError):
        return Fact()
    factory = entry.factory
    if role == "defense":
        return Fact(entry.summary, issubclass(factory, Oracle), chain_parameter(factory))
    return Fact(entry.summary, target=getattr(factory, "target_field", None))


def chain_parameter(defense: type) -> str | None:
    """Return the parameter that grows along the chain of a defense's class, or None."""
    name: str | None = getattr(defense, "snapshots_over", None)
    return name if getattr(defense, "rowwise", False) else None


def facts_json(components: Iterable[tuple[str, str]]) -> dict[str, Json]:
    """Return the facts of components, given by role and name, as ``study.json`` keeps them."""
    found: dict[str, Json] = {}
    for role, name in sorted(set(components)):
        found.setdefault(role, {})[name] = asdict(registered(role, name))
    return found


def _read(given: Mapping[str, Any]) -> Fact | None:
    summary, oracle = given.get("summary"), given.get("oracle")
    chain, target = given.get("chain"), given.get("target")
    if not (isinstance(summary, str) and isinstance(oracle, bool)):
        return None
    if not (isinstance(chain, str | None) and isinstance(target, str | None)):
        return None
    return Fact(summary, oracle, chain, target)
