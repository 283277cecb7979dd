"""Which defenses one chain makes: those that differ in nothing but how far they walk along it."""

from __future__ import annotations

from harness.core.facts import chain_parameter
from harness.core.params import ComponentSpec
from harness.core.protocols import DEFENSES
from harness.core.values import Json


def snapshot_parameter(defense: ComponentSpec) -> str | None:
    """Return the parameter that grows along a defense's chain; None for a defense without one.

    See :class:`harness.core.protocols.Snapshots`.
    """
    return chain_parameter(DEFENSES.get(defense.name).factory)


def chain_of(defense: ComponentSpec) -> dict[str, Json]:
    """Return what defenses have in common that one chain makes: all but that parameter."""
    parameter = snapshot_parameter(defense)
    return {name: value for name, value in defense.to_json().items() if name != parameter}
